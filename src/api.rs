//! The wire contract: messages, services and clients generated from `proto/`, and their descriptors.

use std::{any::TypeId, fmt, marker::PhantomData};

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message, Name,
    encoding::{DecodeContext, WireType},
};
use tonic::{
    Status,
    codec::{BufferSettings, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use self::elements::{Refused, Request};
use crate::limits::{WATCH_BUFFER_BYTES, WATCH_YIELD_BYTES};

mod elements;

/// Package `dropboxconnector.v1`. Its manual is the comments of the proto files.
#[allow(clippy::all, missing_debug_implementations, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("dropboxconnector.v1");
}

/// The message that [`Encoded`] stands for, by its fields.
#[allow(clippy::all, missing_debug_implementations, rustdoc::all)]
pub mod plain {
    include!(concat!(env!("OUT_DIR"), "/plain/plain.rs"));
}

/// A message of a watch as it goes over the wire. The service makes the bytes of an event once, for all its watchers; a client
/// that decodes one finds the fields in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    bytes: Bytes,
    read: Option<Box<plain::WatchEventsResponse>>,
}

impl Encoded {
    /// Bytes that [`Encoded::bytes`] gave for the same message.
    pub fn ready(bytes: Bytes) -> Encoded {
        Encoded { bytes, read: None }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The fields of a message that was received.
    pub fn into_plain(self) -> plain::WatchEventsResponse {
        match self.read {
            Some(read) => *read,
            None => plain::WatchEventsResponse::decode(self.bytes).unwrap_or_default(),
        }
    }
}

/// The codec of every RPC. A watch gets a small buffer: it is most of what a quiet one costs. A request is held to
/// its number of elements before it is decoded.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Counted<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::raw_encoder(buffers::<T>())
    }

    fn decoder(&mut self) -> Counted<U> {
        Counted { inner: ProstCodec::<T, U>::raw_decoder(buffers::<U>()), request: Request::named(&U::full_name()) }
    }
}

/// Decodes what does not hold too many elements.
#[derive(Debug)]
pub struct Counted<U> {
    inner: ProstDecoder<U>,
    request: Option<Request>,
}

/// How a message of too many elements is told; the status has no details, as with all that tonic refuses.
pub const TOO_MANY_ELEMENTS: &str = "too many elements in the repeated fields of a message";

impl<U: Message + Name + Default> Decoder for Counted<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message lies in one piece: it is collected before it comes here.
        match self.request.map_or(Ok(()), |request| request.look_at(buffer.chunk())) {
            Ok(()) => {}
            Err(Refused::TooMany) => {
                let most = self.request.map_or(0, Request::most);
                let text = format!("{TOO_MANY_ELEMENTS}: at most {most}");
                return Err(Status::invalid_argument(text));
            }
            Err(Refused::Unreadable) => return Err(Status::internal("failed to decode Protobuf message: malformed")),
        }
        self.inner.decode(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}

fn buffers<M: 'static>() -> BufferSettings {
    match TypeId::of::<M>() == TypeId::of::<Encoded>() {
        true => BufferSettings::new(WATCH_BUFFER_BYTES, WATCH_YIELD_BYTES),
        false => BufferSettings::default(),
    }
}

impl From<&plain::WatchEventsResponse> for Encoded {
    fn from(message: &plain::WatchEventsResponse) -> Encoded {
        Encoded::ready(message.encode_to_vec().into())
    }
}

impl Name for Encoded {
    const NAME: &'static str = plain::WatchEventsResponse::NAME;
    const PACKAGE: &'static str = "dropboxconnector.v1";
}

impl Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        match &self.read {
            Some(read) => read.encode_raw(buffer),
            None => buffer.put_slice(&self.bytes),
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.read.get_or_insert_default().merge_field(tag, wire_type, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.read.as_ref().map_or(self.bytes.len(), |read| read.encoded_len())
    }

    fn clear(&mut self) {
        *self = Encoded::default();
    }
}

/// The encoded `FileDescriptorSet` of `proto/` with its imports and comments, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dropboxconnector.binpb"));

// Messages that hold a secret print what cannot betray it (build.rs keeps prost from printing them).

impl fmt::Debug for v1::AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("expire_time", &self.expire_time).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::ApplicationParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApplicationParameter")
            .field("application_parameter_id", &self.application_parameter_id)
            .field("state", &self.state())
            .field("etag", &self.etag)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::ImportCredentialsRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportCredentialsRequest")
            .field("application_parameter_id", &self.application_parameter_id)
            .field("credential", &self.credential)
            .finish()
    }
}

impl fmt::Debug for v1::import_credentials_request::Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RefreshToken(_) => f.write_str("RefreshToken(..)"),
            Self::AccessToken(token) => f.debug_tuple("AccessToken").field(token).finish(),
        }
    }
}

impl fmt::Debug for v1::SharedLinkSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLinkSettings")
            .field("audience", &self.audience())
            .field("access", &self.access())
            .field("require_password", &self.require_password)
            .field("expire_time", &self.expire_time)
            .field("allow_download", &self.allow_download)
            .finish_non_exhaustive()
    }
}

/// A shared link opens to whoever has it: its url is a secret, too.
impl fmt::Debug for v1::SharedLinkSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLinkSource").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{FileDescriptorProto, FileDescriptorSet};

    use super::*;
    use crate::fault::Reason;

    pub(super) fn ours() -> Vec<FileDescriptorProto> {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("a descriptor set");
        set.file.into_iter().filter(|file| file.package() == "dropboxconnector.v1").collect()
    }

    /// `(name, comment)` of every RPC.
    fn rpcs() -> Vec<(String, String)> {
        let mut found = Vec::new();
        for file in ours() {
            let source = file.source_code_info.as_ref().expect("source info");
            for (s, service) in file.service.iter().enumerate() {
                for (m, method) in service.method.iter().enumerate() {
                    let path = [6, s as i32, 2, m as i32];
                    let location = source.location.iter().find(|at| at.path == path).expect("a location");
                    found.push((method.name().to_owned(), location.leading_comments().to_owned()));
                }
            }
        }
        found
    }

    #[test]
    fn every_reason_of_a_fault_is_a_value_of_the_proto_and_the_other_way_round() {
        let file = ours().into_iter().find(|file| file.name().ends_with("errors.proto")).expect("errors.proto");
        let mut wire: Vec<_> = file.enum_type[0].value.iter().map(|value| value.name().to_owned()).collect();
        let mut inside: Vec<_> = Reason::ALL.iter().map(|reason| format!("ERROR_REASON_{}", reason.name())).collect();
        inside.push("ERROR_REASON_UNSPECIFIED".to_owned());
        wire.sort();
        inside.sort();
        assert_eq!(wire, inside);
    }

    #[test]
    fn every_rpc_comment_ends_with_errors_retry_scopes_and_routes_in_that_order() {
        let rpcs = rpcs();
        assert_eq!(rpcs.len(), 36);
        for (name, comment) in rpcs {
            let at: Vec<_> = ["\n *Errors*:", "\n *Retry*:", "\n *Scopes*:", "\n *Dropbox routes*:"]
                .iter()
                .map(|heading| comment.find(heading).unwrap_or_else(|| panic!("{name} lacks {heading}")))
                .collect();
            assert!(at.is_sorted(), "{name}: {at:?}");
        }
    }

    #[test]
    fn every_reason_an_rpc_comment_names_exists() {
        let known: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        for (name, comment) in rpcs() {
            let errors =
                comment.split("*Errors*:").nth(1).and_then(|rest| rest.split("*Retry*:").next()).expect("errors");
            for quoted in errors.split('`').skip(1).step_by(2) {
                let reason = quoted.chars().all(|c| c.is_ascii_uppercase() || c == '_');
                assert!(!reason || known.contains(&quoted), "{name} names {quoted}");
            }
        }
    }

    #[test]
    fn every_data_request_but_the_servers_own_begins_with_parameter_and_context() {
        for file in ours() {
            for message in file.message_type.iter().filter(|message| message.name().ends_with("Request")) {
                let admin = file.name().ends_with("admin.proto");
                if admin || message.name() == "GetServerInfoRequest" {
                    continue;
                }
                let field =
                    |number| message.field.iter().find(|field| field.number() == number).map(|field| field.name());
                assert_eq!(field(1), Some("application_parameter_id"), "{}", message.name());
                assert_eq!(field(2), Some("context"), "{}", message.name());
            }
        }
    }

    #[test]
    fn a_message_that_was_encoded_once_is_read_as_what_it_was() {
        use plain::watch_events_response::Payload;
        let change = v1::ChangeEvent { event_id: "a-1".into(), ..Default::default() };
        let message =
            plain::WatchEventsResponse { resume_token: "token".into(), payload: Some(Payload::Change(change)) };
        let encoded = Encoded::from(&message);
        assert_eq!(encoded.encoded_len(), message.encoded_len());
        assert_eq!(Encoded::decode(encoded.encode_to_vec().as_slice()).unwrap().into_plain(), message);
        assert_eq!(encoded.into_plain(), message);
    }

    #[test]
    fn no_secret_of_a_request_shows_in_its_debug() {
        let parameter = v1::ApplicationParameter { app_secret: "s3cret".into(), ..Default::default() };
        let token = v1::AccessToken { token: "s3cret".into(), expire_time: None };
        let settings = v1::SharedLinkSettings { password: "s3cret".into(), ..Default::default() };
        let source = v1::SharedLinkSource { url: "s3cret".into(), password: "s3cret".into(), ..Default::default() };
        let printed = [
            format!(
                "{:?}",
                v1::CreateApplicationParameterRequest { application_parameter: Some(parameter), ..Default::default() }
            ),
            format!(
                "{:?}",
                v1::ImportCredentialsRequest {
                    credential: Some(v1::import_credentials_request::Credential::AccessToken(token)),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                v1::ImportCredentialsRequest {
                    credential: Some(v1::import_credentials_request::Credential::RefreshToken("s3cret".into())),
                    ..Default::default()
                }
            ),
            format!("{:?}", v1::CreateSharedLinkRequest { settings: Some(settings), ..Default::default() }),
            format!(
                "{:?}",
                v1::DownloadFileRequest {
                    source: Some(v1::download_file_request::Source::SharedLink(source)),
                    ..Default::default()
                }
            ),
        ];
        for text in printed {
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
