-- Deliveries that were given up: how many there were, and the process of the last one while the endpoint has not been
-- enabled since. The endpoint is sent nothing meanwhile, unless that process was cancelled.
ALTER TABLE views.webhooks ADD COLUMN failures integer NOT NULL DEFAULT 0, ADD COLUMN failure_id text;

-- The workflow that follows from them begins with what happens from now on.
INSERT INTO workflow.progress (workflow, position)
SELECT 'webhook_failure', coalesce(max(position), 0) FROM ledger.events ON CONFLICT DO NOTHING;

-- For lists of mails, newest first: those that failed are looked through by hand.
CREATE INDEX messages_of_mail ON outbox.messages (number DESC) WHERE channel = 'email';
