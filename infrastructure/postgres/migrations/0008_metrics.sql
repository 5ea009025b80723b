-- What each process has counted since it began, and what those that are gone had counted: one scrape of any process
-- answers for all. `counters` and `gauges` are objects of series (in Prometheus' own spelling) and numbers.
CREATE TABLE serving.metrics (
    process_id text PRIMARY KEY,
    counters jsonb NOT NULL,
    gauges jsonb NOT NULL,
    told_at timestamptz NOT NULL
) WITH (fillfactor = 20);

CREATE TABLE serving.metrics_of_ended (
    series text PRIMARY KEY,
    total double precision NOT NULL
) WITH (fillfactor = 50);
