//! `check` finds errors before they affect a message, and `preview` shows what would be sent for one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Answer, Reply, ScriptedLoops, Service, Setup, track};

/// A folder with files, in which the program is run.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, arguments: &[&str], input: &str) -> (bool, String) {
        self.run_with(arguments, &[], input)
    }

    fn run_with(&self, arguments: &[&str], env: &[(&str, &str)], input: &str) -> (bool, String) {
        let mut process = Command::new(env!("CARGO_BIN_EXE_segment-loops"))
            .args(arguments)
            .env_clear()
            .envs(env.iter().copied())
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that refuses its arguments does not read its input.
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains("panicked"), "{text}");
        (output.status.success(), text)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

const SIGN_UP: &str = r#"
[[subscriptions]]
name = "Sign-up"
action = "sendEvent"
events = ["User Registered", "Signed *"]
without = ["email"]
[subscriptions.mapping]
eventName = "userRegistered"
contactProperties = { plan = { "@path" = "$.properties.plan" } }
"#;

#[test]
fn several_errors_are_found_in_one_run_each_with_its_place() {
    let desk = Desk::new();
    desk.file("good.toml", SIGN_UP);
    desk.file(
        "bad.yaml",
        "- name: A\n  action: sendMail\n  trigger: x\n- name: B\n  action: sendEvent\n  trigger: 'type = \"track'\n  mapping: {email: {'@nope': 1}, userId: {'@path': 5}}\n- name: C\n  action: sendEvent\n  events: [x]\n  wihtout: [email]\n",
    );
    let (ok, text) = desk.run(
        &["check", "--offline", "--subscriptions", "good.toml", "--subscriptions", "bad.yaml"],
        "",
    );
    assert!(!ok, "{text}");
    for told in [
        "bad.yaml: subscription `A`: action: is not an action; allowed are createOrUpdateContact, sendEvent, deleteContact",
        "bad.yaml: subscription `B`: trigger: at character 8",
        "bad.yaml: subscription `B`: mapping: at `/email`: has an invalid directive: @nope; allowed are @path",
        "bad.yaml: subscription `B`: mapping: at `/userId/@path`: should be a string",
        "bad.yaml: subscription `C`: wihtout: unknown; allowed are name",
        "5 errors",
    ] {
        assert!(text.contains(told), "{told}\n---\n{text}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let desk = Desk::new();
    desk.file("broken.json", "[{\n\"name\": }]");
    desk.file("broken.toml", "[[subscriptions]\n");
    desk.file("broken.yaml", "a: [");
    desk.file("empty.json", "[]");
    desk.file("other.json", "{\"x\":1}");
    desk.file("file.txt", "");
    for (file, told) in [
        ("broken.json", "line 2"),
        ("broken.toml", "not TOML"),
        ("broken.yaml", "not YAML"),
        ("empty.json", "empty list"),
        ("other.json", "holds no subscriptions"),
        ("file.txt", "must end in .toml, .yaml, .yml or .json"),
        ("missing.json", "cannot be read"),
    ] {
        let (ok, text) = desk.run(&["check", "--offline", "--subscriptions", file], "");
        assert!(!ok && text.contains(told) && text.contains(file), "{file}: {text}");
    }
}

#[test]
fn hostile_mappings_and_triggers_are_refused_with_a_clear_error() {
    let desk = Desk::new();
    let subscription = |trigger: &str, mapping: &str| {
        format!(
            r#"[{{"name":"s","partnerAction":"sendEvent","subscribe":{},"mapping":{mapping}}}]"#,
            json!(trigger)
        )
    };
    let track = "type = \"track\"";
    let deep = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    let braces = format!(r#"{{"email":{{"@template":"{}"}}}}"#, "{".repeat(1_000_000));
    let path = format!(r#"{{"email":{{"@path":"{}"}}}}"#, "a.".repeat(100_000));
    let long_path = format!(r#"{{"email":{{"@path":"{}"}}}}"#, "a.".repeat(2_000));
    let many = format!(r#"{{"a":[{}0]}}"#, "0,".repeat(200_000));
    let trigger = format!("type = \"{}\"", "x".repeat(1_000_000));
    for (name, text, told) in [
        ("deep", subscription(track, &deep), "nested"),
        ("braces", subscription(track, &braces), "at most 65536"),
        ("path", subscription(track, &path), "at most 65536"),
        ("long path", subscription(track, &long_path), "2000 parts; at most 1000"),
        ("many", subscription(track, &many), "more than 100000 values"),
        ("trigger", subscription(&trigger, "{}"), "at most 65536"),
        ("groups", subscription(&"(".repeat(50_000), "{}"), "parenthesis"),
    ] {
        desk.file("hostile.json", &text);
        let (ok, said) = desk.run(&["check", "--offline", "--subscriptions", "hostile.json"], "");
        assert!(
            !ok && said.contains(told) && said.len() < 2_000,
            "{name}: {}",
            &said[..said.len().min(500)]
        );
    }
}

#[test]
fn what_a_subscription_does_unseen_is_warned_of() {
    let desk = Desk::new();
    desk.file(
        "s.toml",
        r#"
[[subscriptions]]
name = "Gone"
action = "deleteContact"
trigger = 'type = "track" and event = "Account Deleted"'
[[subscriptions]]
name = "Farewell"
action = "sendEvent"
trigger = 'type = "track" and properties.test != true'
[[subscriptions]]
name = "Paid"
action = "sendEvent"
events = ["Order: Paid"]
[[subscriptions]]
name = "Seen"
action = "createOrUpdateContact"
trigger = 'type = "page"'
mapping = { subscribed = { "@literal" = true }, mailingLists = [{ listId = "L1", subscribed = true }] }
[[subscriptions]]
name = "App"
action = "sendEvent"
events = ["Opened"]
mapping = { eventName = { "@template" = "app: {{event}}" } }
"#,
    );
    let (ok, text) = desk.run(&["check", "--offline", "--subscriptions", "s.toml"], "");
    assert!(ok, "warnings are no errors: {text}");
    for told in [
        "warning: subscription `Gone`, trigger: it deletes the contact, and `Farewell` may take the same track message",
        "warning: subscription `Farewell`, trigger: `properties.test != true` is true for every message",
        "warning: subscription `Paid`, events: Loops refuses event names with a colon (:), and `Order: Paid` is sent as it is",
        "warning: subscription `Seen`, mapping: a literal in `subscribed` and `mailingLists` subscribes the person again",
        "warning: subscription `App`, mapping: Loops refuses event names with a colon (:), and `app: ` can become the name, or a part of it",
    ] {
        assert!(text.contains(told), "{told}\n---\n{text}");
    }
}

#[test]
fn preview_warns_of_what_is_changed_and_of_what_loops_will_not_like() {
    let desk = Desk::new();
    let track = json!({
        "type": "track", "userId": "u", "event": "Order: Paid", "properties": {"coupon": null}
    });
    let identify = json!({"type": "identify", "userId": "u", "traits": {
        "email": " ada@example.com ", "createdAt": 1_705_310_000,
        "mailingLists": [{"listId": "a", "subscribed": true}, "b"]
    }});
    let cases = [
        (track, vec!["contains a colon (:)", "`coupon` was left out"]),
        (
            identify,
            vec!["white space around the address", "seconds since 1970", "entry 2 was left out"],
        ),
    ];
    for (message, expected) in cases {
        let (ok, text) = desk.run(&["preview"], &message.to_string());
        assert!(ok && expected.iter().all(|told| text.contains(told)), "{text}");
    }
}

#[test]
fn a_batch_given_to_preview_is_named_as_one() {
    let batch = json!({"batch": [{"type": "track", "userId": "u", "event": "E"}]});
    let (ok, text) = Desk::new().run(&["preview"], &batch.to_string());
    assert!(!ok && text.contains("this is a batch: preview takes one message"), "{text}");
}

#[test]
fn a_field_that_the_action_does_not_have_is_warned_of() {
    let desk = Desk::new();
    desk.file(
        "s.json",
        r#"{"data":{"subscriptions":[{"id":"1","name":"S","actionSlug":"sendEvent","enabled":true,"trigger":"type = \"track\"","settings":{"userId":{"@path":"$.userId"},"emial":{"@path":"$.x"}}}]}}"#,
    );
    let (ok, text) = desk.run(&["check", "--offline", "--subscriptions", "s.json"], "");
    assert!(
        ok && text.contains("`emial` is not a field of sendEvent")
            && text.contains("`eventName` is not filled"),
        "{text}"
    );
    assert!(text.contains("0 errors, 3 warnings"), "{text}");
}

#[tokio::test]
async fn an_online_check_tests_the_key_and_compares_names_with_the_team() {
    let loops =
        ScriptedLoops::start(|_| Reply::ok().with_body(r#"{"success":true,"teamName":"Acme"}"#))
            .await;
    loops.catalogue(|seen| {
        Reply::ok().with_body(match seen.path.as_str() {
            "/contacts/properties" => r#"[{"key":"plan","label":"Plan","type":"string"}]"#,
            "/lists" => {
                r#"[{"id":"list_1","name":"News"},{"id":"a","name":"Beta"},{"id":"b","name":"Beta"}]"#
            }
            _ => r#"{"data":[{"eventName":"Signed Up"}],"pagination":{"nextCursor":null}}"#,
        })
    });
    let desk = Desk::new();
    desk.file(
        "s.yaml",
        "- name: S\n  action: createOrUpdateContact\n  trigger: 'type = \"identify\"'\n  mapping:\n    customAttributes: {plan: x, paln: y}\n    mailingLists: {list_1: true, News: true}\n- name: E\n  action: sendEvent\n  events: [signed_up]\n",
    );
    let base_url = loops.base_url.clone();
    let check = async move |desk: Desk| {
        let base_url = base_url.clone();
        let run = move || {
            let env = [
                ("LOOPS_API_KEY", "k"),
                ("SEGMENT_WRITE_KEY", "w"),
                ("LOOPS_BASE_URL", &*base_url),
            ];
            let told = desk.run_with(&["check", "--subscriptions", "s.yaml"], &env, "");
            (desk, told)
        };
        // The scripted Loops continues in the meantime.
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let (desk, (ok, text)) = check(desk).await;
    assert!(ok && text.contains("Loops accepts the API key"), "{text}");
    assert!(text.contains("environment  ok\nloops        ok\n"), "{text}");
    for told in [
        "no contact property `paln` (did you mean `plan`?)",
        "no event `signed_up` yet (did you mean `Signed Up`?)",
        "0 errors, 3 warnings",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(!text.contains("`list_1`") && !text.contains("`News`"), "{text}");
    // A list that does not exist and a name that two lists share are errors.
    desk.file(
        "s.yaml",
        "- name: S\n  action: createOrUpdateContact\n  trigger: 'type = \"identify\"'\n  mapping:\n    mailingLists: {nwes: true, Beta: true, list_2: true}\n",
    );
    let (desk, (ok, text)) = check(desk).await;
    assert!(!ok, "{text}");
    for told in [
        "no mailing list `nwes` (did you mean `News`?)",
        "2 mailing lists at Loops are called `Beta`",
        "no mailing list `list_2`",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    loops.now(|_| Reply::status(401));
    let (_, (ok, text)) = check(desk).await;
    assert!(!ok && text.contains("Loops refuses the API key"), "{text}");
    assert!(text.contains("environment  ok\nloops        errors\n"), "{text}");
}

#[test]
fn a_check_without_keys_blames_the_environment_alone() {
    let desk = Desk::new();
    let (ok, text) = desk.run(&["check"], "");
    assert!(!ok && text.contains("parse        ok") && text.contains("compile      ok"), "{text}");
    assert!(text.contains("environment  errors") && text.contains("LOOPS_API_KEY"), "{text}");
    assert!(desk.run(&["check", "--offline"], "").0);
}

#[test]
fn cases_keep_mappings_under_test() {
    let desk = Desk::new();
    desk.file("s.toml", SIGN_UP);
    let case = |name: &str, event: &str, expect: Value| {
        json!({"name": name, "expect": expect, "message": {"type": "track", "userId": "u1", "event": event,
            "properties": {"plan": "pro"}}})
    };
    let request = json!({"method": "POST", "path": "/events/send", "body": {"eventName": "userRegistered",
        "userId": "u1", "eventProperties": {"plan": "pro"}, "plan": "pro"}});
    let good =
        [case("a", "Signed Up", json!({"requests": [request]})), case("b", "Other", json!({}))];
    desk.file("good.json", &json!(good).to_string());
    let arguments = ["check", "--offline", "--subscriptions", "s.toml", "--cases"];
    let (ok, text) = desk.run(&[&arguments[..], &["good.json"]].concat(), "");
    assert!(ok && text.contains("2 of 2 as expected"), "{text}");
    let bad = [
        case(
            "wrong body",
            "Signed Up",
            json!({"requests": [{"method": "POST", "path": "/events/send", "body": {}}]}),
        ),
        case("not expected", "Signed Up", json!({})),
        case("wrong key", "Other", json!({"request": []})),
        json!({"name": "no message", "expect": {}}),
    ];
    desk.file("bad.json", &json!({"cases": bad}).to_string());
    let (ok, text) = desk.run(&[&arguments[..], &["bad.json"]].concat(), "");
    assert!(!ok && text.contains("0 of 4 as expected") && text.contains("4 errors"), "{text}");
    for told in [
        "wrong body: requests differ",
        "not expected: requests differ",
        "`request` is unknown",
        "`message` is missing",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[test]
fn preview_shows_each_subscription_each_field_and_the_request() {
    let desk = Desk::new();
    desk.file("s.toml", SIGN_UP);
    let message = r#"{"type":"track","userId":"u1","event":"Signed Up","properties":{"plan":"pro","cart":{"n":1}}}"#;
    let (ok, text) = desk.run(&["preview", "--subscriptions", "s.toml"], message);
    assert!(ok, "{text}");
    for told in [
        "track message of u1",
        "Sign-up (sendEvent)",
        "userId             \"u1\"  <- $.userId",
        "eventName          \"userRegistered\"  <- the literal",
        "event properties: `cart` was left out",
        "POST /events/send",
        "1 request would be sent.",
    ] {
        assert!(text.contains(told), "{told}\n---\n{text}");
    }
    let file = desk.file("m.json", message);
    let (ok, text) = desk.run(&["preview", file.to_str().unwrap(), "--json"], "");
    let preview: Value = serde_json::from_str(&text).unwrap();
    assert!(ok);
    // The defaults apply.
    assert_eq!(preview["subscriptions"][0]["matched"], false);
    assert_eq!(
        preview["subscriptions"][0]["whyNot"],
        "type is \"track\", which is not the string \"identify\""
    );
    assert_eq!(preview["requests"][0]["body"]["eventName"], "Signed Up");
    for (input, told) in [
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        (r#"{"type":"nope"}"#, "would be rejected"),
    ] {
        let (ok, text) = desk.run(&["preview"], input);
        assert!(!ok && text.contains(told), "{text}");
    }
}

#[test]
fn preview_says_why_nothing_would_be_sent() {
    let desk = Desk::new();
    let reason = "no subscription's trigger matches this page message";
    let (ok, text) = desk.run(&["preview"], r#"{"type":"page","userId":"u1"}"#);
    assert!(ok && text.ends_with(&format!("No request would be sent: {reason}.\n")), "{text}");
    assert!(text.contains("skipped"), "{text}");

    let turned_off = r#"{"type":"track","userId":"u1","event":"E","integrations":{"All":false}}"#;
    let (ok, text) = desk.run(&["preview"], turned_off);
    assert!(
        ok && text
            .contains("Nothing would be sent: the message's integrations object turns Loops off"),
        "{text}"
    );
    assert!(!text.contains("/events/send"), "{text}");
    let (_, text) = desk.run(&["preview", "--json"], turned_off);
    let preview: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(preview["reason"], "integrations", "{preview}");
    assert!(preview["detail"].as_str().unwrap().contains("\"All\" is false"), "{preview}");
    assert_eq!(preview["requests"], json!([]), "{preview}");
}

#[tokio::test]
async fn the_api_previews_with_what_is_in_force_and_reloads_it() {
    let mut loops = ScriptedLoops::willing().await;
    let desk = Desk::new();
    let file = desk.file("s.toml", SIGN_UP);
    let setup =
        Setup::with_loops(&loops.base_url).env("LOOPS_SUBSCRIPTIONS", file.to_str().unwrap());
    let service = setup.start();
    let signed_up = |id: &str| {
        let mut message = track("u1", id);
        message["event"] = json!("Signed Up");
        message
    };
    let previewed = async || {
        let answer = post(&service, "/api/preview", &signed_up("p").to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["requests"][0]["body"]["eventName"].clone()
    };
    assert_eq!(previewed().await, "userRegistered");

    // A broken file changes nothing, and the response says so.
    desk.file("s.toml", "[[subscriptions]]\nname = 'x'\n");
    let answer = post(&service, "/api/reload", "").await;
    assert_eq!(answer.status, 422);
    assert!(answer.body["message"].is_string(), "{answer:?}");
    assert!(answer.body["problems"][0]["place"].as_str().unwrap().ends_with("s.toml"));
    assert_eq!(previewed().await, "userRegistered");

    // A corrected file takes effect for the next messages.
    desk.file("s.toml", &SIGN_UP.replace("userRegistered", "welcome"));
    let answer = post(&service, "/api/reload", "").await;
    assert_eq!(answer.body["subscriptions"]["default"], 1, "{answer:?}");
    assert_eq!(previewed().await, "welcome");
    service.accept("/v1/track", signed_up("m1")).await;
    assert_eq!(loops.next().await.body["eventName"], "welcome");

    // A reload by signal does the same.
    desk.file("s.toml", &SIGN_UP.replace("userRegistered", "hello"));
    service.signal("HUP");
    let is_reloaded = |line: &Value| line["message"] == "configuration reloaded";
    while service.log().iter().filter(|line| is_reloaded(line)).count() < 2 {
        service.logged(is_reloaded).await;
        tokio::task::yield_now().await;
    }
    service.accept("/v1/track", signed_up("m2")).await;
    assert_eq!(loops.next().await.body["eventName"], "hello");
}

#[tokio::test]
async fn preview_and_reload_require_the_admin_token() {
    let service = Setup::with_loops("http://127.0.0.1:9/api/v1").start();
    for path in ["/api/preview", "/api/reload"] {
        let answer = Service::answer(service.request(reqwest::Method::POST, path)).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.body["message"].is_string());
    }
    for (body, told) in [("{", "not JSON"), ("[]", "JSON object"), ("{\"type\":\"x\"}", "rejected")]
    {
        let answer = post(&service, "/api/preview", body).await;
        assert_eq!(answer.status, 400);
        assert!(answer.body["message"].as_str().unwrap().contains(told), "{answer:?}");
    }
}

/// POST with the admin token.
async fn post(service: &Service, path: &str, body: &str) -> Answer {
    let request = service.request(reqwest::Method::POST, path).bearer_auth(ADMIN_TOKEN);
    Service::answer(request.body(body.to_owned())).await
}
