-- What a node's disk is made of, or was to be: JSON, with the seed and its secrets.
-- Empty: nothing, or it was wiped.
ALTER TABLE node ADD COLUMN deployment TEXT NOT NULL DEFAULT '';
