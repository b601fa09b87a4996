//! Settings: who wins, what is refused and how it is told.

use figment::{
    Figment,
    providers::{Format as _, Toml},
};

use super::{layers::VARIABLES, *};

fn load(edit: impl FnOnce(&mut Overrides)) -> Result<Config, ConfigError> {
    let mut overrides = Overrides::default();
    edit(&mut overrides);
    Config::load(&overrides)
}

#[test]
fn a_command_is_split_as_a_shell_would_and_run_by_none() {
    let source = |command: &str| load(|o| o.sealing_key_command = Some(command.into())).expect("valid").key_source();
    let KeySource::Command { words, timeout } = source("vault kv get -field='a b' secret/x; $(id)") else {
        panic!("a command");
    };
    assert_eq!(words, ["vault", "kv", "get", "-field=a b", "secret/x;", "$(id)"]);
    assert_eq!(timeout, Duration::from_secs(10));
    assert_eq!(source(""), KeySource::File("dropbox-connector.keys".into()));
}

#[test]
fn the_defaults_are_valid_and_print_as_they_are_read() {
    let config = load(|_| {}).expect("defaults");
    assert_eq!(config.drain_grace, Duration::from_secs(25));
    assert_eq!(config.download_idle, crate::limits::DOWNLOAD_IDLE);
    let printed = config.print();
    let again: Config = Figment::from(Toml::string(&printed)).extract().expect("printed config reads back");
    assert_eq!(again.print(), printed);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_defaults() {
    let file = tempfile::NamedTempFile::new().expect("temp file");
    std::fs::write(&file, "append_mib = 4\nmax_uploads = 7\n").expect("write");
    let config = load(|o| {
        o.config = Some(file.path().into());
        o.max_uploads = Some("9".into());
    })
    .expect("valid");
    assert_eq!((config.append_mib, config.max_uploads, config.max_downloads), (4, 9, 512));
}

#[test]
fn an_emulated_server_waits_for_no_load_balancer_unless_it_is_told_to() {
    let emulated = |delay: Option<&str>| {
        let config = load(|o| (o.emulator, o.drain_delay) = (Some("true".into()), delay.map(str::to_owned)));
        config.expect("valid").drain_delay
    };
    assert_eq!(emulated(None), Duration::ZERO);
    assert_eq!(emulated(Some("5s")), Duration::from_secs(5));
    assert_eq!(load(|_| {}).expect("defaults").drain_delay, Duration::from_secs(5));
}

#[test]
fn a_bad_value_is_refused_by_the_name_of_its_key() {
    let cases: &[(&str, &str)] = &[
        ("data_listen = \"nowhere\"", "data_listen"),
        ("data_listen = \"0.0.0.0:1\"", "data_listen"),
        ("dropbox_api_url = \"http://x\"", "dropbox_api_url"),
        ("append_mib = 6", "append_mib"),
        ("admin_listen = \"127.0.0.1:50051\"", "admin_listen"),
        ("upload_idle = \"soon\"", "upload_idle"),
        ("auth_mode = \"token\"", "auth_tokens"),
        ("auth_mode = \"magic\"", "auth_mode"),
        ("colour = 1", "colour"),
        ("store_url = \"mysql://x\"", "store_url"),
        ("sealing_key_command = \"sh -c 'x\"", "sealing_key_command"),
        ("sealing_key_command = \"x\"\nsealing_key_env = \"X\"", "sealing_key_command"),
        ("sealing_key_command_timeout = \"2m\"", "sealing_key_command_timeout"),
        ("tls_cert_file = \"x\"", "tls_key_file"),
        ("tls_key_file = \"x\"", "tls_cert_file"),
        ("tls_client_ca_file = \"x\"", "tls_client_ca_file"),
        ("auth_mode = \"mtls\"", "tls_client_ca_file"),
        (
            "connect_page = true\nauth_mode = \"mtls\"\ntls_client_ca_file = \"x\"\ntls_cert_file = \"x\"\ntls_key_file = \"x\"",
            "connect_page: nobody could enter",
        ),
        ("auth_mode = \"jwt\"", "jwt_issuer"),
        ("auth_mode = \"jwt\"", "jwt_audiences"),
        ("auth_mode = \"jwt\"", "jwt_jwks_file"),
        ("auth_mode = \"mtls-or-jwt\"", "tls_client_ca_file"),
        ("jwt_jwks_url = \"http://issuer/keys\"", "jwt_jwks_url"),
        ("jwt_jwks_url = \"https://me:secret@issuer/keys\"", "jwt_jwks_url"),
        ("jwt_jwks_url = \"/keys\"", "jwt_jwks_url"),
        ("jwt_jwks_url = \"https://x/y\"\njwt_jwks_file = \"x\"", "jwt_jwks_url"),
        ("jwt_algorithms = [\"HS256\"]", "jwt_algorithms: HMAC"),
        ("jwt_algorithms = [\"none\"]", "jwt_algorithms"),
        ("jwt_algorithms = []", "jwt_algorithms"),
        ("jwt_leeway = \"1h\"", "jwt_leeway"),
        ("jwt_principal_claim = \"\"", "jwt_principal_claim"),
        (
            "data_listen = \"0.0.0.0:1\"\ntls_cert_file = \"x\"\ntls_key_file = \"y\"",
            "data_listen: is not a loopback address and auth_mode is none",
        ),
    ];
    for (text, key) in cases {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(&file, text).expect("write");
        let error = load(|o| o.config = Some(file.path().into())).expect_err(text).to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_value_and_its_source() {
    let file = tempfile::NamedTempFile::new().expect("temp file");
    let text = "append_mib = 6\nuploads_max = 3\nlog_format = \"xml\"\nauth_tokens = [{ principal = \"a\", sha256 = \"hush\" }]\n\
                store_url = \"mysql://me:hush@x/y\"\n";
    std::fs::write(&file, text).expect("write");
    let error = load(|o| {
        o.config = Some(file.path().into());
        o.max_uploads = Some("many".into());
        o.upload_idle = Some("soon".into());
        o.auth_mode = Some("magic".into());
        o.data_listen = Some("0.0.0.0:1".into());
    })
    .expect_err("much is wrong");
    let told = error.to_string();
    let at = file.path().display();
    for line in [
        format!("append_mib: must be 4 or 8 (6, from {at})"),
        format!("uploads_max: there is no such key; did you mean max_uploads? (from {at})"),
        format!("log_format: must be one of text, json (\"xml\", from {at})"),
        format!("auth_tokens: needs a principal and 64 lower-case hex digits of SHA-256 (value redacted, from {at})"),
        format!("store_url: must begin with sqlite: or postgres:// (\"mysql://***@x/y\", from {at})"),
        "max_uploads: must be a whole number (\"many\", from --max-uploads)".into(),
        "auth_mode: must be one of none, token, mtls, jwt, mtls-or-jwt (\"magic\", from --auth-mode)".into(),
    ] {
        assert!(told.lines().any(|told| told == line), "{line}\n\n{told}");
    }
    assert!(told.contains("upload_idle: `soon` is not a time span"), "{told}");
    assert!(!told.contains("hush") && !told.contains("data_listen"), "{told}");
    assert_eq!(told.lines().count(), 8, "{told}");
}

#[test]
fn a_variable_that_is_misspelt_is_told_with_what_was_meant_and_those_of_kubernetes_are_let_be() {
    let known = ["DATA_LISTEN", "MAX_UPLOADS", "SERVER"].map(|name| format!("{VARIABLES}{name}"));
    let set = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| format!("{VARIABLES}{name}")).collect();
        let problems = unknown_variables(names.iter().map(|name| (name.as_str(), "tcp://10.0.0.7:50051")), &known);
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let told = set(&["DATA_LISTEN", "MAX_UPLAODS", "COLOUR_OF_THE_HOUSE"]);
    assert_eq!(
        told,
        [
            "DROPBOX_CONNECTOR_MAX_UPLAODS: there is no such variable; did you mean DROPBOX_CONNECTOR_MAX_UPLOADS? (set in the \
             environment)",
            "DROPBOX_CONNECTOR_COLOUR_OF_THE_HOUSE: there is no such variable (set in the environment)"
        ]
    );
    let service =
        ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_DATA", "PORT", "PORT_50051_TCP", "PORT_50051_TCP_ADDR"];
    assert_eq!(set(&service), [""; 0]);
    assert_eq!(set(&["ADMIN_SERVICE_HOST", "ADMIN_PORT_50052_TCP_PROTO"]), [""; 0]);
    let mine = [("DROPBOX_CONNECTOR_DATA_PORT", "50051")];
    assert_eq!(unknown_variables(mine.into_iter(), &known).len(), 1, "a port and no address is somebody's mistake");
}

#[test]
fn lists_and_switches_are_read_from_text() {
    let hash = "ab".repeat(32);
    let config = load(|o| {
        o.auth_mode = Some("token".into());
        o.auth_tokens = Some(format!("a:{hash}, urn:b:{hash}"));
        o.admin_principals = Some("ops,ci-*".into());
        o.reflection = Some("off".into());
        o.grpc_web = Some("true".into());
        o.grpc_web_origins = Some("https://app.example.com,http://localhost:8080".into());
    })
    .expect("valid");
    let principals: Vec<_> = config.auth_tokens.iter().map(|token| token.principal.as_str()).collect();
    assert_eq!((principals, config.admin_principals.len(), config.reflection), (vec!["a", "urn:b"], 2, false));
    for bad in ["*", "https://app.example.com/", "app.example.com", "HTTPS://app.example.com", "null"] {
        let error = load(|o| o.grpc_web_origins = Some(bad.into())).expect_err(bad).to_string();
        assert!(error.starts_with("grpc_web_origins:"), "{bad}: {error}");
    }
    let nobody = load(|o| o.grpc_web = Some("true".into())).expect_err("no origins").to_string();
    assert!(nobody.starts_with("grpc_web_origins:"), "{nobody}");
}

#[test]
fn every_key_of_the_defaults_file_can_be_given_as_a_flag() {
    use clap::Args;
    let command = Overrides::augment_args(clap::Command::new("serve"));
    let keys: toml_keys::Keys = toml_keys::of(DEFAULTS);
    for key in keys {
        let flag = key.replace('_', "-");
        let arg = command.get_arguments().find(|a| a.get_long() == Some(flag.as_str()));
        let env = format!("DROPBOX_CONNECTOR_{}", key.to_uppercase());
        assert_eq!(arg.and_then(|a| a.get_env()).and_then(|e| e.to_str()), Some(env.as_str()), "{key}");
    }
}

mod toml_keys {
    pub(super) type Keys = Vec<String>;
    pub(super) fn of(text: &str) -> Keys {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(" = ").map(|(key, _)| key.to_owned()))
            .collect()
    }
}
