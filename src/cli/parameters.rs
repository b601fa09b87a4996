//! `parameters`: application parameters, over the admin service; `rotate` on the store itself. Secrets are taken from
//! the environment, a file or standard input, so that none stands in a list of processes.

use std::{fs, io::Read as _, path::PathBuf};

use clap::{Subcommand, ValueEnum};
use prost_types::FieldMask;
use serde_json::json;

use crate::{
    api::v1::{
        AccessToken, AccessType, AccountKind, ActAs, AppSource, ApplicationParameter,
        CreateApplicationParameterRequest, DeleteApplicationParameterRequest, GetApplicationParameterRequest,
        ImportCredentialsRequest, ListApplicationParametersRequest, ParameterPolicy, ParameterState, Permission,
        RevokeAuthorizationRequest, TestApplicationParameterRequest, UpdateApplicationParameterRequest, act_as,
        dropbox_admin_connector_client::DropboxAdminConnectorClient, import_credentials_request::Credential,
    },
    config::Overrides,
};

use super::{
    bundle::{self, BundleArgs, ExportArgs},
    client::{Admin, Identity, Repeat, TlsArgs, channel, repeated},
    exit::{Exit, Failure, Result},
    items::fields,
    json,
    network::NetworkArgs,
    out,
};

#[derive(Debug, Subcommand)]
pub enum ParametersCommand {
    /// Make an application parameter; `connect` links its Dropbox account.
    #[command(after_help = "\
Example:
  dropbox-connector parameters create crm --app-key abc123 --app-secret-file ./secret
  dropbox-connector connect crm
  dropbox-connector parameters test crm")]
    Create(Box<CreateArgs>),
    /// Show one, without its secrets.
    Get(OneArgs),
    /// List them, without their secrets.
    List(ListArgs),
    /// Give it a refresh token or an access token, tried at Dropbox before they are kept; or take over an export (--from).
    Import(Box<ImportArgs>),
    /// Write them with all their secrets into a file sealed to a passphrase. Takes the settings of `serve`.
    Export(Box<ExportArgs>),
    /// Set its proxy and its patience; what is not given stays.
    #[command(after_help = "\
Example:
  dropbox-connector parameters network crm --proxy http://proxy.example:3128 --proxy-user me --proxy-password-file ./secret
  dropbox-connector parameters network crm --proxy none --connect-timeout 5s")]
    Network(SetNetworkArgs),
    /// Change who may use it and for what, its folder, name or group; what is not given stays.
    #[command(after_help = "\
Example:
  dropbox-connector parameters update crm --allow billing --allow 'spiffe://example.org/crm/*'
  dropbox-connector parameters update crm --permission read --permission events --path-prefix /Invoices")]
    Update(UpdateArgs),
    /// Try it at Dropbox as a data call would.
    Test(OneArgs),
    /// Revoke its grant at Dropbox and forget it. Its uploads and downloads under way end.
    #[command(alias = "revoke")]
    Disconnect(OneArgs),
    /// Give it the new secret of its app. What is connected stays connected.
    Secret(SecretArgs),
    /// Refuse its calls until it is enabled again.
    Disable(OneArgs),
    /// Take its calls again.
    Enable(OneArgs),
    /// Delete it with its credentials. The grant at Dropbox stays, unless --revoke says otherwise.
    Delete(DeleteArgs),
    /// Seal all secrets of the store with the first key of the key file. Takes the settings of `serve`.
    Rotate(Box<RotateArgs>),
}

#[derive(Debug, clap::Args)]
pub struct AdminArgs {
    /// Address of the connector's admin service.
    #[arg(long, env = "DROPBOX_CONNECTOR_ADMIN_SERVER", default_value = "http://127.0.0.1:50052", value_name = "URL")]
    admin_server: String,
    /// Bearer token, where the server wants one.
    #[arg(long, env = "DROPBOX_CONNECTOR_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// JSON, one object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Its id: lower-case letters, digits and -.
    #[arg(value_name = "ID")]
    id: String,
    /// Key of the Dropbox app.
    #[arg(
        long,
        value_name = "KEY",
        required_unless_present = "shared_app",
        conflicts_with = "shared_app",
        default_value = "",
        hide_default_value = true
    )]
    app_key: String,
    /// Use the app in the server's configuration.
    #[arg(long, conflicts_with_all = ["app_secret_file"])]
    shared_app: bool,
    /// Link a whole team instead of one account.
    #[arg(long)]
    team: bool,
    /// Team: the member calls act as, by team_member_id or e-mail address.
    #[arg(long, value_name = "MEMBER", requires = "team")]
    act_as: Option<String>,
    /// Scope to ask for when an account is connected; may be repeated. Default: all the app has.
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Redirect URI that may be used to connect, as registered for the app; may be repeated.
    #[arg(long, value_name = "URI")]
    redirect_uri: Vec<String>,
    /// File with the secret of the Dropbox app; `-` is standard input. None: a public client (PKCE).
    #[arg(long, value_name = "FILE")]
    app_secret_file: Option<PathBuf>,
    #[arg(long, env = "DROPBOX_CONNECTOR_APP_SECRET", hide = true, hide_env_values = true)]
    app_secret: Option<String>,
    /// Name for people.
    #[arg(long, default_value = "", value_name = "TEXT")]
    display_name: String,
    /// Group to list by.
    #[arg(long, default_value = "", value_name = "TEXT")]
    group: String,
    /// Label as KEY=VALUE; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Jail: put before every path.
    #[arg(long, default_value = "", value_name = "PATH")]
    path_prefix: String,
    /// What the app may see.
    #[arg(long, value_enum, default_value_t = Access::Full)]
    access: Access,
    /// Principal that may use it (exact, or ending in *); may be repeated.
    #[arg(long, value_name = "NAME")]
    allow: Vec<String>,
    /// What they may do; may be repeated. Default: read, write, delete, share, events.
    #[arg(long, value_enum)]
    permission: Vec<Permitted>,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub struct SetNetworkArgs {
    /// Its id.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("changes").required(true).multiple(true))]
pub struct UpdateArgs {
    /// Its id.
    #[arg(value_name = "ID")]
    id: String,
    /// Principal that may use it (exact, or ending in *), in place of those there are; may be repeated. '' is nobody.
    #[arg(long, value_name = "NAME", group = "changes")]
    allow: Vec<String>,
    /// What they may do, in place of what they may now; may be repeated.
    #[arg(long, value_enum, group = "changes")]
    permission: Vec<Permitted>,
    /// The only folder it can see; '' is all.
    #[arg(long, value_name = "PATH", group = "changes")]
    path_prefix: Option<String>,
    /// Name for people.
    #[arg(long, value_name = "TEXT", group = "changes")]
    display_name: Option<String>,
    /// Group it is listed under.
    #[arg(long, value_name = "TEXT", group = "changes")]
    group: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Access {
    Full,
    AppFolder,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Permitted {
    Read,
    Write,
    Delete,
    Share,
    Events,
    Team,
    Raw,
}

impl From<Permitted> for Permission {
    fn from(permitted: Permitted) -> Permission {
        match permitted {
            Permitted::Read => Permission::Read,
            Permitted::Write => Permission::Write,
            Permitted::Delete => Permission::Delete,
            Permitted::Share => Permission::Share,
            Permitted::Events => Permission::Events,
            Permitted::Team => Permission::Team,
            Permitted::Raw => Permission::Raw,
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct OneArgs {
    /// Its id.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Its id.
    #[arg(value_name = "ID")]
    id: String,
    /// End the grant at Dropbox before.
    #[arg(long)]
    revoke: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub struct SecretArgs {
    /// Its id.
    #[arg(value_name = "ID")]
    id: String,
    /// File with the new secret; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    app_secret_file: PathBuf,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only those of this group.
    #[arg(long, default_value = "", value_name = "TEXT")]
    group: String,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("credential").required(true))]
pub struct ImportArgs {
    /// Its id; not with --from.
    #[arg(value_name = "ID", required_unless_present = "from")]
    id: Option<String>,
    /// File with a refresh token; `-` is standard input.
    #[arg(long, value_name = "FILE", group = "credential")]
    refresh_token_file: Option<PathBuf>,
    /// File with an access token; `-` is standard input. It is not renewed.
    #[arg(long, value_name = "FILE", group = "credential")]
    access_token_file: Option<PathBuf>,
    #[arg(long, env = "DROPBOX_CONNECTOR_REFRESH_TOKEN", hide = true, hide_env_values = true, group = "credential")]
    refresh_token: Option<String>,
    #[arg(long, env = "DROPBOX_CONNECTOR_ACCESS_TOKEN", hide = true, hide_env_values = true, group = "credential")]
    access_token: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    bundle: BundleArgs,
}

#[derive(Debug, clap::Args)]
pub struct RotateArgs {
    #[command(flatten)]
    overrides: Overrides,
}

pub async fn run(command: ParametersCommand) -> Result<()> {
    match command {
        ParametersCommand::Create(args) => create(*args).await,
        ParametersCommand::Get(args) => {
            let request = GetApplicationParameterRequest { application_parameter_id: args.id };
            let admin = admin(&args.admin).await?;
            let answer =
                repeated(Repeat::Free, async || admin.clone().get_application_parameter(request.clone()).await).await?;
            show(&args.admin, answer.application_parameter)
        }
        ParametersCommand::List(args) => list(args).await,
        ParametersCommand::Import(mut args) => match args.bundle.from.take() {
            Some(file) => bundle::import(args.bundle, &file).await,
            None => import(*args).await,
        },
        ParametersCommand::Export(args) => bundle::export(*args).await,
        ParametersCommand::Network(args) => set_network(args).await,
        ParametersCommand::Update(args) => update(args).await,
        ParametersCommand::Test(args) => test(args).await,
        ParametersCommand::Disconnect(args) => disconnect(args).await,
        ParametersCommand::Secret(args) => set_secret(args).await,
        ParametersCommand::Disable(args) => set_state(args, ParameterState::Disabled).await,
        ParametersCommand::Enable(args) => set_state(args, ParameterState::Active).await,
        ParametersCommand::Delete(args) => delete(args).await,
        ParametersCommand::Rotate(args) => {
            let config = super::server::load(&args.overrides)?;
            let told = crate::app::rotate(&config).await;
            let told = told.map_err(|fault| Failure::new(Exit::Failed, fault.message()))?;
            let (told, missing) = told;
            out::line(told);
            if missing.is_empty() {
                return Ok(());
            }
            let failure = Failure::new(Exit::Failed, format!("key missing: {}", missing.join(", ")));
            Err(failure
                .remedy("put it back among the sealing keys and rotate again; without it those parameters are lost"))
        }
    }
}

impl AdminArgs {
    pub fn json(&self) -> bool {
        self.json
    }
}

pub async fn admin(args: &AdminArgs) -> Result<Admin> {
    let identity = Identity::new(None, args.token.as_deref())?;
    let channel = channel(&args.admin_server, "--admin-server", &args.tls).await?;
    Ok(DropboxAdminConnectorClient::with_interceptor(channel, identity))
}

fn show(args: &AdminArgs, parameter: Option<ApplicationParameter>) -> Result<()> {
    let shown = json::parameter(&parameter.unwrap_or_default());
    if args.json {
        out::line(shown);
    } else {
        fields(&shown);
    }
    Ok(())
}

async fn create(args: CreateArgs) -> Result<()> {
    let app_secret = match &args.app_secret_file {
        Some(file) => secret(file)?,
        None => args.app_secret.unwrap_or_default(),
    };
    let access = match args.access {
        Access::Full => AccessType::Full,
        Access::AppFolder => AccessType::AppFolder,
    };
    let (proxy, timeouts, _) = args.network.read(secret)?;
    let policy = ParameterPolicy {
        allowed_principals: args.allow,
        permissions: args.permission.iter().map(|one| Permission::from(*one).into()).collect(),
        ..Default::default()
    };
    let parameter = ApplicationParameter {
        display_name: args.display_name,
        group: args.group,
        labels: args.label.into_iter().collect(),
        app_key: args.app_key,
        app_secret,
        app_source: if args.shared_app { AppSource::SharedApp } else { AppSource::OwnApp }.into(),
        account_kind: if args.team { AccountKind::Team } else { AccountKind::User }.into(),
        default_act_as: args.act_as.map(|member| ActAs { member: Some(act_as::Member::SelectUser(member)) }),
        scopes: args.scope,
        redirect_uris: args.redirect_uri,
        access_type: access.into(),
        path_prefix: args.path_prefix,
        policy: Some(policy),
        proxy,
        timeouts: Some(timeouts),
        ..Default::default()
    };
    let request =
        CreateApplicationParameterRequest { application_parameter_id: args.id, application_parameter: Some(parameter) };
    let admin = admin(&args.admin).await?;
    let answer =
        repeated(Repeat::IfTold, async || admin.clone().create_application_parameter(request.clone()).await).await?;
    show(&args.admin, answer.application_parameter)
}

async fn list(args: ListArgs) -> Result<()> {
    let admin = admin(&args.admin).await?;
    let mut request = ListApplicationParametersRequest { group: args.group, ..Default::default() };
    loop {
        let page =
            repeated(Repeat::Free, async || admin.clone().list_application_parameters(request.clone()).await).await?;
        for one in &page.application_parameters {
            if args.admin.json {
                out::line(json::parameter(one));
                continue;
            }
            let state = one.state().as_str_name().trim_start_matches("PARAMETER_STATE_").to_lowercase();
            let account = one.account.as_ref().map_or("", |account| &account.email);
            let (id, name) = (&one.application_parameter_id, out::plain(&one.display_name));
            out::line(format_args!("{id:24}  {state:24}  {account:32}  {name}").to_string().trim_end());
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

async fn import(args: ImportArgs) -> Result<()> {
    let token = |token: String| Credential::AccessToken(AccessToken { token, expire_time: None });
    let credential = match (&args.refresh_token_file, &args.access_token_file, args.refresh_token, args.access_token) {
        (Some(file), ..) => Credential::RefreshToken(secret(file)?),
        (_, Some(file), ..) => token(secret(file)?),
        (_, _, Some(text), _) => Credential::RefreshToken(text),
        (_, _, _, Some(text)) => token(text),
        _ => return Err(Failure::usage("give --refresh-token-file or --access-token-file")),
    };
    let request = ImportCredentialsRequest {
        application_parameter_id: args.id.unwrap_or_default(),
        credential: Some(credential),
    };
    let admin = admin(&args.admin).await?;
    let answer = repeated(Repeat::Free, async || admin.clone().import_credentials(request.clone()).await).await?;
    show(&args.admin, answer.application_parameter)
}

async fn test(args: OneArgs) -> Result<()> {
    let admin = admin(&args.admin).await?;
    let request = TestApplicationParameterRequest { application_parameter_id: args.id };
    // Once: whoever tests wants to hear how it is now, not in a minute.
    let answer = admin.clone().test_application_parameter(request).await.map_err(Failure::from)?.into_inner();
    let mut shown = answer.account.as_ref().map_or_else(|| json!({}), json::account_summary);
    shown["grantedScopes"] = json!(answer.granted_scopes);
    shown["latency"] = json!(answer.latency.as_ref().map(json::span));
    shown["proxy"] = json!(answer.proxy);
    shown["clockSkew"] = json!(answer.clock_skew.as_ref().map(json::span));
    if args.admin.json {
        out::line(shown);
    } else {
        fields(&shown);
    }
    Ok(())
}

async fn disconnect(args: OneArgs) -> Result<()> {
    let admin = admin(&args.admin).await?;
    let get = GetApplicationParameterRequest { application_parameter_id: args.id.clone() };
    let before = repeated(Repeat::Free, async || admin.clone().get_application_parameter(get.clone()).await).await?;
    let was_connected = before.application_parameter.is_some_and(|one| one.account.is_some());
    let request = RevokeAuthorizationRequest { application_parameter_id: args.id };
    // If it was done and its answer got lost, a repeat would find no grant and could not tell what Dropbox said.
    let answer = repeated(Repeat::IfTold, async || admin.clone().revoke_authorization(request.clone()).await).await?;
    if !was_connected {
        out::note("no account was connected");
    } else if !answer.revoked_at_dropbox {
        out::note(UNCONFIRMED);
    }
    show(&args.admin, answer.application_parameter)
}

const UNCONFIRMED: &str = "Dropbox did not confirm that the grant is gone: unlink the app in the account's settings at \
                           Dropbox, for a team in its admin console";

async fn delete(args: DeleteArgs) -> Result<()> {
    let request = DeleteApplicationParameterRequest { application_parameter_id: args.id, revoke: args.revoke };
    let admin = admin(&args.admin).await?;
    let answer =
        repeated(Repeat::IfTold, async || admin.clone().delete_application_parameter(request.clone()).await).await?;
    if args.revoke && !answer.revoked_at_dropbox {
        out::note(UNCONFIRMED);
    }
    Ok(())
}

async fn set_secret(args: SecretArgs) -> Result<()> {
    let admin = admin(&args.admin).await?;
    let request = UpdateApplicationParameterRequest {
        application_parameter: Some(ApplicationParameter {
            application_parameter_id: args.id,
            app_secret: secret(&args.app_secret_file)?,
            ..Default::default()
        }),
        update_mask: Some(FieldMask { paths: vec!["app_secret".into()] }),
        ..Default::default()
    };
    let answer =
        repeated(Repeat::Free, async || admin.clone().update_application_parameter(request.clone()).await).await?;
    show(&args.admin, answer.application_parameter)
}

async fn set_network(args: SetNetworkArgs) -> Result<()> {
    let (proxy, timeouts, paths) = args.network.read(secret)?;
    if paths.is_empty() {
        return Err(Failure::usage("give --proxy or a timeout"));
    }
    let parameter = ApplicationParameter {
        application_parameter_id: args.id,
        proxy,
        timeouts: Some(timeouts),
        ..Default::default()
    };
    change(&args.admin, parameter, paths).await
}

async fn update(args: UpdateArgs) -> Result<()> {
    let named = [
        ("policy.allowed_principals", !args.allow.is_empty()),
        ("policy.permissions", !args.permission.is_empty()),
        ("path_prefix", args.path_prefix.is_some()),
        ("display_name", args.display_name.is_some()),
        ("group", args.group.is_some()),
    ];
    let paths = named.iter().filter(|(_, named)| *named).map(|(path, _)| (*path).to_owned()).collect();
    let parameter = ApplicationParameter {
        application_parameter_id: args.id,
        display_name: args.display_name.unwrap_or_default(),
        group: args.group.unwrap_or_default(),
        path_prefix: args.path_prefix.unwrap_or_default(),
        policy: Some(ParameterPolicy {
            allowed_principals: args.allow.into_iter().filter(|name| !name.is_empty()).collect(),
            permissions: args.permission.iter().map(|one| Permission::from(*one).into()).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    change(&args.admin, parameter, paths).await
}

async fn set_state(args: OneArgs, state: ParameterState) -> Result<()> {
    let parameter =
        ApplicationParameter { application_parameter_id: args.id, state: state.into(), ..Default::default() };
    change(&args.admin, parameter, vec!["state".into()]).await
}

/// Changes what the paths name, and shows what came of it.
async fn change(args: &AdminArgs, parameter: ApplicationParameter, paths: Vec<String>) -> Result<()> {
    let request = UpdateApplicationParameterRequest {
        application_parameter: Some(parameter),
        update_mask: Some(FieldMask { paths }),
        ..Default::default()
    };
    let admin = admin(args).await?;
    let answer =
        repeated(Repeat::Free, async || admin.clone().update_application_parameter(request.clone()).await).await?;
    show(args, answer.application_parameter)
}

/// The secret a file holds, without the line end an editor leaves.
fn secret(file: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(drop),
        false => fs::read_to_string(file).map(|read| text = read),
    };
    read.map_err(|error| Failure::local(file, &error))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    match secret.is_empty() {
        true => Err(Failure::usage(format!("{} is empty", file.display()))),
        false => Ok(secret.to_owned()),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
