//! The manifests of `deploy/`, read as Kubernetes reads them: every variable is known to the program, the Secrets are those that
//! the comments make, what is configured is guarded, and a server started with it answers the probes and asks who calls.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use dropbox_connector::{
    config::{Config, Overrides},
    limits,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::{
    MIB,
    certs::{Authority, Pair},
    process::{BINARY, Served, root, succeed, text, tool},
};

/// Documents of a manifest, and the comments before the first.
fn manifest(name: &str) -> (Vec<Value>, String) {
    let path = root().join("deploy").join(name);
    let read =
        "import json, sys, yaml; print(json.dumps([one for one in yaml.safe_load_all(open(sys.argv[1])) if one]))";
    let output = succeed(tool("python").args(["-c", read]).arg(&path));
    let text = std::fs::read_to_string(&path).unwrap();
    let head = text.lines().take_while(|line| line.starts_with('#')).map(|line| line.trim_start_matches(['#', ' ']));
    (serde_json::from_str(&output).unwrap(), head.collect::<Vec<_>>().join("\n").replace("\\\n", " "))
}

/// The Secrets that the comments make, with their keys.
fn secrets(head: &str) -> BTreeMap<String, Vec<String>> {
    let mut made = BTreeMap::new();
    for line in head.lines().filter_map(|line| line.strip_prefix("kubectl create secret ")) {
        let mut words = line.split_whitespace();
        let (kind, name) = (words.next().unwrap(), words.next().unwrap());
        let keys = match kind {
            "tls" => vec!["tls.crt".to_owned(), "tls.key".to_owned()],
            _ => words
                .filter_map(|word| word.strip_prefix("--from-file=").or(word.strip_prefix("--from-literal=")))
                .map(|word| word.split('=').next().unwrap().to_owned())
                .collect(),
        };
        made.insert(name.to_owned(), keys);
    }
    made
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// A container with its Secrets mounted in a folder of ours.
struct Container<'a> {
    spec: &'a Value,
    environment: Vec<(String, String)>,
}

struct Cluster {
    folder: tempfile::TempDir,
    secrets: BTreeMap<String, Vec<String>>,
}

impl Cluster {
    fn new(secrets: BTreeMap<String, Vec<String>>) -> Cluster {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("servers"));
        let Pair { certificate, key } = authority.server();
        std::fs::write(folder.path().join("tls.crt"), certificate).unwrap();
        std::fs::write(folder.path().join("tls.key"), key).unwrap();
        std::fs::write(folder.path().join("ca.crt"), &authority.pem).unwrap();
        succeed(Command::new(BINARY).args(["keys", "generate"]).arg(folder.path().join("sealing.keys")));
        Cluster { folder, secrets }
    }

    fn has(&self, secret: &str, key: &str) -> bool {
        self.secrets.get(secret).is_some_and(|keys| keys.iter().any(|one| one == key))
    }

    fn container<'a>(&self, pod: &Value, spec: &'a Value) -> Container<'a> {
        let mut mounted: Vec<(String, Option<String>)> = Vec::new();
        for mount in list(spec, "volumeMounts") {
            let volume = list(pod, "volumes").find(|volume| volume["name"] == mount["name"]);
            let secret = volume.unwrap_or_else(|| panic!("no volume {mount}"))["secret"]["secretName"].as_str();
            let known = secret.is_none_or(|secret| self.secrets.contains_key(secret));
            assert!(known, "no comment makes the Secret {secret:?}");
            mounted.push((format!("{}/", word(mount, "mountPath")), secret.map(str::to_owned)));
        }
        let mut environment = Vec::new();
        for variable in list(spec, "env") {
            let value = match &variable["valueFrom"]["secretKeyRef"] {
                Value::Null => word(variable, "value").to_owned(),
                from => {
                    assert!(self.has(word(from, "name"), word(from, "key")), "no comment makes {from}");
                    match word(from, "key") {
                        "url" => "postgres://connector@postgres:5432/connector?sslmode=verify-full".to_owned(),
                        _ => ["boss", "billing"]
                            .map(|name| format!("{name}:{}", hex::encode(Sha256::digest(token(name)))))
                            .join(","),
                    }
                }
            };
            environment.push((word(variable, "name").to_owned(), self.moved(&value, &mounted)));
        }
        Container { spec, environment }
    }

    /// A path below a mount as it is in our folder.
    fn moved(&self, value: &str, mounted: &[(String, Option<String>)]) -> String {
        for (path, secret) in mounted {
            if let Some((scheme, file)) = value.split_once(path.as_str()) {
                if let Some(secret) = secret {
                    assert!(self.has(secret, file), "{value}: the Secret {secret} has no {file}");
                }
                return format!("{scheme}{}", self.folder.path().join(file).display());
            }
        }
        let is_path = value.starts_with('/') || value.contains(":///");
        assert!(!is_path, "{value} lies on no volume: {mounted:?}");
        value.to_owned()
    }
}

fn token(name: &str) -> String {
    format!("token-of-{name}")
}

impl Container<'_> {
    fn get(&self, name: &str) -> &str {
        let name = format!("DROPBOX_CONNECTOR_{name}");
        let found = self.environment.iter().find(|(one, _)| *one == name);
        &found.unwrap_or_else(|| panic!("no {name}")).1
    }

    fn port(&self, name: &str) -> u64 {
        self.get(name).rsplit(':').next().unwrap().parse().unwrap()
    }

    /// The program with this environment and no other.
    fn run(&self, arguments: &[&str], folder: &Path) -> String {
        let mut command = Command::new(BINARY);
        command.args(arguments).env_clear().envs(self.environment.iter().cloned()).current_dir(folder);
        succeed(&mut command)
    }
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|one| one["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// The pod of a manifest's Deployment.
fn pod(documents: &[Value]) -> &Value {
    &of_kind(documents, "Deployment")["spec"]["template"]["spec"]
}

#[test]
fn the_manifests_are_known_to_the_program_and_let_nobody_in_unasked() {
    let (single, head) = manifest("kubernetes.yaml");
    let (several, more) = manifest("kubernetes-postgres.yaml");
    let mut made = secrets(&head);
    assert!(made.len() == 3, "{made:?}");
    made.extend(secrets(&more));
    let cluster = Cluster::new(made);
    for documents in [&single, &several] {
        let pod = pod(documents);
        for spec in list(pod, "initContainers") {
            let container = cluster.container(pod, spec);
            let mut arguments: Vec<&str> = list(spec, "args").map(|word| word.as_str().unwrap()).collect();
            arguments.push("--help");
            container.run(&arguments, cluster.folder.path());
        }
        let container = cluster.container(pod, &pod["containers"][0]);
        container.run(&["config", "check"], cluster.folder.path());
        assert!(container.environment.iter().all(|(name, _)| !name.ends_with("_I_KNOW")));
        assert_eq!(word(&container.spec["resources"]["limits"], "memory"), "1280Mi");
        let buffer = Config::load(&Overrides::default()).expect("defaults").transfer_buffer_mib as usize * MIB;
        let ceiling = limits::memory_ceiling(buffer, container.get("MAX_DOWNLOADS").parse().expect("a number"));
        // README's example: a thousand connections, ten thousand watches, the logs of folders; and the kernel has some.
        assert!(ceiling + (20 + 60 + 64 + 128) * MIB <= 1280 * MIB, "{ceiling} bytes");
        assert_ne!(container.get("AUTH_MODE"), "none");
        // Ports are what is listened on, and probes go to the one for probes.
        let ports: BTreeMap<&str, u64> = list(container.spec, "ports")
            .map(|one| (word(one, "name"), one["containerPort"].as_u64().unwrap()))
            .collect();
        let wanted = [("grpc", "DATA_LISTEN"), ("metrics", "HTTP_LISTEN"), ("probe", "PROBE_LISTEN")];
        assert_eq!(ports, wanted.map(|(name, key)| (name, container.port(key))).into());
        for (kind, service) in
            [("startupProbe", "readiness"), ("readinessProbe", "readiness"), ("livenessProbe", "liveness")]
        {
            let probe = &container.spec[kind]["grpc"];
            assert_eq!((probe["port"].as_u64(), probe["service"].as_str()), (Some(ports["probe"]), Some(service)));
        }
    }
    // Each is applied by itself, so each has all; and what one applies the other one leaves as it is.
    for kind in ["Service", "NetworkPolicy"] {
        assert_eq!(of_kind(&single, kind), of_kind(&several, kind));
    }
    let policy = of_kind(&single, "NetworkPolicy");
    let open: Vec<u64> = list(&policy["spec"], "ingress")
        .flat_map(|rule| list(rule, "ports").map(|port| port["port"].as_u64().unwrap()))
        .collect();
    assert_eq!(open, [50051, 9464], "neither probes nor the admin port are for others");
}

#[test]
fn a_server_with_the_manifests_environment_answers_probes_and_asks_who_calls() {
    let (documents, head) = manifest("kubernetes.yaml");
    let cluster = Cluster::new(secrets(&head));
    let pod = pod(&documents);
    let container = cluster.container(pod, &pod["containers"][0]);
    let environment: Vec<(&str, &str)> =
        container.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // Flags win: free ports, and the same store and keys.
    let own = [
        format!("--store-url={}", container.get("STORE_URL")),
        format!("--sealing-key-file={}", container.get("SEALING_KEY_FILE")),
    ];
    let mut served = Served::start_in(&own.each_ref().map(String::as_str), &environment);
    let probe = served.told("probe");
    for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let service = word(&container.spec[kind]["grpc"], "service");
        succeed(tool("grpc_health_probe").args([&format!("-addr={probe}"), &format!("-service={service}")]));
    }
    let data = served.told("data").replace("127.0.0.1", "localhost");
    let ca: PathBuf = cluster.folder.path().join("ca.crt");
    let bearer = format!("authorization: Bearer {}", token("billing"));
    let list =
        |flags: &[&str]| tool("grpcurl").args(["-max-time", "10"]).args(flags).args([&data, "list"]).output().unwrap();
    let over_tls = ["-cacert", ca.to_str().unwrap()];
    let let_in = list(&[&over_tls[..], &["-H", &bearer]].concat());
    assert!(let_in.status.success() && text(&let_in).contains("DropboxConnector"), "{}", text(&let_in));
    assert!(text(&list(&over_tls)).contains("Unauthenticated"));
    assert!(!list(&["-plaintext", "-H", &bearer]).status.success());
    let admin = served.told("admin").replace("127.0.0.1", "localhost");
    let mut parameters = Command::new(BINARY);
    parameters.args(["parameters", "list", "--admin-server", &format!("https://{admin}"), "--ca-file"]).arg(&ca);
    succeed(parameters.env("DROPBOX_CONNECTOR_TOKEN", token("boss")));
    let metrics = super::server::fetch(served.told("http").parse().unwrap(), "/metrics");
    assert!(metrics.contains("dropboxconnector_tls_certificate_expiry"), "{metrics}");
}
