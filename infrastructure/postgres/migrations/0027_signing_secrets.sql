-- Until when the secrets before the last two sign, the newest first: each to the end of its own grace, whatever was rotated since.
ALTER TABLE views.webhooks ADD COLUMN older_until timestamptz[] NOT NULL DEFAULT '{}';
