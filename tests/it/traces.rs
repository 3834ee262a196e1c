//! A message can be traced from its sender to Loops, also over restarts, and tracing affects nothing else.

use std::collections::HashMap;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::support::{
    EMAIL_DOMAIN, PATIENCE, Reply, ScriptedLoops, Service, Setup, WRITE_KEY, identify,
    serve_on_loopback, track,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector, which records the requests that it receives.
struct Collector {
    endpoint: String,
    requests: UnboundedReceiver<Exported>,
    spans: Vec<Span>,
}

/// A request of the exporter: its headers, the attributes of its resource, and its spans.
struct Exported {
    headers: HeaderMap,
    resource: HashMap<String, String>,
    spans: Vec<Span>,
}

impl Collector {
    async fn start() -> Self {
        let (sender, requests) = unbounded_channel();
        let app = Router::new().route("/v1/traces", post(take)).with_state(sender);
        let endpoint = format!("http://{}", serve_on_loopback(app).await);
        Self { endpoint, requests, spans: Vec::new() }
    }

    /// Makes a program export to this collector.
    fn of(&self, setup: Setup) -> Setup {
        setup
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &self.endpoint)
            .env("OTEL_BSP_SCHEDULE_DELAY", "20")
    }

    async fn next(&mut self) -> Exported {
        let next = timeout(PATIENCE, self.requests.recv()).await;
        next.expect("nothing was exported").unwrap()
    }

    /// Waits for a span with this name that was not returned before.
    async fn span(&mut self, name: &str) -> Span {
        loop {
            if let Some(at) = self.spans.iter().position(|span| span.name == name) {
                return self.spans.remove(at);
            }
            let exported = self.next().await;
            self.spans.extend(exported.spans);
        }
    }

    /// Returns all exported spans that were not returned before. The program must have ended.
    fn rest(&mut self) -> Vec<Span> {
        while let Ok(exported) = self.requests.try_recv() {
            self.spans.extend(exported.spans);
        }
        std::mem::take(&mut self.spans)
    }
}

async fn take(
    State(sender): State<UnboundedSender<Exported>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    for spans in request.resource_spans {
        let resource = attributes(&spans.resource.unwrap_or_default().attributes);
        let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans).collect();
        let _ = sender.send(Exported { headers: headers.clone(), resource, spans });
    }
    StatusCode::OK
}

fn attributes(
    list: &[opentelemetry_proto::tonic::common::v1::KeyValue],
) -> HashMap<String, String> {
    let each = list.iter().map(|attribute| {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Any::StringValue(text)) => text.clone(),
            Some(Any::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (attribute.key.clone(), value)
    });
    each.collect()
}

fn of(span: &Span, key: &str) -> Option<String> {
    attributes(&span.attributes).remove(key)
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ids of the traces to which a span links.
fn links(span: &Span) -> Vec<String> {
    let mut links: Vec<String> = span.links.iter().map(|link| hex(&link.trace_id)).collect();
    links.sort();
    links
}

/// Sends a message within a trace. `flags` say whether the sender records it.
async fn send_in(service: &Service, trace: &str, flags: &str, path: &str, message: Value) {
    let request = service.request(reqwest::Method::POST, path).basic_auth(WRITE_KEY, Some(""));
    let request = request.header("traceparent", format!("00-{trace}-{PARENT}-{flags}"));
    assert_eq!(Service::answer(request.body(message.to_string())).await.status, 200);
}

#[tokio::test]
async fn a_delivery_links_to_the_trace_of_its_message_over_a_crash() {
    let mut collector = Collector::start().await;
    // Nothing listens at this address, so accepted messages stay pending.
    let nowhere = collector.of(Setup::with_loops("http://127.0.0.1:9/api/v1"));
    let service = nowhere.start();
    send_in(&service, TRACE, "01", "/v1/identify", identify("u1", "m1")).await;
    let ingest = collector.span("POST /v1/identify").await;
    assert_eq!((hex(&ingest.trace_id), hex(&ingest.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(ingest.kind(), SpanKind::Server);
    assert_eq!(of(&ingest, "http.response.status_code").as_deref(), Some("200"));
    assert_eq!(of(&ingest, "segment_loops.source").as_deref(), Some("default"));
    assert_eq!(of(&ingest, "segment_loops.messages.new").as_deref(), Some("1"));
    let commit = collector.span("store commit").await;
    assert_eq!((&commit.trace_id, &commit.parent_span_id), (&ingest.trace_id, &ingest.span_id));
    assert_eq!(of(&commit, "segment_loops.group.messages").as_deref(), Some("1"));
    let waited_us = of(&commit, "segment_loops.group.waited_us").unwrap().parse::<u64>().unwrap();
    assert!(waited_us < 60_000_000, "{waited_us}");
    let accepted = service.logged(|line| line["message"] == "accepted").await;
    assert_eq!(accepted["trace_id"], TRACE);

    let mut loops = ScriptedLoops::willing().await;
    let there = collector.of(Setup::with_loops(&loops.base_url));
    let service = service.crash_and_restart(&there);
    loops.next().await;
    let process = loop {
        let process = collector.span("process default").await;
        // The attempts without a response before the crash have other spans.
        if of(&process, "segment_loops.outcome").as_deref() == Some("delivered") {
            break process;
        }
    };
    assert_eq!(process.kind(), SpanKind::Consumer);
    assert!(process.parent_span_id.is_empty());
    assert_ne!(process.trace_id, ingest.trace_id);
    assert_eq!(links(&process), [TRACE]);
    assert_eq!(process.links[0].span_id, ingest.span_id);
    assert_eq!(of(&process, "messaging.message.id").as_deref(), Some("m1"));
    let subscriptions = of(&process, "segment_loops.subscriptions");
    assert_eq!(subscriptions.as_deref(), Some("Create or update a contact"));
    let attempt = service.logged(|line| line["message"] == "attempt").await;
    assert_eq!(attempt["trace_id"], hex(&process.trace_id));
    let call = loop {
        let call = collector.span("PUT /contacts/update").await;
        if call.trace_id == process.trace_id {
            break call;
        }
    };
    assert_eq!((call.kind(), &call.parent_span_id), (SpanKind::Client, &process.span_id));
    assert_eq!(of(&call, "http.response.status_code").as_deref(), Some("200"));
    assert_eq!(of(&call, "server.address").as_deref(), Some("127.0.0.1"));
    assert_eq!(of(&call, "url.template").as_deref(), Some("/contacts/update"));
}

#[tokio::test]
async fn a_merged_request_links_to_the_trace_of_each_message() {
    let mut collector = Collector::start().await;
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).env("LOOPS_RATE_LIMIT", "1");
    let service = collector.of(setup).start();
    // The next messages must wait for the rate.
    service.accept("/v1/track", track("nobody", "first")).await;
    loops.next().await;
    let message = |id: &str, traits: Value| json!({"type": "identify", "userId": "u", "messageId": id, "traits": traits});
    send_in(&service, TRACE, "01", "/v1/identify", message("m1", json!({"plan": "pro"}))).await;
    send_in(&service, OTHER_TRACE, "01", "/v1/identify", message("m2", json!({"seats": 5}))).await;
    let first = collector.span("process default").await;
    let merged = collector.span("process default").await;
    assert_eq!(first.links.len(), 1);
    assert_eq!(links(&merged), [OTHER_TRACE, TRACE]);
    assert_eq!(of(&merged, "messaging.batch.message_count").as_deref(), Some("2"));
    assert_eq!(of(&merged, "messaging.message.id"), None);
}

#[tokio::test]
async fn each_attempt_is_a_trace_of_its_own() {
    let mut collector = Collector::start().await;
    let mut loops = ScriptedLoops::start(|_| Reply::status(500)).await;
    let service = collector.of(Setup::with_loops(&loops.base_url)).start();
    send_in(&service, TRACE, "01", "/v1/identify", identify("u1", "m1")).await;
    loops.next().await;
    loops.now(|_| Reply::ok());
    service.message("m1", |found| found["state"] == "delivered").await;
    let (mut resent, mut traces) = (Vec::new(), Vec::new());
    loop {
        let call = collector.span("PUT /contacts/update").await;
        traces.push(call.trace_id.clone());
        resent.push(of(&call, "http.request.resend_count"));
        match of(&call, "http.response.status_code").as_deref() {
            Some("500") => assert_eq!(of(&call, "error.type").as_deref(), Some("500")),
            Some("200") => {
                assert_eq!(of(&call, "error.type"), None);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let expected = (0..resent.len()).map(|n| (n > 0).then(|| n.to_string()));
    assert!(resent.len() > 1 && resent.iter().cloned().eq(expected), "{resent:?}");
    traces.dedup();
    assert_eq!(traces.len(), resent.len());
}

#[tokio::test]
async fn a_delivery_that_is_not_traced_leaves_nothing_behind() {
    let mut collector = Collector::start().await;
    let loops = ScriptedLoops::willing().await;
    let off = [
        // A sender that does not record its trace, no collector, disabled tracing, and a sampler that drops everything.
        (collector.of(Setup::with_loops(&loops.base_url)), "00"),
        (Setup::with_loops(&loops.base_url), "01"),
        (collector.of(Setup::with_loops(&loops.base_url)).env("OTEL_SDK_DISABLED", "true"), "01"),
        (
            collector
                .of(Setup::with_loops(&loops.base_url))
                .env("OTEL_TRACES_SAMPLER", "always_off"),
            "01",
        ),
    ];
    for (setup, flags) in off {
        let mut service = setup.start();
        send_in(&service, TRACE, flags, "/v1/identify", identify("u1", "m1")).await;
        service.message("m1", |found| found["state"] == "delivered").await;
        let database = service.database();
        let traces: i64 =
            database.query_row("SELECT COUNT(trace) FROM payloads", [], |row| row.get(0)).unwrap();
        drop(database);
        assert_eq!(service.stop().await, Some(0));
        let names: Vec<String> = collector.rest().into_iter().map(|span| span.name).collect();
        assert_eq!((traces, names), (0, Vec::<String>::new()), "{flags}");
        assert!(service.log().iter().all(|line| line.get("trace_id").is_none()));
    }
}

#[tokio::test]
async fn a_sampler_by_ids_takes_a_delivery_with_its_call_or_not_at_all() {
    let mut collector = Collector::start().await;
    let loops = ScriptedLoops::willing().await;
    let service = collector
        .of(Setup::with_loops(&loops.base_url))
        .env("OTEL_TRACES_SAMPLER", "traceidratio")
        .env("OTEL_TRACES_SAMPLER_ARG", "0.000001")
        .start();
    // The sampler keeps this trace id, and hardly any other.
    let sampled = "4bf92f3577b34da60000000000000001";
    send_in(&service, sampled, "01", "/v1/identify", identify("u1", "m1")).await;
    let process = collector.span("process default").await;
    assert_eq!(links(&process), [sampled]);
    let call = collector.span("PUT /contacts/update").await;
    assert_eq!((&call.trace_id, &call.parent_span_id), (&process.trace_id, &process.span_id));
}

#[tokio::test]
async fn a_collector_that_is_down_costs_a_warning_and_nothing_else() {
    let loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://somebody:hidden@127.0.0.1:9")
        .env("OTEL_BSP_SCHEDULE_DELAY", "20");
    let mut service = setup.start();
    for n in 0..20 {
        let id = format!("m{n}");
        service.accept("/v1/identify", identify("u1", &id)).await;
        service.message(&id, |found| found["state"] == "delivered").await;
    }
    let is_warning = |line: &Value| {
        line["message"].as_str().is_some_and(|text| text.starts_with("traces cannot be exported"))
    };
    let warning = service.logged(is_warning).await;
    assert_eq!(warning["level"], "WARN");
    assert_eq!(warning["endpoint"], "127.0.0.1:9/v1/traces");
    assert_eq!(service.stop().await, Some(0));
    let log = service.log();
    assert_eq!(log.iter().filter(|line| is_warning(line)).count(), 1);
    assert!(!log.iter().any(|line| line.to_string().contains("hidden")), "{log:?}");
    assert_eq!(log.iter().filter(|line| line["level"] == "ERROR").count(), 0, "{log:?}");
}

#[tokio::test]
async fn variables_that_cannot_be_followed_cost_the_traces_and_not_the_start() {
    let mut collector = Collector::start().await;
    let loops = ScriptedLoops::willing().await;
    let setup = collector.of(Setup::with_loops(&loops.base_url));
    let mut service = setup.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").start();
    let warned = |line: &Value| {
        line["problem"].as_str().is_some_and(|text| text.contains("set it to http/protobuf"))
    };
    service.logged(warned).await;
    service.accept("/v1/identify", identify("u1", "m1")).await;
    service.message("m1", |found| found["state"] == "delivered").await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(collector.rest().len(), 0);
}

#[tokio::test]
async fn the_variables_of_opentelemetry_are_followed() {
    let mut collector = Collector::start().await;
    let loops = ScriptedLoops::willing().await;
    let setup = collector.of(Setup::with_loops(&loops.base_url));
    let service = setup.clone().start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    let exported = collector.next().await;
    assert_eq!(exported.resource["service.name"], "segment-loops");
    assert_eq!(exported.resource["service.version"], env!("CARGO_PKG_VERSION"));
    drop(service);
    collector.rest();
    let mut collector = Collector::start().await;
    let service = collector
        .of(Setup::with_loops(&loops.base_url))
        .env("OTEL_SERVICE_NAME", "loops-of-staging")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours")
        .start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    let exported = collector.next().await;
    assert_eq!(exported.resource["service.name"], "loops-of-staging");
    assert_eq!(exported.resource["deployment.environment.name"], "staging");
    assert_eq!(exported.headers["x-tenant"], "ours");
}

#[tokio::test]
async fn no_attribute_says_who_a_message_is_about() {
    let mut collector = Collector::start().await;
    let loops = ScriptedLoops::willing().await;
    let mut service = collector.of(Setup::with_loops(&loops.base_url)).start();
    let person = json!({
        "type": "identify", "userId": "user-canary", "anonymousId": "device-canary", "messageId": "m1",
        "traits": {"email": format!("ada@{EMAIL_DOMAIN}"), "plan": "trait-canary"},
    });
    let event = json!({
        "type": "track", "userId": "user-canary", "messageId": "m2", "event": "event-canary",
        "properties": {"plan": "trait-canary"},
    });
    service.accept("/v1/batch", json!({"batch": [person, event, {"type": "canary"}]})).await;
    assert_eq!(service.post("/v1/batch", "{canary").await.status, 400);
    let wrong =
        service.request(reqwest::Method::POST, "/v1/track").basic_auth("key-canary", Some(""));
    Service::answer(wrong.body(track("user-canary", "m3").to_string())).await;
    for id in ["m1", "m2"] {
        service.message(id, |found| found["state"] == "delivered").await;
    }
    assert_eq!(service.stop().await, Some(0));
    // The last spans are exported when the program ends.
    let spans = collector.rest();
    let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!((count("process default"), count("POST /v1/batch")), (2, 2));
    assert!(count("POST /events/send") == 1 && count("PUT /contacts/update") == 1);
    let text = format!("{spans:?}");
    for secret in ["canary", EMAIL_DOMAIN] {
        assert!(!text.contains(secret), "{text}");
    }
}
