//! Counts what repeated fields of a request hold before it is decoded: two bytes on the wire may be a message of 150 in memory,
//! and the bytes of a message are all that bounds it else.

use std::{collections::HashMap, sync::LazyLock};

use bytes::Buf as _;
use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::limits::{REQUEST_ELEMENTS_MAX, REQUEST_VALUES_MAX};

/// What is as free as JSON.
const VALUE: &str = "google.protobuf.Value";

/// The decoder goes no deeper either.
const DEPTH_MAX: usize = 100;

/// The fields of a message that can hold elements.
type Fields = Vec<Field>;

#[derive(Debug, Clone, PartialEq)]
struct Field {
    number: u32,
    repeated: bool,
    holds: Holds,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Holds {
    /// The message of this index.
    Message(usize),
    /// Text or bytes.
    Bytes,
    /// Numbers of variable length, of which one value holds several.
    Numbers,
}

/// The messages that are asked with, by their full names, and all that lies in them.
#[derive(Debug, Default)]
struct Requests {
    names: HashMap<String, usize>,
    fields: Vec<Fields>,
    /// The index of [`VALUE`].
    value: Option<usize>,
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

    /// Looks at a message before it is decoded. What is refused as unreadable the decoder would refuse, too, but some of it only
    /// when it has made everything before that.
    pub(super) fn look_at(self, message: &[u8]) -> Result<(), Refused> {
        REQUESTS.count(self.0, message, &mut self.most(), DEPTH_MAX)
    }

    /// As many elements it may hold.
    pub(super) fn most(self) -> usize {
        match REQUESTS.holds_value(self.0) {
            true => REQUEST_VALUES_MAX,
            false => REQUEST_ELEMENTS_MAX,
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    TooMany,
    Unreadable,
}

impl From<DecodeError> for Refused {
    fn from(_: DecodeError) -> Refused {
        Refused::Unreadable
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
        requests.value = requests.names.get(VALUE).copied();
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
            let holds = match field.r#type() {
                Type::Message => Holds::Message(self.add(field.type_name(), messages)),
                Type::String | Type::Bytes => Holds::Bytes,
                _ => Holds::Numbers,
            };
            let repeated = field.label() == Label::Repeated;
            if repeated || matches!(holds, Holds::Message(_)) {
                self.fields[index].push(Field { number: field.number().unsigned_abs(), repeated, holds });
            }
        }
        index
    }

    /// One of its own fields does.
    fn holds_value(&self, index: usize) -> bool {
        let value = self.value.map(Holds::Message);
        self.fields[index].iter().any(|field| Some(field.holds) == value)
    }

    /// Takes the elements of `bytes`, a message of this index, off `left`.
    fn count(&self, index: usize, mut bytes: &[u8], left: &mut usize, depth: usize) -> Result<(), Refused> {
        while bytes.has_remaining() {
            let (number, wire) = decode_key(&mut bytes)?;
            let before = bytes;
            skip_field(wire, number, &mut bytes, DecodeContext::default())?;
            let Some(field) = self.fields[index].iter().find(|field| field.number == number) else { continue };
            let mut value = &before[..before.len() - bytes.len()];
            let delimited = wire == WireType::LengthDelimited;
            if delimited {
                decode_varint(&mut value)?;
            }
            if field.repeated {
                let several = delimited && field.holds == Holds::Numbers;
                // The last byte of each number, and of no other, is below 0x80.
                let elements = if several { value.iter().filter(|byte| **byte < 0x80).count() } else { 1 };
                *left = left.checked_sub(elements).ok_or(Refused::TooMany)?;
            }
            if let Holds::Message(message) = field.holds
                && delimited
            {
                self.count(message, value, left, depth.checked_sub(1).ok_or(Refused::Unreadable)?)?;
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
        Request::named(name).is_some_and(|request| request.look_at(message) == Err(Refused::TooMany))
    }

    fn unreadable(name: &str, message: &[u8]) -> bool {
        Request::named(name).is_some_and(|request| request.look_at(message) == Err(Refused::Unreadable))
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
    fn an_argument_of_a_route_may_be_the_largest_that_dropbox_takes() {
        let text = |text: &str| prost_types::Value::from(text.to_owned());
        let object = |fields: &[(&str, prost_types::Value)]| {
            let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(prost_types::Struct { fields })) }
        };
        let asked = |values: Vec<prost_types::Value>| api::CallApiRequest {
            arg: Some(api::call_api_request::Arg::ArgValue(object(&[("entries", prost_types::Value::from(values))]))),
            ..Default::default()
        };
        // files/upload_session/finish_batch_v2 and files/create_folder_batch.
        let cursor = object(&[("session_id", text("s")), ("offset", prost_types::Value::from(1.0))]);
        let mode = object(&[(".tag", text("update")), ("update", text("015f"))]);
        let commit = object(&[("path", text("/a")), ("mode", mode), ("autorename", false.into())]);
        let entry = object(&[("cursor", cursor), ("commit", commit), ("content_hash", text("h"))]);
        assert!(!refused(&asked(vec![entry; 1000])));
        assert!(!refused(&asked(vec![text("/a"); 10_000])));
        assert!(!refused(&asked(vec![text(""); REQUEST_VALUES_MAX - 1])));
        assert!(refused(&asked(vec![text(""); REQUEST_VALUES_MAX])));
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
    fn numbers_in_one_value_are_counted_each() {
        let name = <api::WatchEventsRequest as prost::Name>::full_name();
        for (count, number, beyond) in
            [(MOST, 1, false), (MOST + 1, 1, true), (MOST, 300, false), (MOST + 1, 300, true)]
        {
            let watch = api::WatchEventsRequest { event_types: vec![number; count], ..Default::default() };
            assert_eq!(too_many(&name, &watch.encode_to_vec()), beyond, "{count} of {number}");
        }
    }

    #[test]
    fn what_the_decoder_passes_over_hides_nothing_behind_it() {
        let name = <api::PlanSyncRequest as prost::Name>::full_name();
        let many = entries(MOST + 1).encode_to_vec();
        // Field 1000: an empty group, one that holds another, text, and numbers of each size.
        let group = [0xc3, 0x3e, 0xc4, 0x3e];
        let nested = [0xc3, 0x3e, 0xcb, 0x3e, 0x08, 0x01, 0xcc, 0x3e, 0xc4, 0x3e];
        let text = [0xc2, 0x3e, 0x01, 0x61];
        let numbers = [0xc0, 0x3e, 0x01, 0xc5, 0x3e, 1, 2, 3, 4, 0xc1, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8];
        for unknown in [&group[..], &nested, &text, &numbers] {
            let message = [unknown, &entries(1).encode_to_vec()].concat();
            api::PlanSyncRequest::decode(&message[..]).expect("the decoder passes it over");
            assert!(!too_many(&name, &message) && !unreadable(&name, &message), "{unknown:?}");
            assert!(too_many(&name, &[unknown, &many].concat()), "{unknown:?}");
        }
    }

    #[test]
    fn what_is_unreadable_cannot_be_decoded() {
        let name = <api::PlanSyncRequest as prost::Name>::full_name();
        let message = entries(7).encode_to_vec();
        // A message that is longer than what it lies in: the decoder would make all of it first.
        let rules = api::SyncRules {
            filter: Some(api::ItemFilter { include_globs: vec![String::new(); 9], ..Default::default() }),
            ..Default::default()
        };
        let frame = Some(api::plan_sync_request::Frame::Rules(rules));
        let mut longer = api::PlanSyncRequest { frame, ..Default::default() }.encode_to_vec();
        longer[1] = 2;
        let cut = &message[..message.len() - 1];
        for wrong in [&[0xff_u8; 16][..], &[0x0b, 0x14], cut, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f], &longer] {
            assert!(unreadable(&name, wrong), "{wrong:?}");
            assert!(api::PlanSyncRequest::decode(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_request_is_known_and_no_answer_is() {
        for file in super::super::tests::ours() {
            for method in file.service.iter().flat_map(|service| &service.method) {
                let name = method.input_type().trim_start_matches('.');
                assert!(Request::named(name).is_some(), "{name}");
            }
        }
        let items = vec![api::Item::default(); MOST + 1];
        assert!(!refused(&api::ListFolderResponse { items, ..Default::default() }));
        let set = FileDescriptorSet::decode(super::super::FILE_DESCRIPTOR_SET).expect("ours");
        let messages = set.file.iter().flat_map(|file| &file.message_type);
        for field in messages.flat_map(|message| &message.field).filter(|field| field.label() == Label::Repeated) {
            let fixed = [Type::Double, Type::Float, Type::Fixed32, Type::Fixed64, Type::Sfixed32, Type::Sfixed64];
            assert!(!fixed.contains(&field.r#type()), "{} is counted by its bytes", field.name());
        }
    }

    #[test]
    fn a_message_that_holds_itself_ends() {
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
        assert_eq!(requests.fields, [vec![Field { number: 3, repeated: true, holds: Holds::Message(0) }]]);
        let mut left = 10;
        let deep = [0x1a, 0x02, 0x1a, 0x00];
        assert_eq!(requests.count(0, &deep, &mut left, DEPTH_MAX), Ok(()));
        assert_eq!(left, 8);
        assert_eq!(requests.count(0, &deep, &mut left, 1), Err(Refused::Unreadable));
    }
}
