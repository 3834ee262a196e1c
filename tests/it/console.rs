//! The console in a browser without scripts: who can log in, and what a page may contain.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, redirect};
use serde_json::json;

use crate::support::{
    ADMIN_TOKEN, PATIENCE, Reply, ScriptedLoops, Service, Setup, identify, track,
};

pub(crate) const VIEWER_TOKEN: &str = "viewer-canary-51aa";

/// A browser at the console of a service.
pub(crate) struct Visitor<'s> {
    service: &'s Service,
    http: Client,
    cookie: Option<String>,
}

/// A page or a redirect.
pub(crate) struct Shown {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl<'s> Visitor<'s> {
    pub(crate) fn new(service: &'s Service) -> Self {
        let http = Client::builder().no_proxy().redirect(redirect::Policy::none());
        Self { service, http: http.build().unwrap(), cookie: None }
    }

    /// A visitor who has logged in with a token.
    pub(crate) async fn with(service: &'s Service, token: &str) -> Self {
        let mut visitor = Self::new(service);
        let answer = visitor.post("/console/login", &[("token", token)], &[]).await;
        assert_eq!((answer.status, answer.location()), (303, "/console"), "{}", answer.text);
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        visitor.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        visitor
    }

    /// Opens a path whose response never ends.
    pub(crate) async fn open(&self, path: &str, more: &[(&'static str, &str)]) -> Response {
        let mut request = self.http.get(format!("{}{path}", self.service.base_url));
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        form: &[(&str, &str)],
        more: &[(&'static str, &str)],
    ) -> Shown {
        let mut request = self.http.request(method, format!("{}{path}", self.service.base_url));
        if !form.is_empty() {
            let of = |(name, value): &(&str, &str)| format!("{name}={}", encode(value));
            let body = form.iter().map(of).collect::<Vec<_>>().join("&");
            request =
                request.header("content-type", "application/x-www-form-urlencoded").body(body);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        for (name, value) in more {
            request = request.header(*name, HeaderValue::from_str(value).unwrap());
        }
        Shown::of(request.timeout(PATIENCE).send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Shown {
        self.send(Method::GET, path, &[], &[]).await
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        form: &[(&str, &str)],
        more: &[(&'static str, &str)],
    ) -> Shown {
        self.send(Method::POST, path, form, more).await
    }

    /// Searches, and returns the page that the search leads to.
    pub(crate) async fn search(&self, wanted: &str) -> Shown {
        let answer = self.post("/console/search", &[("q", wanted)], &[]).await;
        match answer.status {
            303 => self.get(answer.location()).await,
            _ => answer,
        }
    }
}

impl Shown {
    async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) fn location(&self) -> &str {
        self.headers.get("location").map_or("", |location| location.to_str().unwrap())
    }
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

pub(crate) fn set_up(loops: &ScriptedLoops) -> Setup {
    let setup = Setup::with_loops(&loops.base_url).env("VIEWER_TOKEN", VIEWER_TOKEN);
    on_store_of_tests(setup)
}

/// Uses the store that `TEST_STORE` names: SQLite, or a new schema in PostgreSQL. `tests/run` runs the tests of the
/// console with both.
#[allow(clippy::disallowed_methods, reason = "this variable is for the tests alone")]
pub(crate) fn on_store_of_tests(setup: Setup) -> Setup {
    static SCHEMAS: AtomicUsize = AtomicUsize::new(0);
    match std::env::var("TEST_STORE").as_deref() {
        Ok("postgres") => {
            let schema = format!("console_{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
            let setup = setup.env("DATABASE_URL", &crate::postgres::url());
            setup.env("SEGMENT_LOOPS__STORE__SCHEMA", &schema)
        }
        Ok(other) => panic!("TEST_STORE={other}: postgres, or unset for SQLite"),
        Err(_) => setup,
    }
}

#[tokio::test]
async fn only_people_with_a_token_get_in() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let stranger = Visitor::new(&service);
    for (path, login) in [
        ("/console", "/console/login"),
        (
            "/console/messages?state=failed",
            "/console/login?next=/console/messages%3Fstate%3Dfailed",
        ),
        ("/console/messages/1", "/console/login?next=/console/messages/1"),
        ("/console/nothing", "/console/login?next=/console/nothing"),
    ] {
        let answer = stranger.get(path).await;
        assert_eq!((answer.status, answer.location()), (303, login), "{path}");
    }
    let answer = stranger.post("/console/search", &[("q", "u1")], &[]).await;
    assert_eq!((answer.status, answer.location()), (303, "/console/login"));
    let wrong = stranger.post("/console/login", &[("token", "wrong")], &[]).await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.text.contains("This token is not known here"), "{}", wrong.text);
    assert!(!wrong.headers.contains_key("set-cookie"));
    let incomplete = stranger.post("/console/login", &[("key", "wrong")], &[]).await;
    assert_eq!(incomplete.status, 400);
    for token in [ADMIN_TOKEN, VIEWER_TOKEN] {
        let visitor = Visitor::with(&service, token).await;
        assert_eq!(visitor.get("/console/messages").await.status, 200);
        assert_eq!(visitor.get("/console/nothing").await.status, 404);
        // The login leads back to the requested page.
        let form = [("token", token), ("next", "/console/messages/7")];
        let answer = stranger.post("/console/login", &form, &[]).await;
        assert_eq!(answer.location(), "/console/messages/7");
        let form = [("token", token), ("next", "https://example.com/console")];
        assert_eq!(stranger.post("/console/login", &form, &[]).await.location(), "/console");
        let left = visitor.post("/console/logout", &[("x", "")], &[]).await;
        assert!(left.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    }
}

#[tokio::test]
async fn a_session_outlives_a_restart_but_not_its_token() {
    let loops = ScriptedLoops::willing().await;
    let setup = set_up(&loops);
    let service = setup.start();
    let cookie = Visitor::with(&service, ADMIN_TOKEN).await.cookie;
    let service = service.stop_and_restart(&setup).await;
    let visitor = Visitor { cookie: cookie.clone(), ..Visitor::new(&service) };
    assert_eq!(visitor.get("/console/messages").await.status, 200);
    let setup = setup.env("ADMIN_TOKEN", "another admin token");
    let service = service.stop_and_restart(&setup).await;
    let visitor = Visitor { cookie, ..Visitor::new(&service) };
    assert_eq!(visitor.get("/console/messages").await.status, 303);
}

#[tokio::test]
async fn a_cookie_is_out_of_reach_of_scripts_and_of_other_sites() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let visitor = Visitor::new(&service);
    let form = [("token", ADMIN_TOKEN)];
    let plain = visitor.post("/console/login", &form, &[]).await;
    let over_tls = visitor.post("/console/login", &form, &[("x-forwarded-proto", "https")]).await;
    let cookie = |answer: &Shown| answer.headers["set-cookie"].to_str().unwrap().to_owned();
    for attribute in ["Path=/", "HttpOnly", "SameSite=Lax", "Max-Age=43200"] {
        assert!(cookie(&plain).contains(attribute) && cookie(&over_tls).contains(attribute));
    }
    assert!(!cookie(&plain).contains("Secure") && !cookie(&plain).contains(ADMIN_TOKEN));
    assert!(cookie(&over_tls).starts_with("__Host-") && cookie(&over_tls).ends_with("; Secure"));
}

#[tokio::test]
async fn a_form_of_another_site_is_refused() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    for path in ["/console/search", "/console/login", "/console/logout"] {
        for headers in [
            [("sec-fetch-site", "cross-site"), ("origin", "https://example.com")],
            [("sec-fetch-site", "same-site"), ("origin", "https://example.com")],
            [("accept", "*/*"), ("origin", "https://example.com")],
        ] {
            let answer = visitor.post(path, &[("q", "u1"), ("token", ADMIN_TOKEN)], &headers).await;
            assert_eq!(answer.status, 403, "{path} {headers:?}");
            assert!(answer.text.contains(r#""code":"cross_site""#), "{}", answer.text);
        }
    }
    let own = [("sec-fetch-site", "same-origin")];
    assert_ne!(visitor.post("/console/search", &[("q", "u1")], &own).await.status, 403);
}

#[tokio::test]
async fn no_page_runs_or_loads_anything_of_others_and_none_is_kept() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    for path in ["/console/messages", "/console/messages/1", "/console/nothing", "/console/login"] {
        let page = visitor.get(path).await;
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(page.headers["cache-control"], "no-store");
        assert_eq!(page.headers["referrer-policy"], "no-referrer");
        assert_eq!(page.headers["x-content-type-options"], "nosniff");
        let inline = ["<script>", "<style", " style=", " onclick=", " onload="];
        assert!(!inline.iter().any(|inline| page.text.contains(inline)), "{path}");
    }
    let page = visitor.get("/console/messages").await;
    let style = page.text.split('"').find(|part| part.ends_with(".css")).unwrap();
    let asset = Visitor::new(&service).get(style).await;
    assert_eq!(
        (asset.status, &asset.headers["content-type"]),
        (200, &HeaderValue::from_static("text/css; charset=utf-8"))
    );
    assert!(asset.headers["cache-control"].to_str().unwrap().contains("immutable"));
}

#[tokio::test]
async fn a_message_is_found_by_every_id_and_shows_why_it_failed() {
    let loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/events/send" => {
            Reply::status(400).with_body(r#"{"message":"no event for ada@people.example.test"}"#)
        }
        _ => Reply::ok(),
    })
    .await;
    let service = set_up(&loops).start();
    service.accept("/v1/identify", identify("u1", "about-ada")).await;
    let mut signed_up = track("u1", "sign-up");
    signed_up["event"] = json!("Signed Up");
    service.accept("/v1/track", signed_up).await;
    service.message("about-ada", |message| message["state"] == "delivered").await;
    service.message("sign-up", |message| message["state"] == "failed").await;
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    for wanted in ["sign-up", " sign-up ", "msg:sign-up"] {
        let page = admin.search(wanted).await;
        assert_eq!(page.status, 200, "{wanted}");
        for words in [
            "<h1>Signed Up ",
            "failed",
            "Loops refused the request",
            "sendEvent",
            "POST /events/send",
        ] {
            assert!(page.text.contains(words), "{wanted}: no {words}: {}", page.text);
        }
    }
    for wanted in ["u1", "user:u1"] {
        let page = admin.search(wanted).await;
        assert!(page.text.contains("sign-up") && page.text.contains("about-ada"), "{wanted}");
    }
    let failed = admin.get("/console/messages?state=failed").await;
    assert!(failed.text.contains("sign-up") && !failed.text.contains("about-ada"));
    let failures = admin.get("/console/failures").await;
    for words in
        ["One delivery failed", "no event for …", "Loops refused the request", "reason=refused"]
    {
        assert!(failures.text.contains(words), "no {words}: {}", failures.text);
    }
    for wanted in ["nobody", "nobody@example.com", "msg:u1", "anon:u1", "email:u1"] {
        let page = admin.search(wanted).await;
        assert_eq!(page.status, 404, "{wanted}");
        assert!(page.text.contains("Not found") && page.text.contains("records_retention_h"));
    }
    // A response of Loops may contain an address, which is hidden from a viewer.
    let viewer = Visitor::with(&service, VIEWER_TOKEN).await;
    for path in ["/console/messages", "/console/messages?state=failed", "/console/failures"] {
        for visitor in [&admin, &viewer] {
            assert!(!visitor.get(path).await.text.contains("people.example.test"), "{path}");
        }
    }
    assert!(admin.search("sign-up").await.text.contains("people.example.test"));
    let masked = viewer.search("sign-up").await;
    assert!(masked.text.contains("no event for …") && !masked.text.contains("people.example.test"));
}

#[tokio::test]
async fn an_error_in_an_address_is_explained_on_a_page() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    for (query, words) in [
        ("state=gone", "`state` must be one of"),
        ("from=soon", "`from` must be a time"),
        ("person=ada@example.com", "`person` must be a digest"),
        ("before=x", "`before` must be"),
        ("colour=red", "a parameter is unknown"),
    ] {
        let page = visitor.get(&format!("/console/messages?{query}")).await;
        assert_eq!(page.status, 400, "{query}");
        assert!(page.text.contains(words) && page.text.contains("<html"), "{query}: {}", page.text);
    }
    // Empty fields of the form do not restrict the search.
    let now = visitor.get("/console").await;
    assert_eq!(now.status, 200);
    for words in [
        "Everything is ready",
        "curl -u",
        "the source “default”",
        r#"href="/console" data-key="n" aria-current"#,
    ] {
        assert!(now.text.contains(words), "no {words}: {}", now.text);
    }
    let page = visitor.get("/console/messages?state=&type=&event=&from=&to=").await;
    assert_eq!(page.status, 200);
    assert!(
        page.text.contains("No message has been accepted yet") && page.text.contains("curl -u")
    );
}

#[tokio::test]
async fn settings_show_no_secret_and_only_an_admin_reloads() {
    let loops = ScriptedLoops::willing().await;
    let service = set_up(&loops).start();
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let viewer = Visitor::with(&service, VIEWER_TOKEN).await;
    let reload = "Reload the configuration";
    let page = viewer.get("/console/settings").await;
    assert!(page.text.contains("sources.default.write_keys") && !page.text.contains(reload));
    let refused = viewer.post("/console/settings/reload", &[("x", "")], &[]).await;
    assert_eq!(refused.status, 403);
    assert!(page.text.contains("Nobody has reloaded"), "{}", page.text);
    let done = admin.post("/console/settings/reload", &[("x", "")], &[]).await;
    assert_eq!((done.status, done.location()), (303, "/console/settings?reloaded=yes"));
    let page = admin.get(done.location()).await;
    for words in [reload, "is in force", "this one", "never: is its webhook set up?", "reload"] {
        assert!(page.text.contains(words), "no {words}: {}", page.text);
    }
    for secret in [ADMIN_TOKEN, VIEWER_TOKEN, crate::support::WRITE_KEY] {
        assert!(!page.text.contains(secret), "{secret}");
    }
    let audit = service.admin("/api/audit").await.body;
    assert_eq!(audit["entries"][0]["action"], "reload", "{audit}");
    assert_ne!(audit["entries"][0]["session"], "token-1", "the session of the console");
}

#[tokio::test]
async fn settings_show_what_the_last_reload_changed() {
    let loops = ScriptedLoops::willing().await;
    let before =
        "[sources.web]\nwrite_keys = ['k1-canary']\nstamp_ip = false\n[delivery]\nrequests_max = 7";
    let service = set_up(&loops).config(before).start();
    let admin = Visitor::with(&service, ADMIN_TOKEN).await;
    let title = "What the last reload changed";
    assert!(!admin.get("/console/settings").await.text.contains(title));
    let reload = async || {
        let done = admin.post("/console/settings/reload", &[("x", "")], &[]).await;
        admin.get(done.location()).await.text
    };
    let same = reload().await;
    assert!(same.contains("Nothing: the configuration was the same."), "{same}");
    let file = service.data().parent().unwrap().join("segment-loops.toml");
    assert!(same.contains("destinations.default.new_contacts_per_day"), "{same}");
    assert!(same.contains("alerts.format"), "{same}");
    let after =
        before.replace("k1-canary", "k2-canary").replace("false", "true").replace("= 7", "= 8");
    let options = "[destinations.default]\nnew_contacts_per_day = 7\nplaceholder_ids = ['nobody']";
    let added = "[[subscriptions]]\nname = 'Ordered'\naction = 'sendEvent'\nevents = ['Ordered']";
    std::fs::write(&file, format!("{after}\n{options}\n{added}")).unwrap();
    let page = reload().await;
    for line in [
        "<code>sources.web.write_keys</code>: changed",
        "<code>sources.web.stamp_ip</code>: false → true",
        "<code>destinations.default.subscriptions “Ordered”</code>: added",
        "<code>destinations.default.new_contacts_per_day</code>: 0 → 7",
        "<code>destinations.default.placeholder_ids</code>: changed",
        "<code>delivery.requests_max</code></li>",
    ] {
        assert!(page.contains(line), "no {line}: {page}");
    }
    assert!(!page.contains("k1-canary") && !page.contains("k2-canary"), "{page}");
    let audit = service.admin("/api/audit").await.body;
    let result = audit["entries"][0]["result"].as_str().unwrap();
    assert!(result.starts_with("in force; ") && result.contains("1 need a restart"), "{result}");
}

#[tokio::test]
async fn subscriptions_show_what_each_did() {
    let loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
        "/events/send" => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    let service = set_up(&loops).start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    let mut with_cart = track("u1", "m2");
    with_cart["properties"] = json!({"cart": {"items": 2}});
    service.accept("/v1/track", with_cart).await;
    service.accept("/v1/page", json!({"userId": "u1", "messageId": "m3"})).await;
    service.message("m1", |message| message["state"] == "delivered").await;
    service.message("m2", |message| message["state"] == "failed").await;
    service.message("m3", |message| message["state"] == "unmatched").await;
    let page = Visitor::with(&service, VIEWER_TOKEN).await.get("/console/subscriptions").await;
    assert_eq!(page.status, 200);
    for words in [
        "state=failed&#38;from=24h",
        "nothing in 7 days",
        "no trigger of an enabled subscription matched",
        r#"<td data-label="Warnings">1</td>"#,
        r#"<td data-label="Warnings">0</td>"#,
    ] {
        assert!(page.text.contains(words), "no {words}: {}", page.text);
    }
}

#[tokio::test]
async fn what_senders_write_is_never_part_of_a_page() {
    let loops = ScriptedLoops::start(|_| {
        Reply::status(400).with_body(r#"{"message":"<script>alert(3)</script>"}"#)
    })
    .await;
    let service = set_up(&loops).start();
    let event = r#""><script>alert(1)</script><img src=x onerror=alert(2)>"#;
    let message = json!({"userId": event, "event": event, "messageId": "odd<b>", "properties": {event: event}});
    service.accept("/v1/track", message).await;
    service.message("odd%3Cb%3E", |message| message["state"] == "failed").await;
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let list = visitor.get("/console/messages").await;
    let one = visitor.search("odd<b>").await;
    let filtered = visitor.get(&format!("/console/messages?event={}", encode(event))).await;
    for page in [list, one, filtered] {
        assert_eq!(page.status, 200);
        for raw in ["<script>alert", "<img src=x", "odd<b>"] {
            assert!(!page.text.contains(raw), "{raw}: {}", page.text);
        }
        assert!(page.text.contains("alert"), "{}", page.text);
    }
}
