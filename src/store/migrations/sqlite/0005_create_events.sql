-- Watched folders. `version` rises with every save; `lease` is the number of the process that may save.
CREATE TABLE event_scopes (
    -- Never given again: what belongs to a scope is removed after its row is out of reach.
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    scope_key     TEXT   NOT NULL UNIQUE,
    uid           TEXT   NOT NULL,
    touched_at    BIGINT NOT NULL,
    lease         BIGINT NOT NULL DEFAULT 0,
    lease_holder  TEXT   NOT NULL DEFAULT '',
    lease_until   BIGINT NOT NULL DEFAULT 0,
    version       BIGINT NOT NULL DEFAULT 0,
    epoch         BIGINT NOT NULL,
    newest        BIGINT NOT NULL DEFAULT 0,
    newest_mark   BIGINT NOT NULL DEFAULT 0,
    -- The highest sequence that was swept.
    swept         BIGINT NOT NULL DEFAULT 0,
    -- What the process that holds the lease is at, as JSON.
    progress      TEXT   NOT NULL
);
CREATE INDEX event_scopes_by_touch ON event_scopes (touched_at);

-- One row per batch that told something: its cursors stand here once, not in every entry.
CREATE TABLE event_drains (
    scope        BIGINT NOT NULL,
    drain        BIGINT NOT NULL,
    mark         BIGINT NOT NULL,
    cursor_from  TEXT   NOT NULL,
    cursor_to    TEXT,
    PRIMARY KEY (scope, drain)
) WITHOUT ROWID;

CREATE TABLE event_log (
    scope        BIGINT NOT NULL,
    sequence     BIGINT NOT NULL,
    drain        BIGINT NOT NULL,
    observed_at  BIGINT NOT NULL,
    ends         BIGINT NOT NULL,
    body         TEXT   NOT NULL,
    PRIMARY KEY (scope, sequence)
);

-- What was told of a scope, as a tree: a moved folder is one row. `stamp` grows with each entry of the delta; `gone` is the
-- stamp at which the row was said to be gone, negative while a change of sharing is told once for all beneath it.
CREATE TABLE index_items (
    scope    BIGINT NOT NULL,
    n        BIGINT NOT NULL,
    parent   BIGINT NOT NULL,
    name     TEXT   NOT NULL,
    display  TEXT,
    id       TEXT,
    rev      TEXT,
    hash     TEXT,
    kind     BIGINT NOT NULL,
    stamp    BIGINT NOT NULL,
    gone     BIGINT,
    PRIMARY KEY (scope, n)
) WITHOUT ROWID;
CREATE INDEX index_items_by_place ON index_items (scope, parent, name);
CREATE INDEX index_items_by_id ON index_items (scope, id);
CREATE INDEX index_items_gone ON index_items (scope, n) WHERE gone IS NOT NULL;

-- Additions that are told after what stands in their way.
CREATE TABLE event_waiting (
    scope  BIGINT NOT NULL,
    path   TEXT   NOT NULL,
    id     TEXT,
    body   TEXT   NOT NULL,
    PRIMARY KEY (scope, path)
) WITHOUT ROWID;

CREATE TABLE event_checkpoints (
    uid         TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    token       TEXT,
    holder      TEXT   NOT NULL,
    touched_at  BIGINT NOT NULL,
    PRIMARY KEY (uid, name)
) WITHOUT ROWID;
