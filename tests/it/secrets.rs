//! Secrets are read the same way wherever they are written, and old and new ones are accepted side by side.

use std::path::Path;

use reqwest::Method;

use crate::authentication::signature;
use crate::support::{ADMIN_TOKEN, ScriptedLoops, Service, Setup, WRITE_KEY, track};

const NOWHERE: &str = "http://127.0.0.1:9/api/v1";

/// The secrets, each with its variable, table and key.
const SECRETS: [(&str, &str, &str); 5] = [
    ("LOOPS_API_KEY", "destinations.default", "api_key"),
    ("SEGMENT_WRITE_KEY", "sources.default", "write_keys"),
    ("SEGMENT_WEBHOOK_SECRET", "sources.default", "webhook_secret"),
    ("SEGMENT_WEBHOOK_TOKEN", "sources.default", "webhook_token"),
    ("ADMIN_TOKEN", "server", "admin_token"),
];

/// Returns the written form of a secret for its plain value.
type Written = fn(&str) -> String;

/// The place where a secret is written.
#[derive(Debug, Clone, Copy)]
enum Place {
    Environment,
    Configuration,
    File,
}

const PLACES: [Place; 3] = [Place::Environment, Place::Configuration, Place::File];

/// A setup with each secret at `place`, in the form that `written` returns.
fn setup(base_url: &str, place: Place, folder: &Path, written: impl Fn(&str) -> String) -> Setup {
    let mut setup = Setup::with_loops(base_url).without_env();
    let mut config = format!("[destinations.default]\nbase_url = '{base_url}'\n");
    for (variable, table, key) in SECRETS {
        let value = written(plain(variable));
        match place {
            Place::Environment => setup = setup.env(variable, &value),
            Place::File => {
                let file = folder.join(variable);
                std::fs::write(&file, value).unwrap();
                setup = setup.env(&format!("{variable}_FILE"), file.to_str().unwrap());
            }
            Place::Configuration => {
                // JSON's escapes are valid in TOML.
                let value = serde_json::to_string(&value).unwrap();
                config = match config.find(&format!("[{table}]\n")) {
                    Some(at) => {
                        let at = at + table.len() + 3;
                        format!("{}{key} = {value}\n{}", &config[..at], &config[at..])
                    }
                    None => format!("{config}[{table}]\n{key} = {value}\n"),
                };
            }
        }
    }
    setup.config(&config)
}

fn plain(variable: &str) -> &'static str {
    match variable {
        "LOOPS_API_KEY" => "api-canary",
        "SEGMENT_WRITE_KEY" => WRITE_KEY,
        "SEGMENT_WEBHOOK_SECRET" => "typed by hand, with blanks",
        "SEGMENT_WEBHOOK_TOKEN" => "token-canary",
        _ => ADMIN_TOKEN,
    }
}

async fn webhook(service: &Service, id: &str, secret: &str, token: &str) -> u16 {
    let message = track("u1", id).to_string();
    let request = service.request(Method::POST, "/webhook/default").bearer_auth(token);
    let request = request.header("x-signature", signature(secret, &message)).body(message);
    Service::answer(request).await.status
}

async fn status_of_admin(service: &Service, token: &str) -> u16 {
    let request = service.request(Method::GET, "/api/messages?userId=u1").bearer_auth(token);
    Service::answer(request).await.status
}

#[tokio::test]
async fn white_space_around_a_secret_is_not_part_of_it() {
    let surrounded: [Written; 3] = [
        |secret| format!("{secret}\n"),
        |secret| format!("\u{feff}{secret}\r\n"),
        |secret| format!("\r\n \t{secret} \u{a0}\n\n"),
    ];
    for place in PLACES {
        for written in surrounded {
            let mut loops = ScriptedLoops::willing().await;
            let folder = tempfile::tempdir().unwrap();
            let service = setup(&loops.base_url, place, folder.path(), written).start();
            service.accept("/v1/track", track("u1", "m1")).await;
            let seen = loops.next().await;
            assert_eq!(seen.headers["authorization"], "Bearer api-canary", "{place:?}");
            let [secret, token] = ["SEGMENT_WEBHOOK_SECRET", "SEGMENT_WEBHOOK_TOKEN"].map(plain);
            assert_eq!(webhook(&service, "m2", secret, token).await, 200, "{place:?}");
            assert_eq!(status_of_admin(&service, ADMIN_TOKEN).await, 200, "{place:?}");
        }
    }
}

#[test]
fn a_secret_with_quotes_or_other_extras_is_refused_with_the_reason() {
    let cases: [(Written, &str); 13] = [
        (|secret| format!("\"{secret}\""), "quotes"),
        (|secret| format!("`{secret}`"), "in quotes"),
        (|secret| format!("\"{secret}"), "begins or ends with a quote"),
        (|secret| format!("{secret}'"), "begins or ends with a quote"),
        (|secret| format!("[\"{secret}\"]"), "in brackets"),
        (|secret| format!("<{secret}>"), "in brackets"),
        (|secret| format!("[{secret}"), "begins with a bracket"),
        (|secret| format!("{secret}\\n"), "a backslash and a letter"),
        (|secret| format!("'{secret}'\n"), "quotes"),
        (|secret| format!("{secret}\u{1}x"), "control character"),
        (|secret| format!("{secret}\tx"), "control character"),
        (|secret| format!("\u{201c}{secret}\u{201d}"), "not ASCII"),
        (|_| " \u{feff}\n".to_owned(), "empty"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for place in PLACES {
        for (written, reason) in cases {
            let (code, text) = setup(NOWHERE, place, folder.path(), written).run_to_end();
            assert_eq!(code, Some(3), "{text}");
            for (variable, table, key) in SECRETS {
                let line = text.lines().find(|line| line.contains(&format!("{table}.{key}: ")));
                let line = line.unwrap_or_else(|| panic!("{table}.{key} is not in: {text}"));
                assert!(line.contains(reason), "{place:?}, {reason}: {line}");
                assert!(!text.contains(plain(variable)), "{place:?}, {reason}: {text}");
                let is_environment = !matches!(place, Place::Configuration);
                assert!(!is_environment || line.contains(variable), "{place:?}: {line}");
            }
        }
    }
    // There is only one API key: a second line is not a second key.
    let file = folder.path().join("keys");
    std::fs::write(&file, "one\ntwo\n").unwrap();
    let setup = Setup::with_loops(NOWHERE).without_env().env("SEGMENT_WRITE_KEY", "k");
    let (_, text) = setup.env("LOOPS_API_KEY_FILE", file.to_str().unwrap()).run_to_end();
    assert!(text.contains("destinations.default.api_key: it holds a line break"), "{text}");
    assert!(text.contains(&format!("(in the file {})", file.display())), "{text}");
    assert!(!text.contains("LOOPS_API_KEY sets"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_unicode_is_refused_with_its_reason() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::with_loops(NOWHERE);
    let mut command = setup.other_command(folder.path(), folder.path(), &["serve"]);
    let output =
        command.env("LOOPS_API_KEY", std::ffi::OsStr::from_bytes(b"k\xe4y")).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("destinations.default.api_key: it holds a character that is not ASCII"),
        "{text}"
    );
}

#[tokio::test]
async fn old_and_new_secrets_count_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let lines = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let start = || Setup::with_loops(NOWHERE).without_env().env("LOOPS_API_KEY", "k");
    let start = || start().env("LOOPS_BASE_URL", NOWHERE).env("SEGMENT_WRITE_KEY", "k");
    let list = "[server]\nadmin_tokens = ['old-admin', 'new-admin']\n[sources.default]\n\
                webhook_secrets = ['old, secret', 'new secret']\nwebhook_tokens = ['old', 'new']\n";
    let joined = "[server]\nadmin_tokens = ['new-admin']\n[sources.default]\n\
                  webhook_secrets = ['new secret']\nwebhook_tokens = ['new']\n";
    let setups = [
        start().config(list),
        start()
            .config(joined)
            .env("ADMIN_TOKEN", "old-admin")
            .env("SEGMENT_WEBHOOK_SECRET", "old, secret")
            .env("SEGMENT_WEBHOOK_TOKEN", "old"),
        start()
            .env("ADMIN_TOKEN_FILE", &lines("a", "old-admin\r\n\r\nnew-admin\r\n"))
            .env("SEGMENT_WEBHOOK_SECRET_FILE", &lines("s", "\u{feff}old, secret\nnew secret"))
            .env("SEGMENT_WEBHOOK_TOKEN_FILE", &lines("t", "old\n new \n")),
        start()
            .env("ADMIN_TOKEN", "old-admin\nnew-admin")
            .env("SEGMENT_WEBHOOK_SECRET", "old, secret\nnew secret\n")
            .env("SEGMENT_LOOPS__SOURCES__DEFAULT__WEBHOOK_TOKENS", "old, new"),
    ];
    for (number, setup) in setups.into_iter().enumerate() {
        let service = setup.start();
        for (index, (secret, token, expected)) in [
            ("old, secret", "old", 200),
            ("new secret", "new", 200),
            ("old, secret", "new", 200),
            ("new secret", "old", 200),
            ("other", "new", 401),
            ("old", "new", 401),
            ("new secret", "other", 401),
            ("new secret", "", 401),
        ]
        .into_iter()
        .enumerate()
        {
            let status = webhook(&service, &format!("m{index}"), secret, token).await;
            assert_eq!(status, expected, "{number}: {secret}, {token}");
        }
        for (token, expected) in [("old-admin", 200), ("new-admin", 200), ("other", 401)] {
            assert_eq!(status_of_admin(&service, token).await, expected, "{number}: {token}");
        }
    }
}

#[test]
fn lists_of_secrets_are_checked_like_single_ones() {
    let cases = [
        ("webhook_secrets = []", "sources.default.webhook_secrets", "is empty"),
        (
            "webhook_secrets = ['a', '\"b\"']",
            "sources.default.webhook_secrets",
            "number 2: it is still in quotes",
        ),
        ("webhook_tokens = ['a', '']", "sources.default.webhook_tokens", "number 2: it is empty"),
        (
            "webhook_tokens = ['a', '[b]']",
            "sources.default.webhook_tokens",
            "number 2: it is in brackets",
        ),
    ];
    for (lines, key, reason) in cases {
        let setup = Setup::with_loops(NOWHERE).config(&format!("[sources.default]\n{lines}\n"));
        let (code, text) = setup.run_to_end();
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains(key) && text.contains(reason), "{text}");
    }
}

#[test]
fn a_list_in_quotes_or_brackets_is_refused_with_the_way_to_separate_its_secrets() {
    const SOURCE: &str = "SEGMENT_LOOPS__SOURCES__DEFAULT";
    let by_lines = "separated by line breaks";
    let by_commas = "separated by commas or line breaks";
    // The variables, the key that each sets, and the separator of its secrets.
    let lists = [
        ("SEGMENT_WRITE_KEY".to_owned(), "sources.default.write_keys", by_commas),
        (format!("{SOURCE}__WEBHOOK_SECRETS"), "sources.default.webhook_secrets", by_commas),
        (format!("{SOURCE}__WEBHOOK_TOKENS"), "sources.default.webhook_tokens", by_commas),
        ("SEGMENT_LOOPS__SERVER__ADMIN_TOKENS".to_owned(), "server.admin_tokens", by_commas),
        ("ADMIN_TOKEN".to_owned(), "server.admin_token", by_lines),
        ("SEGMENT_WEBHOOK_TOKEN".to_owned(), "sources.default.webhook_token", by_lines),
    ];
    let texts = [
        ("\"old-1,new-2\"", "in quotes"),
        ("'old-1\nnew-2'", "in quotes"),
        ("`old-1,new-2`", "in quotes"),
        ("\"old-1\",\"new-2\"", "in quotes"),
        ("[\"old-1\",\"new-2\"]", "in brackets"),
        ("[old-1\nnew-2]", "in brackets"),
        ("{\"old-1\", \"new-2\"}", "in brackets"),
        ("\"old-1\nnew-2", "number 1: it begins or ends with a quote"),
        ("old-1\nnew-2'", "number 2: it begins or ends with a quote"),
        ("old-1\nnew-2\\n", "number 2: it holds a line break written as a backslash"),
        ("old-1\\nnew-2", "a line break written as a backslash"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (variable, key, separated) in lists {
        for (text, reason) in texts {
            let base = Setup::with_loops(NOWHERE).without_env();
            let base = base.env("LOOPS_API_KEY", "k").env("LOOPS_BASE_URL", NOWHERE);
            let base = match variable.as_str() {
                "SEGMENT_WRITE_KEY" => base,
                _ => base.env("SEGMENT_WRITE_KEY", "k"),
            };
            let mut setups = vec![base.clone().env(&variable, text)];
            if !variable.starts_with("SEGMENT_LOOPS__") {
                let file = folder.path().join(&variable);
                std::fs::write(&file, format!("{text}\n")).unwrap();
                setups.push(base.env(&format!("{variable}_FILE"), file.to_str().unwrap()));
            }
            for setup in setups {
                let (code, said) = setup.run_to_end();
                assert_eq!(code, Some(3), "{variable}, {text}: {said}");
                for part in [&format!("{key}: "), reason, separated] {
                    assert!(said.contains(part), "{variable}, {text}, {part}: {said}");
                }
                assert!(!said.contains("old-1") && !said.contains("new-2"), "{said}");
            }
        }
    }
}

#[tokio::test]
async fn webhook_secrets_change_without_a_restart() {
    let config = |secrets: &str| format!("[sources.default]\nwebhook_secrets = {secrets}\n");
    let setup = Setup::with_loops(NOWHERE).without_env().env("LOOPS_API_KEY", "k");
    let setup = setup.env("LOOPS_BASE_URL", NOWHERE).env("SEGMENT_WRITE_KEY", "k");
    let service = setup.env("ADMIN_TOKEN", ADMIN_TOKEN).config(&config("['old']")).start();
    for (secrets, old, new) in
        [("['old']", 200, 401), ("['new', 'old']", 200, 200), ("['new']", 401, 200)]
    {
        let file = service.data().parent().unwrap().join("segment-loops.toml");
        std::fs::write(file, config(secrets)).unwrap();
        let request = service.request(Method::POST, "/api/reload").bearer_auth(ADMIN_TOKEN);
        assert_eq!(Service::answer(request).await.status, 200);
        assert_eq!(webhook(&service, "m1", "old", "").await, old, "{secrets}");
        assert_eq!(webhook(&service, "m1", "new", "").await, new, "{secrets}");
    }
}
