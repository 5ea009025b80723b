-- A retry by hand of what is pending: how many attempts the schedule does not count, and while such a one is due or runs,
-- when the schedule's next one is.
ALTER TABLE outbox.messages ADD COLUMN unscheduled integer NOT NULL DEFAULT 0, ADD COLUMN scheduled_at timestamptz;
