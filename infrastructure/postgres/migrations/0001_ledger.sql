-- The ledger, the views that are written in an event's own transaction, and the vault of hashes.

CREATE SCHEMA ledger;
CREATE SCHEMA views;
CREATE SCHEMA credentials;
REVOKE ALL ON SCHEMA credentials FROM PUBLIC;

-- Positions have no gaps: each append holds the lock until its commit, and numbers on from the highest.
CREATE TABLE ledger.events (
    position bigint PRIMARY KEY,
    stream_id text NOT NULL,
    version bigint NOT NULL,
    topic text NOT NULL,
    state bytea NOT NULL,
    CONSTRAINT events_stream_version UNIQUE (stream_id, version)
);

-- Appends events in the order given and answers the position before the first of them.
-- The advisory lock makes the order of positions the order of commits, so that a reader that follows positions misses
-- nothing; unlike a table lock it stands in no queue behind VACUUM or an index build.
CREATE FUNCTION ledger.append(stream_ids text[], versions bigint[], topics text[], states bytea[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7310305);
    SELECT coalesce(max(position), 0) INTO head FROM ledger.events;
    INSERT INTO ledger.events (position, stream_id, version, topic, state)
    SELECT head + e.place, e.stream_id, e.version, e.topic, e.state
    FROM unnest(stream_ids, versions, topics, states) WITH ORDINALITY AS e (stream_id, version, topic, state, place);
    PERFORM pg_notify('ledger', (head + cardinality(stream_ids))::text);
    RETURN head;
END
$$;

CREATE TABLE views.accounts (
    account_id text PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL,
    plan text NOT NULL,
    suspended boolean NOT NULL,
    opened_at timestamptz NOT NULL,
    position bigint NOT NULL
);

CREATE TABLE views.keys (
    key_id text PRIMARY KEY,
    account_id text NOT NULL,
    name text NOT NULL,
    environment text NOT NULL,
    prefix text NOT NULL,
    scopes text[],
    allowed_ips text[],
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    rotation_due_at timestamptz NOT NULL,
    rotation_flagged boolean NOT NULL,
    disabled boolean NOT NULL,
    revoked_at timestamptz,
    expiry_recorded boolean NOT NULL,
    retires_at timestamptz,
    lineage_id text NOT NULL,
    replaces text,
    replaced_by text,
    created_position bigint NOT NULL,
    position bigint NOT NULL
);
-- Newest first within an account: the order of GET /api/keys.
CREATE INDEX keys_of_account ON views.keys (account_id, created_position DESC);
-- What the sweeps look for; each holds only the keys that can still fall due.
CREATE INDEX keys_to_retire ON views.keys (retires_at) WHERE revoked_at IS NULL AND retires_at IS NOT NULL;
CREATE INDEX keys_to_expire ON views.keys (expires_at)
    WHERE revoked_at IS NULL AND expires_at IS NOT NULL AND NOT expiry_recorded;
CREATE INDEX keys_to_flag ON views.keys (rotation_due_at)
    WHERE revoked_at IS NULL AND NOT rotation_flagged AND replaced_by IS NULL;
CREATE INDEX keys_awaiting_first_use ON views.keys (replaced_by)
    WHERE revoked_at IS NULL AND replaced_by IS NOT NULL AND retires_at IS NULL;

CREATE TABLE views.campaigns (
    campaign_id text PRIMARY KEY,
    account_id text NOT NULL,
    environment text NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    position bigint NOT NULL
);
CREATE INDEX campaigns_of_account ON views.campaigns (account_id, environment, position DESC);

-- How far each view that follows the ledger has come; error holds why one stopped, null while it runs.
CREATE TABLE views.progress (
    view text PRIMARY KEY,
    position bigint NOT NULL,
    error text
);

-- The vault: no projection, no part of the ledger. The event holds the SHA-256 of the verifier.
CREATE TABLE credentials.verifiers (
    key_id text PRIMARY KEY,
    verifier text NOT NULL,
    receipt bytea
);
