//! What others take for the same work: Dropbox's SDKs for Python and JavaScript, rclone, Apache OpenDAL. They have Dropbox's
//! names and ports fixed, so all of it runs in a network namespace of its own, where these lead to the emulator, with a hosts
//! file of its own: the machine's files stay as they are. `benches/peers/setup.sh` gets the programs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::{
    Outcome, bare,
    bare::Spent,
    fail,
    lanes::{ANSWER, LINE, LOST_BYTES, LOST_LANES, RESETS, STALLS},
    process::{Bench, Client, Emulator, Wire},
    report::{Figure, Report, Spread},
    transfers::{File, GIB, MIB, PAIRS, SOURCE_BYTES, source, timed, warm},
};

/// The first argument of a run inside the namespaces; what follows are its parts.
pub const FLAG: &str = "--apart";

const HOSTS: &str = "127.0.0.1 localhost api.dropboxapi.com notify.dropboxapi.com www.dropbox.com\n\
                     127.0.0.2 content.dropboxapi.com\n";

const SMALLS: usize = 1000;
const SMALL_BYTES: usize = 100 << 10;
/// Runs of the connector and of rclone with small files.
const SMALL_ROUNDS: usize = 3;
/// Of the Python SDK, which takes minutes for a run.
const SLOW_ROUNDS: usize = 1;
/// Appends in flight of ours, threads of the helper.
const THREADS: usize = 16;

/// Measures `part` in namespaces of its own and takes over its rows.
pub fn apart(report: &mut Report, part: &str) -> Outcome<()> {
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--map-root-user", "--"])
        .arg(std::env::current_exe()?)
        .args([FLAG, part])
        .stderr(Stdio::inherit())
        .output();
    let (ended, text) = match output {
        Ok(output) => (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => (false, error.to_string()),
    };
    text.lines().filter(|line| line.starts_with('|')).for_each(|row| report.take(row));
    match ended {
        true => Ok(()),
        false => {
            report.add(Figure {
                name: "the peers",
                target: "–",
                measured: format!("`{part}` could not be measured to its end here: see what it said"),
                holds: None,
            });
            Ok(())
        }
    }
}

/// Inside: loopback comes up, and Dropbox's names lead to it.
pub fn enter(bench: &mut Bench) -> Outcome<()> {
    let hosts = bench.path("hosts");
    fs::write(&hosts, HOSTS)?;
    for command in [vec!["ip", "link", "set", "lo", "up"], vec!["mount", "--bind", text(&hosts)?, "/etc/hosts"]] {
        if !Command::new(command[0]).args(&command[1..]).status()?.success() {
            return fail(format!("`{}` failed", command.join(" ")));
        }
    }
    Ok(())
}

fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| "a path that is not text".into())
}

fn tool(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(path);
    path.exists().then_some(path)
}

fn missing(report: &mut Report, name: &'static str, target: &'static str) {
    let measured = "not measured: `bash benches/peers/setup.sh` could not get it here".to_owned();
    report.add(Figure { name, target, measured, holds: None });
}

/// The programs, and what they are told.
struct Peers<'a> {
    emulator: &'a Emulator,
    ca: &'a Path,
    home: PathBuf,
}

impl<'a> Peers<'a> {
    fn new(bench: &mut Bench, emulator: &'a Emulator) -> Outcome<Peers<'a>> {
        let home = bench.path("home");
        fs::create_dir(&home)?;
        Ok(Peers { emulator, ca: emulator.ca.as_deref().ok_or("no TLS")?, home })
    }

    async fn run(&self, program: &Path, script: &str, mut job: Value) -> Outcome<Spent> {
        job["token"] = json!(self.emulator.access_token);
        job["ca"] = json!(self.ca);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let token = json!({
            "access_token": self.emulator.access_token, "token_type": "bearer", "expiry": "2100-01-01T00:00:00Z",
        });
        // Connections to the connector live on meanwhile.
        let output = tokio::process::Command::new(program)
            .arg(root.join("benches/peers").join(script))
            .arg(job.to_string())
            .env("HOME", &self.home)
            .env("SSL_CERT_FILE", self.ca)
            .env("NODE_EXTRA_CA_CERTS", self.ca)
            .env("NODE_PATH", root.join(".tools/sdk-javascript/node_modules"))
            .env("RCLONE_CONFIG", self.home.join("rclone.conf"))
            .env("RCLONE_CONFIG_BOX_TYPE", "dropbox")
            .env("RCLONE_CONFIG_BOX_TOKEN", token.to_string())
            .output()
            .await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let end = said.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
            return fail(format!("{} {script}: {}", program.display(), &said[end..]));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    async fn python(&self, job: Value) -> Option<Outcome<Spent>> {
        Some(self.run(&tool("sdk-python/bin/python")?, "python.py", job).await)
    }

    async fn javascript(&self, job: Value) -> Option<Outcome<Spent>> {
        tool("sdk-javascript/node_modules/dropbox")?;
        Some(self.run(&tool("bin/node")?, "javascript.cjs", job).await)
    }

    async fn opendal(&self, job: Value) -> Option<Outcome<Spent>> {
        Some(self.run(&tool("opendal/bin/python")?, "python.py", job).await)
    }

    async fn rclone(&self, arguments: &[&str]) -> Option<Outcome<Spent>> {
        let rclone = tool("bin/rclone")?;
        let command: Vec<&str> = [rclone.to_str()?].into_iter().chain(arguments.iter().copied()).collect();
        self.python(json!({ "what": "timed", "command": command })).await
    }
}

/// CPU for a file of 1 GiB, TLS, hash.
pub async fn cpu(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator_over(Wire::AsDropbox).await?;
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    let on_disk = bench.path("file");
    bare::write_file(&on_disk, GIB)?;
    let on_disk = text(&on_disk)?.to_owned();
    let peers = Peers::new(bench, &emulator)?;
    let job = |what: &str| json!({ "what": what, "file": on_disk, "path": "/peer", "append": 8 * MIB });
    File::new("/warm", 2 * SOURCE_BYTES).upload(&mut client).await?;
    let mut ratios: [Vec<f64>; 3] = Default::default();
    let mut seconds: [Vec<f64>; 3] = Default::default();
    for _ in 0..PAIRS {
        emulator.reset().await?;
        warm(&mut client).await?;
        let ours = timed(&connector, File::new("/through", GIB).upload(&mut client)).await?.cpu;
        for peer in 0..3 {
            emulator.reset().await?;
            let spent = match peer {
                0 => peers.python(job("upload")).await,
                1 => peers.rclone(&["copyto", &on_disk, "box:/peer"]).await,
                _ => peers.javascript(job("upload")).await,
            };
            let Some(spent) = spent else { continue };
            let spent = spent?.cpu;
            ratios[peer].push(ours / spent);
            seconds[peer].push(spent);
        }
    }
    let rows = [
        ("upload, 1 GiB, TLS upstream: CPU, connector ÷ Python SDK with hash", "≤ 0.50", Some(0.50)),
        ("upload, 1 GiB, TLS upstream: CPU, connector ÷ rclone with its checksum", "≤ 0.33", Some(0.33)),
        ("upload, 1 GiB, TLS upstream: CPU, connector ÷ JavaScript SDK with hash", "–", None),
    ];
    for ((name, target, most), (ratios, seconds)) in rows.into_iter().zip(ratios.into_iter().zip(seconds)) {
        if ratios.is_empty() {
            missing(report, name, target);
            continue;
        }
        let ratio = Spread::of(&ratios);
        report.add(Figure {
            name,
            target,
            measured: format!("{}; that one's {}", ratio.show(2, " ×"), Spread::of(&seconds).show(2, " s/GiB")),
            holds: most.map(|most| ratio.median <= most),
        });
    }
    let opendal = "upload, 64 MiB, one write, no hash: Apache OpenDAL";
    emulator.reset().await?;
    let small = bench.path("small-file");
    bare::write_file(&small, SOURCE_BYTES)?;
    match peers.opendal(json!({ "what": "opendal", "file": text(&small)?, "path": "peer" })).await {
        None => missing(report, opendal, "–"),
        Some(spent) => {
            let measured = match spent {
                Ok(spent) => format!("{:.2} s/GiB (n=1)", spent.cpu * 16.0),
                Err(error) => {
                    crate::say(&error.to_string());
                    "not measured: its endpoint and its trusted authorities cannot be set".to_owned()
                }
            };
            report.add(Figure { name: opendal, target: "–", measured, holds: None });
        }
    }
    Ok(())
}

/// So many uploads of 100 KiB at once, until all of them are done.
async fn smalls(clients: &[Client], at_once: usize, folder: &str) -> Outcome<f64> {
    let begin = Instant::now();
    let uploads = (0..SMALLS).map(|number| {
        let (mut client, data) = (clients[number % clients.len()].clone(), small(number));
        async move {
            let answer = client.upload_file(File::frames_of(&format!("{folder}/{number}"), data)).await?.into_inner();
            match answer.verified {
                true => Outcome::Ok(()),
                false => fail(format!("a small upload: {answer:?}")),
            }
        }
    });
    stream::iter(uploads).buffer_unordered(at_once).try_collect::<()>().await?;
    Ok(begin.elapsed().as_secs_f64())
}

fn small(number: usize) -> bytes::Bytes {
    let from = number * 512;
    source().slice(from..from + SMALL_BYTES)
}

/// Calls of the emulator that carried data or committed.
async fn writes(emulator: &Emulator) -> Outcome<u64> {
    let counters = emulator.control("counters", None).await?;
    let routes = counters.as_object().ok_or("no counters")?;
    let writes = routes.iter().filter(|(route, _)| {
        route.starts_with("files/upload") && !route.ends_with("start") && !route.ends_with("start_batch")
    });
    Ok(writes.filter_map(|(_, told)| told["calls"].as_u64()).sum())
}

async fn fresh(emulator: &Emulator, clients: &[Client], line: Option<u64>, one_writer: bool) -> Outcome<()> {
    emulator.reset().await?;
    emulator.far_away(ANSWER, line, one_writer).await?;
    for client in clients {
        warm(&mut client.clone()).await?;
    }
    Ok(())
}

/// How long it took, and how often the emulator was called for it.
struct Batch {
    wall: f64,
    calls: f64,
}

/// 1,000 files of 100 KiB, 50 ms an answer, one writer for a namespace.
pub async fn small_files(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator_over(Wire::AsDropbox).await?;
    // By default half as many are let in at once, and the others told to come back.
    let flags = ["--max-uploads", "1200"].map(str::to_owned);
    let connector = bench.connector_with(&emulator, &flags).await?;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(connector.client().await?);
    }
    let folder = bench.path("folder");
    fs::create_dir(&folder)?;
    for number in 0..SMALLS {
        fs::write(folder.join(number.to_string()), small(number))?;
    }
    let peers = Peers::new(bench, &emulator)?;
    let folder = text(&folder)?;
    let (mut all, mut some, mut rclone, mut python) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // No `reset` in between: it would end the sessions that the connector has opened ahead.
    fresh(&emulator, &clients, None, true).await?;
    smalls(&clients, 64, "/warm").await?;
    for round in 0..SMALL_ROUNDS {
        for (batches, at_once) in [(&mut all, SMALLS), (&mut some, 64)] {
            let before = writes(&emulator).await?;
            let wall = smalls(&clients, at_once, &format!("/ours/{at_once}/{round}")).await?;
            batches.push(Batch { wall, calls: (writes(&emulator).await? - before) as f64 });
        }
        let target = format!("box:/rclone/{round}");
        let arguments =
            ["copy", folder, &target, "--transfers", "32", "--checkers", "32", "--dropbox-batch-mode", "sync"];
        if let Some(spent) = peers.rclone(&arguments).await {
            rclone.push(spent?.wall);
        }
        if round < SLOW_ROUNDS {
            let job = json!({ "what": "small", "folder": folder, "path": "/peer", "threads": THREADS });
            if let Some(spent) = peers.python(job).await {
                python.push(spent?.wall);
            }
        }
    }
    let rows = [
        ("1,000 files of 100 KiB, 50 ms, 1,000 calls at once: time ÷ rclone's", ("≤ 0.25", 0.25), &all, &rclone),
        ("1,000 files of 100 KiB, 50 ms, 64 callers: time ÷ rclone's", ("≤ 0.65", 0.65), &some, &rclone),
        (
            "1,000 files of 100 KiB, 50 ms, 1,000 calls at once: time ÷ Python SDK's, 16 threads",
            ("≤ 0.05", 0.05),
            &all,
            &python,
        ),
        (
            "1,000 files of 100 KiB, 50 ms, 64 callers: time ÷ Python SDK's, 16 threads",
            ("≤ 0.05", 0.05),
            &some,
            &python,
        ),
    ];
    for (name, (target, most), ours, theirs) in rows {
        if theirs.is_empty() {
            missing(report, name, target);
            continue;
        }
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours.wall / theirs).collect();
        let of = |value: fn(&Batch) -> f64| Spread::of(&ours.iter().map(value).collect::<Vec<_>>());
        let ratio = Spread::of(&ratios);
        let measured = format!(
            "{}; {} by {} calls; that one {}",
            ratio.show(3, " ×"),
            of(|batch| batch.wall).show(2, " s"),
            of(|batch| batch.calls).show(0, ""),
            Spread::of(theirs).show(1, " s")
        );
        report.add(Figure { name, target, measured, holds: Some(ratio.median <= most) });
    }
    Ok(())
}

/// One file of 1 GiB, 50 ms an answer, 20 MB/s a connection.
pub async fn far_file(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator_over(Wire::AsDropbox).await?;
    emulator.far_away(ANSWER, Some(LINE), false).await?;
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    let on_disk = bench.path("file");
    bare::write_file(&on_disk, GIB)?;
    let on_disk = text(&on_disk)?.to_owned();
    let peers = Peers::new(bench, &emulator)?;
    let file = File { lanes: THREADS as i32, ..File::new("/through", GIB) };
    let (mut ours, mut python, mut by_rclone, mut best) = (Vec::new(), Vec::new(), None, 8);
    for round in 0..PAIRS {
        fresh(&emulator, std::slice::from_ref(&client), Some(LINE), false).await?;
        ours.push(timed(&connector, file.upload(&mut client)).await?.wall.as_secs_f64());
        // Its best setting is looked for once.
        for append in if round == 0 { vec![4, 8, 16] } else { vec![best] } {
            fresh(&emulator, &[], Some(LINE), false).await?;
            let job = json!({
                "what": "parallel", "file": on_disk, "path": "/peer", "append": append * MIB, "threads": THREADS,
            });
            let Some(spent) = peers.python(job).await else { continue };
            let wall = spent?.wall;
            if python.len() <= round {
                python.push(wall);
                best = append;
            } else if wall < python[round] {
                python[round] = wall;
                best = append;
            }
        }
        if round < SLOW_ROUNDS {
            fresh(&emulator, &[], Some(LINE), false).await?;
            by_rclone = peers.rclone(&["copyto", &on_disk, "box:/peer"]).await.transpose()?.map(|spent| spent.wall);
        }
    }
    let name = "one file of 1 GiB, 50 ms, 20 MB/s a connection: time ÷ rclone's";
    match by_rclone {
        None => missing(report, name, "≤ 0.20"),
        Some(wall) => {
            let ratio = Spread::of(&ours.iter().map(|ours| ours / wall).collect::<Vec<_>>());
            let measured = format!("{}; {}, {wall:.1} s (n=1)", ratio.show(3, " ×"), Spread::of(&ours).show(2, " s"));
            report.add(Figure { name, target: "≤ 0.20", measured, holds: Some(ratio.median <= 0.20) });
        }
    }
    let name = "one file of 1 GiB, 50 ms, 20 MB/s a connection, 16 appends and 16 threads: time ÷ Python SDK's";
    if python.is_empty() {
        missing(report, name, "≤ 1.1");
    } else {
        let ratio = Spread::of(&ours.iter().zip(&python).map(|(ours, python)| ours / python).collect::<Vec<_>>());
        let measured = format!(
            "{}; {}, {} with appends of {best} MiB",
            ratio.show(2, " ×"),
            Spread::of(&ours).show(2, " s"),
            Spread::of(&python).show(2, " s")
        );
        report.add(Figure { name, target: "≤ 1.1", measured, holds: Some(ratio.median <= 1.1) });
    }
    Ok(())
}

/// One file over a line that loses something, which each of them has to get over by itself.
pub async fn lossy_file(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator_over(Wire::AsDropbox).await?;
    emulator.far_away(ANSWER, Some(LINE), false).await?;
    emulator.lossy(STALLS, RESETS).await?;
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    warm(&mut client).await?;
    let on_disk = bench.path("file");
    bare::write_file(&on_disk, LOST_BYTES)?;
    let on_disk = text(&on_disk)?.to_owned();
    let peers = Peers::new(bench, &emulator)?;
    let file = File { lanes: LOST_LANES, ..File::new("/through", LOST_BYTES) };
    let mut ours = Vec::new();
    for _ in 0..SMALL_ROUNDS {
        ours.push(timed(&connector, file.upload(&mut client)).await?.wall.as_secs_f64());
        file.check(&emulator).await?;
    }
    let name = "one file of 512 MiB, 50 ms, 20 MB/s a connection with loss: time ÷ rclone's";
    let Some(spent) = peers.rclone(&["copyto", &on_disk, "box:/peer"]).await else {
        missing(report, name, "–");
        return Ok(());
    };
    let wall = spent?.wall;
    File { path: "/peer".to_owned(), ..file }.check(&emulator).await?;
    let ratio = Spread::of(&ours.iter().map(|ours| ours / wall).collect::<Vec<_>>());
    let measured = format!("{}; {}, {wall:.1} s (n=1)", ratio.show(3, " ×"), Spread::of(&ours).show(2, " s"));
    report.add(Figure { name, target: "–", measured, holds: None });
    Ok(())
}
