-- A drain is delicate if, in its midst, something stands where Dropbox never had it: whoever stopped there and comes back
-- with an older place can be led on by this log alone. `delicate` is the number of the newest entry of the newest such
-- drain; it is good for entries up to `judged`. A process of an older version tells more without judging it.
ALTER TABLE event_scopes ADD COLUMN delicate BIGINT NOT NULL DEFAULT 0;
ALTER TABLE event_scopes ADD COLUMN judged BIGINT NOT NULL DEFAULT 0;
-- When Dropbox was last asked for what the log has, by the fleet's clock; 0: not known.
ALTER TABLE event_scopes ADD COLUMN looked_at BIGINT NOT NULL DEFAULT 0;

-- What is left of scopes that were swept: tokens live longer than they.
CREATE TABLE event_scopes_past (
    scope      BIGINT NOT NULL PRIMARY KEY,
    scope_key  TEXT   NOT NULL,
    epoch      BIGINT NOT NULL,
    delicate   BIGINT NOT NULL,
    swept_at   BIGINT NOT NULL
);
CREATE INDEX event_scopes_past_by_key ON event_scopes_past (scope_key, epoch);
CREATE INDEX event_scopes_past_by_age ON event_scopes_past (swept_at);
