-- Which root secrets this database's keys were made under, so that a process with others is told, in place of refusing every key.
CREATE TABLE credentials.root_secrets (
    fingerprint text PRIMARY KEY,
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
