-- Who may ask imgpipe for what over HTTP, and who asked (internal/api).

CREATE TABLE token (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL,                    -- who has it
    role    TEXT NOT NULL,
    hash    TEXT NOT NULL UNIQUE,             -- SHA-256 of the secret, hexadecimal
    made_by TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL DEFAULT 0,       -- 0: never
    revoked INTEGER NOT NULL DEFAULT 0,
    used    INTEGER NOT NULL DEFAULT 0        -- last, to the minute
);
CREATE UNIQUE INDEX token_name ON token (name) WHERE revoked = 0;

-- Every request that changes something, and every one that was refused.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    who     TEXT NOT NULL,                    -- the token's name; empty: nobody's
    role    TEXT NOT NULL DEFAULT '',
    peer    TEXT NOT NULL,                    -- address
    request TEXT NOT NULL,                    -- method and path
    status  INTEGER NOT NULL,                 -- of the answer
    detail  TEXT NOT NULL DEFAULT ''
);
