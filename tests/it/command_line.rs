//! Commands other than `serve`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{PATIENCE, ScriptedLoops, Setup, signal};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
    command.env_clear();
    command
}

/// A running command. Its standard output is read until it has printed all its addresses.
struct Running {
    process: Child,
    text: String,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(arguments: &[&str], until: &str) -> Self {
        Self::start_logging(arguments, until, Stdio::null())
    }

    fn start_logging(arguments: &[&str], until: &str, log: Stdio) -> Self {
        Self::start_as(program().args(arguments).stderr(log), until)
    }

    fn start_as(command: &mut Command, until: &str) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut text = String::new();
        while !text.contains(until) {
            assert_ne!(stdout.read_line(&mut text).unwrap(), 0, "it ended: {text}");
        }
        Self { process, text, stdout }
    }

    /// The first address behind `before`.
    fn address(&self, before: &str) -> String {
        let (_, rest) = self.text.split_once(before).unwrap();
        let is_outside = |c: char| !c.is_ascii_digit() && c != '.' && c != ':';
        let length = rest.find(is_outside).unwrap_or(rest.len());
        rest[..length].trim_end_matches('.').to_owned()
    }

    fn interrupt(mut self) -> (Option<i32>, String) {
        signal(self.process.id(), "INT");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.process.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn get(url: &str) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(url).bearer_auth("dev").timeout(PATIENCE);
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn dev_shows_the_contact_and_the_event_and_says_what_it_did() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let running = Running::start_logging(
        &["dev", "--listen", "127.0.0.1:0", "--sandbox", "127.0.0.1:0"],
        "Ctrl-C stops it",
        log.reopen().unwrap().into(),
    );
    let service = running.address("listens at http://");
    let sandbox = running.address("simulated Loops at http://");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, readme) = include_str!("../../README.md").split_once("## First run").unwrap();
    let commands = readme.split("```").filter(|block| block.starts_with("sh\ncurl"));
    let commands: Vec<&str> = commands.flat_map(|block| block.split("\ncurl").skip(1)).collect();
    assert_eq!(commands.len(), 7);
    for command in commands {
        let command = words(command).replace("127.0.0.1:8080", &service);
        let command = command.replace("127.0.0.1:8090", &sandbox);
        assert!(words(&running.text).contains(&command), "not what README says: {command}");
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let identify = json!({"userId": "user_1", "messageId": "hello-1",
        "traits": {"email": "ada@example.com", "firstName": "Ada", "plan": "pro"}});
    let track = json!({"userId": "user_1", "messageId": "hello-2", "event": "Signed Up",
        "properties": {"plan": "pro"}});
    for (path, body) in [("identify", identify), ("track", track)] {
        let request =
            client.post(format!("http://{service}/v1/{path}")).basic_auth("dev", Some(""));
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({"success": true}));
    }
    let began = std::time::Instant::now();
    loop {
        let message = get(&format!("http://{service}/api/messages/hello-2")).await;
        if message["messages"][0]["state"] == "delivered" {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{message}");
    }
    let contacts = get(&format!("http://{sandbox}/api/v1/contacts/find?userId=user_1")).await;
    assert_eq!(contacts[0]["firstName"], "Ada");
    assert_eq!(contacts[0]["plan"], "pro");
    let events = get(&format!("http://{sandbox}/sandbox/events")).await;
    assert!(events.to_string().contains("Signed Up"), "{events}");
    // The sandbox reports the email by its webhooks.
    loop {
        let feedback = get(&format!("http://{service}/api/feedback?userId=user_1")).await;
        let events = feedback["events"].as_array().unwrap();
        let names: Vec<&str> = events.iter().map(|one| one["event"].as_str().unwrap()).collect();
        if names == ["email.delivered", "loop.email.sent", "contact.created"] {
            assert_eq!(events[1]["origin"]["name"], "On Signed Up");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{feedback}");
    }
    // Up to here, the log has no warnings.
    let so_far = std::fs::read_to_string(log.path()).unwrap();
    assert!(so_far.contains("INFO") && !so_far.contains("WARN"), "{so_far}");
    let unknown = json!({"userId": "user_2", "messageId": "hello-3", "event": "Signed Up",
        "properties": {"plan": "free"}});
    let request = client.post(format!("http://{service}/v1/track")).basic_auth("dev", Some(""));
    assert_eq!(request.body(unknown.to_string()).send().await.unwrap().status(), 200);
    loop {
        let message = get(&format!("http://{service}/api/messages/hello-3")).await;
        if message["messages"][0]["deliveries"][0]["reason"] == "refused" {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{message}");
    }
    let (code, rest) = running.interrupt();
    assert_eq!(code, Some(0));
    assert!(rest.contains("contacts: 1, events: 1; nothing is left undone"), "{rest}");
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn dev_takes_the_environment_but_leads_nowhere_else() {
    let mut elsewhere = ScriptedLoops::willing().await;
    let folder = tempfile::tempdir().unwrap();
    let (log, data) = (folder.path().join("log"), folder.path().join("production"));
    let mut command = program();
    command.args(["dev", "--sandbox", "127.0.0.1:0"]).stderr(std::fs::File::create(&log).unwrap());
    for (name, value) in [
        ("SEGMENT_LOOPS__SERVER__LISTEN", "127.0.0.1:0"),
        ("SEGMENT_LOOPS__LOG__FORMAT", "json"),
        ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__SKIP_UNCHANGED", "on"),
        // `dev` ignores the variables of settings that it sets itself.
        ("SEGMENT_LOOPS__STORE__DATA", data.to_str().unwrap()),
        ("SEGMENT_LOOPS__STORE__URL", "postgres://127.0.0.1:9/none"),
        ("DATABASE_URL", "postgres://127.0.0.1:9/none"),
        ("LOOPS_BASE_URL", &elsewhere.base_url),
        ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__BASE_URL", &elsewhere.base_url),
        ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__API_KEY_FILE", "/nowhere"),
        ("SEGMENT_WRITE_KEY_FILE", "/nowhere"),
        ("ADMIN_TOKEN", "another"),
        // It also ignores every destination other than the sandbox.
        ("SEGMENT_LOOPS__DESTINATIONS__OTHER__API_KEY", "other"),
        ("SEGMENT_LOOPS__DESTINATIONS__OTHER__BASE_URL", &elsewhere.base_url),
        ("SEGMENT_LOOPS__SOURCES__DEFAULT__DESTINATION", "default"),
        ("SEGMENT_LOOPS__SOURCES__OTHER__DESTINATION", "other"),
        ("SEGMENT_LOOPS__SOURCES__OTHER__WRITE_KEYS", "other"),
    ] {
        command.env(name, value);
    }
    let running = Running::start_as(&mut command, "Ctrl-C stops it");
    let service = running.address("listens at http://");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let began = std::time::Instant::now();
    for (key, id) in [("dev", "one"), ("dev", "two"), ("other", "three")] {
        let identify = json!({"userId": "user_1", "messageId": id,
            "traits": {"email": "ada@example.com", "plan": "pro"}});
        let url = format!("http://{service}/v1/identify");
        let request = client.post(url).basic_auth(key, Some("")).body(identify.to_string());
        assert_eq!(request.send().await.unwrap().status(), 200);
        let delivery = loop {
            let message = get(&format!("http://{service}/api/messages/{id}")).await;
            if message["messages"][0]["state"] == "delivered" {
                break message["messages"][0]["deliveries"][0].clone();
            }
            assert!(began.elapsed() < PATIENCE, "{message}");
        };
        assert_eq!(delivery["notNeeded"] == "unchanged", id == "two", "{id}: {delivery}");
    }
    assert!(elsewhere.rest().is_empty());
    assert!(!data.exists());
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.lines().all(|line| line.starts_with('{')), "{log}");
    assert_eq!(running.interrupt().0, Some(0));
}

#[test]
fn an_address_that_is_in_use_is_named_with_the_option_that_changes_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, option) in [
        (["dev", "--sandbox", &taken, "--listen", "127.0.0.1:0"], "--sandbox"),
        (["dev", "--listen", &taken, "--sandbox", "127.0.0.1:0"], "--listen"),
        (["sandbox", "--listen", &taken, "--rate-limit", "10"], "--listen"),
    ] {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(&taken) && text.contains(option), "{text}");
    }
}

#[test]
fn a_sandbox_that_cannot_send_webhooks_says_why() {
    for (arguments, expected) in [
        (&["--webhook", "http://127.0.0.1:9/"][..], "--webhook-secret"),
        (&["--webhook", "nowhere", "--webhook-secret", "whsec_ZGV2"], "URL"),
        (&["--webhook", "http://127.0.0.1:9/", "--webhook-secret", "canary!"], "whsec_"),
    ] {
        let listen = ["sandbox", "--listen", "127.0.0.1:0"];
        let output = program().args(listen).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{text}");
        assert!(text.contains(expected) && !text.contains("canary!"), "{text}");
    }
}

#[tokio::test]
async fn the_sandbox_runs_alone_with_faults() {
    let running = Running::start(
        &["sandbox", "--listen", "127.0.0.1:0", "--error-rate", "1", "--error-status", "503"],
        "Point the service at it",
    );
    let address = running.address("listens at http://");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/api/v1/api-key");
    assert_eq!(client.get(&url).bearer_auth("k").send().await.unwrap().status(), 503);
    let faults = client
        .put(format!("http://{address}/sandbox/faults"))
        .body(r#"{"error_rate": 0, "reset_before_rate": 1}"#);
    assert_eq!(
        faults.header("content-type", "application/json").send().await.unwrap().status(),
        200
    );
    assert!(
        client.get(&url).bearer_auth("k").send().await.is_err(),
        "the connection was not dropped"
    );
    let (code, _) = running.interrupt();
    assert_eq!(code, Some(0));
    let output = program().args(["sandbox", "--error-rate", "7"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn the_sandbox_says_which_rule_a_request_broke_and_no_value_of_it() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let running = Running::start_logging(
        &["sandbox", "--listen", "127.0.0.1:0", "--rate-limit", "1000"],
        "Point the service at it",
        log.reopen().unwrap().into(),
    );
    let address = running.address("listens at http://");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let canary = "canary-31d7";
    let email = format!("{canary}@example.com");
    // Method, path, body, and the text that the log must contain.
    let cases = [
        ("POST", "events/send", json!({"eventName": "E", "userId": canary}), "No contact has this"),
        ("PUT", "contacts/update", json!({"userId": canary}), "No contact has this"),
        (
            "POST",
            "events/send",
            json!({"eventName": format!("{canary}: a"), "email": email}),
            "must not contain a colon",
        ),
        (
            "POST",
            "events/send",
            json!({"eventName": "E", "email": email, "eventProperties": {"cart": [canary]}}),
            "`eventProperties.cart` must be",
        ),
        (
            "POST",
            "events/send",
            json!({"eventName": "E", "email": email, "note": canary.repeat(100)}),
            "`note` must be at most 500 characters",
        ),
        ("GET", &format!("contacts/find?email={email}&userId=u"), json!(null), "Only one of"),
    ];
    for (method, path, body, rule) in cases {
        let url = format!("http://{address}/api/v1/{path}");
        let request = client.request(method.parse().unwrap(), url).bearer_auth("k");
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{method} {path} {body}");
        let began = std::time::Instant::now();
        loop {
            let text = std::fs::read_to_string(log.path()).unwrap();
            if text
                .lines()
                .last()
                .is_some_and(|line| line.contains("refused") && line.contains(rule))
            {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "`{rule}` is not in the last line: {text}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert!(!text.contains(canary), "{text}");
}

#[tokio::test]
async fn healthcheck_tells_a_living_service_from_a_dead_one() {
    let loops = ScriptedLoops::willing().await;
    let mut service = Setup::with_loops(&loops.base_url).start();
    let address = service.base_url.trim_start_matches("http://").to_owned();
    let check = || program().args(["healthcheck", "--listen", &address]).output().unwrap();
    assert_eq!(check().status.code(), Some(0));
    service.stop().await;
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&address));
}

#[test]
fn an_unknown_command_is_refused_with_help() {
    let output = program().arg("serv").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("serve"));
}
