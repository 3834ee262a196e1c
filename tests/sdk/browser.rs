//! analytics.js in a real browser, in a page on another origin: it needs nothing but our address.

use std::path::Path;

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::{Html, IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::front::Front;
use crate::room::{fill, with_little_room};
use crate::script::Script;
use crate::support::{ADMIN_TOKEN, EMAIL_DOMAIN, ScriptedLoops, Service, Setup, serve_on_loopback};

/// A browser wants the machine for itself.
static BROWSER: Mutex<()> = Mutex::const_new(());

/// The public write key of the page.
const KEY: &str = "page";

/// A page in a browser, the program, and what stands between them.
struct Site {
    loops: ScriptedLoops,
    service: Service,
    front: Front,
    browser: Script,
    origin: String,
    _profile: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Site {
    async fn open() -> Self {
        Self::open_with(|setup| setup).await
    }

    async fn open_with(set: impl FnOnce(Setup) -> Setup) -> Self {
        let alone = BROWSER.lock().await;
        let loops = ScriptedLoops::willing().await;
        let page = Router::new().fallback(page);
        let origin = format!("http://{}", serve_on_loopback(page).await);
        let config = format!(
            r#"
            [sources.page]
            browser = true
            write_keys = ["{KEY}"]
            origins = ["{origin}"]
            stamp_ip = true

            [sources.narrow]
            browser = true
            write_keys = ["narrow"]
            address_requests_max = 1

            [sources.elsewhere]
            browser = true
            write_keys = ["elsewhere"]
            origins = ["https://shop.example"]
            "#
        );
        let service = set(Setup::with_loops(&loops.base_url)).config(&config).start();
        let front = Front::before(&service.base_url).await;
        let profile = tempfile::tempdir().unwrap();
        let browser = Script::browser("browser.js", profile.path());
        let mut site =
            Self { loops, service, front, browser, origin, _profile: profile, _alone: alone };
        site.visit().await;
        site
    }

    async fn ask(&mut self, line: Value) -> Value {
        self.browser.tell(&line);
        let answer: Value = serde_json::from_str(&self.browser.line().await).unwrap();
        assert_eq!(answer.get("error"), None, "{line}");
        answer["value"].clone()
    }

    /// Opens the page.
    async fn visit(&mut self) {
        self.ask(json!({"open": format!("{}/", self.origin)})).await;
    }

    /// Goes to a page on another origin.
    async fn leave(&mut self) {
        self.ask(json!({"open": "about:blank"})).await;
    }

    async fn evaluate(&mut self, text: &str) -> Value {
        self.ask(json!({"evaluate": text})).await
    }

    /// Loads analytics.js with our address, and nothing else of ours, and waits until it is ready.
    async fn load(&mut self, options: &str) {
        let settings = json!({"writeKey": KEY, "cdnURL": self.front.base_url});
        let text = format!(
            "window.analytics = AnalyticsNext.AnalyticsBrowser.load({settings}, {options}); analytics.then(() => true)"
        );
        assert_eq!(self.evaluate(&text).await, true);
    }

    /// Makes a call; gives the message id that analytics.js made.
    async fn call(&mut self, call: &str) -> String {
        let text = format!("analytics.{call}.then((context) => context.event.messageId)");
        self.evaluate(&text).await.as_str().unwrap().to_owned()
    }

    /// How often a request was made.
    fn count(&self, request: &str) -> usize {
        self.front.requests().iter().filter(|seen| *seen == request).count()
    }

    /// What is stored of a message, which must be there once and done with.
    async fn stored(&self, id: &str) -> Value {
        self.service.message(id, |found| !found.is_null() && found["state"] != "pending").await;
        let stored = self.service.stored().await;
        assert_eq!(stored[id].len(), 1, "{id}");
        stored[id][0].clone()
    }
}

/// The page, and analytics.js as its package has it.
async fn page(uri: Uri) -> Response {
    let name = uri.path().trim_start_matches('/');
    if name.is_empty() {
        return Html("<!doctype html><title>Shop</title><link rel=icon href=data:,><script src=/index.js></script>")
            .into_response();
    }
    let package = "tests/sdk/node_modules/@segment/analytics-next/dist/umd";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(package);
    match std::fs::read(folder.join(name)) {
        Ok(script) => ([(header::CONTENT_TYPE, "text/javascript")], script).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

#[tokio::test]
async fn every_call_arrives_once() {
    let mut site = Site::open().await;
    site.load("{}").await;
    let identify = format!(
        "identify('u1', {{email: 'u1@{EMAIL_DOMAIN}', plan: 'pro', seats: 7, note: 'identify'}})"
    );
    let identify = site.call(&identify).await;
    let mut tracks = Vec::new();
    for number in 0..5 {
        let call = format!("track('Tested', {{amount: 12.5, note: 'track {number}'}})");
        tracks.push(site.call(&call).await);
    }
    let page = site.call("page('Shop', 'Home', {shelf: 3})").await;
    let group = site.call("group('g1', {name: 'Analysts'})").await;
    let alias = site.call("alias('u2', 'u1')").await;

    let stored = site.stored(&identify).await;
    assert_eq!(stored["userId"], "u1");
    assert_eq!(stored["traits"]["plan"], "pro");
    for (number, id) in tracks.iter().enumerate() {
        let stored = site.stored(id).await;
        assert_eq!(stored["type"], "track");
        assert_eq!(stored["userId"], "u1");
        let properties = json!({"amount": 12.5, "note": format!("track {number}")});
        assert_eq!(stored["properties"], properties);
        assert_eq!(stored["context"]["ip"], "127.0.0.1");
        assert_eq!(stored["context"]["page"]["url"], format!("{}/", site.origin));
        assert!(stored["originalTimestamp"].is_string(), "{stored}");
    }
    let stored = site.stored(&page).await;
    assert_eq!((&stored["type"], &stored["name"]), (&json!("page"), &json!("Home")));
    assert_eq!(stored["properties"]["shelf"], 3);
    let stored = site.stored(&group).await;
    assert_eq!((&stored["type"], &stored["groupId"]), (&json!("group"), &json!("g1")));
    let stored = site.stored(&alias).await;
    assert_eq!((&stored["type"], &stored["previousId"]), (&json!("alias"), &json!("u1")));
    assert_eq!(site.service.stored().await.len(), 9, "something was taken twice");

    // Loops had the contact and the events once each.
    let seen = site.loops.rest();
    assert_eq!(seen.len(), 6);
    let contact = seen.iter().find(|seen| seen.path == "/contacts/update").unwrap();
    assert_eq!(contact.body["seats"], 7);
    for number in 0..5 {
        let note = format!("track {number}");
        assert_eq!(seen.iter().filter(|seen| seen.note() == note).count(), 1, "{note}");
    }

    // Short paths, each asked for once before it is used, and nobody else was told anything.
    for (path, calls) in [("i", 1), ("t", 5), ("p", 1), ("g", 1), ("a", 1)] {
        assert_eq!(site.count(&format!("POST /v1/{path}")), calls, "{path}");
        assert_eq!(site.count(&format!("OPTIONS /v1/{path}")), 1, "{path}");
    }
    assert_eq!(site.count(&format!("GET /v1/projects/{KEY}/settings")), 1);
    let origins = site.ask(json!({"origins": true})).await;
    let mut expected = [site.origin.clone(), site.front.base_url.clone()];
    let mut origins: Vec<String> = serde_json::from_value(origins).unwrap();
    origins.sort();
    expected.sort();
    assert_eq!(origins, expected);
    site.browser.end().await;
}

#[tokio::test]
async fn a_batch_is_sent_when_the_page_is_left() {
    let mut site = Site::open().await;
    // Neither the number nor the time of a batch is reached.
    let batching = "{integrations: {'Segment.io': {deliveryStrategy: {strategy: 'batching', config: {size: 100, timeout: 600000}}}}}";
    site.load(batching).await;
    let mut ids = vec![site.call(&format!("identify('u1', {{email: 'u1@{EMAIL_DOMAIN}'}})")).await];
    for number in 0..3 {
        ids.push(site.call(&format!("track('Tested', {{number: {number}}})")).await);
    }
    assert_eq!(site.count("POST /v1/b"), 0);
    site.leave().await;
    for id in &ids {
        assert_eq!(site.stored(id).await["userId"], "u1");
    }
    assert_eq!(site.service.stored().await.len(), ids.len());
    assert_eq!(site.count("POST /v1/b"), 1);
    site.browser.end().await;
}

#[tokio::test]
async fn what_could_not_be_sent_is_sent_by_the_next_page() {
    let mut site = Site::open().await;
    site.load("{}").await;
    // From now on nobody is there.
    site.front.refuse(usize::MAX);
    let id = site.call("track('Tested', {note: 'kept'})").await;
    assert!(site.count("OPTIONS /v1/t") > 0, "it was not tried");
    site.leave().await;
    assert!(site.service.stored().await.is_empty());
    site.front.refuse(0);
    site.visit().await;
    site.load("{}").await;
    assert_eq!(site.stored(&id).await["properties"], json!({"note": "kept"}));
    assert_eq!(site.service.stored().await.len(), 1);
    site.browser.end().await;
}

#[tokio::test]
async fn not_now_is_heard_and_the_call_arrives_once() {
    let mut site = Site::open_with(with_little_room).await;
    site.load("{}").await;
    site.front.hold_until_busy(fill(&site.service).await, 1);
    let id = site.call("track('Tested', {note: 'later'})").await;
    assert_eq!(site.stored(&id).await["properties"], json!({"note": "later"}));
    assert_eq!(site.front.busy(), 1, "it came again too early, or was not told to come again");
    assert_eq!(site.count("POST /v1/t"), 2);
    site.browser.end().await;
}

#[tokio::test]
async fn a_page_can_read_every_answer() {
    let mut site = Site::open().await;
    let large = "'x'.repeat(11 * 1024 * 1024)";
    let track = |key: &str| {
        let message = json!({"event": "Tested", "userId": "u1", "writeKey": key});
        format!("'{message}'")
    };
    let delete = json!({"type": "delete", "userId": "u1", "writeKey": KEY});
    // (path, method, body, more headers) → (status, code)
    let (post, none) = ("POST", "");
    let cases = [
        ("/v1/t", post, track(KEY), none, 200, Value::Null),
        ("/v1/m", post, r#"'{"series":[]}'"#.to_owned(), none, 200, Value::Null),
        ("/v1/t", post, "'{'".to_owned(), none, 400, json!("bad_json")),
        ("/v1/t", post, track("wrong"), none, 401, json!("unauthorized")),
        ("/v1/t", post, track("elsewhere"), none, 403, json!("origin_not_allowed")),
        ("/v1/t", post, format!("'{delete}'"), none, 403, json!("delete_not_allowed")),
        ("/v1/t", post, large.to_owned(), none, 413, json!("too_large")),
        ("/v1/t", post, track(KEY), "'Content-Encoding': 'br'", 415, json!("unknown_encoding")),
        ("/v1/t", post, track("narrow"), none, 200, Value::Null),
        ("/v1/t", post, track("narrow"), none, 429, json!("too_many_requests")),
        ("/v1/nothing", post, track(KEY), none, 404, json!("not_found")),
        ("/v1/t", "GET", "undefined".to_owned(), none, 405, json!("wrong_method")),
        (
            "/v1/projects/wrong/settings",
            "GET",
            "undefined".to_owned(),
            none,
            404,
            json!("unknown_key"),
        ),
        (
            "/v1/projects/elsewhere/settings",
            "GET",
            "undefined".to_owned(),
            none,
            403,
            json!("origin_not_allowed"),
        ),
    ];
    for (path, method, body, headers, status, code) in cases {
        // With the page's cookies, as analytics.js can be told to send: no `*` would do then.
        let text = format!(
            "fetch('{}{path}', {{method: '{method}', body: {body}, headers: {{{headers}}}, credentials: 'include'}}).then(async (answer) => [answer.status, (await answer.json()).code, answer.headers.get('Retry-After')])",
            site.front.base_url
        );
        let answer = site.evaluate(&text).await;
        assert_eq!((&answer[0], &answer[1]), (&json!(status), &code), "{method} {path}: {answer}");
        let wait: Option<u32> = answer[2].as_str().map(|text| text.parse().unwrap());
        assert_eq!(wait.is_some_and(|wait| wait >= 1), status == 429, "{path}: {answer}");
    }
    // The admin API is for no page, whatever token it has.
    let text = format!(
        "fetch('{}/api/messages?userId=u1', {{headers: {{Authorization: 'Bearer {ADMIN_TOKEN}'}}}}).then(() => 'read', () => 'kept')",
        site.front.base_url
    );
    assert_eq!(site.evaluate(&text).await, "kept");
    site.browser.end().await;
}
