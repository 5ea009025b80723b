-- Access rows, written with what many of them share said once: a request is its kind, its time, its id.

-- Writes one batch of a run, rows `before` + skipped + 1 … `through`, and counts it; one statement, one round-trip.
-- `kinds` holds for each row the place of what it shares with others in the arrays behind it, `salts` 16 bytes for each row.
-- False, and nothing written, when the run is not at `before`: the batch was written by an earlier try, or the run is over.
CREATE FUNCTION usage.write_batch(
    run text, before bigint, through bigint, at timestamptz, window_ends timestamptz,
    salts bytea, instants timestamptz[], requests text[], kinds integer[],
    methods text[], endpoints text[], statuses smallint[], outcomes text[], accepts boolean[], keys text[],
    accounts text[], hashes text[], clients text[]
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    open_after bigint;
    skipped bigint := through - cardinality(instants);
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
    PERFORM set_config('usage.counted', 'yes', true);
    INSERT INTO usage.access_log (
        run_id, seq, salt, occurred_at, method, endpoint, status, outcome, accepted, key_id, account_id, key_hash,
        client_ip, request_id
    )
    SELECT run, skipped + r.place, substr(salts, (16 * r.place - 15)::integer, 16), r.occurred_at, k.method, k.endpoint,
           k.status, k.outcome, k.accepted, k.key_id, k.account_id, k.key_hash, k.client_ip, r.request_id
    FROM unnest(instants, requests, kinds) WITH ORDINALITY AS r (occurred_at, request_id, kind, place)
    JOIN unnest(methods, endpoints, statuses, outcomes, accepts, keys, accounts, hashes, clients) WITH ORDINALITY
        AS k (method, endpoint, status, outcome, accepted, key_id, account_id, key_hash, client_ip, kind)
        ON k.kind = r.kind;
    WITH counted AS MATERIALIZED (
        SELECT k.key_id, k.accepted, k.status, r.minute, r.rows, r.first_at, r.last_at
        FROM (
            SELECT u.kind, date_bin('1 minute', u.occurred_at, 'epoch') AS minute, count(*) AS rows,
                   min(u.occurred_at) AS first_at, max(u.occurred_at) AS last_at
            FROM unnest(kinds, instants) AS u (kind, occurred_at)
            GROUP BY 1, 2
        ) AS r
        JOIN unnest(keys, accepts, statuses) WITH ORDINALITY AS k (key_id, accepted, status, kind) ON k.kind = r.kind
        WHERE k.key_id IS NOT NULL
    ), live AS (
        INSERT INTO usage.live AS l (
            key_id, run_id, after_row, requests, failed_attempts, first_used_at, last_used_at
        )
        SELECT c.key_id, run, open_after, coalesce(sum(c.rows) FILTER (WHERE c.accepted), 0),
               coalesce(sum(c.rows) FILTER (WHERE NOT c.accepted), 0),
               min(c.first_at) FILTER (WHERE c.accepted), max(c.last_at) FILTER (WHERE c.accepted)
        FROM counted AS c
        GROUP BY c.key_id
        ON CONFLICT (key_id, run_id, after_row) DO UPDATE SET
            requests = l.requests + excluded.requests,
            failed_attempts = l.failed_attempts + excluded.failed_attempts,
            first_used_at = least(l.first_used_at, excluded.first_used_at),
            last_used_at = greatest(l.last_used_at, excluded.last_used_at)
    )
    -- An id that no key has gets nothing: anybody can invent those. A key is there before anybody can present it.
    INSERT INTO usage.buckets AS b (
        key_id, width, start, run_id, requests, failed_attempts, status_2xx, status_3xx, status_4xx, status_5xx
    )
    SELECT c.key_id, w.width, date_bin(w.step, c.minute, 'epoch'), run,
           coalesce(sum(c.rows) FILTER (WHERE c.accepted), 0), coalesce(sum(c.rows) FILTER (WHERE NOT c.accepted), 0),
           coalesce(sum(c.rows) FILTER (WHERE c.status BETWEEN 200 AND 299), 0),
           coalesce(sum(c.rows) FILTER (WHERE c.status BETWEEN 300 AND 399), 0),
           coalesce(sum(c.rows) FILTER (WHERE c.status BETWEEN 400 AND 499), 0),
           coalesce(sum(c.rows) FILTER (WHERE c.status BETWEEN 500 AND 599), 0)
    FROM counted AS c
    JOIN views.keys AS k ON k.key_id = c.key_id
    CROSS JOIN (VALUES ('minute', interval '1 minute'), ('hour', interval '1 hour')) AS w (width, step)
    GROUP BY 1, 2, 3
    ON CONFLICT (key_id, width, start, run_id) DO UPDATE SET
        requests = b.requests + excluded.requests,
        failed_attempts = b.failed_attempts + excluded.failed_attempts,
        status_2xx = b.status_2xx + excluded.status_2xx,
        status_3xx = b.status_3xx + excluded.status_3xx,
        status_4xx = b.status_4xx + excluded.status_4xx,
        status_5xx = b.status_5xx + excluded.status_5xx;
    IF array_position(accounts, NULL) IS NOT NULL THEN
        INSERT INTO usage.unproven (account_id, occurred_at, run_id, seq)
        SELECT v.account_id, r.occurred_at, run, skipped + r.place
        FROM unnest(keys, accounts) WITH ORDINALITY AS k (key_id, account_id, kind)
        JOIN views.keys AS v ON v.key_id = k.key_id
        JOIN unnest(instants, kinds) WITH ORDINALITY AS r (occurred_at, kind, place) ON r.kind = k.kind
        WHERE k.account_id IS NULL;
    END IF;
    RETURN true;
END
$$;

-- What `usage.write_rows` writes, the function of the releases before, is still counted by the trigger; only it no longer
-- has every new row copied for it, which was a tenth of a batch's cost. Their transaction has moved its run's row first.
CREATE OR REPLACE FUNCTION usage.count_rows() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('usage.counted', true) = 'yes' THEN
        RETURN NULL;
    END IF;
    WITH added AS MATERIALIZED (
        SELECT l.run_id, l.seq, l.occurred_at, l.status, l.accepted, l.key_id, l.account_id
        FROM usage.writers AS w
        JOIN usage.access_log AS l
          ON l.run_id = w.run_id AND l.seq > w.written_through - 1000 AND l.seq <= w.written_through
        WHERE w.xmin = pg_current_xact_id()::xid AND l.xmin = pg_current_xact_id()::xid
    ), unproven AS (
        INSERT INTO usage.unproven (account_id, occurred_at, run_id, seq)
        SELECT k.account_id, r.occurred_at, r.run_id, r.seq
        FROM added AS r JOIN views.keys AS k ON k.key_id = r.key_id
        WHERE r.account_id IS NULL
        ON CONFLICT DO NOTHING
    )
    INSERT INTO usage.buckets AS b (
        key_id, width, start, run_id, requests, failed_attempts, status_2xx, status_3xx, status_4xx, status_5xx
    )
    SELECT r.key_id, w.width, date_bin(w.step, r.occurred_at, 'epoch'), r.run_id,
           count(*) FILTER (WHERE r.accepted), count(*) FILTER (WHERE NOT r.accepted),
           count(*) FILTER (WHERE r.status BETWEEN 200 AND 299), count(*) FILTER (WHERE r.status BETWEEN 300 AND 399),
           count(*) FILTER (WHERE r.status BETWEEN 400 AND 499), count(*) FILTER (WHERE r.status BETWEEN 500 AND 599)
    FROM added AS r
    JOIN views.keys AS k ON k.key_id = r.key_id
    CROSS JOIN (VALUES ('minute', interval '1 minute'), ('hour', interval '1 hour')) AS w (width, step)
    GROUP BY 1, 2, 3, 4
    ON CONFLICT (key_id, width, start, run_id) DO UPDATE SET
        requests = b.requests + excluded.requests,
        failed_attempts = b.failed_attempts + excluded.failed_attempts,
        status_2xx = b.status_2xx + excluded.status_2xx,
        status_3xx = b.status_3xx + excluded.status_3xx,
        status_4xx = b.status_4xx + excluded.status_4xx,
        status_5xx = b.status_5xx + excluded.status_5xx;
    RETURN NULL;
END
$$;
DROP TRIGGER count_rows ON usage.access_log;
CREATE TRIGGER count_rows AFTER INSERT ON usage.access_log
FOR EACH STATEMENT EXECUTE FUNCTION usage.count_rows();
