-- What the reports of usage read, so that they cost the same however many rows a key has left.

-- Counts of one key's rows by minute and by hour (UTC), for each writing run: with the run in the key no two writers wait
-- for one another on a busy key's row. Written with the rows, so exact to the last committed one. Hours outlive the rows.
CREATE TABLE usage.buckets (
    key_id text NOT NULL,
    width text NOT NULL CHECK (width IN ('minute', 'hour')),
    start timestamptz NOT NULL,
    run_id text NOT NULL,
    requests bigint NOT NULL,
    failed_attempts bigint NOT NULL,
    status_2xx bigint NOT NULL,
    status_3xx bigint NOT NULL,
    status_4xx bigint NOT NULL,
    status_5xx bigint NOT NULL,
    PRIMARY KEY (key_id, width, start, run_id)
) WITH (fillfactor = 50);
-- For taking out the minutes that are older than the rows.
CREATE INDEX buckets_by_start ON usage.buckets USING brin (start);

-- The rows that name an account's key without proof of it (forged, mistyped): such a row has no account of its own, and
-- without this the owner's listing would have to look through every key for them.
CREATE TABLE usage.unproven (
    account_id text NOT NULL,
    occurred_at timestamptz NOT NULL,
    run_id text NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (account_id, occurred_at, run_id, seq)
);

-- An id that no key has gets nothing: anybody can invent those. A key is there before anybody can present it.
CREATE FUNCTION usage.count_rows() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage.buckets AS b (
        key_id, width, start, run_id, requests, failed_attempts, status_2xx, status_3xx, status_4xx, status_5xx
    )
    SELECT c.key_id, w.width, date_trunc(w.width, c.minute, 'UTC'), c.run_id, sum(c.requests), sum(c.failed_attempts),
           sum(c.status_2xx), sum(c.status_3xx), sum(c.status_4xx), sum(c.status_5xx)
    FROM (
        SELECT r.key_id, r.run_id, date_trunc('minute', r.occurred_at, 'UTC') AS minute,
               count(*) FILTER (WHERE r.accepted) AS requests,
               count(*) FILTER (WHERE NOT r.accepted) AS failed_attempts,
               count(*) FILTER (WHERE r.status BETWEEN 200 AND 299) AS status_2xx,
               count(*) FILTER (WHERE r.status BETWEEN 300 AND 399) AS status_3xx,
               count(*) FILTER (WHERE r.status BETWEEN 400 AND 499) AS status_4xx,
               count(*) FILTER (WHERE r.status BETWEEN 500 AND 599) AS status_5xx
        FROM added AS r
        WHERE r.key_id IS NOT NULL
        GROUP BY 1, 2, 3
    ) AS c
    JOIN views.keys AS k ON k.key_id = c.key_id
    CROSS JOIN (VALUES ('minute'), ('hour')) AS w (width)
    GROUP BY 1, 2, 3, 4
    ON CONFLICT (key_id, width, start, run_id) DO UPDATE SET
        requests = b.requests + excluded.requests,
        failed_attempts = b.failed_attempts + excluded.failed_attempts,
        status_2xx = b.status_2xx + excluded.status_2xx,
        status_3xx = b.status_3xx + excluded.status_3xx,
        status_4xx = b.status_4xx + excluded.status_4xx,
        status_5xx = b.status_5xx + excluded.status_5xx;
    INSERT INTO usage.unproven (account_id, occurred_at, run_id, seq)
    SELECT k.account_id, r.occurred_at, r.run_id, r.seq
    FROM added AS r JOIN views.keys AS k ON k.key_id = r.key_id
    WHERE r.account_id IS NULL
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

-- A trigger and not a line in `usage.write_rows`: a writer of the previous release that waits for this migration's lock
-- goes on with the function it has begun, and would leave its rows uncounted; triggers it looks up behind the lock.
CREATE TRIGGER count_rows AFTER INSERT ON usage.access_log
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION usage.count_rows();

-- The rows that are there already; the trigger's lock keeps others out until this is committed.
INSERT INTO usage.buckets (
    key_id, width, start, run_id, requests, failed_attempts, status_2xx, status_3xx, status_4xx, status_5xx
)
SELECT r.key_id, w.width, date_trunc(w.width, r.occurred_at, 'UTC'), r.run_id,
       count(*) FILTER (WHERE r.accepted), count(*) FILTER (WHERE NOT r.accepted),
       count(*) FILTER (WHERE r.status BETWEEN 200 AND 299), count(*) FILTER (WHERE r.status BETWEEN 300 AND 399),
       count(*) FILTER (WHERE r.status BETWEEN 400 AND 499), count(*) FILTER (WHERE r.status BETWEEN 500 AND 599)
FROM usage.access_log AS r
JOIN views.keys AS k ON k.key_id = r.key_id
CROSS JOIN (VALUES ('minute'), ('hour')) AS w (width)
GROUP BY 1, 2, 3, 4;
INSERT INTO usage.unproven (account_id, occurred_at, run_id, seq)
SELECT k.account_id, r.occurred_at, r.run_id, r.seq
FROM usage.access_log AS r JOIN views.keys AS k ON k.key_id = r.key_id
WHERE r.account_id IS NULL;
