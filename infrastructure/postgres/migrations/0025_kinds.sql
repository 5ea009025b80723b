-- What the rows of a batch share comes as one array of records, in place of an array for each column, and with the batch's first
-- and last instant, so that the server need not look for them.
CREATE TYPE usage.access_kind AS (
    method text, endpoint text, status smallint, outcome text, accepted boolean, key_id text, account_id text, key_hash text,
    client_ip text
);

-- As `usage.write_batch` of 0022, which now calls it. `places` holds for each row the place of its kind in `kinds`.
CREATE FUNCTION usage.write_batch(
    run text, before bigint, through bigint, at timestamptz, window_ends timestamptz, first_at timestamptz, last_at timestamptz,
    salts bytea, instants timestamptz[], requests text[], places integer[], kinds usage.access_kind[]
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    was record;
    skipped CONSTANT bigint := through - cardinality(instants);
    behind_max CONSTANT bigint := 4000;
BEGIN
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
        SELECT l.*, l.is_over OR through - l.counted_through > behind_max AS is_full
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
    FROM unnest(instants, requests, places) WITH ORDINALITY AS r (occurred_at, request_id, kind, place)
    JOIN unnest(kinds) WITH ORDINALITY
        AS k (method, endpoint, status, outcome, accepted, key_id, account_id, key_hash, client_ip, kind)
        ON k.kind = r.kind;
    IF EXISTS (SELECT FROM unnest(kinds) AS k WHERE k.account_id IS NULL) THEN
        INSERT INTO usage.unproven (account_id, occurred_at, run_id, seq)
        SELECT v.account_id, r.occurred_at, run, skipped + r.place
        FROM unnest(kinds) WITH ORDINALITY
            AS k (method, endpoint, status, outcome, accepted, key_id, account_id, key_hash, client_ip, kind)
        JOIN views.keys AS v ON v.key_id = k.key_id
        JOIN unnest(instants, places) WITH ORDINALITY AS r (occurred_at, kind, place) ON r.kind = k.kind
        WHERE k.account_id IS NULL;
    END IF;
    RETURN true;
END
$$;

-- For the previous release.
CREATE OR REPLACE FUNCTION usage.write_batch(
    run text, before bigint, through bigint, at timestamptz, window_ends timestamptz,
    salts bytea, instants timestamptz[], requests text[], kinds integer[],
    methods text[], endpoints text[], statuses smallint[], outcomes text[], accepts boolean[], keys text[],
    accounts text[], hashes text[], clients text[]
) RETURNS boolean
LANGUAGE sql
RETURN usage.write_batch(
    run, before, through, at, window_ends, (SELECT min(i) FROM unnest(instants) AS i), (SELECT max(i) FROM unnest(instants) AS i),
    salts, instants, requests, kinds,
    ARRAY(
        SELECT ROW (
            k.method, k.endpoint, k.status, k.outcome, k.accepted, k.key_id, k.account_id, k.key_hash, k.client_ip
        )::usage.access_kind
        FROM unnest(methods, endpoints, statuses, outcomes, accepts, keys, accounts, hashes, clients) WITH ORDINALITY
            AS k (method, endpoint, status, outcome, accepted, key_id, account_id, key_hash, client_ip, place)
        ORDER BY k.place
    )
);
