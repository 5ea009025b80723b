-- Processes: where each stands, when it is to be looked at, and how far the engine has followed the ledger.

CREATE SCHEMA workflow;

-- Both are written in the transaction of the process's own event, and follow from its events alone.
CREATE TABLE workflow.processes (
    process_id text PRIMARY KEY,
    workflow text NOT NULL,
    account_id text,
    subject text NOT NULL,
    step text NOT NULL,
    state text NOT NULL,
    failures integer NOT NULL,
    error text,
    -- A key whose first use the process waits for.
    awaits text,
    began_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    began_position bigint NOT NULL,
    position bigint NOT NULL
);
CREATE INDEX processes_newest ON workflow.processes (began_position DESC);
CREATE INDEX processes_by_state ON workflow.processes (state, began_position DESC) WHERE state <> 'ended';
CREATE INDEX processes_awaiting ON workflow.processes (awaits)
    WHERE awaits IS NOT NULL AND state = 'running' AND failures = 0;

-- claimed_until: somebody looks at the process; when that one dies, others may after it.
CREATE TABLE workflow.timers (
    process_id text NOT NULL,
    step text NOT NULL,
    due_at timestamptz NOT NULL,
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (process_id, step)
);
CREATE INDEX timers_due ON workflow.timers (due_at);

-- No view: nothing makes this anew, so that nothing is reacted to again. error: why a workflow stands still.
CREATE TABLE workflow.progress (
    workflow text PRIMARY KEY,
    position bigint NOT NULL,
    error text
);

-- The age at which an account's new keys are to be rotated.
ALTER TABLE views.accounts ADD COLUMN rotation_due_days integer NOT NULL DEFAULT 90;
