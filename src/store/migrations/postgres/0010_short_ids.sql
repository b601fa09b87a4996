-- Ids as Dropbox makes them are 16 bytes in 22 letters: two numbers. The second has something of both halves, and is looked
-- up. `id` is of other forms alone from here on; rows of before have it still, until their scopes are swept.
ALTER TABLE index_items ADD COLUMN id_a BIGINT;
ALTER TABLE index_items ADD COLUMN id_b BIGINT;
ALTER TABLE index_past ADD COLUMN id_a BIGINT;
ALTER TABLE index_past ADD COLUMN id_b BIGINT;
-- Of what waits `id` is always there.
ALTER TABLE event_waiting ADD COLUMN id_a BIGINT;
ALTER TABLE event_waiting ADD COLUMN id_b BIGINT;

-- Of most rows both are 0, which takes 16 bytes here and, as NULL, none.
ALTER TABLE index_items ALTER COLUMN kind DROP NOT NULL;
ALTER TABLE index_items ALTER COLUMN since DROP NOT NULL;

DROP INDEX index_items_by_id;
CREATE INDEX index_items_by_id ON index_items (scope, id) WHERE id IS NOT NULL;
CREATE INDEX index_items_by_key ON index_items (scope, id_b) WHERE id_b IS NOT NULL;
