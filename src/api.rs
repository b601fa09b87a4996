//! The wire contract: messages, services and clients generated from `proto/`, and their descriptors.

/// Package `dropboxconnector.v1`. Its manual is the comments of the proto files.
#[allow(clippy::all, missing_debug_implementations, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("dropboxconnector.v1");
}

/// The encoded `FileDescriptorSet` of `proto/` with its imports and comments, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dropboxconnector.binpb"));
