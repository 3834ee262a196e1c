//! The SDKs for servers: Segment's and RudderStack's, for Node and Python.

use serde_json::{Value, json};

use crate::calls::{assert_arrived_once, round};
use crate::front::Front;
use crate::room::{fill, with_little_room};
use crate::script::Script;
use crate::support::{ScriptedLoops, Setup, WRITE_KEY};

/// Has a script with this SDK send a round of calls, until the SDK says that all were delivered.
async fn send(script: &mut Script, front: &Front, calls: &[Value]) {
    begin(script, front, WRITE_KEY, calls);
    assert_eq!(script.line().await, "sent");
}

fn begin(script: &mut Script, front: &Front, write_key: &str, calls: &[Value]) {
    script.tell(&json!({"host": front.base_url, "writeKey": write_key, "calls": calls}));
}

async fn every_call_arrives_once(mut script: Script) {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let front = Front::before(&service.base_url).await;
    let calls = round("u");
    send(&mut script, &front, &calls).await;
    script.end().await;
    assert_arrived_once(&calls, &service, &mut loops).await;
}

/// In the second round the SDK finds nobody at first; then the program takes what it sends, and is
/// killed before the SDK has the answer.
async fn a_restart_loses_and_doubles_nothing(mut script: Script) {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let service = setup.start();
    let front = Front::before(&service.base_url).await;
    let mut calls = round("first");
    send(&mut script, &front, &calls).await;
    let more = round("second");
    front.refuse(1);
    front.halt_at_next_answer();
    begin(&mut script, &front, WRITE_KEY, &more);
    front.halted().await;
    let service = service.crash_and_restart(&setup);
    front.lead_to(&service.base_url);
    assert_eq!(script.line().await, "sent");
    script.end().await;
    assert_eq!(front.to_refuse(), 0, "the SDK has found somebody at once");
    calls.extend(more);
    assert_arrived_once(&calls, &service, &mut loops).await;
}

async fn not_now_loses_nothing(mut script: Script) {
    let mut loops = ScriptedLoops::willing().await;
    let service = with_little_room(Setup::with_loops(&loops.base_url)).start();
    let front = Front::before(&service.base_url).await;
    front.hold_until_busy(fill(&service).await, 1);
    let calls = round("u");
    send(&mut script, &front, &calls).await;
    script.end().await;
    assert!(front.busy() > 0, "the SDK was never told to come again");
    assert_arrived_once(&calls, &service, &mut loops).await;
}

/// An unknown key, a batch that is too large, one that is none: told once, and not tried again.
async fn what_is_refused_is_not_repeated(script: impl Fn() -> Script) {
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1");
    let narrow = setup
        .clone()
        .env("SEGMENT_LOOPS__SERVER__BODY_BYTES_MAX", "100")
        .env("SEGMENT_LOOPS__SERVER__MESSAGE_BYTES_MAX", "100");
    let cases = [(&setup, "unknown", 401), (&narrow, WRITE_KEY, 413), (&setup, WRITE_KEY, 400)];
    for (setup, write_key, status) in cases {
        let service = setup.start();
        let front = Front::before(&service.base_url).await;
        if status == 400 {
            front.lead_astray();
        }
        let mut script = script();
        begin(&mut script, &front, write_key, &round("u")[..1]);
        script.give_up().await;
        assert_eq!(front.answers(), [status]);
        assert_eq!(front.requests(), ["POST /v1/batch"]);
    }
}

/// Another process keeps the database locked. What the SDK is told to send again is stored all the
/// same once it is unlocked, so that the last try is a repetition.
#[tokio::test]
async fn an_outage_of_several_tries_loses_and_doubles_nothing() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url)
        .env("SEGMENT_LOOPS__SERVER__ACK_TIMEOUT_MS", "300")
        .start();
    let front = Front::before(&service.base_url).await;
    front.hurry();
    let other = service.database();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    front.hold_until_busy(other, 6);
    let mut script = Script::node("server_sdk.js", &["@segment/analytics-node"]);
    let calls = round("u");
    send(&mut script, &front, &calls).await;
    script.end().await;
    assert!(front.busy() >= 6, "{:?}", front.answers());
    assert_arrived_once(&calls, &service, &mut loops).await;
}

/// The promises, each with an SDK.
macro_rules! promises {
    ($name:ident, $script:expr) => {
        mod $name {
            use crate::script::Script;

            #[tokio::test]
            async fn every_call_arrives_once() {
                super::every_call_arrives_once($script).await;
            }

            #[tokio::test]
            async fn a_restart_loses_and_doubles_nothing() {
                super::a_restart_loses_and_doubles_nothing($script).await;
            }

            #[tokio::test]
            async fn not_now_loses_nothing() {
                super::not_now_loses_nothing($script).await;
            }

            #[tokio::test]
            async fn what_is_refused_is_not_repeated() {
                super::what_is_refused_is_not_repeated(|| $script).await;
            }
        }
    };
}

promises!(segment_node, Script::node("server_sdk.js", &["@segment/analytics-node"]));
promises!(segment_node_legacy, Script::node("server_sdk.js", &["analytics-node"]));
promises!(rudder_node, Script::node("server_sdk.js", &["@rudderstack/rudder-sdk-node"]));
promises!(segment_python, Script::python("server_sdk.py", &["segment-analytics-python"]));
promises!(
    segment_python_gzip,
    Script::python("server_sdk.py", &["segment-analytics-python", "gzip"])
);
promises!(rudder_python, Script::python("server_sdk.py", &["rudder-sdk-python"]));

#[test]
fn the_documented_versions_are_the_tested_ones() {
    let documented = include_str!("../../docs/sources.md");
    let packages: Value = serde_json::from_str(include_str!("package.json")).unwrap();
    let of_node = packages["dependencies"].as_object().unwrap().iter();
    let of_node = of_node.map(|(name, version)| (name.as_str(), version.as_str().unwrap()));
    let of_python =
        include_str!("requirements.txt").lines().filter_map(|line| line.split_once("=="));
    let is_sdk = |name: &str| ["analytics", "rudder"].iter().any(|word| name.contains(word));
    let sdks: Vec<_> = of_node.chain(of_python).filter(|(name, _)| is_sdk(name)).collect();
    assert_eq!(sdks.len(), 6);
    for (name, version) in sdks {
        assert!(documented.contains(&format!("| `{name}` {version} ")), "{name} {version}");
    }
}
