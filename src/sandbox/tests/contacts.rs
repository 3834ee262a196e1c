//! Contacts, their properties and lists keep Loops' contract.

use super::*;

#[tokio::test]
async fn refuses_what_the_contract_does_not_take() {
    let (long, fits) = ("x".repeat(501), "é".repeat(500));
    let update = "PUT /contacts/update";
    let cases = [
        (update, json!({"email": "a@b.co", "note": fits}), 200, ""),
        (update, json!({"email": "a@b.co", "note": long}), 400, "`note` must be at most 500"),
        (update, json!({"userId": "u", "address": {"city": "x"}}), 400, "`address` must be"),
        (update, json!({"userId": "u", "tags": ["x"]}), 400, "`tags` must be"),
        (update, json!({"userId": "u", "n": 1}), 400, "No contact has this `userId`"),
        (update, json!({"email": "u@b.co", "userId": "u", "n": 1}), 200, ""),
        (update, json!({"userId": "u", "n": 1.5, "b": false, "z": null}), 200, ""),
        (update, json!({"userId": "u", "firstName": 5}), 400, "`firstName` must be a string"),
        (update, json!({"userId": "u", "subscribed": "no"}), 400, "`subscribed` must be a bool"),
        (update, json!({"userId": 5}), 400, "`userId` must be a string, not a number"),
        (update, json!({"email": "nobody"}), 400, "Invalid email address."),
        (update, json!({"userId": "u", "mailingLists": []}), 400, "`mailingLists` must be an obj"),
        (update, json!({"userId": "u", "mailingLists": {"l": 1}}), 400, "`mailingLists.l` must be"),
        (update, json!({"firstName": "A"}), 400, "`email` or `userId` is required"),
        (update, json!({"email": "", "userId": null}), 400, "`email` or `userId` is required"),
        (update, json!([]), 400, "must be a JSON object"),
        ("POST /contacts/create", json!({"userId": "new"}), 400, "`email` is required"),
        ("POST /contacts/create", json!({"email": "a@b.co"}), 409, "email already exists"),
        ("POST /contacts/create", json!({"email": "c@b.co", "userId": "u"}), 409, "userId already"),
        ("POST /contacts/create", json!({"email": "d@b.co"}), 200, ""),
        ("POST /contacts/delete", json!({"userId": ["u"]}), 400, "`userId` must be a string"),
        ("POST /contacts/delete", json!({"userId": "u", "email": "a@b.co"}), 400, "Only one of"),
        ("POST /contacts/delete", json!({}), 400, "is required"),
        ("POST /contacts/delete", json!({"userId": "nobody"}), 404, "Contact not found."),
        ("GET /contacts/find", json!(null), 400, "is required"),
        ("GET /contacts/find?email=nobody", json!(null), 400, "Invalid email address."),
        ("GET /contacts/find?email=a@b.co&userId=u", json!(null), 400, "Only one of"),
        ("GET /contacts/properties?list=some", json!(null), 400, "`list` must be"),
        ("POST /contacts/properties", json!({"type": "string"}), 400, "`name` is required"),
        ("POST /contacts/properties", json!({"name": "x", "type": "list"}), 400, "`type` must be"),
        ("POST /contacts/properties", json!({"name": "x", "type": "date"}), 200, ""),
        ("POST /contacts/properties", json!({"name": "x", "type": "date"}), 400, "already exists"),
        ("POST /contacts/properties", json!({"name": "email", "type": "string"}), 400, "already"),
        ("GET /contacts/suppression?userId=nobody", json!(null), 404, "Contact not found."),
        ("DELETE /contacts/suppression?userId=u", json!(null), 400, "not suppressed"),
    ];
    let fixture = Fixture::new();
    for (endpoint, body, status, message) in cases {
        let (method, path) = endpoint.split_once(' ').expect("a method and a path");
        let reply = fixture.call(method, path, body.clone()).await;
        assert_eq!(reply.status, status, "{endpoint} {body}: {}", reply.body);
        assert!(reply.message().contains(message), "{endpoint} {body}: {}", reply.body);
        if method != "GET" || status != 200 {
            assert_eq!(reply.body["success"], json!(status == 200), "{endpoint} {body}");
        }
    }
}

#[tokio::test]
async fn says_why_a_body_cannot_be_read() {
    let cases = [("", "is empty"), ("{", "not valid JSON"), ("\"x\"", "must be a JSON object")];
    let fixture = Fixture::new();
    for (body, message) in cases {
        for endpoint in ["PUT /contacts/update", "POST /contacts/delete", "POST /events/send"] {
            let (method, path) = endpoint.split_once(' ').expect("a method and a path");
            let reply = fixture.call(method, path, body).await;
            assert_eq!(reply.status, 400, "{endpoint} {body}");
            assert!(reply.message().contains(message), "{endpoint} {body}: {}", reply.body);
        }
    }
}

#[tokio::test]
async fn update_creates_a_contact_and_find_shows_it() {
    let fixture = Fixture::new();
    let body = json!({
        "email": "Alex@Example.com", "userId": "u1", "firstName": "Alex", "plan": "pro",
        "seats": 3, "id": "theirs", "mailingLists": {"l1": true, "l2": true, "l3": false},
    });
    let reply = fixture.update(body).await;
    assert_eq!(reply.status, 200);
    let id = reply.body["id"].clone();
    assert!(id.is_string());

    let body = json!({"userId": "u1", "plan": null, "subscribed": false, "source": "Segment",
        "mailingLists": {"l2": false}});
    assert_eq!(fixture.update(body).await.body, json!({"success": true, "id": id}));
    let expected = json!([{
        "id": id, "email": "Alex@Example.com", "firstName": "Alex", "lastName": null,
        "source": "Segment", "subscribed": false, "userGroup": "", "userId": "u1",
        "mailingLists": {"l1": true}, "optInStatus": null, "plan": null, "seats": 3,
    }]);
    assert_eq!(fixture.find("email=alex%40example.com").await, expected);
    assert_eq!(fixture.find("userId=u1").await, expected);
    assert_eq!(fixture.find("userId=u2").await, json!([]));
    assert_eq!(Value::from(fixture.sandbox.contacts()), expected);
}

#[tokio::test]
async fn either_key_finds_and_the_other_is_updated() {
    let fixture = Fixture::new();
    let first = fixture.update(json!({"email": "old@example.com"})).await.body["id"].clone();
    let cases = [
        (json!({"email": "old@example.com", "userId": "u1"}), "userId=u1"),
        (json!({"email": "new@example.com", "userId": "u1"}), "email=new@example.com"),
        (json!({"email": "NEW@example.com", "userId": "u2"}), "userId=u2"),
    ];
    for (body, query) in cases {
        assert_eq!(fixture.update(body.clone()).await.body["id"], first, "{body}");
        assert_eq!(fixture.find(query).await[0]["id"], first, "{query}");
    }
    assert_eq!(fixture.find("email=old@example.com").await, json!([]), "the address has changed");
    assert_eq!(fixture.find("userId=u1").await, json!([]), "the user id has changed");

    let second = json!({"email": "second@example.com", "userId": "u1"});
    let second = fixture.update(second).await.body["id"].clone();
    assert_ne!(second, first);
    let both = fixture.update(json!({"email": "new@example.com", "userId": "u1"})).await;
    assert_eq!((both.status, both.message().contains("two different")), (400, true));
    assert_eq!(fixture.sandbox.counts().contacts, 2);
}

#[tokio::test]
async fn a_deleted_contact_is_gone_under_both_keys() {
    let fixture = Fixture::new();
    for body in [json!({"userId": "u"}), json!({"email": "a@b.co"})] {
        let created = fixture.update(json!({"email": "a@b.co", "userId": "u"})).await;
        let reply = fixture.call("POST", "/contacts/delete", body.clone()).await;
        assert_eq!(reply.body, json!({"success": true, "message": "Contact deleted."}));
        assert_eq!(fixture.find("userId=u").await, json!([]));
        assert_eq!(fixture.find("email=a@b.co").await, json!([]));
        assert_eq!(fixture.call("POST", "/contacts/delete", body).await.status, 404);
        let again = fixture.update(json!({"email": "a@b.co", "userId": "u"})).await;
        assert_ne!(again.body["id"], created.body["id"]);
        fixture.sandbox.reset();
    }
}

#[tokio::test]
async fn lists_properties_lists_and_suppression() {
    let fixture = Fixture::new();
    let body = json!({"email": "a@b.co", "userId": "u", "firstName": "A", "favoriteColor": "blue"});
    fixture.update(body).await;
    let custom = fixture.call("GET", "/contacts/properties?list=custom", ()).await;
    let expected = json!([{"key": "favoriteColor", "label": "Favorite color", "type": "string"}]);
    assert_eq!(custom.body, expected);
    let all = fixture.call("GET", "/contacts/properties", ()).await.body;
    let has = |key| all.as_array().is_some_and(|all| all.iter().any(|p| p["key"] == key));
    assert!(has("firstName") && has("subscribed") && has("favoriteColor"));

    let lists = fixture.call("GET", "/lists", ()).await.body;
    let keys: Vec<_> = lists[0].as_object().expect("a list").keys().collect();
    assert_eq!(keys, ["id", "name", "description", "isPublic"]);

    let suppression = fixture.call("GET", "/contacts/suppression?userId=u", ()).await.body;
    assert_eq!(suppression["isSuppressed"], false);
    assert_eq!(suppression["contact"]["userId"], "u");
    assert_eq!(suppression["removalQuota"]["limit"], 100);
}
