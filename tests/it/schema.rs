//! The proto files as their users meet them: linted, formatted, unbroken, and fit for a bare protoc.
//! buf and protoc are those of `make setup`.

use std::{fs, path::PathBuf, process::Output};

use crate::support::process::{root, text, tool};

fn buf(arguments: &[&str]) -> Output {
    tool("buf").args(arguments).output().unwrap()
}

fn protos() -> Vec<PathBuf> {
    let folder = fs::read_dir(root().join("proto/dropboxconnector/v1")).unwrap();
    folder.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn buf_finds_nothing_to_say() {
    for arguments in [
        &["lint", "proto"][..],
        &["format", "proto", "--diff", "--exit-code"],
        &["build", "proto", "--output", "-#format=binpb"],
    ] {
        let output = buf(arguments);
        assert!(output.status.success(), "buf {arguments:?}:\n{}", text(&output));
    }
}

#[test]
fn a_renumbered_field_is_a_break_that_buf_reports() {
    let copy = tempfile::tempdir().unwrap();
    let folder = copy.path().join("dropboxconnector/v1");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(root().join("proto/buf.yaml"), copy.path().join("buf.yaml")).unwrap();
    for path in protos() {
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    let (changed, original) = (copy.path().to_str().unwrap(), "proto");
    let untouched = buf(&["breaking", changed, "--against", original]);
    assert!(untouched.status.success(), "an equal copy is no break:\n{}", text(&untouched));

    let file = folder.join("transfer.proto");
    let proto = fs::read_to_string(&file).unwrap();
    let renumbered = proto.replace("  bool verified = 8;", "  bool verified = 80;");
    assert_ne!(proto, renumbered, "the field to renumber is gone; choose another");
    fs::write(&file, renumbered).unwrap();
    let broken = buf(&["breaking", changed, "--against", original]);
    assert!(!broken.status.success(), "a renumbered field went through");
    assert!(text(&broken).contains("verified"), "{}", text(&broken));
}

#[test]
fn a_bare_protoc_generates_python_java_and_cpp() {
    let out = tempfile::tempdir().unwrap();
    let mut command = tool("protoc");
    command.arg("-I").arg(root().join("proto"));
    for language in ["python", "java", "cpp"] {
        command.arg(format!("--{language}_out={}", out.path().display()));
    }
    let output = command.args(protos()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for name in [
        "dropboxconnector/v1/transfer_pb2.py",
        "dropboxconnector/v1/transfer.pb.cc",
        "dropboxconnector/v1/UploadSpec.java",
    ] {
        assert!(out.path().join(name).exists(), "{name} was not generated");
    }
}
