//! Makes spans with the SDK of OpenTelemetry, and exports them by OTLP (http/protobuf).
//!
//! The SDK reads some environment variables itself, such as the headers of the exporter and the attributes of the
//! resource; its documentation describes them. It also takes the times of spans itself. Nothing here compares them with
//! other times.
//!
//! A separate thread exports in batches, with a blocking HTTP client that is created and dropped outside the runtime. Spans
//! that do not fit in its queue are dropped, so that no request waits for a collector.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind as Kind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample,
    SpanData, SpanExporter,
};
use tracing::{debug, info, warn};

use super::{Root, Sampling, SpanKind, TraceContext};
use crate::telemetry;

/// The name of the service, unless the environment gives one.
const SERVICE_NAME: &str = "segment-loops";

/// How often the log says that spans cannot be exported.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The export of spans to a collector.
#[derive(Debug, Clone)]
pub(super) struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A span of a trace that is recorded.
pub(super) struct Recorded {
    span: opentelemetry_sdk::trace::Span,
    tracer: SdkTracer,
}

/// Starts the thread that exports; `None` if that fails.
pub(super) fn start(endpoint: &str, sampling: Sampling) -> Option<Exporting> {
    // The address may hold a user name and a password.
    let shown = endpoint.split(['?', '#']).next().unwrap_or_default();
    let shown = shown.rsplit('@').next().unwrap_or_default();
    let (url, of_log) = (endpoint.to_owned(), shown.to_owned());
    // The HTTP client has a runtime of its own, and must be neither created nor dropped within another one.
    let started = thread::spawn(move || provider(url, of_log, sampling)).join();
    match started {
        Ok(Ok(provider)) => {
            let scope = InstrumentationScope::builder(SERVICE_NAME)
                .with_version(env!("CARGO_PKG_VERSION"))
                .build();
            let tracer = provider.tracer_with_scope(scope);
            info!(endpoint = shown, "exporting traces");
            Some(Exporting { provider, tracer })
        }
        Ok(Err(error)) => {
            // The error may contain the whole address.
            let error = telemetry::chain(&error).to_string().replace(endpoint, shown);
            warn!(endpoint = shown, error, "traces are not exported");
            None
        }
        Err(_) => {
            warn!(endpoint = shown, "traces are not exported: the exporter panicked");
            None
        }
    }
}

/// Creates the provider of spans. `shown` is the endpoint without secrets, for the log.
fn provider(
    endpoint: String,
    shown: String,
    sampling: Sampling,
) -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&endpoint)
        .build()?;
    let watched = Watched { exporter, endpoint, shown, warned: Mutex::default() };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(watched)
        .with_resource(resource())
        .with_sampler(Linking(sampler(sampling)));
    Ok(provider.build())
}

/// Returns the resource as the environment describes it, with our name if it gives none.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let builder = || Resource::builder().with_attribute(version.clone());
    let resource = builder().build();
    let name = resource.get(&Key::from_static_str("service.name"));
    match name {
        Some(name) if !name.as_str().starts_with("unknown_service") => resource,
        _ => builder().with_service_name(SERVICE_NAME).build(),
    }
}

fn sampler(sampling: Sampling) -> Sampler {
    let root = match sampling.root {
        Root::All => Sampler::AlwaysOn,
        Root::None => Sampler::AlwaysOff,
        Root::Part(part) => Sampler::TraceIdRatioBased(part),
    };
    match sampling.follows_parent {
        true => Sampler::ParentBased(Box::new(root)),
        false => root,
    }
}

/// Records every trace that has links, and every span within a recorded span of this process. A sampler decides about
/// the rest. A sampler that goes by the ids of traces would otherwise leave out parts of a trace that was recorded for
/// its links.
#[derive(Debug, Clone)]
struct Linking(Sampler);

impl ShouldSample for Linking {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &Kind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let is_within = parent.is_some_and(|parent| {
            let parent = parent.span().span_context().clone();
            parent.is_valid() && !parent.is_remote() && parent.is_sampled()
        });
        if is_within || !links.is_empty() {
            return SamplingResult {
                decision: SamplingDecision::RecordAndSample,
                attributes: Vec::new(),
                trace_state: TraceState::default(),
            };
        }
        self.0.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

/// An exporter whose failures are logged, at most once every [`WARN_EVERY`].
struct Watched<E> {
    exporter: E,
    endpoint: String,
    /// The endpoint without secrets, for the log.
    shown: String,
    warned: Mutex<Option<Instant>>,
}

impl<E: fmt::Debug> fmt::Debug for Watched<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exporter.fmt(f)
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        if let Err(error) = &exported {
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                *warned = Some(Instant::now());
                let error = error.to_string().replace(&self.endpoint, &self.shown);
                warn!(
                    endpoint = self.shown,
                    spans, error, "traces cannot be exported: these spans are lost"
                );
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl Exporting {
    pub(super) fn server(
        &self,
        name: String,
        parent: Option<TraceContext>,
    ) -> Option<Box<Recorded>> {
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(span_context(parent)),
            None => Context::new(),
        };
        let builder = self.tracer.span_builder(name).with_kind(Kind::Server);
        recorded(&self.tracer, self.tracer.build_with_context(builder, &context))
    }

    pub(super) fn linked(
        &self,
        name: String,
        began_at: Timestamp,
        links: &[TraceContext],
    ) -> Option<Box<Recorded>> {
        let nanoseconds = u64::try_from(began_at.as_nanosecond()).unwrap_or_default();
        let since_epoch = Duration::from_nanos(nanoseconds);
        let links = links.iter().map(|link| Link::with_context(span_context(*link))).collect();
        let builder = self
            .tracer
            .span_builder(name)
            .with_kind(Kind::Consumer)
            .with_start_time(SystemTime::UNIX_EPOCH + since_epoch)
            .with_links(links);
        recorded(&self.tracer, self.tracer.build_with_context(builder, &Context::new()))
    }

    pub(super) fn shutdown(&self, within: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(within) {
            debug!(%error, "the last traces were not exported");
        }
    }
}

/// Wraps a span; `None` if its trace is not recorded.
fn recorded(tracer: &SdkTracer, span: opentelemetry_sdk::trace::Span) -> Option<Box<Recorded>> {
    let is_recorded = span.span_context().is_sampled();
    is_recorded.then(|| Box::new(Recorded { span, tracer: tracer.clone() }))
}

impl Recorded {
    pub(super) fn context(&self) -> Option<TraceContext> {
        let context = self.span.span_context();
        TraceContext::new(
            context.trace_id().to_bytes(),
            context.span_id().to_bytes(),
            context.trace_flags().to_u8(),
        )
    }

    pub(super) fn child(&self, kind: SpanKind, name: String) -> Option<Box<Recorded>> {
        let kind = match kind {
            SpanKind::Internal => Kind::Internal,
            SpanKind::Client => Kind::Client,
        };
        let parent = Context::new().with_remote_span_context(self.span.span_context().clone());
        let builder = self.tracer.span_builder(name).with_kind(kind);
        recorded(&self.tracer, self.tracer.build_with_context(builder, &parent))
    }

    pub(super) fn set_text(&mut self, key: &'static str, value: String) {
        self.span.set_attribute(KeyValue::new(key, value));
    }

    pub(super) fn set_number(&mut self, key: &'static str, value: i64) {
        self.span.set_attribute(KeyValue::new(key, value));
    }

    pub(super) fn fail(&mut self, error_type: String) {
        self.span.set_attribute(KeyValue::new("error.type", error_type));
        self.span.set_status(Status::error(""));
    }
}

fn span_context(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id().0),
        SpanId::from_bytes(context.span_id()),
        TraceFlags::new(context.flags()),
        true,
        TraceState::default(),
    )
}
