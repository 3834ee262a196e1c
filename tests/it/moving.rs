//! A queue that is moved from SQLite to PostgreSQL loses nothing and delivers nothing twice, wherever the move is
//! interrupted. The two stores can never be used at the same time.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::postgres::on_postgres;
use crate::support::{ADMIN_TOKEN, Reply, ScriptedLoops, Seen, Service, Setup, identify, track};

/// The command `move` on a data folder, with the settings of the replicas.
fn command(replicas: &Setup, from: &Path, more: &[&str]) -> Command {
    let from = from.to_str().unwrap();
    replicas.plain_command(Path::new("/"), &[&["move", "--from", from], more].concat())
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn succeeds(command: Command) -> String {
    let ran = run(command).await;
    assert!(ran.status.success(), "{ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}

async fn fails(command: Command, with: &str) {
    let ran = run(command).await;
    let text = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{text}");
    assert!(text.contains(with), "{text}");
}

/// Asserts that `serve` refuses to start.
async fn refuses(setup: &Setup, with: &str) {
    let setup = setup.clone();
    let ended = tokio::task::spawn_blocking(move || setup.run_to_end());
    let (code, text) = ended.await.unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(with), "{text}");
}

/// Stores pending messages without a service.
async fn import(setup: &Setup, folder: &Path, ids: impl Iterator<Item = String>) {
    let lines: Vec<String> = ids.map(|id| track("u1", &id).to_string()).collect();
    let ran = setup.command_on(folder, &["import", "-"], lines.join("\n").as_bytes()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

fn is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |message| message["state"] == state
}

/// Accepts everything except messages that are to fail or to be held.
fn script(seen: &Seen) -> Reply {
    match seen.note() {
        note if note.starts_with("bad") => Reply::status(400),
        note if note.starts_with("held") => Reply::Silence,
        _ => Reply::ok(),
    }
}

/// The responses of the API, without the numbers of messages and requests.
async fn shown(service: &Service) -> Value {
    let mut shown = Vec::new();
    for path in [
        "/api/messages?limit=100",
        "/api/messages?state=failed",
        "/api/messages?state=pending",
        "/api/messages?state=unmatched",
        "/api/messages?userId=u1",
        "/api/messages?event=Tested",
        "/api/failures",
        "/api/tallies",
        "/api/event-names",
    ] {
        let answer = service.admin(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        shown.push(without_numbers(answer.body));
    }
    shown.into()
}

fn without_numbers(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(name, _)| !NUMBERS.contains(&name.as_str()));
            kept.map(|(name, value)| (name, without_numbers(value))).collect()
        }
        Value::Array(values) => values.into_iter().map(without_numbers).collect(),
        other => other,
    }
}

/// The fields with numbers of messages and requests.
const NUMBERS: [&str; 3] = ["seq", "id", "next"];

#[tokio::test]
async fn a_moved_queue_is_what_it_was_and_goes_on() {
    let mut loops = ScriptedLoops::start(script).await;
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops(&loops.base_url).data(folder.path());
    let replicas = on_postgres("moved")(setup.clone());
    let service = setup.start();
    let mut sent = Vec::new();
    let mut send = async |service: &Service, messages: &[Value]| {
        sent.extend_from_slice(messages);
        service.accept("/v1/batch", json!({"batch": messages})).await;
    };
    // Messages that are delivered, failed, replayed and unmatched, and a person who was deleted.
    send(&service, &[identify("u1", "good1"), track("u1", "good2"), track("u2", "bad1")]).await;
    send(&service, &[track("u2", "bad2"), identify("u9", "gone1"), track("u9", "bad-gone")]).await;
    let mut unmatched = track("u2", "other");
    unmatched["integrations"] = json!({"All": false});
    send(&service, &[unmatched]).await;
    service.message("bad-gone", is("failed")).await;
    send(&service, &[json!({"type": "delete", "userId": "u9", "messageId": "gone2"})]).await;
    for (id, state) in
        [("good2", "delivered"), ("bad1", "failed"), ("bad2", "failed"), ("other", "unmatched")]
    {
        service.message(id, is(state)).await;
    }
    loops.now(|_| Reply::ok());
    let ran = setup.command_on(folder.path(), &["replay", "--message-id", "bad1"], b"").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    service.message("bad1", is("delivered")).await;
    service.message("gone2", is("delivered")).await;
    service.message("bad-gone", |found| answers(found) == [""]).await;
    loops.rest();
    // An event and a merged request that may have been sent, and messages that wait behind them.
    loops.now(script);
    let mut service = service.stop_and_restart(&setup.clone().env("LOOPS_RATE_LIMIT", "1")).await;
    send(&service, &[track("u1", "held1")]).await;
    let unanswered = loops.next().await;
    send(&service, &[identify("u3", "held2"), track("u3", "held3")]).await;
    let merged = loops.next().await;
    assert_eq!((merged.note().as_str(), merged.path.as_str()), ("held2", "/events/send"));
    send(&service, &[track("u1", "wait1"), identify("u1", "wait2"), track("u1", "wait3")]).await;
    let before = shown(&service).await;

    fails(command(&replicas, folder.path(), &[]), "is in use").await;
    service.crash();
    let said = succeeds(command(&replicas, folder.path(), &[])).await;
    let expected = "moved: 14 messages (6 of them waiting), ";
    assert!(said.starts_with(expected), "{said}");
    refuses(&setup, "was moved to PostgreSQL").await;
    let said = succeeds(command(&replicas, folder.path(), &[])).await;
    assert!(said.starts_with("moved before"), "{said}");

    let service = replicas.start();
    assert_eq!(shown(&service).await, before);
    // Everything is sent in order, and the requests that may have been sent keep their keys and bytes.
    let mut again = [loops.next().await, loops.next().await];
    again.sort_by_key(Seen::note);
    for (again, first) in again.iter().zip([&unanswered, &merged]) {
        assert_eq!(again.raw_body, first.raw_body);
        assert_eq!(again.idempotency_key(), first.idempotency_key());
        assert!(first.idempotency_key().is_some());
    }
    let mut service = service;
    service.crash();
    drop(service);
    loops.now(|_| Reply::ok());
    let service = replicas.start();
    service.message("wait3", is("delivered")).await;
    service.message("held3", is("delivered")).await;
    let of_u1 = |seen: &Seen| seen.body["userId"] == "u1";
    let order: Vec<String> =
        loops.rest().iter().filter(|seen| of_u1(seen)).map(Seen::note).collect();
    assert_eq!(order, ["held1", "wait1", "wait2", "wait3"]);

    // A repeated message is accepted as a duplicate.
    for message in &sent {
        service.accept("/v1/batch", json!({"batch": [message]})).await;
    }
    service.accept("/v1/track", track("u1", "last")).await;
    assert_eq!(loops.next().await.note(), "last");
    for message in &sent {
        let id = message["messageId"].as_str().unwrap();
        let found = service.admin(&format!("/api/messages/{id}")).await.body;
        assert_eq!(found["messages"].as_array().unwrap().len(), 1, "{id}");
    }

    // A failure can be replayed, and a person deleted.
    let ask = service.request(reqwest::Method::POST, "/api/replay").bearer_auth(ADMIN_TOKEN);
    let answer = Service::answer(ask.body(json!({"messageIds": ["bad2"]}).to_string())).await;
    assert_eq!(answer.body["replayed"], 1, "{answer:?}");
    assert_eq!(loops.next().await.note(), "bad2");
    let deletion = json!({"type": "delete", "userId": "u1", "messageId": "gone"});
    service.accept("/v1/batch", json!({"batch": [deletion]})).await;
    service.message("good2", |found| answers(found) == [""]).await;
    let found = service.admin("/api/messages?userId=u1").await.body;
    assert_eq!(found["messages"].as_array().unwrap().len(), 0, "{found}");
    fails(command(&replicas, folder.path(), &["--undo"]), "processes have used").await;
    refuses(&setup, "was moved to PostgreSQL").await;
}

/// The excerpts of Loops' responses to a message.
fn answers(found: &Value) -> Vec<&str> {
    let deliveries = found["deliveries"].as_array().into_iter().flatten();
    let attempts = deliveries.filter_map(|delivery| delivery["request"]["attempts"].as_array());
    attempts.flatten().filter_map(|attempt| attempt["answer"].as_str()).collect()
}

/// Asserts that all waiting messages are delivered once and in order.
async fn delivers_all(setup: &Setup, loops: &mut ScriptedLoops, count: usize) {
    // On a slow machine, a short lease would run out while a request is under way, which is then sent again.
    let mut service = setup.clone().env("SEGMENT_LOOPS__DELIVERY__LEASE_TTL_MS", "30000").start();
    // However long it takes in all, as long as they keep coming.
    let notes = loops.notes(count).await;
    let expected: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
    assert_eq!(notes, expected);
    service.message(&format!("m{}", count - 1), is("delivered")).await;
    assert_eq!(loops.rest().len(), 0);
    // Gives the lease back.
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn a_move_that_crashes_at_any_point_goes_on_where_it_was() {
    let mut loops = ScriptedLoops::willing().await;
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops(&loops.base_url).data(folder.path());
    let replicas = on_postgres("crashed")(setup.clone());
    import(&setup, folder.path(), (0..30).map(|n| format!("m{n}"))).await;
    let mut crashes = 0;
    // Each run gets one commit further.
    let points = ["commit.before:1", "commit.after:1", "commit.before:2"];
    for point in points.iter().cycle() {
        let crashing = replicas.clone().env("SEGMENT_LOOPS_CRASH_AT", point);
        let ran = run(command(&crashing, folder.path(), &[])).await;
        if ran.status.success() {
            break;
        }
        assert_eq!(ran.status.code(), None, "{ran:?}");
        crashes += 1;
        assert!(crashes < 100);
        // The first crash is before the first commit.
        if crashes > 2 {
            refuses(&setup, "PostgreSQL").await;
        }
        if crashes > 1 {
            refuses(&replicas, "is not finished").await;
        }
    }
    assert!(crashes > 8, "{crashes}");
    refuses(&setup, "was moved to PostgreSQL").await;
    delivers_all(&replicas, &mut loops, 30).await;
}

#[tokio::test]
async fn a_move_that_is_killed_again_and_again_goes_on_where_it_was() {
    let mut loops = ScriptedLoops::willing().await;
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops(&loops.base_url).data(folder.path());
    let replicas = on_postgres("slain")(setup.clone());
    import(&setup, folder.path(), (0..300).map(|n| format!("m{n}"))).await;
    let mut chance = fastrand::Rng::with_seed(1);
    // A run that never starts to move is killed too; in the end, one has all the time that it needs on this machine.
    let mut patience_ms = 20;
    let mut kills = 0;
    loop {
        let mut command = command(&replicas, folder.path(), &[]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(chance.u64(0..patience_ms))).await;
        let _ = process.kill();
        if process.wait().unwrap().success() {
            break;
        }
        kills += 1;
        patience_ms += patience_ms / 8;
    }
    assert!(kills > 3, "{kills}");
    delivers_all(&replicas, &mut loops, 300).await;
}

#[tokio::test]
async fn the_way_back_is_open_until_the_database_is_used() {
    let mut loops = ScriptedLoops::willing().await;
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops(&loops.base_url).data(folder.path());
    let replicas = on_postgres("back")(setup.clone());
    import(&setup, folder.path(), (0..5).map(|n| format!("m{n}"))).await;
    let undo = || command(&replicas, folder.path(), &["--undo"]);
    fails(undo(), "was not moved").await;
    // The move is undone from its middle and from its end, with crashes in between.
    for point in ["commit.after:4", "commit.before:99"] {
        let crashing = replicas.clone().env("SEGMENT_LOOPS_CRASH_AT", point);
        run(command(&crashing, folder.path(), &[])).await;
        refuses(&setup, "PostgreSQL").await;
        for point in ["commit.before:1", "commit.after:1", "commit.before:2"] {
            let crashing = replicas.clone().env("SEGMENT_LOOPS_CRASH_AT", point);
            run(command(&crashing, folder.path(), &["--undo"])).await;
            refuses(&setup, "PostgreSQL").await;
        }
        fails(command(&replicas, folder.path(), &[]), "run this command with --undo again").await;
        succeeds(undo()).await;
        fails(undo(), "was not moved").await;
    }
    // Leftovers in the target do not prevent the next move.
    let crashing = replicas.clone().env("SEGMENT_LOOPS_CRASH_AT", "commit.after:5");
    run(command(&crashing, folder.path(), &[])).await;
    let crashing = replicas.clone().env("SEGMENT_LOOPS_CRASH_AT", "commit.after:2");
    run(command(&crashing, folder.path(), &["--undo"])).await;
    delivers_all(&setup, &mut loops, 5).await;
    // The queue is moved again.
    succeeds(command(&replicas, folder.path(), &[])).await;
    let service = replicas.start();
    service.message("m4", is("delivered")).await;
    fails(undo(), "processes have used").await;
    assert_eq!(loops.rest().len(), 0);
}

#[tokio::test]
async fn what_cannot_be_moved_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1").data(folder.path());
    let replicas = on_postgres("refused")(setup.clone());
    fails(command(&replicas, folder.path(), &[]), "give the data folder of the service").await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    import(&setup, folder.path(), std::iter::once("m0".to_owned())).await;
    fails(command(&setup, folder.path(), &[]), "set DATABASE_URL").await;
    // A database that was used without a move is refused.
    let other = tempfile::tempdir().unwrap();
    import(&replicas, other.path(), std::iter::once("m1".to_owned())).await;
    fails(command(&replicas, folder.path(), &[]), "is in use already").await;
    // A database to which another queue is being moved, or was moved, is refused.
    let replicas = on_postgres("of-another")(setup.clone());
    import(&setup, other.path(), std::iter::once("m1".to_owned())).await;
    let crashing = replicas.clone().env("SEGMENT_LOOPS_CRASH_AT", "commit.after:3");
    run(command(&crashing, other.path(), &[])).await;
    fails(command(&replicas, folder.path(), &[]), "another queue is being moved").await;
    let elsewhere = on_postgres("elsewhere")(setup.clone());
    fails(command(&elsewhere, other.path(), &[]), "is being moved to").await;
    succeeds(command(&replicas, other.path(), &[])).await;
    fails(command(&replicas, folder.path(), &[]), "is in use already").await;
    fails(command(&elsewhere, other.path(), &[]), "was moved to").await;
    // A damaged file is refused.
    let file = folder.path().join("segment-loops.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let half = bytes.len() / 2 / 4_096 * 4_096;
    bytes[half..half + 4_096].fill(0xa5);
    std::fs::write(&file, &bytes).unwrap();
    fails(command(&elsewhere, folder.path(), &[]), "is damaged").await;
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}
