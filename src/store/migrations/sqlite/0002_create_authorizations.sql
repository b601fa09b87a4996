-- Authorizations under way. The state itself is not here, only its SHA-256: who reads the table can complete nothing.
CREATE TABLE authorizations (
    state_digest  TEXT   NOT NULL PRIMARY KEY,
    sealed        BLOB   NOT NULL,
    expires_at    BIGINT NOT NULL
);
CREATE INDEX authorizations_by_expiry ON authorizations (expires_at);
