-- Rows are counted some hundreds at a time: for a small batch, counting took two thirds of the database's time.

-- Rows of the open window up to `counted_through` are in `usage.live` and `usage.buckets`. Those after it, at most 1,000 or
-- one batch, lie between these two instants; whoever reads counts adds them up (`usage.live_counts`, `usage.bucket_counts`).
ALTER TABLE usage.writers
    ADD COLUMN counted_through bigint NOT NULL DEFAULT 0,
    ADD COLUMN uncounted_from timestamptz NOT NULL DEFAULT 'infinity',
    ADD COLUMN uncounted_to timestamptz NOT NULL DEFAULT '-infinity';
UPDATE usage.writers SET counted_through = written_through;

-- Rows after `before` up to `through` of a run, added up for each key and minute. Planned anew for each call, with its values
-- known: of the log's partitions only those between the two instants are then opened.
CREATE FUNCTION usage.rows_by_minute(run text, before bigint, through bigint, since timestamptz, until timestamptz)
RETURNS TABLE (
    key_id text, minute timestamptz, requests bigint, failed_attempts bigint, status_2xx bigint, status_3xx bigint,
    status_4xx bigint, status_5xx bigint, first_used_at timestamptz, last_used_at timestamptz
)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE $query$
        SELECT l.key_id, date_bin('1 minute', l.occurred_at, 'epoch'),
               count(*) FILTER (WHERE l.accepted), count(*) FILTER (WHERE NOT l.accepted),
               count(*) FILTER (WHERE l.status BETWEEN 200 AND 299), count(*) FILTER (WHERE l.status BETWEEN 300 AND 399),
               count(*) FILTER (WHERE l.status BETWEEN 400 AND 499), count(*) FILTER (WHERE l.status BETWEEN 500 AND 599),
               min(l.occurred_at) FILTER (WHERE l.accepted), max(l.occurred_at) FILTER (WHERE l.accepted)
        FROM usage.access_log AS l
        WHERE l.run_id = $1 AND l.seq > $2 AND l.seq <= $3 AND l.occurred_at BETWEEN $4 AND $5 AND l.key_id IS NOT NULL
        GROUP BY 1, 2
    $query$ USING run, before, through, since, until;
END
$$;

-- Counts rows after `before` up to `through` of a run, of the window that begins after `open_after`.
CREATE FUNCTION usage.count_later(
    run text, before bigint, through bigint, open_after bigint, since timestamptz, until timestamptz
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH counted AS MATERIALIZED (
        SELECT * FROM usage.rows_by_minute(run, before, through, since, until)
    ), live AS (
        INSERT INTO usage.live AS l (
            key_id, run_id, after_row, requests, failed_attempts, first_used_at, last_used_at
        )
        SELECT c.key_id, run, open_after, sum(c.requests), sum(c.failed_attempts), min(c.first_used_at), max(c.last_used_at)
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
    SELECT c.key_id, w.width, date_bin(w.step, c.minute, 'epoch'), run, sum(c.requests), sum(c.failed_attempts),
           sum(c.status_2xx), sum(c.status_3xx), sum(c.status_4xx), sum(c.status_5xx)
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
END
$$;

-- A window never ends with rows that are not counted, whoever ends it: the settlement of this release or the one before.
CREATE FUNCTION usage.count_before_end() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM usage.count_later(
        NEW.run_id, OLD.counted_through, NEW.closed_through, OLD.closed_through, OLD.uncounted_from, OLD.uncounted_to
    );
    NEW.counted_through := NEW.closed_through;
    NEW.uncounted_from := 'infinity';
    NEW.uncounted_to := '-infinity';
    RETURN NEW;
END
$$;
CREATE TRIGGER count_before_end BEFORE UPDATE ON usage.writers
FOR EACH ROW WHEN (NEW.closed_through > NEW.counted_through) EXECUTE FUNCTION usage.count_before_end();

-- As before, but that it counts the rows of earlier batches, when they are many or their window is over.
CREATE OR REPLACE FUNCTION usage.write_batch(
    run text, before bigint, through bigint, at timestamptz, window_ends timestamptz,
    salts bytea, instants timestamptz[], requests text[], kinds integer[],
    methods text[], endpoints text[], statuses smallint[], outcomes text[], accepts boolean[], keys text[],
    accounts text[], hashes text[], clients text[]
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    was record;
    first_at timestamptz;
    last_at timestamptz;
    skipped bigint := through - cardinality(instants);
BEGIN
    SELECT min(i), max(i) INTO first_at, last_at FROM unnest(instants) AS i;
    -- A window ends by the clock, when the settlement has closed it, or at 20,000 rows, so that settling stays bounded.
    UPDATE usage.writers AS w SET
        written_through = through,
        last_seen_at = clock_timestamp(),
        closed_through = CASE WHEN o.is_over THEN before ELSE w.closed_through END,
        window_ends_at = CASE WHEN o.is_over THEN window_ends ELSE w.window_ends_at END,
        counted_through = CASE WHEN o.is_full THEN before ELSE w.counted_through END,
        uncounted_from = CASE WHEN o.is_full THEN first_at ELSE least(w.uncounted_from, first_at) END,
        uncounted_to = CASE WHEN o.is_full THEN last_at ELSE greatest(w.uncounted_to, last_at) END
    FROM (
        SELECT l.*, l.is_over OR through - l.counted_through > 1000 AS is_full
        FROM (
            SELECT k.run_id, k.closed_through, k.counted_through, k.uncounted_from, k.uncounted_to,
                   k.window_ends_at <= at OR through - k.closed_through > 20000 AS is_over
            FROM usage.writers AS k WHERE k.run_id = run AND k.written_through = before
            FOR UPDATE
        ) AS l
    ) AS o
    WHERE w.run_id = o.run_id
    RETURNING o.is_full, o.closed_through, o.counted_through, o.uncounted_from, o.uncounted_to INTO was;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF was.is_full AND was.counted_through < before THEN
        PERFORM usage.count_later(
            run, was.counted_through, before, was.closed_through, was.uncounted_from, was.uncounted_to
        );
    END IF;
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

-- A writer that waits for this migration's lock goes on with the function of the release before, which counts its rows itself
-- and says so by this setting; triggers it looks up behind the lock.
CREATE OR REPLACE FUNCTION usage.count_rows() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('usage.counted', true) = 'yes' THEN
        UPDATE usage.writers SET counted_through = written_through WHERE xmin = pg_current_xact_id()::xid;
    END IF;
    RETURN NULL;
END
$$;

-- The writer of two releases ago.
DROP FUNCTION usage.write_rows(
    text, bigint, bigint, timestamptz, timestamptz, bytea[], timestamptz[], text[], text[], smallint[], text[], boolean[],
    text[], text[], text[], text[], text[]
);

-- The rows of all runs that are not counted yet.
CREATE VIEW usage.uncounted AS
SELECT w.run_id, w.closed_through AS after_row, r.*
FROM usage.writers AS w
CROSS JOIN LATERAL usage.rows_by_minute(
    w.run_id, w.counted_through, w.written_through, w.uncounted_from, w.uncounted_to
) AS r
WHERE w.counted_through < w.written_through;

-- What `usage.live` and `usage.buckets` say, with the rows that are not counted yet: exact to the last committed row. A key
-- may have two rows of the same place: add them up.
CREATE VIEW usage.live_counts AS
SELECT key_id, run_id, after_row, requests, failed_attempts, first_used_at, last_used_at FROM usage.live
UNION ALL
SELECT key_id, run_id, after_row, requests, failed_attempts, first_used_at, last_used_at FROM usage.uncounted;

CREATE VIEW usage.bucket_counts AS
SELECT key_id, width, start, run_id, requests, failed_attempts, status_2xx, status_3xx, status_4xx, status_5xx
FROM usage.buckets
UNION ALL
SELECT u.key_id, w.width, date_bin(w.step, u.minute, 'epoch'), u.run_id, u.requests, u.failed_attempts, u.status_2xx,
       u.status_3xx, u.status_4xx, u.status_5xx
FROM usage.uncounted AS u
JOIN views.keys AS k ON k.key_id = u.key_id
CROSS JOIN (VALUES ('minute', interval '1 minute'), ('hour', interval '1 hour')) AS w (width, step);
