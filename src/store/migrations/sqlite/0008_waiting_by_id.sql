-- Additions that wait are dropped by the ids of the items that a page shows.
CREATE INDEX event_waiting_by_id ON event_waiting (scope, id);
