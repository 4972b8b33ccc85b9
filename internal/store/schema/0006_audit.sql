-- By which way somebody came whom the audit trail names: http, by a token; or
-- command, by a name that imgpipe was told. peer is an address, or the user that
-- ran the command; status that of the answer, or the command's exit status.
ALTER TABLE audit ADD COLUMN via TEXT NOT NULL DEFAULT 'http';
CREATE INDEX audit_at ON audit (at);
ALTER TABLE token ADD COLUMN revoked_by TEXT NOT NULL DEFAULT '';
