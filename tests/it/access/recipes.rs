//! The recipes of README's "Who may call", run as they are pasted: certificates and tokens by openssl, a real server with
//! the flags that are shown, grpcurl and the command line as its callers.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::support::process::{BINARY, Served, root, succeed, text, tool};

/// The shell blocks below a heading, up to the next of its kind.
fn blocks(heading: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once(&format!("\n{heading}\n")).expect(heading);
    let level = heading.split(' ').next().unwrap();
    let section = section.split(&format!("\n{level} ")).next().unwrap();
    let section = section.split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn run(script: &str, folder: &Path, served: Option<&mut Served>) -> String {
    let script = match served {
        None => script.to_owned(),
        Some(served) => {
            let port = |address: String| address.rsplit(':').next().unwrap().to_owned();
            let (data, admin) = (port(served.told("data")), port(served.told("admin")));
            script
                .replace("localhost:50051", &format!("localhost:{data}"))
                .replace("localhost:50052", &format!("localhost:{admin}"))
        }
    };
    let binary = Path::new(BINARY).parent().unwrap().to_owned();
    let path = [root().join(".tools/bin"), binary];
    let usual = std::env::var_os("PATH").unwrap();
    let path = path.into_iter().chain(std::env::split_paths(&usual));
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &script]).env("PATH", std::env::join_paths(path).unwrap());
    succeed(command.current_dir(folder).stdin(Stdio::null()))
}

/// The server of a block `dropbox-connector serve …`: files are where the recipe made them.
fn serve(block: &str, folder: &Path) -> Served {
    let block = block.replace("\\\n", " ");
    let words = block.split_whitespace().skip_while(|word| *word != "--emulator").skip(1);
    let flags: Vec<String> = words
        .map(|word| match folder.join(word) {
            file if file.is_file() => file.display().to_string(),
            _ => word.to_owned(),
        })
        .collect();
    Served::start_with(&flags.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn the_recipes_run_as_pasted() {
    let folder = tempfile::tempdir().unwrap();
    for (heading, made) in
        [("### By certificate", &["boss.crt", "billing.key"][..]), ("### By signed token", &["jwks.json", "boss.jwt"])]
    {
        let blocks = blocks(heading);
        let [make, start, call] = &blocks[..] else { panic!("{heading}: {} blocks", blocks.len()) };
        run(make, folder.path(), None);
        for file in made {
            assert!(folder.path().join(file).metadata().unwrap().len() > 0, "{file}");
        }
        let mut served = serve(start, folder.path());
        let told = run(call, folder.path(), Some(&mut served));
        assert!(told.contains("\"created\": true") && told.contains("/box"), "{heading}: {told}");
        // The server of the next recipe is another; this one lets nobody in without what it asks for.
        let address = served.told("data").replace("127.0.0.1", "localhost");
        let ca = folder.path().join("ca.crt");
        let mut bare = tool("grpcurl");
        bare.args(["-cacert", ca.to_str().unwrap(), "-max-time", "10", &address, "list"]);
        let refused = bare.output().unwrap();
        assert!(!refused.status.success(), "{heading}: {}", text(&refused));
    }
}

#[test]
fn a_static_token_made_by_the_recipe_opens_the_door() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks("### By static token");
    let [make, start, call] = &blocks[..] else { panic!("{} blocks", blocks.len()) };
    run(make, folder.path(), None);
    // What the shell would put there.
    let hashes = std::fs::read_to_string(folder.path().join("tokens.hashes")).unwrap();
    let mut served = serve(&start.replace("\"$(cat tokens.hashes)\"", hashes.trim()), folder.path());
    let told = run(call, folder.path(), Some(&mut served));
    assert!(told.contains("\"created\": true") && told.ends_with("box/\n"), "{told}");
    let bare = tool("grpcurl").args(["-plaintext", "-max-time", "10", &served.told("data"), "list"]).output().unwrap();
    assert!(!bare.status.success(), "{}", text(&bare));
}

/// Check 13 in its own words is run by `tests/clients/run.sh` with the kubelet's package; this is the same door.
#[test]
fn probes_need_no_certificate_and_no_token_where_callers_do() {
    let folder = tempfile::tempdir().unwrap();
    run(&blocks("### By certificate")[0], folder.path(), None);
    let mut served = serve(&blocks("### By certificate")[1], folder.path());
    let probe = served.told("probe");
    for service in ["readiness", "liveness"] {
        succeed(tool("grpc_health_probe").args([&format!("-addr={probe}"), &format!("-service={service}")]));
    }
    let data = served.told("data");
    let refused = tool("grpc_health_probe").arg(format!("-addr={data}")).output().unwrap();
    assert!(!refused.status.success(), "the data port speaks TLS: {}", text(&refused));
}

#[cfg(unix)]
#[test]
fn on_sighup_a_new_certificate_is_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let make = &blocks("### By certificate")[0];
    run(make, folder.path(), None);
    let start = "serve --emulator --tls-cert-file server.crt --tls-key-file server.key";
    let mut served = serve(start, folder.path());
    let data = served.told("data").replace("127.0.0.1", "localhost");
    let shown = || {
        let script =
            format!("openssl s_client -connect {data} -alpn h2 </dev/null 2>/dev/null | openssl x509 -noout -serial");
        run(&script, folder.path(), None)
    };
    let before = shown();
    let again = make.lines().filter(|line| !line.starts_with("openssl req -x509")).collect::<Vec<_>>().join("\n");
    run(&again, folder.path(), None);
    served.hang_up();
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while shown() == before {
        assert!(std::time::Instant::now() < deadline, "{}", served.text());
    }
}
