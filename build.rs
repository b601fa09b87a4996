//! Generates the wire types, both sides of the services and the descriptor set from `proto/`, without protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

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

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=src/store/migrations");
    // The others are imported by these.
    let files = ["connector", "admin", "errors"].map(|name| format!("dropboxconnector/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("dropboxconnector.binpb"), descriptors.encode_to_vec())?;
    let mut builder = tonic_prost_build::configure().skip_debug(SECRET).emit_rerun_if_changed(false);
    for field in SHARED_BYTES {
        builder = builder.bytes(field);
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
