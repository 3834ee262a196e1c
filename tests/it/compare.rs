//! A changed subscription can be tried on received messages without any other effect.

use reqwest::Method;
use serde_json::{Value, json};

use crate::console::{Visitor, set_up};
use crate::support::{ADMIN_TOKEN, Answer, Ran, Reply, ScriptedLoops, Service, Setup};

const SUBSCRIPTIONS: &str = r#"
[[subscriptions]]
name = "Signed up"
action = "sendEvent"
events = ["Signed *"]
[subscriptions.mapping]
eventName = "signedUp"

[[subscriptions]]
name = "Contacts / all"
action = "createOrUpdateContact"
trigger = 'type = "identify"'
"#;

/// The subscription of this name, as defined above.
const SIGNED_UP: &str = "name = \"Signed up\"\naction = \"sendEvent\"\nevents = [\"Signed *\"]\n[mapping]\neventName = \"signedUp\"\n";

fn event(id: &str, event: &str) -> Value {
    json!({
        "type": "track", "userId": "ada", "messageId": id, "event": event,
        "properties": {"plan": "pro", "email": format!("{id}@people.example.test"), "tags": {"a": 1}},
    })
}

fn setup(loops: &ScriptedLoops) -> Setup {
    set_up(loops).config(SUBSCRIPTIONS)
}

/// A service that has received three events and a person.
async fn with_messages(setup: &Setup) -> Service {
    let service = setup.start();
    for (id, name) in [("m1", "Signed Up"), ("m2", "Ordered"), ("m3", "Signed In")] {
        service.accept("/v1/track", event(id, name)).await;
    }
    let person = json!({"userId": "ada", "messageId": "m4", "traits": {"plan": "pro"}});
    service.accept("/v1/identify", person).await;
    for id in ["m1", "m3", "m4"] {
        service.message(id, |message| message["state"] == "delivered").await;
    }
    service.message("m2", |message| message["state"] == "unmatched").await;
    service
}

async fn ask(service: &Service, body: &Value) -> Answer {
    let request = service.request(Method::POST, "/api/compare").bearer_auth(ADMIN_TOKEN);
    Service::answer(request.body(body.to_string())).await
}

/// The message ids, and the change for each.
fn changes(answer: &Value) -> Vec<(&str, &str)> {
    let messages = answer["messages"].as_array().unwrap().iter();
    let text = |message: &'_ Value, key: &str| message[key].as_str().map(str::len).unwrap_or(0);
    messages
        .inspect(|message| assert!(text(message, "messageId") > 0, "{message}"))
        .map(|one| (one["messageId"].as_str().unwrap(), one["change"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn the_latest_messages_that_either_version_takes_are_compared() {
    let loops = ScriptedLoops::willing().await;
    let service = with_messages(&setup(&loops)).await;
    let compare = async |text: &str| {
        let answer = ask(&service, &json!({"subscription": "Signed up", "text": text})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    };
    let same = compare(SIGNED_UP).await;
    assert_eq!(changes(&same), [("m3", "same"), ("m1", "same")]);
    assert_eq!((&same["changes"], &same["stopped"]), (&json!(false), &Value::Null));
    assert_eq!(same["looked"]["messages"], 4);
    assert_eq!(same["looked"]["complete"], true);

    let renamed = compare(&SIGNED_UP.replace("signedUp", "joined")).await;
    assert_eq!(changes(&renamed), [("m3", "changed"), ("m1", "changed")]);
    assert_eq!(renamed["counts"]["changed"], 2);
    assert_eq!(
        renamed["summary"],
        "2 messages compared: 2 requests change, 0 new failures, 0 new warnings."
    );
    let lines = renamed["messages"][0]["difference"].as_array().unwrap();
    for line in
        ["  POST /events/send", "-   \"eventName\": \"signedUp\"", "+   \"eventName\": \"joined\""]
    {
        assert!(lines.contains(&json!(line)), "{line}: {lines:?}");
    }
    assert_eq!(renamed["messages"][0]["fields"][2]["from"], "the literal \"joined\"", "{renamed}");
    let m3 = service.message("m3", |message| !message.is_null()).await;
    assert_eq!(renamed["messages"][0]["seq"], m3["seq"]);

    let all = compare(&SIGNED_UP.replace("Signed *", "*")).await;
    assert_eq!(changes(&all), [("m3", "same"), ("m2", "newly_taken"), ("m1", "same")]);
    let ordered = compare(&SIGNED_UP.replace("Signed *", "Ordered")).await;
    let expected = [("m3", "no_longer_taken"), ("m2", "newly_taken"), ("m1", "no_longer_taken")];
    assert_eq!(changes(&ordered), expected);
    let nobody =
        compare(&SIGNED_UP.replace("[mapping]", "without = [\"userId\"]\n[mapping]")).await;
    assert_eq!(changes(&nobody), [("m3", "error"), ("m1", "error")]);
    assert!(nobody["messages"][0]["after"]["error"].as_str().unwrap().contains("userId"));
    let nested = format!(
        "{SIGNED_UP}contactProperties = {{ tags = {{ \"@path\" = \"$.properties.tags\" }} }}\n"
    );
    let nested = compare(&nested).await;
    assert_eq!(changes(&nested), [("m3", "warning"), ("m1", "warning")]);
    assert_eq!(nested["counts"]["newWarnings"], 2);
    assert_eq!(nested["changes"], true);
}

#[tokio::test]
async fn messages_are_chosen_by_number_failure_and_person_or_given() {
    let loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/events/send" => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    let service = setup(&loops).start();
    for (id, user) in [("m1", "ada"), ("m2", "grace")] {
        let mut message = event(id, "Signed Up");
        message["userId"] = json!(user);
        service.accept("/v1/track", message).await;
        service.message(id, |message| message["state"] == "failed").await;
    }
    let compare = async |messages: Value| {
        let body = json!({"subscription": "Signed up", "text": SIGNED_UP, "messages": messages});
        let answer = ask(&service, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        changes(&answer.body).iter().map(|(id, _)| (*id).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(compare(json!({"last": 1})).await, ["m2"]);
    assert_eq!(compare(json!({"only": "failed"})).await, ["m2", "m1"]);
    assert_eq!(compare(json!({"person": "ada"})).await, ["m1"]);
    assert_eq!(compare(json!({"person": "M2@people.example.test"})).await, ["m2"]);
    assert_eq!(
        compare(json!([event("given", "Signed Up"), event("other", "Ordered")])).await,
        ["given"]
    );
    assert_eq!(compare(json!([])).await, Vec::<String>::new());
    // A new subscription.
    let draft = json!({"name": "new", "action": "sendEvent", "events": ["*"]});
    let answer = ask(&service, &json!({"draft": draft})).await;
    assert_eq!(changes(&answer.body), [("m2", "newly_taken"), ("m1", "newly_taken")]);
}

#[tokio::test]
async fn an_error_says_where_it_is_and_what_is_allowed() {
    let loops = ScriptedLoops::willing().await;
    let service = setup(&loops).start();
    for (text, line, field, words) in [
        ("name = 'Signed up'\naction = ", json!(2), Value::Null, "not TOML"),
        ("{\"name\": \"Signed up\",\n\"action\"}", json!(2), Value::Null, "not JSON"),
        ("name: Signed up\naction: send\nevents: [a]", json!(2), json!("action"), "allowed are"),
        (
            "name: Signed up\naction: sendEvent\nevents: [a]\nmapping:\n  eventName: {'@pth': $.event}",
            json!(5),
            json!("mapping"),
            "@pth",
        ),
        ("name: Contacts / all\naction: sendEvent\nevents: [a]", json!(1), json!("name"), "unique"),
    ] {
        let answer = ask(&service, &json!({"subscription": "Signed up", "text": text})).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (422, &json!("bad_subscription")),
            "{text}"
        );
        let problem = &answer.body["problems"][0];
        assert_eq!((&problem["line"], &problem["field"]), (&line, &field), "{text}: {problem}");
        assert!(problem["problem"].as_str().unwrap().contains(words), "{text}: {problem}");
    }
    for (body, status, words) in [
        (json!({}), 400, "as `text` or as `draft`"),
        (json!({"text": SIGNED_UP, "draft": {}}), 400, "as `text` or as `draft`"),
        (json!({"text": SIGNED_UP, "subscription": "gone"}), 404, "no subscription in force"),
        (json!({"text": SIGNED_UP, "destination": "gone"}), 400, "must be one of default"),
        (json!({"text": SIGNED_UP, "colour": "red"}), 400, "unknown field"),
        (json!({"text": SIGNED_UP, "messages": {"last": 0}}), 400, "from 1 to 1000"),
        (json!({"text": SIGNED_UP, "messages": {"last": 1001}}), 400, "from 1 to 1000"),
        (json!({"text": SIGNED_UP, "messages": {"only": "new"}}), 400, "\"failed\""),
        (json!({"text": SIGNED_UP, "messages": {"person": " "}}), 400, "`person` is empty"),
        (json!({"text": SIGNED_UP, "messages": {"first": 1}}), 400, "`messages`"),
        (json!({"text": SIGNED_UP, "messages": [{"type": "track"}]}), 400, "`messages[0]`"),
    ] {
        let answer = ask(&service, &body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(answer.body["message"].as_str().unwrap().contains(words), "{}", answer.body);
    }
}

/// A mapping that doubles its output repeatedly.
fn doubling() -> Value {
    let double = |inner: Value, _| json!({"@transform": {"apply": {"l": [inner, inner]}, "mapping": {"@path": "$.l"}}});
    let list = (0..9).fold(json!({"@path": "$.properties"}), double);
    json!({"name": "Signed up", "action": "sendEvent", "events": ["Signed *"], "mapping": {"eventProperties": {"list": list}}})
}

#[tokio::test]
async fn a_mapping_that_takes_longer_than_its_budget_is_stopped_and_nothing_else_suffers() {
    let loops = ScriptedLoops::willing().await;
    let service = with_messages(&setup(&loops)).await;
    let mut large = event("large", "Signed Up");
    for number in 0..300 {
        large["properties"][format!("k{number}")] = json!(number);
    }
    let slow =
        json!({"subscription": "Signed up", "draft": doubling(), "messages": vec![large; 80]});
    let (one, other, accepted) = tokio::join!(
        ask(&service, &slow),
        ask(&service, &slow),
        service.post("/v1/track", event("meanwhile", "Signed Up"))
    );
    assert_eq!(accepted.status, 200);
    for answer in [one, other] {
        assert_eq!(answer.status, 200, "{}", answer.body);
        let stopped = &answer.body["stopped"];
        assert_eq!(stopped["messageId"], "large", "{}", answer.body);
        let detail = stopped["detail"].as_str().unwrap();
        assert!(
            detail.contains("the field `eventProperties` of the mapping")
                && detail.contains("took longer than its budget"),
            "{detail}"
        );
    }
    service.message("meanwhile", |message| message["state"] == "delivered").await;
    // YAML whose references would grow without bound is refused.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let references = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{references}]\n"));
    }
    let answer = ask(&service, &json!({"text": bomb})).await;
    assert_eq!(answer.status, 422, "{}", answer.body);
}

async fn compare(setup: &Setup, service: &Service, arguments: &[&str]) -> Ran {
    let arguments = [&["compare"], arguments].concat();
    setup.command_on(service.data(), &arguments, b"").await
}

#[tokio::test]
async fn the_exit_code_of_the_command_says_whether_something_changes() {
    let loops = ScriptedLoops::willing().await;
    let setup = setup(&loops);
    let service = with_messages(&setup).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let same = write("same.toml", SUBSCRIPTIONS);
    let reworded =
        write("reworded.toml", &SUBSCRIPTIONS.replace("[\"Signed *\"]", "[\"Signed*\"]"));
    let changed = write("changed.toml", &SUBSCRIPTIONS.replace("signedUp", "joined"));
    let broken = write("broken.toml", &SUBSCRIPTIONS.replace("sendEvent", "send"));
    for (file, code, words) in [
        (&same, 0, "No subscription differs."),
        (&reworded, 0, "2 messages compared: 0 requests change"),
        (&changed, 4, "2 requests change, 0 new failures"),
    ] {
        let ran = compare(&setup, &service, &["--subscriptions", file]).await;
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.stdout.contains(words) && ran.stderr.is_empty(), "{ran:?}");
    }
    let ran =
        compare(&setup, &service, &["--subscriptions", &changed, "--last", "1000", "--json"]).await;
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &found["counts"]["changed"]), (Some(4), &json!(2)));
    assert_eq!(changes(&found), [("m3", "changed"), ("m1", "changed")]);
    let ran = compare(&setup, &service, &["--subscriptions", &changed, "--failed"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");

    let ran = compare(&setup, &service, &["--subscriptions", &broken]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("allowed are createOrUpdateContact"), "{ran:?}");
    let ran = compare(&setup, &service, &["--subscriptions", &changed, "--last", "0"]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("1..=1000"), "{ran:?}");
    let ran = compare(&setup, &service, &["--subscriptions", &changed, "--destination", "x"]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("must be one of default"), "{ran:?}");
    let ran = compare(&setup, &service, &[]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let empty = tempfile::tempdir().unwrap();
    let arguments = ["compare", "--subscriptions", &changed];
    let on_files = Setup::with_loops(&loops.base_url).config(SUBSCRIPTIONS);
    let ran = on_files.command_on(empty.path(), &arguments, b"").await;
    assert!(ran.code == Some(1) && ran.stderr.contains("there is no database"), "{ran:?}");

    // Messages of a file need neither a database nor keys.
    let lines = format!("{}\n\n{}\n", event("f1", "Signed Up"), event("f2", "Ordered"));
    let messages = write("messages.jsonl", &lines);
    let keyless = Setup::with_loops(&loops.base_url).without_env().config(SUBSCRIPTIONS);
    let ask = ["compare", "--subscriptions", &changed, "--messages", &messages, "--json"];
    let ran = keyless.command_on(empty.path(), &ask, b"").await;
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, changes(&found)), (Some(4), vec![("f1", "changed")]));
    let wrong = write("wrong.jsonl", "{\"type\": \"track\", \"userId\": \"u\"}\n{");
    let ask = ["compare", "--subscriptions", &changed, "--messages", &wrong];
    let ran = keyless.command_on(empty.path(), &ask, b"").await;
    assert!(ran.code == Some(1) && ran.stderr.contains("wrong.jsonl, line 2: it is"), "{ran:?}");
}

#[tokio::test]
async fn with_several_destinations_one_must_be_named() {
    let loops = ScriptedLoops::willing().await;
    let destination = |name: &str| {
        format!(
            "[destinations.{name}]\napi_key = \"k\"\n[[destinations.{name}.subscriptions]]\nname = \"Signed up\"\naction = \"sendEvent\"\nevents = [\"{name} *\"]\n"
        )
    };
    let text = format!("{}{}", destination("one"), destination("two"));
    let keyless = Setup::with_loops(&loops.base_url).without_env().config(&text);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let messages = file("messages.jsonl", event("m", "two x").to_string());
    let changed = file("new.toml", SIGNED_UP.replace("Signed *", "two *"));
    let ask = async |more: &[&str]| {
        let ask = ["compare", "--subscriptions", &changed, "--messages", &messages];
        keyless.command_on(folder.path(), &[&ask, more].concat(), b"").await
    };
    let ran = ask(&[]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("must be one of one, two"), "{ran:?}");
    let one = ask(&["--destination", "one"]).await;
    assert!(one.code == Some(4) && one.stdout.contains("newly taken"), "{one:?}");
    let two = ask(&["--destination", "two"]).await;
    assert!(two.code == Some(4) && two.stdout.contains("changed"), "{two:?}");
}

const PAGE: &str = "/console/subscriptions/default/Signed%20up";

#[tokio::test]
async fn the_page_compares_a_form_without_a_script() {
    let loops = ScriptedLoops::willing().await;
    let service = with_messages(&setup(&loops)).await;
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let page = admin.get(PAGE).await;
    assert_eq!(page.status, 200, "{}", page.text);
    for words in [
        "[[subscriptions]]",
        "events = [&#34;Signed *&#34;]",
        "2 messages compared: 0 requests change",
        "Signed In",
        "4 messages were examined",
        "m3@people.example.test",
    ] {
        assert!(page.text.contains(words), "no {words}: {}", page.text);
    }
    // The page's unchanged text makes no difference, even with a browser's line endings.
    let in_force = page.text.split("aria-describedby=\"problems\">").nth(1).unwrap();
    let in_force = in_force.split("</textarea>").next().unwrap().trim_start();
    let in_force = in_force.replace("&#34;", "\"").replace("&#39;", "'").replace('\n', "\r\n");
    let same = admin.post(PAGE, &[("text", &in_force), ("last", "20")], &[]).await;
    assert_eq!(same.status, 200);
    assert!(same.text.contains("2 messages compared: 0 requests change"), "{}", same.text);

    let changed = SIGNED_UP.replace("signedUp", "joined<b>");
    let page = admin.post(PAGE, &[("text", &changed), ("last", "1000")], &[]).await;
    assert_eq!(page.status, 200);
    for words in [
        "2 requests change, 0 new failures",
        "</span> changed</span>",
        "<del>-   &#34;eventName&#34;: &#34;signedUp&#34;</del>",
        "joined&#60;b&#62;&#34;</ins>",
        "check --cases",
    ] {
        assert!(page.text.contains(words), "no {words}: {}", page.text);
    }
    assert!(!page.text.contains("joined<b>"));
    let m1 = service.message("m1", |message| !message.is_null()).await;
    let first = admin.get(&format!("{PAGE}?message={}", m1["seq"])).await;
    let place = |words: &str| first.text.find(words).unwrap();
    assert!(place("<code>m1</code>") < place("<code>m3</code>"), "{}", first.text);
    let failed = admin.post(PAGE, &[("text", &changed), ("only", "failed")], &[]).await;
    assert!(failed.text.contains("takes no message that is kept"), "{}", failed.text);

    let wrong = admin.post(PAGE, &[("text", "name: x\naction: send")], &[]).await;
    assert_eq!(wrong.status, 200);
    assert!(
        wrong.text.contains("Line 2, <code>action</code>: ") && wrong.text.contains("allowed are")
    );
    let download = admin.post(PAGE, &[("text", &changed), ("do", "download")], &[]).await;
    assert_eq!((download.status, &download.text), (200, &changed));
    let disposition = download.headers["content-disposition"].to_str().unwrap();
    assert_eq!(disposition, "attachment; filename=\"subscription.toml\"");
    // The draft did not take effect.
    let page = admin.get(PAGE).await;
    assert!(page.text.contains("signedUp") && !page.text.contains("joined"));

    let other = admin.get("/console/subscriptions/default/Contacts%20%2F%20all").await;
    assert_eq!(other.status, 200, "{}", other.text);
    for path in ["/console/subscriptions/default/gone", "/console/subscriptions/gone/Signed%20up"] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    let page = admin.get(&format!("{PAGE}?message=x")).await;
    assert_eq!(page.status, 400);
    let long = "x".repeat(300 * 1024);
    assert_eq!(admin.post(PAGE, &[("text", &long)], &[]).await.status, 413);
}

#[tokio::test]
async fn a_viewer_learns_nothing_of_contents() {
    let loops = ScriptedLoops::willing().await;
    let service = with_messages(&setup(&loops)).await;
    let viewer = Visitor::with(&service, crate::console::VIEWER_TOKEN).await;
    let page = viewer.get(PAGE).await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("It takes 2 of the messages that were examined"), "{}", page.text);
    assert!(!page.text.contains("people.example.test") && !page.text.contains("<textarea"));
    let form =
        [("text", "name: x\naction: sendEvent\ntrigger: contains(properties.email, \"m1\")")];
    assert_eq!(viewer.post(PAGE, &form, &[]).await.status, 403);
    let request = service.request(Method::POST, "/api/compare");
    let request = request.bearer_auth(crate::console::VIEWER_TOKEN);
    assert_ne!(Service::answer(request.body("{}")).await.status, 200);
}

#[tokio::test]
async fn contents_are_not_logged() {
    let loops = ScriptedLoops::willing().await;
    let service = with_messages(&setup(&loops).env("SEGMENT_LOOPS__LOG__LEVEL", "debug")).await;
    let answer = ask(&service, &json!({"subscription": "Signed up", "text": SIGNED_UP})).await;
    assert!(answer.body.to_string().contains("people.example.test"));
    let log = service.log().iter().map(Value::to_string).collect::<String>();
    assert!(!log.contains("people.example.test"));
}
