//! What an index costs, measured: items a second and bytes an item on the way from a page to the store, and what a change
//! costs in a large folder as against a small one.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use dropbox_sdk::types::files::{self, Metadata};
use futures::{FutureExt as _, future::BoxFuture};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    clock::SystemClock,
    credentials::Ending,
    dropbox::Underway,
    events::{
        News, Page, Scope, Upstream,
        feed::Feed,
        poller::{Poller, Step},
    },
    fault::Result,
    seal::KeyRing,
    store::{ParameterId, Store, tests::house::postgres},
};

/// Entries of a page, as Dropbox gives them.
const PAGE: usize = 2000;

/// A folder of so many items: folders of twenty files, three deep, paths of 60 characters in the mean, every second file
/// with capitals, ids without any order. After the listing it tells of one changed file at a time.
struct Folder {
    items: usize,
    dice: Mutex<StdRng>,
    changes: AtomicU64,
    /// What making the answers took.
    spent: Mutex<Duration>,
    path_bytes: AtomicUsize,
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Folder")
    }
}

impl Folder {
    fn new(items: usize) -> Arc<Folder> {
        let (dice, spent) = (Mutex::new(StdRng::seed_from_u64(items as u64)), Mutex::default());
        Arc::new(Folder { items, dice, changes: AtomicU64::new(0), spent, path_bytes: AtomicUsize::new(0) })
    }

    /// Its path, and whether it is a folder: of 2,111 items the first is a department of ten projects of ten parts of twenty
    /// files, each behind what it lies in.
    fn place(at: usize) -> (String, bool) {
        let (department, at) = (at / 2111, at % 2111);
        let top = format!("/W/Department {department:03}");
        let Some(at) = at.checked_sub(1) else { return (top, true) };
        let (project, at) = (at / 211, at % 211);
        let project = format!("{top}/Project {project:05}");
        let Some(at) = at.checked_sub(1) else { return (project, true) };
        let (part, at) = (at / 21, at % 21);
        let part = format!("{project}/Part {part:06}");
        match at {
            0 => (part, true),
            file if file % 2 == 0 => (format!("{part}/scan {file:02} {department:04}.pdf"), false),
            file => (format!("{part}/Scan {file:02} {department:04}.PDF"), false),
        }
    }

    fn show(&self, at: usize, rev: u64) -> Metadata {
        let (path, is_folder) = Folder::place(at);
        self.path_bytes.fetch_add(path.len(), Ordering::Relaxed);
        let name = path.rsplit('/').next().unwrap().to_owned();
        // The same for an item each time it is shown, and without order from one item to the next.
        let mut own = StdRng::seed_from_u64(at as u64);
        let id = format!("id:{}", URL_SAFE_NO_PAD.encode(own.random::<[u8; 16]>()));
        if is_folder {
            let folder = files::FolderMetadata::new(name, id).with_path_lower(path.to_lowercase());
            return Metadata::Folder(folder.with_path_display(path));
        }
        let time = "2026-01-01T00:00:00Z".to_owned();
        let rev = format!("{:017x}", u128::from(own.random::<u64>()) + u128::from(rev));
        let hash = hex::encode([own.random::<[u8; 16]>(), own.random()].concat());
        let file = files::FileMetadata::new(name, id, time.clone(), time, rev, 1).with_content_hash(hash);
        Metadata::File(file.with_path_lower(path.to_lowercase()).with_path_display(path))
    }

    fn timed(&self, page: impl FnOnce() -> Page) -> Page {
        let begun = Instant::now();
        let page = page();
        *self.spent.lock().unwrap() += begun.elapsed();
        page
    }

    fn listed(&self, from: usize) -> Page {
        let upto = (from + PAGE).min(self.items);
        let has_more = upto < self.items;
        let cursor = if has_more { format!("l {upto}") } else { "d".to_owned() };
        Page { entries: (from..upto).map(|at| self.show(at, 0)).collect(), cursor: cursor.into(), has_more }
    }
}

impl Upstream for Folder {
    fn list<'a>(&'a self, _: &'a Scope, _: u32) -> BoxFuture<'a, Result<Page>> {
        async move { Ok(self.timed(|| self.listed(0))) }.boxed()
    }

    fn go_on<'a>(&'a self, _: &'a Scope, cursor: &'a str) -> BoxFuture<'a, Result<Page>> {
        let page = self.timed(|| match cursor.strip_prefix("l ") {
            Some(from) => self.listed(from.parse().unwrap()),
            None => {
                let changed = self.changes.load(Ordering::Relaxed) > 0;
                let entries = if changed {
                    let rev = self.changes.fetch_add(1, Ordering::Relaxed);
                    let mut files = (0..).map(|_| self.dice.lock().unwrap().random_range(0..self.items));
                    vec![self.show(files.find(|at| !Folder::place(*at).1).unwrap(), rev)]
                } else {
                    Vec::new()
                };
                Page { entries, cursor: cursor.into(), has_more: false }
            }
        });
        async move { Ok(page) }.boxed()
    }

    fn latest<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>> {
        async move { Ok("d".into()) }.boxed()
    }

    fn longpoll<'a>(&'a self, _: &'a Scope, _: &'a str, _: Duration, _: Arc<Underway>) -> BoxFuture<'a, Result<News>> {
        unreachable!("the test says when there is news")
    }

    fn is_new<'a>(&'a self, _: &'a Scope, _: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move { Ok(true) }.boxed()
    }

    fn ending<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Option<Ending>>> {
        async move { Ok(None) }.boxed()
    }
}

/// Indexes a folder; gives the time it took without making the pages, and what one change then takes, as a median.
async fn indexed(store: &Store, folder: &Arc<Folder>) -> (Duration, Duration) {
    let scope = Scope {
        parameter: ParameterId::new("docs").unwrap(),
        uid: format!("uid-{}", folder.items).into(),
        account: "dbid:A".into(),
        linked: "dbid:A".into(),
        act_as: None,
        root: None,
        path: "/W".into(),
        recursive: true,
        raw: false,
    };
    let feed = Feed::alone(&scope, store, folder.clone());
    let mut poller = Poller::open(feed.clone()).await.unwrap();
    assert!(poller.lease().await.unwrap());
    let begun = Instant::now();
    while poller.step().await.unwrap() != Step::Idle {}
    let took = begun.elapsed() - *folder.spent.lock().unwrap();
    folder.changes.store(1, Ordering::Relaxed);
    let before = feed.state().head.newest;
    let mut changes = Vec::new();
    for _ in 0..201 {
        poller.news = true;
        let begun = Instant::now();
        assert_eq!(poller.step().await.unwrap(), Step::Worked);
        changes.push(begun.elapsed());
        assert!(poller.is_at_rest(), "one step is one change");
    }
    assert_eq!(feed.state().head.newest - before, 402, "a change and the end of its batch, each");
    changes.sort_unstable();
    (took, changes[100])
}

async fn measured(what: &str, url: &str, bytes_most: i64) {
    let store = Store::open(url, Arc::new(KeyRing::ephemeral()), Arc::new(SystemClock)).await.unwrap();
    let items = std::env::var("INDEX_ITEMS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let (_, small_change) = indexed(&store, &Folder::new(105)).await;
    let folder = Folder::new(items);
    let (took, change) = indexed(&store, &folder).await;
    let bytes = store.index_bytes().await.unwrap() / items as i64;
    let path_bytes = folder.path_bytes.load(Ordering::Relaxed) / items;
    eprintln!(
        "{what}: {items} items of {path_bytes} bytes of path in {took:?}: {:.0} items/s, {bytes} bytes an item; a change \
         takes {change:?}, in a folder of 105 items {small_change:?}",
        items as f64 / took.as_secs_f64()
    );
    assert!(bytes <= bytes_most, "{bytes}");
    assert!(change <= 2 * small_change, "{change:?} against {small_change:?}");
}

// Half a minute or more each, and a figure is worth something on a quiet machine only.
#[tokio::test]
#[ignore = "a million items"]
async fn a_large_folder_is_indexed_fast_and_its_changes_cost_what_a_small_ones_do_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("store.db").display());
    measured("SQLite", &url, 200).await;
}

#[tokio::test]
#[ignore = "a million items"]
async fn a_large_folder_is_indexed_fast_and_its_changes_cost_what_a_small_ones_do_on_postgres() {
    measured("PostgreSQL", &postgres::Server::shared().database().await, 320).await;
}
