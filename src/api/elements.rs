//! Counts what repeated fields of a request hold before it is decoded: two bytes on the wire may be a message of 150 in memory,
//! and the bytes of a message are all that bounds it else.

use std::{collections::HashMap, sync::LazyLock};

use bytes::Buf as _;
use prost::{
    DecodeError, Message as _,
    encoding::{WireType, decode_key, decode_varint},
};
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::limits::REQUEST_ELEMENTS_MAX;

/// The decoder goes no deeper either.
const DEPTH_MAX: usize = 100;

/// The fields of a message that can hold elements.
type Fields = Vec<Field>;

#[derive(Debug, Clone, PartialEq)]
struct Field {
    number: u32,
    repeated: bool,
    /// Index of its message.
    message: Option<usize>,
}

/// The messages that are asked with, by their full names, and all that lies in them.
#[derive(Debug, Default)]
struct Requests {
    names: HashMap<String, usize>,
    fields: Vec<Fields>,
}

static REQUESTS: LazyLock<Requests> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(super::FILE_DESCRIPTOR_SET).expect("the build made it");
    Requests::of(&set)
});

/// A message that is asked with, or part of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request(usize);

impl Request {
    /// `None`: no such message is asked with.
    pub(super) fn named(name: &str) -> Option<Request> {
        REQUESTS.names.get(name).copied().map(Request)
    }

    /// Of what cannot be decoded, nothing is said.
    pub(super) fn holds_too_many(self, message: &[u8]) -> bool {
        let mut left = REQUEST_ELEMENTS_MAX;
        matches!(REQUESTS.count(self.0, message, &mut left, DEPTH_MAX), Err(Stop::Beyond))
    }
}

enum Stop {
    /// There are more than may be.
    Beyond,
    /// The decoder will stop here, too.
    Unreadable,
}

impl From<DecodeError> for Stop {
    fn from(_: DecodeError) -> Stop {
        Stop::Unreadable
    }
}

impl Requests {
    fn of(set: &FileDescriptorSet) -> Requests {
        let mut messages = HashMap::new();
        for file in &set.file {
            let package = format!(".{}", file.package());
            file.message_type.iter().for_each(|message| collect(&package, message, &mut messages));
        }
        let mut requests = Requests::default();
        let methods = set.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
        for method in methods {
            requests.add(method.input_type(), &messages);
        }
        requests
    }

    /// The index of a message; what lies in it is added, too.
    fn add(&mut self, name: &str, messages: &HashMap<String, &DescriptorProto>) -> usize {
        let key = name.trim_start_matches('.');
        if let Some(known) = self.names.get(key) {
            return *known;
        }
        let index = self.fields.len();
        self.names.insert(key.to_owned(), index);
        self.fields.push(Fields::new());
        for field in messages.get(name).map_or(&[][..], |message| &message.field) {
            let message = (field.r#type() == Type::Message).then(|| self.add(field.type_name(), messages));
            let repeated = field.label() == Label::Repeated;
            if repeated || message.is_some() {
                self.fields[index].push(Field { number: field.number().unsigned_abs(), repeated, message });
            }
        }
        index
    }

    /// Takes the elements of `bytes`, a message of this index, off `left`.
    fn count(&self, index: usize, mut bytes: &[u8], left: &mut usize, depth: usize) -> Result<(), Stop> {
        while bytes.has_remaining() {
            let (number, kind) = decode_key(&mut bytes)?;
            let length = match kind {
                WireType::Varint => {
                    decode_varint(&mut bytes)?;
                    0
                }
                WireType::SixtyFourBit => 8,
                WireType::ThirtyTwoBit => 4,
                WireType::LengthDelimited => decode_varint(&mut bytes)?,
                // proto3 has no groups.
                WireType::StartGroup | WireType::EndGroup => return Err(Stop::Unreadable),
            };
            let value = usize::try_from(length).ok().and_then(|length| bytes.get(..length)).ok_or(Stop::Unreadable)?;
            bytes.advance(value.len());
            let Some(field) = self.fields[index].iter().find(|field| field.number == number) else { continue };
            if field.repeated {
                *left = left.checked_sub(1).ok_or(Stop::Beyond)?;
            }
            if let (Some(message), WireType::LengthDelimited, 1..) = (field.message, kind, depth) {
                self.count(message, value, left, depth - 1)?;
            }
        }
        Ok(())
    }
}

/// `message` and those declared in it, by their full names with a dot before them.
fn collect<'a>(parent: &str, message: &'a DescriptorProto, into: &mut HashMap<String, &'a DescriptorProto>) {
    let name = format!("{parent}.{}", message.name());
    message.nested_type.iter().for_each(|nested| collect(&name, nested, into));
    into.insert(name, message);
}

#[cfg(test)]
mod tests {
    use prost_types::FieldDescriptorProto;

    use super::*;
    use crate::api::v1 as api;

    const MOST: usize = REQUEST_ELEMENTS_MAX;

    fn too_many(name: &str, message: &[u8]) -> bool {
        Request::named(name).is_some_and(|request| request.holds_too_many(message))
    }

    fn refused<M: prost::Name>(message: &M) -> bool {
        too_many(&M::full_name(), &message.encode_to_vec())
    }

    fn entries(count: usize) -> api::PlanSyncRequest {
        let entries = api::LocalEntries { entries: vec![api::LocalEntry::default(); count] };
        api::PlanSyncRequest { frame: Some(api::plan_sync_request::Frame::Entries(entries)), ..Default::default() }
    }

    #[test]
    fn as_many_elements_as_may_be_pass_and_one_more_does_not() {
        for (count, beyond) in [(0, false), (MOST, false), (MOST + 1, true)] {
            assert_eq!(refused(&entries(count)), beyond, "{count} entries");
            let items = vec![api::UploadToCommit::default(); count];
            let uploads = api::CommitUploadsRequest { items, ..Default::default() };
            assert_eq!(refused(&uploads), beyond, "{count} uploads");
            let filter = api::ItemFilter { include_globs: vec![String::new(); count], ..Default::default() };
            let walk = api::WalkFolderRequest { filter: Some(filter), ..Default::default() };
            assert_eq!(refused(&walk), beyond, "{count} globs");
        }
    }

    #[test]
    fn elements_of_several_fields_are_counted_together() {
        let half = vec![String::new(); MOST / 2 + 1];
        let one = api::ItemFilter { include_globs: half.clone(), ..Default::default() };
        let both = api::ItemFilter { exclude_globs: half, ..one.clone() };
        let walk = |filter| api::WalkFolderRequest { filter: Some(filter), ..Default::default() };
        assert!(!refused(&walk(one)));
        assert!(refused(&walk(both)));
    }

    #[test]
    fn a_field_that_is_sent_again_is_counted_again() {
        let name = <api::PlanSyncRequest as prost::Name>::full_name();
        let half = entries(MOST / 2 + 1).encode_to_vec();
        assert!(!too_many(&name, &half));
        assert!(too_many(&name, &[half.clone(), half].concat()));
    }

    #[test]
    fn bytes_that_happen_to_be_a_message_are_not_looked_into() {
        let data = entries(MOST + 1).encode_to_vec();
        let chunk = api::UploadChunk { data: data.into(), ..Default::default() };
        let frame = Some(api::upload_file_request::Frame::Chunk(chunk));
        assert!(!refused(&api::UploadFileRequest { frame, ..Default::default() }));
    }

    #[test]
    fn what_cannot_be_decoded_is_the_decoders_to_refuse_and_what_is_no_request_is_not_counted() {
        let name = <api::PlanSyncRequest as prost::Name>::full_name();
        let message = entries(MOST + 1).encode_to_vec();
        for wrong in [&[0xff_u8; 16][..], &[0x0b, 0x0c], &message[..MOST], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
            assert!(!too_many(&name, wrong), "{wrong:?}");
        }
        let items = vec![api::Item::default(); MOST + 1];
        assert!(!refused(&api::ListFolderResponse { items, ..Default::default() }));
    }

    #[test]
    fn every_request_is_known_and_a_message_that_holds_itself_ends() {
        let methods: usize =
            super::super::tests::ours().iter().flat_map(|file| &file.service).map(|s| s.method.len()).sum();
        assert!(REQUESTS.names.len() >= methods);
        let field = |number, label: Label, name: &str| FieldDescriptorProto {
            number: Some(number),
            label: Some(label.into()),
            r#type: Some(Type::Message.into()),
            type_name: Some(name.to_owned()),
            ..Default::default()
        };
        let message = DescriptorProto {
            name: Some("Tree".to_owned()),
            field: vec![field(3, Label::Repeated, ".p.Tree")],
            ..Default::default()
        };
        let messages = HashMap::from([(".p.Tree".to_owned(), &message)]);
        let mut requests = Requests::default();
        assert_eq!(requests.add(".p.Tree", &messages), 0);
        assert_eq!(requests.fields, [vec![Field { number: 3, repeated: true, message: Some(0) }]]);
        let mut left = 10;
        let deep = [0x1a, 0x02, 0x1a, 0x00];
        assert!(requests.count(0, &deep, &mut left, DEPTH_MAX).is_ok());
        assert_eq!(left, 8);
    }
}
