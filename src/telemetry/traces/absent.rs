//! Replaces the exporter if the program is built without it: there are no traces.

use std::time::Duration;

use jiff::Timestamp;

use super::{Sampling, SpanKind, TraceContext};

/// Never exists.
#[derive(Debug, Clone, Copy)]
pub(super) enum Exporting {}

/// Never exists.
#[derive(Clone, Copy)]
pub(super) enum Recorded {}

pub(super) fn start(_: &str, _: Sampling) -> Option<Exporting> {
    tracing::warn!("traces are not exported: the program was built without the feature `otel`");
    None
}

impl Exporting {
    pub(super) fn server(&self, _: String, _: Option<TraceContext>) -> Option<Box<Recorded>> {
        match *self {}
    }

    pub(super) fn linked(
        &self,
        _: String,
        _: Timestamp,
        _: &[TraceContext],
    ) -> Option<Box<Recorded>> {
        match *self {}
    }

    pub(super) fn shutdown(&self, _: Duration) {
        match *self {}
    }
}

impl Recorded {
    pub(super) fn context(&self) -> Option<TraceContext> {
        match *self {}
    }

    pub(super) fn child(&self, _: SpanKind, _: String) -> Option<Box<Recorded>> {
        match *self {}
    }

    pub(super) fn set_text(&mut self, _: &'static str, _: String) {
        match *self {}
    }

    pub(super) fn set_number(&mut self, _: &'static str, _: i64) {
        match *self {}
    }

    pub(super) fn fail(&mut self, _: String) {
        match *self {}
    }
}
