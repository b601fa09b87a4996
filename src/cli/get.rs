//! `get`: files and folders of Dropbox come to this machine.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
};

use futures::{StreamExt as _, stream};
use serde_json::json;
use tokio::{fs, io::BufWriter};

use crate::api::v1::{
    DownloadFileRequest, FileItem, Item, ItemFilter, ItemKind, WalkFolderRequest, download_file_request::Source,
    item::Kind,
};

use super::{
    client::{Client, ServerArgs},
    download::{Downloaded, Landing, Sink, part_path},
    exit::{Exit, Failure, Result},
    out, paths,
    progress::{Meter, Progress},
    put::{self, JOBS_DEFAULT, look},
    tally::Tally,
    upload::{hash_file, hash_head},
};

/// What is gathered before it is written: the server's chunks are smaller than a good write.
const WRITE_BYTES: usize = 1024 * 1024;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A file is written beside its place as NAME.REV.part and moved there when its content hash is right. What was
interrupted goes on where it stopped when the same command is run again.
A target that ends in /, and any target of several sources, gets them into it. Else a file goes into a target that is
a folder, or becomes it; and what a folder holds goes to the target, there already or not.

Examples:
  dropbox-connector get /reports/2026.pdf
  dropbox-connector get -r /photos                       to ./photos
  dropbox-connector get -r /photos ./copies              to ./copies
  dropbox-connector get '/photos/**/*.jpg' ./copies --jobs 16
  dropbox-connector get /dumps/db.sql --to - | psql db")]
pub struct GetArgs {
    /// Files, folders (with -r) and patterns in Dropbox; several sources need a target.
    #[arg(required = true, num_args = 1.., value_name = "SOURCE [TARGET]")]
    words: Vec<String>,
    /// Where to, instead of a last word: a file or folder; `-` is standard output.
    #[arg(long, value_name = "TARGET")]
    to: Option<String>,
    /// Folders with all files they hold; empty folders are left out.
    #[arg(short, long)]
    recursive: bool,
    /// From folders, no files that match.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Format for documents that have to be exported.
    #[arg(long, value_name = "FORMAT")]
    export_format: Option<String>,
    /// Leave files alone that exist here.
    #[arg(long)]
    no_clobber: bool,
    /// Files read at once.
    #[arg(short, long, default_value_t = JOBS_DEFAULT, value_parser = put::jobs, value_name = "N")]
    jobs: usize,
    /// One JSON object a file.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// A file and where it lands.
#[derive(Debug)]
struct Planned {
    path: String,
    file: FileItem,
    target: PathBuf,
}

pub async fn run(args: GetArgs) -> Result<()> {
    let (sources, target) = match (&args.to, args.words.split_last()) {
        (Some(to), _) => (&args.words[..], to.as_str()),
        (None, Some((target, sources))) if !sources.is_empty() => (sources, target.as_str()),
        _ => (&args.words[..], "."),
    };
    let client = args.server.client().await?;
    if target == "-" {
        let [source] = sources else { return Err(Failure::usage("only one file can go to standard output")) };
        return to_stdout(&client, &args, source).await;
    }
    let plan = plan(&client, &args, sources, Path::new(target)).await?;
    let bytes = plan.iter().map(|one| u64::try_from(one.file.size).unwrap_or(0)).sum();
    let progress = Progress::new("download", plan.len(), bytes);
    let mut tally = Tally::default();
    let started = std::time::Instant::now();
    let (client, args) = (&client, &args);
    let mut results = stream::iter(&plan)
        .map(|one| {
            let meter = progress.meter();
            async move { (one, fetch(client, args, one, &meter).await, meter) }
        })
        .buffer_unordered(args.jobs);
    while let Some((one, result, meter)) = results.next().await {
        meter.done();
        match result {
            Ok(read) => {
                match &read {
                    Some(read) => (tally.done, tally.bytes) = (tally.done + 1, tally.bytes + read.bytes),
                    None => tally.same += 1,
                }
                if args.json {
                    let hash = read.as_ref().map_or(&one.file.content_hash, |read| &read.content_hash);
                    out::line(json!({
                        "path": one.path, "target": one.target.to_string_lossy(), "rev": one.file.rev,
                        "contentHash": hash, "skipped": read.is_none(),
                        "verified": read.as_ref().is_none_or(|read| read.verified),
                    }));
                }
            }
            Err(failure) => {
                tally.fail(failure.about(out::plain(&one.path))).into_iter().for_each(|text| progress.say(text));
            }
        }
    }
    drop(results);
    progress.clear();
    if !args.json && tally.done + tally.same > 0 {
        let seconds = started.elapsed().as_secs_f64();
        let same = if tally.same > 0 { format!(", {} here already", tally.same) } else { String::new() };
        let (done, read) = (out::count(tally.done, "file"), out::size(tally.bytes));
        out::note(format_args!("{done} downloaded, {read} in {seconds:.1} s{same}"));
    }
    tally.finish("downloaded")
}

fn request(args: &GetArgs, path: &str) -> DownloadFileRequest {
    DownloadFileRequest {
        source: Some(Source::Path(path.to_owned())),
        export_format: args.export_format.clone().unwrap_or_default(),
        ..Default::default()
    }
}

async fn to_stdout(client: &Client, args: &GetArgs, source: &str) -> Result<()> {
    let path = paths::remote(source);
    // A name may hold such characters; a pattern may match many files, and they would run into each other.
    if paths::is_glob(&path) && look(client, &path).await?.is_none() {
        let text = format!("{path} is a pattern, and only one file can go to standard output");
        return Err(Failure::usage(text).remedy("`ls` with the pattern shows the files; name one"));
    }
    let landing = Landing::new("standard output", Sink::Into(Box::new(tokio::io::stdout())));
    let read = client.download(request(args, &path), landing, &Meter::none()).await;
    read.map(drop).map_err(|failure| failure.about(path))
}

/// Reads one file. `None`: it is here already.
async fn fetch(client: &Client, args: &GetArgs, one: &Planned, meter: &Meter) -> Result<Option<Downloaded>> {
    let wrong = |error: std::io::Error| Failure::local(&one.target, &error);
    let size = u64::try_from(one.file.size).unwrap_or(0);
    if let Ok(there) = fs::metadata(&one.target).await {
        if there.is_dir() {
            return Err(Failure::new(Exit::Conflict, format!("{} is a folder here", one.target.display())));
        }
        let same = there.len() == size
            && !one.file.content_hash.is_empty()
            && hash_file(&one.target, size).await? == one.file.content_hash;
        if same || args.no_clobber {
            meter.at(size);
            return Ok(None);
        }
    }
    if let Some(folder) = one.target.parent() {
        fs::create_dir_all(folder).await.map_err(wrong)?;
    }
    let part = part_path(&one.target, &one.file.rev);
    let mut asked = request(args, &one.path);
    let landing = match one.file.is_downloadable {
        true => {
            asked.rev = one.file.rev.clone();
            let landing = resumed(&part, size).await?;
            meter.resumed(&one.path, landing.offset(), size);
            landing
        }
        // Exports have no revisions and no ranges.
        false => fresh(&part).await?,
    };
    match client.download(asked, landing, meter).await {
        Ok(read) => {
            fs::rename(&part, &one.target).await.map_err(wrong)?;
            Ok(Some(read))
        }
        Err(failure) => {
            if failure.exit == Exit::Damaged {
                // Nothing good can be added to these bytes.
                let _ = fs::remove_file(&part).await;
            }
            Err(failure)
        }
    }
}

async fn fresh(part: &Path) -> Result<Landing> {
    let file = fs::File::create(part).await.map_err(|error| Failure::local(part, &error))?;
    Ok(Landing::new(part, Sink::Into(Box::new(BufWriter::with_capacity(WRITE_BYTES, file)))))
}

/// What a former run has written of this very revision, ready for the rest.
async fn resumed(part: &Path, size: u64) -> Result<Landing> {
    let wrong = |error: std::io::Error| Failure::local(part, &error);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).to_owned();
    let mut file = fs::OpenOptions::from(options).open(part).await.map_err(wrong)?;
    let there = file.metadata().await.map_err(wrong)?.len();
    if there > size {
        return fresh(part).await;
    }
    let hash = hash_head(&mut file, part, there).await?;
    let sink = Sink::Into(Box::new(BufWriter::with_capacity(WRITE_BYTES, file)));
    Ok(Landing::resumed(part, sink, there, hash))
}

async fn plan(client: &Client, args: &GetArgs, sources: &[String], target: &Path) -> Result<Vec<Planned>> {
    let text = target.as_os_str().to_string_lossy();
    // Whether the target is there already must not matter to folders: the same command, run again after an
    // interruption, has to mean the same.
    let into = text.ends_with('/') || text == "." || text == ".." || sources.len() > 1;
    let mut plan = Vec::new();
    for source in sources {
        let path = paths::remote(source);
        if paths::is_glob(&path) && look(client, &path).await.ok().flatten().is_none() {
            let (base, pattern) = paths::split_glob(&path);
            let before = plan.len();
            beneath(client, args, &base, Some(&pattern), target, &mut plan).await?;
            if plan.len() == before {
                return Err(Failure::new(Exit::NotFound, format!("{path} matches no file")));
            }
            continue;
        }
        let item = if path.is_empty() { None } else { look(client, &path).await? };
        match item {
            Some(Item { kind: Some(Kind::File(file)), name, .. }) => {
                let into = into || target.is_dir();
                let target = if into { paths::landing(target, &name)? } else { target.to_owned() };
                plan.push(Planned { path, file, target });
            }
            Some(Item { kind: Some(Kind::Folder(_)), name, .. }) => {
                require_recursive(args, &path)?;
                let folder = if into { paths::landing(target, &name)? } else { target.to_owned() };
                beneath(client, args, &path, None, &folder, &mut plan).await?;
            }
            None if path.is_empty() => {
                require_recursive(args, "/")?;
                beneath(client, args, "", None, target, &mut plan).await?;
            }
            _ => {
                return Err(Failure::missing(&path));
            }
        }
    }
    Ok(plan)
}

fn require_recursive(args: &GetArgs, path: &str) -> Result<()> {
    match args.recursive {
        true => Ok(()),
        false => Err(Failure::usage(format!("{path} is a folder: -r downloads it"))),
    }
}

/// Plans the files beneath a folder, all or those that match.
async fn beneath(
    client: &Client,
    args: &GetArgs,
    base: &str,
    pattern: Option<&str>,
    folder: &Path,
    plan: &mut Vec<Planned>,
) -> Result<()> {
    let request = files_beneath(base, pattern, &args.exclude);
    let walked = client
        .walk(request, |item| {
            let Some(Kind::File(file)) = item.kind else { return Ok(()) };
            let relative = paths::beneath(base, &item.path_display).unwrap_or(&item.name);
            let target = paths::landing(folder, relative)?;
            plan.push(Planned { path: item.path_display, file, target });
            Ok(())
        })
        .await;
    walked.map(drop).map_err(|failure| failure.about(if base.is_empty() { "/" } else { base }))
}

/// A walk over the files beneath a folder, all or those that match.
pub fn files_beneath(base: &str, pattern: Option<&str>, exclude: &[String]) -> WalkFolderRequest {
    let depth = pattern.map_or(0, paths::glob_depth);
    let filter = ItemFilter {
        include_globs: pattern.map(str::to_owned).into_iter().collect(),
        exclude_globs: exclude.to_vec(),
        kinds: vec![ItemKind::File.into()],
        max_depth: depth,
        ..Default::default()
    };
    WalkFolderRequest { path: base.to_owned(), recursive: depth != 1, filter: Some(filter), ..Default::default() }
}
