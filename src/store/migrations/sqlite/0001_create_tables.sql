-- Times are milliseconds since 1970. `*_sealed` columns open only in their own row and column.
CREATE TABLE application_parameters (
    id                     TEXT   NOT NULL PRIMARY KEY,
    uid                    TEXT   NOT NULL UNIQUE,
    etag                   BIGINT NOT NULL,
    group_name             TEXT   NOT NULL,
    settings               TEXT   NOT NULL,
    app_secret_sealed      BLOB,
    grant_sealed           BLOB,
    -- Rises with each new grant: a verdict on an old one does not touch the new one.
    grant_number           BIGINT NOT NULL DEFAULT 0,
    reauthorization_cause  TEXT,
    granted_scopes         TEXT   NOT NULL DEFAULT '[]',
    account                TEXT,
    -- The fleet's last renewal, outside the etag.
    bearer_sealed          BLOB,
    bearer_expires_at      BIGINT,
    bearer_generation      BIGINT NOT NULL DEFAULT 0,
    renewing_until         BIGINT NOT NULL DEFAULT 0,
    renewing_by            TEXT,
    created_at             BIGINT NOT NULL,
    updated_at             BIGINT NOT NULL
);
CREATE INDEX application_parameters_by_group ON application_parameters (group_name, id);

CREATE TABLE parameter_changes (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    parameter_id  TEXT    NOT NULL,
    uid           TEXT    NOT NULL,
    changed_at    BIGINT  NOT NULL
);

CREATE TABLE uploads (
    id           TEXT   NOT NULL PRIMARY KEY,
    owner_uid    TEXT   NOT NULL,
    writer       BIGINT NOT NULL,
    released     BIGINT NOT NULL,
    state        TEXT   NOT NULL,
    session      TEXT,
    lane         TEXT   NOT NULL,
    spec_sealed  BLOB   NOT NULL,
    size         BIGINT,
    outcome      TEXT,
    claimed_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL
);
CREATE INDEX uploads_by_expiry ON uploads (expires_at);

CREATE TABLE upload_pieces (
    upload_id     TEXT   NOT NULL,
    piece_offset  BIGINT NOT NULL,
    piece_length  BIGINT NOT NULL,
    digests       BLOB   NOT NULL,
    PRIMARY KEY (upload_id, piece_offset)
);

CREATE TABLE remembered_requests (
    request_key    TEXT   NOT NULL PRIMARY KEY,
    request_digest BLOB   NOT NULL,
    replica        TEXT   NOT NULL,
    answer_sealed  BLOB,
    expires_at     BIGINT NOT NULL
);
CREATE INDEX remembered_requests_by_expiry ON remembered_requests (expires_at);

CREATE TABLE replicas (
    id            TEXT   NOT NULL PRIMARY KEY,
    key_ids       TEXT   NOT NULL,
    heartbeat_at  BIGINT NOT NULL
);
