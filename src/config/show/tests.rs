//! What is shown is what is in force, with its origins and without secrets.

use std::collections::{BTreeSet, HashMap};

use serde::de::DeserializeOwned;
use toml::Table;

use super::Effective;
use super::documented::{fixed_tables, named_table};
use super::hiding::{BASE_URL, HIDDEN, SECRETS};
use super::tables::{DESTINATION_UNSET, SOURCE_UNSET};
use super::values::parse;
use crate::config::tree::{
    AlertsConfig, ConsoleConfig, DeliveryConfig, DestinationTree, LogConfig, ServerConfig,
    SourceTree, StoreConfig,
};
use crate::config::{Config, Flags, load};

fn environment(variables: &[(&str, &str)]) -> HashMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Returns the keys that a table may have, according to its type.
fn keys_of<T: DeserializeOwned + std::fmt::Debug>() -> BTreeSet<String> {
    let problem = toml::from_str::<T>("no_such_key = 1").unwrap_err().message().to_owned();
    let (_, known) = problem.split_once("expected").unwrap();
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_is_documented_or_a_short_form_of_one_that_is() {
    let fixed: HashMap<String, Table> = fixed_tables().into_iter().collect();
    let cases = [
        (fixed["server"].clone(), keys_of::<ServerConfig>()),
        (fixed["store"].clone(), keys_of::<StoreConfig>()),
        (fixed["delivery"].clone(), keys_of::<DeliveryConfig>()),
        (fixed["log"].clone(), keys_of::<LogConfig>()),
        (fixed["console"].clone(), keys_of::<ConsoleConfig>()),
        (fixed["alerts"].clone(), keys_of::<AlertsConfig>()),
        (named_table("sources"), keys_of::<SourceTree>()),
        (named_table("destinations"), keys_of::<DestinationTree>()),
    ];
    for (documented, known) in cases {
        assert!(!known.is_empty());
        for key in &known {
            let base = key.strip_suffix("_file").unwrap_or(key);
            let list = format!("{base}s");
            let is_there = |key: &str| documented.contains_key(key);
            assert!(is_there(base) || is_there(&list), "{key} is not in config/default.toml");
            assert!(base == key || SECRETS.contains(&base), "{base} has a file");
        }
        for key in documented.keys() {
            assert!(known.contains(key), "{key} is no key");
        }
    }
    for key in SOURCE_UNSET {
        assert!(named_table("sources").contains_key(key), "{key}");
    }
    for key in DESTINATION_UNSET {
        assert!(named_table("destinations").contains_key(key), "{key}");
    }
}

const KEYS: [(&str, &str); 2] = [("LOOPS_API_KEY", "a-secret"), ("SEGMENT_WRITE_KEY", "b-secret")];

#[test]
fn what_is_shown_is_what_is_in_force() {
    let written = [
        &KEYS[..],
        &[
            ("SEGMENT_LOOPS__SERVER__LISTEN", "127.0.0.1:81"),
            ("LOOPS_RATE_LIMIT", "7"),
            ("SEGMENT_LOOPS__SOURCES__DEFAULT__BROWSER", "true"),
            ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__PLACEHOLDER_IDS", "a, b"),
            ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__MERGE", "false"),
        ],
    ];
    for variables in [KEYS.to_vec(), written.concat()] {
        let environment = environment(&variables);
        let text = Effective::new(&Flags::default(), &environment).to_toml();
        let pasted = text.replace(&format!("[\"{HIDDEN}\"]"), "[\"b-secret\"]");
        let pasted =
            pasted.replace(&format!("write_keys = \"{HIDDEN}\""), "write_keys = \"b-secret\"");
        let pasted = pasted.replace(HIDDEN, "a-secret");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &pasted).unwrap();
        let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
        let shown = load(&flags, HashMap::new());
        let shown = shown.unwrap_or_else(|error| panic!("{error}\n{pasted}"));
        let meant = load(&Flags::default(), environment).unwrap();
        let text = |config: &Config| format!("{config:?}");
        assert!(text(&shown) == text(&meant), "something else is in force: {pasted}");
    }
}

#[test]
fn each_value_says_where_it_comes_from() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[server]\nlisten = \"127.0.0.1:1\"\nack_timeout_ms = 5_000\n[store]\nwal = \"own\"\n[sources.web]\nwrite_keys = [\"c-secret\", \"d-secret\"]\n[[subscriptions]]\nname = \"a b\"\naction = \"sendEvent\"\nevents = [\"X\"]\n";
    std::fs::write(file.path(), text).unwrap();
    let flags = Flags {
        file: Some(file.path().to_owned()),
        data: Some("elsewhere".into()),
        ..Flags::default()
    };
    let environment = environment(&[
        ("SEGMENT_LOOPS__SERVER__LISTEN", "127.0.0.1:2"),
        ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__API_KEY", "e-secret"),
        ("LOOPS_API_KEY", "a-secret"),
        ("DATABASE_URL_FILE", env!("CARGO_MANIFEST_DIR")),
        ("PATH", "/bin"),
    ]);
    let shown = Effective::new(&flags, &environment).to_toml();
    let name = file.path().display();
    for line in [
        "listen = \"127.0.0.1:2\"  # from SEGMENT_LOOPS__SERVER__LISTEN".to_owned(),
        format!("ack_timeout_ms = 5000  # from {name}"),
        "body_timeout_ms = 30000".to_owned(),
        "# admin_listen is not set".to_owned(),
        "data = \"elsewhere\"  # from --data".to_owned(),
        format!("url_file = {path:?}  # from DATABASE_URL_FILE", path = env!("CARGO_MANIFEST_DIR")),
        format!("write_keys = [\"{HIDDEN}\", \"{HIDDEN}\"]  # from {name}"),
        "destination = \"default\"".to_owned(),
        format!("api_key = \"{HIDDEN}\"  # from LOOPS_API_KEY"),
        "mode = \"live\"".to_owned(),
        "name = \"a b\"".to_owned(),
    ] {
        assert!(shown.lines().any(|found| found == line), "`{line}` is not in:\n{shown}");
    }
    assert!(!shown.contains("secret\"") && !shown.contains("/bin"), "{shown}");
    assert!(!shown.contains("# url is not set") && !shown.contains("address_bytes_max"), "{shown}");
    assert!(parse(&shown).is_some(), "{shown}");
}

/// A secret key that [`SECRETS`] does not name would be shown.
#[test]
fn every_key_of_a_secret_is_hidden() {
    let fields = include_str!("../tree.rs").lines().filter_map(|line| line.split_once(": "));
    let secret = fields.filter(|(_, of)| of.starts_with("Secrets") || of.contains("<Secret"));
    let names: BTreeSet<&str> =
        secret.filter_map(|(name, _)| name.split_whitespace().last()).collect();
    assert_eq!(names, BTreeSet::from(SECRETS));
}

#[test]
fn secrets_are_hidden_also_where_they_do_not_belong() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "api_kye = \"secret\"\n[server]\npublic_ulr = \"secret\"\n[destinations.default]\nbase_url = \"https://u:secret@proxy.example\"\napikey = [\"secret\"]\n[destinations.default.more]\nx = \"secret\"\n[other]\n\"a b\" = \"secret\"\n";
    std::fs::write(file.path(), text).unwrap();
    let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
    let environment = environment(&[
        ("ADMIN_TOKEN", "secret"),
        ("SEGMENT_LOOPS__ALERTS__WEBHOOK_URL", "https://secret"),
        ("SEGMENT_LOOPS__SOURCES__WEB__WRITE_KEYS", "secret,secret"),
        ("SEGMENT_LOOPS__SOURCES__WEB__TOKEN", "secret"),
    ]);
    let effective = Effective::new(&flags, &environment);
    let shown = effective.to_toml();
    for text in [&shown, &effective.to_json().to_string()] {
        assert!(!text.replace("webhook_secret", "").contains("secret"), "{text}");
    }
    for key in ["api_kye", "public_ulr", "apikey", "\"a b\"", "admin_token", "x"] {
        assert!(shown.contains(&format!("{key} = \"{HIDDEN}\"")), "{key}: {shown}");
    }
    assert!(parse(&shown).is_some(), "{shown}");
}

/// Returns what is shown of a file, as TOML and as JSON, after checking that it hides what is secret.
fn without_secrets(text: &str, variables: &[(&str, &str)]) -> (String, serde_json::Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
    let effective = Effective::new(&flags, &environment(variables));
    let (shown, json) = (effective.to_toml(), effective.to_json());
    for text in [&shown, &json.to_string()] {
        assert!(!text.contains("canary"), "{text}");
    }
    assert!(!shown.contains("cannot be read") && parse(&shown).is_some(), "{shown}");
    (shown, json)
}

#[test]
fn secrets_are_hidden_in_subscriptions_too() {
    for header in ["subscriptions", "destinations.default.subscriptions"] {
        let text = format!(
            r#"
top = "canary"
[[{header}]]
name = "a b"
action = "sendEvent"
events = ["X"]
admin_token = "canary"
sectret = ["canary"]
enabled = {{ api_key = "canary" }}
[{header}.mapping]
api_key = "canary"
ADMIN_TOKEN = "canary"
SEGMENT_LOOPS__SERVER__ADMIN_TOKEN_FILE = "canary"
email = {{ "@path" = "$.email" }}
[{header}.mapping.eventProperties]
url = {{ "@path" = "$.context.page.url" }}
plan = "pro"
write_key = ["canary"]
webhook-secrets_file = "canary"
[[{header}.mapping.list]]
deep = [{{ apiKey = {{ "@template" = "canary" }} }}]
[[{header}]]
name = "second"
mapping = '{{"n": null, "l": [{{"api_key": "canary"}}]}}'
[[{header}]]
name = "third"
mapping = '{{"n": null}}'
"#
        );
        let (shown, json) = without_secrets(&text, &[]);
        for line in [
            "name = \"a b\"",
            "events = [\"X\"]",
            "admin_token = \"(hidden)\"",
            "sectret = \"(hidden)\"",
            "mapping = \"(hidden)\"",
        ] {
            assert!(shown.lines().any(|found| found == line), "`{line}` is not in:\n{shown}");
        }
        let entries = match header {
            "subscriptions" => &json["values"]["subscriptions"],
            _ => &json["values"]["destinations"]["default"]["subscriptions"],
        };
        let mapping = &entries[0]["mapping"];
        assert_eq!(mapping["api_key"], HIDDEN);
        assert_eq!(mapping["email"]["@path"], "$.email");
        assert_eq!(mapping["eventProperties"]["plan"], "pro");
        assert_eq!(mapping["eventProperties"]["url"]["@path"], "$.context.page.url");
        assert_eq!(mapping["eventProperties"]["write_key"], HIDDEN);
        assert_eq!(entries[2]["mapping"], "{\"n\": null}");
        assert_eq!(json["values"]["top"], HIDDEN);
        // Pasted back, everything is where it was.
        let pasted = parse(&shown).unwrap();
        assert_eq!(pasted["top"].as_str(), Some(HIDDEN), "{shown}");
    }
    without_secrets("subscriptions = [\"canary\", [\"canary\"]]", &[]);
    without_secrets("[destinations.default]\nsubscriptions = \"canary\"", &[]);
    let text = "[server]\nlisten = [{ x = \"canary\" }]\nadmin_token_file = [\"canary\"]";
    without_secrets(text, &[]);
}

#[test]
fn a_file_is_shown_if_it_exists_and_a_base_url_if_it_is_that_of_loops() {
    for (variable, value, line) in [
        ("LOOPS_API_KEY_FILE", "canary", "api_key_file = \"(hidden)\""),
        ("DATABASE_URL_FILE", "postgres://u:canary@h/db", "url_file = \"(hidden)\""),
        ("LOOPS_API_KEY_FILE", "Cargo.toml", "api_key_file = \"Cargo.toml\""),
        ("LOOPS_BASE_URL", "https://proxy.example/canary/api/v1", "base_url = \"(hidden)\""),
        ("LOOPS_BASE_URL", BASE_URL, "base_url = \"https://app.loops.so/api/v1\""),
    ] {
        let (shown, _) = without_secrets("", &[(variable, value)]);
        assert!(shown.contains(&format!("\n{line}  # from {variable}\n")), "{line}: {shown}");
        let environment = environment(&[(variable, value)]);
        let error = load(&Flags::default(), environment).unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn a_value_that_is_also_a_table_hides_no_table() {
    let variables = [
        ("SEGMENT_LOOPS__STORE__DATA__X", "canary"),
        ("SEGMENT_LOOPS__DESTINATIONS__DEFAULT__RATE__X", "canary"),
    ];
    let (shown, json) = without_secrets("server = \"canary\"\nother = 1", &variables);
    assert!(shown.contains("# server, from "), "{shown}");
    assert!(shown.contains("# store.data.x, from SEGMENT_LOOPS__STORE__DATA__X, is left out"));
    let values = &json["values"];
    assert!(values["server"]["ack_timeout_ms"].is_u64(), "{values}");
    assert!(values["store"]["data"].is_string(), "{values}");
    assert_eq!(values["destinations"]["default"]["rate"]["x"], HIDDEN);
    assert_eq!(values["other"], HIDDEN);
}
