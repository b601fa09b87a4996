-- Which process writes to a namespace at present, and who waits for it, in order. A courtesy: without it Dropbox refuses one of
-- two that write at once, and that one tries again. So nothing of it need outlive a crash of the server.
CREATE UNLOGGED TABLE write_leases (
    namespace    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    holder       TEXT COLLATE "C" NOT NULL,
    -- Rises with each change of holder, also if the row was away meanwhile, for it begins with the time: what is heard late is
    -- known to be old.
    number       BIGINT NOT NULL,
    lease_until  BIGINT NOT NULL,
    waiting      TEXT[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

-- Takes a lease, or goes on holding it, or stands in line behind whoever has it and tells that one. One statement, so that it
-- costs one round trip.
CREATE FUNCTION take_write_lease(
    asked TEXT, asker TEXT, span BIGINT, OUT mine BIGINT, OUT number BIGINT, OUT lasts BIGINT, OUT others BIGINT
) LANGUAGE plpgsql AS $$
DECLARE
    asked_at BIGINT := store_now();
    lease write_leases;
BEGIN
    INSERT INTO write_leases AS l (namespace, holder, number, lease_until)
    VALUES (asked, asker, asked_at, asked_at + span)
    ON CONFLICT (namespace) DO UPDATE SET
        holder = CASE WHEN l.lease_until <= asked_at THEN asker ELSE l.holder END,
        number = CASE WHEN l.lease_until <= asked_at AND l.holder <> asker THEN greatest(l.number + 1, asked_at)
                      ELSE l.number END,
        lease_until = CASE WHEN l.lease_until <= asked_at OR l.holder = asker THEN asked_at + span ELSE l.lease_until END,
        waiting = CASE WHEN l.lease_until <= asked_at OR l.holder = asker THEN array_remove(l.waiting, asker)
                       WHEN asker = ANY (l.waiting) THEN l.waiting
                       ELSE l.waiting || asker END
    RETURNING * INTO lease;
    IF lease.holder <> asker THEN
        PERFORM pg_notify('dropbox_connector_write_leases', json_build_object(
            'to', lease.holder, 'namespace', asked, 'number', lease.number, 'given', false, 'others', true)::text);
    END IF;
    mine := (lease.holder = asker)::int;
    number := lease.number;
    lasts := greatest(lease.lease_until - asked_at, 0);
    others := cardinality(lease.waiting);
END $$;

-- Gives a lease to whoever waits longest, and tells that one. Whoever wants it again stands in line at once. NULL: nobody waits.
CREATE FUNCTION give_write_lease(given TEXT, giver TEXT, span BIGINT, again BIGINT, OUT number BIGINT)
LANGUAGE plpgsql AS $$
DECLARE
    lease write_leases;
BEGIN
    UPDATE write_leases AS l SET
        holder = l.waiting[1],
        number = l.number + 1,
        lease_until = store_now() + span,
        waiting = CASE WHEN again = 1 THEN l.waiting[2:] || giver ELSE l.waiting[2:] END
    WHERE l.namespace = given AND l.holder = giver AND cardinality(l.waiting) > 0
    RETURNING * INTO lease;
    IF FOUND THEN
        PERFORM pg_notify('dropbox_connector_write_leases', json_build_object(
            'to', lease.holder, 'namespace', given, 'number', lease.number, 'given', true,
            'others', cardinality(lease.waiting) > 0)::text);
        number := lease.number;
    END IF;
END $$;
