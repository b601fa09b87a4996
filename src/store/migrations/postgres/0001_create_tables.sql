-- The tables of ../sqlite. Times are milliseconds since 1970. `*_sealed` columns open only in their own row and column.
-- Texts are compared by their bytes, as SQLite does: pages go in the order of ids.
CREATE TABLE application_parameters (
    id                     TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    uid                    TEXT   COLLATE "C" NOT NULL UNIQUE,
    etag                   BIGINT NOT NULL,
    group_name             TEXT   COLLATE "C" NOT NULL,
    settings               TEXT   NOT NULL,
    app_secret_sealed      BYTEA,
    grant_sealed           BYTEA,
    -- Rises with each new grant: a verdict on an old one does not touch the new one.
    grant_number           BIGINT NOT NULL DEFAULT 0,
    reauthorization_cause  TEXT,
    granted_scopes         TEXT   NOT NULL DEFAULT '[]',
    account                TEXT,
    -- The fleet's last renewal, outside the etag.
    bearer_sealed          BYTEA,
    bearer_expires_at      BIGINT,
    bearer_generation      BIGINT NOT NULL DEFAULT 0,
    renewing_until         BIGINT NOT NULL DEFAULT 0,
    renewing_by            TEXT,
    created_at             BIGINT NOT NULL,
    updated_at             BIGINT NOT NULL
);
CREATE INDEX application_parameters_by_group ON application_parameters (group_name, id);

CREATE TABLE parameter_changes (
    seq           BIGINT  NOT NULL PRIMARY KEY,
    parameter_id  TEXT    COLLATE "C" NOT NULL,
    uid           TEXT    COLLATE "C" NOT NULL,
    changed_at    BIGINT  NOT NULL
);

CREATE TABLE uploads (
    id           TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    owner_uid    TEXT   COLLATE "C" NOT NULL,
    writer       BIGINT NOT NULL,
    released     BIGINT NOT NULL,
    state        TEXT   NOT NULL,
    session      TEXT,
    lane         TEXT   NOT NULL,
    spec_sealed  BYTEA  NOT NULL,
    size         BIGINT,
    outcome      TEXT,
    claimed_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL
);
CREATE INDEX uploads_by_expiry ON uploads (expires_at);

CREATE TABLE upload_pieces (
    upload_id     TEXT   COLLATE "C" NOT NULL,
    piece_offset  BIGINT NOT NULL,
    piece_length  BIGINT NOT NULL,
    digests       BYTEA  NOT NULL,
    PRIMARY KEY (upload_id, piece_offset)
);

CREATE TABLE remembered_requests (
    request_key    TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    request_digest BYTEA  NOT NULL,
    replica        TEXT   NOT NULL,
    answer_sealed  BYTEA,
    expires_at     BIGINT NOT NULL
);
CREATE INDEX remembered_requests_by_expiry ON remembered_requests (expires_at);

CREATE TABLE replicas (
    id            TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    key_ids       TEXT   NOT NULL,
    heartbeat_at  BIGINT NOT NULL
);

-- The one clock by which processes on several machines compare leases and heartbeats.
CREATE FUNCTION store_now() RETURNS BIGINT LANGUAGE sql VOLATILE
    AS $$ SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::BIGINT $$;

-- Who follows the numbers must never see a higher one before a lower one, so a number is taken under a lock that is held
-- until its transaction ends. The processes that listen are told then, too.
CREATE SEQUENCE parameter_changes_seq;
CREATE FUNCTION number_parameter_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock('parameter_changes'::regclass::oid::bigint);
    NEW.seq := nextval('parameter_changes_seq');
    PERFORM pg_notify('dropbox_connector_parameter_changes', '');
    RETURN NEW;
END $$;
CREATE TRIGGER number_parameter_change BEFORE INSERT ON parameter_changes
    FOR EACH ROW EXECUTE FUNCTION number_parameter_change();
