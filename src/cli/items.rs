//! `ls rm mkdir mv cp link stat search account`: one or a few calls each.

use clap::ValueEnum;
use futures::{StreamExt as _, stream};
use serde_json::json;

use crate::api::v1::{
    CopyItemRequest, CreateFolderRequest, CreateSharedLinkRequest, DeleteItemRequest, GetAccountRequest,
    GetFileLinkRequest, Item, ItemFilter, ItemKind, ItemOrderBy, LinkAudience, LinkKind, ListSharedLinksRequest,
    MoveItemRequest, RevokeSharedLinkRequest, SearchItemsRequest, SharedLink, SharedLinkSettings, WalkFolderRequest,
    item::Kind,
};

use super::{
    client::{Client, Repeat, ServerArgs, repeated},
    exit::{Exit, Failure, Result},
    get::files_beneath,
    json, out, paths,
    put::{is_folder, jobs, look},
    tally::Tally,
};

/// Items the server sorts at most.
const SORTED_MAX: i32 = 10_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dropbox-connector ls -l /photos
  dropbox-connector ls -r --sort size --descending --limit 10 /
  dropbox-connector ls '/photos/**/*.jpg' --json")]
pub struct LsArgs {
    /// The folder, a file, or a pattern.
    #[arg(default_value = "/", value_name = "PATH")]
    path: String,
    /// Sizes and times, too.
    #[arg(short, long)]
    long: bool,
    /// What lies in folders, too.
    #[arg(short, long)]
    recursive: bool,
    /// In this order instead of Dropbox's.
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// The other way round.
    #[arg(long, requires = "sort")]
    descending: bool,
    /// This many items at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    limit: Option<i32>,
    /// One JSON object an item.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    Name,
    Size,
    Modified,
}

pub async fn ls(args: LsArgs) -> Result<()> {
    let client = args.server.client().await?;
    let path = paths::remote(&args.path);
    let (base, pattern) = if paths::is_glob(&path) { paths::split_glob(&path) } else { (path, String::new()) };
    let order = match args.sort {
        None => ItemOrderBy::Unspecified,
        Some(Sort::Name) => ItemOrderBy::Name,
        Some(Sort::Size) => ItemOrderBy::Size,
        Some(Sort::Modified) => ItemOrderBy::Modified,
    };
    let mut request = WalkFolderRequest {
        path: base.clone(),
        recursive: args.recursive,
        order_by: order.into(),
        descending: args.descending,
        max_items: args.limit.unwrap_or(if args.sort.is_some() { SORTED_MAX } else { 0 }),
        ..Default::default()
    };
    if !pattern.is_empty() {
        let max_depth = paths::glob_depth(&pattern);
        request.recursive = max_depth != 1;
        request.filter = Some(ItemFilter { include_globs: vec![pattern], max_depth, ..Default::default() });
    }
    let mut count = 0;
    let walked = client
        .walk(request, |item| {
            // A recursive listing begins with the folder itself.
            if item.path_lower == paths::key(&base) {
                return Ok(());
            }
            count += 1;
            show(&args, &base, &item);
            Ok(())
        })
        .await;
    if args.sort.is_some() && args.limit.is_none() && count >= SORTED_MAX as usize {
        out::note(format_args!("these are the first {SORTED_MAX}: more are not sorted; without --sort all are listed"));
    }
    match walked {
        Ok(summary) if args.long && !args.json => {
            let bytes = u64::try_from(summary.bytes).unwrap_or(0);
            out::note(format_args!("{}, {}", out::count(count, "item"), out::size(bytes)));
            Ok(())
        }
        Ok(_) => Ok(()),
        // A file lists as itself.
        Err(failure) if failure.reason == "NOT_A_FOLDER" => {
            let Some(item) = look(&client, &base).await? else { return Err(failure) };
            show(&args, parent(&base), &item);
            Ok(())
        }
        Err(failure) => Err(failure.about(if base.is_empty() { "/" } else { &base })),
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn show(args: &LsArgs, base: &str, item: &Item) {
    if args.json {
        return out::line(json::item(item));
    }
    let shown = out::plain(paths::beneath(base, &item.path_display).unwrap_or(&item.name));
    let slash = if matches!(item.kind, Some(Kind::Folder(_))) { "/" } else { "" };
    if !args.long {
        return out::line(format_args!("{shown}{slash}"));
    }
    let (size, time) = match &item.kind {
        Some(Kind::File(file)) => {
            let time = file.server_modified.as_ref().map(json::time).unwrap_or_default();
            (out::size(u64::try_from(file.size).unwrap_or(0)), time)
        }
        _ => ("-".to_owned(), "-".to_owned()),
    };
    out::line(format_args!("{size:>10}  {time:20}  {shown}{slash}"));
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Deleted files can be restored for as long as the plan of the account says.

Examples:
  dropbox-connector rm /a.txt /b.txt
  dropbox-connector rm -r /old
  dropbox-connector rm '/logs/*.tmp' --dry-run")]
pub struct RmArgs {
    /// Files, folders (with -r) and patterns (files only).
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// Folders with all they hold.
    #[arg(short, long)]
    recursive: bool,
    /// What is not there is as good as deleted.
    #[arg(short, long)]
    force: bool,
    /// Tell what would be deleted, delete nothing.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Deletions asked for at once.
    #[arg(short, long, default_value_t = 4, value_parser = jobs, value_name = "N")]
    jobs: usize,
    /// One JSON object an item.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn rm(args: RmArgs) -> Result<()> {
    let client = args.server.client().await?;
    let mut doomed = Vec::new();
    for typed in &args.paths {
        let path = paths::remote(typed);
        if path.is_empty() {
            return Err(Failure::usage("the root cannot be deleted; name what is in it"));
        }
        if !paths::is_glob(&path) || look(&client, &path).await.ok().flatten().is_some() {
            doomed.push(path);
            continue;
        }
        let (base, pattern) = paths::split_glob(&path);
        let before = doomed.len();
        let request = files_beneath(&base, Some(&pattern), &[]);
        client
            .walk(request, |item| {
                doomed.push(item.path_display);
                Ok(())
            })
            .await?;
        if doomed.len() == before && !args.force {
            return Err(Failure::new(Exit::NotFound, format!("{path} matches no file")));
        }
    }
    if args.dry_run {
        doomed.iter().for_each(|path| out::line(out::plain(path)));
        return Ok(());
    }
    let mut tally = Tally::default();
    let (client, args) = (&client, &args);
    let mut results = stream::iter(&doomed)
        .map(|path| async move { (path, delete(client, args, path).await) })
        .buffer_unordered(args.jobs);
    while let Some((path, result)) = results.next().await {
        match result {
            Ok(item) => {
                tally.done += 1;
                if args.json {
                    out::line(json!({ "path": path, "item": item.as_ref().map(json::item) }));
                }
            }
            Err(failure) => tally.fail(failure).into_iter().for_each(out::note),
        }
    }
    tally.finish("deleted")
}

async fn delete(client: &Client, args: &RmArgs, path: &str) -> Result<Option<Item>> {
    let kind = if args.recursive { ItemKind::Any } else { ItemKind::File };
    let request =
        DeleteItemRequest { path: path.to_owned(), kind: kind.into(), allow_missing: args.force, ..Default::default() };
    let answer = repeated(Repeat::IfTold, async || client.data().delete_item(request.clone()).await).await;
    answer.map(|answer| answer.item).map_err(|failure| match failure.reason.as_str() {
        "NOT_A_FILE" => failure.remedy("-r deletes a folder with all it holds").about(path),
        "PATH_NOT_FOUND" => Failure::missing(path),
        _ => failure.about(path),
    })
}

#[derive(Debug, clap::Args)]
pub struct MkdirArgs {
    /// The folders. What is missing above them is made, too.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// A folder that is there already is as good as made.
    #[arg(long)]
    exist_ok: bool,
    /// One JSON object a folder.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn mkdir(args: MkdirArgs) -> Result<()> {
    let client = args.server.client().await?;
    for typed in &args.paths {
        let request =
            CreateFolderRequest { path: paths::remote(typed), return_existing: args.exist_ok, ..Default::default() };
        let repeat = if args.exist_ok { Repeat::Free } else { Repeat::IfTold };
        let answer = repeated(repeat, async || client.data().create_folder(request.clone()).await).await;
        let answer = answer.map_err(|failure| match failure.reason.as_str() {
            "PATH_CONFLICT" if args.exist_ok => {
                failure.remedy("a file is in the way: choose another path").about(typed)
            }
            "PATH_CONFLICT" => failure.remedy("--exist-ok takes a folder that is there already").about(typed),
            _ => failure.about(typed),
        })?;
        if args.json {
            out::line(json!({ "item": answer.item.as_ref().map(json::item), "created": answer.created }));
        }
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
pub struct RelocateArgs {
    /// The file or folder.
    #[arg(value_name = "FROM")]
    from: String,
    /// Its new path; a folder, or a path that ends in /, gets it into it.
    #[arg(value_name = "TO")]
    to: String,
    /// On a conflict take a new name.
    #[arg(long, conflicts_with = "replace")]
    autorename: bool,
    /// A file at the new path goes to Dropbox's deleted files first.
    #[arg(long)]
    replace: bool,
    /// Print the item as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relocation {
    Move,
    Copy,
}

pub async fn relocate(args: RelocateArgs, how: Relocation) -> Result<()> {
    let client = args.server.client().await?;
    let (from_path, mut to_path) = (paths::remote(&args.from), paths::remote(&args.to));
    // A change of case goes to the very item it comes from, which is no folder to go into.
    let same = paths::key(&from_path) == paths::key(&to_path);
    if !same && (args.to.ends_with('/') || is_folder(&client, &to_path).await?) {
        to_path = paths::join(&to_path, paths::name(&from_path));
    }
    let request_id = uuid::Uuid::new_v4().to_string();
    let (autorename, replace_existing) = (args.autorename, args.replace);
    let (from, to) = (from_path.clone(), to_path.clone());
    let answer = match how {
        Relocation::Move => {
            let request =
                MoveItemRequest { from_path, to_path, autorename, request_id, replace_existing, ..Default::default() };
            let answer = repeated(Repeat::Free, async || client.data().move_item(request.clone()).await).await;
            answer.map(|answer| answer.item)
        }
        Relocation::Copy => {
            let request =
                CopyItemRequest { from_path, to_path, autorename, request_id, replace_existing, ..Default::default() };
            let answer = repeated(Repeat::Free, async || client.data().copy_item(request.clone()).await).await;
            answer.map(|answer| answer.item)
        }
    };
    let item = answer.map_err(|failure| match failure.reason.as_str() {
        "PATH_NOT_FOUND" => Failure::missing(&from),
        "PATH_CONFLICT" => {
            let remedy = "--replace replaces a file, --autorename takes a new name; or choose another path";
            failure.remedy(remedy).about(to)
        }
        "DISALLOWED_NAME" => failure.about(to),
        _ => failure.about(format_args!("{} → {to}", if from.is_empty() { "/" } else { &from })),
    })?;
    match (item, args.json) {
        (Some(item), true) => out::line(json::item(&item)),
        (Some(item), false) if autorename => out::line(out::plain(&item.path_display)),
        _ => {}
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dropbox-connector link /photos/cat.jpg                 a shared link; the one there is, if there is one
  dropbox-connector link --temporary /big.iso            a direct link for four hours, no page around it
  dropbox-connector link --list /photos
  dropbox-connector link --revoke https://www.dropbox.com/…")]
pub struct LinkArgs {
    /// The file or folder.
    #[arg(value_name = "PATH", required_unless_present_any = ["list", "revoke"])]
    path: Option<String>,
    /// A link to the bytes that ends by itself.
    #[arg(long, conflicts_with_all = ["list", "revoke"])]
    temporary: bool,
    /// Who may follow a new link.
    #[arg(long, value_enum)]
    audience: Option<Audience>,
    /// When a new link ends: RFC 3339, `2027-01-31T00:00:00Z`.
    #[arg(long, value_name = "TIME")]
    expires: Option<jiff::Timestamp>,
    /// Password of a new link.
    #[arg(long, env = "DROPBOX_CONNECTOR_LINK_PASSWORD", hide_env_values = true, value_name = "TEXT")]
    password: Option<String>,
    /// Show the links there are; of everything, or of PATH.
    #[arg(long)]
    list: bool,
    /// Take a link back.
    #[arg(long, value_name = "URL", conflicts_with = "list")]
    revoke: Option<String>,
    /// One JSON object a link.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Audience {
    Public,
    Team,
    NoOne,
}

pub async fn link(args: LinkArgs) -> Result<()> {
    let client = args.server.client().await?;
    let path = args.path.as_deref().map(paths::remote).unwrap_or_default();
    if let Some(url) = &args.revoke {
        let request = RevokeSharedLinkRequest { url: url.clone(), ..Default::default() };
        return repeated(Repeat::IfTold, async || client.data().revoke_shared_link(request.clone()).await)
            .await
            .map(drop);
    }
    if args.list {
        return links(&client, &args, path).await;
    }
    if args.temporary {
        let kind = LinkKind::Temporary.into();
        let request = GetFileLinkRequest { path: path.clone(), kind, ..Default::default() };
        let answer = repeated(Repeat::Free, async || client.data().get_file_link(request.clone()).await).await;
        let answer = answer.map_err(|failure| nothing_there(failure, &path))?;
        let link = answer.link.unwrap_or_default();
        out::line(if args.json { json::link(&link).to_string() } else { link.url });
        return Ok(());
    }
    let request = CreateSharedLinkRequest {
        path: path.clone(),
        settings: settings(&args),
        // Settings that differ from those there are must not be passed over in silence.
        return_existing: settings(&args).is_none(),
        ..Default::default()
    };
    let repeat = if request.return_existing { Repeat::Free } else { Repeat::IfTold };
    let answer = repeated(repeat, async || client.data().create_shared_link(request.clone()).await).await;
    let answer = answer.map_err(|failure| nothing_there(failure, &path))?;
    show_link(&args, &answer.shared_link.unwrap_or_default(), false);
    Ok(())
}

fn nothing_there(failure: Failure, path: &str) -> Failure {
    if failure.reason == "PATH_NOT_FOUND" { Failure::missing(path) } else { failure }
}

fn settings(args: &LinkArgs) -> Option<SharedLinkSettings> {
    let audience = args.audience.map(|audience| match audience {
        Audience::Public => LinkAudience::Public,
        Audience::Team => LinkAudience::Team,
        Audience::NoOne => LinkAudience::NoOne,
    });
    if audience.is_none() && args.expires.is_none() && args.password.is_none() {
        return None;
    }
    Some(SharedLinkSettings {
        audience: audience.unwrap_or_default().into(),
        expire_time: args.expires.map(|at| prost_types::Timestamp { seconds: at.as_second(), nanos: 0 }),
        require_password: args.password.as_ref().map(|_| true),
        password: args.password.clone().unwrap_or_default(),
        ..Default::default()
    })
}

async fn links(client: &Client, args: &LinkArgs, path: String) -> Result<()> {
    let mut request = ListSharedLinksRequest { path, direct_only: args.path.is_some(), ..Default::default() };
    loop {
        let page = repeated(Repeat::Free, async || client.data().list_shared_links(request.clone()).await).await?;
        page.shared_links.iter().for_each(|link| show_link(args, link, true));
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

fn show_link(args: &LinkArgs, link: &SharedLink, with_path: bool) {
    match (args.json, with_path) {
        (true, _) => out::line(json::shared_link(link)),
        (false, true) => out::line(format_args!("{}  {}", link.url, out::plain(&link.path_lower))),
        (false, false) => out::line(&link.url),
    }
}

#[derive(Debug, clap::Args)]
pub struct StatArgs {
    /// Path, `id:…` or `rev:…`.
    #[arg(value_name = "PATH")]
    path: String,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn stat(args: StatArgs) -> Result<()> {
    let client = args.server.client().await?;
    let path = paths::remote(&args.path);
    let Some(item) = look(&client, &path).await? else {
        return Err(Failure::missing(&path));
    };
    let shown = json::item(&item);
    if args.json {
        out::line(shown);
    } else {
        fields(&shown);
    }
    Ok(())
}

/// A JSON object as lines of name and value.
pub fn fields(object: &serde_json::Value) {
    for (name, value) in object.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), out::plain);
        out::line(format_args!("{name:>22}  {text}"));
    }
}

#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// What to look for.
    #[arg(value_name = "QUERY")]
    query: String,
    /// Only beneath this folder.
    #[arg(long = "in", value_name = "PATH", default_value = "/")]
    folder: String,
    /// Names only, not contents.
    #[arg(long)]
    names: bool,
    /// Only files with this extension; may be repeated.
    #[arg(long = "ext", value_name = "EXT")]
    extensions: Vec<String>,
    /// This many matches at most.
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// One JSON object a match.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn search(args: SearchArgs) -> Result<()> {
    let client = args.server.client().await?;
    let mut request = SearchItemsRequest {
        query: args.query.clone(),
        path: paths::remote(&args.folder),
        file_name_only: args.names,
        extensions: args.extensions.clone(),
        ..Default::default()
    };
    let mut left = args.limit;
    while left > 0 {
        let page = repeated(Repeat::Free, async || client.data().search_items(request.clone()).await).await?;
        for found in page.matches.iter().take(left).filter_map(|found| found.item.as_ref()) {
            match args.json {
                true => out::line(json::item(found)),
                false => out::line(out::plain(&found.path_display)),
            }
        }
        left = left.saturating_sub(page.matches.len());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
pub struct AccountArgs {
    /// One JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn account(args: AccountArgs) -> Result<()> {
    let client = args.server.client().await?;
    let request = GetAccountRequest::default();
    let answer = repeated(Repeat::Free, async || client.data().get_account(request.clone()).await).await?;
    let shown = json::account(&answer);
    if args.json {
        out::line(shown);
    } else {
        fields(&shown);
    }
    Ok(())
}
