//! Asks for the pages, and prints how long their first byte and the whole took.

use std::time::{Duration, Instant};

use super::{EVENT, FORMER, MANY, ORDERS, PROFILES, Program, RARE, Size, UPGRADES};

/// The aims, in milliseconds.
const P50_MS: f64 = 50.0;
const P99_MS: f64 = 200.0;
/// A slow page is asked for less often: so long in all.
const ASKED_MAX: Duration = Duration::from_secs(20);

/// A page: its name, and its address or the search that leads to it.
pub(super) struct Page {
    name: &'static str,
    ask: Ask,
    /// Until the first byte.
    times: Vec<Duration>,
    /// Until the last one.
    whole: Vec<Duration>,
}

enum Ask {
    /// Without a session.
    Login,
    Get(String),
    Search(String),
}

pub(super) async fn measure(program: &Program, size: Size) -> Vec<Page> {
    let mut pages = pages(program, size).await;
    for _ in 0..size.rounds {
        for page in &mut pages {
            if page.whole.iter().sum::<Duration>() > ASKED_MAX {
                continue;
            }
            let began = Instant::now();
            let answer = match &page.ask {
                Ask::Login => {
                    let login = format!("http://{}/console/login", program.address);
                    program.client.get(login).send().await.unwrap()
                }
                Ask::Get(path) => program.get(path).await,
                Ask::Search(wanted) => program.post("/console/search", &[("q", wanted)]).await,
            };
            page.times.push(began.elapsed());
            answer.bytes().await.unwrap();
            page.whole.push(began.elapsed());
        }
    }
    pages
}

impl Page {
    pub(super) fn print(mut self) {
        self.times.sort_unstable();
        self.whole.sort_unstable();
        let Self { name, times, whole, .. } = self;
        let at = |times: &[Duration], hundredth: usize| {
            times[times.len() * hundredth / 100].as_secs_f64() * 1_000.0
        };
        let (p50, p99) = (at(&times, 50), at(&times, 99));
        let (whole_p50, whole_p99) = (at(&whole, 50), at(&whole, 99));
        let missed = match (p50 > P50_MS, p99 > P99_MS) {
            (true, true) => format!("  misses {P50_MS} ms and {P99_MS} ms"),
            (true, false) => format!("  misses {P50_MS} ms"),
            (false, true) => format!("  misses {P99_MS} ms"),
            (false, false) => String::new(),
        };
        println!(
            "  {name:<36} {p50:>8.1} ms (p99 {p99:>8.1}), whole {whole_p50:>8.1} ms (p99 {whole_p99:>8.1}) of {:>3}{missed}",
            times.len()
        );
    }
}

async fn pages(program: &Program, size: Size) -> Vec<Page> {
    let encoded = |text: &str| text.replace(' ', "%20");
    let events = encoded(EVENT);
    let editor = |name: &str| format!("/console/subscriptions/default/{name}");
    let many = find(program, MANY).await;
    let few = find(program, "person_77").await;
    let person = many.rsplit('/').next().unwrap().to_owned();
    let list = |query: &str| format!("/console/messages?{query}");
    let message = |id: String| async move { find(program, &id).await };
    let delivered = message(format!("kept-default-{}", size.kept / 2)).await;
    let failed = message("kept-default-5".to_owned()).await;
    let waiting = message(format!("kept-{FORMER}-{}", size.kept)).await;
    let gets = [
        ("now", "/console".to_owned()),
        ("status (API)", "/api/status".to_owned()),
        ("messages", list("")),
        ("messages, pending", list("state=pending")),
        ("messages, delivered", list("state=delivered")),
        ("messages, failed", list("state=failed")),
        ("messages, unmatched", list("state=unmatched")),
        ("messages, of a type", list("type=identify")),
        ("messages, of a frequent event", list(&format!("event={events}"))),
        ("messages, of a rare event", list(&format!("event={}", encoded(RARE)))),
        ("messages, of a reason", list("reason=expired")),
        ("messages, of a subscription", list(&format!("subscription={PROFILES}"))),
        ("messages, of a destination", list("destination=default")),
        ("messages, of a former destination", list(&format!("destination={FORMER}"))),
        ("messages, of a source", list("source=default")),
        ("messages, of a person", list(&format!("person={person}"))),
        ("messages, since", list("from=24h")),
        ("messages, until", list("to=7d")),
        ("messages, failed, of an event", list(&format!("state=failed&event={events}&from=7d"))),
        ("failures", "/console/failures".to_owned()),
        ("failures, of a reason", "/console/failures?reason=refused".to_owned()),
        ("failures, of a day", "/console/failures?from=24h".to_owned()),
        ("message, delivered", delivered),
        ("message, failed", failed),
        ("message, waiting", waiting),
        ("person with many messages", many.clone()),
        ("person with few messages", few),
        ("erase", format!("{many}/erase")),
        ("replay", "/console/replay".to_owned()),
        ("replay, dry run, failed", "/console/replay?state=failed".to_owned()),
        ("replay, dry run, of a reason", "/console/replay?state=failed&reason=expired".to_owned()),
        ("replay, dry run, failed in a day", "/console/replay?state=failed&from=24h".to_owned()),
        (
            "replay, dry run, unmatched in a day",
            "/console/replay?state=unmatched&from=24h".to_owned(),
        ),
        (
            "replay, dry run, delivered in a day",
            format!("/console/replay?state=delivered&from=24h&subscription={ORDERS}"),
        ),
        ("subscriptions", "/console/subscriptions".to_owned()),
        ("editor, takes many", editor(ORDERS)),
        ("editor, takes some", editor(PROFILES)),
        ("editor, takes few", editor(UPGRADES)),
        ("settings", "/console/settings".to_owned()),
    ];
    let page = |name, ask| Page { name, ask, times: Vec::new(), whole: Vec::new() };
    let gets = gets.into_iter().map(|(name, path)| page(name, Ask::Get(path)));
    let mut pages: Vec<Page> = std::iter::once(page("login", Ask::Login)).chain(gets).collect();
    for (name, wanted) in [
        ("search, a message", "kept-default-1000".to_owned()),
        ("search, a user", "person_99".to_owned()),
        ("search, an address", format!("{MANY}@example.com")),
        ("search, nothing", "nobody@example.com".to_owned()),
    ] {
        pages.push(page(name, Ask::Search(wanted)));
    }
    pages
}

/// The page to which the search leads.
async fn find(program: &Program, wanted: &str) -> String {
    let answer = program.post("/console/search", &[("q", wanted)]).await;
    let location = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
    location.unwrap_or_else(|| panic!("{wanted} is not found"))
}
