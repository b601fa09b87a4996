//! Ten thousand accounts, each watched by its own parameter, on webhooks: what they hold while nothing happens, how they come
//! up, and how they come up again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use dropbox_connector::api::{plain::watch_events_response::Payload, v1 as api};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    Outcome, fail,
    process::{Bench, Connector, Emulator, make_parameter},
    report::{Figure, Report},
};

const ACCOUNTS: usize = 10_000;
const CONNECTIONS: usize = 100;
/// Of making accounts and parameters at once.
const HANDS: usize = 16;
/// Begins are spread over 5 minutes; an index takes its time on top of that.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the next process is looked at: what it does in a minute it would do for five.
const LOOK: Duration = Duration::from_secs(60);

struct Account {
    id: String,
    parameter: String,
    refresh_token: String,
}

async fn make_accounts(emulator: &Emulator) -> Outcome<Vec<Account>> {
    let made = stream::iter(0..ACCOUNTS).map(|number| async move {
        let asked = json!({
            "email": format!("{number}@example.com"), "given_name": "A", "surname": number.to_string(), "team": null
        });
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let id = text(&emulator.control("accounts", Some(asked)).await?, "account_id");
        let login = emulator.control("login", Some(json!({ "account_id": id }))).await?;
        Outcome::Ok(Account { id, parameter: format!("p{number}"), refresh_token: text(&login, "refresh_token") })
    });
    made.buffered(HANDS).try_collect().await
}

/// A change was told: by which watch, and when.
type Told = (usize, Instant);

struct Watches {
    /// The last token of each, as a consumer keeps it.
    tokens: Arc<Mutex<Vec<String>>>,
    told: mpsc::Receiver<Told>,
    running: Vec<AbortHandle>,
    _tasks: JoinSet<()>,
}

async fn open(connector: &Connector, accounts: &[Account], tokens: Option<&[String]>) -> Outcome<Watches> {
    let (tell, told) = mpsc::channel(1024);
    let (ready, mut readies) = mpsc::channel(accounts.len());
    let (mut tasks, mut running) = (JoinSet::new(), Vec::new());
    let kept = Arc::new(Mutex::new(vec![String::new(); accounts.len()]));
    for (connection, part) in accounts.chunks(accounts.len().div_ceil(CONNECTIONS)).enumerate() {
        let client = connector.client().await?;
        for (at, account) in part.iter().enumerate() {
            let number = connection * part.len() + at;
            let token = tokens.map(|tokens| tokens[number].clone());
            let request = api::WatchEventsRequest {
                application_parameter_id: account.parameter.clone(),
                start: token.map(api::watch_events_request::Start::ResumeToken),
                ..Default::default()
            };
            let (mut client, tell, ready, kept) = (client.clone(), tell.clone(), ready.clone(), kept.clone());
            running.push(tasks.spawn(async move {
                let mut stream = match client.watch_events(request).await {
                    Ok(stream) => stream.into_inner(),
                    Err(refused) => return drop(ready.send(Err(refused.to_string())).await),
                };
                while let Ok(Some(message)) = stream.message().await {
                    let message = message.into_plain();
                    kept.lock().unwrap_or_else(PoisonError::into_inner)[number] = message.resume_token;
                    match message.payload {
                        Some(Payload::Ready(_)) => _ = ready.send(Ok(())).await,
                        Some(Payload::Change(_)) => _ = tell.send((number, Instant::now())).await,
                        _ => {}
                    }
                }
            }));
        }
    }
    for open in 0..accounts.len() {
        match tokio::time::timeout(PATIENCE, readies.recv()).await {
            Ok(Some(Ok(()))) => {}
            Ok(Some(Err(refused))) => return fail(format!("a watch was refused: {refused}")),
            _ => return fail(format!("{open} of {} watches began", accounts.len())),
        }
    }
    Ok(Watches { tokens: kept, told, running, _tasks: tasks })
}

async fn counter(emulator: &Emulator, route: &str, what: &str) -> Outcome<u64> {
    let counters = emulator.control("counters", None).await?;
    Ok(counters[format!("files/{route}")][what].as_u64().unwrap_or(0))
}

/// One change in one account, by webhook: milliseconds until it is told.
async fn change(emulator: &Emulator, watches: &mut Watches, account: &Account, number: usize) -> Outcome<f64> {
    let begun = Instant::now();
    let file = json!({ "path": format!("/{}", begun.elapsed().as_nanos()), "text": "x" });
    emulator.control("seed", Some(json!({ "account_id": account.id, "files": [file] }))).await?;
    match tokio::time::timeout(PATIENCE, watches.told.recv()).await {
        Ok(Some((by, at))) if by == number => Ok(at.duration_since(begun).as_secs_f64() * 1e3),
        other => fail(format!("a change of account {number} was told as {other:?}")),
    }
}

pub async fn quiet(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    let connector = bench.connector_with_webhooks(&emulator).await?;
    let accounts = make_accounts(&emulator).await?;
    let admin = connector.admin().await?;
    stream::iter(&accounts)
        .map(|account| make_parameter(admin.clone(), &emulator, &account.parameter, &account.refresh_token))
        .buffer_unordered(HANDS)
        .try_collect::<Vec<()>>()
        .await?;
    let before = connector.process.resident_mib()?;
    let begun = Instant::now();
    let mut watches = open(&connector, &accounts, None).await?;
    let opened = begun.elapsed();
    while counter(&emulator, "list_folder", "calls").await? < ACCOUNTS as u64 {
        if begun.elapsed() > PATIENCE {
            return fail("not every account has an index".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let began = begun.elapsed();
    // The last of them is brought to where its log is, and a heartbeat tells it.
    tokio::time::sleep(Duration::from_secs(35)).await;
    let (resident, peak) = (connector.process.resident_mib()?, connector.process.peak_mib()?);
    let at_once = counter(&emulator, "list_folder", "running_max").await?;
    let mut took = Vec::new();
    for number in (0..ACCOUNTS).step_by(ACCOUNTS / 50) {
        took.push(change(&emulator, &mut watches, &accounts[number], number).await?);
    }
    took.sort_by(f64::total_cmp);
    report.add(Figure {
        name: "10,000 accounts on webhooks, each with a parameter and a watch: memory of the process",
        target: "≤ 300 MiB",
        measured: format!(
            "{resident:.0} MiB, {peak:.0} MiB at most ({before:.0} MiB with 10,000 parameters and no watch); \
             one change: p50 {:.0} ms, last {:.0} ms",
            took[took.len() / 2],
            took[took.len() - 1]
        ),
        holds: Some(peak <= 300.0),
    });
    report.add(Figure {
        name: "10,000 accounts: their first begin",
        target: "over 5 min, ≤ 64 at once",
        measured: format!(
            "all watches ready within {:.0} s, all indexes within {:.0} s, {at_once} listings at once",
            opened.as_secs_f64(),
            began.as_secs_f64()
        ),
        holds: Some(at_once <= 64 && began >= Duration::from_secs(280)),
    });

    let tokens = watches.tokens.lock().unwrap_or_else(PoisonError::into_inner).clone();
    watches.running.iter().for_each(AbortHandle::abort);
    let connector = connector.again(&emulator)?;
    connector.wait_ready()?;
    let asked = ["list_folder", "list_folder/continue", "list_folder/get_latest_cursor", "list_folder/longpoll"];
    let mut counted = [0; 4];
    for (count, route) in counted.iter_mut().zip(asked) {
        *count = counter(&emulator, route, "calls").await?;
    }
    let begun = Instant::now();
    let _watches = open(&connector, &accounts, Some(&tokens)).await?;
    let opened = begun.elapsed();
    tokio::time::sleep(LOOK.saturating_sub(opened)).await;
    for (count, route) in counted.iter_mut().zip(asked) {
        *count = counter(&emulator, route, "calls").await? - *count;
    }
    let (resident, peak) = (connector.process.resident_mib()?, connector.process.peak_mib()?);
    report.add(Figure {
        name: "10,000 accounts after a restart, all watches opened at once with their tokens: memory of the process",
        target: "≤ 300 MiB",
        measured: format!("{resident:.0} MiB after a minute, {peak:.0} MiB at most"),
        holds: Some(peak <= 300.0),
    });
    let [listed, continued, cursors, longpolls] = counted;
    // 64 at once, then one every 30 ms.
    let most = 64 + (begun.elapsed().as_secs_f64() / 0.03) as u64 + 64;
    report.add(Figure {
        name: "10,000 accounts after a restart: questions in the first minute",
        target: "saved cursors asked at 33/s, no listing",
        measured: format!(
            "{continued} list_folder/continue, {listed} list_folder, {cursors} get_latest_cursor, {longpolls} longpolls; \
             all watches ready within {:.0} s",
            opened.as_secs_f64()
        ),
        holds: Some(listed == 0 && longpolls == 0 && continued <= most && continued >= most / 2),
    });
    Ok(())
}
