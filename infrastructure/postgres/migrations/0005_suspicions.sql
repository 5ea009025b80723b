-- What the sweeps for attacked keys and for keys presented after their end look through: refused rows that name a key.
CREATE INDEX access_log_refused ON usage.access_log (occurred_at) INCLUDE (key_id, outcome)
    WHERE NOT accepted AND key_id IS NOT NULL;
