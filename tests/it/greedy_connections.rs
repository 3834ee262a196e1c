//! Connections are shared fairly: clients that never read lose theirs, and no single address can hold them all.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::support::{PATIENCE, Service, Setup, WRITE_KEY, track};

/// Nothing listens at this address, so accepted messages stay pending.
fn service(server: &str) -> Service {
    Setup::with_loops("http://127.0.0.1:9/api/v1").config(&format!("[server]\n{server}")).start()
}

fn connect(service: &Service) -> TcpStream {
    let stream = TcpStream::connect(service.base_url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A new client at this address of the loopback network.
fn client_at(address: &str) -> reqwest::Client {
    let address: IpAddr = address.parse().unwrap();
    let client = reqwest::Client::builder().no_proxy().local_address(address).timeout(PATIENCE);
    client.pool_max_idle_per_host(0).build().unwrap()
}

async fn send(service: &Service, client: &reqwest::Client, id: &str) -> reqwest::Result<u16> {
    let request = client.post(format!("{}/v1/track", service.base_url));
    let request = request.basic_auth(WRITE_KEY, Some("")).body(track("u1", id).to_string());
    Ok(request.send().await?.status().as_u16())
}

/// The value of a metric with these labels, or 0 if it has none.
async fn metric(service: &Service, client: &reqwest::Client, name_and_labels: &str) -> u64 {
    let text = client.get(format!("{}/metrics", service.base_url)).send().await.unwrap();
    let text = text.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name_and_labels));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn clients_that_never_read_make_room_for_others() {
    let service =
        service("connections_max = 4\naddress_connections_max = 4\nwrite_timeout_ms = 500");
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    let hoarders: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = connect(&service);
            // The responses are about fifty megabytes, more than the system buffers for both sides.
            stream.write_all(requests.as_bytes()).unwrap();
            stream
        })
        .collect();
    let line = service
        .logged(|line| {
            line["message"].as_str().is_some_and(|text| text.starts_with("all connections"))
        })
        .await;
    assert_eq!((&line["listener"], &line["connections_max"]), (&"public".into(), &4.into()));
    let client = client_at("127.0.0.1");
    assert_eq!(send(&service, &client, "m1").await.unwrap(), 200);
    let line = service
        .logged(|line| line["message"].as_str().is_some_and(|text| text.contains("did not read")))
        .await;
    assert_eq!(line["network"], "127.0.0.0/24", "{line}");
    let cut = "segment_loops_connections_cut_total{listener=\"public\",reason=\"write_timeout\"}";
    let began = std::time::Instant::now();
    while metric(&service, &client, cut).await < 4 {
        assert!(began.elapsed() < PATIENCE);
    }
    // One connection is the one that reads the metrics.
    let open = "segment_loops_connections_open{listener=\"public\"}";
    while metric(&service, &client, open).await > 1 {
        assert!(began.elapsed() < PATIENCE);
    }
    drop(hoarders);
}

#[test]
fn a_client_that_reads_slowly_but_steadily_keeps_its_connection() {
    let service = service("write_timeout_ms = 1000");
    let mut stream = connect(&service);
    // The responses are far larger than the buffers of both sides.
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    stream.write_all(requests.as_bytes()).unwrap();
    let mut part = [0; 16 * 1024];
    // The reading takes several times as long as the timeout.
    for _ in 0..100 {
        stream.read_exact(&mut part).unwrap();
        sleep(Duration::from_millis(50));
    }
}

/// Only Linux has a whole network of loopback addresses.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_holds_many_connections_gets_no_more_and_others_do() {
    let service = service("connections_max = 10\naddress_connections_max = 3");
    let mut held: Vec<TcpStream> = (0..3).map(|_| connect(&service)).collect();
    let mut beyond = connect(&service);
    // The connection is closed at once, without a response.
    match beyond.read(&mut [0]) {
        Ok(read) => assert_eq!(read, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(send(&service, &client_at("127.0.0.1"), "m1").await.is_err());
    let other = client_at("127.0.0.2");
    assert_eq!(send(&service, &other, "m2").await.unwrap(), 200);
    let cut = "segment_loops_connections_cut_total{listener=\"public\",reason=\"address_connections_max\"}";
    assert_eq!(metric(&service, &other, cut).await, 2);
    let is_it = |line: &Value| line["address_connections_max"] == 3;
    let line = service.logged(is_it).await;
    assert_eq!(line["network"], "127.0.0.0/24", "{line}");
    assert_eq!(service.log().iter().filter(|line| is_it(line)).count(), 1);
    // The address's other connections still work, and each closed one makes room for another.
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut first = held.remove(0);
    first.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let began = std::time::Instant::now();
    while send(&service, &client_at("127.0.0.1"), "m3").await.is_err() {
        assert!(began.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn a_trusted_proxy_may_hold_as_many_connections_as_there_are() {
    let service = service(
        "connections_max = 10\naddress_connections_max = 1\ntrusted_proxies = ['127.0.0.1']",
    );
    let held: Vec<TcpStream> = (0..9).map(|_| connect(&service)).collect();
    assert_eq!(send(&service, &client_at("127.0.0.1"), "m1").await.unwrap(), 200);
    drop(held);
}
