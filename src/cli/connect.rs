//! `connect`: links a Dropbox account to an application parameter. Opens the browser and catches the redirect on loopback, or
//! prints an address and takes the code that Dropbox shows. The code goes to the server, which alone trades it; nothing of it
//! is kept or printed here.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use maud::html;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use url::Url;

use crate::{
    api::v1::{
        BeginAuthorizationRequest, BeginAuthorizationResponse, CompleteAuthorizationRequest,
        CompleteAuthorizationResponse, GetApplicationParameterRequest, complete_authorization_request::Answer,
    },
    config::is_loopback,
    limits::AUTHORIZATION_LIFE,
    page::document,
};

use super::{
    client::{Admin, Repeat, repeated},
    exit::{Exit, Failure, Result},
    json, out,
    parameters::{AdminArgs, admin},
};

/// The browser gets its last page before the program ends.
const GOODBYE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The browser comes back to this program on http://localhost with a free port. Where Dropbox wants the redirect URI registered,
register one in the App Console and name it: --redirect-uri http://localhost:9999 (or put it into the parameter's
redirect_uris). With --no-browser none is needed.

Examples:
  dropbox-connector parameters create crm --app-key abc123 --app-secret-file ./secret
  dropbox-connector connect crm
  dropbox-connector connect crm --no-browser            on a machine without a browser")]
pub struct ConnectArgs {
    /// Id of the application parameter.
    #[arg(value_name = "ID")]
    id: String,
    /// Print the address to open anywhere, and take the code that Dropbox shows from standard input.
    #[arg(long)]
    no_browser: bool,
    /// Loopback address that the browser comes back to, as registered for the app.
    #[arg(long, value_name = "URI", conflicts_with = "no_browser")]
    redirect_uri: Option<String>,
    /// Scope to ask for; may be repeated. Default: those of the parameter, else all the app has.
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Take another Dropbox account than the linked one.
    #[arg(long)]
    allow_account_change: bool,
    /// Have Dropbox ask even if the app is approved already.
    #[arg(long)]
    force_reapprove: bool,
    /// Language of Dropbox's page, as in de or pt_BR.
    #[arg(long, default_value = "", value_name = "LOCALE")]
    locale: String,
    #[command(flatten)]
    admin: AdminArgs,
}

pub async fn run(args: ConnectArgs) -> Result<()> {
    let mut admin = admin(&args.admin).await?;
    let get = GetApplicationParameterRequest { application_parameter_id: args.id.clone() };
    let found = repeated(Repeat::Free, async || admin.clone().get_application_parameter(get.clone()).await).await;
    let parameter = found.map_err(|failure| match failure.exit {
        Exit::NotFound => {
            let id = &args.id;
            failure.remedy(format!("make it: dropbox-connector parameters create {id} --app-key KEY"))
        }
        _ => failure,
    })?;
    let registered = parameter.application_parameter.map(|one| one.redirect_uris).unwrap_or_default();
    let completed = if args.no_browser || (args.redirect_uri.is_none() && !has_browser()) {
        by_code(&mut admin, &args).await?
    } else {
        by_redirect(&mut admin, &args, &registered).await?
    };
    show(&args, &completed);
    Ok(())
}

async fn begin(admin: &mut Admin, args: &ConnectArgs, redirect_uri: &str) -> Result<BeginAuthorizationResponse> {
    let request = BeginAuthorizationRequest {
        application_parameter_id: args.id.clone(),
        redirect_uri: redirect_uri.to_owned(),
        scopes: args.scope.clone(),
        force_reapprove: args.force_reapprove,
        locale: args.locale.clone(),
        allow_account_change: args.allow_account_change,
        ..Default::default()
    };
    repeated(Repeat::Free, async || admin.clone().begin_authorization(request.clone()).await).await
}

/// Once: a code that is sent twice is worth nothing.
async fn complete(admin: &mut Admin, state: String, answer: Answer) -> Result<CompleteAuthorizationResponse> {
    let request = CompleteAuthorizationRequest { state, answer: Some(answer) };
    let completed = admin.complete_authorization(request).await.map_err(Failure::from);
    let completed = completed.map_err(|failure| match failure.reason.as_str() {
        "ACCOUNT_MISMATCH" => {
            failure.remedy("allow access with the account that is linked, or give --allow-account-change")
        }
        _ => failure,
    })?;
    Ok(completed.into_inner())
}

async fn by_code(admin: &mut Admin, args: &ConnectArgs) -> Result<CompleteAuthorizationResponse> {
    let begun = begin(admin, args, "").await?;
    out::note(format_args!(
        "Open this address in any browser, allow access, and copy the code:\n\n  {}\n",
        begun.authorize_url
    ));
    let code = tokio::task::spawn_blocking(|| {
        if io::stdin().is_terminal() {
            let mut err = io::stderr().lock();
            let _ = write!(err, "Code: ").and_then(|()| err.flush());
        }
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let code = tokio::time::timeout(AUTHORIZATION_LIFE, code).await.map_err(|_| too_late())?;
    let code = code.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let code = code.map_err(|error| Failure::new(Exit::Failed, format!("standard input: {error}")))?;
    if code.trim().is_empty() {
        return Err(
            Failure::usage("no code was given").remedy("run the command again and paste the code Dropbox shows")
        );
    }
    complete(admin, begun.state, Answer::Code(code.trim().to_owned())).await
}

/// Where the browser comes back to, and who listens there.
struct Back {
    uri: String,
    path: String,
    listeners: Vec<TcpListener>,
}

/// A query that the browser brought, and who waits for the page to show.
type Brought = (String, oneshot::Sender<(StatusCode, String, String)>);

async fn by_redirect(
    admin: &mut Admin,
    args: &ConnectArgs,
    registered: &[String],
) -> Result<CompleteAuthorizationResponse> {
    let named = args.redirect_uri.clone().or_else(|| registered.iter().find(|uri| is_ours(uri)).cloned());
    let back = Back::listen(named.as_deref()).await?;
    let begun = begin(admin, args, &back.uri).await?;
    let (queries, mut brought) = mpsc::channel::<Brought>(1);
    let catcher = Catcher { path: back.path.clone(), state: begun.state.clone(), queries };
    let router = Router::new().fallback(catch).with_state(catcher);
    let serving: Vec<_> = back
        .listeners
        .into_iter()
        .map(|listener| tokio::spawn(axum::serve(listener, router.clone()).into_future()))
        .collect();
    let opened = open::that_detached(&begun.authorize_url).is_ok();
    let how = if opened {
        "Your browser opens this address; allow access there"
    } else {
        "Open this address in a browser on this machine and allow access"
    };
    out::note(format_args!(
        "{how}:\n\n  {}\n\nIf Dropbox says that the redirect URI is not valid, register exactly this one in the App Console, or use\n\
         --redirect-uri with one that is: {}\n",
        begun.authorize_url, back.uri
    ));
    let caught = tokio::time::timeout(AUTHORIZATION_LIFE, brought.recv()).await.map_err(|_| too_late())?;
    let (query, reply) = caught.ok_or_else(|| Failure::new(Exit::Failed, "nobody listens for the browser any more"))?;
    let answer = Answer::RedirectUrl(format!("{}?{query}", back.uri));
    let outcome = complete(admin, begun.state, answer).await;
    let page = match &outcome {
        Ok(_) => (StatusCode::OK, "Account connected".to_owned(), "You may close this window.".to_owned()),
        Err(failure) => (StatusCode::BAD_REQUEST, "The account was not connected".to_owned(), failure.message.clone()),
    };
    let _ = reply.send(page);
    // The page must leave before the program does: the handler lets go of its sender when it was written.
    let _ = tokio::time::timeout(GOODBYE, async { while brought.recv().await.is_some() {} }).await;
    serving.iter().for_each(tokio::task::JoinHandle::abort);
    outcome
}

impl Back {
    async fn listen(named: Option<&str>) -> Result<Back> {
        let Some(uri) = named else {
            let (listeners, port) = bind(0).await?;
            return Ok(Back { uri: format!("http://localhost:{port}/"), path: "/".into(), listeners });
        };
        if !is_ours(uri) {
            let text = format!("{uri}: only an http address of this machine can be listened on");
            return Err(Failure::usage(text).remedy("name one as in http://localhost:9999, or use --no-browser"));
        }
        let url = Url::parse(uri).map_err(|error| Failure::usage(format!("{uri}: {error}")))?;
        let (listeners, _) = bind(url.port_or_known_default().unwrap_or(80)).await?;
        Ok(Back { uri: uri.to_owned(), path: url.path().to_owned(), listeners })
    }
}

fn is_ours(uri: &str) -> bool {
    Url::parse(uri).is_ok_and(|url| url.scheme() == "http" && is_loopback(&url) && url.query().is_none())
}

/// `localhost` is both addresses of loopback, as far as the machine has both.
async fn bind(port: u16) -> Result<(Vec<TcpListener>, u16)> {
    let first = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.map_err(|error| {
        let failure = Failure::new(Exit::Failed, format!("cannot listen on port {port} of this machine: {error}"));
        failure.remedy("use another registered --redirect-uri, as in http://localhost:9999, or --no-browser")
    })?;
    let port = first.local_addr().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?.port();
    let second = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await;
    Ok((std::iter::once(first).chain(second.ok()).collect(), port))
}

#[derive(Clone)]
struct Catcher {
    path: String,
    state: String,
    queries: mpsc::Sender<Brought>,
}

/// Takes the first request that brings our state; whatever else comes by (icons, scanners) finds nothing.
async fn catch(State(catcher): State<Catcher>, uri: Uri, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let ours =
        url::form_urlencoded::parse(query.as_bytes()).any(|(name, value)| name == "state" && value == catcher.state);
    let (reply, page) = oneshot::channel();
    if uri.path() != catcher.path || !ours || catcher.queries.try_send((query, reply)).is_err() {
        return (StatusCode::NOT_FOUND, "nothing here\n").into_response();
    }
    let (status, title, text) = page.await.unwrap_or_else(|_| {
        (StatusCode::BAD_GATEWAY, "The account was not connected".into(), "The program was stopped.".into())
    });
    let markup = document(&title, None, &html! { main { h1 { (title) } p { (text) } } });
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONNECTION, "close"),
    ];
    (status, headers, markup.into_string()).into_response()
}

/// Is there somebody in front of a screen?
fn has_browser() -> bool {
    if !cfg!(all(unix, not(target_os = "macos"))) {
        return true;
    }
    ["DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_DISTRO_NAME"].iter().any(|name| std::env::var_os(name).is_some())
}

fn too_late() -> Failure {
    Failure::new(Exit::Failed, "no answer came within ten minutes").remedy("run the command again")
}

fn show(args: &ConnectArgs, completed: &CompleteAuthorizationResponse) {
    let account = completed.account.as_ref();
    if args.admin.json() {
        let mut shown = account.map_or_else(|| json!({}), json::account_summary);
        shown["applicationParameterId"] = json!(args.id);
        shown["grantedScopes"] = json!(completed.granted_scopes);
        shown["missingScopes"] = json!(completed.missing_scopes);
        return out::line(shown);
    }
    let who = account.map_or_else(String::new, |account| {
        let name = if account.display_name.is_empty() { &account.account_id } else { &account.display_name };
        let email = if account.email.is_empty() { String::new() } else { format!(" ({})", account.email) };
        out::plain(&format!("{name}{email}"))
    });
    out::line(format_args!("{} is connected to {who}", args.id));
    out::line(format_args!("granted: {}", completed.granted_scopes.join(" ")));
    if !completed.missing_scopes.is_empty() {
        out::line(format_args!("missing: {}", completed.missing_scopes.join(" ")));
        out::note("  → enable the missing scopes in Dropbox's App Console (tab Permissions), then connect again");
    }
}
