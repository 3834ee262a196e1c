//! Telemetry for operators: the log subscriber, the format of errors in the log, the names of the metrics, and traces.
//! Every module may use it.
//!
//! A log line never holds a key, an e-mail address, a name, a trait or a body.

mod log;
mod names;
mod traces;

use std::error::Error;
use std::{fmt, io};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

pub use log::DroppedLines;
use log::LogGuard;
pub use names::*;
pub use traces::{Root, Sampling, Span, SpanKind, TraceContext, TraceId, Traces, TracesConfig};

/// Bounds of the histogram of requests to Loops, in seconds.
const LOOPS_SECONDS: [f64; 10] = [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5.0, 10.0, 30.0];

/// Bounds of the histogram of requests, in seconds, as in OpenTelemetry's conventions.
const HTTP_SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Bounds of the histogram of the time until a message is delivered, in seconds: up to a day.
const DELIVERY_SECONDS_BOUNDS: [f64; 14] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0];

/// Bounds of the histogram of commits, in seconds.
const COMMIT_SECONDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Bounds of the histogram of groups, in messages.
const GROUP_MESSAGES: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0];

/// The bounds of each histogram.
const BOUNDS: [(&str, &[f64]); 5] = [
    (LOOPS_REQUEST_SECONDS, &LOOPS_SECONDS),
    (HTTP_REQUEST_SECONDS, &HTTP_SECONDS),
    (DELIVERY_SECONDS, &DELIVERY_SECONDS_BOUNDS),
    (STORE_COMMIT_SECONDS, &COMMIT_SECONDS),
    (STORE_GROUP_MESSAGES, &GROUP_MESSAGES),
];

/// The names of the levels, and `off`.
const LEVEL_NAMES: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The values of `log.level`, for people.
const LEVELS: &str = "error, warn, info, debug, trace, off, or directives such as info,segment_loops::delivery=debug";

/// Parses `log.level`. The error names the values that are allowed.
///
/// Any other directive must have a `=`. Otherwise the filter would take a misspelt level for the name of a module, and
/// log nothing at all.
pub fn level(text: &str) -> Result<EnvFilter, String> {
    let is_known = |part: &str| {
        let part = part.trim();
        part.contains('=') || LEVEL_NAMES.iter().any(|name| name.eq_ignore_ascii_case(part))
    };
    match EnvFilter::try_new(text) {
        // `tokio_postgres` logs the parameters of statements, and thus the contents of messages.
        Ok(filter) if text.split(',').all(is_known) => "tokio_postgres=off"
            .parse()
            .map(|off| filter.add_directive(off))
            .map_err(|error| error.to_string()),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a level: allowed are {LEVELS}")),
    }
}

/// The telemetry of the process. Keep it until the process ends: dropping it writes the log lines that are still
/// waiting.
#[derive(Debug)]
#[must_use = "without it the last log lines are lost"]
pub struct Telemetry {
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Reports dropped log lines.
    pub dropped: DroppedLines,
    _guard: LogGuard,
}

/// Starts logging (to standard error) and metrics, once for the process. `filter` must be valid for [`level`], which
/// the check of the configuration ensures.
pub fn start(filter: &str, as_json: bool) -> Telemetry {
    let filter = level(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for terminals. In a file they are noise.
    let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
    let (writer, dropped, guard) = log::start(io::stderr());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        // A line that cannot be written is lost. Reporting it on standard error again would panic in the
        // task that logs: a full disk with the log on it must not stop delivery.
        .log_internal_errors(false)
        .with_writer(writer);
    // A second start in one process, as in tests, keeps the first subscriber.
    let _ = if as_json {
        lines.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        lines.try_init()
    };
    Telemetry { metrics: metrics_recorder(), dropped, _guard: guard }
}

/// Describes the metrics; returns the handle that renders them.
fn metrics_recorder() -> PrometheusHandle {
    let with_bounds = |builder: PrometheusBuilder, (name, bounds): (&str, &[f64])| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)
    };
    let recorder = match BOUNDS.into_iter().try_fold(PrometheusBuilder::new(), with_bounds) {
        Ok(builder) => builder.build_recorder(),
        // Only an empty list of bounds is refused, and ours are not empty.
        Err(_) => PrometheusBuilder::new().build_recorder(),
    };
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::debug!("metrics were started before");
    }
    describe();
    handle
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(HTTP_REQUEST_SECONDS, "Duration of requests until their response began");
    describe_gauge!(HTTP_ACTIVE, "Requests that wait for their response");
    describe_gauge!(LAST_MESSAGE, "When a message was last accepted");
    describe_gauge!(
        SILENT_AFTER,
        "After how long without a message a source counts as silent; 0: never"
    );
    describe_counter!(MESSAGES_ACCEPTED, "Messages accepted as new");
    describe_counter!(MESSAGES_DUPLICATE, "Messages that had been accepted before");
    describe_counter!(REJECTED, "Requests, and messages of batches, that were rejected");
    describe_gauge!(CONNECTIONS_OPEN, "Connections that are open");
    describe_counter!(
        CONNECTIONS_CUT,
        "Connections that were closed: too many from one address, a client that does not read, or too many long headers"
    );
    describe_counter!(UNMATCHED, "Messages that no subscription took");
    describe_counter!(
        REQUESTS_SAVED,
        "Requests to Loops that were not needed, by how they were saved; requests counted as unchanged_would were sent"
    );
    describe_counter!(
        GUARDED,
        "Deliveries from which a guard removed something, or that it kept from being sent"
    );
    describe_gauge!(CATALOGUE_AGE, "Age of the catalogue of properties, lists and events at Loops");
    describe_counter!(REPLAYED, "Replayed messages that were planned again");
    describe_counter!(
        REVIVED,
        "Failed events that were replayed automatically, because their contacts were created afterwards"
    );
    describe_counter!(
        NEW_CONTACTS,
        "Contacts that Loops was not known to have before it accepted a request for them"
    );
    describe_counter!(DELIVERIES, "Deliveries that ended");
    describe_counter!(LOOPS_REQUESTS, "Requests made to Loops; status 0: no response");
    describe_histogram!(LOOPS_REQUEST_SECONDS, "Duration of requests to Loops");
    describe_counter!(ATTEMPTS, "Attempts at requests to Loops, by outcome");
    describe_histogram!(
        DELIVERY_SECONDS,
        "Time from accepting a message until Loops accepted a request for it, without replays"
    );
    describe_gauge!(REQUESTS_IN_FLIGHT, "Requests that wait for Loops' response");
    describe_gauge!(LANES_RETRYING, "Lanes whose first message waits for its next attempt");
    describe_gauge!(QUEUE_DEPTH, "Messages that are pending, by class");
    describe_gauge!(
        HELD_MESSAGES,
        "Messages that are held, because they would create too many contacts today"
    );
    describe_gauge!(QUEUE_OLDEST_SECONDS, "Age of the oldest pending message, by class");
    describe_gauge!(
        QUEUE_DRAIN_SECONDS,
        "Time until the pending messages of a class and of those before it are sent, at the rate in force"
    );
    describe_gauge!(ERASURES_PENDING, "Erasures of people that have not ended");
    describe_gauge!(RATE_LIMIT, "Requests a second in force");
    describe_gauge!(RATE_LIMIT_MAX, "Requests a second unless Loops slows us down");
    describe_gauge!(
        DESTINATION_PAUSED,
        "1 while the destination is paused: Loops refuses its key, or its base URL is wrong"
    );
    describe_gauge!(LAST_FEEDBACK, "When Loops last reported something by its webhooks");
    describe_counter!(FEEDBACK, "Events that Loops reported by its webhooks");
    describe_counter!(FEEDBACK_FORWARDS, "Webhooks of Loops that were to be handed on");
    describe_counter!(
        LOG_LINES_DROPPED,
        "Log lines that were dropped because too many were waiting"
    );
    describe_gauge!(STORE_READY, "1 while messages can be stored");
    describe_gauge!(STORE_WAITING, "Messages that are being stored");
    describe_histogram!(STORE_COMMIT_SECONDS, "Duration of transactions that write");
    describe_histogram!(STORE_GROUP_MESSAGES, "Messages that are accepted in one transaction");
    describe_gauge!(STORE_BYTES, "Size of the database file");
    describe_gauge!(STORE_FREE_BYTES, "Free bytes for new messages on the disk of the database");
    describe_gauge!(STORE_DISK_BYTES, "Size of the disk of the database");
    describe_gauge!(STORE_LOG_BYTES, "Size of the write-ahead log of the database");
    describe_gauge!(BACKUP_TIMESTAMP, "When the last backup of the database was made");
    describe_gauge!(
        RELOAD_SUCCESSFUL,
        "1 if the last reload of the configuration succeeded or there was none"
    );
    describe_gauge!(RELOAD_TIMESTAMP, "When the configuration was last loaded without errors");
    describe_gauge!(BUILD_INFO, "Always 1; the version and the revision are labels");
    describe_gauge!(PROCESS_START, "When the process started, in seconds since 1970");
    describe_gauge!(PROCESS_MEMORY, "Resident memory in bytes");
    describe_counter!(PROCESS_CPU, "Processor time in seconds");
    describe_gauge!(PROCESS_OPEN_FILES, "Open files and connections");
    describe_gauge!(PROCESS_MAX_FILES, "The most files and connections that may be open");
    describe_gauge!(LEASE_HELD, "1 while this process delivers for the destination");
    describe_counter!(LEASE_CHANGES, "How often this process took the lease");
    describe_counter!(FENCED, "How often this process lost a lease that it had not given back");
}

/// Returns an error and all its causes as one string. Otherwise the log's JSON format would show only the outermost
/// error, without the cause and the advice.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl fmt::Display + 'a {
    Chain(error)
}

struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        f.write_str(&text)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let source = error.to_string();
            // Some errors of other crates already end with their source.
            if !text.ends_with(&source) {
                write!(f, ": {source}")?;
                text = source;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn a_level_that_would_silence_the_log_is_an_error() {
        for good in
            ["error", "warn", "INFO", "off", "info,hyper=debug", "segment_loops::http=trace"]
        {
            assert!(level(good).is_ok(), "{good}");
        }
        for bad in
            ["", "warning", "inof", "info,hyper", "info,hyper=loud", "segment_loops", "info;"]
        {
            assert!(level(bad).unwrap_err().contains("error, warn, info"), "{bad}");
        }
        for open in ["trace", "tokio_postgres=trace"] {
            let filter = level(open).unwrap().to_string();
            assert!(filter.contains("tokio_postgres=off"), "{open}: {filter}");
            assert!(!filter.contains("tokio_postgres=trace"), "{open}: {filter}");
        }
    }

    #[test]
    fn a_chain_has_every_cause_once() {
        let layers = |texts: &[&'static str]| {
            let whole = texts
                .iter()
                .rev()
                .fold(None, |source, text| Some(Box::new(Layer { text, source })));
            chain(&*whole.unwrap()).to_string()
        };
        assert_eq!(layers(&["a"]), "a");
        assert_eq!(layers(&["a", "b", "c"]), "a: b: c");
        assert_eq!(layers(&["a: b: c", "b: c", "c"]), "a: b: c");
        assert_eq!(layers(&["a: b", "b", "c"]), "a: b: c");
    }
}
