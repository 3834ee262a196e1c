//! Over PostgreSQL, beside `parse`:
//!
//! * `insert`: a bare server that also inserts what it parsed into a plain table with a primary key, before it answers:
//!   one statement for all calls that wait;
//! * `tables`: the same into our tables, with our indices: what a simple program would do;
//! * `ours`: the service, from the socket to the durable inbox;
//! * `two`: two of them on one database, each with half of the connections.
//!
//! The database is empty in each round. All share one server, with its defaults but for the sizes below.

use std::net::SocketAddr;

use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::Value;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls};

use super::{
    CONNECTIONS, Call, GROUP_MAX, Inserter, LOADS, Load, Ours, ROUND, ROUNDS, WARM_UP, digest,
    load, report, serve_insert, text,
};

#[path = "../../src/store/postgres/tests/server.rs"]
mod server;

const SETTINGS: &str = "shared_buffers = 512MB\nmax_wal_size = 4GB";

const NAMES: [&str; 5] = ["parse", "insert", "tables", "ours", "two"];
const RATIOS: [(usize, usize); 4] = [(3, 0), (3, 1), (3, 2), (4, 3)];

pub(super) async fn run(parse: SocketAddr, metrics: PrometheusHandle) {
    let server = server::Server::start(SETTINGS);
    let url = server.url();
    let database = connect(&url).await;
    for (what, path, of) in LOADS {
        println!("{what}, {CONNECTIONS} connections, {ROUNDS} rounds of {ROUND:?} each:");
        let mut rounds: Vec<Vec<Load>> = Vec::new();
        for _ in 0..ROUNDS {
            let mut loads = vec![load(&[parse], path, of, ROUND).await];
            for tables in [Tables::Plain, Tables::Ours] {
                if let Tables::Ours = tables {
                    start(&url, metrics.clone()).await.stop().await;
                }
                let insert = serve_insert(inserter(&url, tables).await).await;
                load(&[insert], path, of, WARM_UP).await;
                loads.push(load(&[insert], path, of, ROUND).await);
                database.batch_execute(DROP).await.unwrap();
            }
            for replicas in [1, 2] {
                let mut ours = Vec::new();
                for _ in 0..replicas {
                    ours.push(start(&url, metrics.clone()).await);
                }
                let addresses: Vec<SocketAddr> = ours.iter().map(|ours| ours.address).collect();
                load(&addresses, path, of, WARM_UP).await;
                loads.push(load(&addresses, path, of, ROUND).await);
                for ours in ours {
                    ours.stop().await;
                }
                database.batch_execute(DROP).await.unwrap();
            }
            rounds.push(loads);
        }
        report(&NAMES, &rounds, &RATIOS);
    }
}

/// The service on a database.
async fn start(url: &str, metrics: PrometheusHandle) -> Ours {
    Ours::start(&[("DATABASE_URL", url)], metrics).await
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Where a bare server stores messages.
#[derive(Clone, Copy)]
enum Tables {
    Plain,
    Ours,
}

const CREATE: &str = "CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload bytea NOT NULL)";
const DROP: &str = "DROP TABLE IF EXISTS plain; DROP SCHEMA IF EXISTS segment_loops CASCADE";

const PLAIN: &str = "INSERT INTO plain (payload) SELECT * FROM unnest($1)";
/// $1 first number.
const MESSAGES: &str = "
    INSERT INTO segment_loops.messages (seq, message_hash, lane, email, received_at, payload_bytes, class, kind, source,
                                        destination, message_id, event)
    SELECT $1 + number, message_hash, lane, email, 0, payload_bytes, 0, kind, 'default', 'default', message_id, event
    FROM unnest($2, $3, $4, $5, $6, $7, $8) WITH ORDINALITY
        u (message_hash, lane, email, payload_bytes, kind, message_id, event, number)";
const PAYLOADS: &str = "
    INSERT INTO segment_loops.payloads (seq, payload)
    SELECT $1 + number, payload FROM unnest($2) WITH ORDINALITY u (payload, number)";
const PENDING: &str = "
    INSERT INTO segment_loops.pending (destination, class, seq, lane, received_at, payload_bytes, is_deletion, source)
    SELECT 'default', 0, $1 + number, lane, 0, payload_bytes, false, 'default'
    FROM unnest($2, $3) WITH ORDINALITY u (lane, payload_bytes, number)";

/// The task that inserts, in group commit.
async fn inserter(url: &str, tables: Tables) -> Inserter {
    let client = connect(url).await;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    if let Tables::Plain = tables {
        client.batch_execute(CREATE).await.unwrap();
    }
    tokio::spawn(async move {
        let mut group: Vec<Call> = Vec::new();
        let mut seq = first_of_now();
        while receiver.recv_many(&mut group, GROUP_MAX).await > 0 {
            let messages: Vec<&Value> = group.iter().flat_map(|(messages, _)| messages).collect();
            match tables {
                Tables::Plain => insert_plain(&client, &messages).await,
                Tables::Ours => insert_ours(&client, seq, &messages).await,
            }
            seq += i64::try_from(messages.len()).unwrap();
            for (_, reply) in group.drain(..) {
                let _ = reply.send(());
            }
        }
    });
    sender
}

/// A number of our tables that lies in the partition of today.
fn first_of_now() -> i64 {
    const EPOCH_S: i64 = 1_577_836_800;
    (jiff::Timestamp::now().as_second() - EPOCH_S) << 23
}

async fn insert_plain(client: &Client, messages: &[&Value]) {
    let payloads = payloads(messages);
    client.execute_typed(PLAIN, &[(&payloads, Type::BYTEA_ARRAY)]).await.unwrap();
}

async fn insert_ours(client: &Client, seq: i64, messages: &[&Value]) {
    let payloads = payloads(messages);
    let bytes: Vec<i32> =
        payloads.iter().map(|payload| i32::try_from(payload.len()).unwrap()).collect();
    let texts = |pointer: &str| -> Vec<String> {
        messages.iter().map(|message| text(message, pointer).to_owned()).collect()
    };
    let digests = |pointer: &str| -> Vec<i64> {
        messages.iter().map(|message| digest(text(message, pointer))).collect()
    };
    let (hash, lane) = (digests("/messageId"), digests("/userId"));
    let email = digests("/context/traits/email");
    let (kind, id, event) = (texts("/type"), texts("/messageId"), texts("/event"));
    let of_messages: [Param<'_>; 8] = [
        (&seq, Type::INT8),
        (&hash, Type::INT8_ARRAY),
        (&lane, Type::INT8_ARRAY),
        (&email, Type::INT8_ARRAY),
        (&bytes, Type::INT4_ARRAY),
        (&kind, Type::TEXT_ARRAY),
        (&id, Type::TEXT_ARRAY),
        (&event, Type::TEXT_ARRAY),
    ];
    let of_payloads: [Param<'_>; 2] = [(&seq, Type::INT8), (&payloads, Type::BYTEA_ARRAY)];
    let pending: [Param<'_>; 3] =
        [(&seq, Type::INT8), (&lane, Type::INT8_ARRAY), (&bytes, Type::INT4_ARRAY)];
    // One round trip.
    tokio::try_join!(
        biased;
        client.batch_execute("BEGIN"),
        client.execute_typed(MESSAGES, &of_messages),
        client.execute_typed(PAYLOADS, &of_payloads),
        client.execute_typed(PENDING, &pending),
        client.batch_execute("COMMIT"),
    )
    .unwrap();
}

type Param<'a> = (&'a (dyn ToSql + Sync), Type);

fn payloads(messages: &[&Value]) -> Vec<Vec<u8>> {
    messages.iter().map(|message| serde_json::to_vec(message).unwrap()).collect()
}
