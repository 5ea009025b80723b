-- What is to be told to somebody outside: made from the ledger's events once, delivered at least once, under one id.

CREATE SCHEMA outbox;

CREATE TABLE outbox.messages (
    -- Follows from the columns of messages_once and the account, so that it is the same however often it is made.
    id text PRIMARY KEY,
    -- The order of lists.
    number bigint GENERATED ALWAYS AS IDENTITY,
    channel text NOT NULL CONSTRAINT messages_channel CHECK (channel IN ('webhook', 'email')),
    account_id text NOT NULL,
    target text NOT NULL,
    cause_position bigint NOT NULL,
    kind text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'pending'
        CONSTRAINT messages_state CHECK (state IN ('pending', 'delivered', 'failed', 'cancelled')),
    -- How many were begun, the one that runs included.
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL,
    -- Until then one process delivers it; null: nobody does.
    taken_until timestamptz,
    ended_at timestamptz,
    CONSTRAINT messages_once UNIQUE (channel, target, cause_position, kind)
) WITH (fillfactor = 80);
CREATE INDEX messages_due ON outbox.messages (channel, next_at) WHERE state = 'pending';
CREATE INDEX messages_of_target ON outbox.messages (target, number DESC);
CREATE INDEX messages_ended ON outbox.messages (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE outbox.attempts (
    message_id text NOT NULL REFERENCES outbox.messages ON DELETE CASCADE,
    number integer NOT NULL,
    at timestamptz NOT NULL,
    -- The receiver's own: a status of HTTP, a reply code of SMTP; null when it gave none.
    status integer,
    latency_ms integer NOT NULL,
    -- Null: it was taken.
    error text,
    PRIMARY KEY (message_id, number)
);

-- How far each channel has read the ledger. No view's progress: nothing rebuilds it, or all would be told again.
CREATE TABLE outbox.progress (
    channel text PRIMARY KEY,
    position bigint NOT NULL,
    error text
);
-- What happened before there were channels is told to nobody.
INSERT INTO outbox.progress (channel, position)
SELECT channel, (SELECT coalesce(max(position), 0) FROM ledger.events) FROM (VALUES ('webhook'), ('email')) AS c (channel);
