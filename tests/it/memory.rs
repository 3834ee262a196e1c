//! Memory is bounded by the decompressed and decoded size of bodies, not by their compressed size. Even with many
//! hostile inputs at once, the program never uses more than a fixed amount above its use at rest.

use std::io::Write as _;
use std::net::TcpStream;

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::limits::gzip;
use crate::support::{PATIENCE, Reply, ScriptedLoops, Seen, Service, Setup, WRITE_KEY, track};

/// The documented limit in KiB: 256 MB above the program's use at rest.
const ABOVE_REST_KIB: usize = 256_000_000 / 1_024;

/// The limit for connections with long headers alone.
const HEADERS_ABOVE_REST_KIB: usize = 80_000_000 / 1_024;

/// The length limit of a body, and a little less than that of a message.
const BODY: usize = 10_485_760;
const MESSAGE: usize = 1_048_000;

/// The length limit of a request's headers.
const HEADERS: usize = 32_768;

/// A body that is sent many times at once.
struct Attack {
    name: &'static str,
    body: Bytes,
    is_gzip: bool,
    times: usize,
}

impl Attack {
    fn packed(name: &'static str, times: usize, body: &str) -> Self {
        assert!(body.len() <= BODY, "{name}: {}", body.len());
        Self { name, body: gzip(body).into(), is_gzip: true, times }
    }

    fn plain(name: &'static str, times: usize, body: String) -> Self {
        assert!(body.len() <= BODY, "{name}: {}", body.len());
        Self { name, body: body.into(), is_gzip: false, times }
    }
}

/// A message that contains `value`.
fn holding(value: &str) -> String {
    format!(r#"{{"type":"track","userId":"u","event":"E","properties":{{"x":{value}}}}}"#)
}

/// A batch of this many messages of the maximum length, each filled with repetitions of `unit`.
fn of(unit: &str, messages: usize) -> String {
    let values = vec![unit; (MESSAGE - 100) / (unit.len() + 1)].join(",");
    let message = holding(&format!("[{values}]"));
    format!(r#"{{"batch":[{}]}}"#, vec![message; messages].join(","))
}

/// A batch of small messages that share a context with one value.
fn sharing(context: &str, messages: usize) -> String {
    let messages = vec![r#"{"type":"identify","userId":"u"}"#; messages].join(",");
    format!(r#"{{"batch":[{messages}],"context":{{"traits":{{"x":{context}}}}}}}"#)
}

fn attacks() -> Vec<Attack> {
    let chain = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let text = format!("\"{}\"", "x".repeat(MESSAGE - 200));
    let texts = format!(r#"{{"batch":[{}]}}"#, vec![holding(&text); 9].join(","));
    let nested = format!("[{}]", vec![chain.as_str(); MESSAGE / 1_001 - 1].join(","));
    let envelope =
        format!(r#"{{"batch":[{{"type":"track","userId":"u"}}],"context":{{"x":{nested}}}}}"#);
    let tiny = vec![r#"{"type":"track","userId":"u"}"#; 10_000].join(",");
    // The attacks that used the most memory come first.
    vec![
        Attack::plain("large bodies", 24, texts.clone()),
        Attack::plain("large bodies of arrays", 8, of("[0]", 4)),
        Attack::packed("long texts", 8, &texts),
        Attack::packed("a shared text", 6, &sharing(&format!("\"{}\"", "x".repeat(1_200)), 5_000)),
        Attack::packed("a large shared context", 2, &sharing(&nested, 4)),
        Attack::packed("white space", 10, &" ".repeat(BODY)),
        Attack::packed("zeros", 2, &of("0", 2)),
        Attack::packed("small arrays", 2, &of("[0]", 2)),
        Attack::packed("small objects", 2, &of(r#"{"a":{}}"#, 2)),
        Attack::packed("deep arrays", 2, &of(&chain, 2)),
        Attack::packed("numbers that grow", 2, &of("1e20", 2)),
        Attack::packed("no end", 2, &format!(r#"{{"batch":[{}"#, "[".repeat(BODY - 10))),
        Attack::packed("many envelopes", 2, &vec![envelope; 4].concat()),
        Attack::packed("many small messages", 2, &format!(r#"{{"batch":[{tiny}]}}"#)),
        Attack::packed(
            "nothing but wrong items",
            20,
            &format!(r#"{{"batch":[{}1]}}"#, "1,".repeat(9_999)),
        ),
    ]
}

/// The memory of the program in KiB: the peak for `VmHWM`, or the current use for `VmRSS`.
fn memory(service: &Service, key: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// Sends a body many times at once, and returns the statuses. A connection may end without a response.
async fn send(service: &Service, attack: &Attack) -> Vec<u16> {
    let mut sending = JoinSet::new();
    for _ in 0..attack.times {
        let mut request = service.request(Method::POST, "/v1/batch").body(attack.body.clone());
        if attack.is_gzip {
            request = request.header("content-encoding", "gzip");
        }
        request = request.basic_auth(WRITE_KEY, Some(""));
        sending.spawn(async move {
            let response = request.send().await.ok()?;
            let status = response.status().as_u16();
            let _ = response.bytes().await;
            Some(status)
        });
    }
    sending.join_all().await.into_iter().flatten().collect()
}

/// Opens connections that send a part of a request and then nothing.
fn half_sent(service: &Service, connections: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let address = service.base_url.trim_start_matches("http://");
    let open = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // The program may respond early and close the connection.
        let _ = stream.write_all(bytes);
        stream
    };
    (0..connections).map(open).collect()
}

/// Opens the connections of an attack by headers, nearly as many as the program allows. Long headers fill the room that
/// there is, and short ones always fit.
fn hold_headers(service: &Service) -> Vec<TcpStream> {
    let head = format!("POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n");
    let long = format!("{head}X: {}", "x".repeat(HEADERS - 200));
    let many: String = (0..250).map(|n| format!("X{n}:\r\n")).collect();
    let complete = format!("{head}{many}\r\n ");
    let short = format!("{head}X: {}", "x".repeat(8_000));
    [(400, long), (100, complete), (1_500, short)]
        .into_iter()
        .flat_map(|(connections, bytes)| half_sent(service, connections, bytes.as_bytes()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_inputs_never_take_more_than_a_fixed_amount_of_memory() {
    // Loops does not respond to large requests. One address stands for several.
    let large = |seen: &Seen| seen.raw_body.len() > 100_000;
    let script = move |seen: &Seen| if large(seen) { Reply::Silence } else { Reply::ok() };
    let mut loops = ScriptedLoops::start(script).await;
    let setup = Setup::with_loops(&loops.base_url);
    let setup = setup.env("SEGMENT_LOOPS__SERVER__ADDRESS_CONNECTIONS_MAX", "2048");
    let service = setup.start();
    service.accept("/v1/track", track("u1", "first")).await;
    loops.next().await;
    let rest = memory(&service, "VmRSS");
    let check = |name: &str| {
        let peak = memory(&service, "VmHWM");
        eprintln!("{name}: {} KiB above rest at most", peak.saturating_sub(rest));
        assert!(peak < rest + ABOVE_REST_KIB, "{name}: {peak} KiB, {rest} at rest");
    };
    let make = async |attack: &Attack| {
        let statuses = send(&service, attack).await;
        let is_expected = |status: &u16| matches!(status, 200 | 400 | 413 | 429);
        assert!(statuses.iter().all(is_expected), "{}: {statuses:?}", attack.name);
        let is_attacked = statuses.iter().any(|status| *status != 429);
        assert!(is_attacked, "{}: all were turned away", attack.name);
    };
    // Delivery holds as many large messages as it may, and continues with small ones.
    let properties = (0..MESSAGE / 500 - 1).map(|n| (format!("x{n}"), json!("x".repeat(480))));
    let properties: serde_json::Map<String, Value> = properties.collect();
    for user in 0..20 {
        let mut message = track(&format!("large{user}"), &format!("large{user}"));
        message["properties"] = Value::Object(properties.clone());
        service.accept("/v1/track", message).await;
    }
    assert!(large(&loops.next().await));
    service.accept("/v1/track", track("u1", "beside")).await;
    while loops.next().await.note() != "beside" {}
    check("large messages in delivery");
    let attacks = attacks();
    for attack in &attacks {
        make(attack).await;
        check(attack.name);
    }
    let head = format!("POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n");
    let bodies = half_sent(&service, 400, format!("{head}\r\n{}", " ".repeat(200_000)).as_bytes());
    check("half-sent bodies");
    // Small messages are still accepted.
    service.accept("/v1/track", track("u1", "last")).await;
    drop(bodies);
    // The worst attack is repeated while the headers hold all the memory that they can.
    let headers = hold_headers(&service);
    make(&attacks[0]).await;
    check("all at once");
    drop(headers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_headers_of_many_requests_take_a_fixed_amount_of_memory() {
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1");
    let setup = setup.env("SEGMENT_LOOPS__SERVER__ADDRESS_CONNECTIONS_MAX", "2048");
    let service = setup.start();
    service.accept("/v1/track", track("u1", "first")).await;
    let rest = memory(&service, "VmRSS");
    let headers = hold_headers(&service);
    // Requests with short headers are still accepted.
    service.accept("/v1/track", track("u1", "short")).await;
    let is_no_room = |line: &Value| {
        line["message"].as_str().is_some_and(|text| text.contains("long headers of all requests"))
    };
    let line = service.logged(is_no_room).await;
    assert_eq!(line["network"], "127.0.0.0/24", "{line}");
    let peak = memory(&service, "VmHWM");
    eprintln!("headers: {} KiB above rest at most", peak - rest);
    assert!(peak < rest + HEADERS_ABOVE_REST_KIB, "{peak} KiB, {rest} at rest");
    drop(headers);
    // There is room again for the 20 KB that Segment sends in a header.
    let began = std::time::Instant::now();
    loop {
        let request = service.request(Method::POST, "/v1/track").basic_auth(WRITE_KEY, Some(""));
        let request = request.header("x", "x".repeat(20_000)).body(track("u1", "long").to_string());
        match request.send().await {
            Ok(response) => break assert_eq!(response.status(), 200),
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_upload_slowly_do_not_keep_known_senders_out() {
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1");
    let setup = setup.env("SEGMENT_LOOPS__SERVER__ADDRESS_CONNECTIONS_MAX", "2000");
    let service = setup.start();
    let batch = |id: usize, bytes: usize| {
        let mut message = track("u1", &format!("m{id}"));
        message["properties"] = json!({"x": "x".repeat(bytes / 2)});
        let mut other = message.clone();
        other["messageId"] = json!(format!("n{id}"));
        json!({"batch": [message, other]}).to_string()
    };
    // Uploads without a key use all the room that they can get, in large and in small parts.
    let head = "POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n";
    let uploads: Vec<_> = [(80, 1_000_000), (160, 100_000), (160, 20_000)]
        .into_iter()
        .map(|(connections, bytes)| {
            half_sent(&service, connections, format!("{head}{}", " ".repeat(bytes)).as_bytes())
        })
        .collect();
    let is_kept_out = |line: &Value| line["message"] == "rejected" && line["code"] == "not_now";
    service.logged(is_kept_out).await;
    for (id, bytes) in [1_000, 50_000, 100_000, 500_000, 1_500_000].into_iter().enumerate() {
        service.accept("/v1/batch", batch(id, bytes)).await;
    }
    // Once the uploads have ended, a key in the body is enough.
    drop(uploads);
    let mut keyed: Value = serde_json::from_str(&batch(9, 500_000)).unwrap();
    keyed["writeKey"] = json!(WRITE_KEY);
    let began = std::time::Instant::now();
    loop {
        let request = service.request(Method::POST, "/v1/batch").body(keyed.to_string());
        match Service::answer(request).await.status {
            200 => break,
            status => assert!(status == 429 && began.elapsed() < PATIENCE, "{status}"),
        }
    }
}
