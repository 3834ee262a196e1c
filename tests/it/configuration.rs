//! Errors in the configuration are found at the start, and reported with their place and key.

use reqwest::Method;

use crate::authentication::signature;
use crate::support::{
    ADMIN_TOKEN, API_KEY, Reply, ScriptedLoops, Service, Setup, WRITE_KEY, track,
};

const NOWHERE: &str = "http://127.0.0.1:9/api/v1";

/// Starts the program, which must refuse, and returns its message.
fn refusal(setup: &Setup) -> String {
    refusal_with(3, setup)
}

fn refusal_with(expected: i32, setup: &Setup) -> String {
    let (code, text) = setup.run_to_end();
    assert_eq!(code, Some(expected), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for secret in [API_KEY, WRITE_KEY] {
        assert!(!text.contains(secret), "{text}");
    }
    text
}

#[test]
fn without_an_api_key_it_says_what_to_set() {
    let text = refusal(&Setup::with_loops(NOWHERE).without_env());
    for word in ["LOOPS_API_KEY", "SEGMENT_WRITE_KEY"] {
        assert!(text.contains(word), "{text}");
    }
    let text = refusal(&Setup::with_loops(NOWHERE).without_env().env("SEGMENT_WRITE_KEY", "k"));
    assert!(text.contains("LOOPS_API_KEY"), "{text}");
    let text = refusal(&Setup::with_loops(NOWHERE).env("LOOPS_API_KEY", " "));
    assert!(text.contains("destinations.default.api_key"), "{text}");
}

#[test]
fn each_error_in_the_file_is_named() {
    // The file, and the texts that the refusal must contain.
    let cases: [(&str, &[&str]); 34] = [
        ("[servr]\nlisten = '1.2.3.4:5'", &["segment-loops.toml", "servr"]),
        ("[destinations.b]\napi_key = \"api-canary-91bc\n", &["segment-loops.toml", "line 2"]),
        ("[server]\nlissten = '1.2.3.4:5'", &["segment-loops.toml", "server", "lissten"]),
        ("[server]\nlisten = 'everywhere'", &["segment-loops.toml", "server.listen"]),
        (
            "[server]\nbody_bytes_max = 'big'",
            &["segment-loops.toml", "server.body_bytes_max", "big"],
        ),
        ("[server]\nbody_bytes_max = 10", &["server.message_bytes_max", "server.body_bytes_max"]),
        ("[delivery]\nrequests_max = 0", &["delivery.requests_max"]),
        ("[sources.web]\nwrite_keys = ['']", &["sources.web.write_keys", "empty"]),
        ("[sources.web]\nwrite_keys = []", &["sources.web.write_keys"]),
        (
            "[sources.web]\nwrite_keys = ['a', 'b']\ndestination = 'other'",
            &["sources.web.destination", "`other`", "default"],
        ),
        (
            "[sources.a]\nwrite_keys = ['same']\n[sources.b]\nwrite_keys = ['same']",
            &["sources.b.write_keys", "`a`"],
        ),
        ("[sources.'A b']\nwrite_keys = ['k']", &["sources.", "lower-case letters"]),
        ("[sources.a]\nwrite_keys = ['k']\norigins = []", &["sources.a.origins", "empty"]),
        (
            "[sources.a]\nwrite_keys = ['k']\norigins = 'https://a.example, https://b.example/'",
            &["sources.a.origins", "`https://b.example/`"],
        ),
        ("[sources.a]\nwrite_keys = ['k']\norigins = ['*']", &["sources.a.origins", "`*`"]),
        (
            "[sources.a]\nwrite_keys = ['k']\naddress_requests_max = 9",
            &["sources.a.address_requests_max", "browser = true"],
        ),
        (
            "[sources.a]\nwrite_keys = ['k']\nbrowser = true\naddress_requests_max = 0",
            &["sources.a.address_requests_max", "1 or more"],
        ),
        ("[sources.a]\nwrite_keys = ['k']\nallow_delete = true", &["sources.a.allow_delete"]),
        (
            "[sources.a]\nwrite_keys = ['k']\naddress_bytes_max = 9_000_000",
            &["sources.a.address_bytes_max", "browser = true"],
        ),
        (
            "[sources.a]\nwrite_keys = ['k']\nbrowser = true\naddress_bytes_max = 0",
            &["sources.a.address_bytes_max", "1 or more"],
        ),
        (
            "[sources.a]\nwrite_keys = ['k']\nbrowser = true\naddress_bytes_max = 1_048_575",
            &["sources.a.address_bytes_max", "1048575", "server.message_bytes_max (1048576)"],
        ),
        (
            "[sources.a]\nwrite_keys = ['k']\nwebhook_lists = 'maybe'",
            &["sources.a.webhook_lists", "maybe"],
        ),
        ("[server]\nwrite_timeout_ms = 0", &["server.write_timeout_ms", "1 or more"]),
        ("[server]\naddress_connections_max = 0", &["server.address_connections_max", "1 or more"]),
        (
            "[server]\nconnections_max = 9\naddress_connections_max = 10",
            &["server.address_connections_max", "is 10", "server.connections_max (9)"],
        ),
        ("[store]\nbacklog_bytes_max = 0", &["store.backlog_bytes_max", "1 or more"]),
        ("[store]\nconnections_max = 7", &["store.connections_max", "9 or more"]),
        ("[store]\nnotify = 'on'", &["store.notify", "auto", "off"]),
        ("[store]\nlisten_url = 'db:5432'", &["store.listen_url", "postgres://"]),
        (
            "[server]\ntrusted_proxies = ['10.0.0.0/8', '10.0.0.0/33', 'proxy']",
            &["server.trusted_proxies", "`10.0.0.0/33`", "`proxy`"],
        ),
        ("[destinations.more]\napi_key = ''", &["destinations.more.api_key"]),
        (
            "[destinations.default]\nskip_unchanged = 'yes'\nskip_unchanged_ttl_h = 0\nidentity = 'on'\nconsent = 'off'",
            &[
                "destinations.default.skip_unchanged",
                "`yes`",
                "\"observe\"",
                "destinations.default.skip_unchanged_ttl_h",
                "1 or more",
                "destinations.default.identity",
                "destinations.default.consent",
                "\"guard\"",
            ],
        ),
        (
            "[destinations.a]\napi_key = 'k'\nskip_unchanged = 'on'\n[destinations.b]\napi_key = 'k'",
            &[
                "destinations.a.skip_unchanged",
                "destinations.b has the same API key",
                "\"observe\"",
            ],
        ),
        (
            "[destinations.more]\napi_key_file = '/no/such/file'",
            &["destinations.more.api_key_file", "/no/such/file"],
        ),
    ];
    for (file, words) in cases {
        let text = refusal(&Setup::with_loops(NOWHERE).config(file));
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    }
}

#[test]
fn errors_in_the_environment_are_named() {
    let text = refusal(&Setup::with_loops(NOWHERE).env("SEGMENT_LOOPS__SERVER__LISTN", "x"));
    assert!(text.contains("environment") && text.contains("listn"), "{text}");
    let text = refusal(&Setup::with_loops(NOWHERE).env("LOOPS_RATE_LIMIT", "fast"));
    assert!(text.contains("destinations.default.rate"), "{text}");
    for url in ["loops.so", "https://loops.invalid/v1?a=b", "https://loops.invalid/v1/#a"] {
        let text = refusal(&Setup::with_loops(NOWHERE).env("LOOPS_BASE_URL", url));
        assert!(text.contains("destinations.default.base_url"), "{text}");
    }
}

#[test]
fn entries_of_lists_that_could_never_match_are_refused() {
    const DESTINATION: &str = "SEGMENT_LOOPS__DESTINATIONS__DEFAULT";
    let lists = [
        ("destinations.default", "placeholder_ids"),
        ("destinations.default", "consent_categories"),
        ("destinations.default", "subscriptions_files"),
        ("sources.default", "origins"),
        ("server", "trusted_proxies"),
    ];
    for (table, key) in lists {
        let written = format!("{table}.{key}");
        let file = format!("[{table}]\n{key} = ['a', ' ']\n");
        let text = refusal(&Setup::with_loops(NOWHERE).config(&file));
        for word in ["segment-loops.toml", &written, "entry 2 is empty"] {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
        let variable = format!("SEGMENT_LOOPS__{}", written.to_uppercase().replace('.', "__"));
        for (value, word) in [
            ("[a, b]", "begins with a bracket"),
            ("['a', 'b']", "begins with a bracket"),
            ("\"a\", \"b\"", "entry 1 is in quotes"),
            ("a,,b", "entry 2 is empty"),
        ] {
            let text = refusal(&Setup::with_loops(NOWHERE).env(&variable, value));
            for word in ["environment", &written, word] {
                assert!(text.contains(word), "{variable}={value}: `{word}` is not in: {text}");
            }
        }
    }
    let text = refusal(&Setup::with_loops(NOWHERE).env("LOOPS_SUBSCRIPTIONS", "[a.toml]"));
    assert!(text.contains("destinations.default.subscriptions_files"), "{text}");
    let many = format!("{DESTINATION}__PLACEHOLDER_IDS");
    let text = refusal(&Setup::with_loops(NOWHERE).env(&many, "[\"me\", \"\"]"));
    assert!(text.contains("placeholder_ids") && text.contains("entry 2 is empty"), "{text}");
}

#[test]
fn several_errors_are_reported_at_once() {
    let file = "[sources.a]\nwrite_keys = ['']\n[destinations.b]\nrate = 0\napi_key = 'k'\n[delivery]\nrequests_max = 0";
    let text = refusal(&Setup::with_loops(NOWHERE).config(file));
    for word in ["sources.a.write_keys", "destinations.b.rate", "delivery.requests_max"] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("segment-loops.db");
    let content = "this is somebody's diary ".repeat(1_000);
    std::fs::write(&database, &content).unwrap();
    let text = refusal_with(1, &Setup::with_loops(NOWHERE).data(folder.path()));
    assert!(text.contains("segment-loops.db"), "{text}");
    assert_eq!(std::fs::read_to_string(&database).unwrap(), content);
}

#[tokio::test]
async fn secrets_are_read_from_files_and_several_sources_have_their_own_destinations() {
    let mut first = ScriptedLoops::willing().await;
    let mut second = ScriptedLoops::willing().await;
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("key");
    std::fs::write(&key_file, "key-of-the-second\n").unwrap();
    let config = format!(
        r#"
        [sources.web]
        write_keys = ["web-1", "web-2"]
        destination = "first"
        [sources.shop]
        write_keys = ["shop"]
        destination = "second"
        [destinations.first]
        api_key = "key-of-the-first"
        base_url = "{}"
        [destinations.second]
        api_key_file = "{}"
        base_url = "{}/"
        "#,
        first.base_url,
        key_file.display(),
        second.base_url
    );
    let service = Setup::with_loops(NOWHERE).without_env().config(&config).start();
    for (key, id) in [("web-1", "m1"), ("web-2", "m2"), ("shop", "m3")] {
        let request = service.request(Method::POST, "/v1/track");
        let request = request.basic_auth(key, Some("")).body(track("u1", id).to_string());
        assert_eq!(Service::answer(request).await.status, 200);
    }
    assert_eq!(first.notes(2).await, ["m1", "m2"]);
    let seen = second.next().await;
    assert_eq!(seen.note(), "m3");
    assert_eq!(seen.headers["authorization"], "Bearer key-of-the-second");
}

#[tokio::test]
async fn messages_of_a_renamed_destination_are_reported_and_wait_for_its_name() {
    let mut loops = ScriptedLoops::start(|_| Reply::status(503)).await;
    let config = |name: &str| {
        format!(
            "[sources.web]\nwrite_keys = [\"web\"]\ndestination = \"{name}\"\n\
             [destinations.{name}]\napi_key = \"k\"\nbase_url = \"{}\"\n",
            loops.base_url
        )
    };
    let setup = |name: &str| Setup::with_loops(NOWHERE).without_env().config(&config(name));
    let [old, new] = ["before", "after"].map(setup);
    let service = old.start();
    let request = service.request(Method::POST, "/v1/track");
    let request = request.basic_auth("web", Some("")).body(track("u1", "m1").to_string());
    assert_eq!(Service::answer(request).await.status, 200);
    let service = service.crash_and_restart(&new);
    let told =
        service.logged(|line| line["destination"] == "before" && line["level"] == "WARN").await;
    assert_eq!(told["messages"], 1, "{told}");
    loops.now(|_| Reply::ok());
    let service = service.crash_and_restart(&old);
    while loops.next().await.note() != "m1" {}
    drop(service);
}

#[tokio::test]
async fn each_secret_of_the_environment_is_read_from_a_file_where_one_is_named() {
    let mut loops = ScriptedLoops::willing().await;
    let folder = tempfile::tempdir().unwrap();
    let mut setup = Setup::with_loops(NOWHERE).without_env().env("LOOPS_BASE_URL", &loops.base_url);
    for (name, content) in [
        ("LOOPS_API_KEY", "api-key\n"),
        ("SEGMENT_WRITE_KEY", "first\r\nsecond, third\n"),
        ("SEGMENT_WEBHOOK_SECRET", "secret"),
        ("SEGMENT_WEBHOOK_TOKEN", "token\n"),
        ("ADMIN_TOKEN", ADMIN_TOKEN),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        setup = setup.env(&format!("{name}_FILE"), file.to_str().unwrap());
    }
    let service = setup.start();
    for (key, id) in [("first", "m1"), ("second", "m2"), ("third", "m3")] {
        let request = service.request(Method::POST, "/v1/track").basic_auth(key, Some(""));
        let answer = Service::answer(request.body(track("u1", id).to_string())).await;
        assert_eq!(answer.status, 200, "{key}: {answer:?}");
    }
    let seen = loops.next().await;
    assert_eq!(
        (seen.note().as_str(), &seen.headers["authorization"]),
        ("m1", &"Bearer api-key".parse().unwrap())
    );
    let message = track("u1", "m4").to_string();
    let signature = signature("secret", &message);
    let webhook = |token: &str, signature: &str| {
        let request = service.request(Method::POST, "/webhook/default").bearer_auth(token);
        Service::answer(request.header("x-signature", signature).body(message.clone()))
    };
    assert_eq!(webhook("token", &signature).await.status, 200);
    assert_eq!(webhook("other", &signature).await.status, 401);
    assert_eq!(webhook("token", "00").await.status, 401);
    service.message("m4", |found| !found.is_null()).await;

    let text = refusal(&setup.clone().env("SEGMENT_WRITE_KEY", "k"));
    assert!(text.contains("sources.default.write_keys") && text.contains("not both"), "{text}");
    let text = refusal(&setup.env("SEGMENT_WRITE_KEY_FILE", "/no/such/file"));
    assert!(text.contains("sources.default.write_keys_file"), "{text}");
    assert!(!text.contains("there is no write key"), "{text}");
}

#[test]
fn a_log_level_that_is_none_is_refused_rather_than_silencing_the_log() {
    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1");
    let (code, text) = setup.env("SEGMENT_LOOPS__LOG__LEVEL", "warning").run_to_end();
    assert_eq!(code, Some(3), "{text}");
    for part in ["log.level", "`warning` is not a level", "error, warn, info, debug, trace, off"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
