-- A bcrypt hash is imported once, under whichever prefix: imported again under another it was a second key, which went on being
-- accepted when the first was revoked. Of those that are there twice the first keeps the hash here; both stay what they are.
ALTER TABLE credentials.imports ADD COLUMN bcrypt text;
UPDATE credentials.imports AS i SET bcrypt = f.verifier
FROM (
    SELECT DISTINCT ON (v.verifier) v.key_id, v.verifier
    FROM credentials.verifiers AS v
    JOIN credentials.imports AS o ON o.key_id = v.key_id AND o.algorithm = 'bcrypt'
    LEFT JOIN views.keys AS k ON k.key_id = v.key_id
    ORDER BY v.verifier, k.created_position, v.key_id
) AS f
WHERE f.key_id = i.key_id;
ALTER TABLE credentials.imports ADD CONSTRAINT imports_bcrypt UNIQUE (bcrypt);
COMMENT ON COLUMN credentials.imports.bcrypt IS 'The hash; null for SHA-256, and for what the previous release imports.';
