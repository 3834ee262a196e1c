//! The catalogue of names at Loops: a delivery suggests the name that was probably meant, the program reads the
//! catalogue again before it acts on it, and no response about the catalogue prevents a delivery.

use std::sync::{Arc, Mutex};

use segment_loops::clock::SystemClock;
use segment_loops::sandbox::{Sandbox, SandboxOptions};
use serde_json::{Value, json};

use crate::console::Visitor;
use crate::support::{ADMIN_TOKEN, PATIENCE, Reply, ScriptedLoops, Seen, Service, Setup};

const NEWS: &str = "newsnewsnewsnewsnews1";

/// The names of a team at Loops, and the requests for them.
#[derive(Default)]
struct Team {
    properties: Vec<(String, &'static str)>,
    lists: Vec<(&'static str, String)>,
    events: Vec<&'static str>,
    asked: Vec<String>,
}

#[derive(Clone, Default)]
struct SharedTeam(Arc<Mutex<Team>>);

impl SharedTeam {
    fn new() -> Self {
        let team = Self::default();
        team.change(|team| {
            team.properties =
                vec![("planName".to_owned(), "string"), ("seats".to_owned(), "number")];
            team.lists = vec![(NEWS, "Product news".to_owned()), ("b", "Beta".to_owned())];
            team.events = vec!["Signed Up"];
        });
        team
    }

    fn change<T>(&self, change: impl FnOnce(&mut Team) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// The paths of the requests for the catalogue.
    fn asked(&self) -> Vec<String> {
        self.change(|team| team.asked.clone())
    }

    fn asked_for(&self, path: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == path).count()
    }

    fn answer(&self, seen: &Seen) -> Reply {
        self.change(|team| {
            team.asked.push(format!("{} {}", seen.method, seen.path));
            if seen.method == "POST" {
                let text = |key: &str| seen.body[key].as_str().unwrap().to_owned();
                team.properties.push((text("name"), "number"));
                return Reply::ok();
            }
            let body: Value = match seen.path.as_str() {
                "/contacts/properties" => team
                    .properties
                    .iter()
                    .map(|(name, kind)| json!({"key": name, "label": name, "type": kind}))
                    .collect(),
                "/lists" => {
                    let lists = team.lists.iter();
                    lists.map(|(id, name)| json!({"id": id, "name": name})).collect()
                }
                _ => {
                    let events = team.events.iter().map(|name| json!({"eventName": name}));
                    let events: Value = events.collect();
                    json!({"data": events, "pagination": {"nextCursor": null}})
                }
            };
            Reply::ok().with_body(&body.to_string())
        })
    }
}

async fn loops_of(team: &SharedTeam) -> ScriptedLoops {
    let loops = ScriptedLoops::willing().await;
    let team = team.clone();
    loops.catalogue(move |seen| team.answer(seen));
    loops
}

fn setup(loops: &ScriptedLoops, options: &str) -> Setup {
    let text = format!("[destinations.default]\n{options}\n");
    Setup::with_loops(&loops.base_url).config(&text)
}

/// Waits until the process has a catalogue.
async fn has_catalogue(service: &Service) {
    let shown = async {
        loop {
            let metrics = service.admin("/metrics").await.body;
            if metrics.as_str().unwrap().contains("catalogue_age_seconds{destination=\"default\"}")
            {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.expect("no catalogue was read");
}

/// Sends traits of a new person, and returns the body that reached Loops and the warnings.
async fn sent(
    service: &Service,
    loops: &mut ScriptedLoops,
    id: &str,
    traits: Value,
) -> (Value, Vec<String>) {
    let message = json!({"messageId": id, "userId": id, "traits": traits});
    service.accept("/v1/identify", message).await;
    let body = loops.next().await.body;
    (body, warnings(service, id).await)
}

async fn warnings(service: &Service, id: &str) -> Vec<String> {
    let message = service.message(id, |message| message["state"] != "pending").await;
    let warnings = message["deliveries"][0]["warnings"].as_array().unwrap().iter();
    warnings.map(|one| one.as_str().unwrap().to_owned()).collect()
}

async fn says_in_preview(service: &Service) {
    let message = json!({"type": "identify", "userId": "u", "traits": {"planNam": 1}});
    let request = service.request(reqwest::Method::POST, "/api/preview");
    let request = request.bearer_auth(ADMIN_TOKEN).body(message.to_string());
    let previewed = Service::answer(request).await;
    assert!(previewed.body.to_string().contains("did you mean `planName`?"), "{previewed:?}");
}

#[tokio::test]
async fn a_delivery_says_what_is_probably_meant_and_its_body_stays() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let service = setup(&loops, "").start();
    has_catalogue(&service).await;
    assert_eq!(team.asked(), ["GET /contacts/properties", "GET /lists", "GET /event-patterns"]);
    let (body, warned) =
        sent(&service, &mut loops, "a", json!({"plan_name": "pro", "seats": "3"})).await;
    assert_eq!((&body["plan_name"], &body["seats"]), (&json!("pro"), &json!("3")));
    assert_eq!(
        warned,
        [
            "contact properties: Loops has no property `plan_name` (did you mean `planName`?)",
            "contact properties: `seats` has the type number at Loops, and another one here",
        ]
    );
    let track = json!({"messageId": "b", "userId": "a", "event": "signed up"});
    service.accept("/v1/track", track).await;
    loops.next().await;
    let warned = warnings(&service, "b").await;
    assert!(warned[0].contains("sending creates it (did you mean `Signed Up`?)"), "{warned:?}");
    // The page that tries a message shows the suggestion as well.
    says_in_preview(&service).await;
}

#[tokio::test]
async fn nothing_that_loops_answers_about_its_names_keeps_a_message_from_being_delivered() {
    let many: Vec<Value> = (0..10_000)
        .map(|n| json!({"key": format!("p{n}"), "label": "p", "type": "string"}))
        .collect();
    let many = Value::from(many).to_string();
    let page = r#"{"data": [{"eventName": "again"}], "pagination": {"nextCursor": "CURSOR"}}"#;
    // The reply to each request, the largest number of requests, and whether there is a catalogue afterwards.
    type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;
    let number = Mutex::new(0);
    let scripts: Vec<(Script, usize, bool)> = vec![
        (Box::new(|_| Reply::status(401)), 1, false),
        (Box::new(|_| Reply::status(500)), 1, false),
        (Box::new(|_| Reply::status(404)), 3, false),
        (Box::new(|_| Reply::ok().with_body("<html>")), 3, false),
        (Box::new(|_| Reply::ok().with_body(r#"[{"key": 1}, null, "x"]"#)), 3, false),
        (Box::new(|_| Reply::Silence), 1, false),
        (
            Box::new(move |seen| match seen.path.as_str() {
                "/event-patterns" => {
                    let mut number = number.lock().unwrap();
                    *number += 1;
                    Reply::ok().with_body(&page.replace("CURSOR", &number.to_string()))
                }
                _ => Reply::ok().with_body("[]"),
            }),
            2 + 40,
            true,
        ),
        (
            Box::new(move |seen| match seen.path.as_str() {
                "/event-patterns" => Reply::ok().with_body(page),
                "/lists" => Reply::ok().with_body("[]"),
                _ => Reply::ok().with_body(&many),
            }),
            2 + 2,
            true,
        ),
    ];
    for (case, (mut script, most, is_read)) in scripts.into_iter().enumerate() {
        let asked = Arc::new(Mutex::new(0));
        let mut loops = ScriptedLoops::willing().await;
        let counter = Arc::clone(&asked);
        loops.catalogue(move |seen| {
            *counter.lock().unwrap() += 1;
            script(seen)
        });
        let service = setup(&loops, "").start();
        if is_read {
            has_catalogue(&service).await;
        }
        for n in 0..3 {
            let (body, warned) =
                sent(&service, &mut loops, &format!("m{n}"), json!({"plan": n})).await;
            assert_eq!(body["plan"], json!(n), "case {case}");
            assert_eq!(warned.is_empty(), !is_read, "case {case}: {warned:?}");
        }
        let asked = *asked.lock().unwrap();
        assert!((1..=most).contains(&asked), "case {case}: asked {asked} times");
        let paused = service.admin("/metrics").await.body;
        assert!(
            !paused.as_str().unwrap().contains("destination_paused{destination=\"default\"} 1")
        );
    }
}

#[tokio::test]
async fn a_failure_is_logged_once_and_the_end_of_it() {
    let loops = ScriptedLoops::willing().await;
    let team = SharedTeam::new();
    let asked = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&asked);
    loops.catalogue(move |seen| {
        let mut asked = counter.lock().unwrap();
        *asked += 1;
        if *asked <= 2 { Reply::status(500) } else { team.answer(seen) }
    });
    let service = setup(&loops, "catalogue_refresh_s = 1").start();
    service.logged(|line| line["message"] == "the catalogue of Loops can be read again").await;
    let failed = service.log();
    let failed = failed.iter().filter(|line| {
        line["message"].as_str().is_some_and(|text| text.contains("catalogue of Loops cannot"))
    });
    assert_eq!(failed.count(), 1);
}

#[tokio::test]
async fn after_a_restart_the_last_catalogue_counts_though_loops_says_nothing() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let setup = setup(&loops, "");
    let service = setup.start();
    has_catalogue(&service).await;
    let before = team.asked().len();
    loops.catalogue(|_| Reply::status(500));
    let service = service.crash_and_restart(&setup);
    let (_, warned) = sent(&service, &mut loops, "a", json!({"planNam": 1})).await;
    assert!(warned[0].contains("`planName`"), "{warned:?}");
    assert_eq!(team.asked().len(), before, "it is not yet due");
}

#[tokio::test]
async fn a_key_of_another_team_starts_a_new_catalogue() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let setup = setup(&loops, "");
    let service = setup.start();
    has_catalogue(&service).await;
    loops.catalogue(|_| Reply::status(500));
    let service = service.crash_and_restart(&setup.clone().env("LOOPS_API_KEY", "of-another-team"));
    let (_, warned) = sent(&service, &mut loops, "a", json!({"planNam": 1})).await;
    assert_eq!(warned, [""; 0]);
}

#[tokio::test]
async fn a_catalogue_that_is_off_asks_nothing_and_warns_of_nothing() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let on = setup(&loops, "");
    let service = on.start();
    has_catalogue(&service).await;
    let before = team.asked().len();
    let off = setup(&loops, "catalogue_refresh_s = 0");
    let mut service = service.crash_and_restart(&off);
    let (_, warned) = sent(&service, &mut loops, "a", json!({"planNam": 1})).await;
    assert_eq!((warned, team.asked().len()), (vec![], before));
    service.stop().await;
}

#[tokio::test]
async fn a_property_that_was_created_a_moment_ago_is_not_left_out() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let service = setup(&loops, "unknown_properties = \"omit\"").start();
    has_catalogue(&service).await;
    team.change(|team| team.properties.push(("score".to_owned(), "number")));
    let (body, warned) = sent(&service, &mut loops, "a", json!({"score": 1})).await;
    assert_eq!((&body["score"], warned.len()), (&json!(1), 0));
    // Within a minute, the catalogue is not read again.
    for id in ["b", "c"] {
        let (body, warned) = sent(&service, &mut loops, id, json!({"scroe": 1, "seats": 3})).await;
        assert_eq!((body.get("scroe"), &body["seats"]), (None, &json!(3)));
        assert!(warned[0].contains("left out") && warned[0].contains("`score`"), "{warned:?}");
    }
    assert_eq!(team.asked_for("GET /contacts/properties"), 2);
}

#[tokio::test]
async fn nothing_is_left_out_if_the_properties_cannot_be_read_again() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let service = setup(&loops, "unknown_properties = \"fail\"\nwrong_types = \"omit\"").start();
    has_catalogue(&service).await;
    loops.catalogue(|_| Reply::status(401));
    let (body, warned) = sent(&service, &mut loops, "a", json!({"x": 1, "seats": "3"})).await;
    assert_eq!((&body["x"], &body["seats"], warned.len()), (&json!(1), &json!("3"), 2));
}

#[tokio::test]
async fn a_catalogue_switched_off_by_a_reload_delays_no_message() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let service = setup(&loops, "unknown_properties = \"omit\"").start();
    has_catalogue(&service).await;
    let off = "[destinations.default]\nunknown_properties = \"omit\"\ncatalogue_refresh_s = 0\n";
    service.write_config(off);
    let request = service.request(reqwest::Method::POST, "/api/reload");
    assert_eq!(Service::answer(request.bearer_auth(ADMIN_TOKEN)).await.status, 200);
    let (body, warned) = sent(&service, &mut loops, "a", json!({"score": 1})).await;
    assert_eq!((&body["score"], warned.len()), (&json!(1), 0));
}

#[tokio::test]
async fn a_failed_delivery_says_what_is_meant_and_can_be_replayed() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let service = setup(&loops, "unknown_properties = \"fail\"").start();
    has_catalogue(&service).await;
    let message = json!({"messageId": "a", "userId": "a", "traits": {"planNam": "pro"}});
    service.accept("/v1/identify", message).await;
    let failed = service.message("a", |message| message["state"] == "failed").await;
    let detail = failed["deliveries"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("`planNam` (did you mean `planName`?)"), "{failed}");
    assert!(loops.rest().is_empty());
}

#[tokio::test]
async fn a_property_that_loops_lacks_is_created_once_and_listed() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let service = setup(&loops, "unknown_properties = \"create\"").start();
    has_catalogue(&service).await;
    let traits = json!({"score": 7, "not_camel": 1});
    let (body, warned) = sent(&service, &mut loops, "a", traits).await;
    assert_eq!((&body["score"], &body["not_camel"]), (&json!(7), &json!(1)));
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("`not_camel`"), "{warned:?}");
    assert!(team.change(|team| team.properties.contains(&("score".to_owned(), "number"))));
    let audit = service.admin("/api/audit").await.body.to_string();
    assert!(audit.contains("create_property") && audit.contains("created"), "{audit}");
    // If Loops refuses to create the property, the message is sent unchanged, and the creation is not tried again.
    let (counter, asked) = (team.clone(), Arc::new(Mutex::new(0)));
    let posts = Arc::clone(&asked);
    loops.catalogue(move |seen| match seen.method.as_str() {
        "POST" => {
            *posts.lock().unwrap() += 1;
            Reply::status(400)
        }
        _ => counter.answer(seen),
    });
    for id in ["b", "c"] {
        let (body, warned) = sent(&service, &mut loops, id, json!({"refused": 1})).await;
        assert_eq!((&body["refused"], warned.len()), (&json!(1), 1), "{warned:?}");
    }
    assert_eq!(*asked.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_mapping_may_name_a_list_and_the_first_message_waits_for_its_id() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let options = r#"
[[destinations.default.subscriptions]]
name = "News"
action = "createOrUpdateContact"
trigger = 'type = "identify"'
[destinations.default.subscriptions.mapping]
userId = { "@path" = "$.userId" }
mailingLists = { "Product news" = true, "Beta" = false }
customAttributes = { "@path" = "$.traits" }
"#;
    let setup = setup(&loops, options);
    let service = setup.start();
    let (body, warned) = sent(&service, &mut loops, "a", json!({})).await;
    assert_eq!(body["mailingLists"], json!({NEWS: true, "b": false}));
    assert_eq!(warned, [""; 0]);
    // After the list was renamed, its former name still works.
    team.change(|team| team.lists[0].1 = "Updates".to_owned());
    let eager = format!("catalogue_refresh_s = 1\n{options}");
    let setup = self::setup(&loops, &eager);
    let service = service.crash_and_restart(&setup);
    let renamed = async {
        for n in 0.. {
            let (body, warned) = sent(&service, &mut loops, &format!("b{n}"), json!({})).await;
            assert_eq!(body["mailingLists"], json!({NEWS: true, "b": false}));
            if warned.iter().any(|one| one.contains("is called `Updates`")) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renamed).await.expect("the new name was not noticed");
}

#[tokio::test]
async fn a_property_that_changes_its_type_is_noticed() {
    let team = SharedTeam::new();
    let mut loops = loops_of(&team).await;
    let service = setup(&loops, "catalogue_refresh_s = 1").start();
    has_catalogue(&service).await;
    let (_, warned) = sent(&service, &mut loops, "a", json!({"seats": 3})).await;
    assert_eq!(warned, [""; 0]);
    team.change(|team| team.properties[1].1 = "string");
    let noticed = async {
        for n in 0.. {
            let (body, warned) =
                sent(&service, &mut loops, &format!("b{n}"), json!({"seats": 3})).await;
            assert_eq!(body["seats"], json!(3));
            if warned.iter().any(|one| one.contains("has the type string at Loops")) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.expect("the new type was not noticed");
}

#[tokio::test]
async fn two_destinations_have_a_catalogue_each() {
    let (one, other) = (SharedTeam::new(), SharedTeam::new());
    other.change(|team| team.properties = vec![("level".to_owned(), "string")]);
    let (mut loops, mut second) = (loops_of(&one).await, loops_of(&other).await);
    let config = format!(
        r#"
[destinations.second]
api_key = "of-the-second"
base_url = "{}"
rate = 1000
[sources.second]
write_keys = ["wk-second"]
destination = "second"
[sources.default]
destination = "default"
"#,
        second.base_url
    );
    let service = Setup::with_loops(&loops.base_url).config(&config).start();
    has_catalogue(&service).await;
    let shown = async {
        while other.asked().len() < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.expect("the second was not asked");
    let (_, warned) = sent(&service, &mut loops, "a", json!({"leevl": 1, "planNam": 1})).await;
    assert!(warned[0].ends_with("`leevl`") && warned[1].contains("`planName`"), "{warned:?}");
    let message = json!({
        "messageId": "b", "userId": "b", "writeKey": "wk-second",
        "traits": {"leevl": 1, "planNam": 1},
    });
    let request = service.request(reqwest::Method::POST, "/v1/identify");
    let answer = Service::answer(request.body(message.to_string())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    second.next().await;
    let warned = warnings(&service, "b").await;
    assert!(warned[0].contains("`level`") && warned[1].ends_with("`planNam`"), "{warned:?}");
}

#[tokio::test]
async fn a_process_that_does_not_deliver_has_the_same_catalogue() {
    let team = SharedTeam::new();
    let loops = loops_of(&team).await;
    let data = tempfile::tempdir().unwrap();
    let setup =
        setup(&loops, "").env("SEGMENT_LOOPS__DELIVERY__LEASE_TTL_MS", "20000").data(data.path());
    let first = setup.start();
    has_catalogue(&first).await;
    let second = setup.start();
    has_catalogue(&second).await;
    says_in_preview(&second).await;
    assert_eq!(team.asked().len(), 3, "only the holder of the lease asks");
}

#[tokio::test]
async fn the_catalogue_is_read_after_the_waiting_messages_are_sent() {
    let team = SharedTeam::new();
    let mut loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/api-key" => Reply::status(401),
        _ => Reply::ok(),
    })
    .await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&order);
    let answering = team.clone();
    loops.catalogue(move |seen| {
        asked.lock().unwrap().push(seen.path.clone());
        answering.answer(seen)
    });
    let setup = setup(&loops, "rate = 5").without_rate();
    let service = setup.start();
    for n in 0..15 {
        let message =
            json!({"messageId": format!("m{n}"), "userId": format!("u{n}"), "event": "e"});
        service.accept("/v1/track", message).await;
    }
    assert!(loops.rest().is_empty() && order.lock().unwrap().is_empty(), "the key is wrong");
    let sent = Arc::clone(&order);
    loops.now(move |seen| {
        if seen.path == "/events/send" {
            sent.lock().unwrap().push(seen.path.clone());
        }
        Reply::ok()
    });
    let service = service.crash_and_restart(&setup);
    has_catalogue(&service).await;
    let order = order.lock().unwrap().clone();
    assert_eq!(order[..15], vec!["/events/send"; 15], "{order:?}");
    assert_eq!(order[15], "/contacts/properties");
}

#[tokio::test]
async fn the_sandbox_has_names_that_a_delivery_can_be_compared_with() {
    let sandbox = Sandbox::new(SandboxOptions::default(), Arc::new(SystemClock));
    let address = crate::support::serve_on_loopback(sandbox.router()).await;
    let service = Setup::with_loops(&format!("http://{address}/api/v1")).start();
    has_catalogue(&service).await;
    let traits = json!({"email": "ada@example.com", "first_name": "Ada", "mailingLists": {"newsletter": true}});
    let message = json!({"messageId": "a", "userId": "a", "traits": traits});
    service.accept("/v1/identify", message).await;
    let warned = warnings(&service, "a").await;
    assert!(warned[0].contains("did you mean `firstName`?"), "{warned:?}");
    assert!(warned[1].contains("the list `Newsletter`"), "{warned:?}");
}

#[tokio::test]
async fn the_page_of_subscriptions_shows_what_loops_has_and_what_it_lacks() {
    let team = SharedTeam::new();
    let loops = loops_of(&team).await;
    let options = r#"
[[destinations.default.subscriptions]]
name = "News"
action = "createOrUpdateContact"
trigger = 'type = "identify"'
[destinations.default.subscriptions.mapping]
userId = { "@path" = "$.userId" }
mailingLists = { "product news" = true }
customAttributes = { planNam = "pro" }
"#;
    let service = setup(&loops, options).start();
    has_catalogue(&service).await;
    let page = Visitor::with(&service, ADMIN_TOKEN).await.get("/console/subscriptions").await;
    for words in [
        "Loops has 2 contact properties, 2 mailing lists, 1 event, as read ",
        "no contact property `planNam` (did you mean `planName`?)",
        "no mailing list `product news` (did you mean `Product news`?)",
    ] {
        assert!(page.text.contains(words), "no {words}: {}", page.text);
    }
}
