//! The pictures of the README, made of the pages as they are: `docs/` keeps copies of what this writes.

use std::path::Path;
use std::process::Command;

use segment_loops::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::Site;
use super::hostile::{SECRET, report};
use crate::support::{ADMIN_TOKEN, API_KEY, Reply, ScriptedLoops, Service, Setup, WRITE_KEY};

/// Pictures stay in the history of the repository for ever.
const BYTES_MAX: u64 = 100_000;

const WIDTH: u32 = 1280;

/// A second, a minute, an hour and a day.
const S: i64 = 1;
const MIN: i64 = 60 * S;
const H: i64 = 60 * MIN;
const DAY: i64 = 24 * H;

/// A company with two sources, of which one message was refused.
async fn company() -> Site {
    let loops = ScriptedLoops::start(|seen| match seen.body["eventName"].as_str() {
        Some("Trial Ending") => {
            Reply::status(400).with_body(r#"{"message":"trialEndsAt must be a date."}"#)
        }
        _ => Reply::ok(),
    })
    .await;
    let config = format!(
        "[server]\nadmin_token = \"{ADMIN_TOKEN}\"\n\
         [destinations.loops]\napi_key = \"{API_KEY}\"\nbase_url = \"{}\"\nrate = 10\n\
         loops_webhook_secret = \"{SECRET}\"\n\
         [sources.website]\nwrite_keys = [\"{WRITE_KEY}\"]\n\
         [sources.app]\nwrite_keys = [\"{APP_KEY}\"]\n",
        loops.base_url
    );
    let setup = Setup::with_loops(&loops.base_url).without_env().config(&config);
    let mut site = Site::on(loops, &setup).await;
    let service = &site.service;
    ada(service).await;
    others(service).await;
    site.log_in(json!({"width": WIDTH})).await;
    site
}

const APP_KEY: &str = "wk-app";

/// A message of one of the sources.
async fn send(service: &Service, key: &str, message: &Value) {
    let request = service.request(reqwest::Method::POST, "/v1/batch").basic_auth(key, Some(""));
    let answer = Service::answer(request.body(json!({"batch": [message]}).to_string())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A person with a history of three days: she signed up and read her first mail; today an event failed.
async fn ada(service: &Service) {
    let mails = [
        (3 * DAY - 6 * S, "loop.email.sent"),
        (3 * DAY - 9 * S, "email.delivered"),
        (3 * DAY - 47 * MIN, "email.opened"),
    ];
    for (number, (ago, name)) in mails.into_iter().enumerate() {
        let body = json!({
            "eventName": name, "eventTime": SystemClock.now().as_second() - ago,
            "contactIdentity": {"id": "c1", "email": "ada@example.com", "userId": "user_1815"},
            "sourceType": "loop", "loopId": "l1", "loopName": "Welcome", "email": {"id": "e1"},
        });
        report(service, "loops", &format!("msg_{number}"), &body).await;
    }
    let traits = json!({"email": "ada@example.com", "firstName": "Ada", "plan": "trial"});
    for (key, message) in [
        (WRITE_KEY, json!({"type": "identify", "messageId": "web-4f1c02", "traits": traits})),
        (WRITE_KEY, json!({"type": "track", "messageId": "web-4f1c03", "event": "Signed Up"})),
        (APP_KEY, json!({"type": "track", "messageId": "app-90e7d1", "event": "Program Saved"})),
        (APP_KEY, json!({"type": "track", "messageId": "app-b25a18", "event": "Trial Ending"})),
    ] {
        let mut message = message;
        message["userId"] = json!("user_1815");
        let id = message["messageId"].as_str().unwrap().to_owned();
        send(service, key, &message).await;
        service.message(&id, |message| message["state"] != "pending" && !message.is_null()).await;
    }
    service
        .alter(
            "UPDATE messages SET received_at = received_at - CASE message_id \
             WHEN 'web-4f1c02' THEN 259200000 WHEN 'web-4f1c03' THEN 259197000 \
             WHEN 'app-90e7d1' THEN 94020000 ELSE 1260000 END",
        )
        .await;
}

/// The other customers: some messages now, and the counts of those of a week.
async fn others(service: &Service) {
    for (index, name) in ["charles", "mary", "george", "luigi", "augustus"].into_iter().enumerate()
    {
        for (key, event) in [(WRITE_KEY, "Signed Up"), (APP_KEY, "Program Saved")] {
            let id = format!("other-{index}-{event}");
            let properties = json!({"email": format!("{name}@example.com")});
            let message = json!({
                "type": "track", "userId": name, "messageId": id, "event": event, "properties": properties,
            });
            send(service, key, &message).await;
            service.message(&id, |message| message["state"] == "delivered").await;
        }
    }
    service
        .alter(
            "WITH RECURSIVE
             hours (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM hours WHERE n < 160),
             counts (step, at, n) AS (
                 SELECT 3600000, (SELECT MAX(at) FROM tallies WHERE step = 3600000) - n * 3600000, 170 + n * 37 % 90
                 FROM hours
                 UNION ALL
                 SELECT 60000, (SELECT MAX(at) FROM tallies WHERE step = 60000) - n * 60000, 2 + n * 7 % 5
                 FROM hours WHERE n < 59),
             parts (stage, source, of_each, of_few) AS (VALUES
                 ('received', 'website', 2, 1), ('delivered', 'website', 2, 0), ('unmatched', 'website', 0, 1),
                 ('received', 'app', 1, 0), ('delivered', 'app', 1, 0),
                 ('delivery_delivered', 'website', 2, 0), ('delivery_delivered', 'app', 1, 0))
             INSERT INTO tallies (step, at, stage, destination, source, subscription, reason, count)
             SELECT step, at, stage, 'loops', source,
                    CASE stage WHEN 'delivery_delivered' THEN 'Send an event' ELSE '' END,
                    CASE stage WHEN 'unmatched' THEN 'no_subscription' ELSE '' END,
                    n * of_each + n / 12 * of_few
             FROM counts, parts WHERE n * of_each + n / 12 * of_few > 0 ON CONFLICT DO NOTHING",
        )
        .await;
}

/// Takes a picture of the page, down to the end of an element, and compares its size to that of the copy in `docs/`.
async fn take(site: &mut Site, name: &str, end: &str) {
    // Names of machines say nothing to others, and processes have long ones.
    let rename = "document.querySelectorAll('.sub code').forEach((one) => { \
                  one.textContent = one.textContent.replace(/^.*-[0-9]+-[0-9a-f]{32}$/, 'web-1-27-019c4b7e'); })";
    site.tell(json!({"evaluate": rename})).await;
    let file = format!("console-{name}.png");
    let made = super::folder().join(&file);
    site.tell(json!({"screenshot": made, "clip": end})).await;
    // Pages have few colours, and a picture with fewer is a third as long.
    let mut quantize = Command::new("pngquant");
    quantize.args(["--force", "--nofs", "--output"]).arg(&made).arg("64").arg(&made);
    let status = quantize.status().expect("pngquant is missing: tests/run installs it");
    assert!(status.success(), "{status}");
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(&file);
    for picture in [&made, &copy] {
        let bytes = std::fs::read(picture).unwrap_or_else(|error| {
            panic!("{}: {error}: copy {file} from target/console", picture.display())
        });
        // Its width stands at the 16th byte.
        assert_eq!(bytes.get(16..20), Some(&WIDTH.to_be_bytes()[..]), "{}", picture.display());
        assert!((bytes.len() as u64) < BYTES_MAX, "{}: {} bytes", picture.display(), bytes.len());
    }
}

#[tokio::test]
async fn the_readme_has_pictures_of_pages_that_exist() {
    let mut site = company().await;
    let readme = include_str!("../../../README.md");
    for name in ["now", "person"] {
        assert!(readme.contains(&format!("](docs/console-{name}.png)")), "{name}");
    }
    site.tell(json!({"wait": "#diagnosis:has-text('deliveries failed in the last hour; all else is well')"})).await;
    // What the process reports of itself is up to five seconds old, and the page asks as often.
    site.tell(json!({"wait": "#now:has-text('of 10 requests a second')"})).await;
    take(&mut site, "now", "#now table:last-of-type").await;
    let person = site.person("user_1815").await;
    assert!(person.starts_with("/console/people/"), "{person}");
    site.tell(json!({"wait": ".verdict:has-text('trialEndsAt must be a date')"})).await;
    take(&mut site, "person", ".timeline").await;
    assert_eq!(site.problems().await, Vec::<String>::new());
}
