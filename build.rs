//! Generates the wire types, both sides of the services and the descriptor set from `proto/`, without protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["connector", "admin", "errors"].map(|name| format!("dropboxconnector/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("dropboxconnector.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".dropboxconnector.v1.UploadChunk.data")
        .bytes(".dropboxconnector.v1.DownloadChunk.data")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
