//! The important statements find their rows through the intended index, and only in the partitions of the requested
//! days, so that their cost does not grow with the history.

use super::*;
use crate::queue::{FailureReason, Filter, MessageState, ReplayState, Selection};
use crate::store::postgres::list::{self, candidates};
use crate::store::postgres::numbers::{day_at, first_of_day};
use crate::store::postgres::params::{Array, params};
use crate::store::postgres::statement::{self, Order, Statement, Value};
use crate::store::postgres::{
    conflicts, contacts, contents, erase, partitions, purge, records, replay,
};

/// Days with data.
const DAYS: i32 = 4;

/// $1 first number. Inserts enough messages that reading them all costs more than using the index. Every tenth is
/// pending; of the others, every tenth failed, and every tenth is unmatched.
const FILL: [&str; 5] = [
    "INSERT INTO @messages (seq, message_hash, lane, anonymous, email, received_at, payload_bytes, class, kind, source,
                            destination, message_id, event)
     SELECT $1 + n, n, CASE WHEN n % 4 = 0 THEN -7 ELSE n END, n, n, n, 10, 0, 'track', 'web', 'main', n::text,
            'event ' || n % 100 FROM generate_series(0, 19999) n",
    "INSERT INTO @payloads (seq, payload) SELECT $1 + n, '0' FROM generate_series(0, 19999) n",
    "INSERT INTO @pending (seq, lane, received_at, payload_bytes, class, source, destination, is_deletion)
     SELECT $1 + n, n % 1000, n, 10, 0, 'web', 'main', false FROM generate_series(0, 19999, 10) n",
    "INSERT INTO @outcomes (seq, done_at, is_failed, unmatched)
     SELECT $1 + n, $1 + n, n % 10 = 1, CASE WHEN n % 10 = 2 THEN 'no_subscription' END
     FROM generate_series(0, 19999) n WHERE n % 10 <> 0",
    "INSERT INTO @deliveries (seq, replay, position, request_id, state, subscription, action, reason)
     SELECT $1 + n, 0, 0, $1 + n, CASE WHEN n % 10 = 1 THEN 'failed' ELSE 'delivered' END, 's' || n % 50, 'sendEvent',
            CASE WHEN n % 10 = 1 THEN 'refused' END
     FROM generate_series(0, 19999) n WHERE n % 10 NOT IN (0, 2)",
];

struct Explained {
    name: String,
    plan: Vec<String>,
}

impl Explained {
    /// Returns the partitions that the plan reads.
    fn partitions(&self) -> Vec<String> {
        let is_of_name = |c: char| !(c.is_alphanumeric() || c == '_');
        let mut days: Vec<String> = self
            .plan
            .iter()
            .flat_map(|step| step.split(is_of_name))
            .filter_map(|word| word.rsplit_once("_2")?.1.get(..7).map(str::to_owned))
            .collect();
        days.sort_unstable();
        days.dedup();
        days
    }

    fn has(&self, words: &str) -> bool {
        self.plan.iter().any(|step| step.contains(words))
    }
}

async fn explain(raw: &Connection, name: &str, statement: &Statement) -> Explained {
    let rows = raw.query(&format!("EXPLAIN {}", statement.text), &statement.params()).await;
    let rows = rows.unwrap_or_else(|fault| panic!("{name}: {fault:?}\n{}", statement.text));
    let plan = rows.iter().map(|row| row.get::<_, String>(0)).collect();
    Explained { name: name.to_owned(), plan }
}

#[tokio::test]
async fn statements_read_an_index_of_the_days_they_ask_for() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    let raw = raw(&schema).await;
    let today = day_at(at(0).as_millisecond());
    partitions::make(&raw, (today - DAYS + 1..=today + 2).collect()).await.unwrap();
    for day in today - DAYS + 1..=today {
        for text in FILL {
            raw.execute(text, params![first_of_day(day)]).await.unwrap();
        }
    }
    raw.batch("ANALYZE @messages, @payloads, @pending, @outcomes, @deliveries").await.unwrap();

    use Value::{Number, Numbers};
    let (first, end) = (first_of_day(today - 1), first_of_day(today + 1));
    let word = |word: &str| Value::text(word);
    let bounds = |limit: i64, of: Option<Value>| {
        [Number(end), Number(first), Number(limit)].into_iter().chain(of).collect::<Vec<_>>()
    };
    // Statements with a limit must not sort all rows first.
    let limited: Vec<(&str, &str, Vec<Value>)> = vec![
        ("of an event", candidates::OF_EVENT, bounds(51, Some(word("event 7")))),
        ("done", candidates::DONE, bounds(51, None)),
        ("failed", candidates::FAILED, bounds(51, None)),
        ("with a failure", candidates::WITH_FAILURE, bounds(51, None)),
        ("failed for a reason", candidates::FAILED_FOR, bounds(51, Some(word("refused")))),
        ("of a subscription", candidates::OF_SUBSCRIPTION, bounds(51, Some(word("s7")))),
        ("unmatched", candidates::UNMATCHED, bounds(51, None)),
        ("replay: done", replay::DONE, vec![Number(first), Number(end - 1), Number(200)]),
        ("replay: failed", replay::FAILED, vec![Number(first), Number(end - 1), Number(200)]),
        ("replay: unmatched", replay::UNMATCHED, vec![Number(first), Number(end - 1), Number(200)]),
        ("erase", erase::OF_LANE, vec![Number(7), Number(first), Number(end - 1), Number(200)]),
        ("newest time", purge::NEWEST_MESSAGE, vec![Number(first), Number(end)]),
        ("purge: strip", purge::STRIP_NEXT, vec![Number(first), Number(end), Number(200)]),
        (
            "purge: records",
            purge::PAST_RECORDS,
            vec![Number(first + 100), Number(200), Number(first), Number(end)],
        ),
    ];
    let mut explained = Vec::new();
    for (name, text, values) in limited {
        let plan = explain(&raw, name, &Statement::with(text, values)).await;
        assert!(!plan.has("Sort  (cost"), "{name}: {:#?}", plan.plan);
        explained.push(plan);
    }
    let some =
        Filter { destination: Some("d".into()), source: Some("s".into()), ..Filter::default() };
    for filter in [Filter::default(), some] {
        let (text, of) = candidates::newest(&filter);
        let newest = Statement::with(&text, [bounds(51, None), of].concat());
        let plan = explain(&raw, "newest", &newest).await;
        assert!(!plan.has("Sort  (cost"), "{:#?}", plan.plan);
        explained.push(plan);
    }
    // A person with many messages, and two with few.
    let persons = [-7, 5, 6].map(Number);
    for order in [Order::NewestFirst, Order::OldestFirst] {
        let text = statement::of_persons(order, persons.len());
        let bounds = match order {
            Order::NewestFirst => bounds(51, None),
            Order::OldestFirst => vec![Number(first), Number(end - 1), Number(51)],
        };
        let of_persons = Statement::with(&text, [bounds, persons.to_vec()].concat());
        let plan = explain(&raw, "of persons", &of_persons).await;
        assert!(!plan.has("_pkey") && !plan.has("Sort  (cost"), "{:#?}", plan.plan);
        explained.push(plan);
    }
    let about_any = bounds(500, Some(Numbers(vec![-7, 5, 6])));
    let about_any = Statement::with(statement::ABOUT_ANY, about_any);
    let plan = explain(&raw, "about any of some persons", &about_any).await;
    assert!(!plan.has("_pkey"), "{:#?}", plan.plan);
    explained.push(plan);
    let refused = Some(FailureReason::Refused);
    let seqs: Vec<i64> = (0..50).map(|n| first + n * 7).collect();
    let mut filters: Vec<Filter> =
        MessageState::ALL.map(|state| Filter { state: Some(state), ..Filter::default() }).into();
    filters.push(Filter { reason: refused, subscription: Some("s7".into()), ..Filter::default() });
    filters.push(Filter { persons: vec![user("u1")], ..Filter::default() });
    for filter in &filters {
        let name = format!("{filter:?}");
        explained.push(explain(&raw, &name, &list::checked(filter, &seqs)).await);
        explained.push(explain(&raw, &name, &list::failures_of(filter, &seqs)).await);
    }
    let digests = store.digests();
    for state in ReplayState::ALL {
        let filter = Filter {
            persons: digests.any_person("u1"),
            reason: refused.filter(|_| state == ReplayState::Failed),
            destination: Some("main".into()),
            ..Filter::default()
        };
        let selection = Selection { state, filter, ..Selection::default() };
        let statement = replay::selected(&selection, &seqs);
        explained.push(explain(&raw, &format!("replay: {state:?}"), &statement).await);
    }
    for (name, text, values) in [
        (
            "replay: of ids",
            replay::OF_IDS,
            vec![Number(first), Number(end - 1), Number(200), Numbers(vec![7, 8])],
        ),
        (
            "of an id",
            records::BY_MESSAGE_ID,
            vec![Number(7), word("7"), Number(100), Number(first), Number(end)],
        ),
        ("records", records::MESSAGES, vec![Numbers(seqs.clone())]),
        ("contents", contents::READ, vec![Numbers(seqs.clone())]),
        ("traces", contents::TRACES, vec![Numbers(seqs.clone())]),
        ("subscriptions", contents::SUBSCRIPTIONS, vec![Numbers(seqs.clone()), Number(first)]),
        ("parts", contents::PARTS, vec![Numbers(seqs.clone()), Number(first)]),
        ("deliveries", records::DELIVERIES, vec![Numbers(seqs.clone())]),
        ("last done", purge::LAST_DONE, vec![Number(first), Number(end)]),
        (
            "day is past",
            purge::DAY_IS_PAST,
            vec![Number(first), Number(end), Number(end), Number(i64::MAX)],
        ),
    ] {
        explained.push(explain(&raw, name, &Statement::with(text, values)).await);
    }
    let days = [today - 1, today].map(|day| partitions::name("", day)[2..].to_owned());
    for explained in &explained {
        let Explained { name, plan } = explained;
        // Tables that are as small as the backlog may be scanned while they are small.
        let scans: Vec<&String> = plan
            .iter()
            .filter(|step| step.contains("Seq Scan on") && step.contains("_2"))
            .collect();
        assert_eq!(scans, [] as [&String; 0], "{name}: {plan:#?}");
        let others: Vec<String> =
            explained.partitions().into_iter().filter(|day| !days.contains(day)).collect();
        assert_eq!(others, [""; 0], "{name}: {plan:#?}");
        assert!(!explained.partitions().is_empty(), "{name}: {plan:#?}");
    }
    store.close().await;
}

/// $1 how many. Contacts that have one address, are shared, and are on their way once more.
const FILL_CONTACTS: &str = "
    INSERT INTO @contacts (contact, email, claimed, lane, known_at, changed_day, is_shared, destination, properties)
    SELECT n, -1, -1, n, 0, 0, true, 'main', '' FROM generate_series(1, $1::bigint) n";

/// What a delivery reads and locks of contacts does not grow with the number of those that have its address.
#[tokio::test]
async fn an_address_of_thousands_costs_no_more_than_one_of_a_few() {
    use Value::{Number, Numbers};
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    let raw = raw(&schema).await;
    raw.execute(FILL_CONTACTS, params![20_000_i64]).await.unwrap();
    let main = || Value::text("main");
    let statements = [
        ("known", contacts::KNOWN, vec![main(), Numbers(vec![0, -1]), Number(1)]),
        ("lock", contacts::LOCK, vec![main(), Numbers(vec![7, -1])]),
        ("find", contacts::FIND_TO_LEARN, vec![main(), Number(7), Numbers(vec![7, -1])]),
        ("share", contacts::SHARE, vec![main(), Number(7), Number(-1)]),
        (
            "conflict",
            conflicts::SEVERAL_USERS,
            vec![Number(1), main(), Value::text("user_ids"), Number(-1), Number(1), Number(9)],
        ),
    ];
    for round in ["before", "after"] {
        for (name, text, values) in &statements {
            raw.begin().await.unwrap();
            let text = format!("(ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) {text}");
            let plan = explain(&raw, name, &Statement::with(&text, values.clone())).await.plan;
            raw.batch("ROLLBACK").await.unwrap();
            let most = plan.iter().flat_map(|step| rows_read(step)).fold(0.0, f64::max);
            assert!(most > 0.0 && most < 20.0, "{name}, {round} it was analyzed: {plan:#?}");
        }
        raw.batch("ANALYZE @contacts").await.unwrap();
    }
    store.close().await;
}

/// How many rows a step of a plan returned or passed over.
fn rows_read(step: &str) -> Vec<f64> {
    let after = |word| {
        let (_, rest) = step.split_once(word)?;
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        rest[..end].parse().ok()
    };
    ["rows=", "Rows Removed by Filter: ", "Rows Removed by Index Recheck: "]
        .into_iter()
        .filter_map(after)
        .collect()
}

/// $1 first number of a day, $2 digests of message ids.
const ACCEPT: &str = "
    SELECT @accept_1(0, 0, $1, ARRAY[]::text[], hash, hash, null_of, null_of, hash, n::integer[], n::smallint[], word, word, word, word,
                     word, word, ARRAY[]::bytea[], ARRAY[]::bytea[])
    FROM (SELECT $2 AS hash, array_agg(NULL::bigint) AS null_of, array_agg(0) AS n, array_agg('x'::text) AS word FROM unnest($2)) u";

/// On a day that has just begun, the planner has no statistics of its partitions.
#[tokio::test]
async fn duplicates_are_looked_up_by_their_index_before_anything_was_analyzed() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    let raw = raw(&schema).await;
    let today = day_at(at(0).as_millisecond());
    partitions::make(&raw, vec![today - 1, today]).await.unwrap();
    let partition = partitions::name("messages", today);
    raw.batch(&format!("ALTER TABLE @{partition} SET (autovacuum_enabled = false)")).await.unwrap();
    raw.execute(FILL[0], params![first_of_day(today)]).await.unwrap();
    let scans =
        |index: &str| format!("pg_stat_get_xact_numscans('@{partition}_{index}'::regclass)");
    let text = format!("SELECT {}, {}", scans("message_hash_idx"), scans("pkey"));
    raw.begin().await.unwrap();
    // The first call makes the plans, and the second one uses them.
    for call in [1, 2] {
        let hashes: Array<i64> = (0..2_000).map(|n| n * 2 + call).collect();
        raw.query(ACCEPT, params![first_of_day(today), hashes]).await.unwrap();
        let row = raw.query_one(&text, params![]).await.unwrap();
        let scans: (i64, i64) = (row.get(0), row.get(1));
        // The bounds are not looked up by the primary key: they hold all rows of the day.
        assert_eq!(scans, (2_000 * call, 0));
    }
    store.close().await;
}
