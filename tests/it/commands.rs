//! Properties that all commands share: exit codes, help, and that each needs only the configuration that it uses. Also
//! the commands that describe the setup.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::postgres::on_postgres;
use crate::support::{API_KEY, EMAIL_DOMAIN, ScriptedLoops, Setup, WRITE_KEY, identify};

const NOWHERE: &str = "http://127.0.0.1:9/api/v1";

/// Each command with its required arguments, and whether it takes a configuration.
const COMMANDS: [(&[&str], bool); 21] = [
    (&["dev"], false),
    (&["check"], true),
    (&["config", "show"], true),
    (&["preview"], true),
    (&["serve"], true),
    (&["healthcheck"], false),
    (&["alerts", "test"], true),
    (&["import", "-"], true),
    (&["replay", "--all-failed"], true),
    (&["erase", "--user", "u1"], true),
    (&["known", "-"], true),
    (&["compare", "--subscriptions", "new.toml"], true),
    (&["drift"], true),
    (&["backup", "--to", "-"], true),
    (&["restore", "-"], true),
    (&["migrate"], true),
    (&["move", "--from", "data"], true),
    (&["sandbox"], false),
    (&["eval"], false),
    (&["completions", "bash"], false),
    (&["man", "--to", "."], false),
];

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
    command.env_clear().current_dir(folder).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    told(program(folder.path()).args(arguments).output().unwrap())
}

fn told(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_command_is_listed_with_the_exit_codes() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    let (_, listed) = help.split_once("Commands:\n").unwrap();
    let (listed, _) = listed.split_once("\n\n").unwrap();
    let listed: Vec<&str> = listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    let hidden = ["completions", "man"];
    let known: Vec<&str> = COMMANDS.iter().map(|(arguments, _)| arguments[0]).collect();
    let shown: Vec<&str> = known.iter().copied().filter(|name| !hidden.contains(name)).collect();
    assert_eq!(listed, shown);
    // The documents have the same table.
    let document = include_str!("../../docs/commands.md");
    for code in 0..5 {
        assert!(help.contains(&format!("\n  {code}  ")), "{code}: {help}");
        assert!(document.contains(&format!("\n| {code} | ")), "{code}");
    }
    for command in known {
        assert!(document.contains(&format!("`{command}")), "{command} is not in docs/commands.md");
    }
}

#[test]
fn the_help_of_every_command_has_an_example() {
    for (arguments, takes_configuration) in COMMANDS {
        let words: Vec<&str> =
            arguments.iter().copied().filter(|word| ["show", "test"].contains(word)).collect();
        let command = [&[arguments[0]], words.as_slice()].concat();
        let (code, help, _) = run(&[command.as_slice(), &["--help"]].concat());
        assert_eq!(code, Some(0), "{command:?}");
        let example = format!("segment-loops {}", command.join(" "));
        let mut examples = help.lines().filter(|line| line.starts_with("  "));
        let is_shown = examples.any(|line| line.contains(&example));
        assert!(is_shown || command == ["healthcheck"], "{command:?}: {help}");
        assert_eq!(help.contains("\nConfiguration:\n"), takes_configuration, "{command:?}: {help}");
        // The texts of options are indented, and may be longer.
        for line in help.lines().filter(|line| !line.starts_with("    ")) {
            assert!(line.chars().count() <= 116, "{command:?}: {line}");
        }
    }
}

#[test]
fn wrong_arguments_and_a_wrong_configuration_have_their_own_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broken.toml"), "[servr]\nx = 1\n").unwrap();
    std::fs::write(folder.path().join("new.toml"), "").unwrap();
    for (arguments, takes_configuration) in COMMANDS {
        let ran = |more: &[&str]| {
            told(program(folder.path()).args(arguments).args(more).output().unwrap())
        };
        let (code, stdout, stderr) = ran(&["--no-such-option"]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("--no-such-option"), "{arguments:?}: {stderr}");
        if takes_configuration {
            let (code, _, stderr) = ran(&["--config", "broken.toml"]);
            assert_eq!(code, Some(3), "{arguments:?}: {stderr}");
            let (code, _, missing) = ran(&["--config", "missing.toml"]);
            assert_eq!(code, Some(3), "{arguments:?}: {missing}");
            if arguments != ["check"] {
                assert!(stderr.contains("broken.toml: ") && stderr.contains("servr"), "{stderr}");
                assert!(missing.contains("missing.toml: --config: the file cannot be read"));
            }
        }
    }
    let mut dev = program(folder.path());
    dev.args(["dev", "--listen", "127.0.0.1:0", "--sandbox", "127.0.0.1:0"]);
    let (code, _, stderr) = told(dev.env("SEGMENT_LOOPS__SERVR__X", "1").output().unwrap());
    assert_eq!(code, Some(3), "{stderr}");
    // None of these commands created anything.
    assert!(!folder.path().join("data").exists());
}

#[test]
fn a_wrong_value_says_what_is_allowed() {
    let cases: [(&[&str], &str); 11] = [
        (&["backup", "--to", "x/", "--keep", "0"], "0 is not in 1..="),
        (&["backup", "--to", "x/", "--keep=-1"], "invalid value '-1'"),
        (&["drift", "--sample", "10001"], "10001 is not in 1..=10000"),
        (&["drift", "--since", "soon"], "how long ago, such as 90m, 12h or 7d"),
        (&["compare", "--subscriptions", "new.toml", "--last", "0"], "0 is not in 1..=1000"),
        (&["erase"], "--user <ID>|--email <ADDRESS>|--receipt <ID>|--verify <FILE>"),
        (&["erase", "--user", " "], "--user is empty"),
        (&["erase", "--email", "ada"], "--email must be an e-mail address"),
        (&["erase", "--email", "ada@nowhere"], "--email must be an e-mail address"),
        (&["replay"], "choose messages with --message-id, --user"),
        (&["man", "--to", "nowhere"], "the folder nowhere does not exist: create it first"),
    ];
    for (arguments, expected) in cases {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn each_command_needs_what_it_uses_and_no_keys_of_others() {
    let loops = ScriptedLoops::willing().await;
    let setup = Setup::with_loops(&loops.base_url);
    let mut service = setup.start();
    service.accept("/v1/identify", identify("u1", "m1")).await;
    service.message("m1", |message| message["state"] == "delivered").await;
    assert_eq!(service.stop().await, Some(0));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (copy, new, contacts) = (path("copy.db"), path("new"), path("contacts.csv"));
    std::fs::write(&contacts, format!("email\na@{EMAIL_DOMAIN}\n")).unwrap();
    let bare = setup.clone().without_env();
    for (data, arguments, expected) in [
        (service.data(), &["backup", "--to", &copy][..], "backed up to"),
        (Path::new(&new), &["restore", &copy], "1 message (0 of them waiting)"),
        (service.data(), &["migrate", "--check"], "the schema is current"),
        (service.data(), &["replay", "--message-id", "m1", "--state", "all"], "replayed: 1"),
        (service.data(), &["known", &contacts], "read 1 contact of `default`"),
        (service.data(), &["erase", "--user", "u1"], "\"state\": \"open\""),
    ] {
        let ran = bare.command_on(data, arguments, b"").await;
        assert!(ran.code == Some(0) && ran.stdout.contains(expected), "{arguments:?}: {ran:?}");
    }
    // Without the configuration, nothing is done for a destination that no process delivers.
    let empty = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (&["known", contacts.as_str()][..], 3),
        (&["replay", "--destination", "default"], 3),
        (&["erase", "--user", "u1"], 3),
        (&["import", "-"], 3),
        (&["drift"], 3),
    ] {
        assert_eq!(bare.command_on(empty.path(), &["migrate"], b"").await.code, Some(0));
        let ran = bare.command_on(empty.path(), arguments, b"").await;
        assert_eq!(ran.code, Some(expected), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains("is configured"), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn config_show_shows_what_is_in_force_and_no_secret() {
    let file =
        "[server]\nack_timeout_ms = 3_000\n[sources.shop]\nwrite_keys = [\"wk-canary-7f3b\"]\n";
    let setup = Setup::with_loops(NOWHERE).config(file).env("ADMIN_TOKEN", "token-canary");
    let folder = tempfile::tempdir().unwrap();
    let show = |setup: &Setup, more: &[&str]| {
        let arguments = [&["config", "show"], more].concat();
        let ran = told(setup.plain_command(folder.path(), &arguments).output().unwrap());
        for secret in [API_KEY, WRITE_KEY, "canary"] {
            assert!(!ran.1.contains(secret) && !ran.2.contains(secret), "{ran:?}");
        }
        ran
    };
    let (code, shown, stderr) = show(&setup, &["--data", "/var/lib/queue"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let file = folder.path().join("segment-loops.toml");
    for line in [
        format!("ack_timeout_ms = 3000  # from {}", file.display()),
        "data = \"/var/lib/queue\"  # from --data".to_owned(),
        "admin_token = \"(hidden)\"  # from ADMIN_TOKEN".to_owned(),
        "api_key = \"(hidden)\"  # from LOOPS_API_KEY".to_owned(),
        "rate = 1000  # from LOOPS_RATE_LIMIT".to_owned(),
        "retry_min_ms = 20  # from SEGMENT_LOOPS__DELIVERY__RETRY_MIN_MS".to_owned(),
        "body_timeout_ms = 30000".to_owned(),
        "skip_unchanged = \"observe\"".to_owned(),
        "# public_url is not set".to_owned(),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "`{line}` is not in:\n{shown}");
    }
    let (code, json, _) = show(&setup, &["--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(json["values"]["destinations"]["default"]["rate"], 1000);
    assert_eq!(json["origins"]["destinations.default.rate"], "LOOPS_RATE_LIMIT");
    // A configuration with errors is shown as well, followed by the errors.
    let wrong = setup.env("SEGMENT_LOOPS__STORE__WAL", "mine");
    let (code, shown, stderr) = show(&wrong, &[]);
    assert_eq!(code, Some(3));
    assert!(shown.contains("wal = \"mine\"  # from SEGMENT_LOOPS__STORE__WAL"), "{shown}");
    assert!(stderr.contains("store.wal") && stderr.contains("\"own\" or \"external\""), "{stderr}");
    let unreadable = wrong.config("[server\n");
    let (code, shown, stderr) = show(&unreadable, &[]);
    assert_eq!(code, Some(3));
    assert!(shown.contains("cannot be read, and is left out") && shown.contains("[store]"));
    assert!(stderr.contains("segment-loops.toml"), "{stderr}");
}

/// The help of a command and of those below it.
fn helps(command: &[&str], columns: &str) -> Vec<String> {
    let mut program = program(Path::new("."));
    let (_, help, _) =
        told(program.args(command).arg("--help").env("COLUMNS", columns).output().unwrap());
    let lists = help.split("Commands:\n").nth(1).unwrap_or_default();
    let names = lists.lines().take_while(|line| !line.is_empty());
    let names = names.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names = names.filter(|name| !["", "help"].contains(name));
    let below = names.flat_map(|name| helps(&[command, &[name]].concat(), columns));
    let mut all: Vec<String> = below.collect();
    all.push(help);
    all
}

#[test]
fn the_help_is_wrapped_at_the_width_of_the_terminal_and_examples_fit() {
    let all = |columns| {
        // The last two are not listed.
        let commands: [&[&str]; 3] = [&[], &["completions"], &["man"]];
        commands.map(|command| helps(command, columns)).concat()
    };
    let (narrow, wide) = (all("80"), all("120"));
    assert!(narrow.len() > 20 && narrow.len() == wide.len(), "{}", narrow.len());
    for (narrow, wide) in narrow.iter().zip(&wide) {
        for (help, width) in [(narrow, 80), (wide, 100)] {
            let long = help.lines().find(|line| line.chars().count() > width);
            // Values of options cannot be broken.
            assert!(long.is_none_or(|line| line.starts_with("Usage: ")), "{width}: {long:?}");
        }
        for example in wide.lines().filter(|line| line.starts_with("  segment-loops ")) {
            assert!(narrow.lines().any(|line| line == example), "{example}\n{narrow}");
        }
    }
}

#[test]
fn completions_and_manual_pages_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, stderr) = run(&["completions", shell]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(script.contains("segment-loops") && script.contains("only-changed"), "{shell}");
        std::fs::write(folder.path().join(shell), script).unwrap();
    }
    let checked = Command::new("bash").arg("-n").arg(folder.path().join("bash")).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let pages = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(&["man", "--to", pages.path().to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stderr}");
    let pages: Vec<PathBuf> =
        std::fs::read_dir(pages.path()).unwrap().map(|page| page.unwrap().path()).collect();
    let has = |name: &str| pages.iter().any(|page| page.ends_with(name));
    assert!(has("segment-loops.1") && has("segment-loops-replay.1"), "{pages:?}");
    assert!(has("segment-loops-config-show.1") && !has("segment-loops-man.1"), "{pages:?}");
    let checked = Command::new("mandoc").args(["-Tlint", "-Wstyle"]).args(&pages).output();
    let checked = checked.expect("mandoc is needed: tests/run installs it");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[tokio::test]
async fn migrate_creates_the_schema_and_says_how_it_is() {
    let postgres = on_postgres("migrated")(Setup::with_loops(NOWHERE).without_env());
    for setup in [Setup::with_loops(NOWHERE).without_env(), postgres] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let migrate = async |more: &[&str]| {
            setup.command_on(&data, &[&["migrate"], more].concat(), b"").await
        };
        let ran = migrate(&["--check"]).await;
        assert!(ran.code == Some(4) && ran.stderr.contains("there is no schema yet"), "{ran:?}");
        assert!(!data.exists());
        let ran = migrate(&[]).await;
        assert!(ran.code == Some(0) && ran.stdout.contains("was created"), "{ran:?}");
        for more in [&["--check"][..], &[]] {
            let ran = migrate(more).await;
            assert!(ran.code == Some(0) && ran.stdout.contains("is current"), "{ran:?}");
        }
    }
}

#[tokio::test]
async fn migrate_refuses_what_a_start_refuses() {
    let setup = Setup::with_loops(NOWHERE).without_env();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(setup.command_on(folder.path(), &["migrate"], b"").await.code, Some(0));
    let file = folder.path().join("segment-loops.db");
    let alter = |version: i32| {
        let database = rusqlite::Connection::open(&file).unwrap();
        database.pragma_update(None, "user_version", version).unwrap();
    };
    for (version, expected) in
        [(9_999, "newer version of this program (schema 9999)"), (1, "earlier build")]
    {
        alter(version);
        for arguments in [&["migrate", "--check"][..], &["migrate"]] {
            let ran = setup.command_on(folder.path(), arguments, b"").await;
            assert!(ran.code == Some(1) && ran.stderr.contains(expected), "{ran:?}");
        }
    }
    let nowhere = setup.env("DATABASE_URL", "postgres://ada:pw-canary@127.0.0.1:9/queue");
    let ran = nowhere.command_on(folder.path(), &["migrate", "--check"], b"").await;
    assert!(ran.code == Some(1) && ran.stderr.contains("cannot connect"), "{ran:?}");
    assert!(!ran.stderr.contains("pw-canary"), "{ran:?}");
}
