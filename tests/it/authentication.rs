//! Authentication of senders, and the check of a webhook's signature.

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use sha1::Sha1;

use crate::support::{Answer, ScriptedLoops, Service, Setup, WEBHOOK_SECRET, WRITE_KEY, track};

pub fn signature(secret: &str, text: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn assert_refused(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.body["message"].as_str().is_some_and(|text| text.len() > 10), "{answer:?}");
    assert!(answer.body["code"].is_string(), "{answer:?}");
}

#[tokio::test]
async fn the_write_key_is_taken_from_either_place_and_a_wrong_one_is_refused() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let post = || service.request(Method::POST, "/v1/track");
    let in_body = |id: &str, key: &str| {
        let mut message = track("u1", id);
        message["writeKey"] = json!(key);
        message.to_string()
    };
    let good: [RequestBuilder; 4] = [
        post().basic_auth(WRITE_KEY, Some("")).body(track("u1", "m1").to_string()),
        post().body(in_body("m2", WRITE_KEY)),
        post().bearer_auth("an OAuth token").body(in_body("m3", WRITE_KEY)),
        post().basic_auth(WRITE_KEY, Some("")).body(in_body("m4", WRITE_KEY)),
    ];
    for request in good {
        let answer = Service::answer(request).await;
        assert_eq!((answer.status, &answer.body), (200, &json!({"success": true})));
    }
    let bad: [RequestBuilder; 5] = [
        post().body(track("u1", "x").to_string()),
        post().basic_auth("wrong", Some("")).body(track("u1", "x").to_string()),
        post().body(in_body("x", "wrong")),
        post().body(in_body("x", "")),
        post().header("authorization", "Basic !!!").body(track("u1", "x").to_string()),
    ];
    for request in bad {
        let answer = Service::answer(request).await;
        assert_refused(&answer, 401);
        assert_eq!(answer.body["success"], false);
    }
    assert_eq!(loops.notes(4).await, ["m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn a_batch_has_the_key_of_the_first_message_that_has_one() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let keyed = |id: &str, key: &str| {
        let mut message = track("u1", id);
        message["writeKey"] = json!(key);
        message.to_string()
    };
    let post = |messages: &[String]| {
        let body = format!("{{\"batch\":[{}]}}", messages.join(","));
        Service::answer(service.request(Method::POST, "/v1/batch").body(body))
    };
    // A broken message, a number, and a message whose key is a number do not affect the others.
    let before = ["{\"writeKey\":\"x\",}", "17", "{\"writeKey\":7}"].map(str::to_owned);
    let [broken, number, odd] = before;
    let good = [broken.clone(), number, odd, track("u1", "m1").to_string()];
    let answer = post(&[&good[..], &[keyed("m2", WRITE_KEY), keyed("m3", "x")]].concat()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["rejected"].as_array().map(Vec::len), Some(3), "{answer:?}");
    assert_eq!(loops.notes(3).await, ["m1", "m2", "m3"]);
    assert_refused(&post(&[broken, keyed("x", "wrong"), keyed("x", WRITE_KEY)]).await, 401);
    assert_refused(&post(&[]).await, 401);
}

#[tokio::test]
async fn a_webhook_signature_must_fit_the_raw_bytes() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let send = |body: String, signature: Option<String>| {
        let mut request = service.request(Method::POST, "/webhook/default").body(body);
        if let Some(signature) = signature {
            request = request.header("x-signature", signature);
        }
        Service::answer(request)
    };
    let first = track("u1", "m1").to_string();
    let second = track("u1", "m2").to_string();
    let spaced = format!(" {}", track("u1", "m5"));
    let array = format!("[{first}, {second}]");
    let whole = format!("[{},{}]", track("u1", "m3"), track("u1", "m4"));

    // A signature that is missing, empty, or made of another body, with another secret, of the second element or of
    // different bytes.
    let bad = [
        (first.clone(), None),
        (first.clone(), Some(String::new())),
        (first.clone(), Some("zz".repeat(20))),
        (first.clone(), Some(signature(WEBHOOK_SECRET, &second))),
        (first.clone(), Some(signature("another", &first))),
        (array.clone(), Some(signature(WEBHOOK_SECRET, &second))),
        (format!("{first} "), Some(signature(WEBHOOK_SECRET, &first).replace('a', "b"))),
        ("[]".to_owned(), Some(signature(WEBHOOK_SECRET, &first))),
    ];
    for (body, signature) in bad {
        assert_refused(&send(body, signature).await, 401);
    }
    // A single message; an array signed by its first element; an array signed as a whole; white space, which is part of
    // the signed bytes.
    let good = [
        (first.clone(), signature(WEBHOOK_SECRET, &first)),
        (array, signature(WEBHOOK_SECRET, &first)),
        (whole.clone(), signature(WEBHOOK_SECRET, &whole)),
        (spaced.clone(), signature(WEBHOOK_SECRET, &spaced)),
    ];
    for (body, signature) in good {
        let answer = send(body, Some(signature)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(loops.notes(5).await, ["m1", "m2", "m3", "m4", "m5"]);
    let nowhere = service.request(Method::POST, "/webhook/nowhere").body(first);
    assert_refused(&Service::answer(nowhere).await, 404);
}

#[tokio::test]
async fn the_signature_of_a_message_is_worth_nothing_for_a_list_where_lists_are_off() {
    let mut loops = ScriptedLoops::willing().await;
    let config = "[sources.single]\nwrite_keys = ['k']\nwebhook_secret = 'single-secret'\nwebhook_lists = false\n";
    let service = Setup::with_loops(&loops.base_url).config(config).start();
    let send = |body: &str, signed: &str| {
        let request = service.request(Method::POST, "/webhook/single");
        let request = request.header("x-signature", signature("single-secret", signed));
        Service::answer(request.body(body.to_owned()))
    };
    let message = track("u1", "m1").to_string();
    let delete = json!({"type": "delete", "userId": "u2", "messageId": "x"});
    // A forged list, a list of one message, a list signed as a whole, and a list with white space before it.
    let forged = format!("[{message}, {delete}]");
    let alone = format!("[{message}]");
    let spaced = format!(" \n{alone}");
    let lists = [(&forged, &message), (&alone, &message), (&alone, &alone), (&spaced, &message)];
    for (body, signed) in lists {
        let answer = send(body, signed).await;
        assert_refused(&answer, 403);
        assert_eq!(answer.body["code"], "list_not_allowed", "{answer:?}");
        assert!(answer.body["message"].as_str().unwrap().contains("webhook_lists"), "{answer:?}");
    }
    assert_refused(&send(&format!("{message} "), &message).await, 401);
    assert_eq!(send(&message, &message).await.status, 200);
    assert_eq!(loops.next().await.note(), "m1");
    assert!(loops.rest().is_empty());
}

#[tokio::test]
async fn a_webhook_token_is_required_if_one_is_set() {
    let mut loops = ScriptedLoops::willing().await;
    let config = "[sources.shop]\nwrite_keys = ['shop-key']\nwebhook_token = 'shop-token'\n";
    let service = Setup::with_loops(&loops.base_url).config(config).start();
    let post =
        || service.request(Method::POST, "/webhook/shop").body(track("u1", "m1").to_string());
    assert_refused(&Service::answer(post()).await, 401);
    assert_refused(&Service::answer(post().bearer_auth("wrong")).await, 401);
    assert_refused(&Service::answer(post().basic_auth("shop-key", Some(""))).await, 401);
    assert_eq!(Service::answer(post().bearer_auth("shop-token")).await.status, 200);
    assert_eq!(loops.next().await.note(), "m1");
}

#[tokio::test]
async fn a_webhook_without_a_secret_requires_the_write_key() {
    let mut loops = ScriptedLoops::willing().await;
    let config = "[sources.shop]\nwrite_keys = ['shop-key']\n";
    let service = Setup::with_loops(&loops.base_url).config(config).start();
    let post =
        || service.request(Method::POST, "/webhook/shop").body(track("u1", "m1").to_string());
    assert_refused(&Service::answer(post()).await, 401);
    // The key of another source is not accepted here.
    assert_refused(&Service::answer(post().basic_auth(WRITE_KEY, Some(""))).await, 401);
    assert_eq!(Service::answer(post().basic_auth("shop-key", Some(""))).await.status, 200);
    assert_eq!(loops.next().await.note(), "m1");
}

#[tokio::test]
async fn the_subscription_contract_takes_the_key_as_user_name_and_says_501_where_nothing_fits() {
    let mut loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let post = || service.request(Method::POST, "/destination");
    assert_refused(&Service::answer(post().body(track("u1", "m1").to_string())).await, 401);
    let keyed = || post().basic_auth(WRITE_KEY, Some(""));
    assert_eq!(Service::answer(keyed().body(track("u1", "m1").to_string())).await.status, 200);
    assert_eq!(loops.next().await.note(), "m1");
    for kind in ["page", "screen", "group", "alias"] {
        let message = json!({"type": kind, "userId": "u1", "messageId": kind});
        assert_refused(&Service::answer(keyed().body(message.to_string())).await, 501);
    }
    assert_refused(&Service::answer(keyed().body("{")).await, 400);
}

#[tokio::test]
async fn the_admin_api_requires_its_token() {
    let loops = ScriptedLoops::willing().await;
    let service = Setup::with_loops(&loops.base_url).start();
    let get = || service.request(Method::GET, "/api/messages/m1");
    assert_refused(&Service::answer(get()).await, 401);
    assert_refused(&Service::answer(get().bearer_auth("wrong")).await, 401);
    assert_refused(&service.admin("/api/messages/nobody-sent-this").await, 404);
    drop(service);
    let service = Setup::with_loops(&loops.base_url).env("SEGMENT_LOOPS__LOG__LEVEL", "debug");
    let tokenless = service.start_without_admin_token();
    let answer = tokenless.admin("/api/messages/m1").await;
    assert_refused(&answer, 403);
    assert!(answer.body["message"].as_str().unwrap().contains("ADMIN_TOKEN"), "{answer:?}");
}
