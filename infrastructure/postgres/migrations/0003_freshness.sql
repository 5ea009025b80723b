-- Which processes remember keys, and how far each has applied the ledger (design: "true when it says no").
--
-- A row is written before its process first trusts its memory, and taken out by its process when it stops, or by
-- whoever has seen `beat` stand still for a whole lease of that process. `applied` may lag behind the truth, never run
-- ahead of it. `beat` moves with each lease, and is on disk before the lease is trusted.
CREATE SCHEMA serving;
CREATE TABLE serving.processes (
    process_id text PRIMARY KEY,
    host text NOT NULL,
    started_at timestamptz NOT NULL,
    lease_seconds double precision NOT NULL,
    applied bigint NOT NULL,
    beat bigint NOT NULL
) WITH (fillfactor = 20);
