//! What senders, and Loops, could write to have a page run or load something. It must be shown as the text it is.

use std::collections::BTreeSet;

use reqwest::Method;
use segment_loops::clock::{Clock as _, SystemClock};
use segment_loops::feedback::{ID_HEADER, Key, SIGNATURE_HEADER, TIMESTAMP_HEADER, sign};
use segment_loops::secret::Secret;
use serde_json::{Map, Value, json};

use super::Site;
use crate::support::{ADMIN_TOKEN, Reply, ScriptedLoops, Seen, Service, Setup};

/// Stands for half of a surrogate pair, which no string of this language can hold.
const HALF: char = '\u{f8ff}';

/// Each would call `canary`, or reach another origin, if it was taken for more than text.
pub(super) const TEXTS: &[&str] = &[
    "<script>canary()</script>",
    "<ScRiPt/x>canary()</sCrIpT >",
    "\"><script>canary()</script>",
    "'><img src=x onerror=\"canary()\">",
    "\" autofocus onfocus=\"canary()\" x=\"",
    "' autofocus onfocus='canary()' x='",
    "` autofocus onfocus=`canary()` x=`",
    "x autofocus onfocus=canary() tabindex=1",
    "<img src=x onerror=canary()>",
    "<img src=https://example.com/x.png>",
    "<svg onload=canary()>",
    "<svg><script>canary()</script></svg>",
    "<svg><a xlink:href=\"javascript:canary()\"><text>a</text></a></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=canary()>",
    "<iframe srcdoc=\"<script>parent.canary()</script>\">",
    "<a href=\"javascript:canary()\" autofocus onfocus=canary()>a</a>",
    "<form action=https://example.com><button autofocus>a</button></form>",
    "<meta http-equiv=refresh content=\"0;url=https://example.com\">",
    "<base href=https://example.com/>",
    "<link rel=stylesheet href=https://example.com/x.css>",
    "<style>@import 'https://example.com/x.css'</style>",
    "<div style=\"width: expression(canary()); background: url(javascript:canary())\">",
    "<details open ontoggle=canary()>",
    "javascript:canary()",
    "jaVa\tscript\n:canary()",
    "data:text/html,<script>parent.canary()</script>",
    "</title><script>canary()</script>",
    "</textarea><script>canary()</script>",
    "</script><script>canary()</script>",
    "</code></pre></td></table></main><script>canary()</script>",
    "--><script>canary()</script><!--",
    "<!--><img src=x onerror=canary()>-->",
    "<![CDATA[><script>canary()</script>]]>",
    "{{constructor.constructor('canary()')()}}",
    "${canary()} #{canary()} <%= canary() %> {% raw %}",
    "&lt;script&gt;canary()&lt;/script&gt;",
    "&#60;img src=x onerror=canary()&#62;",
    "\\u003cscript\\u003ecanary()\\u003c/script\\u003e",
    "%3Cscript%3Ecanary()%3C/script%3E",
    "line\u{2028}canary()\u{2029}paragraph",
    "\u{202e}<script>)(yranac</script>\u{202c}",
    "مرحبا <script>canary()</script> שלום",
    "<scr\0ipt>canary()</scr\0ipt>\0",
    "\r\n\r\n<script>canary()</script>\r\nSet-Cookie: x=1",
    "\u{f8ff}<script>canary()</script>",
    "＜script＞canary()＜/script＞",
    LONG,
];

const LONG: &str = "<b onclick=canary()>a text without an end a text without an end a text without an end a \
     text without an end a text without an end a text without an end a text without an end a text without an end a text \
     without an end a text without an end a text without an end a text without an end a text without an end a text \
     without an end a text without an end a text without an end a text without an end a text without an end a text \
     without an end a text without an end a text without an end a text without an end a text without an end a text \
     without an end a text without an end a text without an end a text without an end <script>canary()</script>";

/// JSON as a sender writes it.
fn written(value: &Value) -> String {
    value.to_string().replace(HALF, "\\ud800")
}

/// A text as it is found in a page: half of a pair is replaced when it is read, and a parser of HTML has line ends of
/// one kind and drops what stands for nothing. Its beginning is enough, where a page cuts what is long.
fn found(text: &str) -> String {
    let text = text.replace(HALF, "\u{fffd}").replace("\r\n", "\n").replace('\0', "");
    text.chars().take(100).collect()
}

/// All of them as the keys and values of an object.
fn all() -> Value {
    let of = |text: &&str| ((*text).to_owned(), json!(text));
    Value::Object(TEXTS.iter().map(of).collect::<Map<_, _>>())
}

/// Refuses what should fail with its own words, and answers questions with hostile texts.
fn reply(seen: &Seen) -> Reply {
    match seen.path.as_str() {
        "/events/send" if seen.body.pointer("/eventProperties/fails").is_some() => {
            let said = json!({"message": seen.body["eventName"]});
            Reply::status(400).with_body(&said.to_string())
        }
        "/contacts/find" => {
            let mut contact = all();
            contact["id"] = json!("c1");
            Reply::ok().with_body(&json!([contact]).to_string())
        }
        "/contacts/suppression" => Reply::ok().with_body(r#"{"isSuppressed": false}"#),
        "/event-patterns" => {
            let names: Vec<Value> = TEXTS.iter().map(|text| json!({"eventName": text})).collect();
            let answer = json!({"data": names, "pagination": {"nextCursor": null}});
            Reply::ok().with_body(&answer.to_string())
        }
        _ => Reply::ok(),
    }
}

pub(super) const SECRET: &str = "whsec_Y2FuYXJ5LWtleS1vZi1sb29wcy13ZWJob29rcw==";

/// Reports something as Loops does.
pub(super) async fn report(service: &Service, destination: &str, id: &str, body: &Value) {
    let key = Key::read(&Secret::new(SECRET)).unwrap();
    let (at, body) = (SystemClock.now().as_second().to_string(), body.to_string());
    let signature = sign(&key, id, &at, body.as_bytes());
    let request = service.request(Method::POST, &format!("/loops/{destination}"));
    let request = request.header(ID_HEADER, id).header(TIMESTAMP_HEADER, at);
    let answer = Service::answer(request.header(SIGNATURE_HEADER, signature).body(body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// How many messages there are of each text.
const OF_EACH: usize = 3;

/// Sends each text in every field that a page shows; returns the number of messages.
async fn send_all(service: &Service) -> usize {
    let mut batch = Vec::new();
    for (index, &text) in TEXTS.iter().enumerate() {
        let common = json!({
            "type": "track", "event": text, "userId": text, "anonymousId": text, "timestamp": text,
            "context": {"ip": text, "userAgent": text, "page": {"url": text, text: text}},
            "integrations": {text: {text: text}}, text: text,
        });
        // One that Loops refuses, one that it takes, and one that no subscription does: it has what is no address.
        for (id, key, value) in [
            (
                format!("{text} {index}"),
                "properties",
                json!({text: text, "fails": true, "list": {text: text}}),
            ),
            (format!("taken {index}"), "properties", json!({text: text})),
            (format!("page {index}"), "traits", json!({"email": text, text: text})),
        ] {
            let mut message = common.clone();
            message["messageId"] = json!(id);
            message[key] = value;
            if key == "traits" {
                message["type"] = json!("page");
                message["name"] = json!(text);
            }
            batch.push(message);
        }
    }
    let nested: Value = TEXTS
        .iter()
        .map(|&text| (text.to_owned(), json!({text: [text]})))
        .collect::<Map<_, _>>()
        .into();
    batch.push(json!({"type": "identify", "userId": "all", "messageId": "all", "traits": all()}));
    batch.push(
        json!({"type": "identify", "userId": "all", "messageId": "nested", "traits": nested}),
    );
    batch.push(json!({
        "type": "page", "userId": "all", "messageId": "page", "name": all(), "category": LONG, "properties": all(),
        "context": all(), "integrations": all(),
    }));
    let count = batch.len();
    // Types that are none are rejected, one by one.
    batch.extend(TEXTS.iter().map(|text| json!({"type": text, "userId": text, "messageId": text})));
    service.accept("/v1/batch", written(&json!({"batch": batch}))).await;
    let began = std::time::Instant::now();
    loop {
        let waiting = service.admin("/api/messages?state=pending").await;
        if waiting.body["messages"].as_array().is_some_and(Vec::is_empty) {
            break;
        }
        assert!(began.elapsed() < crate::support::PATIENCE, "{}", waiting.body);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    for (state, expected) in [("failed", TEXTS.len()), ("delivered", TEXTS.len() + 2)] {
        let list = service.admin(&format!("/api/messages?state={state}&limit=200")).await.body;
        let ids: Vec<&str> = list["messages"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["messageId"].as_str())
            .collect();
        assert_eq!(ids.len(), expected, "{state}: {ids:?}");
    }
    for (index, text) in TEXTS.iter().enumerate() {
        let text = text.replace(HALF, "\u{fffd}");
        let body = json!({
            "eventName": text, "eventTime": SystemClock.now().as_second() + 60,
            "contactIdentity": {"id": text, "email": text, "userId": text},
            "sourceType": "loop", "loopId": text, "loopName": text, "email": {"id": text, "subject": text},
        });
        report(service, "default", &format!("msg_{index}"), &body).await;
    }
    count
}

impl Site {
    /// What senders wrote has become no part of the page, and did not lead elsewhere.
    async fn assert_harmless(&mut self) {
        let path = self.path().await;
        assert_eq!(self.tell(json!({"alien": true})).await, json!([]), "{path}");
        assert_eq!(self.problems().await, Vec::<String>::new(), "{path}");
    }

    /// Opens a page that must be harmless.
    async fn visit(&mut self, path: &str) {
        self.go(path).await;
        self.assert_harmless().await;
    }

    /// Presses a button of the page, if it is there; what follows must be harmless.
    async fn press(&mut self, button: &str) -> bool {
        let is_there = format!("document.querySelector({button:?}) !== null");
        if self.tell(json!({"evaluate": is_there})).await != true {
            return false;
        }
        self.tell(json!({"click": button, "leads": true})).await;
        self.assert_harmless().await;
        true
    }

    /// The addresses of the links that a selector finds.
    async fn links_of(&mut self, selector: &str) -> Vec<String> {
        let script = format!(
            "[...document.querySelectorAll({selector:?})].map((one) => one.getAttribute('href'))"
        );
        serde_json::from_value(self.tell(json!({"evaluate": script})).await).unwrap()
    }

    /// The text of the elements that a selector finds.
    async fn texts_of(&mut self, selector: &str) -> Vec<String> {
        let script =
            format!("[...document.querySelectorAll({selector:?})].map((one) => one.textContent)");
        serde_json::from_value(self.tell(json!({"evaluate": script})).await).unwrap()
    }
}

fn encode(text: &str) -> String {
    text.replace(HALF, "\u{fffd}").bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A visitor of a site that was sent all texts, and how many messages these are.
async fn attacked() -> (Site, usize) {
    let loops = ScriptedLoops::start(reply).await;
    let setup = Setup::with_loops(&loops.base_url).env("LOOPS_WEBHOOK_SECRET", SECRET);
    let mut site = Site::on(loops, &setup).await;
    let count = send_all(&site.service).await;
    // What a page runs, or would if it was allowed to, is noticed.
    site.tell(json!({"visitor": {}})).await;
    site.go("/console/login").await;
    site.tell(json!({"evaluate": "canary('watched')"})).await;
    assert_eq!(site.problems().await, ["canary: watched"]);
    let script = "const script = document.createElement('script'); script.textContent = 'canary()'; \
                  const seen = new Promise((done) => document.addEventListener('securitypolicyviolation', done)); \
                  document.body.append(script); seen.then(() => null)";
    site.tell(json!({"evaluate": script})).await;
    let problems = site.problems().await;
    assert!(problems.iter().any(|problem| problem.starts_with("canary: policy:")), "{problems:?}");
    assert!(!problems.contains(&"canary: it ran".to_owned()), "{problems:?}");
    site.log_in(json!({})).await;
    (site, count)
}

const EDITOR: &str = "/console/subscriptions/default/Send%20an%20event";

#[tokio::test]
async fn nothing_that_senders_write_runs_and_all_of_it_is_shown_as_text() {
    assert!(TEXTS.len() >= 30);
    let (mut site, count) = attacked().await;
    let mut people = BTreeSet::new();
    for number in 1..=count {
        let page = format!("/console/messages/{number}");
        site.visit(&page).await;
        let Some(text) = TEXTS.get((number - 1) / OF_EACH) else {
            assert!(site.press("form[action='#contents'] button").await, "{page}");
            continue;
        };
        match number % OF_EACH {
            1 => {
                let title = site.texts_of("h1").await.concat();
                assert!(title.contains(&found(text)), "{title:?} is not {text:?}");
                let notes = site.texts_of(".timeline code").await;
                assert!(
                    notes.iter().any(|note| note.contains(&found(text))),
                    "{notes:?}: {text:?}"
                );
                assert!(site.press("form[action='#contents'] button").await, "{page}");
                let contents = site.texts_of("pre").await.concat();
                let escaped = json!(text.replace(HALF, "\u{fffd}")).to_string();
                assert!(contents.contains(&escaped), "{contents}: {text:?}");
            }
            2 => assert!(site.press("input[value=events] + button").await, "{page}"),
            _ => people.extend(site.links_of("a[href^='/console/people/']").await),
        }
        assert_eq!(site.path().await.split('#').next().unwrap(), page);
    }
    assert_eq!(people.len(), TEXTS.len());
    let mut ids = Vec::new();
    for (index, person) in people.iter().enumerate() {
        site.visit(person).await;
        assert!(site.press("input[value=ids] + button").await, "{person}");
        ids.extend(site.texts_of("td[data-label=Id]").await);
        let digests = person.trim_start_matches("/console/people/");
        site.visit(&format!("{EDITOR}?person={digests}")).await;
        assert_eq!(site.texts_of(".compared > li").await.len(), 2, "{person}");
        // These are the same for all.
        if index == 0 {
            site.visit(person).await;
            assert!(site.press("input[value=contact] + button").await, "{person}");
            let held = site.texts_of("td[data-label=Held]").await.concat();
            assert!(TEXTS.iter().all(|text| held.contains(&json!(text).to_string())), "{held}");
            site.visit(&format!("{person}/erase")).await;
        }
    }
    for text in TEXTS {
        assert!(ids.iter().any(|id| id.contains(&found(text))), "{text:?} is none of {ids:?}");
    }
    for page in ["", "/messages", "/messages?state=failed", "/failures", "/subscriptions"] {
        site.visit(&format!("/console{page}")).await;
    }
}

#[tokio::test]
async fn nothing_in_an_address_or_on_record_runs() {
    let (mut site, _) = attacked().await;
    for (index, &text) in TEXTS.iter().enumerate() {
        let encoded = encode(text);
        site.visit(&format!("/console/replay?event={encoded}")).await;
        let replay = site.service.request(Method::POST, "/api/replay").bearer_auth(ADMIN_TOKEN);
        let body = json!({"event": text.replace(HALF, "\u{fffd}"), "state": "failed"});
        let done = Service::answer(replay.body(body.to_string())).await;
        assert_eq!(done.status, 200, "{done:?}");
        // The pages show what was done last.
        if index % 15 == 14 || index + 1 == TEXTS.len() {
            for page in ["settings", "replay"] {
                site.visit(&format!("/console/{page}")).await;
                let shown = site.texts_of("td").await.concat();
                let escaped = json!(found(text)).to_string();
                let is_shown = shown.contains(escaped.trim_matches('"'));
                assert!(is_shown || shown.contains(&found(text)), "{page}: {text:?}: {shown}");
            }
        }
        if index % 5 == 0 {
            site.visit(&format!("/console/messages?event={encoded}")).await;
            site.visit(&format!("/console/messages?type={encoded}")).await;
            // Nothing is at such an address.
            site.visit(&format!("/console/{encoded}")).await;
            site.tell(json!({"fill": ["#q", text]})).await;
            site.tell(json!({"press": "Enter", "leads": true})).await;
            site.assert_harmless().await;
        }
    }
    // A visitor who is logged out is led back after the login.
    site.tell(json!({"visitor": {}})).await;
    for &text in TEXTS {
        site.visit(&format!("/console/login?next=/console/{}", encode(text))).await;
    }
}

#[tokio::test]
async fn nothing_that_is_typed_in_the_editor_runs() {
    let (mut site, _) = attacked().await;
    site.visit(EDITOR).await;
    let draft =
        json!({"name": "Send an event", "action": TEXTS[0], "events": TEXTS, LONG: TEXTS[8]});
    site.tell(json!({"fill": ["#text", draft.to_string()]})).await;
    site.tell(json!({"wait": "#problems li"})).await;
    site.assert_harmless().await;
    let draft = json!({
        "name": "Send an event", "action": "sendEvent", "events": TEXTS, "mapping": {"eventName": TEXTS[0]},
    });
    site.tell(json!({"fill": ["#text", draft.to_string()]})).await;
    site.tell(json!({"wait": "#result ins:has-text('canary')"})).await;
    site.assert_harmless().await;
    assert!(site.press("button[value='1000']").await);
}
