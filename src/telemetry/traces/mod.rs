//! Traces of messages from their sender to Loops, exported by OTLP.
//!
//! A request of a sender is a span, within the sender's trace if it has one. If the span is recorded, its context is
//! stored with the messages. Each attempt to deliver is a trace of its own with links to the traces of its messages,
//! because it may happen hours later, and a merged request carries several messages. An attribute never holds a key, an
//! address, a user id or a trait.
//!
//! Spans are made by calls of this module where the work is done, and not through `tracing`. Its spans would be visited
//! for each line of the log, and the spans of the exporter's own HTTP client would be exported too.
//!
//! Without the feature `otel`, or while no collector is configured, [`Traces`] and [`Span`] do nothing.

mod context;
#[cfg_attr(not(feature = "otel"), path = "absent.rs")]
mod export;
mod kind;
mod settings;

use std::time::Duration;

use jiff::Timestamp;

pub use context::{TraceContext, TraceId};
use export::{Exporting, Recorded};
pub use kind::SpanKind;
pub use settings::{Root, Sampling, TracesConfig};

/// Makes spans. Cheap to clone. The default makes none.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Exporting>);

/// A span in progress, which ends when it is dropped. If its trace is not recorded, it does nothing.
#[derive(Default)]
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Box<Recorded>>);

impl Traces {
    /// Starts exporting, if a collector is configured, and logs that. A failure only causes a warning and the loss of
    /// traces, because nothing depends on them.
    pub fn start(config: &TracesConfig) -> Self {
        for problem in &config.problems {
            tracing::warn!(problem, "a variable of OpenTelemetry cannot be followed");
        }
        let endpoint = config.endpoint.as_deref();
        Self(endpoint.and_then(|endpoint| export::start(endpoint, config.sampling)))
    }

    /// Returns whether spans may be recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the span of a sender's request. `parent` is the sender's own span, if it sent one.
    pub fn server(
        &self,
        name: impl FnOnce() -> String,
        parent: impl FnOnce() -> Option<TraceContext>,
    ) -> Span {
        Span(self.0.as_ref().and_then(|exporting| exporting.server(name(), parent())))
    }

    /// Begins a trace at a given time, with links to other traces. It is recorded if there are links, which always
    /// point to recorded traces.
    pub fn linked(
        &self,
        name: impl FnOnce() -> String,
        began_at: Timestamp,
        links: &[TraceContext],
    ) -> Span {
        let exporting = self.0.as_ref().filter(|_| !links.is_empty());
        Span(exporting.and_then(|exporting| exporting.linked(name(), began_at, links)))
    }

    /// Exports the spans that have ended, and stops, within this time. It blocks, so a task must not call it.
    pub fn shutdown(&self, within: Duration) {
        if let Some(exporting) = &self.0 {
            exporting.shutdown(within);
        }
    }
}

impl Span {
    /// Returns its context, if it is recorded.
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().and_then(|recorded| recorded.context())
    }

    /// Returns the id of its trace, if it is recorded.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.context().map(|context| context.trace_id())
    }

    /// Begins a span within this one.
    pub fn child(&self, kind: SpanKind, name: impl FnOnce() -> String) -> Span {
        Span(self.0.as_ref().and_then(|recorded| recorded.child(kind, name())))
    }

    /// Sets an attribute.
    pub fn set_text(&mut self, key: &'static str, value: &str) {
        if let Some(recorded) = &mut self.0 {
            recorded.set_text(key, value.to_owned());
        }
    }

    /// Sets an attribute.
    pub fn set_number(&mut self, key: &'static str, value: usize) {
        if let Some(recorded) = &mut self.0 {
            recorded.set_number(key, i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// Marks it as failed, with the error as a word or a status.
    pub fn fail(&mut self, error_type: &str) {
        if let Some(recorded) = &mut self.0 {
            recorded.fail(error_type.to_owned());
        }
    }
}
