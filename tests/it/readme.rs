//! What README and demo print, done as printed.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use dropbox_connector::telemetry;

use crate::support::process::{BINARY, Served, root, succeed, text};

pub fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("the README")
}

/// A shell with our program and the tools on its path.
pub fn shell(script: &str) -> Command {
    let own = std::path::Path::new(BINARY).parent().expect("a folder").to_owned();
    let rest = std::env::var_os("PATH").expect("a path");
    let path = std::env::join_paths([own, root().join(".tools/bin")].into_iter().chain(std::env::split_paths(&rest)));
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).env("PATH", path.expect("a path")).stdin(Stdio::null());
    command
}

#[test]
fn the_metrics_of_the_readme_are_those_there_are() {
    let readme = readme();
    let table = readme.split("<!-- metrics -->").nth(1).and_then(|rest| rest.split("<!-- /metrics -->").next());
    let rows = table.expect("a table between its marks").lines().filter(|line| line.contains("| `"));
    let told: Vec<Vec<&str>> =
        rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect()).collect();
    let told: Vec<(&str, String, &str)> = told.iter().map(|cells| (cells[1], cells[2].to_owned(), cells[4])).collect();
    let names: Vec<String> = telemetry::ALL.iter().map(|metric| metric.name.replace('.', "_")).collect();
    let there = telemetry::ALL.iter().zip(&names);
    let there: Vec<_> =
        there.map(|(one, name)| (&**name, format!("{:?}", one.kind).to_lowercase(), one.help)).collect();
    assert_eq!(told, there);
}

#[test]
fn the_grpcurl_lines_of_the_demo_run_as_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.txt"), "a").expect("written");
    let printed = succeed(Command::new(BINARY).arg("demo").arg(folder.path()));
    let start = printed.find("  grpcurl ").expect("lines to run");
    let end = printed.find("or with this program").expect("their end");
    let mut served = Served::start();
    let script = printed[start..end].replace("127.0.0.1:50051", &served.told("data"));
    assert!(script.matches("grpcurl ").count() >= 9, "{script}");
    succeed(&mut shell(&script));
}

#[test]
fn the_cron_job_of_the_readme_brings_every_change_once_and_those_that_its_work_failed_on_again() {
    let readme = readme();
    let start = readme.find("cat > pull-in").expect("the job");
    let script = &readme[start..start + readme[start..].find("\n```").expect("its end")];
    let mut served = Served::start();
    let (data, folder) = (served.told("data"), tempfile::tempdir().expect("a folder"));
    let run = |script: &str| {
        let mut command = shell(&script.replace("localhost:50051", &data));
        command.current_dir(folder.path()).env("DROPBOX_CONNECTOR_SERVER", format!("http://{data}"));
        command.env("DROPBOX_CONNECTOR_PARAMETER", "demo");
        command
    };
    let work =
        "#!/bin/sh\n[ ! -e broken ] || exit 1\nsed -n 's/^ *\"path\": //p; s/^ *\"pathDisplay\": //p' >> done.txt\n";
    fs::write(folder.path().join("work"), work).expect("written");
    succeed(&mut run(&format!("chmod +x work; dropbox-connector mkdir /in\n{script}")));
    let done = || fs::read_to_string(folder.path().join("done.txt")).unwrap_or_default();
    assert_eq!(done(), "", "nothing has changed since it began");
    succeed(&mut run("echo a > a.txt; dropbox-connector put a.txt /in/; touch broken"));
    assert!(!run("./pull-in").status().expect("it starts").success(), "its work failed");
    succeed(&mut run("rm broken"));
    // What happened in the last moment may come with the next answer.
    let until_told = |times: usize| {
        let began = Instant::now();
        while done().matches("/in/").count() < times {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", done());
            succeed(&mut run("./pull-in"));
        }
    };
    until_told(1);
    succeed(&mut run("dropbox-connector put a.txt /in/b.txt"));
    until_told(2);
    succeed(&mut run("./pull-in"));
    let told: Vec<String> = done().lines().map(|line| line.trim_matches(['"', ',']).to_owned()).collect();
    assert_eq!(told, ["/in/a.txt", "/in/b.txt"]);
    // And the place is one that a checkpoint takes.
    let acknowledge = readme.lines().find(|line| line.ends_with("/AcknowledgeEvents")).expect("the call");
    succeed(&mut run(acknowledge));
}

#[test]
fn the_two_way_sync_of_the_readme_brings_both_sides_together_and_tells_conflicts() {
    let readme = readme();
    let (_, section) = readme.split_once("\n## Two-way sync\n").expect("the section");
    let block = |kind: &str| section.split(kind).nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let mut served = Served::start();
    let (data, folder) = (served.told("data"), tempfile::tempdir().expect("a folder"));
    let run = |script: &str| {
        let mut command = shell(&script.replace("localhost:50051", &data));
        command.current_dir(folder.path()).env("DROPBOX_CONNECTOR_SERVER", format!("http://{data}"));
        command.env("DROPBOX_CONNECTOR_PARAMETER", "demo");
        command
    };
    fs::write(folder.path().join("sync.py"), block("```python\n").replace("localhost:50051", &data)).expect("written");
    let sync = || {
        let ran = run("python3 sync.py copy /in").output().expect("it runs");
        assert!(ran.status.success(), "{}", text(&ran));
        String::from_utf8(ran.stdout).expect("text")
    };
    let copy = |name: &str| fs::read_to_string(folder.path().join("copy").join(name)).ok();
    let there =
        || succeed(&mut run("dropbox-connector get -r /in there --json > told; cd there; ls -R | grep txt || true"));
    succeed(&mut run("dropbox-connector mkdir /in; mkdir -p copy/deep
         echo 1 > a.txt; for n in b c; do dropbox-connector put a.txt /in/sub/$n.txt; done
         echo 2 > copy/deep/ü.txt; echo 2 > copy/d.txt"));
    assert_eq!(sync(), "");
    assert_eq!(
        [copy("sub/b.txt"), copy("sub/c.txt"), copy("d.txt")],
        ["1\n", "1\n", "2\n"].map(|it| Some(it.to_owned()))
    );
    assert!(there().contains("ü.txt"));
    // A change and a deletion on either side, and a conflict.
    succeed(&mut run("echo 3 > copy/d.txt; rm copy/sub/c.txt; echo 4 > copy/sub/b.txt
         echo 33 > a.txt; dropbox-connector put --mode overwrite a.txt /in/sub/b.txt
         dropbox-connector rm /in/deep/ü.txt; dropbox-connector put a.txt /in/new.txt"));
    let done = "deleted here: deep/ü.txt\nSYNC_REASON_BOTH_CHANGED sub/b.txt\ndeleted there: sub/c.txt\n";
    assert_eq!(sync(), done);
    assert_eq!([copy("new.txt").as_deref(), copy("deep/ü.txt").as_deref()], [Some("33\n"), None]);
    assert_eq!(copy("sub/b.txt").as_deref(), Some("4\n"), "a conflict is left alone");
    assert_eq!(run("dropbox-connector get /in/d.txt --to -").output().expect("it runs").stdout, b"3\n");
    assert!(!run("dropbox-connector stat /in/sub/c.txt").output().expect("it runs").status.success());
    assert_eq!(sync(), "SYNC_REASON_BOTH_CHANGED sub/b.txt\n");
    // Another spelling is the same file.
    succeed(&mut run("mv copy/d.txt copy/D.txt"));
    assert_eq!(sync(), "SYNC_REASON_BOTH_CHANGED sub/b.txt\n");
    assert!(!fs::read_to_string(folder.path().join("copy.sync")).expect("kept").contains("\"d.txt\""));
    assert!(run("dropbox-connector stat /in/d.txt").output().expect("it runs").status.success());
    // The command line finds nothing but that conflict, and nothing where both are empty.
    let told = run("dropbox-connector plan copy /in").output().expect("it runs");
    assert_eq!(told.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&told.stdout), format!("{:<13} {:<40} both new\n", "conflict", "sub/b.txt"));
    let told = succeed(&mut run(block("```sh\n")));
    assert!(told.contains("\"listed\"") && told.contains("\"resumeToken\""), "{told}");
}

#[cfg(unix)]
#[test]
fn the_two_way_sync_of_the_readme_takes_nothing_for_deleted_that_it_does_not_see() {
    let readme = readme();
    let (_, section) = readme.split_once("\n## Two-way sync\n").expect("the section");
    let script = section.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let mut served = Served::start();
    let (data, folder) = (served.told("data"), tempfile::tempdir().expect("a folder"));
    let run = |script: &str| {
        let mut command = shell(script);
        command.current_dir(folder.path()).env("DROPBOX_CONNECTOR_SERVER", format!("http://{data}"));
        command.env("DROPBOX_CONNECTOR_PARAMETER", "demo");
        command
    };
    fs::write(folder.path().join("sync.py"), script.replace("localhost:50051", &data)).expect("written");
    let there = |name: &str| run(&format!("dropbox-connector stat /in/{name}")).output().expect("it runs").status;
    let sync = |told: &str| assert_eq!(succeed(&mut run("python3 sync.py copy /in 2>&1")), told);
    let refused = |script: &str, why: &str| {
        let ran = run(script).output().expect("it runs");
        assert!(!ran.status.success() && text(&ran).contains(why), "{}", text(&ran));
    };
    succeed(&mut run("dropbox-connector mkdir /in; dropbox-connector mkdir /other; mkdir -p copy/sub
         echo 1 | tee copy/disk.part copy/a.txt copy/sub/b.txt copy/c.txt > a.txt.0123456789abcdef.part
         mv a.txt.* copy"));
    for _ in 0..3 {
        sync("");
        assert!(there("disk.part").success(), "a file of the user's");
        assert!(!there("a.txt.0123456789abcdef.part").success(), "a download that broke off");
    }
    // Another folder at Dropbox, in which none of it is.
    refused("python3 sync.py copy /other", "is in sync with /in");
    // Not mounted.
    refused("mv copy away; python3 sync.py copy /in", "not mounted?");
    refused("mkdir -p copy/sub; python3 sync.py copy /in", "not mounted?");
    refused("echo x > copy/.keep; python3 sync.py copy /in", "not mounted?");
    // What lies behind a link is there, or may be.
    succeed(&mut run("rm -r copy; mv away copy; rm copy/a.txt; ln -s nowhere copy/a.txt; mv copy/sub aside
         ln -s ../aside copy/sub; rm copy/c.txt"));
    sync("deleted there: c.txt\n");
    assert!(there("a.txt").success() && there("sub/b.txt").success() && there("disk.part").success());
    assert!(!there("c.txt").success(), "that one was deleted");
    succeed(&mut run("test -h copy/a.txt; test -h copy/sub"));
    // A step that is refused leaves the others to be carried out, and itself to the next run.
    succeed(&mut run("echo 7 | tee copy/x.txt copy/y.txt copy/z.txt"));
    sync("");
    succeed(&mut run("rm copy/x.txt copy/y.txt; echo 8 > copy/z.txt; mkdir bin
         printf '#!/bin/sh\\ncase \"$*\" in *DeleteItem) exit 71;; esac\\nexec %s \"$@\"\\n' \"$(command -v grpcurl)\" > bin/grpcurl
         chmod +x bin/grpcurl"));
    let ran = run("PATH=\"$PWD/bin:$PATH\" python3 sync.py copy /in").output().expect("it runs");
    assert_eq!((ran.status.code(), text(&ran).matches("exit status 71").count()), (Some(1), 2), "{}", text(&ran));
    assert!(there("x.txt").success() && there("y.txt").success());
    assert_eq!(run("dropbox-connector get /in/z.txt --to -").output().expect("it runs").stdout, b"8\n");
    sync("deleted there: x.txt\ndeleted there: y.txt\n");
    succeed(&mut run("rm copy/z.txt"));
    sync("deleted there: z.txt\n");
    // Emptied there, while one file was edited here; then meant so.
    succeed(&mut run("echo 5 > copy/edited.txt"));
    sync("");
    succeed(&mut run("echo 6 > copy/edited.txt; dropbox-connector rm -r /in; dropbox-connector mkdir /in"));
    refused("python3 sync.py copy /in", "has none of the 2 files");
    succeed(&mut run("test -f copy/disk.part"));
    let done = "deleted here: disk.part\nSYNC_REASON_REMOTE_DELETED_LOCAL_CHANGED edited.txt\n";
    assert_eq!(succeed(&mut run("python3 sync.py copy /in --all-gone")), done);
    // What cannot be uploaded is told by the exit code, too.
    succeed(&mut run("printf x > \"$(printf 'copy/lat\\351in.txt')\""));
    assert_eq!(run("python3 sync.py copy /in").output().expect("it runs").status.code(), Some(1));
}

/// Five ports for a process that has to be told its own. Not those that the system gives to whoever asks for any, as all the
/// other tests do and every client: between a look and the start of the process one of them would come by.
fn free_ports() -> [u16; 5] {
    const BELOW_THE_SYSTEMS: std::ops::Range<u16> = 10_000..30_000;
    let mut blocks = BELOW_THE_SYSTEMS.step_by(5).collect::<Vec<_>>();
    // Test runs side by side begin to look in different places.
    let turn = std::process::id() as usize % blocks.len();
    blocks.rotate_left(turn);
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = blocks.into_iter().find(|&first| (first..first + 5).all(is_free)).expect("five ports in a row");
    [0, 1, 2, 3, 4].map(|n| first + n)
}

/// Ends what the shell has left running.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The group: the shell and what it has started in the background.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

#[cfg(unix)]
#[test]
fn an_emulator_in_a_process_of_its_own_is_started_and_used_as_the_readme_says() {
    use std::os::unix::process::CommandExt as _;
    let readme = readme();
    let mut blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut script = blocks.find(|block| block.contains("--allow-insecure-upstream")).expect("the recipe").to_owned();
    for (n, port) in free_ports().into_iter().enumerate() {
        script = script.replace(&(4100 + n).to_string(), &port.to_string());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| fs::File::create(folder.path().join(name)).expect("a file");
    let mut command = shell(&format!("{script}wait\n"));
    command.current_dir(folder.path()).stdout(file("out")).stderr(file("err")).process_group(0);
    for key in ["DATA", "ADMIN", "PROBE", "HTTP"] {
        command.env(format!("DROPBOX_CONNECTOR_{key}_LISTEN"), "127.0.0.1:0");
    }
    let _running = Running(command.spawn().expect("it starts"));
    let told = |name: &str| fs::read_to_string(folder.path().join(name)).expect("what it said");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !(told("out").contains("listening data=") && told("out").contains("Ctrl-C")) {
        assert!(Instant::now() < deadline, "{}{}", told("out"), told("err"));
        std::thread::yield_now();
    }
    let out = told("out");
    let at = |name: &str| {
        let line = out.lines().find(|line| line.starts_with("listening data=")).expect("its addresses");
        let word = line.split(' ').find_map(|word| word.strip_prefix(&format!("{name}="))).expect("an address");
        format!("http://{word}")
    };
    // The commands that the emulator prints, as they are.
    let printed =
        out.lines().map(str::trim).filter(|line| line.contains("parameters ") || line.ends_with("ls -p demo"));
    let printed = printed.collect::<Vec<_>>().join("\n");
    assert_eq!(printed.lines().count(), 3, "{out}");
    let mut commands = shell(&printed);
    commands.env("DROPBOX_CONNECTOR_SERVER", at("data")).env("DROPBOX_CONNECTOR_ADMIN_SERVER", at("admin"));
    succeed(commands.current_dir(folder.path()));
}
