-- The processes of one server tell each other what they change (design record 0020): a change that was told waits for other
-- servers alone, and its notification names the server, whose processes need not be woken for it.
ALTER TABLE serving.processes ADD COLUMN server text, ADD COLUMN seat integer;

-- As before, but that the processes of the server that will be told are not waited for, and each row comes with its server. None
-- is told: NULL.
CREATE FUNCTION serving.await_applied(
    awaited bigint, looks_max integer, told text,
    OUT process_ids text[], OUT applied bigint[], OUT beats bigint[], OUT lease_seconds double precision[],
    OUT servers text[], OUT waited_seconds double precision
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    began CONSTANT timestamptz := clock_timestamp();
    look integer := 1;
BEGIN
    WHILE look < looks_max AND EXISTS (
        SELECT FROM serving.processes AS p
        WHERE p.applied < awaited AND (told IS NULL OR p.server IS DISTINCT FROM told)
    ) LOOP
        PERFORM pg_sleep(0.001);
        look := look + 1;
    END LOOP;
    SELECT coalesce(array_agg(p.process_id), '{}'), coalesce(array_agg(p.applied), '{}'),
           coalesce(array_agg(p.beat), '{}'), coalesce(array_agg(p.lease_seconds), '{}'), coalesce(array_agg(p.server), '{}')
    INTO process_ids, applied, beats, lease_seconds, servers
    FROM serving.processes AS p;
    waited_seconds := greatest(extract(epoch FROM clock_timestamp() - began), 0);
END
$$;

-- As before, but that the notification ends with the server that will be told, if one is: "position stream server", the stream
-- empty where it is not a lone event's. What the previous release makes of it is read from the ledger.
CREATE FUNCTION ledger.append(stream_ids text[], versions bigint[], topics text[], states bytea[], told text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    is_lone CONSTANT boolean := cardinality(stream_ids) = 1 AND topics[1] <> 'key.imported';
BEGIN
    PERFORM pg_advisory_xact_lock(7310305);
    SELECT coalesce(max(position), 0) INTO head FROM ledger.events;
    INSERT INTO ledger.events (position, stream_id, version, topic, state)
    SELECT head + e.place, e.stream_id, e.version, e.topic, e.state
    FROM unnest(stream_ids, versions, topics, states) WITH ORDINALITY AS e (stream_id, version, topic, state, place);
    PERFORM pg_notify(
        'ledger',
        (head + cardinality(stream_ids))::text
            || CASE WHEN is_lone THEN ' ' || stream_ids[1] WHEN told IS NOT NULL THEN ' ' ELSE '' END
            || coalesce(' ' || told, '')
    );
    RETURN head;
END
$$;

-- For the previous release.
CREATE OR REPLACE FUNCTION ledger.append(stream_ids text[], versions bigint[], topics text[], states bytea[]) RETURNS bigint
LANGUAGE sql
RETURN ledger.append(stream_ids, versions, topics, states, NULL);
