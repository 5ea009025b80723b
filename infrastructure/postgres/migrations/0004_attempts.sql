-- The failed-attempt limit of each client network, for all processes together: one instant a network.
-- UNLOGGED: a crash of the server forgets it, which lets nobody in; it costs no write-ahead log while it works.
CREATE UNLOGGED TABLE serving.attempts (
    network text PRIMARY KEY,
    replenished_at timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX attempts_replenished ON serving.attempts (replenished_at);
