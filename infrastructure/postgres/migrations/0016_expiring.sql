-- When it was last said that a key expires soon (null: never), and when it is to be said next (UTC; null: not at all):
-- a week and a day ahead, each unless it lies before the key's making or before what was said. As ApiKey.announce_expiry.
-- Generated, so that rows which the previous release writes have it, too.
ALTER TABLE views.keys ADD COLUMN expiry_announced_at timestamptz;
ALTER TABLE views.keys ADD COLUMN expiry_notice_at timestamp GENERATED ALWAYS AS (
    CASE
        WHEN (expires_at AT TIME ZONE 'UTC') - interval '7 days' > coalesce(expiry_announced_at, created_at) AT TIME ZONE 'UTC'
            THEN (expires_at AT TIME ZONE 'UTC') - interval '7 days'
        WHEN (expires_at AT TIME ZONE 'UTC') - interval '1 day' > coalesce(expiry_announced_at, created_at) AT TIME ZONE 'UTC'
            THEN (expires_at AT TIME ZONE 'UTC') - interval '1 day'
    END
) STORED;
CREATE INDEX keys_to_announce ON views.keys (expiry_notice_at)
    WHERE revoked_at IS NULL AND replaced_by IS NULL AND expiry_notice_at IS NOT NULL;
