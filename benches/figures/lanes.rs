//! One file over a line that is far away: what parallel appends and ranges gain, beside what the bare program gains; and what they
//! take where the line loses something.

use std::time::Duration;

use serde_json::json;

use crate::{
    Outcome,
    bare::{Job, What},
    process::{Bench, Connector, Emulator},
    report::{Figure, Report, Spread},
    transfers::{File, MIB, download, timed, warm},
};

/// Of every answer, and of every connection.
pub const ANSWER: Duration = Duration::from_millis(50);
pub const LINE: u64 = 20_000_000;
/// Of one lane, and of several: long enough that what begins and ends an upload does not count.
const ONE: u64 = 256 * MIB;
const SEVERAL: u64 = 1024 * MIB;
const ROUNDS: usize = 3;

/// How much faster than one lane, ÷ lanes; connector and bare program.
#[derive(Default)]
struct Gains {
    ours: Vec<f64>,
    bare: Vec<f64>,
}

impl Gains {
    fn row(&self, report: &mut Report, name: &'static str, (target, least): (&'static str, f64)) {
        let ours = Spread::of(&self.ours);
        let measured = format!("{}; bare program {}", ours.show(2, ""), Spread::of(&self.bare).show(2, ""));
        report.add(Figure { name, target, measured, holds: Some(ours.median >= least) });
    }
}

async fn far(bench: &mut Bench) -> Outcome<(Emulator, Connector)> {
    let emulator = bench.emulator().await?;
    emulator.far_away(ANSWER, Some(LINE), false).await?;
    let connector = bench.connector(&emulator).await?;
    Ok((emulator, connector))
}

fn seconds_per_mib(size: u64, seconds: f64) -> f64 {
    seconds / (size / MIB) as f64
}

pub async fn up(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let (emulator, connector) = far(bench).await?;
    let mut client = connector.client().await?;
    warm(&mut client).await?;
    let (mut eight, mut sixteen) = (Gains::default(), Gains::default());
    for _ in 0..ROUNDS {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for lanes in [1, 8, 16] {
            let size = if lanes == 1 { ONE } else { SEVERAL };
            let file = File { lanes, ..File::new("/far", size) };
            ours.push(seconds_per_mib(size, timed(&connector, file.upload(&mut client)).await?.wall.as_secs_f64()));
            file.check(&emulator).await?;
            let job = Job { lanes: lanes as usize, ..Job::new(What::Upload, &emulator, "/bare", size) };
            bare.push(seconds_per_mib(size, job.run().await?.wall));
        }
        for (gains, at, lanes) in [(&mut eight, 1, 8.0), (&mut sixteen, 2, 16.0)] {
            gains.ours.push(ours[0] / ours[at] / lanes);
            gains.bare.push(bare[0] / bare[at] / lanes);
        }
    }
    let name = "one upload of 1 GiB, 8 appends at once, 50 ms, 20 MB/s a connection: speed-up ÷ 8";
    eight.row(report, name, ("≥ 0.90", 0.90));
    let name = "one upload of 1 GiB, 16 appends at once, 50 ms, 20 MB/s a connection: speed-up ÷ 16";
    sixteen.row(report, name, ("≥ 0.85", 0.85));
    Ok(())
}

pub async fn down(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let (emulator, connector) = far(bench).await?;
    let seed = json!({ "files": [{ "path": "/one", "bytes": ONE }, { "path": "/several", "bytes": SEVERAL }] });
    emulator.control("seed", Some(seed)).await?;
    let mut client = connector.client().await?;
    warm(&mut client).await?;
    let mut gains = Gains::default();
    for _ in 0..ROUNDS {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for (lanes, path, size) in [(1, "/one", ONE), (8, "/several", SEVERAL)] {
            let read = timed(&connector, download(&mut client, path, size, lanes)).await?;
            ours.push(seconds_per_mib(size, read.wall.as_secs_f64()));
            let job = Job { lanes: lanes as usize, ..Job::new(What::Download, &emulator, path, size) };
            bare.push(seconds_per_mib(size, job.run().await?.wall));
        }
        gains.ours.push(ours[0] / ours[1] / 8.0);
        gains.bare.push(bare[0] / bare[1] / 8.0);
    }
    let name = "one download of 1 GiB, 8 ranges at once, 50 ms, 20 MB/s a connection: speed-up ÷ 8";
    gains.row(report, name, ("≥ 0.90", 0.90));
    Ok(())
}

/// Of segments of 64 KiB: so likely one is 200 ms late, and so likely the connection is reset.
pub const STALLS: f64 = 0.01;
pub const RESETS: f64 = 0.001;
pub const LOST_LANES: i32 = 8;
pub const LOST_BYTES: u64 = 512 * MIB;

/// Both directions over a line that loses something, in turn with the bare program, which says again what broke. What came is
/// compared by hash on either side.
pub async fn lossy(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let (emulator, connector) = far(bench).await?;
    let seed = json!({ "files": [{ "path": "/seeded", "bytes": LOST_BYTES }] });
    emulator.control("seed", Some(seed)).await?;
    let mut client = connector.client().await?;
    warm(&mut client).await?;
    let file = File { lanes: LOST_LANES, ..File::new("/far", LOST_BYTES) };
    let up = Job { lanes: LOST_LANES as usize, ..Job::new(What::Upload, &emulator, "/bare", LOST_BYTES) };
    let down = Job { what: What::Download, path: "/seeded".to_owned(), ..up.clone() };
    // First without any loss, so that the row says what it costs.
    let clean_up = timed(&connector, file.upload(&mut client)).await?.wall.as_secs_f64();
    let clean_down =
        timed(&connector, download(&mut client, "/seeded", LOST_BYTES, LOST_LANES)).await?.wall.as_secs_f64();
    drop((client, connector));
    emulator.lossy(STALLS, RESETS).await?;
    // A process without connections: those that are there keep their line.
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    warm(&mut client).await?;
    let (mut uploads, mut downloads) = (Against::default(), Against::default());
    for _ in 0..ROUNDS {
        uploads.ours.push(timed(&connector, file.upload(&mut client)).await?.wall.as_secs_f64());
        file.check(&emulator).await?;
        uploads.bare.push(up.run().await?.wall);
        let read = download(&mut client, "/seeded", LOST_BYTES, LOST_LANES);
        downloads.ours.push(timed(&connector, read).await?.wall.as_secs_f64());
        downloads.bare.push(down.run().await?.wall);
    }
    uploads.row(report, "one upload of 512 MiB, 8 appends at once, same line with loss: time ÷ bare program", clean_up);
    downloads.row(
        report,
        "one download of 512 MiB, 8 ranges at once, same line with loss: time ÷ bare program",
        clean_down,
    );
    Ok(())
}

/// Seconds, in turn.
#[derive(Default)]
struct Against {
    ours: Vec<f64>,
    bare: Vec<f64>,
}

impl Against {
    fn row(&self, report: &mut Report, name: &'static str, clean: f64) {
        let ratios: Vec<f64> = self.ours.iter().zip(&self.bare).map(|(ours, bare)| ours / bare).collect();
        let [ratio, ours, bare] = [&ratios, &self.ours, &self.bare].map(|values| Spread::of(values));
        let (ours, bare) = (ours.show(1, " s"), bare.show(1, " s"));
        let measured = format!("{}; {ours}, without loss {clean:.1} s; bare program {bare}", ratio.show(2, " ×"));
        report.add(Figure { name, target: "–", measured, holds: None });
    }
}
