//! Traces: what happened to a message between its sender and Loops, exported by OTLP.
//!
//! A request of a sender is a span, within the sender's trace if it has one. Its context is stored with its messages,
//! if it is recorded. Each attempt to deliver is a trace of its own that links to those of the messages it carries:
//! hours may lie between, and a merged request carries several messages. An attribute never holds a key, an address, a
//! user id or a trait.
//!
//! Spans are made where the work is done, by calls of this module, and not by way of `tracing`: its spans would be
//! looked at for each line of the log, and those of the exporter's own HTTP client would be exported too.
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

/// Makes spans. Cheap to clone; the default makes none.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Exporting>);

/// A span that is under way; it ends when it is dropped. One of a trace that is not recorded does nothing.
#[derive(Default)]
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Box<Recorded>>);

impl Traces {
    /// Starts to export, if a collector is configured, and says so in the log. What does not work costs a warning, and
    /// the traces: nothing depends on them.
    pub fn start(config: &TracesConfig) -> Self {
        for problem in &config.problems {
            tracing::warn!(problem, "a variable of OpenTelemetry cannot be followed");
        }
        let endpoint = config.endpoint.as_deref();
        Self(endpoint.and_then(|endpoint| export::start(endpoint, config.sampling)))
    }

    /// Whether there may be spans.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the span of a request of a sender; `parent` is the sender's own span, if it sent one.
    pub fn server(
        &self,
        name: impl FnOnce() -> String,
        parent: impl FnOnce() -> Option<TraceContext>,
    ) -> Span {
        Span(self.0.as_ref().and_then(|exporting| exporting.server(name(), parent())))
    }

    /// Begins a trace that links to others, and that began at a given time. It is recorded if there are links: they are
    /// to traces that are.
    pub fn linked(
        &self,
        name: impl FnOnce() -> String,
        began_at: Timestamp,
        links: &[TraceContext],
    ) -> Span {
        let exporting = self.0.as_ref().filter(|_| !links.is_empty());
        Span(exporting.and_then(|exporting| exporting.linked(name(), began_at, links)))
    }

    /// Exports what has ended, and stops, within this time. Blocks: not to be called by a task.
    pub fn shutdown(&self, within: Duration) {
        if let Some(exporting) = &self.0 {
            exporting.shutdown(within);
        }
    }
}

impl Span {
    /// Its context, if it is recorded.
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().and_then(|recorded| recorded.context())
    }

    /// The id of its trace, if it is recorded.
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

    /// Marks it as failed, with the error in a word or a status.
    pub fn fail(&mut self, error_type: &str) {
        if let Some(recorded) = &mut self.0 {
            recorded.fail(error_type.to_owned());
        }
    }
}
