//! Metrics, log lines and where they go. Every metric name is here; labels come from closed sets (route, reason, code),
//! never a path, a name or an account. Log lines go through a bounded buffer: a slow reader of our standard error loses
//! lines, which are counted, and never holds up a call.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    time::Duration,
};

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::LogFormat,
    fault::{Fault, Result},
    limits,
};

macro_rules! names {
    ($($constant:ident = $kind:ident $name:literal $unit:ident: $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// Every metric: name, kind, unit, what it says.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, unit: Unit::$unit, help: $help },)*];
    };
}

/// A metric as it is described to Prometheus.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

names! {
    RPC_DURATION = Histogram "rpc.server.call.duration" Seconds: "Time of one RPC, by rpc.method and rpc.response.status_code.";
    UPSTREAM_DURATION = Histogram "dropboxconnector.upstream.duration" Seconds: "Time of one request to Dropbox until its answer was read, for content until its head.";
    UPSTREAM_RETRIES = Counter "dropboxconnector.upstream.retries" Count: "Requests to Dropbox that were repeats.";
    RATELIMIT_WAIT = Histogram "dropboxconnector.ratelimit.wait" Seconds: "Time a call waited because Dropbox limits its account.";
    GATE_WAIT = Histogram "dropboxconnector.gate.wait" Seconds: "Time a write, or a batch of them, waited for its turn in a namespace.";
    BATCH_CALLS = Counter "dropboxconnector.batch.calls" Count: "Requests to Dropbox that stood for several writes, by dropbox.route.";
    BATCH_ENTRIES = Counter "dropboxconnector.batch.entries" Count: "Writes in those requests, by dropbox.route.";
    TRANSFER_BYTES = Counter "dropboxconnector.transfer.bytes" Bytes: "Bytes of content moved, by direction.";
    TRANSFER_ACTIVE = Gauge "dropboxconnector.transfer.active" Count: "Transfers under way, by direction.";
    TRANSFER_RESUMED = Counter "dropboxconnector.transfer.resumed" Count: "Transfers taken up again after a break, by direction.";
    TRANSFER_RESCUED = Counter "dropboxconnector.transfer.rescued" Count: "Appends of parallel uploads that lagged far behind the others and were sent again on another connection.";
    TRANSFER_UNRECORDED = Counter "dropboxconnector.transfer.unrecorded" Count: "Acknowledged pieces of uploads that the store did not take; after a break they are sent again.";
    BUFFER_BYTES = Gauge "dropboxconnector.buffer.bytes" Bytes: "Memory of the block budget in use.";
    WATCH_DELIVERED = Counter "dropboxconnector.watch.delivered" Count: "Events told to watches and pulls, by type.";
    WEBHOOK_CALLS = Counter "dropboxconnector.webhook.calls" Count: "Calls of the webhook address, by outcome: taken, wrong_signature, unknown_app, malformed, too_large, failed.";
    OAUTH_REFRESH = Counter "dropboxconnector.oauth.refresh" Count: "Renewals of access tokens, by outcome.";
    KEYS_BROKEN = Gauge "dropboxconnector.keys.broken" Count: "Sealing keys that the store needs and are missing, and one more while the keys cannot be read again; those in memory hold.";
    PARAMETERS_FILE_BROKEN = Gauge "dropboxconnector.parameters_file.broken" Count: "1 while the parameters file cannot be used; the last good one holds.";
    TLS_HANDSHAKES = Counter "dropboxconnector.tls.handshakes" Count: "TLS handshakes of the data and admin ports, by outcome.";
    TLS_CERTIFICATE_EXPIRY = Gauge "dropboxconnector.tls.certificate.expiry" Seconds: "Unix time at which the certificate in use expires.";
    TLS_RELOADS = Counter "dropboxconnector.tls.reloads" Count: "Changes of certificate, key or authorities on disk, by outcome: changed, or refused and the old ones kept.";
    AUTH_KEYS_READS = Counter "dropboxconnector.auth.keys.reads" Count: "Readings of the token issuer's key set, by outcome: same, changed or failed.";
    REAUTHORIZATION_REQUIRED = Gauge "dropboxconnector.oauth.reauthorization.required" Count: "Application parameters whose Dropbox account must be connected again.";
    HEALTH_STATUS = Gauge "dropboxconnector.health.status" Count: "1 while the named service is serving.";
    WATCH_STREAMS = Gauge "dropboxconnector.watch.streams" Count: "Watchers of folders.";
    WATCH_LAG = Histogram "dropboxconnector.watch.lag" Seconds: "Time from learning of a change to handing it to a watcher.";
    WATCH_EVENTS = Counter "dropboxconnector.watch.events" Count: "Changes written to logs of watched folders, by type.";
    WATCH_RESETS = Counter "dropboxconnector.watch.resets" Count: "Watched folders that had to be listed anew because Dropbox forgot the cursor or the folder went.";
    WATCH_DETACHED = Counter "dropboxconnector.watch.detached" Count: "Watchers that fell behind what memory holds of a log and went on from its rows or from Dropbox.";
    LOG_DROPPED = Counter "dropboxconnector.log.dropped" Count: "Log lines lost because nobody read them fast enough.";
}

/// Upper bounds of the duration histograms, in seconds: from a look-up on loopback to a large upload.
const DURATION_BOUNDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Lines of this target are never dropped: whoever writes one waits for room.
pub const AUDIT_TARGET: &str = "audit";

static PROMETHEUS: OnceLock<PrometheusHandle> = OnceLock::new();
static LINES: OnceLock<Lines> = OnceLock::new();

/// Sets up log lines to standard error and the recorder of metrics, once per process; a second call changes nothing,
/// so that many apps of one test process may start.
///
/// # Errors
/// `INVALID_FIELD` for a filter that cannot be read.
pub fn install(format: LogFormat, filter: &str) -> Result<()> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Fault::field("log_level", "MALFORMED", "not a log filter, as in info,dropbox_connector=debug").source(error)
    })?;
    let filter = audited(filter);
    install_metrics()?;
    let lines = LINES.get_or_init(|| Lines::to(io::stderr()));
    let layer = fmt_layer(format, lines.clone());
    let _ = Registry::default().with(layer.with_filter(filter)).try_init();
    Ok(())
}

/// The same filter, which lets every audit line through whatever it says.
fn audited(filter: EnvFilter) -> EnvFilter {
    filter.add_directive(format!("{AUDIT_TARGET}=info").parse().expect("a target and a level"))
}

/// The recorder alone, for processes whose standard error belongs to a person.
///
/// # Errors
/// `CONNECTOR_BUG` when another recorder was installed before.
pub fn install_metrics() -> Result<()> {
    if PROMETHEUS.get().is_some() {
        return Ok(());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("duration".into()), DURATION_BOUNDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("wait".into()), DURATION_BOUNDS))
        .map_err(|error| Fault::bug("the bounds of the histograms are empty").source(error))?
        .build_recorder();
    let handle = recorder.handle();
    if PROMETHEUS.set(handle).is_err() {
        return Ok(());
    }
    metrics::set_global_recorder(recorder)
        .map_err(|_| Fault::bug("another recorder of metrics was installed before"))?;
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
    Ok(())
}

/// Waits until the lines written so far have left, but no longer than `bound`. For the end of the process.
pub fn flush(bound: Duration) {
    if let Some(lines) = LINES.get() {
        lines.flush(bound);
    }
}

/// All metrics in Prometheus' text form; empty before [`install`].
pub fn render() -> String {
    PROMETHEUS.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Moves what histograms gathered into their buckets. Call it every few seconds, or memory grows between two scrapes.
pub fn upkeep() {
    if let Some(handle) = PROMETHEUS.get() {
        handle.run_upkeep();
    }
}

fn fmt_layer<W>(format: LogFormat, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    match format {
        LogFormat::Json => Box::new(layer.json().flatten_event(true).with_current_span(true).with_span_list(false)),
        LogFormat::Text => Box::new(layer),
    }
}

/// The way of log lines to a writer thread.
#[derive(Debug, Clone)]
struct Lines(SyncSender<Entry>);

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Everything before this has been written.
    Mark(SyncSender<()>),
}

impl Lines {
    fn to(mut out: impl Write + Send + 'static) -> Lines {
        let (lines, queue): (_, Receiver<Entry>) = mpsc::sync_channel(limits::LOG_LINES_MAX);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                // A standard error that is closed is no reason to stop serving, nor is nobody waiting for a mark.
                while let Ok(entry) = queue.recv() {
                    let _ = match entry {
                        Entry::Line(line) => out.write_all(&line),
                        Entry::Mark(done) => out.flush().map(|()| drop(done)),
                    };
                }
            })
            .expect("a process that cannot start its first threads cannot serve");
        Lines(lines)
    }

    fn flush(&self, bound: Duration) {
        let (done, written) = mpsc::sync_channel(1);
        if self.0.try_send(Entry::Mark(done)).is_ok() {
            // The writer lets go of the mark, which ends the wait.
            let _ = written.recv_timeout(bound);
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { text: Vec::with_capacity(256), lines: self.0.clone(), waits: false }
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Line {
        let mut line = self.make_writer();
        line.waits = meta.target() == AUDIT_TARGET;
        line
    }
}

/// One line being written; it leaves when it is dropped.
#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    lines: SyncSender<Entry>,
    waits: bool,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = limits::LOG_LINE_BYTES_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.text.ends_with(b"\n") {
            self.text.push(b'\n');
        }
        let line = Entry::Line(std::mem::take(&mut self.text));
        if self.waits {
            let _ = self.lines.send(line);
        } else if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            metrics::counter!(LOG_DROPPED).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use super::*;

    /// Keeps what is written; holds the writer back while it is shut.
    #[derive(Clone, Default)]
    struct Sink(Arc<(Mutex<Gate>, Condvar)>);

    /// Whether it is shut, and what came through.
    type Gate = (bool, Vec<u8>);

    impl Sink {
        fn shut(&self, shut: bool) {
            self.0.0.lock().expect("unpoisoned").0 = shut;
            self.0.1.notify_all();
        }

        /// What was written once it fits.
        fn until(&self, fits: impl Fn(&str) -> bool) -> String {
            let text = |state: &Gate| String::from_utf8_lossy(&state.1).into_owned();
            let state = self.0.0.lock().expect("unpoisoned");
            let bound = Duration::from_secs(10);
            let (state, late) =
                self.0.1.wait_timeout_while(state, bound, |state| !fits(&text(state))).expect("unpoisoned");
            assert!(!late.timed_out(), "{}", text(&state));
            text(&state)
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.0.lock().expect("unpoisoned");
            let mut state = self.0.1.wait_while(state, |state| state.0).expect("unpoisoned");
            state.1.extend_from_slice(bytes);
            self.0.1.notify_all();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(format: LogFormat, sink: &Sink, body: impl FnOnce()) {
        let layer = fmt_layer(format, Lines::to(sink.clone()));
        tracing::subscriber::with_default(Registry::default().with(layer), body);
    }

    #[test]
    fn names_are_those_of_the_contract_and_each_is_there_once() {
        for pair in ALL.iter().zip(ALL.iter().skip(1)) {
            assert_ne!(pair.0.name, pair.1.name);
        }
        for metric in ALL {
            assert!(metric.name.starts_with("dropboxconnector.") || metric.name.starts_with("rpc.server."));
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn metrics_are_rendered_for_prometheus_with_buckets() {
        install_metrics().expect("the only recorder");
        install_metrics().expect("a second time changes nothing");
        metrics::histogram!(UPSTREAM_DURATION, "dropbox.route" => "files/upload").record(0.2);
        metrics::counter!(OAUTH_REFRESH, "outcome" => "ok").increment(1);
        let text = render();
        assert!(text.contains("dropboxconnector_upstream_duration_bucket{dropbox_route=\"files/upload\",le=\"0.25\"}"));
        assert!(text.contains("dropboxconnector_oauth_refresh{outcome=\"ok\"}"), "{text}");
        assert!(text.contains("# HELP dropboxconnector_upstream_duration"));
        upkeep();
    }

    #[test]
    fn json_lines_are_json_with_their_fields_on_top() {
        let sink = Sink::default();
        log(LogFormat::Json, &sink, || {
            let span = tracing::info_span!("call", request_id = "r1");
            span.in_scope(|| tracing::info!(rpc = "GetItem", "done"));
        });
        let text = sink.until(|text| text.ends_with('\n'));
        let line: serde_json::Value = serde_json::from_str(&text).expect("a line of JSON");
        assert_eq!((&line["rpc"], &line["message"]), (&"GetItem".into(), &"done".into()));
        assert_eq!(line["span"]["request_id"], "r1");
    }

    #[test]
    fn text_lines_are_one_each() {
        let sink = Sink::default();
        log(LogFormat::Text, &sink, || {
            tracing::info!(n = 1, "first");
            tracing::warn!(n = 2, "second");
        });
        let text = sink.until(|text| text.lines().count() == 2);
        assert!(text.contains("first n=1") && text.contains("WARN"));
    }

    #[test]
    fn a_reader_that_stands_still_loses_lines_and_holds_nobody_up() {
        let sink = Sink::default();
        sink.shut(true);
        let more = limits::LOG_LINES_MAX + 100;
        log(LogFormat::Text, &sink, || {
            for n in 0..more {
                tracing::info!(n, "line");
            }
        });
        sink.shut(false);
        let text = sink.until(|text| text.lines().count() >= limits::LOG_LINES_MAX);
        // One line more may be in the writer's hands.
        assert!(text.lines().count() <= limits::LOG_LINES_MAX + 1);
    }

    #[test]
    fn an_audit_line_waits_for_room() {
        let sink = Sink::default();
        sink.shut(true);
        let writer = {
            let sink = sink.clone();
            std::thread::spawn(move || {
                log(LogFormat::Text, &sink, || {
                    for n in 0..limits::LOG_LINES_MAX + 100 {
                        tracing::info!(target: AUDIT_TARGET, n, "line");
                    }
                });
            })
        };
        sink.shut(false);
        writer.join().expect("no panic");
        sink.until(|text| text.lines().count() == limits::LOG_LINES_MAX + 100);
    }

    #[test]
    fn no_filter_takes_audit_lines_away() {
        for filter in ["off", "audit=off", "error,audit=error", "dropbox_connector=debug"] {
            let sink = Sink::default();
            let filter = audited(EnvFilter::builder().parse(filter).expect("a filter"));
            let layer = fmt_layer(LogFormat::Text, Lines::to(sink.clone())).with_filter(filter);
            tracing::subscriber::with_default(Registry::default().with(layer), || {
                tracing::info!(target: AUDIT_TARGET, "told");
            });
            sink.until(|text| text.contains("told"));
        }
    }

    #[test]
    fn a_flush_returns_when_everything_is_written_and_at_its_bound_otherwise() {
        let sink = Sink::default();
        let lines = Lines::to(sink.clone());
        lines.make_writer().write_all(b"first").expect("memory takes it");
        lines.flush(Duration::from_secs(10));
        assert_eq!(sink.until(|_| true), "first\n");
        sink.shut(true);
        lines.make_writer().write_all(b"second").expect("memory takes it");
        lines.flush(Duration::from_millis(10));
        assert_eq!(sink.until(|_| true), "first\n");
        sink.shut(false);
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        assert_eq!(install(LogFormat::Json, "a=b=c").expect_err("refused").violations()[0].field, "log_level");
    }
}
