//! New contacts, which Loops bills: they are counted, and messages are held if a cap is reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::console::Visitor;
use crate::support::{
    ADMIN_TOKEN, Answer, EMAIL_DOMAIN, PATIENCE, Reply, ScriptedLoops, Seen, Service, Setup,
};

const CAP: &str = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__NEW_CONTACTS_PER_DAY";

fn identify(id: &str, person: &str) -> Value {
    let traits = json!({"email": format!("{person}@{EMAIL_DOMAIN}"), "note": id});
    json!({"type": "identify", "messageId": id, "userId": person, "traits": traits})
}

async fn accept(service: &Service, message: Value) {
    service.accept("/v1/batch", json!({"batch": [message]})).await;
}

async fn delivered(service: &Service, id: &str) {
    service.message(id, |found| found["state"] == "delivered").await;
}

async fn held(service: &Service, id: &str) -> Value {
    service.message(id, |found| found["state"] == "pending" && !found["held"].is_null()).await
}

async fn ask(service: &Service, path: &str, body: Value) -> Answer {
    let request = service.request(reqwest::Method::POST, path).bearer_auth(ADMIN_TOKEN);
    Service::answer(request.body(body.to_string())).await
}

async fn now(service: &Service) -> Value {
    service.admin("/api/status").await.body["destinations"][0].clone()
}

/// The status of the destination, once it is as expected.
async fn status(service: &Service, is_reached: impl Fn(&Value) -> bool) -> Value {
    let began = std::time::Instant::now();
    loop {
        let found = now(service).await;
        if is_reached(&found) {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{found}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn notes(loops: &mut ScriptedLoops) -> Vec<String> {
    loops.rest().into_iter().map(|seen| seen.note()).collect()
}

async fn metric(service: &Service, name: &str) -> String {
    let metrics = reqwest::get(format!("{}/metrics", service.base_url)).await.unwrap();
    let lines = metrics.text().await.unwrap();
    let found = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or("none").to_owned()
}

#[tokio::test]
async fn new_contacts_are_counted() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    const TOTAL: &str = "segment_loops_new_contacts_total{destination=\"default\"}";
    assert_eq!(metric(&service, TOTAL).await, "0");
    for (id, person) in [("m1", "ada"), ("m2", "ada"), ("m3", "bob")] {
        accept(&service, identify(id, person)).await;
        delivered(&service, id).await;
    }
    // Without an address, Loops creates no contact.
    accept(&service, json!({"type": "identify", "messageId": "m4", "userId": "eve"})).await;
    delivered(&service, "m4").await;
    assert_eq!(metric(&service, TOTAL).await, "2");
    let found = now(&service).await;
    assert_eq!((&found["newContactsToday"], &found["held"]), (&json!(2), &json!(0)));
    assert_eq!(found["newContactsPerDay"], Value::Null);
}

#[tokio::test]
async fn beyond_the_cap_new_people_wait_and_known_ones_do_not() {
    let mut loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).env(CAP, "2");
    let service = setup.start();
    for person in ["p1", "p2"] {
        accept(&service, identify(person, person)).await;
        delivered(&service, person).await;
    }
    for person in ["p3", "p4", "p5"] {
        accept(&service, identify(person, person)).await;
        let found = held(&service, person).await;
        assert_eq!(found["held"]["reason"], "new_contact_cap", "{found}");
        assert_eq!(found["held"]["behind"], false);
    }
    const GUARDED: &str =
        "segment_loops_guarded_total{destination=\"default\",guard=\"new_contact_cap\"}";
    assert_eq!(metric(&service, GUARDED).await, "3");
    // The lane of the held message waits. Messages of known people are sent, and so are those that create no contact.
    accept(&service, identify("behind", "p3")).await;
    assert_eq!(held(&service, "behind").await["held"]["behind"], true);
    accept(&service, identify("again", "p1")).await;
    delivered(&service, "again").await;
    let track = json!({"type": "track", "messageId": "track", "userId": "other", "event": "Tried"});
    accept(&service, track).await;
    delivered(&service, "track").await;
    assert_eq!(notes(&mut loops), ["p1", "p2", "again", ""]);
    let list = service.admin("/api/messages?state=pending").await.body["messages"].clone();
    let list = list.as_array().unwrap().iter().filter(|message| !message["held"].is_null());
    assert_eq!(list.count(), 4);
    let list = service.admin("/api/messages?state=held").await.body["messages"].clone();
    let ids: Vec<&Value> = list.as_array().unwrap().iter().map(|one| &one["messageId"]).collect();
    assert_eq!(ids, ["p5", "p4", "p3"]);

    let service = service.crash_and_restart(&setup);
    for person in ["p3", "p4", "p5"] {
        held(&service, person).await;
    }
    accept(&service, identify("after", "p2")).await;
    delivered(&service, "after").await;
    assert_eq!(notes(&mut loops), ["after"]);
    let found = status(&service, |found| found["held"] == 3).await;
    assert_eq!((&found["newContactsPerDay"], &found["newContactsToday"]), (&json!(2), &json!(2)));

    // The message that was held first is sent, and then those behind it.
    let released = ask(&service, "/api/new-contacts/release", json!({"count": 1})).await;
    assert_eq!(released.body, json!({"destination": "default", "count": 1}), "{released:?}");
    for id in ["p3", "behind"] {
        delivered(&service, id).await;
    }
    assert_eq!(notes(&mut loops), ["p3", "behind"]);
    for person in ["p4", "p5"] {
        held(&service, person).await;
    }

    let discarded = ask(&service, "/api/new-contacts/discard", json!({})).await;
    let expected = json!({"destination": "default", "messages": 2, "complete": true});
    assert_eq!(discarded.body, expected, "{discarded:?}");
    let failed = service.message("p4", |found| found["state"] == "failed").await;
    assert_eq!(failed["deliveries"][0]["reason"], "discarded", "{failed}");
    // Replayed messages are held again.
    let replay = json!({"state": "failed", "reason": "discarded"});
    let replayed = ask(&service, "/api/replay", replay).await;
    assert_eq!(replayed.body["replayed"], 2, "{replayed:?}");
    held(&service, "p4").await;
    held(&service, "p5").await;
    assert_eq!(notes(&mut loops), [""; 0]);

    let audit = service.admin("/api/audit").await.body;
    let actions = audit["entries"].as_array().unwrap().iter().map(|entry| entry["action"].clone());
    let actions: Vec<Value> = actions.collect();
    assert_eq!(actions, ["replay", "discard_held", "release_contacts"], "{audit}");
    assert!(!audit.to_string().contains(EMAIL_DOMAIN));
}

#[tokio::test]
async fn the_console_asks_before_it_discards_and_takes_nothing_that_was_held_since() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).env(CAP, "1").start();
    accept(&service, identify("m1", "p1")).await;
    delivered(&service, "m1").await;
    for (id, person) in [("m2", "p2"), ("m3", "p3")] {
        accept(&service, identify(id, person)).await;
        held(&service, id).await;
    }
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let now = admin.get("/console").await;
    assert!(now.text.contains("2 messages to `default` are held"), "at once: {}", now.text);
    let list = admin.get("/console/messages?state=held").await;
    assert!(list.text.contains("is held: it would create another contact"), "{}", list.text);
    let wish = [("destination", "default"), ("wish", "discard")];
    let asked = admin.post("/console/new-contacts", &wish, &[]).await;
    assert_eq!(asked.status, 200);
    assert!(asked.text.contains("Discard 2 messages?"), "{}", asked.text);
    let (_, until) = asked.text.split_once("name=\"until\" value=\"").unwrap();
    let until = until.split('"').next().unwrap();
    held(&service, "m2").await;
    accept(&service, identify("m4", "p4")).await;
    held(&service, "m4").await;
    let sure = [wish[0], wish[1], ("until", until)];
    let done = admin.post("/console/new-contacts", &sure, &[]).await;
    assert_eq!((done.status, done.location()), (303, "/console"));
    for id in ["m2", "m3"] {
        service.message(id, |found| found["state"] == "failed").await;
    }
    held(&service, "m4").await;
    let now = admin.get("/console").await;
    assert!(now.text.contains("1 message to `default` is held"), "at once: {}", now.text);
}

#[tokio::test]
async fn a_deletion_does_not_wait_for_what_is_held() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).env(CAP, "1").start();
    accept(&service, identify("m1", "p1")).await;
    delivered(&service, "m1").await;
    accept(&service, identify("m2", "p2")).await;
    held(&service, "m2").await;
    accept(&service, json!({"type": "delete", "messageId": "gone", "userId": "p2"})).await;
    delivered(&service, "gone").await;
    let ended = service.message("m2", |found| found["state"] == "unmatched").await;
    assert_eq!(ended["reason"], "unknown_contact", "{ended}");
    let paths: Vec<String> = loops.rest().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/contacts/update", "/contacts/delete"]);
    let database = service.database();
    let left = || database.query_row("SELECT COUNT(*) FROM held", [], |row| row.get::<_, i64>(0));
    assert_eq!(left().unwrap(), 0);
}

#[tokio::test]
async fn each_destination_has_a_cap_of_its_own() {
    let loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url).without_env().config(&format!(
        r#"
        [server]
        admin_token = "{ADMIN_TOKEN}"
        [destinations.a]
        api_key = "a"
        base_url = "{url}"
        rate = 1000
        new_contacts_per_day = 1
        [destinations.b]
        api_key = "b"
        base_url = "{url}"
        rate = 1000
        [sources.a]
        write_keys = ["a"]
        destination = "a"
        [sources.b]
        write_keys = ["b"]
        destination = "b"
        "#,
        url = loops.base_url
    ));
    let service = setup.start();
    let send = async |key: &str, id: &str, person: &str| {
        let batch = json!({"writeKey": key, "batch": [identify(id, person)]});
        let request = service.request(reqwest::Method::POST, "/v1/batch").body(batch.to_string());
        assert_eq!(Service::answer(request).await.status, 200);
    };
    send("a", "a1", "p1").await;
    delivered(&service, "a1").await;
    send("a", "a2", "p2").await;
    held(&service, "a2").await;
    for (id, person) in [("b1", "p1"), ("b2", "p2")] {
        send("b", id, person).await;
        delivered(&service, id).await;
    }
    let unclear = ask(&service, "/api/new-contacts/release", json!({"count": 1})).await;
    assert_eq!((unclear.status, &unclear.body["code"]), (400, &json!("which_destination")));
    for body in [json!({"count": 0, "destination": "a"}), json!({"count": "1"}), json!([])] {
        let wrong = ask(&service, "/api/new-contacts/release", body).await;
        assert_eq!(wrong.status, 400, "{wrong:?}");
        assert!(wrong.body["message"].is_string());
    }
    let count = json!({"count": 1, "destination": "a"});
    assert_eq!(ask(&service, "/api/new-contacts/release", count).await.status, 200);
    delivered(&service, "a2").await;
    let count = json!({"count": 1, "destination": "b"});
    let uncapped = ask(&service, "/api/new-contacts/release", count).await;
    assert_eq!((uncapped.status, &uncapped.body["code"]), (409, &json!("not_capped")));
    let message = uncapped.body["message"].as_str().unwrap();
    assert!(message.contains("new_contacts_per_day = 0"), "{message}");
}

const POLICY: &str = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__NEW_CONTACTS";

fn list(text: String) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[tokio::test]
async fn with_known_only_nobody_is_created() {
    let mut loops = ScriptedLoops::willing().await;
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops(&loops.base_url).data(data.path()).env(POLICY, "known_only");
    let (code, text) = setup.run_to_end();
    assert!(code == Some(3) && text.contains("segment-loops known FILE"), "{code:?} {text}");
    let file =
        list(format!("Email,First Name,User ID\np1@{EMAIL_DOMAIN},Ada,p1\np2@{EMAIL_DOMAIN},,\n"));
    let path = file.path().to_str().unwrap();
    let ran = setup.command_on(data.path(), &["known", path], b"").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("read 2 contacts of `default`; not known before: 2"), "{ran:?}");
    let again = setup.command_on(data.path(), &["known", "-"], &std::fs::read(path).unwrap()).await;
    assert!(again.stdout.contains("; not known before: 0"), "{again:?}");

    let service = setup.start();
    for person in ["p1", "p2"] {
        accept(&service, identify(person, person)).await;
        delivered(&service, person).await;
    }
    accept(&service, identify("p3", "p3")).await;
    let ended = service.message("p3", |found| found["state"] == "unmatched").await;
    assert_eq!(ended["reason"], "unknown_contact", "{ended}");
    assert!(ended["detail"].as_str().unwrap().contains("replay"), "{ended}");
    assert_eq!(notes(&mut loops), ["p1", "p2"]);
    // The command runs beside the service.
    let file = list(format!("userId,email\np3,p3@{EMAIL_DOMAIN}\n"));
    let path = file.path().to_str().unwrap();
    let ran = setup.command_on(data.path(), &["known", path], b"").await;
    assert!(ran.stdout.contains("read 1 contact of `default`; not known before: 1"), "{ran:?}");
    let replay = json!({"state": "unmatched", "messageIds": ["p3"]});
    assert_eq!(ask(&service, "/api/replay", replay).await.body["replayed"], 1);
    delivered(&service, "p3").await;
    assert_eq!(now(&service).await["newContactsToday"], 0);
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_refused_with_its_line() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops("http://127.0.0.1:9").data(data.path());
    for (text, code, expected) in [
        ("name\nAda\n".to_owned(), 1, "its first line must name the columns"),
        (String::new(), 1, "no column `email` or `userId`"),
        (format!("email;userId\na@{EMAIL_DOMAIN};1\n"), 1, "separated by semicolons"),
        (format!("email\tuserId\na@{EMAIL_DOMAIN}\t1\n"), 1, "separated by tabs"),
        (
            format!("email,userId\nada,1\nb@{EMAIL_DOMAIN},2\n"),
            1,
            "line 2: `email` is not an e-mail",
        ),
        (
            format!("email,userId\na@{EMAIL_DOMAIN},1\nada,2\n"),
            4,
            "line 3: `email` is not an e-mail address; the contacts before it are known",
        ),
        (format!("email,userId\na@{EMAIL_DOMAIN},1\n,\n"), 4, "line 3: there is neither"),
        (
            format!("email,userId\na@{EMAIL_DOMAIN},1\n\"b@{EMAIL_DOMAIN},2\nc@{EMAIL_DOMAIN},3\n"),
            4,
            "line 3: a value that begins with a quote (\") does not end",
        ),
    ] {
        let file = list(text.clone());
        let path = file.path().to_str().unwrap();
        let ran = setup.command_on(data.path(), &["known", path], b"").await;
        assert!(ran.code == Some(code) && ran.stderr.contains(expected), "{text}: {ran:?}");
    }
    let ran = setup.command_on(data.path(), &["known", "/no/such/file"], b"").await;
    assert!(ran.code == Some(1) && ran.stderr.contains("cannot be read"), "{ran:?}");
    let file = list("userId\n1\n".to_owned());
    let path = file.path().to_str().unwrap();
    let ran = setup.command_on(data.path(), &["known", path, "--destination", "x"], b"").await;
    assert!(
        ran.code == Some(2) && ran.stderr.contains("--destination must be one of default"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn loops_is_asked_about_people_who_are_not_known() {
    // Loops finds p2 by the address and p3 by the user id, and refuses the requests about p4.
    let script = |seen: &Seen| match seen.path.as_str() {
        "/contacts/find" => match seen.query.as_str() {
            query if query.contains("p4") => Reply::status(400),
            query if query.starts_with("email=p2") || query == "userId=p3" => {
                Reply::ok().with_body(r#"[{"id": "c"}]"#)
            }
            _ => Reply::ok().with_body("[]"),
        },
        _ => Reply::ok(),
    };
    let mut loops = ScriptedLoops::start(script).await;
    const VERIFY: &str = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__VERIFY_UNKNOWN";
    let service = Setup::with_loops(&loops.base_url).env(CAP, "1").env(VERIFY, "true").start();
    for person in ["p1", "p2", "p3"] {
        accept(&service, identify(person, person)).await;
        delivered(&service, person).await;
    }
    for person in ["p4", "p5"] {
        accept(&service, identify(person, person)).await;
        held(&service, person).await;
    }
    assert_eq!(now(&service).await["newContactsToday"], 1);
    accept(&service, identify("again", "p2")).await;
    delivered(&service, "again").await;
    let paths: Vec<String> = loops.rest().into_iter().map(|seen| seen.path).collect();
    let found = paths.iter().filter(|path| *path == "/contacts/find").count();
    // p1, p3 and p5 are looked up by both ids, p2 by the address, and p4 once.
    assert_eq!((found, paths.len()), (8, 12), "{paths:?}");
}

#[tokio::test]
async fn nobody_counts_as_new_because_loops_could_not_be_asked() {
    // Loops has all contacts, but its first responses about p1 are errors. Later it refuses the key.
    let asked = AtomicU32::new(0);
    let is_revoked = Arc::new(AtomicBool::new(false));
    let key = Arc::clone(&is_revoked);
    let script = move |seen: &Seen| match seen.path.as_str() {
        "/contacts/find" | "/api-key" if key.load(Ordering::SeqCst) => Reply::status(401),
        "/contacts/find" => match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::status(500),
            1 => Reply::status(429),
            2 => Reply::status(404),
            3 => Reply::ok(),
            _ => Reply::ok().with_body(r#"[{"id": "c"}]"#),
        },
        _ => Reply::ok(),
    };
    let mut loops = ScriptedLoops::start(script).await;
    const VERIFY: &str = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT__VERIFY_UNKNOWN";
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops(&loops.base_url).data(data.path()).env(POLICY, "known_only");
    let setup = setup.env(VERIFY, "true");
    let file = list(format!("email\nsomebody@{EMAIL_DOMAIN}\n"));
    let path = file.path().to_str().unwrap();
    let ran = setup.command_on(data.path(), &["known", path], b"").await;
    assert!(ran.stdout.contains("read 1 contact of `default`; not known before: 1"), "{ran:?}");
    let service = setup.start();
    accept(&service, identify("p1", "p1")).await;
    delivered(&service, "p1").await;
    let asked = loops.rest().into_iter().filter(|seen| seen.path == "/contacts/find").count();
    assert_eq!(asked, 5);

    is_revoked.store(true, Ordering::SeqCst);
    accept(&service, identify("p2", "p2")).await;
    let is_paused = |line: &Value| {
        line["message"].as_str().is_some_and(|text| text.contains("Loops refuses the API key"))
    };
    service.logged(is_paused).await;
    let waiting = service.message("p2", |found| found["state"] == "pending").await;
    assert_eq!(waiting["reason"], Value::Null, "{waiting}");
    is_revoked.store(false, Ordering::SeqCst);
    delivered(&service, "p2").await;
    assert_eq!(now(&service).await["newContactsToday"], 0);
}

#[tokio::test]
async fn a_reload_does_not_switch_to_known_only_while_nobody_is_known() {
    let loops = ScriptedLoops::willing().await;
    let of = |policy: &str| format!("[destinations.default]\nnew_contacts = \"{policy}\"\n");
    let service = Setup::with_loops(&loops.base_url).config(&of("create")).start();
    let reload = async || ask(&service, "/api/reload", json!({})).await;
    service.write_config(&of("known_only"));
    let refused = reload().await;
    assert_eq!(refused.status, 422, "{refused:?}");
    let problem = &refused.body["problems"][0];
    assert_eq!(problem["key"], "destinations.default.new_contacts", "{problem}");
    assert!(problem["problem"].as_str().unwrap().contains("segment-loops known FILE"), "{problem}");
    // The previous configuration is still in force, and its delivery makes a contact known.
    accept(&service, identify("m1", "p1")).await;
    delivered(&service, "m1").await;
    assert_eq!(reload().await.status, 200);
    accept(&service, identify("m2", "p2")).await;
    service.message("m2", |found| found["state"] == "unmatched").await;
    // A reload is not refused because of a setting that is already in force.
    service.database().execute("DELETE FROM contacts", []).unwrap();
    assert_eq!(reload().await.status, 200);
}
