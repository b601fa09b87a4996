//! Cold start and the size of the binary.

use std::{fs, time::Instant};

use crate::{
    Outcome,
    process::{Bench, Connector},
    report::{Figure, Report, Spread},
};

const STARTS: usize = 11;

/// From the start of the process on an existing store to the first 200 of `/ready`.
pub async fn cold(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    let connector = bench.connector(&emulator).await?;
    let house = connector.house.clone();
    drop(connector);
    let mut millis = Vec::new();
    for _ in 0..STARTS {
        let begin = Instant::now();
        let connector = Connector::start(house.clone(), &emulator)?;
        connector.wait_ready()?;
        millis.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let spread = Spread::of(&millis);
    report.add(Figure {
        name: "cold start to ready, existing store",
        target: "< 300 ms",
        measured: spread.show(0, " ms"),
        holds: Some(spread.median < 300.0),
    });
    Ok(())
}

/// As built by the release profile.
pub fn size(report: &mut Report) -> Outcome<()> {
    let mib = fs::metadata(env!("CARGO_BIN_EXE_dropbox-connector"))?.len() as f64 / f64::from(1 << 20);
    report.add(Figure {
        name: "release binary",
        target: "< 40 MiB",
        measured: format!("{mib:.1} MiB"),
        holds: Some(mib < 40.0),
    });
    Ok(())
}
