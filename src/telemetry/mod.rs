//! Telemetry for operators: the log subscriber, the format of errors in the log, the metrics, and traces.
//! Every module may use it.
//!
//! A log line never holds a key, an e-mail address, a name, a trait or a body.

mod log;
mod metrics;
mod traces;

use std::error::Error;
use std::{fmt, io};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

pub use self::metrics::*;
pub use log::DroppedLines;
use log::LogGuard;
pub use traces::{Root, Sampling, Span, SpanKind, TraceContext, TraceId, Traces, TracesConfig};

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
    let with_bounds = |builder: PrometheusBuilder, (name, bounds): &(&str, &[f64])| {
        builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds)
    };
    let recorder = match BOUNDS.iter().try_fold(PrometheusBuilder::new(), with_bounds) {
        Ok(builder) => builder.build_recorder(),
        // Only an empty list of bounds is refused, and ours are not empty.
        Err(_) => PrometheusBuilder::new().build_recorder(),
    };
    let handle = recorder.handle();
    if ::metrics::set_global_recorder(recorder).is_err() {
        tracing::debug!("metrics were started before");
    }
    describe();
    handle
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
