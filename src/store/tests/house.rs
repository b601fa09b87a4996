//! A store on either database, as one process or as several see it, by a clock that a test moves.

use sqlx::AssertSqlSafe;

use super::*;

#[path = "../../../tests/it/support/postgres.rs"]
#[allow(dead_code, reason = "the other test binary uses the rest")]
pub(crate) mod postgres;

pub(super) struct House {
    pub(super) store: Store,
    pub(super) clock: ManualClock,
    pub(super) keys: Arc<KeyRing>,
    pub(super) url: String,
    folder: tempfile::TempDir,
}

impl House {
    pub(super) async fn sqlite() -> House {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("store.db").display());
        House::at(url, folder).await
    }

    pub(super) async fn postgres() -> House {
        House::at(postgres::Server::shared().database().await, tempfile::tempdir().unwrap()).await
    }

    pub(super) async fn at(url: String, folder: tempfile::TempDir) -> House {
        let (clock, keys) = (ManualClock::new(start()), Arc::new(KeyRing::parse(KEY_1).unwrap()));
        let store = Store::open(&url, keys.clone(), Arc::new(clock.clone())).await.unwrap();
        let house = House { store, clock, keys, url, folder };
        house.pass(Duration::ZERO).await;
        house.store.check().await.unwrap();
        house
    }

    pub(super) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The same database, opened as a second process would.
    pub(super) async fn second(&self, keys: &str) -> Store {
        let keys = Arc::new(KeyRing::parse(keys).unwrap());
        Store::open(&self.url, keys, Arc::new(self.clock.clone())).await.unwrap()
    }

    /// Time passes, on the database's clock too.
    pub(super) async fn pass(&self, span: Duration) {
        self.clock.advance(span).await;
        if let Pool::Postgres(pool) = &self.store.0.pools.durable {
            let now = millis(self.clock.now());
            let clock = format!(
                "CREATE OR REPLACE FUNCTION store_now() RETURNS BIGINT LANGUAGE sql VOLATILE AS 'SELECT {now}::BIGINT'"
            );
            sqlx::query(AssertSqlSafe(clock)).execute(pool).await.unwrap();
        }
    }

    /// By hand, past the store.
    pub(super) async fn sql(&self, sql: &'static str) -> u64 {
        query(sql).execute(&self.store.0.pools.durable).await.unwrap()
    }

    pub(super) async fn upload(&self) -> Upload {
        let expires_at = start() + Duration::from_secs(7 * 24 * 3600);
        let new = NewUpload { owner_uid: "uid", session: Some("sid"), lane: "parallel", spec: b"spec", expires_at };
        self.store.create_upload(new).await.unwrap()
    }

    pub(super) async fn upload_ending(&self, expires_at: SystemTime) -> Upload {
        let new = NewUpload { owner_uid: "uid", session: None, lane: "ordered", spec: b"", expires_at };
        self.store.create_upload(new).await.unwrap()
    }

    /// All that lies in the database, as bytes; of PostgreSQL as hexadecimal digits too, for that is how it shows them.
    pub(super) async fn contents(&self) -> Vec<u8> {
        if let Pool::Sqlite(_) = &self.store.0.pools.durable {
            let files = std::fs::read_dir(self.folder.path()).unwrap();
            return files.flat_map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
        }
        let mut all = Vec::new();
        for sql in [
            "SELECT t::text AS line FROM application_parameters t",
            "SELECT t::text AS line FROM parameter_changes t",
            "SELECT t::text AS line FROM uploads t",
            "SELECT t::text AS line FROM remembered_requests t",
        ] {
            for row in query(sql).fetch_all(&self.store.0.pools.readers).await.unwrap() {
                all.extend(row.get::<String>("line").unwrap().into_bytes());
            }
        }
        all
    }
}

/// A first commit of this writer is about to be sent.
pub(super) async fn intend(store: &Store, id: &str, writer: i64, size: u64) -> Result<()> {
    store.intend_commit(Intent { id, writer, size, spec: b"terms", again: false }).await
}
