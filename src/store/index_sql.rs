//! The statements of an index, in the words of both databases, side by side. Each finds its rows by one index, whatever the
//! size of the scope. SQLite plans without counting rows and would rather read a whole scope than be asked two thousand
//! times, so it is told: `CROSS JOIN` holds the order, `INDEXED BY` the index, and a statement whose index is gone is refused.
//! PostgreSQL is given lists as arrays, or looks them up one by one (`LATERAL`, which `OFFSET 0` keeps as it is), and its
//! sessions neither scan nor hash (`database.rs`). `tests/plans.rs` reads what both make of them.

/// Of SQLite, of PostgreSQL.
pub(super) type Words = (&'static str, &'static str);

/// PostgreSQL has `kind` and `since` as NULL where they are 0.
macro_rules! columns {
    () => {
        "i.n, i.parent, i.name, i.display, i.id, i.id_a, i.id_b, i.rev, i.facts, COALESCE(i.kind, 0) AS kind, i.stamp, i.gone, COALESCE(i.since, 0) AS since"
    };
}

/// The same of rows that are not in the index any more.
macro_rules! columns_of_past {
    () => {
        "i.n, i.parent, i.name, i.display, i.id, i.id_a, i.id_b, i.rev, i.facts, i.kind, i.since AS stamp, CAST(NULL AS BIGINT) AS gone, i.since"
    };
}

pub(super) const AT: Words = (
    concat!(
        "SELECT ",
        columns!(),
        " FROM json_each($2) AS w CROSS JOIN index_items i INDEXED BY index_items_by_place
         WHERE i.scope = $1 AND i.parent = json_extract(w.value, '$.p') AND i.name = json_extract(w.value, '$.m')"
    ),
    concat!(
        "SELECT ",
        columns!(),
        " FROM jsonb_to_recordset($2::jsonb) AS w(p BIGINT, m TEXT) CROSS JOIN LATERAL (SELECT ",
        columns!(),
        " FROM index_items i WHERE i.scope = $1 AND i.parent = w.p AND i.name = w.m COLLATE \"C\" OFFSET 0) i"
    ),
);

pub(super) const BY_ID: Words = (
    concat!(
        "SELECT ",
        columns!(),
        " FROM json_each($2) AS w CROSS JOIN index_items i INDEXED BY index_items_by_id
         WHERE i.scope = $1 AND i.id = w.value"
    ),
    concat!(
        "SELECT ",
        columns!(),
        " FROM index_items i WHERE i.scope = $1
         AND i.id = ANY(ARRAY(SELECT v FROM jsonb_array_elements_text($2::jsonb) AS w(v)))"
    ),
);

/// By the second number of an id, which another id may have, too.
pub(super) const BY_KEY: Words = (
    concat!(
        "SELECT ",
        columns!(),
        " FROM json_each($2) AS w CROSS JOIN index_items i INDEXED BY index_items_by_key
         WHERE i.scope = $1 AND i.id_b = w.value"
    ),
    concat!(
        "SELECT ",
        columns!(),
        " FROM index_items i WHERE i.scope = $1
         AND i.id_b = ANY(ARRAY(SELECT v::BIGINT FROM jsonb_array_elements_text($2::jsonb) AS w(v)))"
    ),
);

pub(super) const UPWARDS: Words = (
    concat!(
        "WITH RECURSIVE up(n) AS (SELECT value FROM json_each($2)
           UNION SELECT i.parent FROM up CROSS JOIN index_items i WHERE i.scope = $1 AND i.n = up.n)
         SELECT ",
        columns!(),
        " FROM up CROSS JOIN index_items i WHERE i.scope = $1 AND i.n = up.n"
    ),
    concat!(
        "WITH RECURSIVE up(n) AS (SELECT v::BIGINT FROM jsonb_array_elements_text($2::jsonb) AS w(v)
           UNION SELECT i.parent FROM up CROSS JOIN LATERAL
             (SELECT parent FROM index_items i WHERE i.scope = $1 AND i.n = up.n OFFSET 0) i)
         SELECT ",
        columns!(),
        " FROM up CROSS JOIN LATERAL (SELECT ",
        columns!(),
        " FROM index_items i WHERE i.scope = $1 AND i.n = up.n OFFSET 0) i"
    ),
);

/// The children of a row.
#[cfg(test)]
pub(super) const CHILDREN: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM index_items i WHERE i.scope = $1 AND i.parent = $2 AND i.n > $3 ORDER BY i.n LIMIT $4"
);

pub(super) const GONE: Words = (
    concat!(
        "SELECT ",
        columns!(),
        " FROM index_items i INDEXED BY index_items_gone
         WHERE i.scope = $1 AND i.n > $2 AND i.gone IS NOT NULL ORDER BY i.n LIMIT $3"
    ),
    concat!(
        "SELECT ",
        columns!(),
        " FROM index_items i WHERE i.scope = $1 AND i.n > $2 AND i.gone IS NOT NULL ORDER BY i.n LIMIT $3"
    ),
);

pub(super) const WAITING_AT: Words = (
    "SELECT x.path FROM json_each($2) AS w CROSS JOIN event_waiting x WHERE x.scope = $1 AND x.path = w.value",
    "SELECT path FROM event_waiting WHERE scope = $1
     AND path = ANY(ARRAY(SELECT v FROM jsonb_array_elements_text($2::jsonb) AS w(v)))",
);

/// Additions whose id the index has.
pub(super) const WAITING_KNOWN: Words = (
    "SELECT w.path, w.id, w.body FROM event_waiting w WHERE w.scope = $1 AND (EXISTS
     (SELECT 1 FROM index_items i INDEXED BY index_items_by_key
      WHERE i.scope = $1 AND i.id_b = w.id_b AND i.id_a = w.id_a) OR EXISTS
     (SELECT 1 FROM index_items i INDEXED BY index_items_by_id WHERE i.scope = $1 AND i.id = w.id))
     ORDER BY w.path LIMIT $2",
    "SELECT w.path, w.id, w.body FROM event_waiting w WHERE w.scope = $1 AND COALESCE(
     (SELECT i.n FROM index_items i WHERE i.scope = $1 AND i.id_b = w.id_b AND i.id_a = w.id_a LIMIT 1),
     (SELECT i.n FROM index_items i WHERE i.scope = $1 AND i.id = w.id LIMIT 1)) IS NOT NULL ORDER BY w.path LIMIT $2",
);

pub(super) const TRASHED: Words = (
    "SELECT n FROM index_items INDEXED BY index_items_by_place WHERE scope = $1 AND parent = $2 LIMIT $3",
    "SELECT n FROM index_items WHERE scope = $1 AND parent = $2 LIMIT $3",
);

/// Children of these rows.
pub(super) const INSIDE: Words = (
    "SELECT c.n FROM json_each($2) AS w CROSS JOIN index_items c INDEXED BY index_items_by_place
     WHERE c.scope = $1 AND c.parent = w.value LIMIT $3",
    "SELECT n FROM index_items WHERE scope = $1
     AND parent = ANY(ARRAY(SELECT v::BIGINT FROM jsonb_array_elements_text($2::jsonb) AS w(v))) LIMIT $3",
);

/// What these rows of a deleted folder were in it, if the log may still tell of that.
pub(super) const KEEP_LIFTED: Words = (
    "INSERT INTO index_past (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, since, until)
     SELECT c.scope, c.n, c.parent, c.name, c.display, c.id, c.id_a, c.id_b, c.rev, c.facts, c.kind, c.since, t.since
       FROM json_each($2) AS w CROSS JOIN index_items c CROSS JOIN index_items t
     WHERE c.scope = $1 AND c.n = w.value AND t.scope = $1 AND t.n = c.parent
       AND c.since < t.since AND t.since > (SELECT swept FROM event_scopes WHERE id = $1)
     ON CONFLICT (scope, n, until) DO NOTHING",
    "INSERT INTO index_past (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, since, until)
     SELECT $1, c.n, c.parent, c.name, c.display, c.id, c.id_a, c.id_b, c.rev, c.facts, c.kind, c.since, t.since
       FROM jsonb_array_elements_text($2::jsonb) AS w(v)
       CROSS JOIN LATERAL (SELECT n, parent, name, display, id, id_a, id_b, rev, facts,
           COALESCE(kind, 0) AS kind, COALESCE(since, 0) AS since
         FROM index_items i WHERE i.scope = $1 AND i.n = w.v::BIGINT OFFSET 0) c
       CROSS JOIN LATERAL (SELECT since FROM index_items i WHERE i.scope = $1 AND i.n = c.parent OFFSET 0) t
     WHERE c.since < t.since AND t.since > (SELECT swept FROM event_scopes WHERE id = $1)
     ON CONFLICT (scope, n, until) DO NOTHING",
);

/// These rows go into the trash themselves. Another process may be at the same ones.
pub(super) const LIFT: Words = (
    "UPDATE index_items SET parent = $2, gone = NULL,
       since = (SELECT t.since FROM index_items t WHERE t.scope = $1 AND t.n = index_items.parent)
     WHERE scope = $1 AND parent <> $2 AND n IN (SELECT value FROM json_each($3))",
    "UPDATE index_items SET parent = $2, gone = NULL,
       since = (SELECT t.since FROM index_items t WHERE t.scope = $1 AND t.n = index_items.parent)
     WHERE scope = $1 AND parent <> $2
       AND n = ANY(ARRAY(SELECT v::BIGINT FROM jsonb_array_elements_text($3::jsonb) AS w(v)))",
);

pub(super) const REMOVE: Words = (
    "DELETE FROM index_items WHERE scope = $1 AND n IN (SELECT value FROM json_each($2))",
    "DELETE FROM index_items WHERE scope = $1
     AND n = ANY(ARRAY(SELECT v::BIGINT FROM jsonb_array_elements_text($2::jsonb) AS w(v)))",
);

pub(super) const FORGET: Words = (
    "UPDATE index_items INDEXED BY index_items_by_place SET parent = $2, gone = NULL, since = 0
     WHERE scope = $1 AND parent = $3",
    "UPDATE index_items SET parent = $2, gone = NULL, since = 0 WHERE scope = $1 AND parent = $3",
);

pub(super) const UNWAIT: Words = (
    "DELETE FROM event_waiting WHERE scope = $1 AND path IN (SELECT value FROM json_each($2))",
    "DELETE FROM event_waiting WHERE scope = $1
     AND path = ANY(ARRAY(SELECT v FROM jsonb_array_elements_text($2::jsonb) AS w(v)))",
);

/// `0` is the byte after `/`.
pub(super) const UNWAIT_UNDER: Words = (
    "DELETE FROM event_waiting WHERE scope = $1 AND path IN
     (SELECT x.path FROM json_each($2) AS w CROSS JOIN event_waiting x
      WHERE x.scope = $1 AND x.path > w.value || '/' AND x.path < w.value || '0')",
    "DELETE FROM event_waiting WHERE scope = $1 AND path = ANY(ARRAY(
     SELECT x.path FROM jsonb_array_elements_text($2::jsonb) AS w(v) CROSS JOIN LATERAL
       (SELECT path FROM event_waiting x WHERE x.scope = $1
        AND x.path > (w.v || '/') COLLATE \"C\" AND x.path < (w.v || '0') COLLATE \"C\" OFFSET 0) x))",
);

pub(super) const UNWAIT_IDS: Words = (
    "DELETE FROM event_waiting WHERE scope = $1 AND path IN
     (SELECT x.path FROM json_each($2) AS w CROSS JOIN event_waiting x INDEXED BY event_waiting_by_id
      WHERE x.scope = $1 AND x.id = w.value)",
    "DELETE FROM event_waiting WHERE scope = $1
     AND id = ANY(ARRAY(SELECT v FROM jsonb_array_elements_text($2::jsonb) AS w(v)))",
);

/// A row is made into text once: `json_each` would make it anew for each of its values.
pub(super) const PUT: Words = (
    "WITH w(v) AS MATERIALIZED (SELECT value FROM json_each($2))
     INSERT INTO index_items (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, stamp, gone, since)
     SELECT $1, v ->> 'n', v ->> 'p', v ->> 'm', v ->> 'd', v ->> 'i', v ->> 'a', v ->> 'b', v ->> 'r',
       unhex(v ->> 'f'), v ->> 'k', v ->> 's', v ->> 'g', v ->> 'q' FROM w WHERE TRUE
     ON CONFLICT (scope, n) DO UPDATE SET parent = excluded.parent, name = excluded.name,
       display = excluded.display, id = excluded.id, id_a = excluded.id_a, id_b = excluded.id_b, rev = excluded.rev,
       facts = excluded.facts, kind = excluded.kind, stamp = excluded.stamp, gone = excluded.gone,
       since = excluded.since",
    "INSERT INTO index_items (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, stamp, gone, since)
     SELECT $1, w.n, w.p, w.m, w.d, w.i, w.a, w.b, w.r, decode(w.f, 'hex'), NULLIF(w.k, 0), w.s, w.g, NULLIF(w.q, 0)
       FROM jsonb_to_recordset($2::jsonb) AS w(n BIGINT, p BIGINT, m TEXT, d TEXT, i TEXT, a BIGINT, b BIGINT, r TEXT,
         f TEXT, k BIGINT, s BIGINT, g BIGINT, q BIGINT)
     ON CONFLICT (scope, n) DO UPDATE SET parent = excluded.parent, name = excluded.name,
       display = excluded.display, id = excluded.id, id_a = excluded.id_a, id_b = excluded.id_b, rev = excluded.rev,
       facts = excluded.facts, kind = excluded.kind, stamp = excluded.stamp, gone = excluded.gone,
       since = excluded.since",
);

/// What was so before a step told otherwise.
pub(super) const KEEP: Words = (
    "WITH w(v) AS MATERIALIZED (SELECT value FROM json_each($2))
     INSERT INTO index_past (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, since, until)
     SELECT $1, v ->> 'n', v ->> 'p', v ->> 'm', v ->> 'd', v ->> 'i', v ->> 'a', v ->> 'b', v ->> 'r',
       unhex(v ->> 'f'), v ->> 'k', v ->> 'q', v ->> 'u' FROM w WHERE TRUE
     ON CONFLICT (scope, n, until) DO NOTHING",
    "INSERT INTO index_past (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, since, until)
     SELECT $1, w.n, w.p, w.m, w.d, w.i, w.a, w.b, w.r, decode(w.f, 'hex'), w.k, w.q, w.u
       FROM jsonb_to_recordset($2::jsonb) AS w(n BIGINT, p BIGINT, m TEXT, d TEXT, i TEXT, a BIGINT, b BIGINT, r TEXT,
         f TEXT, k BIGINT, q BIGINT, u BIGINT)
     ON CONFLICT (scope, n, until) DO NOTHING",
);

/// What was so before entries that nobody is told any more, of all scopes.
pub(super) const SWEEP_PAST: Words = (
    "DELETE FROM index_past WHERE (scope, n, until) IN
     (SELECT p.scope, p.n, p.until FROM event_scopes s CROSS JOIN index_past p INDEXED BY index_past_by_end
      WHERE p.scope = s.id AND p.until <= s.swept LIMIT $1)",
    "DELETE FROM index_past WHERE (scope, n, until) IN
     (SELECT p.scope, p.n, p.until FROM event_scopes s CROSS JOIN LATERAL
        (SELECT scope, n, until FROM index_past i WHERE i.scope = s.id AND i.until <= s.swept LIMIT $1) p LIMIT $1)",
);

/// What lay in a folder when an entry had been told.
pub(super) const CHILDREN_THEN: Words = (
    concat!(
        "SELECT * FROM (
           SELECT * FROM (SELECT ",
        columns!(),
        " FROM index_items i INDEXED BY index_items_by_place
             WHERE i.scope = $1 AND i.parent = $2 AND i.name > $4 AND i.since <= $3 ORDER BY i.name LIMIT $5) AS is_so
           UNION ALL
           SELECT * FROM (SELECT ",
        columns_of_past!(),
        " FROM index_past i INDEXED BY index_past_by_place
             WHERE i.scope = $1 AND i.parent = $2 AND i.name > $4 AND i.since <= $3 AND i.until > $3
             ORDER BY i.name LIMIT $5) AS was_so
         ) AS then_so ORDER BY name LIMIT $5"
    ),
    concat!(
        "SELECT * FROM (
           SELECT * FROM (SELECT ",
        columns!(),
        " FROM index_items i WHERE i.scope = $1 AND i.parent = $2 AND i.name > $4 AND COALESCE(i.since, 0) <= $3
             ORDER BY i.name LIMIT $5) AS is_so
           UNION ALL
           SELECT * FROM (SELECT ",
        columns_of_past!(),
        " FROM index_past i WHERE i.scope = $1 AND i.parent = $2 AND i.name > $4 AND i.since <= $3 AND i.until > $3
             ORDER BY i.name LIMIT $5) AS was_so
         ) AS then_so ORDER BY name LIMIT $5"
    ),
);

/// One row as it was when an entry had been told.
pub(super) const ROW_THEN: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM index_items i WHERE i.scope = $1 AND i.n = $2 AND COALESCE(i.since, 0) <= $3
     UNION ALL SELECT ",
    columns_of_past!(),
    " FROM index_past i WHERE i.scope = $1 AND i.n = $2 AND i.since <= $3 AND i.until > $3"
);

pub(super) const WAIT: Words = (
    "INSERT INTO event_waiting (scope, path, id, id_a, id_b, body) SELECT $1, json_extract(w.value, '$.p'),
       json_extract(w.value, '$.i'), json_extract(w.value, '$.x'), json_extract(w.value, '$.y'),
       json_extract(w.value, '$.b') FROM json_each($2) AS w WHERE TRUE
     ON CONFLICT (scope, path) DO UPDATE SET id = excluded.id, id_a = excluded.id_a, id_b = excluded.id_b,
       body = excluded.body",
    "INSERT INTO event_waiting (scope, path, id, id_a, id_b, body) SELECT $1, w.p, w.i, w.x, w.y, w.b
       FROM jsonb_to_recordset($2::jsonb) AS w(p TEXT, i TEXT, x BIGINT, y BIGINT, b TEXT)
     ON CONFLICT (scope, path) DO UPDATE SET id = excluded.id, id_a = excluded.id_a, id_b = excluded.id_b,
       body = excluded.body",
);

/// An insertion that meets what is there: the tables of an `UPDATE … FROM` are joined in an order of the database's own.
pub(super) const SWEEP: Words = (
    "INSERT INTO index_items (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, stamp, gone, since)
     SELECT i.scope, i.n, i.parent, i.name, i.display, i.id, i.id_a, i.id_b, i.rev, i.facts, i.kind, i.stamp,
       MAX(COALESCE(i.gone, 0), json_extract(w.value, '$.s')), i.since
     FROM json_each($2) AS w CROSS JOIN index_items i INDEXED BY index_items_by_place
     WHERE i.scope = $1 AND i.parent = json_extract(w.value, '$.n')
       AND (i.stamp < json_extract(w.value, '$.s') OR i.kind = 1)
     ON CONFLICT (scope, n) DO UPDATE SET gone = excluded.gone",
    concat!(
        "INSERT INTO index_items (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, stamp, gone, since)
         SELECT $1, i.n, i.parent, i.name, i.display, i.id, i.id_a, i.id_b, i.rev, i.facts, i.kind, i.stamp,
           GREATEST(COALESCE(i.gone, 0), w.s), i.since
         FROM jsonb_to_recordset($2::jsonb) AS w(n BIGINT, s BIGINT) CROSS JOIN LATERAL (SELECT ",
        columns!(),
        " FROM index_items i WHERE i.scope = $1 AND i.parent = w.n AND (i.stamp < w.s OR i.kind = 1) OFFSET 0) i
         ON CONFLICT (scope, n) DO UPDATE SET gone = excluded.gone"
    ),
);
