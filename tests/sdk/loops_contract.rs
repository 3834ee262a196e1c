//! Loops' contract, as Loops publishes it: an independent server that is made from that document takes
//! every request of ours, and Loops' own SDK gets from the sandbox what the document says.

use std::sync::Arc;

use segment_loops::clock::SystemClock;
use segment_loops::sandbox::{Faults, Sandbox, SandboxOptions};
use segment_loops::secret::Secret;
use serde_json::{Value, json};

use crate::script::Script;
use crate::support::{API_KEY, EMAIL_DOMAIN, Setup, serve_on_loopback};

/// The document as Loops publishes it.
const PUBLISHED: &str = include_str!("../contract/loops-openapi.yaml");

/// Where the document contradicts what Loops says elsewhere: what stands there, and what is right.
const CORRECTIONS: [(&str, &str); 3] = [
    // Its own answer 400 is for "`email` and `userId` are both provided".
    (
        "\n      required:\n      - email\n      - userId\n      examples:\n      - email: alex@company.com\n        userId: usr_7f8e9d0c1b2a\n    ContactDeleteResponse:",
        "\n    ContactDeleteResponse:",
    ),
    // "To reset a property, send null" (Loops' guide to contact properties).
    (
        "      additionalProperties:\n        oneOf:\n        - type: string\n        - type: number\n        - type: boolean\n",
        "      additionalProperties:\n        oneOf:\n        - type: string\n        - type: number\n        - type: boolean\n        - type: 'null'\n",
    ),
    // "Will be `null` for custom events", not the text.
    ("          - supabase\n          - 'null'\n", "          - supabase\n          - null\n"),
];

/// Prism on the document: refuses what it does not allow.
struct Prism {
    base_url: String,
    _script: Script,
    _document: tempfile::NamedTempFile,
}

impl Prism {
    /// Answers by itself, with the document's examples.
    async fn mock() -> Self {
        Self::start("mock", &[]).await
    }

    /// Lets requests through to `upstream`, and looks at its answers too.
    async fn before(upstream: &str) -> Self {
        Self::start("proxy", &[upstream]).await
    }

    async fn start(command: &str, more: &[&str]) -> Self {
        let mut text = PUBLISHED.to_owned();
        for (published, right) in CORRECTIONS {
            assert!(text.contains(published), "the document has changed: {published}");
            text = text.replace(published, right);
        }
        let document = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(document.path(), text).unwrap();
        let mut arguments = vec![command, "--errors", "--host", "127.0.0.1", "--port", "0"];
        arguments.push(document.path().to_str().unwrap());
        arguments.extend(more);
        let prism = "node_modules/@stoplight/prism-cli/dist/index.js";
        let mut script = Script::node(prism, &arguments);
        loop {
            let line = script.line().await;
            if let Some((_, address)) = line.split_once("Prism is listening on ") {
                let base_url = address.trim().to_owned();
                return Self { base_url, _script: script, _document: document };
            }
        }
    }
}

/// What customers put where Loops expects something else, or nothing.
fn odd_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(false),
        json!("true"),
        json!("FALSE"),
        json!(0),
        json!(-1.5),
        json!(1e300),
        json!(4_294_967_296_u64),
        json!(u64::MAX),
        json!(""),
        json!(" "),
        json!("text"),
        json!("é\u{2028}\u{1F600}\0"),
        json!("x".repeat(500)),
        json!("x".repeat(501)),
        json!("😀".repeat(400)),
        json!("y".repeat(20_000)),
        json!(format!("somebody@{EMAIL_DOMAIN}")),
        json!(format!("{}@{EMAIL_DOMAIN}", "l".repeat(300))),
        json!("no@address"),
        json!("2026-01-02"),
        json!("2026-01-02T03:04:05.678Z"),
        json!("2026-01-02T03:04:05+02:00"),
        json!("9999-99-99"),
        json!(1_767_323_045),
        json!(1_767_323_045_678_u64),
        json!([]),
        json!(["a", "b"]),
        json!([1, null, {"a": [true]}]),
        json!([{"id": "a", "name": "b"}]),
        json!({}),
        json!({"city": "Łódź", "geo": {"lat": 51.7, "tags": ["x"]}}),
        json!({"cm06f5v0e45nf0ml5754o9cix": true, "other": false, "third": "true", "fourth": 1}),
        json!({"": "", "a b": 1, "ключ": null, "__proto__": {"x": 1}, "email": 5}),
    ]
}

/// A message for each place that a value can stand in.
fn messages_with(value: &Value, number: usize) -> Vec<Value> {
    let user = format!("user-{number}");
    let mut messages = Vec::new();
    let traits = [
        "email",
        "userId",
        "id",
        "firstName",
        "lastName",
        "userGroup",
        "source",
        "createdAt",
        "subscribed",
        "mailingLists",
        "plan",
        "with space",
        "",
    ];
    for name in traits {
        messages
            .push(json!({"type": "identify", "userId": user, "traits": {name: value, "seats": 7}}));
        let properties = json!({name: value, "amount": 12.5});
        messages.push(
            json!({"type": "track", "userId": user, "event": "Tested", "properties": properties}),
        );
    }
    for (place, kind) in [("traits", "identify"), ("properties", "track")] {
        messages.push(json!({"type": kind, "userId": user, "event": "Tested", place: value}));
    }
    for kind in ["identify", "track", "delete"] {
        messages
            .push(json!({"type": kind, "userId": value, "anonymousId": user, "event": "Tested"}));
        messages.push(
            json!({"type": kind, "userId": user, "event": "Tested", "context": {"traits": value}}),
        );
        messages.push(json!({"type": kind, "userId": user, "event": "Tested", "context": {"traits": {"email": value}}}));
        messages.push(json!({"type": kind, "userId": user, "event": value, "timestamp": value, "email": value}));
    }
    messages
}

/// What Segment's destination sends as well, and Loops cannot take: it is tried, and fails with Loops'
/// words. The fewer the better: nothing else may stand here.
fn may_be_refused(message: &Value) -> bool {
    let traits = [&message["traits"], &message["context"]["traits"]];
    let has = |name: &str, is_wrong: &dyn Fn(&Value) -> bool| {
        traits.iter().any(|traits| traits.get(name).is_some_and(is_wrong))
    };
    let is_identify = message["type"] == "identify";
    let no_text = ["email", "firstName", "lastName", "userGroup"]
        .iter()
        .any(|name| has(name, &Value::is_null));
    let long_id = message["userId"].as_str().is_some_and(|id| id.chars().count() > 500);
    is_identify && (no_text || long_id)
}

fn says_what_is_wrong(delivery: &Value) -> bool {
    // Of a person who was deleted behind it, Loops' words are erased.
    let told = |text: &str| text.is_empty() || text.starts_with("Loops answered 400: ");
    delivery["reason"] == "refused"
        && delivery["request"]["attempts"].as_array().map(Vec::len) == Some(1)
        && delivery["detail"].as_str().is_some_and(told)
}

#[tokio::test]
async fn loops_published_contract_takes_every_request() {
    let prism = Prism::mock().await;
    let service = Setup::with_loops(&format!("{}/v1", prism.base_url)).start();
    let mut messages = Vec::new();
    for (number, value) in odd_values().iter().enumerate() {
        messages.extend(messages_with(value, number));
    }
    for (number, message) in messages.iter_mut().enumerate() {
        message["messageId"] = json!(format!("m{number}"));
    }
    service.accept("/v1/batch", json!({"batch": messages})).await;
    let (mut sent, mut wrong) = (0, Vec::new());
    for message in &messages {
        let id = message["messageId"].as_str().unwrap();
        let found = service.message(id, |found| found["state"] != "pending").await;
        for delivery in found["deliveries"].as_array().unwrap() {
            let attempts = delivery["request"]["attempts"].as_array();
            let is_taken = match attempts.map(Vec::as_slice) {
                Some([attempt]) => {
                    sent += 1;
                    attempt["status"] == 200
                }
                Some(_) => false,
                // What cannot be mapped fails here, and bothers nobody.
                None => delivery["state"] == "failed",
            };
            let is_known = may_be_refused(message) && says_what_is_wrong(delivery);
            if !is_taken && !is_known {
                wrong.push(format!("{message}: {delivery}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} refused:\n{}", wrong.len(), wrong.join("\n"));
    assert!(sent > messages.len() / 2, "{sent} of {}", messages.len());
}

/// Loops' SDK, Prism on the document, and the sandbox behind it.
struct Client {
    script: Script,
    sandbox: Sandbox,
    prism: Prism,
    key: &'static str,
}

impl Client {
    async fn start() -> Self {
        let faults = Faults { rate_limit: 1_000, ..Faults::default() };
        let options = SandboxOptions {
            api_key: Some(Secret::new(API_KEY.to_owned())),
            faults,
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::new(options, Arc::new(SystemClock));
        let upstream = format!("http://{}/api", serve_on_loopback(sandbox.router()).await);
        let prism = Prism::before(&upstream).await;
        Self { script: Script::node("loops_sdk.js", &[]), sandbox, prism, key: API_KEY }
    }

    async fn line(&mut self, method: &str, arguments: Value) -> Value {
        self.script.tell(&json!({
            "apiRoot": format!("{}/", self.prism.base_url), "apiKey": self.key,
            "method": method, "arguments": arguments
        }));
        serde_json::from_str(&self.script.line().await).unwrap()
    }

    /// A call that must succeed.
    async fn call(&mut self, method: &str, arguments: Value) -> Value {
        let answer = self.line(method, arguments).await;
        assert_eq!(answer.get("error"), None, "{method}: {answer}");
        answer["value"].clone()
    }

    /// A call that must fail; gives the SDK's name for it and the status.
    async fn fail(&mut self, method: &str, arguments: Value) -> (String, Option<u64>) {
        let answer = self.line(method, arguments).await;
        let error = answer.get("error").unwrap_or_else(|| panic!("{method}: {answer}"));
        (error["name"].as_str().unwrap().to_owned(), error["status"].as_u64())
    }
}

fn api_error(status: u64) -> (String, Option<u64>) {
    ("APIError".to_owned(), Some(status))
}

#[tokio::test]
async fn loops_own_sdk_finds_contacts_at_the_sandbox_as_at_loops() {
    let mut loops = Client::start().await;
    let email = format!("ada@{EMAIL_DOMAIN}");
    let properties = json!({"firstName": "Ada", "plan": "pro", "seats": 7, "trial": false});
    let lists = json!({"sandboxbeta0000000000000": true});
    let made = json!([{"email": email, "properties": properties, "mailingLists": lists}]);
    let created = loops.call("createContact", made.clone()).await;
    assert_eq!(created["success"], true);
    assert_eq!(loops.fail("createContact", made).await, api_error(409));

    let found = loops.call("findContact", json!([{"email": email}])).await;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let expected = json!({
        "id": created["id"], "email": email, "firstName": "Ada", "lastName": null, "source": "API",
        "subscribed": true, "userGroup": "", "userId": null, "mailingLists": lists,
        "optInStatus": null, "plan": "pro", "seats": 7, "trial": false
    });
    assert_eq!(found[0], expected);

    let changes = json!({"plan": null, "lastName": "Lovelace", "subscribed": false});
    let update = json!([{
        "email": email, "userId": "u1", "properties": changes,
        "mailingLists": {"sandboxbeta0000000000000": false, "sandboxnewsletter0000000": true}
    }]);
    let updated = loops.call("updateContact", update).await;
    assert_eq!(updated, json!({"success": true, "id": created["id"]}));
    let found = loops.call("findContact", json!([{"userId": "u1"}])).await;
    assert_eq!(found[0]["lastName"], "Lovelace");
    assert_eq!(found[0]["subscribed"], false);
    assert_eq!(found[0]["plan"], Value::Null);
    assert_eq!(found[0]["mailingLists"], json!({"sandboxnewsletter0000000": true}));
    let nobody = json!([{"userId": "u2", "properties": {}}]);
    assert_eq!(loops.fail("updateContact", nobody).await, api_error(400));
    let new = json!([{"email": format!("bob@{EMAIL_DOMAIN}"), "userId": "u2", "properties": {}}]);
    let new = loops.call("updateContact", new).await;
    assert_ne!(new["id"], created["id"]);
    let status = loops.call("checkContactSuppression", json!([{"email": email}])).await;
    assert_eq!(
        (&status["isSuppressed"], &status["contact"]["userId"]),
        (&json!(false), &json!("u1"))
    );
    assert_eq!(
        loops.fail("removeContactSuppression", json!([{"email": email}])).await,
        api_error(400)
    );

    let deleted = loops.call("deleteContact", json!([{"userId": "u1"}])).await;
    assert_eq!(deleted, json!({"success": true, "message": "Contact deleted."}));
    assert_eq!(loops.call("findContact", json!([{"email": email}])).await, json!([]));
    assert_eq!(loops.fail("deleteContact", json!([{"userId": "u1"}])).await, api_error(404));
    assert_eq!(loops.sandbox.contacts().len(), 1);
    loops.script.end().await;
}

#[tokio::test]
async fn loops_own_sdk_sends_events_to_the_sandbox_as_to_loops() {
    let mut loops = Client::start().await;
    let email = format!("ada@{EMAIL_DOMAIN}");
    let event = |user: &str| {
        json!([{
            "email": email, "userId": user, "eventName": "signedUp", "contactProperties": {"plan": "pro"},
            "eventProperties": {"amount": 12.5, "first": true, "note": "é"},
            "headers": {"Idempotency-Key": "key-1"}
        }])
    };
    assert_eq!(loops.call("sendEvent", event("u1")).await, json!({"success": true}));
    // The key counts, whatever else is sent with it.
    assert_eq!(loops.fail("sendEvent", event("u1")).await, api_error(409));
    assert_eq!(loops.fail("sendEvent", event("u2")).await, api_error(409));
    let events = loops.sandbox.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].idempotency_key.as_deref(), Some("key-1"));
    assert_eq!(
        Value::Object(events[0].event_properties.clone()),
        event("u1")[0]["eventProperties"]
    );
    let found = loops.call("findContact", json!([{"userId": "u1"}])).await;
    assert_eq!(found[0]["plan"], "pro");
    let patterns = loops.call("listEventPatterns", json!([])).await;
    assert_eq!(patterns["data"][0]["eventName"], "signedUp");
    assert_eq!(patterns["pagination"]["totalResults"], 1);
    loops.script.end().await;
}

#[tokio::test]
async fn loops_own_sdk_learns_of_the_team_from_the_sandbox_as_from_loops() {
    let mut loops = Client::start().await;
    let expected = json!({"success": true, "teamName": "Sandbox"});
    assert_eq!(loops.call("testApiKey", json!([])).await, expected);
    let lists = loops.call("listMailingLists", json!([])).await;
    assert_eq!(lists.as_array().map(Vec::len), Some(2), "{lists}");

    let made = loops.call("createContactProperty", json!(["favoriteColor", "string"])).await;
    assert_eq!(made, json!({"success": true}));
    let again = json!(["favoriteColor", "string"]);
    assert_eq!(loops.fail("createContactProperty", again).await, api_error(400));
    let custom = loops.call("listContactProperties", json!(["custom"])).await;
    let favorite = json!({"key": "favoriteColor", "label": "Favorite color", "type": "string"});
    assert_eq!(custom, json!([favorite]));
    let all = loops.call("listContactProperties", json!([])).await;
    assert!(all.as_array().unwrap().contains(&favorite), "{all}");
    assert!(all.as_array().unwrap().len() > 5, "{all}");

    loops.key = "another";
    assert_eq!(loops.fail("testApiKey", json!([])).await, api_error(401));
    loops.key = API_KEY;
    loops.sandbox.set_faults(Faults { rate_limit: 1, ..Faults::default() });
    // Of two in a second the second is too fast; how long a call takes is not for this test to say.
    let mut last = Value::Null;
    for _ in 0..50 {
        last = loops.line("testApiKey", json!([])).await;
        if last.get("error").is_some() {
            break;
        }
    }
    let expected = json!({"name": "RateLimitExceededError", "limit": 1, "remaining": 0});
    assert_eq!(last["error"], expected);
    loops.script.end().await;
}
