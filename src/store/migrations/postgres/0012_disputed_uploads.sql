-- 1: a stream of this upload held other bytes than were sent before it, or than its content_hash named. It is committed only by
-- whoever names the hash of the whole.
ALTER TABLE uploads ADD COLUMN disputed BIGINT NOT NULL DEFAULT 0;
