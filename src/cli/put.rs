//! `put`: files and folders of this machine go to Dropbox.

use std::path::Path;

use clap::ValueEnum;
use futures::{StreamExt as _, stream};
use prost_types::Timestamp;
use serde_json::json;

use crate::api::v1::{
    CreateFolderRequest, GetItemRequest, Item, LinkKind, Skipped, UploadFileResponse, UploadSpec, WriteMode, item::Kind,
};

use super::{
    client::{Client, Repeat, ServerArgs, repeated},
    exit::{Exit, Failure, Result},
    json,
    kept::Kept,
    local::{self, Gathered, LocalFile, Wanted},
    out, paths,
    progress::{Meter, Progress},
    tally::Tally,
    upload::{RESUMABLE_FROM_BYTES, Uploaded, hash_file},
};

/// Files read at once; each holds about one chunk of 1 MiB.
pub const JOBS_DEFAULT: usize = 8;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A target that ends in /, and any target of several sources, gets them into it. Else a file goes into a target that is
a folder, or becomes it; and what a folder holds goes to the target, there already or not.
An upload of 8 MiB or more that was interrupted goes on where it stopped when the same command is run again.

Examples:
  dropbox-connector put report.pdf /reports/2026.pdf
  dropbox-connector put -r ./photos /                    to /photos
  dropbox-connector put -r ./photos /2026                to /2026
  dropbox-connector put -r ./site /backup/ --exclude 'node_modules/**' --skip-identical
  dropbox-connector put 'logs/*.gz' /logs/ --jobs 16
  pg_dump db | dropbox-connector put - /dumps/db.sql --mode overwrite")]
pub struct PutArgs {
    /// Files, folders (with -r) and patterns; `-` is standard input.
    #[arg(required = true, num_args = 1.., value_name = "SOURCE")]
    sources: Vec<String>,
    /// Where to: a path in Dropbox.
    #[arg(value_name = "TARGET")]
    target: String,
    /// Folders with all they hold.
    #[arg(short, long)]
    recursive: bool,
    /// What happens if something is there already.
    #[arg(long, value_enum, default_value_t = Mode::Add)]
    mode: Mode,
    /// With `--mode update`: the rev the file must have.
    #[arg(long, value_name = "REV", required_if_eq("mode", "update"))]
    rev: Option<String>,
    /// On a conflict take a new name.
    #[arg(long)]
    autorename: bool,
    /// Hash first and send only what differs from what is there.
    #[arg(long)]
    skip_identical: bool,
    /// Do not notify the account's desktop clients.
    #[arg(long)]
    mute: bool,
    /// Make a link to each file and print it.
    #[arg(long, value_enum)]
    link: Option<LinkWanted>,
    /// From folders, only files that match (by name, or by path if it holds a /).
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// From folders, no files that match.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Files sent at once.
    #[arg(short, long, default_value_t = JOBS_DEFAULT, value_parser = jobs, value_name = "N")]
    jobs: usize,
    /// Do not go on with an interrupted upload, and leave nothing to go on with.
    #[arg(long)]
    no_resume: bool,
    /// Tell what would be sent, send nothing.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// One JSON object a file.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Never replaces.
    Add,
    /// Replaces whatever is there.
    Overwrite,
    /// Replaces the revision --rev names.
    Update,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LinkWanted {
    Preview,
    Temporary,
}

/// A number of files at once.
pub fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(jobs @ 1..=64) => Ok(jobs),
        _ => Err("must be 1 to 64".into()),
    }
}

/// A file and where it goes.
#[derive(Debug)]
struct Planned {
    file: LocalFile,
    target: String,
}

pub async fn run(args: PutArgs) -> Result<()> {
    let client = args.server.client().await?;
    if args.sources == ["-"] {
        return from_stdin(&client, &args).await;
    }
    let Plan { files: plan, folders } = plan(&client, &args).await?;
    if args.dry_run {
        folders.iter().for_each(|folder| out::line(format_args!("(empty folder) → {}", out::plain(folder))));
        plan.iter()
            .for_each(|one| out::line(format_args!("{} → {}", one.file.path.display(), out::plain(&one.target))));
        return Ok(());
    }
    let bytes = plan.iter().map(|one| one.file.size).sum();
    let progress = Progress::new("upload", plan.len(), bytes);
    let mut tally = Tally::default();
    let started = std::time::Instant::now();
    let (client, args) = (&client, &args);
    make(client, args, &folders, &mut tally, &progress).await;
    let mut results = stream::iter(&plan)
        .map(|one| {
            let meter = progress.meter();
            async move { (one, send(client, args, one, &meter).await, meter) }
        })
        .buffer_unordered(args.jobs);
    while let Some((one, result, meter)) = results.next().await {
        meter.done();
        match result {
            Ok(sent) => {
                let same = sent.response.skipped() != Skipped::Unspecified;
                *(if same { &mut tally.same } else { &mut tally.done }) += 1;
                tally.bytes += if same { 0 } else { one.file.size };
                told(args, &progress, one, &sent);
            }
            Err(failure) => {
                tally.fail(failure.about(one.file.path.display())).into_iter().for_each(|text| progress.say(text));
            }
        }
    }
    drop(results);
    progress.clear();
    if !args.json && tally.done + tally.same > 0 {
        let seconds = started.elapsed().as_secs_f64();
        let same = if tally.same > 0 { format!(", {} there already", tally.same) } else { String::new() };
        let (done, sent) = (out::count(tally.done, "file"), out::size(tally.bytes));
        out::note(format_args!("{done} uploaded, {sent} in {seconds:.1} s{same}"));
    }
    tally.finish("uploaded")
}

/// Makes the folders that no file would make.
async fn make(client: &Client, args: &PutArgs, folders: &[String], tally: &mut Tally, progress: &Progress) {
    let mut results = stream::iter(folders)
        .map(|path| async move {
            let request = CreateFolderRequest { path: path.clone(), return_existing: true, ..Default::default() };
            (path, repeated(Repeat::Free, async || client.data().create_folder(request.clone()).await).await)
        })
        .buffer_unordered(args.jobs);
    let mut made = 0;
    while let Some((path, result)) = results.next().await {
        match result {
            Ok(answer) if args.json => {
                out::line(json!({ "item": answer.item.as_ref().map(json::item), "created": answer.created }));
            }
            Ok(answer) => made += usize::from(answer.created),
            Err(failure) => tally.fail(failure.about(out::plain(path))).into_iter().for_each(|text| progress.say(text)),
        }
    }
    if made > 0 {
        progress.say(format_args!("{} made", out::count(made, "empty folder")));
    }
}

fn told(args: &PutArgs, progress: &Progress, one: &Planned, sent: &Uploaded) {
    let response = &sent.response;
    if args.json {
        let line = json!({
            "source": one.file.path.to_string_lossy(),
            "item": response.item.as_ref().map(json::item),
            "skipped": response.skipped() != Skipped::Unspecified,
            "resumedFrom": sent.resumed_from,
            "link": response.link.as_ref().map(json::link),
        });
        out::line(line);
    } else if let Some(link) = &response.link {
        out::line(format_args!("{}  {}", link.url, one.file.relative));
    }
    if let Some(failure) = &response.link_failure {
        progress.say(format_args!("{}: no link: {} [{}]", one.target, failure.message, failure.reason));
    }
}

async fn send(client: &Client, args: &PutArgs, one: &Planned, meter: &Meter) -> Result<Uploaded> {
    let LocalFile { path, size, modified, .. } = &one.file;
    let mut spec = spec(args, &one.target);
    spec.client_modified = modified.and_then(whole_seconds);
    if args.skip_identical {
        spec.content_hash = hash_file(path, *size).await?;
        // An upload that is started ahead cannot be skipped by the server, so the look is ours.
        if *size < RESUMABLE_FROM_BYTES {
            spec.skip_if_identical = true;
        } else if let Some(item) = look(client, &one.target).await?
            && matches!(&item.kind, Some(Kind::File(there)) if there.content_hash == spec.content_hash)
        {
            meter.at(*size);
            let skipped = Skipped::Identical.into();
            let response = UploadFileResponse { item: Some(item), skipped, ..Default::default() };
            return Ok(Uploaded { response, content_hash: spec.content_hash, resumed_from: 0 });
        }
    }
    let subject = || {
        let source = path.canonicalize().unwrap_or_else(|_| path.clone());
        let (server, parameter) = (&args.server.server, args.server.parameter.as_deref().unwrap_or_default());
        format!("{server}\n{parameter}\n{}\n{}\n{:?} {:?}", one.target, source.display(), args.mode, args.rev)
    };
    let kept = if args.no_resume { None } else { Kept::find(subject(), &one.file) };
    client.upload(path, *size, spec, kept, meter).await.map_err(refused)
}

/// What to do about what is there, by flags.
fn refused(failure: Failure) -> Failure {
    match failure.reason.as_str() {
        "PATH_CONFLICT" => {
            failure.remedy("--mode overwrite replaces a file, --autorename takes a new name; or choose another target")
        }
        "REVISION_CONFLICT" => failure.remedy("`stat` shows the rev that is there now: --mode update --rev REV"),
        _ => failure,
    }
}

fn spec(args: &PutArgs, target: &str) -> UploadSpec {
    let mode = match args.mode {
        Mode::Add => WriteMode::Add,
        Mode::Overwrite => WriteMode::Overwrite,
        Mode::Update => WriteMode::Update,
    };
    let link = match args.link {
        None => LinkKind::Unspecified,
        Some(LinkWanted::Preview) => LinkKind::Preview,
        Some(LinkWanted::Temporary) => LinkKind::Temporary,
    };
    UploadSpec {
        path: target.to_owned(),
        write_mode: mode.into(),
        expected_rev: args.rev.clone().unwrap_or_default(),
        autorename: args.autorename,
        mute: args.mute,
        link_kind: link.into(),
        ..Default::default()
    }
}

/// A time as Dropbox keeps it. Times before 1970 are told to nobody.
pub fn whole_seconds(at: std::time::SystemTime) -> Option<Timestamp> {
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos: 0 })
}

async fn from_stdin(client: &Client, args: &PutArgs) -> Result<()> {
    if args.target.ends_with('/') || paths::remote(&args.target).is_empty() {
        return Err(Failure::usage("what comes from standard input needs a name: give the whole path"));
    }
    if args.skip_identical {
        return Err(Failure::usage("--skip-identical needs a file that can be read twice"));
    }
    let spec = spec(args, &paths::remote(&args.target));
    let response = client.upload_once_through(tokio::io::stdin(), spec, &Meter::none()).await.map_err(refused)?;
    match (&response.item, args.json) {
        (Some(item), true) => out::line(json::item(item)),
        (Some(item), false) => out::note(format_args!("uploaded {}", out::plain(&item.path_display))),
        (None, _) => {}
    }
    Ok(())
}

/// What a command sends.
#[derive(Debug, Default)]
struct Plan {
    files: Vec<Planned>,
    /// Folders without files, by their paths at Dropbox.
    folders: Vec<String>,
}

async fn plan(client: &Client, args: &PutArgs) -> Result<Plan> {
    let mut sources = Vec::new();
    for typed in &args.sources {
        sources.extend(local::expand(typed)?);
    }
    let target = paths::remote(&args.target);
    // Whether the target is there already must not matter to folders: the same command, run again after an
    // interruption, has to mean the same.
    let into = args.target.ends_with('/') || sources.len() > 1 || target.is_empty();
    let wanted = Wanted::new(&args.include, &args.exclude)?;
    let Plan { files: mut plan, mut folders } = Plan::default();
    for source in &sources {
        if source.is_dir() {
            if !args.recursive {
                return Err(Failure::usage(format!("{} is a folder: -r uploads it", source.display())));
            }
            let base = if into { paths::join(&target, &folder_name(source)?) } else { target.clone() };
            let Gathered { files, empty, skipped } = local::gather(source, &wanted, &|_, _| false)?;
            // The root of the account is there already.
            let targets = empty.iter().map(|relative| paths::remote(&format!("{base}/{relative}")));
            folders.extend(targets.filter(|target| !target.is_empty()));
            for (path, why) in skipped {
                out::note(format_args!("skipped {}: {why}", path.display()));
            }
            plan.extend(files.into_iter().map(|file| Planned { target: paths::join(&base, &file.relative), file }));
        } else {
            let file = local::single(source)?;
            let into = into || is_folder(client, &target).await?;
            let target = if into { paths::join(&target, &file.relative) } else { target.clone() };
            plan.push(Planned { file, target });
        }
    }
    let mut keys = std::collections::HashSet::new();
    match plan.iter().find(|one| !keys.insert(paths::key(&one.target))) {
        Some(twice) => Err(Failure::usage(format!("two sources would go to {}", twice.target))),
        None => Ok(Plan { files: plan, folders }),
    }
}

fn folder_name(folder: &Path) -> Result<String> {
    let whole = folder.canonicalize().map_err(|error| Failure::local(folder, &error))?;
    let name = whole.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    name.ok_or_else(|| Failure::usage(format!("{}: this folder has no name to go by", folder.display())))
}

/// The item at a path; `None` if there is none.
///
/// # Errors
/// As `GetItem`, but for `PATH_NOT_FOUND`.
pub async fn look(client: &Client, path: &str) -> Result<Option<Item>> {
    let request = GetItemRequest { path: path.to_owned(), ..Default::default() };
    match repeated(Repeat::Free, async || client.data().get_item(request.clone()).await).await {
        Ok(answer) => Ok(answer.item),
        Err(failure) if failure.exit == Exit::NotFound && failure.reason == "PATH_NOT_FOUND" => Ok(None),
        Err(failure) => Err(failure.about(if path.is_empty() { "/" } else { path })),
    }
}

/// True if there is a folder at the path.
///
/// # Errors
/// As [`look`].
pub async fn is_folder(client: &Client, path: &str) -> Result<bool> {
    Ok(path.is_empty() || matches!(look(client, path).await?, Some(Item { kind: Some(Kind::Folder(_)), .. })))
}
