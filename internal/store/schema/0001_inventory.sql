-- Nodes, who has them, and what is done on them (testbed/inventory).

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE node (
    name         TEXT PRIMARY KEY,
    spec         TEXT NOT NULL,               -- JSON: inventory.Spec
    declared     INTEGER NOT NULL,            -- 1: by a file; 0: it was discovered
    hardware     TEXT NOT NULL DEFAULT '',    -- JSON: what the deploy ramdisk found
    state        TEXT NOT NULL,
    reason       TEXT NOT NULL DEFAULT '',    -- why, for states of failure
    since        INTEGER NOT NULL,            -- of the state
    allowed      INTEGER NOT NULL DEFAULT 0,  -- an operator lets it be used
    alive        INTEGER NOT NULL DEFAULT 0,
    alive_reason TEXT NOT NULL DEFAULT '',
    wanted_power TEXT NOT NULL DEFAULT '',    -- on, off; empty: no wish
    power        TEXT NOT NULL DEFAULT '',    -- on, off; empty: never seen
    power_at     INTEGER NOT NULL DEFAULT 0,
    aside_by     TEXT NOT NULL DEFAULT '',    -- maintenance: who
    aside_why    TEXT NOT NULL DEFAULT '',
    aside_fault  TEXT NOT NULL DEFAULT '',    -- the fault that caused it; empty: a person did
    aside_at     INTEGER NOT NULL DEFAULT 0,
    image        TEXT NOT NULL DEFAULT '',    -- digest of what is deployed
    fence        INTEGER NOT NULL DEFAULT 0   -- of the newest lease
);

-- The newest observation from each source.
CREATE TABLE observation (
    node   TEXT NOT NULL REFERENCES node (name) ON DELETE CASCADE,
    source TEXT NOT NULL,
    ok     INTEGER NOT NULL,
    detail TEXT NOT NULL DEFAULT '',
    at     INTEGER NOT NULL,
    since  INTEGER NOT NULL,                  -- how long it has been so
    PRIMARY KEY (node, source)
);

CREATE TABLE address (
    network TEXT NOT NULL,
    address TEXT NOT NULL,
    node    TEXT NOT NULL REFERENCES node (name) ON DELETE CASCADE,
    PRIMARY KEY (network, address)
);
CREATE UNIQUE INDEX address_of ON address (network, node);

CREATE TABLE lease (
    id      INTEGER PRIMARY KEY,
    node    TEXT NOT NULL,
    holder  TEXT NOT NULL,
    fence   INTEGER NOT NULL,
    granted INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    ended   INTEGER NOT NULL DEFAULT 0,
    why     TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX lease_of ON lease (node) WHERE ended = 0;

CREATE TABLE task (
    id      INTEGER PRIMARY KEY,
    run     TEXT NOT NULL,
    name    TEXT NOT NULL,
    node    TEXT NOT NULL DEFAULT '',
    state   TEXT NOT NULL,
    reason  TEXT NOT NULL DEFAULT '',
    fence   INTEGER NOT NULL DEFAULT 0,
    created INTEGER NOT NULL,
    started INTEGER NOT NULL DEFAULT 0,
    ended   INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX task_of ON task (node) WHERE state = 'running' AND node <> '';

CREATE TABLE task_need (
    task  INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    needs INTEGER NOT NULL REFERENCES task (id),
    PRIMARY KEY (task, needs)
);

-- What happened, never edited.
CREATE TABLE event (
    id   INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL,
    node TEXT NOT NULL DEFAULT '',
    kind TEXT NOT NULL,
    who  TEXT NOT NULL DEFAULT '',
    what TEXT NOT NULL
);
CREATE INDEX event_node ON event (node, id);
