-- Channels: what they hold and held, and people's word on that (internal/promotion).

-- Who made an image: of the commit, of the run. They cannot approve it.
CREATE TABLE image_author (
    image TEXT NOT NULL,                 -- digest
    who   TEXT NOT NULL,
    at    INTEGER NOT NULL,
    PRIMARY KEY (image, who)
);

CREATE TABLE approval (
    id           INTEGER PRIMARY KEY,
    image        TEXT NOT NULL,
    channel      TEXT NOT NULL,
    who          TEXT NOT NULL,
    why          TEXT NOT NULL DEFAULT '',
    at           INTEGER NOT NULL,
    withdrawn    INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX approval_of ON approval (image, channel);

-- What an operator keeps as it is, until it is released.
CREATE TABLE hold (
    id         INTEGER PRIMARY KEY,
    subject    TEXT NOT NULL,            -- a channel, or an image's digest
    cause      TEXT NOT NULL,            -- hold or rollback
    who        TEXT NOT NULL,
    why        TEXT NOT NULL,
    at         INTEGER NOT NULL,
    until      INTEGER NOT NULL DEFAULT 0, -- 0: until it is released
    ended      INTEGER NOT NULL DEFAULT 0,
    ended_by   TEXT NOT NULL DEFAULT '',
    ended_why  TEXT NOT NULL DEFAULT ''
);
CREATE INDEX hold_of ON hold (subject, ended);

-- Times in which nothing is promoted, beside those of policies.
CREATE TABLE frozen (
    id         INTEGER PRIMARY KEY,
    channel    TEXT NOT NULL,            -- empty: all channels
    who        TEXT NOT NULL,
    why        TEXT NOT NULL,
    at         INTEGER NOT NULL,
    until      INTEGER NOT NULL DEFAULT 0, -- 0: until it is thawed
    ended      INTEGER NOT NULL DEFAULT 0,
    ended_by   TEXT NOT NULL DEFAULT '',
    ended_why  TEXT NOT NULL DEFAULT ''
);

-- Moves of tags. A row is written before the tag is moved (intended), and again
-- when everything of it is done.
CREATE TABLE promotion (
    id        INTEGER PRIMARY KEY,
    channel   TEXT NOT NULL,
    image     TEXT NOT NULL,             -- what the channel holds from then on
    previous  TEXT NOT NULL DEFAULT '',  -- what it held
    kind      TEXT NOT NULL,             -- promote, rollback; found: somebody else moved the tag
    who       TEXT NOT NULL,
    why       TEXT NOT NULL,
    at        INTEGER NOT NULL,
    state     TEXT NOT NULL,             -- intended, done; failed: nothing was moved
    owner     TEXT NOT NULL DEFAULT '',  -- who does it, while it is intended: a random text
    lease     INTEGER NOT NULL DEFAULT 0, -- until when the owner is believed to be alive
    attached  TEXT NOT NULL DEFAULT '',  -- JSON: the statements to attach, as envelopes in base64
    registry  TEXT NOT NULL DEFAULT '',  -- where else the tag is moved
    decision  TEXT NOT NULL DEFAULT '',  -- JSON: pipeline.Decision
    policy    TEXT NOT NULL DEFAULT '',  -- "sha256:…" of the channel's policy
    statement TEXT NOT NULL DEFAULT '',  -- digest of the promotion's statement, as it is attached
    ended     INTEGER NOT NULL DEFAULT 0,
    error     TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX promotion_open ON promotion (channel) WHERE state = 'intended';
CREATE INDEX promotion_of ON promotion (channel, id);
