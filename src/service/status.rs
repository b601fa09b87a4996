//! Fault → gRPC status, the one place that builds google.rpc values: code, details, trailers, all cut to size.
//! The table of reasons is API-DESIGN (b). A caller needs only `ErrorInfo.reason` and whether RetryInfo is there.

use std::{collections::HashMap, time::Duration};

use prost::Message;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::pb;

use crate::fault::{Fault, Reason};

/// `ErrorInfo.domain` of everything this process refuses.
pub const DOMAIN: &str = "dropboxconnector";
/// Clients may cap trailers at 8 KiB and reset the stream beyond; base64 adds a third.
const DETAILS_BYTES_MAX: usize = 4608;
const MESSAGE_BYTES_MAX: usize = 512;
const FACT_BYTES_MAX: usize = 256;
const UPLOAD_ID_BYTES_MAX: usize = 3328;
const VIOLATIONS_MAX: usize = 32;

/// Turns a fault into the status a caller sees. `request_id` ties it to the log line of the call.
pub fn refusal(fault: &Fault, request_id: &str) -> Status {
    let reason = fault.reason();
    let code = code(reason);
    let hidden = reason == Reason::ConnectorBug;
    if hidden {
        tracing::error!(request_id, fault = ?fault, "connector bug");
    }
    let message =
        if hidden { "internal error; report it with the request id".to_owned() } else { ascii(fault.message()) };
    let details = Details::of(fault, request_id, hidden).encode(code, &message);
    Status::with_details_and_metadata(code, message, details.into(), trailers(fault))
}

/// The gRPC code a reason travels under.
pub fn code(reason: Reason) -> Code {
    use Reason::*;
    match reason {
        ActAsInvalid
        | ApplicationParameterMismatch
        | AuthorizationCodeRejected
        | BadMember
        | ChunkTooLarge
        | CredentialsRejected
        | DisallowedName
        | DuplicatePaths
        | ExportFormat
        | FileTooLarge
        | FilterRequired
        | FrameOrder
        | HandleMalformed
        | InvalidField
        | InvalidRevision
        | InvalidUrl
        | LinkSettings
        | MalformedPath
        | PageTokenExpired
        | PageTokenMismatch
        | PaperContent
        | PaperTooLarge
        | Properties
        | RawJson
        | RawRouteStyle
        | RedirectUriNotAllowed
        | RejectedByDropbox
        | RequestIdReused
        | ResumeTokenMismatch
        | SearchArgument
        | SizeMismatch
        | SyncSettings => Code::InvalidArgument,
        CallerUnauthenticated => Code::Unauthenticated,
        ActAsNotAllowed
        | CallerNotAllowed
        | DropboxAccessDenied
        | FileRequestAccess
        | HandleNotYours
        | LinkSettingsNotAllowed
        | LinksNotAllowed
        | NoWritePermission
        | OutsideJail
        | PathRootAccess
        | PathRootNotAllowed
        | RawApiDisabled
        | RawRouteDenied
        | RouteNotAvailable
        | ScopeMissing
        | SharedFolderAccess
        | SharedLinkAccess => Code::PermissionDenied,
        ApplicationParameterNotFound
        | FileRequestNotFound
        | JobNotFound
        | PathNotFound
        | SharedFolderNotFound
        | SharedLinkNotFound
        | TeamFolderNotFound
        | UploadNotFound => Code::NotFound,
        AlreadyMounted
        | AlreadyShared
        | ApplicationParameterExists
        | CaseConflict
        | PathConflict
        | SharedLinkExists => Code::AlreadyExists,
        AccountMismatch
        | AccountSuspended
        | AccountType
        | AuthorizationDenied
        | AuthorizationStateExpired
        | CannotMount
        | CannotShare
        | EmailUnverified
        | EncryptedFolder
        | ExtractionFailed
        | ExtractionUnsupported
        | FileRequestOpen
        | FileRequestsDisabled
        | FolderTooLarge
        | HandleKeyRetired
        | InvalidLocation
        | ItemLocked
        | LinkExpired
        | LinkType
        | LockNotPossible
        | MemberRequired
        | MemberRole
        | NotAFile
        | NotAFolder
        | NotDownloadable
        | OwnershipTransfer
        | PaperDisabled
        | PaperState
        | ParameterDisabled
        | PathRootChanged
        | ProxyAuthRequired
        | ProxyAuthUnsupported
        | ReadOnlyStore
        | ReauthorizationRequired
        | RelocationNotAllowed
        | RestrictedContent
        | ResumeTokenExpired
        | RevisionGone
        | SharingPolicy
        | StoreNotConfigured
        | TeamFolderState
        | TeamLinkRequired
        | TooManyFiles
        | TransferNotPossible
        | UploadClosed
        | UploadOpen
        | UrlFetchFailed => Code::FailedPrecondition,
        CheckpointTakenOver
        | ContentChanged
        | CursorReset
        | EtagMismatch
        | PaperRevisionConflict
        | RevisionConflict
        | UploadConcurrentWriter
        | UploadTakenOver
        | WriteContention => Code::Aborted,
        OffsetGap | ReadOffsetBeyondEnd => Code::OutOfRange,
        ChunkCrcMismatch | ContentHashMismatch => Code::DataLoss,
        ConnectorBusy | DataTransportLimit | FileRequestLimit | InsufficientSpace | InviteLimit | RateLimited
        | RawResponseTooLarge | TagLimit | TeamFolderLimit => Code::ResourceExhausted,
        CallerKeysUnavailable
        | ContentNotReady
        | DropboxInternal
        | DropboxUnavailable
        | ProxyUnavailable
        | ServerDraining
        | StoreUnavailable => Code::Unavailable,
        DeadlineExceeded | UploadIdle | UpstreamTimeout => Code::DeadlineExceeded,
        Cancelled => Code::Cancelled,
        DropboxError | OutcomeUnknown => Code::Unknown,
        ConnectorBug | DropboxBadRequest | DropboxProtocol => Code::Internal,
    }
}

/// Type of the precondition that failed, where the row of (b) has one.
fn precondition(reason: Reason) -> Option<&'static str> {
    use Reason::*;
    Some(match reason {
        MemberRequired => "ACT_AS",
        ReauthorizationRequired => "AUTHORIZATION",
        AccountSuspended => "ACCOUNT",
        AccountType => "PLAN",
        PaperDisabled => "PAPER",
        NotAFile | NotAFolder => "ITEM_KIND",
        ItemLocked | LockNotPossible => "LOCK",
        RelocationNotAllowed => "RELOCATION",
        CannotShare => "SHARING",
        SharingPolicy => "SHARING_POLICY",
        CannotMount => "MOUNT",
        MemberRole => "MEMBER_ROLE",
        FileRequestOpen | FileRequestsDisabled | InvalidLocation => "FILE_REQUEST",
        PaperState => "PAPER_STATE",
        TeamFolderState => "TEAM_FOLDER_STATE",
        ParameterDisabled => "APPLICATION_PARAMETER",
        AccountMismatch | AuthorizationDenied | AuthorizationStateExpired => "AUTHORIZATION",
        TeamLinkRequired => "TEAM_LINK",
        HandleKeyRetired => "SEALING_KEY",
        RevisionGone => "REVISION",
        ResumeTokenExpired => "RESUME_TOKEN",
        FolderTooLarge => "FOLDER_SIZE",
        StoreNotConfigured | ReadOnlyStore => "STORE",
        ProxyAuthUnsupported => "PROXY",
        _ => return None,
    })
}

/// The quota that ran out: its metric.
fn quota(reason: Reason) -> Option<&'static str> {
    use Reason::*;
    Some(match reason {
        DataTransportLimit => "dropbox/data-transport",
        InsufficientSpace => "dropbox/space",
        RateLimited => "dropbox/requests",
        InviteLimit => "dropbox/invites",
        FileRequestLimit => "dropbox/file-requests",
        TagLimit => "dropbox/tags",
        TeamFolderLimit => "dropbox/team-folders",
        _ => return None,
    })
}

/// The request field a reason blames when whoever made the fault named none.
fn blamed_field(reason: Reason) -> Option<&'static str> {
    use Reason::*;
    Some(match reason {
        ActAsInvalid => "context.act_as",
        DisallowedName | MalformedPath => "path",
        ExportFormat => "export_format",
        FileTooLarge => "spec.total_size",
        InvalidRevision => "rev",
        InvalidUrl => "url",
        LinkSettings => "settings",
        BadMember => "members",
        OwnershipTransfer => "allow_ownership_transfer",
        PageTokenExpired | PageTokenMismatch => "page_token",
        SearchArgument => "query",
        RawJson => "arg",
        RawRouteStyle => "route",
        RequestIdReused => "request_id",
        ApplicationParameterMismatch => "application_parameter_id",
        _ => return None,
    })
}

/// Where a person reads on: description and address.
fn help(reason: Reason) -> Option<(&'static str, &'static str)> {
    use Reason::*;
    Some(match reason {
        ScopeMissing => (
            "tick the scope in the app's permissions and connect the account again",
            "https://developers.dropbox.com/oauth-guide",
        ),
        TooManyFiles => (
            "split the work into batches of at most 1000 entries",
            "https://developers.dropbox.com/dbx-performance-guide",
        ),
        EmailUnverified => {
            ("verify the e-mail address of the account", "https://help.dropbox.com/account-access/verify-email")
        }
        _ => return None,
    })
}

/// Everything that travels in `grpc-status-details-bin`, before it is cut to size.
struct Details {
    info: pb::ErrorInfo,
    request: pb::RequestInfo,
    retry: Option<pb::RetryInfo>,
    bad_request: Option<pb::BadRequest>,
    precondition: Option<pb::PreconditionFailure>,
    quota: Option<pb::QuotaFailure>,
    resource: Option<pb::ResourceInfo>,
    help: Option<pb::Help>,
}

impl Details {
    fn of(fault: &Fault, request_id: &str, hidden: bool) -> Self {
        let reason = fault.reason();
        let mut metadata: HashMap<String, String> = fault
            .told_facts()
            .filter(|(key, _)| !hidden || matches!(*key, "dropboxTag" | "dropboxRoute" | "dropboxRequestId"))
            .filter_map(|(key, value)| {
                let most = if key == "uploadId" { UPLOAD_ID_BYTES_MAX } else { FACT_BYTES_MAX };
                // Half a handle is worse than none.
                (key != "uploadId" || value.len() <= most).then(|| (key.to_owned(), cut(value, most).to_owned()))
            })
            .collect();
        if let Some(remedy) = fault.told_remedy() {
            metadata.insert("remedy".to_owned(), cut(remedy, FACT_BYTES_MAX).to_owned());
        }
        let about = fault.about();
        let subject =
            || fault.get("applicationParameterId").filter(|_| about.is_none()).or(about.map(|r| r.name.as_str()));
        let resource = about.filter(|_| !hidden).map(|resource| pb::ResourceInfo {
            resource_type: resource.kind.to_owned(),
            resource_name: cut(&resource.name, FACT_BYTES_MAX).to_owned(),
            ..Default::default()
        });
        Details {
            info: pb::ErrorInfo { reason: reason.name().to_owned(), domain: DOMAIN.to_owned(), metadata },
            request: pb::RequestInfo { request_id: request_id.to_owned(), serving_data: String::new() },
            retry: fault.retry_delay().map(|delay| pb::RetryInfo { retry_delay: Some(duration(delay)) }),
            bad_request: (!hidden).then(|| bad_request(fault)).flatten(),
            precondition: precondition(reason).map(|kind| pb::PreconditionFailure {
                violations: vec![pb::precondition_failure::Violation {
                    r#type: kind.to_owned(),
                    subject: cut(subject().unwrap_or_default(), FACT_BYTES_MAX).to_owned(),
                    description: fault.remedy().to_owned(),
                }],
            }),
            quota: quota(reason).map(|metric| pb::QuotaFailure {
                violations: vec![pb::quota_failure::Violation {
                    subject: fault.get("applicationParameterId").unwrap_or("account").to_owned(),
                    description: reason.remedy().to_owned(),
                    quota_metric: metric.to_owned(),
                    ..Default::default()
                }],
            }),
            resource,
            help: help(reason).map(|(description, url)| pb::Help {
                links: vec![pb::help::Link { description: description.to_owned(), url: url.to_owned() }],
            }),
        }
    }

    /// Leaves out what matters least until the rest fits: help, resource, violations from the last, long facts.
    fn encode(mut self, code: Code, message: &str) -> Vec<u8> {
        loop {
            let encoded = self.status(code, message).encode_to_vec();
            if encoded.len() <= DETAILS_BYTES_MAX || !self.shrink() {
                return encoded;
            }
        }
    }

    fn shrink(&mut self) -> bool {
        if self.help.take().is_some() || self.resource.take().is_some() {
            return true;
        }
        if let Some(bad_request) = &mut self.bad_request {
            bad_request.field_violations.pop();
            if bad_request.field_violations.is_empty() {
                self.bad_request = None;
            }
            return true;
        }
        let longest = self
            .info
            .metadata
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "uploadId" | "persistedOffset" | "remedy"))
            .max_by_key(|(_, value)| value.len())
            .map(|(key, _)| key.clone());
        longest.is_some_and(|key| self.info.metadata.remove(&key).is_some())
    }

    fn status(&self, code: Code, message: &str) -> pb::Status {
        let mut details = vec![any("ErrorInfo", &self.info), any("RequestInfo", &self.request)];
        details.extend(self.retry.as_ref().map(|detail| any("RetryInfo", detail)));
        details.extend(self.bad_request.as_ref().map(|detail| any("BadRequest", detail)));
        details.extend(self.precondition.as_ref().map(|detail| any("PreconditionFailure", detail)));
        details.extend(self.quota.as_ref().map(|detail| any("QuotaFailure", detail)));
        details.extend(self.resource.as_ref().map(|detail| any("ResourceInfo", detail)));
        details.extend(self.help.as_ref().map(|detail| any("Help", detail)));
        pb::Status { code: code as i32, message: message.to_owned(), details }
    }
}

fn bad_request(fault: &Fault) -> Option<pb::BadRequest> {
    let mut field_violations: Vec<_> = fault
        .violations()
        .iter()
        .take(VIOLATIONS_MAX)
        .map(|violation| pb::bad_request::FieldViolation {
            field: cut(&violation.field, FACT_BYTES_MAX).to_owned(),
            description: cut(&violation.description, FACT_BYTES_MAX).to_owned(),
            reason: violation.reason.to_owned(),
            localized_message: None,
        })
        .collect();
    if field_violations.is_empty()
        && let Some(field) = blamed_field(fault.reason())
    {
        field_violations.push(pb::bad_request::FieldViolation {
            field: field.to_owned(),
            description: cut(fault.message(), FACT_BYTES_MAX).to_owned(),
            reason: fault.reason().name().to_owned(),
            localized_message: None,
        });
    }
    (!field_violations.is_empty()).then_some(pb::BadRequest { field_violations })
}

fn trailers(fault: &Fault) -> MetadataMap {
    let mut trailers = MetadataMap::new();
    let pushback = match fault.retry_delay() {
        Some(delay) => i64::try_from(delay.as_millis()).unwrap_or(i64::MAX),
        None => -1,
    };
    trailers.insert("grpc-retry-pushback-ms", MetadataValue::from(pushback));
    if let Some(value) = fault.get("dropboxRequestId").and_then(|id| id.parse().ok()) {
        trailers.insert("x-dropbox-request-id", value);
    }
    trailers
}

fn any(name: &str, detail: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: detail.encode_to_vec() }
}

fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: span.subsec_nanos().cast_signed(),
    }
}

/// The longest beginning of `text` that fits `most` bytes and ends on a character.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Messages are for developers and travel percent-encoded: printable ASCII only, the rest as `?`.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(MESSAGE_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(status: &Status) -> pb::Status {
        pb::Status::decode(status.details()).expect("details are a google.rpc.Status")
    }

    fn detail<M: Message + Default>(status: &Status, name: &str) -> Option<M> {
        let url = format!("type.googleapis.com/google.rpc.{name}");
        let all = details(status).details;
        assert!(all.iter().filter(|any| any.type_url == url).count() <= 1, "{name} twice");
        all.iter().find(|any| any.type_url == url).map(|any| M::decode(any.value.as_slice()).unwrap())
    }

    #[test]
    fn every_reason_becomes_a_status_with_its_name_a_remedy_and_the_request_id() {
        for reason in Reason::ALL {
            let status = refusal(&Fault::new(*reason, "told"), "r-1");
            assert_ne!(status.code(), Code::Ok);
            let info: pb::ErrorInfo = detail(&status, "ErrorInfo").unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.name(), DOMAIN));
            assert_eq!(info.metadata["remedy"], reason.remedy());
            assert_eq!(detail::<pb::RequestInfo>(&status, "RequestInfo").unwrap().request_id, "r-1");
            assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
            assert!(detail::<pb::RetryInfo>(&status, "RetryInfo").is_none());
        }
    }

    #[test]
    fn a_delay_is_told_in_details_and_trailer_and_takes_the_remedy_away() {
        let fault = Fault::new(Reason::RateLimited, "too many requests").retry_after(Duration::from_secs(7));
        let status = refusal(&fault, "r");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "7000");
        let retry: pb::RetryInfo = detail(&status, "RetryInfo").unwrap();
        assert_eq!(retry.retry_delay.unwrap().seconds, 7);
        let info: pb::ErrorInfo = detail(&status, "ErrorInfo").unwrap();
        assert!(!info.metadata.contains_key("remedy"));
        let quota: pb::QuotaFailure = detail(&status, "QuotaFailure").unwrap();
        assert_eq!(quota.violations[0].quota_metric, "dropbox/requests");
    }

    #[test]
    fn a_monstrous_fault_stays_within_its_bounds_and_keeps_the_upload_id() {
        let mut fault = Fault::new(Reason::PathConflict, "ä".repeat(100_000))
            .resource("dropbox.item", "p".repeat(100_000))
            .fact("uploadId", "u".repeat(3300))
            .fact("persistedOffset", 4_194_304);
        for key in ["path", "dropboxTag", "dropboxRoute", "rule", "conflictKind", "currentRev"] {
            fault = fault.fact(key, "é".repeat(5000));
        }
        for number in 0..1000 {
            fault = fault.violation(format!("field[{number}]"), "MALFORMED", "x".repeat(1000));
        }
        let status = refusal(&fault, &"r".repeat(128));
        assert!(status.details().len() <= DETAILS_BYTES_MAX, "{}", status.details().len());
        assert!(status.message().len() <= MESSAGE_BYTES_MAX && status.message().is_ascii());
        let info: pb::ErrorInfo = detail(&status, "ErrorInfo").unwrap();
        assert_eq!(info.metadata["uploadId"].len(), 3300);
        assert_eq!(info.metadata["persistedOffset"], "4194304");
        assert!(detail::<pb::ResourceInfo>(&status, "ResourceInfo").is_none());
    }

    #[test]
    fn a_bug_tells_nothing_but_the_request_id() {
        let fault = Fault::bug("row 7 of table x").fact("path", "/secret").violation("path", "X", "/secret");
        let status = refusal(&fault, "r-9");
        assert!(!format!("{status:?} {:?}", details(&status)).contains("secret"));
        assert!(!status.message().contains("row 7"));
        assert_eq!(detail::<pb::RequestInfo>(&status, "RequestInfo").unwrap().request_id, "r-9");
    }

    #[test]
    fn wrong_fields_are_all_told_with_their_reasons() {
        let fault = Fault::field("page_size", "NEGATIVE", "must not be negative").violation("path", "MALFORMED", "no");
        let bad: pb::BadRequest = detail(&refusal(&fault, "r"), "BadRequest").unwrap();
        let told: Vec<_> = bad.field_violations.iter().map(|v| (v.field.as_str(), v.reason.as_str())).collect();
        assert_eq!(told, [("page_size", "NEGATIVE"), ("path", "MALFORMED")]);
    }
}
