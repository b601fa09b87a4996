//! The audit log of a real process: a line for every refusal, whatever the log level, and nothing of what was sent.

use serde_json::{Value, json};

use crate::support::{
    certs::{AUDIENCE, Authority, ISSUER, Issuer, key_set},
    process::{Served, text, tool},
};

fn grpcurl(served: &mut Served, port: &str, flags: &[&str], method: &str, message: Value) -> String {
    let service = if port == "admin" { "DropboxAdminConnector" } else { "DropboxConnector" };
    let mut command = tool("grpcurl");
    command.args(flags).args(["-import-path", "proto", "-proto", "dropboxconnector/v1/connector.proto"]);
    command.args(["-proto", "dropboxconnector/v1/admin.proto", "-d", &message.to_string()]);
    command.arg(served.told(port).replace("127.0.0.1", "localhost"));
    command.arg(format!("dropboxconnector.v1.{service}/{method}"));
    text(&command.output().unwrap())
}

#[test]
fn every_refusal_is_told_with_who_what_which_and_why_and_no_payload() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let (issuer, pair) = (Issuer::es256("a"), servers.server());
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let flag = |name: &str, value: &str| format!("--{name}={value}");
    let flags = [
        "--auth-mode=mtls-or-jwt".to_owned(),
        "--admin-principals=boss".to_owned(),
        "--log-format=json".to_owned(),
        "--log-level=error".to_owned(),
        flag("tls-cert-file", &write("crt", &pair.certificate)),
        flag("tls-key-file", &write("key", &pair.key)),
        flag("tls-client-ca-file", &write("clients", &clients.pem)),
        flag("jwt-jwks-file", &write("keys.json", &key_set(&[&issuer]))),
        flag("jwt-issuer", ISSUER),
        flag("jwt-audiences", AUDIENCE),
    ];
    let mut served = Served::start_with(&flags.each_ref().map(String::as_str));
    let ca = write("servers", &servers.pem);
    let by = |token: &str| format!("authorization: Bearer {token}");
    let delete = json!({"applicationParameterId": "demo", "path": "/plans/merger.txt"});

    let secret = issuer.token_with("boss", |claims| claims["aud"] = json!("another"));
    let refused = grpcurl(&mut served, "data", &["-cacert", &ca, "-H", &by(&secret)], "DeleteItem", delete.clone());
    assert!(refused.contains("Unauthenticated"), "{refused}");
    let header = "x-application-parameter-id: demo";
    grpcurl(&mut served, "data", &["-cacert", &ca, "-H", header], "DeleteItem", json!({"path": "/plans/merger.txt"}));
    let billing = by(&issuer.token("billing"));
    let refused = grpcurl(&mut served, "data", &["-cacert", &ca, "-H", &billing], "DeleteItem", delete);
    assert!(refused.contains("PermissionDenied"), "{refused}");
    let refused =
        grpcurl(&mut served, "admin", &["-cacert", &ca, "-H", &billing], "ListApplicationParameters", json!({}));
    assert!(refused.contains("PermissionDenied"), "{refused}");
    // A certificate of nobody's, and one that is good.
    let (forged, boss) = (Authority::new("clients").client(&["boss"]), clients.client(&["boss"]));
    let (forged_crt, forged_key) = (write("forged.crt", &forged.certificate), write("forged.key", &forged.key));
    let (boss_crt, boss_key) = (write("boss.crt", &boss.certificate), write("boss.key", &boss.key));
    grpcurl(
        &mut served,
        "admin",
        &["-cacert", &ca, "-cert", &forged_crt, "-key", &forged_key],
        "ListApplicationParameters",
        json!({}),
    );
    let list = grpcurl(
        &mut served,
        "admin",
        &["-cacert", &ca, "-cert", &boss_crt, "-key", &boss_key],
        "ListApplicationParameters",
        json!({}),
    );
    assert!(list.contains("\"demo\""), "{list}");

    let of = |line: &Value, keys: &[&str]| -> Vec<String> {
        keys.iter().map(|key| line[key].as_str().unwrap_or("-").to_owned()).collect()
    };
    let data = "dropboxconnector.v1.DropboxConnector/DeleteItem";
    let list = "dropboxconnector.v1.DropboxAdminConnector/ListApplicationParameters";
    // How many handshakes there were is grpcurl's affair: the last line is the boss's.
    let mut lines = served.audit_lines(6);
    while lines.last().is_some_and(|line| line["rpc"] != list || line["result"] != "done") {
        lines = served.audit_lines(lines.len() + 1);
    }
    let keys = ["principal", "rpc", "parameter", "result", "reason", "cause"];
    let wanted = [
        ["-", data, "-", "refused", "CALLER_UNAUTHENTICATED", "audience_wrong"],
        ["-", data, "demo", "refused", "CALLER_UNAUTHENTICATED", "no_certificate"],
        ["billing", data, "demo", "refused", "CALLER_NOT_ALLOWED", "-"],
        ["billing", list, "-", "refused", "CALLER_NOT_ALLOWED", "-"],
    ];
    for (line, wanted) in lines.iter().zip(wanted) {
        assert_eq!(of(line, &keys), wanted, "{line}");
        assert!(line["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")), "{line}");
        assert!(line["request_id"].as_str().is_some_and(|id| id.len() == 36), "{line}");
    }
    // grpcurl tries a connection that does not come up more than once.
    let handshakes = lines.iter().filter(|line| line["reason"] == "TLS_HANDSHAKE").count();
    assert!(handshakes >= 1, "{lines:?}");
    let last = lines.last().unwrap();
    assert_eq!(of(last, &["principal", "rpc", "result", "code"]), ["boss", list, "done", "OK"], "{last}");
    let text = served.text();
    assert!(!text.contains("merger"), "a payload:\n{text}");
    for piece in secret.split('.').chain(billing.split('.').skip(1)) {
        assert!(!text.contains(piece), "a piece of a token:\n{text}");
    }
}
