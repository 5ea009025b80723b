-- Whether somebody asked for the attempt that is due, or runs, once the message had ended.
ALTER TABLE outbox.messages ADD COLUMN by_hand boolean NOT NULL DEFAULT false;
