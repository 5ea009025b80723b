-- What `usage.totals` and `usage.live_counts` say together, for these keys alone: exact to the last committed row, and one
-- snapshot, so that a row is in one of the two and never in both. A run's rows that are not counted yet are looked through
-- for these keys, and not added up for every key first.
CREATE FUNCTION usage.uncounted_of(
    run text, before bigint, through bigint, since timestamptz, until timestamptz, key_ids text[]
) RETURNS TABLE (
    key_id text, requests bigint, failed_attempts bigint, first_used_at timestamptz, last_used_at timestamptz
)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- Planned anew for each call, as `usage.rows_by_minute`.
    RETURN QUERY EXECUTE $query$
        SELECT l.key_id, count(*) FILTER (WHERE l.accepted), count(*) FILTER (WHERE NOT l.accepted),
               min(l.occurred_at) FILTER (WHERE l.accepted), max(l.occurred_at) FILTER (WHERE l.accepted)
        FROM usage.access_log AS l
        WHERE l.run_id = $1 AND l.seq > $2 AND l.seq <= $3 AND l.occurred_at BETWEEN $4 AND $5 AND l.key_id = ANY($6)
        GROUP BY l.key_id
    $query$ USING run, before, through, since, until, key_ids;
END
$$;

CREATE FUNCTION usage.counts_of(key_ids text[]) RETURNS TABLE (
    key_id text, requests bigint, failed_attempts bigint, first_used_at timestamptz, last_used_at timestamptz
)
LANGUAGE sql STABLE AS $$
    SELECT c.key_id, sum(c.requests)::bigint, sum(c.failed_attempts)::bigint, min(c.first_used_at), max(c.last_used_at)
    FROM (
        SELECT t.key_id, t.requests, t.failed_attempts, t.first_used_at, t.last_used_at
        FROM usage.totals AS t WHERE t.key_id = ANY(key_ids)
        UNION ALL
        SELECT l.key_id, l.requests, l.failed_attempts, l.first_used_at, l.last_used_at
        FROM usage.live AS l WHERE l.key_id = ANY(key_ids)
        UNION ALL
        SELECT r.key_id, r.requests, r.failed_attempts, r.first_used_at, r.last_used_at
        FROM usage.writers AS w
        CROSS JOIN LATERAL usage.uncounted_of(
            w.run_id, w.counted_through, w.written_through, w.uncounted_from, w.uncounted_to, key_ids
        ) AS r
        WHERE w.counted_through < w.written_through
    ) AS c
    GROUP BY c.key_id
$$;
