//! The vocabulary of failure: one type, one closed list of reasons, each with its remedy.
//! `service::status` turns a fault into a gRPC status; nothing here knows gRPC. Facts never hold a secret.

use std::{collections::BTreeMap, error::Error as StdError, fmt, time::Duration};

pub type Result<T, E = Fault> = std::result::Result<T, E>;

macro_rules! reasons {
    ($($variant:ident, $name:literal, $remedy:literal;)*) => {
        /// Why a call failed. One variant per `ErrorReason` of the proto.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($variant,)* }

        impl Reason {
            /// Every reason, in the order of its name.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The wire name: the `ErrorReason` value without its `ERROR_REASON_` prefix.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// What the developer of the caller can do about it, in one sentence.
            pub fn remedy(self) -> &'static str {
                match self { $(Reason::$variant => $remedy,)* }
            }
        }
    };
}

reasons! {
    AccountMismatch, "ACCOUNT_MISMATCH", "authorize with the account that is linked, or set allow_account_change; begin a stream again from its start";
    AccountSuspended, "ACCOUNT_SUSPENDED", "ask the owner of the Dropbox account to have it reinstated, then call again";
    AccountType, "ACCOUNT_TYPE", "use an account of the kind and plan that this needs";
    ActAsInvalid, "ACT_AS_INVALID", "set context.act_as to an active member of the linked team";
    ActAsNotAllowed, "ACT_AS_NOT_ALLOWED", "have an administrator allow act_as in the parameter's policy";
    AlreadyMounted, "ALREADY_MOUNTED", "use the folder where it is mounted";
    AlreadyShared, "ALREADY_SHARED", "use the shared folder named in sharedFolderId";
    ApplicationParameterExists, "APPLICATION_PARAMETER_EXISTS", "choose another id, or update the existing application parameter";
    ApplicationParameterMismatch, "APPLICATION_PARAMETER_MISMATCH", "send the application parameter id once, in the field or in the metadata";
    ApplicationParameterNotFound, "APPLICATION_PARAMETER_NOT_FOUND", "check the id, or create the application parameter on the admin service";
    AuthorizationCodeRejected, "AUTHORIZATION_CODE_REJECTED", "begin the authorization again and use the new code once, within its lifetime";
    AuthorizationDenied, "AUTHORIZATION_DENIED", "ask the user to approve the authorization";
    AuthorizationStateExpired, "AUTHORIZATION_STATE_EXPIRED", "begin the authorization again";
    BadMember, "BAD_MEMBER", "correct the member named in the violation";
    CallerKeysUnavailable, "CALLER_KEYS_UNAVAILABLE", "wait for the delay and call again; the connector cannot read the keys of the tokens' issuer";
    CallerNotAllowed, "CALLER_NOT_ALLOWED", "have an administrator add your principal to the parameter's policy, or to admin_principals for the admin service";
    CallerUnauthenticated, "CALLER_UNAUTHENTICATED", "send a valid credential for this connector in the authorization metadata";
    Cancelled, "CANCELLED", "call again if the result is still wanted";
    CannotMount, "CANNOT_MOUNT", "see rule for what prevents it";
    CannotShare, "CANNOT_SHARE", "see rule for what prevents sharing this folder";
    CaseConflict, "CASE_CONFLICT", "use the existing name given in existingPath";
    CheckpointTakenOver, "CHECKPOINT_TAKEN_OVER", "run one consumer per checkpoint name";
    ChunkCrcMismatch, "CHUNK_CRC_MISMATCH", "send the chunk again on a new stream; the bytes were damaged before they reached the connector";
    ChunkTooLarge, "CHUNK_TOO_LARGE", "send chunks of at most maxChunkBytes of data";
    ConnectorBug, "CONNECTOR_BUG", "report it with the request id";
    ConnectorBusy, "CONNECTOR_BUSY", "wait for the delay and call again, or raise the connector's limits";
    ContentChanged, "CONTENT_CHANGED", "start the download again from the beginning";
    ContentHashMismatch, "CONTENT_HASH_MISMATCH", "send the file again in a new upload; what arrived is not what the hash names";
    ContentNotReady, "CONTENT_NOT_READY", "wait for the delay and call again";
    CredentialsRejected, "CREDENTIALS_REJECTED", "import a refresh token or access token that Dropbox accepts for this app";
    CursorReset, "CURSOR_RESET", "start the listing again from its first page";
    DataTransportLimit, "DATA_TRANSPORT_LIMIT", "wait for the next month or raise the plan's data transport limit";
    DeadlineExceeded, "DEADLINE_EXCEEDED", "call again with a longer deadline; look first if sent is true";
    DisallowedName, "DISALLOWED_NAME", "choose a name Dropbox allows";
    DropboxAccessDenied, "DROPBOX_ACCESS_DENIED", "give the linked account access to the object";
    DropboxBadRequest, "DROPBOX_BAD_REQUEST", "report it with the request id; the connector built a request that Dropbox refuses";
    DropboxError, "DROPBOX_ERROR", "see dropboxTag in Dropbox's documentation";
    DropboxInternal, "DROPBOX_INTERNAL", "wait for the delay and call again";
    DropboxProtocol, "DROPBOX_PROTOCOL", "report it with the request id; Dropbox's answer could not be read";
    DropboxUnavailable, "DROPBOX_UNAVAILABLE", "wait for the delay and call again";
    DuplicatePaths, "DUPLICATE_PATHS", "name each path once and do not nest them";
    EmailUnverified, "EMAIL_UNVERIFIED", "verify the e-mail address of the Dropbox account";
    EncryptedFolder, "ENCRYPTED_FOLDER", "use a folder without end-to-end encryption";
    EtagMismatch, "ETAG_MISMATCH", "read the application parameter again, and repeat the change if it is still wanted";
    ExportFormat, "EXPORT_FORMAT", "ask for one of the item's export formats";
    ExtractionFailed, "EXTRACTION_FAILED", "use another source file";
    ExtractionUnsupported, "EXTRACTION_UNSUPPORTED", "use a format this extraction supports";
    FileRequestsDisabled, "FILE_REQUESTS_DISABLED", "have the team's administrator allow file requests";
    FileRequestAccess, "FILE_REQUEST_ACCESS", "link an account that owns the file request";
    FileRequestLimit, "FILE_REQUEST_LIMIT", "delete file requests that are no longer needed";
    FileRequestNotFound, "FILE_REQUEST_NOT_FOUND", "check the file request id";
    FileRequestOpen, "FILE_REQUEST_OPEN", "close the file request first, or set close_first";
    FileTooLarge, "FILE_TOO_LARGE", "send a file of at most limitBytes";
    FilterRequired, "FILTER_REQUIRED", "give at least one include glob";
    FolderTooLarge, "FOLDER_TOO_LARGE", "take parts of the folder";
    FrameOrder, "FRAME_ORDER", "send spec or resume_upload_id once and first, then chunks, then finish";
    HandleKeyRetired, "HANDLE_KEY_RETIRED", "start again; the key that sealed the handle is gone";
    HandleMalformed, "HANDLE_MALFORMED", "send the handle back exactly as it was given, to the RPC it belongs to";
    HandleNotYours, "HANDLE_NOT_YOURS", "use handles only with the application parameter they were given for";
    InsufficientSpace, "INSUFFICIENT_SPACE", "free space in the Dropbox account or raise its quota";
    InvalidField, "INVALID_FIELD", "correct the fields named in the violations";
    InvalidLocation, "INVALID_LOCATION", "choose another destination folder";
    InvalidRevision, "INVALID_REVISION", "use a revision of this file";
    InvalidUrl, "INVALID_URL", "correct the url";
    InviteLimit, "INVITE_LIMIT", "invite fewer members, or later";
    ItemLocked, "ITEM_LOCKED", "ask the lock's holder to release it";
    JobNotFound, "JOB_NOT_FOUND", "check the job id; jobs are forgotten after a while";
    LinksNotAllowed, "LINKS_NOT_ALLOWED", "change the account's or item's link settings";
    LinkExpired, "LINK_EXPIRED", "ask for a new link";
    LinkSettings, "LINK_SETTINGS", "correct the link settings";
    LinkSettingsNotAllowed, "LINK_SETTINGS_NOT_ALLOWED", "use settings that the account's plan and policy allow";
    LinkType, "LINK_TYPE", "use a link of a supported type";
    LockNotPossible, "LOCK_NOT_POSSIBLE", "lock files in shared folders only";
    MalformedPath, "MALFORMED_PATH", "correct the path";
    MemberRequired, "MEMBER_REQUIRED", "set context.act_as, or default_act_as of the parameter";
    MemberRole, "MEMBER_ROLE", "see rule for what the member's role prevents";
    NotAFile, "NOT_A_FILE", "name a file, or set kind";
    NotAFolder, "NOT_A_FOLDER", "name a folder";
    NotDownloadable, "NOT_DOWNLOADABLE", "ask for an export format, if exportFormats names one";
    NoWritePermission, "NO_WRITE_PERMISSION", "give the linked account write access";
    OffsetGap, "OFFSET_GAP", "go on at persistedOffset";
    OutcomeUnknown, "OUTCOME_UNKNOWN", "look whether the change happened before you repeat it";
    OutsideJail, "OUTSIDE_JAIL", "use a parameter without path_prefix";
    OwnershipTransfer, "OWNERSHIP_TRANSFER", "set allow_ownership_transfer if ownership may change";
    PageTokenExpired, "PAGE_TOKEN_EXPIRED", "start the listing again from its first page";
    PageTokenMismatch, "PAGE_TOKEN_MISMATCH", "repeat the arguments the page token was given for";
    PaperContent, "PAPER_CONTENT", "correct the content";
    PaperDisabled, "PAPER_DISABLED", "have Paper enabled for the account";
    PaperRevisionConflict, "PAPER_REVISION_CONFLICT", "read the document again and merge";
    PaperState, "PAPER_STATE", "restore the document first";
    PaperTooLarge, "PAPER_TOO_LARGE", "send less content";
    ParameterDisabled, "PARAMETER_DISABLED", "enable the application parameter on the admin service";
    PathConflict, "PATH_CONFLICT", "choose another path, or autorename, or overwrite";
    PathNotFound, "PATH_NOT_FOUND", "check the path";
    PathRootAccess, "PATH_ROOT_ACCESS", "use a namespace the account may enter";
    PathRootChanged, "PATH_ROOT_CHANGED", "use rootNamespaceId, or leave the path root to the connector";
    PathRootNotAllowed, "PATH_ROOT_NOT_ALLOWED", "have an administrator allow path roots in the parameter's policy";
    Properties, "PROPERTIES", "correct the properties";
    ProxyAuthRequired, "PROXY_AUTH_REQUIRED", "set the proxy's user and password in the application parameter";
    ProxyAuthUnsupported, "PROXY_AUTH_UNSUPPORTED", "use a proxy with basic authentication";
    ProxyUnavailable, "PROXY_UNAVAILABLE", "wait for the delay and call again, or check the proxy";
    RateLimited, "RATE_LIMITED", "wait for the delay and call again, with fewer calls at once";
    RawApiDisabled, "RAW_API_DISABLED", "have an administrator grant RAW in the parameter's policy";
    RawJson, "RAW_JSON", "correct the argument";
    RawResponseTooLarge, "RAW_RESPONSE_TOO_LARGE", "ask for less at a time";
    RawRouteDenied, "RAW_ROUTE_DENIED", "use the RPC made for it, or have raw_allow name the route";
    RawRouteStyle, "RAW_ROUTE_STYLE", "use UploadFile or DownloadFile for routes with a body";
    ReadOffsetBeyondEnd, "READ_OFFSET_BEYOND_END", "read from an offset within the file";
    ReadOnlyStore, "READ_ONLY_STORE", "change the file the parameters come from";
    ReauthorizationRequired, "REAUTHORIZATION_REQUIRED", "connect the Dropbox account again: dropbox-connector connect, the connect page, or BeginAuthorization on the admin service";
    RedirectUriNotAllowed, "REDIRECT_URI_NOT_ALLOWED", "put exactly this value into oauth_redirect_uris, or redirect_uris of the parameter, and register it in the App Console";
    RejectedByDropbox, "REJECTED_BY_DROPBOX", "correct the argument Dropbox names";
    RelocationNotAllowed, "RELOCATION_NOT_ALLOWED", "see rule for what prevents it";
    RequestIdReused, "REQUEST_ID_REUSED", "use a new request id for another request";
    RestrictedContent, "RESTRICTED_CONTENT", "Dropbox does not serve this content; choose another file";
    ResumeTokenExpired, "RESUME_TOKEN_EXPIRED", "start again from a snapshot";
    ResumeTokenMismatch, "RESUME_TOKEN_MISMATCH", "repeat the arguments the resume token was given for";
    RevisionConflict, "REVISION_CONFLICT", "read the item again and decide";
    RevisionGone, "REVISION_GONE", "start the download again without rev";
    RouteNotAvailable, "ROUTE_NOT_AVAILABLE", "use another app or route";
    ScopeMissing, "SCOPE_MISSING", "add requiredScope to the app and connect the account again";
    SearchArgument, "SEARCH_ARGUMENT", "correct the query";
    ServerDraining, "SERVER_DRAINING", "wait for the delay and call again; another replica will answer";
    SharedFolderAccess, "SHARED_FOLDER_ACCESS", "ask the folder's owner for access";
    SharedFolderNotFound, "SHARED_FOLDER_NOT_FOUND", "check the shared folder id";
    SharedLinkAccess, "SHARED_LINK_ACCESS", "give the link's password, or use an account that may open it";
    SharedLinkExists, "SHARED_LINK_EXISTS", "use the existing link, or set return_existing";
    SharedLinkNotFound, "SHARED_LINK_NOT_FOUND", "check the url; the link may be revoked";
    SharingPolicy, "SHARING_POLICY", "see rule for the policy that prevents it";
    SizeMismatch, "SIZE_MISMATCH", "send exactly total_size bytes";
    StoreNotConfigured, "STORE_NOT_CONFIGURED", "configure a store";
    StoreUnavailable, "STORE_UNAVAILABLE", "wait for the delay and call again; the connector's store does not answer";
    SyncSettings, "SYNC_SETTINGS", "correct the sync settings";
    TagLimit, "TAG_LIMIT", "remove tags first";
    TeamFolderLimit, "TEAM_FOLDER_LIMIT", "archive or delete team folders";
    TeamFolderNotFound, "TEAM_FOLDER_NOT_FOUND", "check the team folder id";
    TeamFolderState, "TEAM_FOLDER_STATE", "bring the team folder into the state needed";
    TeamLinkRequired, "TEAM_LINK_REQUIRED", "use a parameter linked to a team";
    TooManyFiles, "TOO_MANY_FILES", "use smaller pieces";
    TransferNotPossible, "TRANSFER_NOT_POSSIBLE", "use another source or target";
    UploadClosed, "UPLOAD_CLOSED", "commit the upload, or start a new one";
    UploadConcurrentWriter, "UPLOAD_CONCURRENT_WRITER", "stop the other writer, then resume from persistedOffset";
    UploadIdle, "UPLOAD_IDLE", "resume the upload and send without long pauses";
    UploadNotFound, "UPLOAD_NOT_FOUND", "start a new upload";
    UploadOpen, "UPLOAD_OPEN", "resume the upload at persistedOffset, send the rest and finish, then commit it";
    UploadTakenOver, "UPLOAD_TAKEN_OVER", "let one stream write an upload";
    UpstreamTimeout, "UPSTREAM_TIMEOUT", "wait for the delay and call again, or raise the parameter's timeouts";
    UrlFetchFailed, "URL_FETCH_FAILED", "check that Dropbox can fetch the url";
    WriteContention, "WRITE_CONTENTION", "wait for the delay and call again, with fewer writes at once";
}

/// What went wrong, for whom, and whether the same request may be sent again.
pub struct Fault(Box<Inner>);

struct Inner {
    reason: Reason,
    message: String,
    facts: BTreeMap<&'static str, String>,
    violations: Vec<Violation>,
    resource: Option<Resource>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    /// Instead of the reason's, where more is known.
    remedy: Option<String>,
}

/// One field of the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request, as in proto JSON but snake_case: `spec.total_size`.
    pub field: String,
    /// UPPER_SNAKE_CASE: `REQUIRED`, `OUT_OF_RANGE`, `MALFORMED`, …
    pub reason: &'static str,
    pub description: String,
}

/// The object a fault is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `dropbox.item`, `upload`, `application_parameter`, …
    pub kind: &'static str,
    pub name: String,
}

impl Fault {
    /// `message`: lower case, no full stop, says what was wrong and what to do.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            reason,
            message: message.into(),
            facts: BTreeMap::new(),
            violations: Vec::new(),
            resource: None,
            retry_after: None,
            source: None,
            remedy: None,
        }))
    }

    /// A single wrong field.
    pub fn field(field: impl Into<String>, reason: &'static str, description: impl Into<String>) -> Self {
        let description = description.into();
        let field = field.into();
        Fault::new(Reason::InvalidField, format!("{field}: {description}")).violation(field, reason, description)
    }

    /// A state that the code holds to be impossible. Callers see only the request id.
    pub fn bug(message: impl Into<String>) -> Self {
        Fault::new(Reason::ConnectorBug, message)
    }

    #[must_use]
    pub fn fact(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.facts.insert(key, value.to_string());
        self
    }

    /// A fact, where there is one to tell.
    #[must_use]
    pub fn fact_if(self, key: &'static str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.fact(key, value),
            None => self,
        }
    }

    #[must_use]
    pub fn violation(mut self, field: impl Into<String>, reason: &'static str, text: impl Into<String>) -> Self {
        self.0.violations.push(Violation { field: field.into(), reason, description: text.into() });
        self
    }

    #[must_use]
    pub fn resource(mut self, kind: &'static str, name: impl Into<String>) -> Self {
        self.0.resource = Some(Resource { kind, name: name.into() });
        self
    }

    /// About this application parameter, whose id callers find under one name in every refusal.
    #[must_use]
    pub fn parameter(self, id: impl Into<String>) -> Self {
        let id = id.into();
        self.fact("applicationParameterId", &id).resource("application_parameter", id)
    }

    /// The same request may be sent again, unchanged, after this delay.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// The same request must not simply be sent again, whatever was thought before.
    #[must_use]
    pub fn not_retryable(mut self) -> Self {
        self.0.retry_after = None;
        self
    }

    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same failure told by another reason; facts, violations and retry stay.
    #[must_use]
    pub fn with_reason(mut self, reason: Reason) -> Self {
        self.0.reason = reason;
        self
    }

    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    /// The same failure for another caller whom it meets, too. Of its source the text is kept.
    #[must_use]
    pub fn told_again(&self) -> Fault {
        let source = self.0.source.as_ref().map(|source| source.to_string().into());
        Fault(Box::new(Inner {
            reason: self.0.reason,
            message: self.0.message.clone(),
            facts: self.0.facts.clone(),
            violations: self.0.violations.clone(),
            resource: self.0.resource.clone(),
            retry_after: self.0.retry_after,
            source,
            remedy: self.0.remedy.clone(),
        }))
    }

    /// What is to be done here, where that is not what the reason says.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// What is to be done about it.
    pub fn remedy(&self) -> &str {
        self.0.remedy.as_deref().unwrap_or_else(|| self.0.reason.remedy())
    }

    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn facts(&self) -> &BTreeMap<&'static str, String> {
        &self.0.facts
    }

    /// The facts a caller is told: those that rooms only tell each other are left out.
    pub fn told_facts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        const INTERNAL: [&str; 5] = ["correctOffset", "earlierAttempt", "lookFor", "underWay", "uploadSessionId"];
        let told = self.0.facts.iter().filter(|(key, _)| !INTERNAL.contains(key));
        told.map(|(key, value)| (*key, value.as_str()))
    }

    /// What a caller is told to do; nothing, where the same request may simply come again.
    pub fn told_remedy(&self) -> Option<&str> {
        self.0.retry_after.is_none().then(|| self.remedy())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.facts.get(key).map(String::as_str)
    }

    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    pub fn about(&self) -> Option<&Resource> {
        self.0.resource.as_ref()
    }

    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.reason.name(), self.0.message)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { reason, message, facts, violations, resource, retry_after, source, remedy } = &*self.0;
        f.debug_struct("Fault")
            .field("reason", reason)
            .field("message", message)
            .field("facts", facts)
            .field("violations", violations)
            .field("resource", resource)
            .field("retry_after", retry_after)
            .field("source", source)
            .field("remedy", remedy)
            .finish()
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_wire_name_and_a_remedy_fit_for_metadata() {
        for pair in Reason::ALL.windows(2) {
            assert!(pair[0].name() < pair[1].name(), "{} is out of order", pair[1].name());
        }
        for reason in Reason::ALL {
            assert!(!reason.remedy().is_empty() && reason.remedy().len() <= 256 && reason.remedy().is_ascii());
        }
    }

    #[test]
    fn a_fault_is_one_pointer_wide() {
        assert_eq!(size_of::<Fault>(), size_of::<usize>());
    }
}
