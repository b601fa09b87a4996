//! One file over a line that is far away: what parallel appends and ranges gain, beside what the bare program gains.

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
