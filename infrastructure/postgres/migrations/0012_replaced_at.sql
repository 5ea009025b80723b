-- Since when a key is being replaced: what its answers say in `Deprecation`. Filled for keys that are, from the ledger.
ALTER TABLE views.keys ADD COLUMN replaced_at timestamptz;
UPDATE views.keys AS k SET replaced_at = r.at
FROM (
    SELECT stream_id, min((convert_from(state, 'UTF8')::jsonb ->> 'timestamp')::timestamptz) AS at
    FROM ledger.events WHERE topic = 'key.rotated' GROUP BY stream_id
) AS r
WHERE k.key_id = r.stream_id AND k.replaced_by IS NOT NULL;
