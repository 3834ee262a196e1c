//! Faults of the disk or the database: senders are asked to retry, operators learn what to do, and no acknowledged
//! message is lost.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{
    Answer, PATIENCE, Reply, ScriptedLoops, Seen, Service, Setup, WRITE_KEY, identify, track,
};

const DATABASE: &str = "segment-loops.db";

/// A setup without a reachable Loops, so that accepted messages stay pending. Its requests do not time out on a slow
/// machine.
fn nowhere() -> Setup {
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1");
    setup.env("SEGMENT_LOOPS__SERVER__ACK_TIMEOUT_MS", "60000")
}

async fn to_destination(service: &Service, message: Value) -> Answer {
    let request = service.request(Method::POST, "/destination").basic_auth(WRITE_KEY, Some(""));
    Service::answer(request.body(message.to_string())).await
}

/// A message large enough to need new pages. A small one may fit into existing pages.
#[cfg(target_os = "linux")]
fn large(n: usize) -> Value {
    let mut message = track(&format!("u{n}"), &format!("m{n}"));
    message["context"] = json!({"x": "x".repeat(20_000)});
    message
}

/// Asserts that the response asks the sender to wait. SDKs count their attempts, and must not use them up at once.
fn assert_not_now(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.body["code"], "not_now", "{answer:?}");
    assert_eq!(answer.headers["retry-after"], "30", "{answer:?}");
}

/// Overwrites the pages of a file, starting with `from_page`.
fn garble(path: &Path, from_page: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    assert!(bytes.len() > from_page * 4_096, "{} pages", bytes.len() / 4_096);
    bytes[from_page * 4_096..].fill(0xa5);
    std::fs::write(path, bytes).unwrap();
}

/// Overwrites the contents of messages, which are not read at the start.
fn garble_payloads(service: &Service) {
    let database = service.database();
    let leaves = "SELECT pageno FROM dbstat WHERE name = 'payloads' AND pagetype = 'leaf'";
    let mut leaves = database.prepare(leaves).unwrap();
    let leaves = leaves.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    let leaves: Vec<usize> = leaves.map(|page| usize::try_from(page.unwrap()).unwrap()).collect();
    assert!(!leaves.is_empty());
    let path = service.data().join(DATABASE);
    let mut bytes = std::fs::read(&path).unwrap();
    for page in leaves {
        bytes[(page - 1) * 4_096..page * 4_096].fill(0xa5);
    }
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn beyond_the_bound_of_the_backlog_senders_are_told_to_retry() {
    let bounded = |setup: Setup| setup.env("SEGMENT_LOOPS__STORE__BACKLOG_MESSAGES_MAX", "3");
    let service = bounded(nowhere()).start();
    for id in ["m1", "m2", "m3"] {
        service.accept("/v1/track", track("u1", id)).await;
    }
    let answer = service.post("/v1/track", track("u1", "m4")).await;
    assert_not_now(&answer, 429);
    assert_eq!(answer.body["success"], false);
    assert_not_now(&to_destination(&service, track("u1", "m4")).await, 503);
    let line = format!("{}\n", track("u1", "m4"));
    let ran =
        bounded(nowhere()).command_on(service.data(), &["import", "-"], line.as_bytes()).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("raise store.backlog_messages_max"), "{ran:?}");
    // Once the backlog has room again, messages are accepted.
    let mut loops = ScriptedLoops::willing().await;
    let service = service.stop_and_restart(&bounded(Setup::with_loops(&loops.base_url))).await;
    assert_eq!(loops.notes(3).await, ["m1", "m2", "m3"]);
    let began = std::time::Instant::now();
    while service.post("/v1/track", track("u1", "m4")).await.status != 200 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(loops.next().await.note(), "m4");
}

/// Limits the size of the files that a process may write. Writes beyond the limit fail as with a full disk.
#[cfg(target_os = "linux")]
pub(crate) fn limit_files(service: &Service, bytes: &str) {
    limit(service.id(), bytes);
}

#[cfg(target_os = "linux")]
fn limit(process: u32, bytes: &str) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &process.to_string(), &format!("--fsize={bytes}:")]);
    assert!(command.status().unwrap().success());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_loses_nothing_and_needs_no_restart() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    service.accept("/v1/identify", identify("u1", "first")).await;
    limit_files(&service, "400000");
    let mut accepted = 0;
    let answer = loop {
        let answer = service.post("/v1/track", large(accepted)).await;
        if answer.status != 200 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 1_000);
    };
    assert_not_now(&answer, 429);
    assert_not_now(&to_destination(&service, large(accepted + 1)).await, 503);
    let told = service.logged(|line| line["message"] == "could not write to the database").await;
    assert!(told["advice"].as_str().unwrap().contains("full"), "{told}");
    // The disk has room again.
    limit_files(&service, "unlimited");
    loops.now(|_| Reply::ok());
    let began = std::time::Instant::now();
    while service.post("/v1/track", large(accepted)).await.status != 200 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    service.logged(|line| line["message"] == "the database can be written again").await;
    for n in 0..=accepted {
        service.message(&format!("m{n}"), |found| found["state"] == "delivered").await;
    }
    service.message("first", |found| found["state"] == "delivered").await;
    // The refused message was not stored.
    let refused = format!("/api/messages/m{}", accepted + 1);
    assert_eq!(service.admin(&refused).await.status, 404);
    drop(loops.rest());
}

/// Sends messages of 20,000 bytes until one is refused, and returns the number of accepted messages.
#[cfg(target_os = "linux")]
async fn fill(service: &Service) -> usize {
    for n in 0..1_000 {
        if service.post("/v1/track", large(n)).await.status != 200 {
            return n;
        }
    }
    panic!("the disk does not get full");
}

/// Waits until `/readyz` says that the service is not ready, and returns the message.
async fn not_ready(service: &Service) -> String {
    let answer = ready_once(service, 503).await;
    assert_eq!(answer.body["code"], "not_ready", "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    answer.body["message"].as_str().unwrap().to_owned()
}

async fn ready_once(service: &Service, status: u16) -> Answer {
    let began = std::time::Instant::now();
    loop {
        let answer = service.admin("/readyz").await;
        if answer.status == status {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_service_that_cannot_write_is_not_ready_and_says_why_until_it_can() {
    let service = nowhere().start();
    service.accept("/v1/track", track("u0", "before")).await;
    assert_eq!(service.admin("/readyz").await.status, 200);
    limit_files(&service, "1");
    assert_eq!(fill(&service).await, 0);
    let message = not_ready(&service).await;
    assert!(message.contains("full") && message.contains("by itself"), "{message}");
    service.logged(|line| line["level"] == "ERROR" && is_told(line)).await;
    // The program tests the disk itself, because no message arrives in the meantime.
    limit_files(&service, "unlimited");
    ready_once(&service, 200).await;
    service.accept("/v1/track", track("u0", "after")).await;
}

fn is_told(line: &Value) -> bool {
    line["message"] == "the store does not work: senders are asked to retry"
}

/// The number of files that a process has open.
#[cfg(target_os = "linux")]
fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_a_file_descriptor_left_messages_are_still_acknowledged_and_the_program_goes_on() {
    const FILES_MAX: usize = 128;
    let service = nowhere().start();
    // This connection stays open for the requests below.
    service.accept("/v1/track", track("u1", "before")).await;
    let mut command = Command::new("prlimit");
    command.args(["--pid", &service.id().to_string(), &format!("--nofile={FILES_MAX}:")]);
    assert!(command.status().unwrap().success());
    let address = service.base_url.strip_prefix("http://").unwrap();
    let idle: Vec<_> =
        (0..FILES_MAX).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let began = std::time::Instant::now();
    while open_files(service.id()) < FILES_MAX {
        assert!(began.elapsed() < PATIENCE, "{} files", open_files(service.id()));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for n in 0..20 {
        service.accept("/v1/track", track("u1", &format!("during{n}"))).await;
    }
    assert!(open_files(service.id()) >= FILES_MAX, "{} files", open_files(service.id()));
    drop(idle);
    service.accept("/v1/track", track("u1", "after")).await;
    assert_eq!(service.stored().await.len(), 22);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_limit_of_open_files_is_raised_and_one_that_is_too_low_is_logged() {
    let is_low = |line: &Value| {
        line["message"].as_str().is_some_and(|text| text.contains("the limit of open files"))
    };
    for (limit, expected) in [("256:4096", None), ("256:1024", Some(1_024))] {
        let service = nowhere().through(&["prlimit", &format!("--nofile={limit}")]).start();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", service.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
        assert_eq!(numbers[0], numbers[1], "{line}");
        let log = service.log();
        let low = log.iter().find(|line| is_low(line));
        assert_eq!(low.map(|line| line["limit"].as_u64().unwrap()), expected, "{low:?}");
    }
}

#[tokio::test]
async fn a_deleted_database_is_reported_and_nothing_is_acknowledged_until_it_is_back() {
    let loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("u1", "before")).await;
    let (file, elsewhere) = (service.data().join(DATABASE), service.data().join("elsewhere"));
    std::fs::rename(&file, &elsewhere).unwrap();
    let message = not_ready(&service).await;
    assert!(message.contains("deleted") && message.contains("restart"), "{message}");
    let line = service.logged(|line| line["level"] == "ERROR" && is_told(line)).await;
    let error = line["error"].as_str().unwrap();
    assert!(
        error.contains("deleted") && error.contains("restart"),
        "the cause and what to do: {line}"
    );
    assert_not_now(&service.post("/v1/track", track("u1", "gone")).await, 429);
    assert_not_now(&to_destination(&service, track("u1", "gone")).await, 503);
    // A different file at the same path does not count as the database.
    std::fs::copy(&elsewhere, &file).unwrap();
    assert!(not_ready(&service).await.contains("replaced"));
    assert_not_now(&service.post("/v1/track", track("u1", "gone")).await, 429);
    std::fs::rename(&elsewhere, &file).unwrap();
    ready_once(&service, 200).await;
    service.accept("/v1/track", track("u1", "after")).await;
    // The messages that were accepted before and after are stored and delivered.
    loops.now(|_| Reply::ok());
    service.message("before", |found| found["state"] == "delivered").await;
    service.message("after", |found| found["state"] == "delivered").await;
    assert_eq!(service.admin("/api/messages/gone").await.status, 404);
}

#[tokio::test]
async fn a_log_that_is_removed_under_the_program_costs_no_message_and_no_restart() {
    for removed in [vec!["-wal"], vec!["-shm"], vec!["-wal", "-shm"]] {
        let setup = nowhere();
        let service = setup.start();
        for n in 0..10 {
            service.accept("/v1/track", track("u1", &format!("before{n}"))).await;
        }
        for suffix in &removed {
            std::fs::remove_file(service.data().join(format!("{DATABASE}{suffix}"))).unwrap();
        }
        let began = std::time::Instant::now();
        while service.post("/v1/track", track("u1", "after")).await.status != 200 {
            assert!(began.elapsed() < PATIENCE);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        service.logged(|line| line["message"] == "the database is safe again").await;
        ready_once(&service, 200).await;
        // Another message, and the process is killed right after its response.
        service.accept("/v1/track", track("u1", "last")).await;
        let service = service.crash_and_restart(&setup);
        let stored = service.stored().await;
        assert_eq!(stored.len(), 12, "{removed:?}: {stored:?}");
    }
}

#[tokio::test]
async fn a_log_that_is_cut_under_the_program_ends_it_and_is_reported() {
    let mut service = nowhere().start();
    for n in 0..10 {
        service.accept("/v1/track", track("u1", &format!("m{n}"))).await;
    }
    let log = service.data().join(format!("{DATABASE}-wal"));
    std::fs::OpenOptions::new().write(true).open(log).unwrap().set_len(0).unwrap();
    let request = service.request(Method::POST, "/v1/track").basic_auth(WRITE_KEY, Some(""));
    // The program may already have noticed, and closed the connection.
    if let Ok(response) = request.body(track("u1", "after").to_string()).send().await {
        assert_ne!(response.status(), 200);
    }
    let line = service.logged(|line| line["message"] == "cannot go on: stopping").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("cut") && error.contains("Start the program again"), "{line}");
    assert_eq!(service.wait().await, Some(1));
    let service = nowhere().data(service.data()).start();
    service.accept("/v1/track", track("u1", "after")).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_index_of_the_log_that_is_cut_kills_the_program_and_costs_no_message() {
    let mut service = nowhere().start();
    for n in 0..10 {
        service.accept("/v1/track", track("u1", &format!("m{n}"))).await;
    }
    let index = service.data().join(format!("{DATABASE}-shm"));
    std::fs::OpenOptions::new().write(true).open(index).unwrap().set_len(0).unwrap();
    let request = service.request(Method::POST, "/v1/track").basic_auth(WRITE_KEY, Some(""));
    let answer = request.body(track("u1", "after").to_string()).send().await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(service.wait().await, None, "by a signal, without an exit code");
    let service = nowhere().data(service.data()).start();
    service.accept("/v1/track", track("u1", "after")).await;
    assert_eq!(service.stored().await.len(), 11);
}

#[tokio::test]
async fn what_was_accepted_before_the_database_was_deleted_still_goes_out() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let service = Setup::with_loops(&loops.base_url).start();
    let batch: Vec<_> = (0..20).map(|n| track("u1", &format!("m{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": &batch})).await;
    for name in ["", "-wal", "-shm"] {
        std::fs::remove_file(service.data().join(format!("{DATABASE}{name}"))).unwrap();
    }
    not_ready(&service).await;
    loops.rest();
    loops.now(|_| Reply::ok());
    let mut notes = BTreeSet::new();
    while notes.len() < batch.len() {
        notes.insert(loops.next().await.note());
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_outcome_that_cannot_be_recorded_is_kept_until_it_can_and_nothing_is_sent_twice() {
    let answer = Arc::new(Notify::new());
    let said = Arc::clone(&answer);
    let script = move |seen: &Seen| match seen.note().as_str() {
        "first" => Reply::OkAfter(Arc::clone(&said)),
        _ => Reply::status(503),
    };
    let mut loops = ScriptedLoops::start(script).await;
    // The lease cannot be renewed either, and expires. Because no other process takes it, it still belongs to this one.
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("first", "first")).await;
    assert_eq!(loops.next().await.note(), "first");
    limit_files(&service, "1");
    assert_eq!(fill(&service).await, 0);
    // Loops has accepted the event, and there is no space to record that.
    answer.notify_one();
    let failed = |line: &Value| line["message"] == "an outcome cannot be recorded; trying again";
    let began = std::time::Instant::now();
    while service.log().iter().filter(|line| failed(line)).count() < 4 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    limit_files(&service, "unlimited");
    let message = service.message("first", |found| found["state"] == "delivered").await;
    let attempts = &message["deliveries"][0]["request"]["attempts"];
    assert_eq!(attempts.as_array().unwrap().len(), 1, "{message}");
    assert!(loops.rest().iter().all(|seen| seen.note() != "first"));
}

#[tokio::test]
async fn a_damaged_database_is_reported_at_start() {
    let mut service = nowhere().start();
    for n in 0..50 {
        service.accept("/v1/track", track("u1", &format!("m{n}"))).await;
    }
    assert_eq!(service.stop().await, Some(0));
    garble(&service.data().join(DATABASE), 1);
    let (code, text) = nowhere().data(service.data()).run_to_end();
    assert_eq!(code, Some(1), "{text}");
    for part in [DATABASE, "is damaged", "restore it from a backup"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn damage_found_later_is_reported_and_senders_are_told_to_retry() {
    let mut service = nowhere().start();
    let batch: Vec<_> = (0..200).map(|n| track("u1", &format!("m{n}"))).collect();
    service.accept("/v1/batch", json!({"batch": batch})).await;
    assert_eq!(service.stop().await, Some(0));
    garble_payloads(&service);
    let service = nowhere().data(service.data()).start();
    assert_not_now(&service.post("/v1/track", track("u1", "more")).await, 429);
    assert_not_now(&to_destination(&service, track("u1", "more")).await, 503);
    // Either the writer or the delivery reads a damaged page first, and each logs that in its own way.
    let told = service.logged(is_told).await;
    assert!(told["error"].as_str().unwrap().contains("restore the file from a backup"), "{told}");
    assert!(not_ready(&service).await.contains("restore the file from a backup"));
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let mut service = nowhere().start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.alter("PRAGMA user_version = 9999").await;
    assert_eq!(service.stop().await, Some(0));
    let before = std::fs::read(service.data().join(DATABASE)).unwrap();
    let (code, text) = nowhere().data(service.data()).run_to_end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("newer version of this program"), "{text}");
    let ran = nowhere().command_on(service.data(), &["replay", "--all-failed"], b"").await;
    assert!(ran.code == Some(1) && ran.stderr.contains("newer"), "{ran:?}");
    assert_eq!(std::fs::read(service.data().join(DATABASE)).unwrap(), before);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_import_that_waits_for_room_says_so_at_once_and_goes_on_by_itself() {
    let service = nowhere().start();
    service.accept("/v1/track", track("u0", "before")).await;
    let folder = tempfile::tempdir().unwrap();
    let import = nowhere().other_command(folder.path(), service.data(), &["import", "-"]);
    let mut limited = Command::new("prlimit");
    limited.args(["--fsize=400000:"]).arg(import.get_program()).args(import.get_args());
    limited.env_clear().envs(import.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut import = limited.current_dir(folder.path()).spawn().unwrap();
    let lines: String = (0..100).map(|n| format!("{}\n", large(n))).collect();
    import.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let mut said = BufReader::new(import.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waiting = said.find(|line| line.starts_with("waiting for the database")).unwrap();
    assert!(waiting.contains("full"), "{waiting}");
    limit(import.id(), "unlimited");
    let ended = import.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stdout).contains("accepted: 100"), "{ended:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_database_on_a_read_only_disk_is_refused_at_the_start() {
    let mut service = nowhere().start();
    service.accept("/v1/track", track("u1", "m1")).await;
    service.crash();
    let refused = || {
        let folder = tempfile::tempdir().unwrap();
        let serve = nowhere().other_command(folder.path(), service.data(), &["serve"]);
        // The program runs in a separate mount namespace, where root cannot write either.
        let mut mounted = Command::new("unshare");
        mounted.args(["--map-root-user", "--mount", "sh", "-c"]);
        mounted.arg(r#"mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@""#);
        mounted.arg(service.data()).arg(serve.get_program()).args(serve.get_args());
        mounted.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ended = mounted.output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{text}");
        assert!(text.contains(DATABASE) && text.contains("mounted writable"), "{text}");
    };
    refused();
    // A clean stop leaves no log, and a new log cannot be created.
    let mut again = nowhere().data(service.data()).start();
    assert_eq!(again.stop().await, Some(0));
    refused();
}

#[cfg(unix)]
#[tokio::test]
async fn a_data_folder_that_others_can_look_into_is_left_as_it_is_with_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let is_told = |line: &&Value| line["message"].as_str().unwrap().contains("chmod o-rwx");
    // A group may share the folder.
    for (mode, is_open) in [(0o755, true), (0o777, true), (0o2770, false), (0o750, false)] {
        let data = tempfile::tempdir().unwrap();
        std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let service = nowhere().data(data.path()).start();
        let log = service.log();
        let told = log.iter().find(is_told);
        assert_eq!(told.is_some(), is_open, "{mode:o}: {told:?}");
        if let Some(told) = told {
            assert_eq!(told["level"], "WARN", "{told}");
            assert_eq!(told["mode"], format!("{mode:04o}"), "{told}");
            assert_eq!(told["folder"], data.path().to_str().unwrap(), "{told}");
        }
        let kept = std::fs::metadata(data.path()).unwrap().permissions().mode() & 0o7777;
        assert_eq!(kept, mode);
    }
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_created_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, text) = nowhere().data(&file.join("data")).run_to_end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--data") && text.contains("cannot be created"), "{text}");
}
