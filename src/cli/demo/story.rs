//! The steps of the demo, each done and then checked by other means than those it was done with.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use tokio::{fs::File, sync::oneshot, task::JoinHandle};
use tonic::{Status, Streaming};

use crate::api::{
    Encoded,
    plain::watch_events_response::Payload,
    v1::{
        CreateSharedLinkRequest, DeleteItemRequest, DownloadFileRequest, EventType, GetAccountRequest,
        GetFileLinkRequest, GetServerInfoRequest, ItemKind, LinkKind, MoveItemRequest, SharedLinkSource, UploadSpec,
        WalkFolderRequest, WatchEventsRequest, download_file_request::Source, item::Kind,
    },
};

use crate::cli::{
    client::{Client, Repeat, repeated},
    download::{Downloaded, Landing, Sink},
    exit::{Exit, Failure, Result},
    local::LocalFile,
    out, paths,
    progress::{Meter, Progress},
    put::{look, whole_seconds},
    tally::Tally,
    watch::word,
};

const FOLDER: &str = "/demo";
const MOVED: &str = "/demo (moved)";
/// Files that changed under the demo and are told one by one.
const LEFT_OUT_TOLD_MAX: usize = 10;
/// A tree goes or is deleted in one call; the server's own deadline for those is 2 minutes.
const TREE_PATIENCE: Duration = Duration::from_secs(600);
/// The watch hears of everything within a moment; a large folder takes longer.
const WATCH_PATIENCE: Duration = Duration::from_secs(120);

pub struct Story<'a> {
    client: Client,
    files: &'a [LocalFile],
    jobs: usize,
    step: usize,
    /// By Dropbox's key of the path: the file, and the hash its bytes had on their way up.
    sent: HashMap<String, (&'a LocalFile, String)>,
    watching: Option<Watching>,
    /// Files that changed while they were read: nobody can compare them.
    left_out: BTreeSet<&'a str>,
}

/// Hears of all this beside the story.
struct Watching {
    /// Comes when the move is told.
    moved: oneshot::Receiver<()>,
    /// What was told, counted by type, once the deletion is.
    told: JoinHandle<Result<BTreeMap<String, usize>, Status>>,
}

impl<'a> Story<'a> {
    pub fn new(client: Client, files: &'a [LocalFile], jobs: usize) -> Story<'a> {
        Story { client, files, jobs, step: 0, sent: HashMap::new(), watching: None, left_out: BTreeSet::new() }
    }

    /// All of it.
    ///
    /// # Errors
    /// The first step that did not end well; later steps need its result.
    pub async fn run(mut self) -> Result<()> {
        let started = Instant::now();
        self.greet().await?;
        self.watch().await?;
        self.upload().await?;
        self.list(FOLDER).await?;
        self.link().await?;
        self.download().await?;
        self.relocate().await?;
        self.delete().await?;
        self.watched().await?;
        out::line("");
        let compared = self.sent.values().filter(|(file, _)| !self.left_out.contains(&*file.relative));
        let (count, bytes) = compared.fold((0, 0), |(count, bytes), (file, _)| (count + 1, bytes + file.size));
        let (files, bytes) = (out::count(count, "file"), out::size(bytes));
        if !self.left_out.is_empty() {
            let names = self.left_out.iter().map(|name| out::plain(name)).take(LEFT_OUT_TOLD_MAX);
            let count = out::count(self.left_out.len(), "file");
            out::line(format_args!("{count} changed while read, left out: {}", names.collect::<Vec<_>>().join(", ")));
        }
        let seconds = started.elapsed().as_secs_f64();
        out::line(format_args!("All well: {files}, {bytes} there and back in {seconds:.1} s, every byte compared.\n"));
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.sent.values().map(|(file, _)| file.size).sum()
    }

    async fn greet(&mut self) -> Result<()> {
        let data = || self.client.data();
        let server = repeated(Repeat::Free, async || data().get_server_info(GetServerInfoRequest {}).await).await?;
        let account = repeated(Repeat::Free, async || data().get_account(GetAccountRequest::default()).await).await?;
        let upstream = server.upstream().as_str_name().trim_start_matches("UPSTREAM_").to_lowercase();
        let (name, email) = (out::plain(&account.display_name), out::plain(&account.email));
        self.tell(
            "connected",
            format_args!("version {}, upstream {upstream}, account {name} <{email}>", server.version),
        );
        Ok(())
    }

    /// Opens a watch of everything, beside the story.
    async fn watch(&mut self) -> Result<()> {
        let request = WatchEventsRequest::default();
        let opened = repeated(Repeat::Free, async || self.client.data().watch_events(request.clone()).await).await?;
        let (tell_moved, moved) = oneshot::channel();
        self.watching = Some(Watching { moved, told: tokio::spawn(count(opened, tell_moved)) });
        Ok(())
    }

    /// Waits until the watch has heard of the story's end.
    async fn watched(&mut self) -> Result<()> {
        let Some(watching) = self.watching.take() else { return Ok(()) };
        let late = || Failure::new(Exit::Failed, "the watch was not told of the deletion");
        let told = tokio::time::timeout(WATCH_PATIENCE, watching.told).await.map_err(|_| late())?;
        let told = told.map_err(|error| Failure::new(Exit::Failed, error.to_string()))??;
        let told: Vec<String> = told.iter().map(|(word, count)| format!("{count} {word}")).collect();
        self.tell("watched", format_args!("{}; each told as it happened", told.join(", ")));
        Ok(())
    }

    async fn upload(&mut self) -> Result<()> {
        let total = self.files.iter().map(|file| file.size).sum();
        let progress = Progress::new("upload", self.files.len(), total);
        let started = Instant::now();
        let mut tally = Tally::default();
        let client = &self.client;
        let mut results = stream::iter(self.files)
            .map(|file| {
                let meter = progress.meter();
                async move { (file, send(client, file, &meter).await, meter) }
            })
            .buffer_unordered(self.jobs);
        while let Some((file, result, meter)) = results.next().await {
            meter.done();
            match result {
                Ok(hash) => {
                    tally.done += 1;
                    tally.bytes += file.size;
                    self.sent.insert(paths::key(&paths::join(FOLDER, &file.relative)), (file, hash));
                }
                Err(_) if file.has_changed() => {
                    self.left_out.insert(&file.relative);
                }
                Err(failure) => told(&mut tally, &progress, file, failure),
            }
        }
        drop(results);
        progress.clear();
        let rates = rates(tally.done, tally.bytes, started.elapsed());
        self.tell("uploaded", format_args!("{rates}; Dropbox gave every hash that was computed here"));
        tally.finish("uploaded")
    }

    /// Walks a folder and holds what it tells against what was sent.
    async fn list(&mut self, folder: &str) -> Result<()> {
        let started = Instant::now();
        let request = WalkFolderRequest { path: folder.to_owned(), recursive: true, ..Default::default() };
        let (mut files, mut bytes, mut folders, mut first) = (0, 0, 0, None);
        let sent = &self.sent;
        let walked = self.client.walk(request, |item| {
            first.get_or_insert_with(|| started.elapsed());
            let Some(Kind::File(file)) = &item.kind else {
                folders += 1;
                return Ok(());
            };
            let beneath = paths::beneath(folder, &item.path_display).unwrap_or(&item.path_display);
            let key = paths::key(&paths::join(FOLDER, beneath));
            let Some((own, hash)) = sent.get(&key) else {
                return Err(Failure::new(Exit::Damaged, format!("{} is listed and was not sent", item.path_display)));
            };
            let name = paths::name(&own.relative);
            if file.size != i64::try_from(own.size).unwrap_or(-1) || file.content_hash != *hash || item.name != name {
                return Err(Failure::new(Exit::Damaged, format!("{} is listed as another file", item.path_display)));
            }
            files += 1;
            bytes += own.size;
            Ok(())
        });
        let summary = walked.await?;
        if files != self.sent.len() || summary.bytes != i64::try_from(bytes).unwrap_or(-1) {
            let text = format!("{files} files are listed in {folder}, {} were sent", self.sent.len());
            return Err(Failure::new(Exit::Damaged, text));
        }
        let rates = rates(files, 0, started.elapsed());
        let first = first.unwrap_or_default().as_secs_f64() * 1000.0;
        let found = out::count(folders, "folder");
        self.tell(
            "listed",
            format_args!("{rates} and {found}, the first after {first:.0} ms; names, sizes, hashes agree"),
        );
        Ok(())
    }

    /// Links to one file, and the file through its link.
    async fn link(&mut self) -> Result<()> {
        let Some((file, _)) = self.sent.values().min_by_key(|(file, _)| (file.size == 0, file.size)) else {
            return Ok(());
        };
        let (file, path) = (*file, paths::join(FOLDER, &file.relative));
        let request = CreateSharedLinkRequest { path: path.clone(), return_existing: true, ..Default::default() };
        let made =
            repeated(Repeat::Free, async || self.client.data().create_shared_link(request.clone()).await).await?;
        let url = made.shared_link.map(|link| link.url).unwrap_or_default();
        self.tell("linked", format_args!("{} is {url}", out::plain(&file.relative)));
        let source = Source::SharedLink(SharedLinkSource { url, ..Default::default() });
        if let Err(failure) = compare(&self.client, file, source, &Meter::none()).await
            && !file.has_changed()
        {
            return Err(failure.about("through the link"));
        }
        let request = GetFileLinkRequest { path, kind: LinkKind::Temporary.into(), ..Default::default() };
        let made = repeated(Repeat::Free, async || self.client.data().get_file_link(request.clone()).await).await?;
        let link = made.link.unwrap_or_default();
        if link.url.is_empty() {
            return Err(Failure::new(Exit::Failed, "the temporary link is empty"));
        }
        self.tell("", format_args!("read through it, and for four hours it is also {}", link.url));
        Ok(())
    }

    /// Reads everything back and compares it with the files, byte by byte.
    async fn download(&mut self) -> Result<()> {
        let progress = Progress::new("download", self.sent.len(), self.bytes());
        let started = Instant::now();
        let mut tally = Tally::default();
        let client = &self.client;
        let mut results = stream::iter(self.files.iter().filter(|file| {
            let key = paths::key(&paths::join(FOLDER, &file.relative));
            self.sent.contains_key(&key)
        }))
        .map(|file| {
            let meter = progress.meter();
            async move {
                let source = Source::Path(paths::join(FOLDER, &file.relative));
                (file, compare(client, file, source, &meter).await, meter)
            }
        })
        .buffer_unordered(self.jobs);
        while let Some((file, result, meter)) = results.next().await {
            meter.done();
            match result {
                Ok(read) if read.verified => {
                    tally.done += 1;
                    tally.bytes += read.bytes;
                }
                Err(_) if file.has_changed() => {
                    self.left_out.insert(&file.relative);
                }
                Ok(_) => told(&mut tally, &progress, file, Failure::new(Exit::Damaged, "came without a hash to check")),
                Err(failure) => told(&mut tally, &progress, file, failure),
            }
        }
        drop(results);
        progress.clear();
        let rates = rates(tally.done, tally.bytes, started.elapsed());
        self.tell("downloaded", format_args!("{rates}; every byte and every hash compared"));
        tally.finish("downloaded")
    }

    async fn relocate(&mut self) -> Result<()> {
        let started = Instant::now();
        let request = MoveItemRequest {
            from_path: FOLDER.into(),
            to_path: MOVED.into(),
            request_id: uuid::Uuid::new_v4().to_string(),
            ..Default::default()
        };
        repeated(Repeat::Free, async || self.client.data().move_item(patient(request.clone())).await).await?;
        self.tell("moved", format_args!("{FOLDER} to {MOVED} in {:.2} s", started.elapsed().as_secs_f64()));
        self.gone(FOLDER).await?;
        self.list(MOVED).await
    }

    /// Only once the watch knows of the move: what comes and goes between two looks of the server is told as its sum.
    async fn delete(&mut self) -> Result<()> {
        if let Some(watching) = &mut self.watching {
            let late = |_| Failure::new(Exit::Failed, "the watch was not told of the move");
            // A watch that has failed says so at the end.
            let _ = tokio::time::timeout(WATCH_PATIENCE, &mut watching.moved).await.map_err(late)?;
        }
        let started = Instant::now();
        let request = DeleteItemRequest { path: MOVED.into(), kind: ItemKind::Folder.into(), ..Default::default() };
        repeated(Repeat::IfTold, async || self.client.data().delete_item(patient(request.clone())).await).await?;
        self.tell("deleted", format_args!("{MOVED} in {:.2} s", started.elapsed().as_secs_f64()));
        self.gone(MOVED).await
    }

    async fn gone(&self, path: &str) -> Result<()> {
        match look(&self.client, path).await? {
            None => Ok(()),
            Some(_) => Err(Failure::new(Exit::Failed, format!("{path} is still there"))),
        }
    }

    /// One line of the story.
    fn tell(&mut self, what: &str, text: impl std::fmt::Display) {
        if what.is_empty() {
            return out::line(format_args!("  {:14} {text}", ""));
        }
        self.step += 1;
        out::line(format_args!("  {}. {what:11} {text}", self.step));
    }
}

fn told(tally: &mut Tally, progress: &Progress, file: &LocalFile, failure: Failure) {
    let failure = failure.about(out::plain(&file.relative));
    tally.fail(failure).into_iter().for_each(|text| progress.say(text));
}

/// Counts events by type up to the deletion of the demo's folder.
async fn count(
    mut events: Streaming<Encoded>,
    tell_moved: oneshot::Sender<()>,
) -> Result<BTreeMap<String, usize>, Status> {
    let (mut told, mut tell_moved) = (BTreeMap::new(), Some(tell_moved));
    while let Some(message) = events.message().await? {
        let Some(Payload::Change(change)) = message.into_plain().payload else { continue };
        *told.entry(word(change.change_type())).or_default() += 1;
        let path = change.item.as_ref().map_or("", |item| &item.path_display);
        if path == MOVED {
            if change.change_type() == EventType::Deleted {
                return Ok(told);
            }
            if let Some(tell) = tell_moved.take() {
                // The story may be over.
                let _ = tell.send(());
            }
        }
    }
    Err(Status::unknown("the watch ended without a status"))
}

/// A call that may take as long as a tree needs.
fn patient<T>(request: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(TREE_PATIENCE);
    request
}

/// Sends one file. The hash Dropbox tells must be the one computed here.
async fn send(client: &Client, file: &LocalFile, meter: &Meter) -> Result<String> {
    let spec = UploadSpec {
        path: paths::join(FOLDER, &file.relative),
        client_modified: file.modified.and_then(whole_seconds),
        ..Default::default()
    };
    let sent = client.upload(&file.path, file.size, spec, None, meter).await?;
    match sent.response.item.and_then(|item| item.kind) {
        Some(Kind::File(there)) if there.content_hash == sent.content_hash => Ok(sent.content_hash),
        Some(Kind::File(there)) => {
            let text = format!("Dropbox tells the hash {}, the bytes had {}", there.content_hash, sent.content_hash);
            Err(Failure::new(Exit::Damaged, text))
        }
        _ => Err(Failure::new(Exit::Failed, "the upload ended without a file")),
    }
}

/// Reads a file back against the one here.
async fn compare(client: &Client, file: &LocalFile, source: Source, meter: &Meter) -> Result<Downloaded> {
    let own = File::open(&file.path).await.map_err(|error| Failure::local(&file.path, &error))?;
    let landing = Landing::new(&file.path, Sink::Against(own, Vec::new()));
    let request = DownloadFileRequest { source: Some(source), ..Default::default() };
    client.download(request, landing, meter).await
}

fn rates(files: usize, bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(0.001);
    let per_second = files as f64 / seconds;
    let files = out::count(files, "file");
    if bytes == 0 {
        return format!("{files} in {seconds:.1} s ({per_second:.0} files/s)");
    }
    let speed = bytes as f64 / seconds / (1024.0 * 1024.0);
    format!("{files}, {} in {seconds:.1} s ({per_second:.0} files/s, {speed:.1} MiB/s)", out::size(bytes))
}
