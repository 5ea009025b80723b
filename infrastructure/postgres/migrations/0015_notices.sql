-- Where an account's notices go (null: its own address), and the kinds that are not sent.
ALTER TABLE views.accounts ADD COLUMN notice_email text;
ALTER TABLE views.accounts ADD COLUMN muted_notices text[] NOT NULL DEFAULT '{}';
