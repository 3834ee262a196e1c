//! The console in a real browser: for everybody, and harmless whatever senders write.

mod hostile;
mod pictures;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::script::Script;
use crate::support::{ADMIN_TOKEN, Reply, ScriptedLoops, Service, Setup, identify, track};

/// A browser wants the machine for itself.
static BROWSER: Mutex<()> = Mutex::const_new(());

/// Where pictures are written, for people to look at.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("console");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The program with its console, and a browser.
struct Site {
    service: Service,
    _loops: ScriptedLoops,
    browser: Script,
    _home: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Site {
    async fn open() -> Self {
        let loops = ScriptedLoops::start(|seen| match seen.path.as_str() {
            "/events/send" => Reply::status(400).with_body(r#"{"message":"<b>no such event</b>"}"#),
            _ => Reply::ok(),
        })
        .await;
        let setup = Setup::with_loops(&loops.base_url);
        Self::on(loops, &setup).await
    }

    async fn on(loops: ScriptedLoops, setup: &Setup) -> Self {
        let alone = BROWSER.lock().await;
        let service = setup.start();
        let home = tempfile::tempdir().unwrap();
        let browser = Script::browser("console.js", home.path());
        Self { service, _loops: loops, browser, _home: home, _alone: alone }
    }

    /// With a person whose message was delivered and whose event failed.
    async fn with_ada() -> Self {
        let site = Self::open().await;
        site.service.accept("/v1/identify", identify("ada", "about-ada")).await;
        let mut signed_up = track("ada", "sign-up");
        signed_up["event"] = json!("Signed Up");
        site.service.accept("/v1/track", signed_up).await;
        site.service.message("about-ada", |message| message["state"] == "delivered").await;
        site.service.message("sign-up", |message| message["state"] == "failed").await;
        site
    }

    async fn tell(&mut self, line: Value) -> Value {
        self.browser.tell(&line);
        let answer: Value = serde_json::from_str(&self.browser.line().await).unwrap();
        assert_eq!(answer.get("error"), None, "{line}");
        answer["value"].clone()
    }

    async fn go(&mut self, path: &str) {
        let url = format!("{}{path}", self.service.base_url);
        self.tell(json!({"open": url})).await;
    }

    /// A new visitor, who logs in.
    async fn log_in(&mut self, visitor: Value) {
        self.tell(json!({"visitor": visitor})).await;
        self.go("/console/login").await;
        self.tell(json!({"fill": ["#token", ADMIN_TOKEN]})).await;
        self.tell(json!({"click": "button.main", "leads": true})).await;
    }

    /// Presses Tab until an element has the focus.
    async fn tab_to(&mut self, selector: &str) {
        let is_there = format!("document.activeElement.matches({selector:?})");
        for _ in 0..60 {
            if self.tell(json!({"evaluate": is_there})).await == true {
                return;
            }
            self.tell(json!({"press": "Tab"})).await;
        }
        panic!("the keyboard does not reach {selector}");
    }

    /// The address of the page of a person.
    async fn person(&mut self, id: &str) -> String {
        self.tell(json!({"fill": ["#q", id]})).await;
        self.tell(json!({"press": "Enter", "leads": true})).await;
        self.path().await
    }

    async fn path(&mut self) -> String {
        let url = self.tell(json!({"url": true})).await;
        url.as_str().unwrap().replacen(&self.service.base_url, "", 1)
    }

    /// What went wrong on all pages of this visitor. The browser counts a page with an error status as an error.
    async fn problems(&mut self) -> Vec<String> {
        let problems = self.tell(json!({"problems": true})).await;
        let problems: Vec<String> = serde_json::from_value(problems).unwrap();
        let is_answer = |problem: &String| problem.contains("responded with a status of 4");
        problems.into_iter().filter(|problem| !is_answer(problem)).collect()
    }

    async fn text(&mut self) -> String {
        self.tell(json!({"text": "main"})).await.as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn every_page_is_for_everybody() {
    let mut site = Site::with_ada().await;
    site.log_in(json!({})).await;
    let person = site.person("ada").await;
    let erase = format!("{person}/erase");
    let pages = [
        ("now", "/console"),
        ("messages", "/console/messages"),
        ("failed", "/console/messages?state=failed"),
        ("none", "/console/messages?state=pending"),
        ("message", "/console/messages/2"),
        ("failures", "/console/failures"),
        ("editor", "/console/subscriptions/default/Send%20an%20event"),
        ("subscriptions", "/console/subscriptions"),
        ("settings", "/console/settings"),
        ("no-failures", "/console/failures?from=0s"),
        ("replay", "/console/replay"),
        ("replay-failed", "/console/replay?state=failed"),
        ("replay-all", "/console/replay?state=all&destination=default"),
        ("not-found", "/console/messages/999"),
        ("person", &person),
        ("erase", &erase),
    ];
    let folder = folder();
    for theme in ["light", "dark"] {
        for width in [1280, 390] {
            let visitor = |audit| json!({"width": width, "theme": theme, "audit": audit});
            site.tell(json!({"visitor": visitor(true)})).await;
            site.go("/console/login").await;
            assert_eq!(site.tell(json!({"axe": true})).await, json!([]), "login {theme} {width}");
            site.log_in(visitor(true)).await;
            for (name, path) in pages {
                site.go(path).await;
                let mut shown = vec![""];
                // What an admin asks for is shown on the same page.
                shown.extend(match name {
                    "message" => vec!["form[action='#contents'] button"],
                    "person" => vec!["input[value=contact] + button", "input[value=ids] + button"],
                    _ => Vec::new(),
                });
                for button in shown {
                    if !button.is_empty() {
                        site.tell(json!({"click": button, "leads": true})).await;
                    }
                    let found = site.tell(json!({"axe": true})).await;
                    assert_eq!(found, json!([]), "{path} {button} {theme} {width}");
                }
                let width =
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth";
                assert_eq!(site.tell(json!({"evaluate": width})).await, 0, "{path} is too wide");
            }
            site.log_in(visitor(false)).await;
            for (name, path) in pages {
                site.go(path).await;
                let file = folder.join(format!("{name}-{theme}-{width}.png"));
                site.tell(json!({"screenshot": file})).await;
            }
            assert_eq!(site.problems().await, Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn the_keyboard_is_enough_to_find_why_a_message_failed_and_to_replay_it() {
    let mut site = Site::with_ada().await;
    site.tell(json!({"visitor": {}})).await;
    site.go("/console/messages").await;
    let focus = json!({"evaluate": "document.activeElement.id"});
    assert_eq!(site.tell(focus).await, "token");
    for key in ADMIN_TOKEN.chars() {
        site.tell(json!({"press": key.to_string()})).await;
    }
    site.tell(json!({"press": "Enter", "leads": true})).await;
    assert_eq!(site.path().await, "/console/messages");
    site.tell(json!({"press": "/"})).await;
    for key in "ada".chars() {
        site.tell(json!({"press": key.to_string()})).await;
    }
    site.tell(json!({"press": "Enter", "leads": true})).await;
    assert!(site.path().await.starts_with("/console/people/"), "{}", site.path().await);
    // The newest row is the event.
    site.tell(json!({"press": "j"})).await;
    site.tell(json!({"press": "Enter", "leads": true})).await;
    let text = site.text().await;
    assert!(text.contains("Signed Up") && text.contains("Loops refused the request"), "{text}");
    site.tell(json!({"press": "g"})).await;
    site.tell(json!({"press": "r", "leads": true})).await;
    assert_eq!(site.path().await, "/console/replay");
    // In a form, Enter sends it; what failed is chosen already.
    site.tab_to("#f-event").await;
    site.tell(json!({"press": "Enter", "leads": true})).await;
    site.tab_to(".confirm button").await;
    site.tell(json!({"press": "Enter", "leads": true})).await;
    let text = site.text().await;
    assert!(text.contains("1 replayed"), "{text}");
    site.service.message("sign-up", |message| message["replay"] == 1).await;
}

#[tokio::test]
async fn no_script_is_needed_to_find_why_a_message_failed_and_to_replay_it() {
    let mut site = Site::with_ada().await;
    site.log_in(json!({"script": false})).await;
    site.tell(json!({"fill": ["#q", "ada"]})).await;
    site.tell(json!({"press": "Enter", "leads": true})).await;
    site.tell(json!({"click": ".timeline li:first-child a", "leads": true})).await;
    let text = site.text().await;
    assert!(text.contains("Signed Up") && text.contains("Loops refused the request"), "{text}");
    assert!(text.contains("UTC"), "{text}");
    site.go("/console/failures").await;
    site.tell(json!({"click": "a[href^='/console/replay?']", "leads": true})).await;
    site.tell(json!({"click": ".confirm button", "leads": true})).await;
    let text = site.text().await;
    assert!(text.contains("1 replayed"), "{text}");
}

#[tokio::test]
async fn a_page_that_updates_itself_can_be_paused() {
    let mut site = Site::open().await;
    site.log_in(json!({})).await;
    site.go("/console").await;
    site.tell(json!({"wait": "#updates:has-text('Updated every 5 seconds')"})).await;
    site.tell(json!({"click": "#updates button"})).await;
    site.tell(json!({"wait": "#updates:has-text('Updates are paused')"})).await;
    // What is marked here stays for as long as nothing is put in its place.
    let mark = "document.querySelector('#diagnosis .sentence').dataset.mark = 'old'";
    site.tell(json!({"evaluate": mark})).await;
    site.service.accept("/v1/track", track("ada", "sign-up")).await;
    site.service.message("sign-up", |message| message["state"] == "failed").await;
    // Longer than between two updates.
    site.tell(json!({"evaluate": "new Promise((done) => setTimeout(done, 6000))"})).await;
    site.tell(json!({"wait": "#diagnosis .sentence[data-mark=old]"})).await;
    site.tell(json!({"click": "#updates button"})).await;
    site.tell(json!({"wait": "#diagnosis .sentence:not([data-mark])"})).await;
}

#[tokio::test]
async fn a_live_list_goes_on_by_itself() {
    let mut site = Site::open().await;
    site.log_in(json!({})).await;
    // The page that teaches how to send the first message shows it without a reload.
    site.go("/console/messages").await;
    site.service.accept("/v1/track", track("ada", "first")).await;
    site.tell(json!({"wait": "tr:has-text('first') .badge.bad"})).await;
    // It stays live there, also after the reload that brought the table.
    site.tell(json!({"wait": "#live [aria-pressed=true]"})).await;
    // A look at the list sends at most ten rows.
    for (group, texts) in hostile::TEXTS.chunks(8).enumerate() {
        let message = |(index, event): (usize, &&str)| {
            let mut message = track("ada", &format!("hostile-{group}-{index}"));
            message["event"] = json!(event);
            message
        };
        let batch: Vec<Value> = texts.iter().enumerate().map(message).collect();
        site.service.accept("/v1/batch", json!({"batch": batch})).await;
        for index in 0..texts.len() {
            let row = format!("tr:has-text('hostile-{group}-{index}')");
            site.tell(json!({"wait": row})).await;
        }
    }
    assert_eq!(site.tell(json!({"alien": true})).await, json!([]));
    // While a visitor reads, nothing moves.
    site.tell(json!({"press": "j"})).await;
    site.service.accept("/v1/track", track("ada", "held")).await;
    site.tell(json!({"wait": "[role=status]:has-text('1 new')"})).await;
    let first = json!({"text": "tbody tr:first-child"});
    assert!(!site.tell(first).await.to_string().contains("held"));
    site.tell(json!({"evaluate": "document.activeElement.blur()"})).await;
    site.tell(json!({"wait": "tr:first-child:has-text('held')"})).await;
    site.tell(json!({"press": "t"})).await;
    site.tell(json!({"wait": "#live [aria-pressed=false]"})).await;
    assert_eq!(site.problems().await, Vec::<String>::new());
}
