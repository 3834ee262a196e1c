//! `import` accepts all messages of a file, in order and once, and reports the lines that it cannot accept.

use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::support::{EMAIL_DOMAIN, Ran, ScriptedLoops, Setup, identify, track};

/// A setup without a reachable Loops, so that accepted messages stay pending.
fn nowhere() -> Setup {
    Setup::with_loops("http://127.0.0.1:9/api/v1")
}

fn lines(messages: impl IntoIterator<Item = Value>) -> String {
    messages.into_iter().map(|message| format!("{message}\n")).collect()
}

async fn import(setup: &Setup, data: &Path, text: &[u8]) -> Ran {
    setup.command_on(data, &["import", "-"], text).await
}

/// The counts of a report: accepted, duplicates, rejected.
fn counts(ran: &Ran) -> [u64; 3] {
    ["accepted: ", "duplicates: ", "rejected: "].map(|name| {
        let line = ran.stdout.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{ran:?}")).parse().unwrap()
    })
}

#[tokio::test]
async fn a_file_is_delivered_in_order_by_the_next_serve() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let data = tempfile::tempdir().unwrap();
    let text = lines((0..2_500).map(|n| track("u1", &format!("m{n}"))));
    let ran = import(&setup, data.path(), text.as_bytes()).await;
    assert_eq!((ran.code, counts(&ran)), (Some(0), [2_500, 0, 0]), "{ran:?}");
    let service = setup.data(data.path()).start();
    let expected: Vec<String> = (0..20).map(|n| format!("m{n}")).collect();
    assert_eq!(loops.notes(20).await, expected);
    drop(service);
}

#[tokio::test]
async fn a_running_service_delivers_what_is_imported_beside_it() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    service.accept("/v1/track", track("u1", "live")).await;
    assert_eq!(loops.next().await.note(), "live");
    let text = lines([identify("u2", "m1"), track("u2", "m2")]);
    let ran = import(&setup, service.data(), text.as_bytes()).await;
    assert_eq!((ran.code, counts(&ran)), (Some(0), [2, 0, 0]), "{ran:?}");
    assert_eq!(loops.notes(2).await, ["m1", "m2"]);
    service.message("m2", |found| found["state"] == "delivered").await;
    // The service recognizes the imported messages as duplicates.
    service.accept("/v1/track", track("u2", "m2")).await;
    service.accept("/v1/track", track("u2", "last")).await;
    assert_eq!(loops.next().await.note(), "last");
}

#[tokio::test]
async fn a_second_run_of_the_same_file_stores_nothing_also_without_message_ids() {
    let setup = nowhere();
    let data = tempfile::tempdir().unwrap();
    let anonymous = |n: u32| json!({"type": "track", "userId": "u1", "event": format!("E{n}")});
    // The first two lines are equal, but two messages.
    let mut all = vec![anonymous(0), anonymous(0), track("u1", "m1"), track("u1", "m1")];
    all.extend((1..50).map(anonymous));
    let first = import(&setup, data.path(), lines(all.clone()).as_bytes()).await;
    assert_eq!((first.code, counts(&first)), (Some(0), [52, 1, 0]), "{first:?}");
    let second = import(&setup, data.path(), lines(all.clone()).as_bytes()).await;
    assert_eq!((second.code, counts(&second)), (Some(0), [0, 53, 0]), "{second:?}");
    // After an interruption, new lines are accepted and existing ones are not.
    all.push(anonymous(99));
    let third = import(&setup, data.path(), lines(all).as_bytes()).await;
    assert_eq!(counts(&third), [1, 53, 0], "{third:?}");
}

#[tokio::test]
async fn an_import_killed_half_way_is_run_again_and_stores_nothing_twice() {
    let setup = nowhere();
    let service = setup.start();
    let messages =
        |last: usize| lines((0..last).map(|n| track(&format!("u{n}"), &format!("m{n}"))));
    let folder = tempfile::tempdir().unwrap();
    let mut command = setup.other_command(folder.path(), service.data(), &["import", "-"]);
    command.stdin(std::process::Stdio::piped());
    let mut process = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    // The first thousand messages are stored while the command waits for more.
    stdin.write_all(messages(1_500).as_bytes()).unwrap();
    service.message("m999", |found| found["state"] == "pending").await;
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(service.admin("/api/messages/m1000").await.status, 404);
    let ran = import(&setup, service.data(), messages(2_000).as_bytes()).await;
    assert_eq!((ran.code, counts(&ran)), (Some(0), [1_000, 1_000, 0]), "{ran:?}");
    let stored = service.stored().await;
    assert!(stored.len() == 2_000 && stored.values().all(|copies| copies.len() == 1));
}

#[tokio::test]
async fn gzip_is_told_by_its_content_and_several_files_are_taken_in_turn() {
    let setup = nowhere();
    let folder = tempfile::tempdir().unwrap();
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let file = |name: &str, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let first = file("first.json", gzip(&lines([track("u1", "m1")])));
    let second = file("second.gz", lines([track("u1", "m2")]).into_bytes());
    let mut broken = gzip(&lines((0..100).map(|n| track("u1", &format!("b{n}")))));
    broken.truncate(broken.len() - 6);
    let broken = file("broken.gz", broken);
    let data = folder.path().join("data");
    let ran = setup.command_on(&data, &["import", &first, &second], b"").await;
    assert_eq!((ran.code, counts(&ran)), (Some(0), [2, 0, 0]), "{ran:?}");
    // Equal lines at the same place of two files are two messages.
    let daily = json!({"type": "track", "userId": "u1", "event": "Daily"});
    let days = ["monday.json", "tuesday.json"].map(|day| file(day, lines([daily.clone()]).into()));
    let ran = setup.command_on(&data, &["import", &days[0], &days[1]], b"").await;
    assert_eq!((ran.code, counts(&ran)), (Some(0), [2, 0, 0]), "{ran:?}");
    let packed = file("monday.json.gz", gzip(&lines([daily])));
    let ran = setup.command_on(&data, &["import", &packed], b"").await;
    assert_eq!(counts(&ran), [0, 1, 0], "{ran:?}");
    // The lines before the damage are stored, and the damage is reported.
    let ran = setup.command_on(&data, &["import", &broken], b"").await;
    assert_eq!((ran.code, counts(&ran)), (Some(1), [100, 0, 0]), "{ran:?}");
    assert!(ran.stderr.contains("broken.gz cannot be read after line 100"), "{ran:?}");
    let ran = setup.command_on(&data, &["import", &first, "/nowhere/at-all"], b"").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("/nowhere/at-all cannot be read"), "{ran:?}");
}

#[tokio::test]
async fn a_bad_line_costs_itself_alone_and_is_named() {
    let setup = nowhere().env("SEGMENT_LOOPS__SERVER__MESSAGE_BYTES_MAX", "2000");
    let data = tempfile::tempdir().unwrap();
    let report = data.path().join("rejected.jsonl");
    let long = |length: usize, id: &str| {
        let empty = track("u1", id).to_string();
        empty.replace("Tested", &format!("Tested{}", "x".repeat(length - empty.len())))
    };
    let mut text = Vec::new();
    let mut line = |bytes: &[u8]| {
        text.extend_from_slice(bytes);
        text.push(b'\n');
    };
    line(track("u1", "good1").to_string().as_bytes()); // 1
    line(b"not json at all"); // 2
    line(b""); // 3: blank lines are passed over, and count
    line(b"[1, 2]"); // 4
    line(br#"{"type": "track", "event": "E"}"#); // 5
    line(br#"{"type": "trick", "userId": "u1"}"#); // 6
    line(format!(r#"{{"userId": "who@{EMAIL_DOMAIN}"}}"#).as_bytes()); // 7
    line(format!(r#"{{"x": {}"#, "[".repeat(900)).as_bytes()); // 8
    line(long(2_000, "good2").as_bytes()); // 9
    line(long(2_001, "bad").as_bytes()); // 10
    line(&[b'x'; 300_000]); // 11
    line(b"\xff\xfe\x00{"); // 12
    line(b"{\"type\":\"track\",\"userId\":\"u1\",\"messageId\":\"good3\",\"event\":\"\xff\"}"); // 13
    line(format!("  {} \r", track("u1", "good4")).as_bytes()); // 14
    text.extend_from_slice(track("u1", "good5").to_string().as_bytes()); // 15: no end of line
    let arguments = ["import", "-", "--report", report.to_str().unwrap()];
    let ran = setup.command_on(data.path(), &arguments, &text).await;
    assert_eq!((ran.code, counts(&ran)), (Some(4), [5, 0, 9]), "{ran:?}");
    let expected = [
        (2, "bad_json"),
        (4, "not_an_object"),
        (5, "nobody"),
        (6, "unknown_type"),
        (7, "no_type"),
        (8, "bad_json"),
        (10, "too_large"),
        (11, "too_large"),
        (12, "bad_json"),
    ];
    let reported = std::fs::read_to_string(&report).unwrap();
    assert!(!reported.contains(EMAIL_DOMAIN));
    let reported: Vec<Value> =
        reported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<(u64, &str)> = reported
        .iter()
        .map(|line| (line["line"].as_u64().unwrap(), line["code"].as_str().unwrap()))
        .collect();
    assert_eq!(found, expected);
    for (number, code) in expected {
        assert!(ran.stdout.contains(&format!("-:{number}: {code}: ")), "{ran:?}");
    }
    // After the lines were corrected in place, the others count as duplicates.
    let mended = String::from_utf8_lossy(&text).replace("trick", "track");
    let ran = setup.command_on(data.path(), &["import", "-"], mended.as_bytes()).await;
    assert_eq!(counts(&ran), [1, 5, 8], "{ran:?}");
}

#[tokio::test]
async fn only_the_first_refusals_are_shown() {
    let data = tempfile::tempdir().unwrap();
    let ran = import(&nowhere(), data.path(), "x\n".repeat(1_000).as_bytes()).await;
    assert_eq!((ran.code, counts(&ran)), (Some(1), [0, 0, 1_000]), "{ran:?}");
    assert!(ran.stdout.lines().count() < 30, "{ran:?}");
    assert!(ran.stdout.contains("and 980 more: see --report FILE"), "{ran:?}");
}

#[tokio::test]
async fn with_several_sources_the_source_must_be_named() {
    let config = "[sources.other]\nwrite_keys = [\"other-key\"]\n";
    let setup = nowhere().config(config);
    let data = tempfile::tempdir().unwrap();
    let text = lines([track("u1", "m1")]);
    for (arguments, hint) in [
        (&["import", "-"][..], "--source, which must be one of default, other"),
        (&["import", "-", "--source", "nobody"][..], "there is no source `nobody`"),
    ] {
        let ran = setup.command_on(data.path(), arguments, text.as_bytes()).await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(hint), "{ran:?}");
    }
    for source in ["default", "other"] {
        let arguments = ["import", "-", "--source", source];
        let ran = setup.command_on(data.path(), &arguments, text.as_bytes()).await;
        assert_eq!((ran.code, counts(&ran)), (Some(0), [1, 0, 0]), "{ran:?}");
    }
}

#[tokio::test]
async fn the_times_of_an_export_stay_and_nothing_is_corrected_by_an_old_sending() {
    let setup = nowhere();
    let service = setup.start();
    let old = "2020-01-02T03:04:05.000Z";
    let exported = json!({
        "type": "track", "userId": "u1", "messageId": "exported", "event": "E",
        "timestamp": old, "sentAt": "2020-01-02T03:05:00.000Z", "receivedAt": "2020-01-02T03:05:01.000Z"
    });
    let kept = json!({
        "type": "track", "userId": "u1", "messageId": "kept", "event": "E",
        "timestamp": old, "sentAt": "2020-01-02T03:05:00.000Z"
    });
    let ran = import(&setup, service.data(), lines([exported, kept]).as_bytes()).await;
    assert_eq!(counts(&ran), [2, 0, 0], "{ran:?}");
    let stored = service.stored().await;
    for id in ["exported", "kept"] {
        assert_eq!(stored[id][0]["timestamp"], old, "{id}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_json_lines_is_refused_with_the_way_to_convert_it() {
    let data = tempfile::tempdir().unwrap();
    let pretty = serde_json::to_string_pretty(&json!([track("u1", "m1"), track("u2", "m2")]));
    let ran = import(&nowhere(), data.path(), pretty.unwrap().as_bytes()).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("not JSON Lines") && ran.stderr.contains("jq -c"), "{ran:?}");
    // The hint is not given for one bad line among good ones.
    let mixed = format!("{}[\n", lines([track("u1", "m1")]));
    let ran = import(&nowhere(), data.path(), mixed.as_bytes()).await;
    assert!(ran.code == Some(4) && !ran.stderr.contains("not JSON Lines"), "{ran:?}");
}
