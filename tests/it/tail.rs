//! The live list of the console, which shows messages as they arrive and their changes of state.

use reqwest::Response;
use serde_json::json;
use tokio::time::timeout;

use crate::console::{VIEWER_TOKEN, Visitor, set_up};
use crate::support::{ADMIN_TOKEN, EMAIL_DOMAIN, PATIENCE, Reply, ScriptedLoops, Setup, track};

/// The live list of messages in a browser.
struct Tail {
    response: Response,
    text: String,
}

/// An event of the stream.
struct Row {
    id: String,
    html: String,
}

impl Tail {
    async fn open(visitor: &Visitor<'_>, query: &str) -> Self {
        Self::resume(visitor, query, &[]).await
    }

    async fn resume(visitor: &Visitor<'_>, query: &str, more: &[(&'static str, &str)]) -> Self {
        let response = visitor.open(&format!("/console/messages/tail{query}"), more).await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { response, text: String::new() }
    }

    /// The next row, or `None` at the end of the stream.
    async fn row(&mut self) -> Option<Row> {
        timeout(PATIENCE, self.read_row()).await.unwrap()
    }

    async fn read_row(&mut self) -> Option<Row> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let of = |field: &str| -> Vec<String> {
                    let lines = event.lines().filter_map(|line| line.strip_prefix(field));
                    lines.map(|value| value.trim_start_matches([':', ' ']).to_owned()).collect()
                };
                if of("event") == ["row"] {
                    return Some(Row { id: of("id").concat(), html: of("data").join("\n") });
                }
            }
            match self.response.chunk().await.unwrap() {
                Some(part) => self.text += std::str::from_utf8(&part).unwrap(),
                None => return None,
            }
        }
    }

    /// The next row that contains a text.
    async fn row_with(&mut self, text: &str) -> Row {
        loop {
            let row = self.row().await.unwrap();
            if row.html.contains(text) {
                return row;
            }
        }
    }
}

#[tokio::test]
async fn a_message_appears_and_then_what_became_of_it() {
    let loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let service = set_up(&loops).start();
    service.accept("/v1/track", track("before", "m0")).await;
    let visitor = Visitor::with(&service, VIEWER_TOKEN).await;
    let page = visitor.get("/console/messages?type=track").await;
    let (_, rest) = page.text.split_once("data-tail=\"").unwrap();
    let path = rest.split('"').next().unwrap().replace("&#38;", "&");
    let query = path.strip_prefix("/console/messages/tail").unwrap();
    let mut tail = Tail::open(&visitor, query).await;
    let mut message = track("ada", "m1");
    message["properties"]["email"] = json!(format!("ada@{EMAIL_DOMAIN}"));
    message["event"] = json!("<b>Signed Up</b>");
    service.accept("/v1/identify", json!({"userId": "ada", "messageId": "other"})).await;
    service.accept("/v1/track", message).await;
    // A message that the page already shows may appear again, because its state may have changed. A message that the
    // filter excludes does not appear.
    let waiting = loop {
        let row = tail.row().await.unwrap();
        assert!(!row.html.contains("other"), "{}", row.html);
        if row.html.contains("m1") {
            break row;
        }
        assert!(row.html.contains("m0"), "{}", row.html);
    };
    assert!(waiting.html.contains("pending"), "{}", waiting.html);
    assert!(!waiting.html.contains("<b>"), "{}", waiting.html);
    assert!(!waiting.html.contains(EMAIL_DOMAIN), "{}", waiting.html);
    loops.now(|_| Reply::ok());
    let mut waiting = vec!["m0", "m1"];
    while !waiting.is_empty() {
        let row = tail.row().await.unwrap();
        waiting.retain(|id| !(row.html.contains(id) && row.html.contains("delivered")));
    }
}

#[tokio::test]
async fn a_browser_that_connects_again_gets_what_it_missed() {
    let loops = ScriptedLoops::willing().await;
    let setup = set_up(&loops);
    let service = setup.start();
    let id = {
        let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
        let mut tail = Tail::open(&visitor, "").await;
        service.accept("/v1/track", track("ada", "m1")).await;
        tail.row_with("m1").await.id
    };
    let service = service.crash_and_restart(&setup);
    service.accept("/v1/track", track("ada", "m2")).await;
    // Nothing more happens to it, so that it is only there if what was missed is.
    service.message("m2", |found| found["state"] == "delivered").await;
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let mut tail = Tail::resume(&visitor, "", &[("last-event-id", &id)]).await;
    tail.row_with("m2").await;
}

#[tokio::test]
async fn a_browser_that_was_away_for_minutes_gets_what_it_missed_and_others_do_not() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    service.accept("/v1/track", track("ada", "m1")).await;
    service.message("m1", |message| message["state"] == "delivered").await;
    // The message is older than the list looks back by default.
    service.alter("UPDATE messages SET received_at = received_at - 300000").await;
    let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
    let mut tail = Tail::open(&visitor, "").await;
    service.accept("/v1/track", track("ada", "m2")).await;
    let row = tail.row().await.unwrap();
    assert!(row.html.contains("m2"), "{}", row.html);
    let left: i64 = row.id.parse::<i64>().unwrap() - 360_000;
    let mut tail = Tail::resume(&visitor, "", &[("last-event-id", &left.to_string())]).await;
    tail.row_with("m1").await;
}

#[tokio::test]
async fn the_number_of_live_lists_is_bounded_and_all_end_with_the_program() {
    let loops = ScriptedLoops::willing().await;
    let mut service = set_up(&loops).start();
    let mut tails = Vec::new();
    {
        let visitor = Visitor::with(&service, ADMIN_TOKEN).await;
        for _ in 0..10 {
            tails.push(Tail::open(&visitor, "").await);
        }
        let refused = visitor.open("/console/messages/tail", &[]).await;
        assert_eq!(refused.status().as_u16(), 503);
        let error: serde_json::Value = refused.json().await.unwrap();
        assert_eq!(error["code"], "too_many_tails");
        // When a browser disconnects, another can connect.
        tails.pop();
        while visitor.open("/console/messages/tail", &[]).await.status().as_u16() != 200 {}
        let wrong = visitor.open("/console/messages/tail?since=yesterday", &[]).await;
        assert_eq!(wrong.status().as_u16(), 400);
        let stranger = Visitor::new(&service);
        assert_eq!(stranger.open("/console/messages/tail", &[]).await.status().as_u16(), 303);
    }
    assert_eq!(service.stop().await, Some(0));
    for mut tail in tails {
        assert!(tail.row().await.is_none());
    }
    let cut = "connections were cut at the end of the grace time";
    assert!(service.log().iter().all(|line| line["message"] != cut));
}
