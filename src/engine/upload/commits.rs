//! Uploads whose bytes are all at Dropbox, committed by their handles under their own or other terms, or by the streams that brought
//! them there. Those of a namespace go with one turn and one request as far as they may share one; what comes of each is its own.
//! The work is a task: whoever leaves before a commit was sent leaves nothing behind, and what was sent is settled and written down.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::Arc,
};

use futures::{
    StreamExt as _,
    future::{join, join_all},
    stream,
};
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Account, Mode, Settled, UploadSpec, Uploads, Writing, at,
    commit::Whole,
    end_ahead,
    hold::Hold,
    lane::Doubt,
    overdue,
    record::{Handle, Record, Stage, Standing, not_found, short},
    run::located,
};
use crate::{
    dropbox::Caller,
    engine::{
        content_hash::ContentHash,
        gate::NamespaceKey,
        parts::disputed,
        together::{Paths, Sent},
    },
    fault::{Fault, Reason, Result},
    limits,
    seal::Owner,
    store::{Claim, UploadState},
};

mod queue;
mod turns;

pub(super) use self::queue::Queues;
use self::turns::Turns;

/// An upload that is to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its place in the call, for messages.
    pub place: usize,
    /// Sealed.
    pub upload_id: String,
    /// Lower-case hex; what the upload must hold.
    pub content_hash: Option<String>,
    /// Instead of its own.
    pub terms: Option<Terms>,
}

/// Where a file goes and on which terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub path: String,
    pub mode: Mode,
    pub autorename: bool,
    pub strict_conflict: bool,
    pub mute: bool,
    /// As Dropbox writes times.
    pub client_modified: Option<String>,
}

impl UploadSpec {
    fn under(&mut self, terms: Terms) {
        let Terms { path, mode, autorename, strict_conflict, mute, client_modified } = terms;
        (self.path, self.mode, self.client_modified) = (path, mode, client_modified);
        (self.autorename, self.strict_conflict, self.mute) = (autorename, strict_conflict, mute);
    }
}

/// One of a call, with its place there.
struct Asked {
    n: usize,
    handle: Handle,
    upload_id: String,
    content_hash: Option<ContentHash>,
    terms: Option<Terms>,
    /// No other commit of this process is at it.
    guard: Option<OwnedMutexGuard<()>>,
}

impl Asked {
    /// Where it is to go, as Dropbox compares paths.
    fn path(&self) -> String {
        dbxcase::dbx_str_lowercase(self.terms.as_ref().map_or(&self.handle.spec.path, |terms| &terms.path))
    }
}

/// Who hears what became of a commit.
struct Asker {
    /// Its place among all that the same one asked for.
    place: usize,
    /// Whether the commit has left.
    sent: Arc<Sent>,
    tell: mpsc::Sender<(usize, Result<Settled>)>,
}

/// One whose commit may be sent.
struct Item {
    /// In this order, where that matters.
    n: usize,
    asker: Asker,
    caller: Caller,
    /// With the terms of this commit.
    record: Record,
    whole: Whole,
    doubt: Doubt,
    hold: Arc<Hold>,
    /// As Dropbox compares paths.
    path: String,
    /// Its session is not known to be closed, or no row keeps its intent: it goes by itself.
    single: bool,
    /// This call's intent is in the row.
    intended: bool,
    contentions: u32,
    /// It met contention among others that did not, and goes again without them.
    apart: bool,
    /// It may have been committed by a batch before.
    unclear: bool,
    again_at: Option<Instant>,
    _guard: Option<OwnedMutexGuard<()>>,
    _writing: Option<Writing>,
}

/// What a look at its row says of one of a call.
enum Found {
    Told,
    Claimable(Asked, KeptBy),
    Rowless(Asked, Box<(Record, Standing)>),
}

/// Whether the row says that Dropbox made the session of a refused `files/upload`.
type KeptBy = bool;

/// The work of a call.
struct Work {
    turns: Turns,
    caller: Caller,
    uid: String,
    account: String,
    max_file_size: Option<u64>,
    /// Which commits have left.
    sent: Vec<Arc<Sent>>,
    tell: mpsc::Sender<(usize, Result<Settled>)>,
}

impl Uploads {
    /// Commits uploads that are ready, each once in the fleet; those that are committed already give what they gave. In the
    /// order of the call. Cancel-safe: commits that have not left do not leave any more.
    pub async fn commit_all(
        &self,
        caller: &Caller,
        account: &Account<'_>,
        commits: Vec<Commit>,
    ) -> Vec<Result<Settled>> {
        let end = end_ahead(caller.deadline());
        let sent: Vec<Arc<Sent>> = commits.iter().map(|_| Arc::default()).collect();
        let mut results: Vec<Option<Result<Settled>>> = commits.iter().map(|_| None).collect();
        let (mut asked, mut same, mut first) = (Vec::new(), Vec::new(), HashMap::new());
        for (n, commit) in commits.iter().enumerate() {
            let handle = match self.0.open_handle(&account.owner, &commit.upload_id) {
                Ok(handle) => handle,
                Err(fault) => {
                    results[n] = Some(Err(fault));
                    continue;
                }
            };
            match first.entry(handle.id.clone()) {
                hash_map::Entry::Vacant(place) => {
                    place.insert(n);
                    let content_hash = commit.content_hash.as_deref().and_then(|hash| hash.parse().ok());
                    let (upload_id, terms) = (commit.upload_id.clone(), commit.terms.clone());
                    asked.push(Asked { n, handle, upload_id, content_hash, terms, guard: None });
                }
                hash_map::Entry::Occupied(before) => {
                    let other = &commits[*before.get()];
                    if (&other.content_hash, &other.terms) == (&commit.content_hash, &commit.terms) {
                        same.push((n, *before.get()));
                    } else {
                        results[n] = Some(Err(named_before(commit.place, other.place)));
                    }
                }
            }
        }
        let (tell, mut told) = mpsc::channel(commits.len().max(1));
        let left = CancellationToken::new();
        let _leaving = left.clone().drop_guard();
        let caller = caller.with_deadline(end);
        let work = Work {
            turns: Turns::new(self.0.clone(), caller.parameter(), end, left),
            caller,
            uid: account.owner.uid.to_owned(),
            account: account.owner.account.to_owned(),
            max_file_size: account.max_file_size,
            sent: sent.clone(),
            tell,
        };
        self.0.tasks.spawn(work.run(asked));
        let mut in_time = true;
        while in_time {
            tokio::select! {
                biased;
                next = told.recv() => match next {
                    Some((n, result)) => results[n] = Some(result),
                    None => break,
                },
                () = at(end) => in_time = false,
            }
        }
        for &(n, before) in &same {
            results[n] = results[before].as_ref().map(|result| match result {
                Ok(settled) => Ok(settled.clone()),
                Err(fault) => Err(fault.told_again()),
            });
        }
        let missing = |n: usize| match in_time {
            true => Fault::bug("a commit was not answered"),
            false => {
                let its = same.iter().find(|(one, _)| *one == n).map_or(n, |(_, before)| *before);
                overdue(!sent[its].withdraw())
            }
        };
        results.into_iter().enumerate().map(|(n, result)| result.unwrap_or_else(|| Err(missing(n)))).collect()
    }
}

fn named_before(place: usize, before: usize) -> Fault {
    let text = format!("the upload of items[{before}] again, on other terms; it can be committed once");
    Fault::field(format!("items[{place}].upload_id"), "DUPLICATE", text)
}

impl Work {
    /// What another commit is at keeps none of the others waiting but those that keep their order with it.
    async fn run(self, mut asked: Vec<Asked>) {
        for one in &mut asked {
            one.guard = self.turns.shared.commits.begin_at_once(&one.handle.id);
        }
        let (mut free, mut busy): (Vec<Asked>, Vec<Asked>) = asked.into_iter().partition(|one| one.guard.is_some());
        let mut waited_for = Paths::default();
        let mut joined = 0;
        while joined < busy.len() {
            busy[joined..].iter().for_each(|one| _ = waited_for.take(&[one.path()]));
            joined = busy.len();
            for one in free.extract_if(.., |one| waited_for.meets(&one.path())) {
                // Locked again in its turn: who waits for one holds none that comes behind it.
                busy.push(Asked { guard: None, ..one });
            }
        }
        join(Box::pin(self.committed(free)), Box::pin(self.committed(busy))).await;
    }

    async fn committed(&self, asked: Vec<Asked>) {
        let found = tokio::select! {
            biased;
            () = self.turns.left.cancelled() => return,
            found = self.looked_for(asked) => found,
        };
        let mut lanes: BTreeMap<NamespaceKey, Vec<Item>> = BTreeMap::new();
        for item in self.prepared(found).await {
            let path = &item.record.handle.spec.path;
            lanes
                .entry(self.turns.shared.gates.key_for(&self.account, self.caller.root(), path))
                .or_default()
                .push(item);
        }
        join_all(lanes.into_iter().map(|(key, items)| self.turns.lane(key, items, None))).await;
    }

    async fn tell(&self, n: usize, result: Result<Settled>) {
        // There is room for every one. Whoever left is told by nobody.
        let _ = self.tell.send((n, result)).await;
    }

    /// What their rows say, when no other commit is at them.
    async fn looked_for(&self, mut asked: Vec<Asked>) -> Vec<Found> {
        // In one order for whoever does this, so that no two calls wait for each other in a circle.
        asked.sort_by(|one, other| one.handle.id.cmp(&other.handle.id));
        for one in asked.iter_mut().filter(|one| one.guard.is_none()) {
            one.guard = Some(self.turns.shared.commits.begin(&one.handle.id).await);
        }
        let found = stream::iter(asked).map(|one| self.found(one)).buffered(limits::COMMIT_LOOKS);
        found.collect().await
    }

    /// Those that may be committed, held by this call; all others are told. Not to be left half done: what is claimed is let go by
    /// whoever holds it.
    async fn prepared(&self, found: Vec<Found>) -> Vec<Item> {
        let (mut claimable, mut rowless) = (Vec::new(), Vec::new());
        for found in found {
            match found {
                Found::Told => {}
                Found::Claimable(one, kept) => claimable.push((one, kept)),
                Found::Rowless(one, standing) => rowless.push((one, *standing)),
            }
        }
        let claimed = self.claimed(claimable).await;
        let rowless = rowless.into_iter().map(|(one, (record, standing))| {
            let hold = Hold::new(&self.turns.shared, &one.handle.id, 0, false);
            let writing = self.turns.shared.take_over(&one.handle.id);
            Held { one, record, standing, hold, writing, single: true }
        });
        let held: Vec<Held> = claimed.into_iter().chain(rowless).collect();
        let items = stream::iter(held).map(|held| self.item(held)).buffer_unordered(limits::COMMIT_LOOKS);
        items.filter_map(std::future::ready).collect().await
    }

    /// Looks at the row before it is taken over: who still sends bytes is not disturbed.
    async fn found(&self, one: Asked) -> Found {
        let n = one.n;
        let found = async {
            let handle = &one.handle;
            let Some(row) = self.turns.shared.store.upload(&handle.id).await? else {
                let standing = match handle.ready() {
                    Some(ready) => ready,
                    None if handle.parallel => return Err(not_found(&one.upload_id, "pieces_lost")),
                    None => self.turns.shared.probe(&self.caller, handle, &one.upload_id).await?,
                };
                let record = Record::rowless(handle.clone(), &one.upload_id);
                return Ok(Ok(Found::Rowless(one, Box::new((record, standing)))));
            };
            let kept = row.lane == "kept";
            Ok(match row.state {
                UploadState::Committed | UploadState::Open => match self.turns.shared.standing(&row, handle).await? {
                    Standing::Committed(settled) => Err(settled.named(one.content_hash)?),
                    Standing::Open(begun) => return Err(open(&one.upload_id, begun.prefix)),
                    Standing::Ready(_) => Ok(Found::Claimable(one, kept)),
                },
                UploadState::Ready | UploadState::Committing => Ok(Found::Claimable(one, kept)),
            })
        };
        match found.await {
            Ok(Ok(found)) => return found,
            Ok(Err(settled)) => self.tell(n, Ok(settled)).await,
            Err(fault) => self.tell(n, Err(fault)).await,
        }
        Found::Told
    }

    /// Takes them over, all at once.
    async fn claimed(&self, asked: Vec<(Asked, KeptBy)>) -> Vec<Held> {
        if asked.is_empty() {
            return Vec::new();
        }
        let ids: Vec<&str> = asked.iter().map(|(one, _)| one.handle.id.as_str()).collect();
        let claims = match self.turns.shared.store.claim_uploads(&ids).await {
            Ok(claims) => claims,
            Err(fault) => {
                for (one, _) in asked {
                    self.tell(one.n, Err(fault.told_again())).await;
                }
                return Vec::new();
            }
        };
        let held = asked.into_iter().zip(claims).map(|((one, kept), claim)| self.held(one, kept, claim));
        join_all(held).await.into_iter().flatten().collect()
    }

    async fn held(&self, one: Asked, kept: KeptBy, claim: Option<Claim>) -> Option<Held> {
        let Some(claim) = claim else {
            self.tell(one.n, Err(not_found(&one.upload_id, "expired"))).await;
            return None;
        };
        let hold = Hold::new(&self.turns.shared, &one.handle.id, claim.upload.writer, true);
        // A stream that waits with it for its `finish` ends.
        let writing = self.turns.shared.take_over(&one.handle.id);
        match self.turns.shared.claimed(one.handle.clone(), &one.upload_id, claim).await {
            Ok((record, standing)) => {
                let single = kept || one.handle.stage == Stage::Kept;
                Some(Held { one, record, standing, hold, writing, single })
            }
            Err(fault) => {
                self.tell(one.n, Err(fault)).await;
                None
            }
        }
    }

    async fn item(&self, held: Held) -> Option<Item> {
        let n = held.one.n;
        match self.checked(held).await {
            Ok(Ok(item)) => return Some(item),
            Ok(Err(settled)) => self.tell(n, Ok(settled)).await,
            Err(fault) => self.tell(n, Err(fault)).await,
        }
        None
    }

    /// Whether it is what its caller means, and was not committed before.
    async fn checked(&self, held: Held) -> Result<Result<Item, Settled>> {
        let Held { one, mut record, standing, hold, writing, single } = held;
        let ready = match standing {
            Standing::Committed(settled) => return Ok(Err(settled.named(one.content_hash)?)),
            Standing::Open(begun) => return Err(open(&one.upload_id, begun.prefix)),
            Standing::Ready(ready) => ready,
        };
        let mut whole = ready.whole(&record.handle.spec);
        let there = whole.hash.or(whole.expected);
        whole.expected = whole.expected.or(one.content_hash);
        if let Some(settled) = self.turns.shared.committed_before(&self.caller, &record, &ready, whole).await? {
            return Ok(Err(settled.named(one.content_hash)?));
        }
        if let (Some(expected), Some(there)) = (one.content_hash, there)
            && expected != there
        {
            let text = "the upload holds other bytes than content_hash names; it was not committed";
            return Err(Fault::new(Reason::ContentHashMismatch, text)
                .fact("expectedContentHash", expected)
                .fact("computedContentHash", there)
                .with_remedy("the bytes are kept: commit them by the hash of what you sent, or send the file anew"));
        }
        if ready.needs_hash(&record.handle) && one.content_hash.is_none() {
            return Err(disputed("content_hash"));
        }
        if let Some(most) = self.max_file_size.filter(|most| whole.size > *most) {
            let text = format!("the parameter's policy takes files of at most {most} bytes");
            return Err(Fault::new(Reason::FileTooLarge, text).fact("limitBytes", most));
        }
        let doubt = ready.doubt();
        if record.handle.stage == Stage::Open && doubt.from.is_none() {
            let owner = Owner { uid: &self.uid, account: &self.account };
            record.supersede(&self.turns.shared, &owner, &whole, if single { Stage::Kept } else { Stage::Closed });
        }
        if let Some(terms) = one.terms {
            record.handle.spec.under(terms);
        }
        let (sent, tell) = (self.sent[one.n].clone(), self.tell.clone());
        Ok(Ok(Item {
            n: one.n,
            asker: Asker { place: one.n, sent, tell },
            caller: self.caller.clone(),
            path: dbxcase::dbx_str_lowercase(&record.handle.spec.path),
            intended: false,
            record,
            whole,
            doubt,
            hold,
            single,
            contentions: 0,
            apart: false,
            unclear: false,
            again_at: None,
            _guard: one.guard,
            _writing: Some(writing),
        }))
    }
}

/// One that this call has taken over.
struct Held {
    one: Asked,
    record: Record,
    standing: Standing,
    hold: Arc<Hold>,
    writing: Writing,
    single: bool,
}

/// Who still sends its bytes goes on; it can be committed when they are all there.
fn open(upload_id: &str, persisted: u64) -> Fault {
    let text = "the upload still takes bytes: resume it at persistedOffset, send the rest and finish";
    Fault::new(Reason::UploadOpen, text).fact("persistedOffset", persisted).resource("upload", short(upload_id))
}

impl Asker {
    async fn tell(self, result: Result<Settled>) {
        // There is room for every one. Whoever left is told by nobody.
        let _ = self.tell.send((self.place, result)).await;
    }
}

impl Item {
    fn once(&self) -> bool {
        self.record.handle.spec.may_write_twice()
    }

    /// A fault that leaves the upload whole says which one it is.
    fn located(&self, fault: Fault) -> Fault {
        located(fault, &self.record.upload_id, self.whole.size)
    }
}
