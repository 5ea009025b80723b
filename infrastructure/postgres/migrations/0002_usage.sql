-- The access log, partitioned by day, and what is counted from it.
--
-- A request count is `totals` (what events have settled) plus `live` (committed rows not yet settled). Rows reach `live` in
-- the transaction that inserts them, and leave it in the transaction of the event that settles them, so one snapshot of
-- the two tables is exact at any moment, and reading it costs a few rows for each key however many rows wait.

CREATE SCHEMA usage;

-- One row for each request to a protected route. (run_id, seq) names it; the day is in the key because it partitions.
CREATE TABLE usage.access_log (
    run_id text NOT NULL,
    seq bigint NOT NULL,
    salt bytea NOT NULL,
    occurred_at timestamptz NOT NULL,
    method text NOT NULL,
    endpoint text NOT NULL,
    status smallint NOT NULL,
    outcome text NOT NULL,
    accepted boolean NOT NULL,
    key_id text,
    account_id text,
    key_hash text,
    client_ip text,
    request_id text NOT NULL,
    PRIMARY KEY (run_id, seq, occurred_at)
) PARTITION BY RANGE (occurred_at);
-- One key's rows and one account's rows, newest first. Nothing looks for rows without a key or an account that way.
CREATE INDEX access_log_of_key ON usage.access_log (key_id, occurred_at DESC) WHERE key_id IS NOT NULL;
CREATE INDEX access_log_of_account ON usage.access_log (account_id, occurred_at DESC) WHERE account_id IS NOT NULL;

-- Makes the partitions of these days (UTC), both included, that do not exist yet; answers how many it made.
-- A table that is filled before it is attached takes SHARE UPDATE EXCLUSIVE on the parent only: nobody waits. The
-- advisory lock makes concurrent callers take turns. There is no DEFAULT partition: its rows would forbid the attach.
CREATE FUNCTION usage.ensure_partitions(first date, last date) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    day date;
    part text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7310307);
    FOR day IN SELECT generate_series(first, last, interval '1 day')::date LOOP
        part := to_char(day, '"access_log_"YYYYMMDD');
        CONTINUE WHEN to_regclass('usage.' || part) IS NOT NULL;
        EXECUTE format('CREATE TABLE usage.%I (LIKE usage.access_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
        EXECUTE format(
            'ALTER TABLE usage.access_log ATTACH PARTITION usage.%I FOR VALUES FROM (%L) TO (%L)',
            part, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'
        );
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

SELECT usage.ensure_partitions((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 7);

-- Each run of a writing process, while it may still write. Only its writer moves `written_through`; the row's lock puts
-- the writer's transactions in order, so that one whose outcome is unknown is decided before the next looks.
-- Rows up to `closed_through` get no company any more and can be settled; later rows form the open window, which ends at
-- `window_ends_at` ('-infinity': closed by the settlement; the next batch opens another).
CREATE TABLE usage.writers (
    run_id text PRIMARY KEY,
    host text NOT NULL,
    started_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    written_through bigint NOT NULL DEFAULT 0,
    closed_through bigint NOT NULL DEFAULT 0,
    window_ends_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

-- Counts of committed rows not yet settled, for each key of each window; `after_row` names the window by the row before
-- its first. The requests are accepted uses, the failed attempts all others that presented the key's id.
CREATE TABLE usage.live (
    key_id text NOT NULL,
    run_id text NOT NULL,
    after_row bigint NOT NULL,
    requests bigint NOT NULL,
    failed_attempts bigint NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz,
    PRIMARY KEY (key_id, run_id, after_row)
) WITH (fillfactor = 50);
CREATE INDEX live_of_run ON usage.live (run_id, after_row);

-- Writes one batch of a run, rows `before` + skipped + 1 … `through`, and counts it; one statement, one round-trip.
-- False, and nothing written, when the run is not at `before`: the batch was written by an earlier try, or the run is over.
CREATE FUNCTION usage.write_rows(
    run text, before bigint, through bigint, at timestamptz, window_ends timestamptz,
    salts bytea[], instants timestamptz[], methods text[], endpoints text[], statuses smallint[], outcomes text[],
    accepts boolean[], keys text[], accounts text[], hashes text[], clients text[], requests text[]
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    open_after bigint;
    skipped bigint := through - cardinality(salts);
BEGIN
    -- A window ends by the clock, when the settlement has closed it, or at 20,000 rows, so that settling stays bounded.
    UPDATE usage.writers SET
        written_through = through,
        last_seen_at = clock_timestamp(),
        closed_through = CASE WHEN window_ends_at <= at OR through - closed_through > 20000
            THEN before ELSE closed_through END,
        window_ends_at = CASE WHEN window_ends_at <= at OR through - closed_through > 20000
            THEN window_ends ELSE window_ends_at END
    WHERE run_id = run AND written_through = before
    RETURNING closed_through INTO open_after;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO usage.access_log (
        run_id, seq, salt, occurred_at, method, endpoint, status, outcome, accepted, key_id, account_id, key_hash,
        client_ip, request_id
    )
    SELECT run, skipped + r.place, r.salt, r.occurred_at, r.method, r.endpoint, r.status, r.outcome, r.accepted, r.key_id,
           r.account_id, r.key_hash, r.client_ip, r.request_id
    FROM unnest(salts, instants, methods, endpoints, statuses, outcomes, accepts, keys, accounts, hashes, clients, requests)
        WITH ORDINALITY AS r (salt, occurred_at, method, endpoint, status, outcome, accepted, key_id, account_id, key_hash,
                              client_ip, request_id, place);
    INSERT INTO usage.live AS l (key_id, run_id, after_row, requests, failed_attempts, first_used_at, last_used_at)
    SELECT r.key_id, run, open_after, count(*) FILTER (WHERE r.accepted), count(*) FILTER (WHERE NOT r.accepted),
           min(r.occurred_at) FILTER (WHERE r.accepted), max(r.occurred_at) FILTER (WHERE r.accepted)
    FROM unnest(keys, accepts, instants) AS r (key_id, accepted, occurred_at)
    WHERE r.key_id IS NOT NULL
    GROUP BY r.key_id
    ON CONFLICT (key_id, run_id, after_row) DO UPDATE SET
        requests = l.requests + excluded.requests,
        failed_attempts = l.failed_attempts + excluded.failed_attempts,
        first_used_at = least(l.first_used_at, excluded.first_used_at),
        last_used_at = greatest(l.last_used_at, excluded.last_used_at);
    RETURN true;
END
$$;

-- How far each run is settled: written with its events, so it moves exactly once. `version` is that of the run's stream.
CREATE TABLE usage.runs (
    run_id text PRIMARY KEY,
    version bigint NOT NULL,
    settled_through bigint NOT NULL,
    closed boolean NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX runs_open ON usage.runs (run_id) WHERE NOT closed;

-- What events have settled, for each key; outlives the rows.
CREATE TABLE usage.totals (
    key_id text PRIMARY KEY,
    requests bigint NOT NULL,
    failed_attempts bigint NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz
) WITH (fillfactor = 70);

-- The settled windows of each key, in ledger order: its history of use.
CREATE TABLE usage.windows (
    key_id text NOT NULL,
    position bigint NOT NULL,
    run_id text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    requests bigint NOT NULL,
    failed_attempts bigint NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz,
    details_root text NOT NULL,
    PRIMARY KEY (key_id, position)
);
