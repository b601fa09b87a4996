//! Generates the wire types, both sides of the services and the descriptor set from `proto/`, without protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// The fields that carry file content: cut out of the received buffer instead of copied.
const SHARED_BYTES: [&str; 2] = [".dropboxconnector.v1.UploadChunk.data", ".dropboxconnector.v1.DownloadChunk.data"];

/// What holds a secret, its oneofs included, gets a `Debug` of its own in `src/api.rs`.
const SECRET: [&str; 5] = [
    ".dropboxconnector.v1.AccessToken",
    ".dropboxconnector.v1.ApplicationParameter",
    ".dropboxconnector.v1.ImportCredentialsRequest",
    ".dropboxconnector.v1.SharedLinkSettings",
    ".dropboxconnector.v1.SharedLinkSource",
];

/// Goes out as bytes that were made once for all watchers: `api::Encoded` in the service, the message itself in `api::plain`.
const ENCODED: &str = "WatchEventsResponse";
const PACKAGE: &str = "dropboxconnector.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=src/store/migrations");
    // The others are imported by these.
    let files = ["connector", "admin", "errors"].map(|name| format!("dropboxconnector/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("dropboxconnector.binpb"), descriptors.encode_to_vec())?;
    let plain = alone(&descriptors)?;
    let mut builder = tonic_prost_build::configure()
        .skip_debug(SECRET)
        .extern_path(format!(".{PACKAGE}.{ENCODED}"), "crate::api::Encoded")
        .codec_path("crate::api::Codec")
        .emit_rerun_if_changed(false);
    for field in SHARED_BYTES {
        builder = builder.bytes(field);
    }
    builder.compile_fds_with_config(descriptors, config())?;
    let apart = out.join("plain");
    fs::create_dir_all(&apart)?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .out_dir(apart)
        .extern_path(format!(".{PACKAGE}"), "crate::api::v1")
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(plain, config())?;
    Ok(())
}

/// The codec looks messages up by their names.
fn config() -> prost_build::Config {
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    config
}

/// The descriptors and, in a package `plain` of its own, a copy of the message that goes out encoded.
fn alone(descriptors: &FileDescriptorSet) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let mut messages = descriptors.file.iter().flat_map(|file| &file.message_type);
    let message = messages.find(|message| message.name() == ENCODED).ok_or("events.proto lacks the encoded message")?;
    let file = FileDescriptorProto {
        name: Some("plain.proto".into()),
        package: Some("plain".into()),
        syntax: Some("proto3".into()),
        message_type: vec![message.clone()],
        ..FileDescriptorProto::default()
    };
    let mut set = descriptors.clone();
    set.file.push(file);
    Ok(set)
}
