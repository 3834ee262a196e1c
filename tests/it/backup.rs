//! A backup of a running service, restored after its database was lost, holds every message that was acknowledged
//! before it. No event that was sent since then is sent twice, and the backup holds nobody who was erased.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use segment_loops::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::clocks::{DAY, HOUR, Wall, is_tried};
use crate::postgres::on_postgres;
use crate::support::{
    ADMIN_TOKEN, PATIENCE, Ran, Reply, ScriptedLoops, Seen, Service, Setup, identify, track,
};

const GONE: &str = "person-canary-gone";
const KEPT: &str = "person-canary-kept";
const DATABASE: &str = "segment-loops.db";

/// A setup without a reachable Loops, so that accepted messages stay pending.
fn nowhere() -> Setup {
    Setup::with_loops("http://127.0.0.1:9/api/v1")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn back_up(setup: &Setup, data: &Path, to: &Path) -> Ran {
    let ran = setup.command_on(data, &["backup", "--to", text(to)], b"").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

async fn restore(setup: &Setup, from: &Path, data: &Path, more: &[&str]) -> Ran {
    let arguments = [&["restore", text(from)], more].concat();
    setup.command_on(data, &arguments, b"").await
}

/// Restores a backup, which must succeed.
async fn restored(setup: &Setup, from: &Path, data: &Path) -> Ran {
    let ran = restore(setup, from, data, &[]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

/// The names of the files in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let found = std::fs::read_dir(folder).into_iter().flatten();
    found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn holds(path: &Path, text: &str) -> bool {
    let bytes = std::fs::read(path).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The metric with the time of the last backup, in seconds.
async fn backup_timestamp(service: &Service) -> Option<f64> {
    let metrics = service.admin("/metrics").await.body;
    let line = metrics.as_str().unwrap().lines().find_map(|line| {
        line.strip_prefix("segment_loops_backup_timestamp_seconds ").map(str::to_owned)
    });
    line.map(|seconds| seconds.parse().unwrap())
}

async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

#[tokio::test]
async fn a_backup_under_load_has_all_that_was_acknowledged_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let (backup, data) = (folder.path().join("queue.db"), folder.path().join("restored"));
    let setup = nowhere();
    let mut service = setup.start();
    let mut accepted = 0;
    let mut send = async |service: &Service| {
        let batch: Vec<Value> =
            (0..20).map(|n| track(&format!("u{n}"), &format!("m{}", accepted + n))).collect();
        service.accept("/v1/batch", json!({"batch": batch})).await;
        accepted += 20;
        accepted
    };
    for _ in 0..20 {
        send(&service).await;
    }
    let before = send(&service).await;
    let ran = {
        let arguments = ["backup", "--to", text(&backup)];
        let mut making = Box::pin(setup.command_on(service.data(), &arguments, b""));
        loop {
            tokio::select! {
                ran = &mut making => break ran,
                _ = send(&service) => {}
            }
        }
    };
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with("backed up to "), "{ran:?}");
    send(&service).await;
    service.crash();
    drop(service);
    assert_eq!(names(folder.path()), BTreeSet::from(["queue.db".to_owned()]));

    let ran = restored(&setup, &backup, &data).await;
    assert!(ran.stdout.contains(" waiting), as of "), "{ran:?}");
    assert_eq!(names(&data), BTreeSet::from([DATABASE.to_owned()]));
    let service = setup.clone().data(&data).start();
    let stored = service.stored().await;
    for n in 0..before {
        assert!(stored.contains_key(&format!("m{n}")), "m{n} of {before}");
    }
    // A sender that repeats a message gets the same response.
    service.accept("/v1/track", track("u0", "m0")).await;
    assert_eq!(service.stored().await["m0"].len(), 1);
    let audit = service.admin("/api/audit").await.body;
    assert_eq!(audit["entries"][0]["action"], "restore", "{audit}");
}

/// Loops accepts nothing at first, so that all messages wait: one that was tried, one behind it, an upsert and a
/// deletion.
const SUBSCRIPTIONS: &str = r#"
    [[subscriptions]]
    name = "Event"
    action = "sendEvent"
    trigger = 'type = "track"'
    [[subscriptions]]
    name = "Contact"
    action = "createOrUpdateContact"
    trigger = 'type = "identify"'
    [[subscriptions]]
    name = "Deletion"
    action = "deleteContact"
    trigger = 'type = "delete"'
"#;

/// The idempotency keys of events by their message ids.
fn keys(seen: &[Seen]) -> BTreeMap<String, String> {
    let events = seen.iter().filter(|seen| seen.path == "/events/send");
    events.map(|seen| (seen.note(), seen.idempotency_key().unwrap())).collect()
}

#[tokio::test]
async fn what_was_sent_after_the_backup_is_sent_again_with_its_key_or_not_at_all() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let wall = Wall::right();
    let folder = tempfile::tempdir().unwrap();
    let subscriptions = folder.path().join("subscriptions.toml");
    std::fs::write(&subscriptions, SUBSCRIPTIONS).unwrap();
    let setup = wall.setup(&loops).env("LOOPS_SUBSCRIPTIONS", text(&subscriptions));
    let mut service = setup.start();
    service.accept("/v1/track", track("u1", "tried")).await;
    service.accept("/v1/track", track("u1", "behind")).await;
    service.accept("/v1/identify", identify("u2", "upsert")).await;
    service.accept("/v1/batch", json!({"batch": [deletion("u3", "deletion")]})).await;
    for id in ["tried", "upsert", "deletion"] {
        service.message(id, is_tried).await;
    }
    let backup = folder.path().join("queue.db");
    back_up(&setup, service.data(), &backup).await;
    // The service continues, and Loops accepts everything.
    loops.rest();
    loops.now(|_| Reply::ok());
    for id in ["behind", "upsert"] {
        service.message(id, |found| found["state"] == "delivered").await;
    }
    let first = keys(&loops.rest());
    assert_eq!(first.keys().collect::<Vec<_>>(), ["behind", "tried"]);
    service.crash();
    drop(service);

    // Within the day, Loops recognizes the keys.
    loops.now(|seen| Reply::status(if seen.path == "/events/send" { 409 } else { 200 }));
    wall.set(DAY - HOUR);
    let data = folder.path().join("soon");
    restored(&setup, &backup, &data).await;
    let soon = setup.clone().data(&data).start();
    for id in ["behind", "upsert", "deletion"] {
        soon.message(id, |found| found["state"] == "delivered").await;
    }
    assert_eq!(keys(&loops.rest()), first);
    drop(soon);

    // Later, Loops has forgotten the keys.
    loops.now(|_| Reply::ok());
    wall.set(DAY + HOUR);
    let data = folder.path().join("late");
    restored(&setup, &backup, &data).await;
    let late = setup.clone().data(&data).start();
    for id in ["tried", "behind"] {
        let failed = late.message(id, |found| found["state"] == "failed").await;
        let delivery = &failed["deliveries"][0];
        assert_eq!(delivery["reason"], "expired", "{failed}");
        let is_by_backup =
            delivery["detail"].as_str().unwrap().contains("restored from a backup made at");
        assert_eq!(is_by_backup, id == "behind", "{delivery}");
    }
    late.message("upsert", |found| found["state"] == "delivered").await;
    // The person may have signed up again.
    let failed = late.message("deletion", |found| found["state"] == "failed").await;
    assert_eq!(failed["deliveries"][0]["reason"], "expired", "{failed}");
    let seen = loops.rest();
    assert!(seen.iter().all(|seen| seen.path == "/contacts/update"), "{seen:?}");
    // Messages that are accepted or replayed from now on are sent, also for the same person.
    late.accept("/v1/track", track("u1", "new")).await;
    assert_eq!(loops.next().await.note(), "new");
    let ask = late.request(reqwest::Method::POST, "/api/replay").bearer_auth(ADMIN_TOKEN);
    let answer = Service::answer(ask.body(json!({"messageIds": ["behind"]}).to_string())).await;
    assert_eq!(answer.body["replayed"], 1, "{answer:?}");
    let again = loops.next().await;
    assert_eq!(again.note(), "behind");
    assert_ne!(again.idempotency_key().as_ref(), first.get("behind"));
}

#[tokio::test]
async fn a_copy_that_another_program_made_counts_from_when_something_last_happened_in_it() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let wall = Wall::right();
    let folder = tempfile::tempdir().unwrap();
    let subscriptions = folder.path().join("subscriptions.toml");
    std::fs::write(&subscriptions, SUBSCRIPTIONS).unwrap();
    let setup = wall.setup(&loops).env("LOOPS_SUBSCRIPTIONS", text(&subscriptions));
    let service = setup.start();
    service.accept("/v1/track", track("u1", "tried")).await;
    service.accept("/v1/track", track("u1", "behind")).await;
    service.message("tried", is_tried).await;
    let copy = folder.path().join("copy.db");
    service.database().execute("VACUUM INTO ?1", [text(&copy)]).unwrap();
    drop(service);
    loops.rest();
    loops.now(|_| Reply::ok());
    wall.set(DAY + HOUR);
    let data = folder.path().join("late");
    restored(&setup, &copy, &data).await;
    let late = setup.clone().data(&data).start();
    late.message("behind", |found| found["state"] == "failed").await;
    assert!(loops.rest().is_empty());
}

fn deletion(user: &str, message: &str) -> Value {
    json!({"type": "delete", "userId": user, "messageId": message})
}

#[tokio::test]
async fn a_person_erased_before_the_backup_is_not_in_it() {
    let loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    for n in 0..50 {
        service.accept("/v1/identify", identify(GONE, &format!("gone{n}"))).await;
        service.accept("/v1/identify", identify(KEPT, &format!("kept{n}"))).await;
    }
    service.accept("/v1/batch", json!({"batch": [deletion(GONE, "deletion")]})).await;
    until("the erasure", async || {
        let found = service.admin("/api/erasures?state=erased").await.body;
        (found["erasures"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("queue.db");
    back_up(&setup, service.data(), &backup).await;
    assert!(!holds(&backup, GONE));
    assert!(holds(&backup, KEPT));
}

#[tokio::test]
async fn a_person_erased_since_the_backup_is_erased_again_by_the_receipts() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let block = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__ERASED_BLOCK_DAYS";
    let setup = Setup::with_loops(&loops.base_url).env(block, "30");
    let mut service = setup.start();
    // The first is tried, and the others wait behind it.
    for id in ["g1", "g2", "g3"] {
        service.accept("/v1/identify", identify(GONE, id)).await;
    }
    service.accept("/v1/identify", identify(KEPT, "k1")).await;
    service.message("g1", is_tried).await;
    let folder = tempfile::tempdir().unwrap();
    let (backup, receipts) = (folder.path().join("queue.db"), folder.path().join("receipts.json"));
    back_up(&setup, service.data(), &backup).await;
    assert!(holds(&backup, GONE));
    loops.now(|_| Reply::ok());
    let ask =
        service.request(reqwest::Method::POST, "/api/erasures").json(&json!({"userId": GONE}));
    assert_eq!(Service::answer(ask.bearer_auth(ADMIN_TOKEN)).await.status, 202);
    let list = until("the erasure", async || {
        let found = service.admin("/api/erasures?state=erased").await.body;
        (found["erasures"].as_array().unwrap().len() == 1).then_some(found)
    })
    .await;
    service.crash();
    drop(service);
    loops.rest();

    // A receipt that was changed is refused, and so is one of another installation.
    let mut forged = list.clone();
    forged["erasures"][0]["person"] = "00000000000000ff".into();
    let data = folder.path().join("data");
    let with = &["--erased", text(&receipts)];
    for (wrong, expected) in [
        (forged.to_string(), "the signature of the receipt"),
        ("{}".to_owned(), "what begins in line 1 is not a receipt"),
        (
            format!("{list}\n\n {{\"person\": \"{GONE}\"}}"),
            "what begins in line 3 is not a receipt",
        ),
        (
            format!("{list}\nemail,userId\n{GONE}\n"),
            "line 2 is not JSON: give what GET /api/erasures",
        ),
    ] {
        std::fs::write(&receipts, wrong).unwrap();
        let ran = restore(&setup, &backup, &data, with).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("receipts.json") && ran.stderr.contains(expected), "{ran:?}");
        assert!(!ran.stderr.contains(GONE), "{ran:?}");
        assert_eq!(names(&data), BTreeSet::new());
    }
    // A page of receipts with further pages after it is refused.
    let mut page = list.clone();
    page["next"] = 1.into();
    std::fs::write(&receipts, page.to_string()).unwrap();
    let ran = restore(&setup, &backup, &data, with).await;
    assert!(ran.code == Some(1) && ran.stderr.contains("give the other pages too"), "{ran:?}");
    assert_eq!(names(&data), BTreeSet::new());
    let last = json!({"erasures": [], "next": null});
    std::fs::write(&receipts, format!("{list}\n{last}\n")).unwrap();
    // The same file given twice, like two files that were saved at different times.
    let ran = restore(&setup, &backup, &data, &[with[0], with[1], with[0], with[1]]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let expected = "1 receipt of erasures applied: 3 messages erased\n";
    assert!(ran.stdout.contains(expected), "{ran:?}");
    assert!(!holds(&data.join(DATABASE), GONE));
    assert!(holds(&data.join(DATABASE), KEPT));

    let service = setup.clone().data(&data).start();
    service.message("k1", |found| found["state"] == "delivered").await;
    for id in ["g1", "g2", "g3"] {
        let ended = service.message(id, |found| found["state"] != "pending").await;
        assert_eq!(ended["state"], "failed", "{ended}");
    }
    assert!(loops.rest().iter().all(|seen| seen.body["userId"] == KEPT));
    // The receipt is stored again, so that the erased person is not brought back.
    let again = service.admin("/api/erasures").await.body;
    for field in ["id", "person", "askedAt", "erased", "state"] {
        assert_eq!(again["erasures"][0][field], list["erasures"][0][field], "{field}");
    }
    service.accept("/v1/identify", identify(GONE, "back")).await;
    let blocked = service.message("back", |found| found["state"] != "pending").await;
    assert_eq!(blocked["reason"], "erased", "{blocked}");
}

#[tokio::test]
async fn a_folder_keeps_the_newest_backups_of_its_installation_and_everything_else() {
    let setup = nowhere();
    let (service, other) = (setup.start(), setup.start());
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first.db");
    let foreign = folder.path().join("segment-loops-20200101T000000Z.db");
    back_up(&setup, service.data(), &first).await;
    back_up(&setup, other.data(), &foreign).await;
    for day in 2..5 {
        let name = format!("segment-loops-2020010{day}T000000Z.db");
        std::fs::copy(&first, folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("segment-loops-20200105T000000Z.db"), "notes").unwrap();
    let arguments = ["backup", "--to", text(folder.path()), "--keep", "2"];
    let ran = setup.command_on(service.data(), &arguments, b"").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stdout.lines().filter(|line| line.starts_with("removed ")).count(), 2);
    let mut left: Vec<String> = names(folder.path()).into_iter().collect();
    let newest = left.pop().unwrap();
    assert!(newest.starts_with("segment-loops-2") && newest.ends_with("Z.db"), "{newest}");
    let expected = [
        "first.db",
        "segment-loops-20200101T000000Z.db",
        "segment-loops-20200104T000000Z.db",
        "segment-loops-20200105T000000Z.db",
    ];
    assert_eq!(left, expected);
    let arguments = ["backup", "--to", text(&first), "--keep", "2"];
    let ran = setup.command_on(service.data(), &arguments, b"").await;
    assert!(ran.code == Some(2) && ran.stderr.contains("--keep needs a folder"), "{ran:?}");
}

#[tokio::test]
async fn a_backup_replaces_backups_alone_and_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let setup = nowhere();
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    assert_eq!(backup_timestamp(&service).await, None);
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("queue.db");
    // The partial file of a backup that was killed.
    std::fs::write(folder.path().join("queue.db.part"), "left behind").unwrap();
    for _ in 0..2 {
        back_up(&setup, service.data(), &backup).await;
    }
    assert_eq!(names(folder.path()), BTreeSet::from(["queue.db".to_owned()]));
    assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = until("the metric", async || backup_timestamp(&service).await).await;
    let age = SystemClock.now().as_second() as f64 - shown;
    assert!((-1.0..60.0).contains(&age), "{age}");

    let live = service.data().join(DATABASE);
    let other = folder.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    std::fs::write(folder.path().join("notes.txt"), "notes").unwrap();
    for (to, expected) in [
        (live, "is not a backup"),
        (other, "is not a backup"),
        (folder.path().join("notes.txt"), "is not a backup"),
        (folder.path().join("missing/queue.db"), "does not exist: create it"),
        (folder.path().join("missing/"), "does not exist: create it"),
    ] {
        let before = std::fs::read(&to).ok();
        let ran = setup.command_on(service.data(), &["backup", "--to", text(&to)], b"").await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(expected), "{ran:?}");
        assert!(to.ends_with(DATABASE) || std::fs::read(&to).ok() == before, "{}", to.display());
    }
    let none = folder.path().join("none");
    let ran = setup.command_on(&none, &["backup", "--to", text(&backup)], b"").await;
    assert!(ran.code == Some(1) && ran.stderr.contains("give the data folder"), "{ran:?}");
    // The existing database is still in use and writable.
    service.accept("/v1/track", track("u1", "m2")).await;
}

async fn output(mut command: std::process::Command) -> Output {
    command.stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_backup_goes_through_a_pipe_and_back() {
    let setup = nowhere();
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    let folder = tempfile::tempdir().unwrap();
    let before = names(service.data());
    let command = setup.other_command(folder.path(), service.data(), &["backup", "--to", "-"]);
    let made = output(command).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(names(service.data()), before);
    let data = folder.path().join("data");
    let ran = setup.command_on(&data, &["restore", "-"], &made.stdout).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("1 message (1 of them waiting)"), "{ran:?}");
    // A pipe that ends early.
    let half = &made.stdout[..made.stdout.len() / 2];
    let data = folder.path().join("half");
    let ran = setup.command_on(&data, &["restore", "-"], half).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(names(&data), BTreeSet::new());
}

#[tokio::test]
async fn a_full_disk_leaves_neither_half_a_backup_nor_half_a_queue() {
    let setup = nowhere();
    let service = setup.start();
    for n in 0..40 {
        let mut message = track("u1", &format!("m{n}"));
        message["context"] = json!({"x": "x".repeat(20_000)});
        service.accept("/v1/track", message).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("queue.db");
    let limited = |command: std::process::Command| {
        let mut limited = std::process::Command::new("prlimit");
        limited.arg("--fsize=400000:").arg(command.get_program()).args(command.get_args());
        limited.env_clear();
        for (name, value) in command.get_envs() {
            limited.env(name, value.unwrap());
        }
        limited
    };
    let arguments = ["backup", "--to", text(&backup)];
    let full =
        output(limited(setup.other_command(folder.path(), service.data(), &arguments))).await;
    let told = String::from_utf8(full.stderr).unwrap();
    assert!(
        full.status.code() == Some(1) && told.contains("check whether its disk is full"),
        "{told}"
    );
    assert_eq!(names(folder.path()), BTreeSet::new());
    back_up(&setup, service.data(), &backup).await;
    let data = folder.path().join("data");
    let arguments = ["restore", text(&backup)];
    let full = output(limited(setup.other_command(folder.path(), &data, &arguments))).await;
    let told = String::from_utf8(full.stderr).unwrap();
    assert!(
        full.status.code() == Some(1) && told.contains("check whether its disk is full"),
        "{told}"
    );
    assert_eq!(names(&data), BTreeSet::new());
}

#[tokio::test]
async fn a_file_that_is_no_backup_is_refused_with_advice_and_leaves_nothing() {
    let setup = nowhere();
    let service = setup.start();
    for n in 0..50 {
        service.accept("/v1/track", track("u1", &format!("m{n}"))).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let backup = path("queue.db");
    back_up(&setup, service.data(), &backup).await;
    let bytes = std::fs::read(&backup).unwrap();
    let altered = |name: &str, statement: &str| {
        std::fs::write(path(name), &bytes).unwrap();
        rusqlite::Connection::open(path(name)).unwrap().execute_batch(statement).unwrap();
    };
    std::fs::write(path("cut.db"), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(path("text.db"), "no database at all ".repeat(500)).unwrap();
    std::fs::write(path("empty.db"), "").unwrap();
    let mut garbled = bytes.clone();
    garbled[8 * 4_096..12 * 4_096].fill(0xa5);
    std::fs::write(path("garbled.db"), garbled).unwrap();
    rusqlite::Connection::open(path("foreign.db"))
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    altered("newer.db", "PRAGMA user_version = 9999");
    altered("earlier.db", "PRAGMA user_version = 1");
    altered("partial.db", "DROP TABLE receipts");
    std::fs::write(path("open.db"), &bytes).unwrap();
    std::fs::write(path("open.db-wal"), "messages").unwrap();
    let data = path("data");
    for (name, expected) in [
        ("cut.db", "is damaged"),
        ("text.db", "is not a database"),
        ("empty.db", "it is empty"),
        ("garbled.db", "is damaged"),
        ("foreign.db", "another program"),
        ("newer.db", "(schema 9999): restore it with that version"),
        ("earlier.db", "an earlier build"),
        ("partial.db", "not whole"),
        ("open.db", "open.db-wal"),
        ("missing.db", "cannot be read"),
        (".", "it is not a file"),
    ] {
        let ran = restore(&setup, &path(name), &data, &[]).await;
        assert_eq!(ran.code, Some(1), "{name}: {ran:?}");
        assert!(ran.stderr.contains(expected) && ran.stderr.contains(name), "{name}: {ran:?}");
        assert_eq!(names(&data), BTreeSet::new(), "{name}");
    }
    // The database of a service, running or not, stays as it is.
    let ran = restore(&setup, &backup, service.data(), &[]).await;
    assert!(ran.code == Some(1) && ran.stderr.contains("exists"), "{ran:?}");
    service.accept("/v1/track", track("u1", "after")).await;
    // Nothing was changed in the backup.
    assert!(std::fs::read(&backup).unwrap() == bytes);
    // A backup that was copied into the data folder by hand is refused, because it does not record what was sent since.
    let by_hand = path("by-hand");
    std::fs::create_dir(&by_hand).unwrap();
    std::fs::copy(&backup, by_hand.join(DATABASE)).unwrap();
    let started = setup.clone().data(&by_hand);
    let (code, told) = tokio::task::spawn_blocking(move || started.run_to_end()).await.unwrap();
    assert!(code == Some(1) && told.contains("segment-loops restore FILE"), "{told}");
}

#[tokio::test]
async fn with_postgresql_the_commands_say_what_to_use_instead() {
    let folder = tempfile::tempdir().unwrap();
    let setup = nowhere().env("DATABASE_URL", "postgres://ada:pw-canary@127.0.0.1:9/queue");
    let to: PathBuf = folder.path().join("queue.db");
    for (arguments, expected) in [
        (["backup", "--to", text(&to)].as_slice(), "pg_dump"),
        (&["restore", text(&to)], "segment-loops move"),
    ] {
        let ran = setup.command_on(folder.path(), arguments, b"").await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(expected) && !ran.stderr.contains("pw-canary"), "{ran:?}");
    }
}

#[tokio::test]
async fn a_restored_queue_is_moved_once_what_waited_in_it_was_judged() {
    let loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.message("m1", is_tried).await;
    let (backup, data) = (folder.path().join("queue.db"), folder.path().join("data"));
    back_up(&setup, service.data(), &backup).await;
    drop(service);
    restored(&setup, &backup, &data).await;
    let replicas = on_postgres("after-a-restore")(setup.clone());
    let move_it = || replicas.plain_command(folder.path(), &["move", "--from", text(&data)]);
    let refused = output(move_it()).await;
    let told = String::from_utf8(refused.stderr).unwrap();
    let expected = "1 message waits in";
    assert!(refused.status.code() == Some(1) && told.contains(expected), "{told}");
    loops.now(|_| Reply::ok());
    let service = setup.data(&data).start();
    service.message("m1", |found| found["state"] == "delivered").await;
    drop(service);
    let moved = output(move_it()).await;
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
}

#[tokio::test]
async fn with_an_external_log_the_program_leaves_it_alone() {
    let loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).env("SEGMENT_LOOPS__STORE__WAL", "external");
    let mut service = setup.start();
    service.accept("/v1/identify", identify(GONE, "g1")).await;
    service.accept("/v1/batch", json!({"batch": [deletion(GONE, "deletion")]})).await;
    let list = until("the erasure", async || {
        let found = service.admin("/api/erasures?state=erased").await.body;
        (found["erasures"].as_array().unwrap().len() == 1).then_some(found)
    })
    .await;
    assert_eq!(list["erasures"][0]["writeAheadLog"], "external");
    let log = service.data().join("segment-loops.db-wal");
    let bytes = std::fs::metadata(&log).unwrap().len();
    assert!(bytes > 0 && holds(&log, GONE));
    assert_eq!(service.stop().await, Some(0));
    // The log was not moved at the end, and nothing is lost.
    assert!(std::fs::metadata(&log).unwrap().len() >= bytes);
    let service = service.crash_and_restart(&setup);
    service.message("g1", |found| found["state"] == "delivered").await;
    drop(service);
    let (code, told) = tokio::task::spawn_blocking(move || {
        setup.env("SEGMENT_LOOPS__STORE__WAL", "litestream").run_to_end()
    })
    .await
    .unwrap();
    assert!(code == Some(3) && told.contains("\"own\" or \"external\""), "{told}");
}
