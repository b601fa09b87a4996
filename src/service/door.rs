//! How a body gets from a request to Dropbox: which parameter, with which rights, inside which jail, through which gate.
//! After `enter` there is no permission check anywhere.

use std::{borrow::Cow, sync::Arc, time::Instant};

use serde::{Serialize, de::DeserializeOwned};
use tokio_util::task::TaskTracker;

use dropbox_sdk::types::files;

use super::call::Call;
use crate::{
    access::Permissions,
    api::v1 as api,
    clock::SharedClock,
    convert::{
        self, AskedActAs, AskedContext, AskedRoot,
        items::paths,
        path::{ItemPath, Jail},
    },
    credentials::{Ask, Ending, Opened, Resolver},
    dropbox::{ActAs, Answer, Caller, CommitRoute, Rates, Root, Route, Turn, routes},
    engine::{
        batches::{Batches, Change},
        gate::{Gates, NamespaceKey},
    },
    fault::{Fault, Reason, Result},
    seal::{KeyRing, Owner},
    store::{ParameterId, Parameters, Store},
};

/// What every body needs. Clones are cheap.
#[derive(Clone)]
pub struct Door {
    pub resolver: Arc<Resolver>,
    pub store: Store,
    pub keys: Arc<KeyRing>,
    pub gates: Arc<Gates>,
    pub batches: Batches,
    pub clock: SharedClock,
    /// What goes on beside the calls that began it; a drain waits for it.
    pub tasks: TaskTracker,
}

/// A request that names an application parameter.
pub trait Addressed {
    fn parameter_id(&self) -> &str;
    fn context(&self) -> Option<&api::RequestContext>;
}

macro_rules! addressed {
    ($($request:ident),* $(,)?) => {
        $(impl Addressed for api::$request {
            fn parameter_id(&self) -> &str {
                &self.application_parameter_id
            }

            fn context(&self) -> Option<&api::RequestContext> {
                self.context.as_ref()
            }
        })*
    };
}

addressed! {
    AcknowledgeEventsRequest, GetEventTokenRequest, PullEventsRequest, WatchEventsRequest,
    CallApiRequest, CommitUploadsRequest, CopyItemRequest, CreateFolderRequest, CreateSharedLinkRequest, DeleteItemRequest,
    DownloadFileRequest, GetAccountRequest, GetFileLinkRequest, GetItemRequest, GetUploadStatusRequest,
    ListFolderRequest, ListSharedLinksRequest, MoveItemRequest, PlanSyncRequest, RevokeSharedLinkRequest, SearchItemsRequest,
    StartUploadRequest, UploadFileDuplexRequest, UploadFileRequest, WalkFolderRequest,
}

/// One call's view of one application parameter. Clones are cheap.
#[derive(Clone)]
pub struct Site(Arc<Inside>);

#[derive(Clone)]
struct Inside {
    door: Door,
    opened: Opened,
    jail: Jail,
    context: AskedContext,
    /// What handles are bound to where no account is known.
    nameless: Option<Box<str>>,
}

impl Door {
    /// Opens the parameter a request names and runs `body` in it. A path root that changed at Dropbox is read again, once.
    ///
    /// # Errors
    /// What the policy refuses; what `body` fails with, told as the jail allows.
    pub async fn enter<Q, T, F, Fut>(&self, call: &Call, request: &Q, extra: Permissions, body: F) -> Result<T>
    where
        Q: Addressed,
        F: Fn(Site) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let site = self.open(call, request, extra).await?;
        let mut outcome = body(site.clone()).await;
        let root_changed = |fault: &Fault| fault.reason() == Reason::PathRootChanged && site.root_is_ours();
        if outcome.as_ref().err().is_some_and(root_changed) {
            self.resolver.forget_root(&site.parameters().id);
            // Rare: no call keeps room for it.
            let site = Box::pin(self.open(call, request, extra)).await?;
            outcome = Box::pin(body(site)).await;
        }
        outcome.map_err(|fault| site.told(fault))
    }

    /// # Errors
    /// `INVALID_FIELD`, `APPLICATION_PARAMETER_MISMATCH`, and what the resolver refuses.
    pub async fn open<Q: Addressed>(&self, call: &Call, request: &Q, extra: Permissions) -> Result<Site> {
        let context = convert::context(request.context())?;
        self.open_as(call, request.parameter_id(), context, extra).await
    }

    /// Whose share of the process a stream takes whose parameter is not opened yet: that of the parameter it names if its
    /// caller may use it for all that is known, else the one of all others.
    pub fn tenant(&self, call: &Call, named: &str) -> String {
        let id = named_parameter(call, named).ok().filter(|id| self.resolver.admits(id, call.principal()));
        id.map(|id| id.as_str().to_owned()).unwrap_or_default()
    }

    /// The same for one that waits for the store first: a parameter that exists is the one it names.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn tenant_read(&self, call: &Call, named: &str) -> Result<String> {
        match named_parameter(call, named) {
            Ok(id) if self.resolver.would_admit(&id, call.principal()).await? => Ok(id.as_str().to_owned()),
            _ => Ok(String::new()),
        }
    }

    pub async fn open_as(
        &self,
        call: &Call,
        parameter_id: &str,
        context: AskedContext,
        extra: Permissions,
    ) -> Result<Site> {
        let id = named_parameter(call, parameter_id)?;
        call.name_parameter(id.as_str());
        let act_as = context.act_as.clone().map(|act_as| match act_as {
            AskedActAs::User(member) => ActAs::User(member),
            AskedActAs::Admin(member) => ActAs::Admin(member),
        });
        let asked_root = context.root.clone().map(|root| match root {
            AskedRoot::Home => Root::Home,
            AskedRoot::Root(id) => Root::Root(id),
            AskedRoot::Namespace(id) => Root::Namespace(id),
        });
        let ask = Ask {
            principal: call.principal().clone(),
            permissions: call.permissions() | extra,
            act_as,
            root: asked_root,
            deadline: call.deadline(),
        };
        let told = |fault: Fault| fault.fact("applicationParameterId", id.as_str());
        let mut opened = self.resolver.open(&id, ask).await.map_err(told)?;
        opened.caller = opened.caller.heard_by(call.heard().clone());
        let _ = call.facts().ending.set(opened.ending.clone());
        let jail = Jail::new(&opened.parameters.settings.path_prefix)?;
        if !jail.is_open() && context.root.is_some() {
            return Err(told(Jail::refusal()));
        }
        let nameless = match opened.parameters.bound_to() {
            Cow::Borrowed(_) => None,
            Cow::Owned(bound_to) => Some(bound_to.into()),
        };
        Ok(Site(Arc::new(Inside { door: self.clone(), opened, jail, context, nameless })))
    }
}

/// The id in the field, else the one in the metadata; both only if they are one.
fn named_parameter(call: &Call, field: &str) -> Result<ParameterId> {
    let id = match (field, call.parameter_metadata()) {
        ("", None) => {
            let text = "name an application parameter here or in the metadata x-application-parameter-id";
            return Err(Fault::field("application_parameter_id", "REQUIRED", text));
        }
        ("", Some(metadata)) => metadata,
        (field, Some(metadata)) if field != metadata => {
            let text = "the field and the metadata x-application-parameter-id name different application parameters";
            return Err(Fault::new(Reason::ApplicationParameterMismatch, text));
        }
        (field, _) => field,
    };
    ParameterId::new(id)
}

/// Who is told something: what is left of a site when only that is to be done. Thousands of watches keep one each.
pub struct Audience {
    jail: Jail,
    parameters: Arc<Parameters>,
    /// The root was chosen by us, so that it may be chosen again.
    resolver: Option<Arc<Resolver>>,
}

impl Audience {
    pub fn jail(&self) -> &Jail {
        &self.jail
    }

    /// A fault as this caller may see it.
    pub fn told(&self, fault: Fault) -> Fault {
        if let (Reason::PathRootChanged, Some(resolver)) = (fault.reason(), &self.resolver) {
            // The next call asks Dropbox again.
            resolver.forget_root(&self.parameters.id);
        }
        let fault = self.jail.told(fault);
        if fault.get("applicationParameterId").is_some() {
            return fault;
        }
        fault.fact("applicationParameterId", self.parameters.id.as_str())
    }
}

impl Site {
    pub fn caller(&self) -> &Caller {
        &self.0.opened.caller
    }

    pub fn parameters(&self) -> &Arc<Parameters> {
        &self.0.opened.parameters
    }

    /// The same with time for a look at what a write did: its caller's deadline may be what ended that.
    #[must_use]
    pub fn for_a_look(&self) -> Site {
        let mut inside = (*self.0).clone();
        inside.opened.caller = inside.opened.caller.for_a_look();
        Site(Arc::new(inside))
    }

    /// The same with time until then, whatever its caller has left.
    #[must_use]
    pub fn until(&self, end: Instant) -> Site {
        let mut inside = (*self.0).clone();
        inside.opened.caller = inside.opened.caller.with_deadline(Some(end));
        Site(Arc::new(inside))
    }

    pub fn jail(&self) -> &Jail {
        &self.0.jail
    }

    /// How fast bytes may move, by the parameter's policy as it now is.
    pub fn rates(&self) -> Rates {
        self.0.opened.ending.rates()
    }

    /// When the parameter may not be used any more.
    pub fn ending(&self) -> Ending {
        self.0.opened.ending.clone()
    }

    pub fn owner(&self) -> Owner<'_> {
        let Parameters { uid, .. } = &*self.0.opened.parameters;
        Owner { uid, account: self.0.nameless.as_deref().unwrap_or_else(|| self.parameters().account_id()) }
    }

    pub fn keys(&self) -> &KeyRing {
        &self.0.door.keys
    }

    pub fn door(&self) -> &Door {
        &self.0.door
    }

    pub fn context(&self) -> &AskedContext {
        &self.0.context
    }

    /// As whom it acts; `None` for the linked account itself.
    pub fn act_as(&self) -> Option<&ActAs> {
        self.0.opened.act_as.as_ref()
    }

    pub fn root(&self) -> Option<&Root> {
        self.0.opened.root.as_ref()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.0.opened.caller.deadline()
    }

    /// A fault as this caller may see it.
    pub fn told(&self, fault: Fault) -> Fault {
        self.audience().told(fault)
    }

    /// For a stream that goes on telling and asks nothing more of Dropbox.
    pub fn audience(&self) -> Audience {
        let resolver = self.root_is_ours().then(|| self.0.door.resolver.clone());
        Audience { jail: self.jail().clone(), parameters: self.parameters().clone(), resolver }
    }

    /// The root was chosen by us and not by the caller, so that we may choose again.
    fn root_is_ours(&self) -> bool {
        self.0.opened.auto_root
    }

    /// Calls a route that takes no namespace lock.
    pub async fn read<A: Serialize, R: DeserializeOwned>(&self, route: &Route<A, R>, arg: &A) -> Result<R> {
        Ok(self.0.opened.caller.call(route, arg).await?.value)
    }

    /// Waits for the turn of every namespace the paths lie in, then commits.
    pub async fn write<A: Serialize, R: DeserializeOwned>(
        &self,
        paths: &[&str],
        route: &CommitRoute<A, R>,
        arg: &A,
    ) -> Result<R> {
        Ok(self.write_answer(paths, route, arg).await?.value)
    }

    /// As [`Site::write`], with Dropbox's request id.
    pub async fn write_answer<A: Serialize, R: DeserializeOwned>(
        &self,
        paths: &[&str],
        route: &CommitRoute<A, R>,
        arg: &A,
    ) -> Result<Answer<R>> {
        let held = self.turn(paths).await?;
        self.0.opened.caller.commit(&held, route, arg).await
    }

    /// Waits for the turn of every namespace the paths lie in, for commits that belong together.
    pub async fn turn(&self, paths: &[&str]) -> Result<Turn> {
        self.0.door.gates.turn(self.caller().parameter(), &self.namespaces(paths), self.deadline()).await
    }

    /// A change that goes together with others of its kind if it meets them at the gate of these paths.
    pub async fn change(&self, paths: &[&str], change: Change) -> Result<files::Metadata> {
        // On the heap: it is the size of two calls.
        Box::pin(self.0.door.batches.run(self.caller(), &self.namespaces(paths), change)).await
    }

    fn namespaces(&self, paths: &[&str]) -> Vec<NamespaceKey> {
        let account = self.owner().account;
        paths.iter().map(|path| self.0.door.gates.key_for(account, self.root(), path)).collect()
    }

    /// What Dropbox knows of an item.
    pub async fn metadata(&self, path: &str) -> Result<files::Metadata> {
        let metadata = self.read(&routes::GET_METADATA, &files::GetMetadataArg::new(path.to_owned())).await?;
        self.learn(&metadata);
        Ok(metadata)
    }

    /// Remembers which namespace the item's folder is in: its writes then wait at the right gate.
    pub fn learn(&self, metadata: &files::Metadata) {
        let folder = paths(metadata).0.and_then(|path| path.rsplit_once('/')).map(|(folder, _)| folder);
        if let (Some(folder), Some(namespace)) = (folder, convert::items::parent_shared_folder_id(metadata)) {
            self.0.door.gates.learn(self.owner().account, self.root(), folder, namespace);
        }
    }

    /// Where a path of the request lies at Dropbox, for a read. Nothing outside the jail is told to exist.
    pub async fn place(&self, path: &ItemPath) -> Result<String> {
        self.placed(path, false).await
    }

    /// As [`Site::place`] for a change: an id is sent as the path it was found at, so that nothing slips out meanwhile.
    pub async fn place_for_change(&self, path: &ItemPath) -> Result<String> {
        self.placed(path, true).await
    }

    async fn placed(&self, path: &ItemPath, changes: bool) -> Result<String> {
        let jail = &self.0.jail;
        if jail.is_open() {
            return Ok(path.as_str().to_owned());
        }
        match path {
            ItemPath::Plain(plain) => Ok(jail.absolute(plain)),
            ItemPath::Namespace(_) => Err(Jail::refusal()),
            ItemPath::Id(named) | ItemPath::Rev(named) => {
                let found = self.metadata(named).await?;
                let inside = paths(&found).0.filter(|lower| jail.holds(Some(lower)));
                let lower = inside.ok_or_else(|| Jail::not_found(named))?;
                if changes && jail.relative(lower) == Some("") {
                    return Err(Jail::refusal());
                }
                let by_path = changes || matches!(path, ItemPath::Id(_));
                Ok(if by_path { lower.to_owned() } else { named.clone() })
            }
        }
    }
}
