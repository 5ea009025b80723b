-- What an imported key is found by; its verifier, and from its first use its receipt, are in credentials.verifiers.
-- No projection, as the rest of the vault: the event holds no hash.
CREATE TABLE credentials.imports (
    key_id text PRIMARY KEY,
    account_id text NOT NULL,
    algorithm text NOT NULL,
    -- The key's first characters. All of them are in every serving process's memory.
    lookup_prefix text NOT NULL,
    -- Of the key; null for bcrypt.
    sha256 bytea,
    -- For bcrypt the key's place among those of its prefix: each may cost a bcrypt for every credential with that prefix.
    candidate smallint CHECK (candidate BETWEEN 1 AND 8),
    -- The key's name where it came from; null: none was given.
    external_id text,
    CONSTRAINT imports_sha256 UNIQUE (sha256),
    CONSTRAINT imports_candidate UNIQUE (lookup_prefix, candidate),
    CONSTRAINT imports_external_id UNIQUE (account_id, external_id),
    CONSTRAINT imports_algorithm CHECK (
        (algorithm = 'sha256' AND sha256 IS NOT NULL AND candidate IS NULL)
        OR (algorithm = 'bcrypt' AND sha256 IS NULL AND candidate IS NOT NULL)
    )
);
