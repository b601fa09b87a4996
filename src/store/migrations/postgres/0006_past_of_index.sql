-- What an index said, for as long as the log may tell of it: a folder that was moved or deleted is one entry, and what it held
-- then is read here and in `index_items` together. A row is good for entries from `since` on, before `until`.
ALTER TABLE index_items ADD COLUMN since BIGINT NOT NULL DEFAULT 0;
-- Of files revision, content hash, size and times in few bytes; `rev` is of folders alone from here on, and `hash` of nobody.
ALTER TABLE index_items ADD COLUMN facts BYTEA;

CREATE TABLE index_past (
    scope    BIGINT NOT NULL,
    n        BIGINT NOT NULL,
    parent   BIGINT NOT NULL,
    name     TEXT COLLATE "C" NOT NULL,
    display  TEXT,
    id       TEXT COLLATE "C",
    rev      TEXT,
    facts    BYTEA,
    kind     BIGINT NOT NULL,
    since    BIGINT NOT NULL,
    until    BIGINT NOT NULL,
    PRIMARY KEY (scope, n, until)
);
CREATE INDEX index_past_by_place ON index_past (scope, parent, name);
CREATE INDEX index_past_by_end ON index_past (scope, until);
