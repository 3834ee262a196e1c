//! How many messages a core plans in a second: from a message's text to its request's body, with the
//! default subscriptions; beside it, what merely parsing the same text costs (`serde_json`).
//!
//! `cargo bench --bench planning`. All figures are taken in turns in one process, so that their
//! ratios hold on a busy machine too.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use segment_loops::destination::{Destination, Unsupported};
use segment_loops::js::decode::decode;
use segment_loops::segment::Message;

const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(200);

const IDENTIFY: &str = r#"{"type":"identify","messageId":"ajs-next-1705311000-a1b2c3","userId":"user_12345","anonymousId":"6f9c4b9e-9a53-4e3a-8c0e-0d9b6f4c2a11","timestamp":"2024-01-15T09:30:00.000Z","receivedAt":"2024-01-15T09:30:00.500Z","traits":{"email":"ada@example.com","firstName":"Ada","lastName":"Lovelace","plan":"premium","logins":12,"createdAt":"2023-11-05T23:59:59Z","company":"Analytical Engines","newsletter":true},"context":{"ip":"203.0.113.9","locale":"en-GB","userAgent":"Mozilla/5.0 (X11; Linux x86_64)","library":{"name":"analytics.js","version":"npm:next-1.84.3"},"page":{"path":"/pricing","url":"https://www.example.com/pricing","title":"Pricing"}}}"#;

const TRACK: &str = r#"{"type":"track","messageId":"ajs-next-1705311000-d4e5f6","userId":"user_12345","anonymousId":"6f9c4b9e-9a53-4e3a-8c0e-0d9b6f4c2a11","timestamp":"2024-01-15T09:30:00.000Z","receivedAt":"2024-01-15T09:30:00.500Z","event":"Order Completed","properties":{"orderId":"o_5001","total":120.5,"currency":"EUR","coupon":null,"items":3,"gift":false,"email":"buyer@example.com"},"context":{"ip":"203.0.113.9","locale":"en-GB","userAgent":"Mozilla/5.0 (X11; Linux x86_64)","library":{"name":"analytics.js","version":"npm:next-1.84.3"},"traits":{"email":"ada@example.com"},"page":{"path":"/checkout","url":"https://www.example.com/checkout","title":"Checkout"}}}"#;

fn main() {
    let destination =
        Destination::compile(&Destination::default_subscriptions(), Unsupported::default())
            .unwrap();
    println!(
        "messages a second on one core, median of {ROUNDS} rounds; in brackets: of parsing alone"
    );
    for (name, text) in [("identify", IDENTIFY), ("track", TRACK)] {
        let plan = || {
            let message =
                Message::from_stored(decode(black_box(text.as_bytes())).unwrap()).unwrap();
            let plan = destination.plan(&message);
            assert!(plan.deliveries[0].outcome.is_ok());
            black_box(plan);
        };
        let message = Message::from_stored(decode(text.as_bytes()).unwrap()).unwrap();
        let map = || {
            black_box(destination.plan(black_box(&message)));
        };
        let parse = || {
            black_box(serde_json::from_str::<serde_json::Value>(black_box(text)).unwrap());
        };
        let mut figures = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            figures[0].push(rate(plan));
            figures[1].push(rate(map));
            figures[2].push(rate(parse));
        }
        let [plan, map, parse] = figures.map(median);
        println!(
            "{name:<9} {} bytes: text to request {plan:>9.0} ({:.2}), message to request {map:>9.0} ({:.2}), serde_json {parse:>9.0}",
            text.len(),
            plan / parse,
            map / parse
        );
    }
}

/// How often it runs in a second.
fn rate(run: impl Fn()) -> f64 {
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < ROUND {
        for _ in 0..100 {
            run();
        }
        count += 100;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
