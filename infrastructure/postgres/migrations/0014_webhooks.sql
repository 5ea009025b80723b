-- Webhook endpoints: the view that their events write, and their secrets, sealed, in the vault.

CREATE TABLE views.webhooks (
    endpoint_id text PRIMARY KEY,
    account_id text NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL,
    description text,
    created_at timestamptz NOT NULL,
    disabled_at timestamptz,
    disabled_reason text,
    secret_version integer NOT NULL,
    previous_until timestamptz,
    created_position bigint NOT NULL,
    position bigint NOT NULL
);
CREATE INDEX webhooks_of_account ON views.webhooks (account_id, created_position DESC);

-- Sealed under a subkey of the root secrets, each for its own row.
CREATE TABLE credentials.webhook_secrets (
    endpoint_id text NOT NULL,
    version integer NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (endpoint_id, version)
);
