-- Looks until every serving process has applied a position, at most so often, a millisecond apart; answers what the last look
-- saw. A change then comes back to its busy process once, and not once for each look. Volatile: each statement in here has a
-- snapshot of its own, also in one that began before.
CREATE FUNCTION serving.await_applied(
    awaited bigint, looks_max integer,
    OUT process_ids text[], OUT applied bigint[], OUT beats bigint[], OUT lease_seconds double precision[],
    OUT waited_seconds double precision
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    began CONSTANT timestamptz := clock_timestamp();
    look integer := 1;
BEGIN
    WHILE look < looks_max AND EXISTS (SELECT FROM serving.processes AS p WHERE p.applied < awaited) LOOP
        PERFORM pg_sleep(0.001);
        look := look + 1;
    END LOOP;
    SELECT coalesce(array_agg(p.process_id), '{}'), coalesce(array_agg(p.applied), '{}'),
           coalesce(array_agg(p.beat), '{}'), coalesce(array_agg(p.lease_seconds), '{}')
    INTO process_ids, applied, beats, lease_seconds
    FROM serving.processes AS p;
    waited_seconds := greatest(extract(epoch FROM clock_timestamp() - began), 0);
END
$$;

-- As before, but that a lone event is told of with its stream ("position stream"), so that whoever remembers something of it
-- need not read it first. An imported key comes with more than its stream, and is read.
CREATE OR REPLACE FUNCTION ledger.append(stream_ids text[], versions bigint[], topics text[], states bytea[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    is_told CONSTANT boolean := cardinality(stream_ids) = 1 AND topics[1] <> 'key.imported';
BEGIN
    PERFORM pg_advisory_xact_lock(7310305);
    SELECT coalesce(max(position), 0) INTO head FROM ledger.events;
    INSERT INTO ledger.events (position, stream_id, version, topic, state)
    SELECT head + e.place, e.stream_id, e.version, e.topic, e.state
    FROM unnest(stream_ids, versions, topics, states) WITH ORDINALITY AS e (stream_id, version, topic, state, place);
    PERFORM pg_notify('ledger', concat_ws(' ', head + cardinality(stream_ids), CASE WHEN is_told THEN stream_ids[1] END));
    RETURN head;
END
$$;
