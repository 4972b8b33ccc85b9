-- Runs of pipelines, what was decided about them, and who works on them
-- (pipeline/engine). A run's stages are tasks.

-- What others name by its digest: pipeline files, policies, snapshots, plans.
CREATE TABLE content (
    sha256 TEXT PRIMARY KEY,
    bytes  BLOB NOT NULL                      -- zstd
);

CREATE TABLE run (
    id       INTEGER PRIMARY KEY,
    pipeline TEXT NOT NULL,                   -- its name
    file     TEXT NOT NULL,                   -- where it was read
    source   TEXT NOT NULL,                   -- content: the file's bytes
    policy   TEXT NOT NULL,                   -- content: engine.Policy
    inputs   TEXT NOT NULL,                   -- JSON: name to value
    grp      TEXT NOT NULL DEFAULT '',        -- of runs that supersede each other; empty: none
    author   TEXT NOT NULL DEFAULT '',
    host     TEXT NOT NULL DEFAULT '',        -- the only worker that may work on it; empty: any
    state    TEXT NOT NULL,
    reason   TEXT NOT NULL DEFAULT '',
    cancel   TEXT NOT NULL DEFAULT '',        -- who wants it to end, and why
    newer    INTEGER NOT NULL DEFAULT 0,      -- the run that takes its place
    waits    TEXT NOT NULL DEFAULT '',        -- JSON: what the last plan did not do, and why
    slot     INTEGER NOT NULL DEFAULT 0,      -- 1: the cap is in its way
    due      INTEGER NOT NULL DEFAULT 0,      -- when to plan though nothing happens; 0: never
    created  INTEGER NOT NULL,
    begun    INTEGER NOT NULL,                -- or begun again: its time counts from here
    ended    INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX run_open ON run (id) WHERE ended = 0;

ALTER TABLE task ADD COLUMN image TEXT NOT NULL DEFAULT '';       -- digest of what it works on, or made
ALTER TABLE task ADD COLUMN made INTEGER NOT NULL DEFAULT 0;      -- 1: it made the image
ALTER TABLE task ADD COLUMN class TEXT NOT NULL DEFAULT '';       -- of its last failure
ALTER TABLE task ADD COLUMN exit_status INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN hint TEXT NOT NULL DEFAULT '';
ALTER TABLE task ADD COLUMN notes TEXT NOT NULL DEFAULT '';       -- JSON: lines
ALTER TABLE task ADD COLUMN pardon INTEGER NOT NULL DEFAULT 0;    -- failures that do not count
ALTER TABLE task ADD COLUMN not_before INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN stage INTEGER NOT NULL DEFAULT -1;    -- place in the run's policy; -1: it is no stage
UPDATE task SET state = 'passed' WHERE state = 'done';
CREATE INDEX task_run ON task (run, stage);
CREATE INDEX task_going ON task (state) WHERE state IN ('todo', 'ready', 'blocked', 'running');
CREATE INDEX task_need_by ON task_need (needs);

CREATE TABLE attempt (
    id       INTEGER PRIMARY KEY,
    task     INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    number   INTEGER NOT NULL,                -- counted from 1
    worker   TEXT NOT NULL,
    state    TEXT NOT NULL,
    class    TEXT NOT NULL DEFAULT '',
    reason   TEXT NOT NULL DEFAULT '',
    stop     TEXT NOT NULL DEFAULT '',        -- why it is told to end
    progress TEXT NOT NULL DEFAULT '',
    started  INTEGER NOT NULL,
    expires  INTEGER NOT NULL,                -- without a heartbeat
    ended    INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX attempt_of ON attempt (task, number);
CREATE INDEX attempt_open ON attempt (expires) WHERE ended = 0;

CREATE TABLE worker (
    name         TEXT PRIMARY KEY,
    capabilities TEXT NOT NULL,               -- JSON: list
    slots        INTEGER NOT NULL,
    version      TEXT NOT NULL DEFAULT '',
    draining     INTEGER NOT NULL DEFAULT 0,
    seen         INTEGER NOT NULL
);

-- What was decided: each can be shown, and decided again.
CREATE TABLE transition (
    id       INTEGER PRIMARY KEY,
    run      INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    at       INTEGER NOT NULL,
    cause    TEXT NOT NULL,
    actor    TEXT NOT NULL DEFAULT '',
    planner  INTEGER NOT NULL,                -- its version
    policy   TEXT NOT NULL,                   -- content
    snapshot TEXT NOT NULL,                   -- content: what was known
    decision TEXT NOT NULL                    -- content: actions, and what was not done
);
CREATE INDEX transition_run ON transition (run, id);
ALTER TABLE event ADD COLUMN run TEXT NOT NULL DEFAULT '';
CREATE INDEX event_run ON event (run, id) WHERE run <> '';
