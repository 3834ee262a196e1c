//! The description of the HTTP API holds: Schemathesis makes requests from it, right and wrong ones,
//! and looks at each answer.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{ADMIN_TOKEN, Reply, ScriptedLoops, Setup, WRITE_KEY};

const WEBHOOK_TOKEN: &str = "token-canary-63b0";

/// Judged by its own tests: what is taken here is laxer than any schema, as SDKs demand it, and a
/// message of the right form may still be about nobody.
const NOT_CHECKED: &str = "positive_data_acceptance,negative_data_rejection";

#[tokio::test]
async fn every_answer_is_as_described() {
    let loops = ScriptedLoops::start(|seen| match seen.body["eventName"].as_str() {
        Some("Refused") => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    let config = format!(
        "[sources.default]\nwrite_keys = [\"{WRITE_KEY}\", \"wk_website\"]\nwebhook_token = \"{WEBHOOK_TOKEN}\"\n"
    );
    let service = Setup::with_loops(&loops.base_url)
        .without_env()
        .env("LOOPS_API_KEY", "key")
        .env("LOOPS_BASE_URL", &loops.base_url)
        .env("ADMIN_TOKEN", ADMIN_TOKEN)
        .config(&config)
        .start();
    // What the description's examples ask for: a message that was delivered, one that was not, and
    // one that nobody took.
    for (id, kind, event) in [
        ("hello-1", "track", "Tested"),
        ("refused", "track", "Refused"),
        ("nobody", "page", "Home"),
    ] {
        let message = json!({"type": kind, "userId": "user_1", "messageId": id, "event": event});
        service.accept("/v1/batch", json!({"batch": [message]})).await;
        service.message(id, |found| !found.is_null() && found["state"] != "pending").await;
    }

    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let schemathesis = target.join("sdk-python/bin/schemathesis");
    assert!(schemathesis.exists(), "Schemathesis is missing: tests/run installs it");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    // It writes down what it found, to try that first the next time: not here.
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(schemathesis)
        .arg("--config-file")
        .arg(project.join("tests/sdk/schemathesis.toml"))
        .arg("run")
        .arg(project.join("docs/openapi.json"))
        .args(["--url", &service.base_url])
        .args(["--checks", "all", "--exclude-checks", NOT_CHECKED])
        .args(["--seed", "1", "--max-examples", "20", "--generation-database", "none"])
        .args(["--continue-on-failure", "--no-color"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("WRITE_KEY", WRITE_KEY)
        .env("WEBHOOK_TOKEN", WEBHOOK_TOKEN)
        .env("ADMIN_TOKEN", ADMIN_TOKEN)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let operations: usize = paths.map(|methods| methods.as_object().unwrap().len()).sum();
    let all = format!("Tested: {operations}");
    assert!(said.contains(&all), "not all of {operations} were tested:\n{said}");
}
