-- The runs of the jobs. A slot is a multiple of the job's interval in database time; it is run once, whoever leads.

CREATE SCHEMA jobs;

CREATE TABLE jobs.runs (
    job text NOT NULL,
    slot timestamptz NOT NULL,
    by_hand boolean NOT NULL,
    host text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    -- done, postponed (the database was away), failed, interrupted; null while it runs
    outcome text,
    done bigint,
    error text,
    PRIMARY KEY (job, slot)
);
CREATE INDEX runs_by_age ON jobs.runs (started_at);
