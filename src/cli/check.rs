//! `check`: is the configuration right? In stages: parse, compile, environment, Loops; all findings at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{CliError, cases, runtime, say};
use crate::clock::SystemClock;
use crate::config::{self, Config, DestinationConfig, Flags, Planner, Stage};
use crate::destination::LiteralNames;
use crate::loops::{Client, ClientOptions};

/// How long Loops may take to answer.
const LOOPS_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Subscription files (TOML, YAML or JSON), instead of the configured ones.
    #[arg(long, value_name = "FILE")]
    subscriptions: Vec<PathBuf>,
    /// Test files: messages and the requests they must produce.
    #[arg(long, value_name = "FILE")]
    cases: Vec<PathBuf>,
    /// Skip keys and Loops: for CI.
    #[arg(long)]
    offline: bool,
}

pub(super) fn run(args: CheckArgs) -> Result<(), CliError> {
    let flags = Flags { file: args.config, subscriptions: args.subscriptions, ..Flags::default() };
    let mut report = Report::default();
    let loaded = config::load(&flags, config::environment());
    let problems = loaded.as_ref().err().map(|error| error.0.clone()).unwrap_or_default();
    let of_stage = |stage: Stage| {
        let of_stage = problems.iter().filter(move |problem| problem.stage == stage);
        of_stage.map(ToString::to_string).collect::<Vec<_>>()
    };
    report.stage("parse", of_stage(Stage::Parse));
    // What cannot be read is not looked at any further.
    if report.problems == 0 {
        let planners = config::load_planners(&flags, config::environment());
        report.stage("compile", of_stage(Stage::Compile));
        if let Ok(planners) = &planners {
            report.subscriptions(planners);
            for file in &args.cases {
                report.cases(file, planners);
            }
        }
        if args.offline {
            say("environment  left out (--offline)");
        } else {
            report.stage("environment", of_stage(Stage::Environment));
            if let Ok(config) = &loaded {
                report.ask_loops(config)?;
            }
        }
    }
    report.end()
}

#[derive(Default)]
struct Report {
    problems: usize,
    warnings: usize,
}

impl Report {
    fn stage(&mut self, stage: &str, problems: Vec<String>) {
        let word = if problems.is_empty() { "ok" } else { "errors" };
        say(&format!("{stage:<12} {word}"));
        problems.iter().for_each(|problem| self.report(problem));
    }

    fn report(&mut self, problem: &str) {
        self.problems += 1;
        say(&format!("  error: {problem}"));
    }

    fn warn(&mut self, problem: &str) {
        self.warnings += 1;
        say(&format!("  warning: {problem}"));
    }

    fn end(self) -> Result<(), CliError> {
        let count = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            more => format!("{more} {what}s"),
        };
        let told =
            format!("{}, {}", count(self.problems, "error"), count(self.warnings, "warning"));
        if self.problems > 0 {
            return Err(CliError::Check(told));
        }
        say(&told);
        Ok(())
    }

    fn subscriptions(&mut self, planners: &BTreeMap<String, Planner>) {
        for (name, planner) in planners {
            let kind =
                if planner.is_default { " (Segment's defaults: none are configured)" } else { "" };
            let enabled = planner.subscriptions.iter().filter(|one| one.enabled).count();
            say(&format!(
                "  destination `{name}`: {enabled} of {} subscriptions enabled{kind}",
                planner.subscriptions.len()
            ));
            for warning in planner.destination.warnings() {
                self.warn(&warning.to_string());
            }
        }
    }

    fn cases(&mut self, file: &std::path::Path, planners: &BTreeMap<String, Planner>) {
        match cases::run(file, planners) {
            Err(problem) => self.report(&format!("{}: {problem}", file.display())),
            Ok(outcome) => {
                let total = outcome.passed + outcome.failures.len();
                say(&format!(
                    "cases        {} of {total} as expected: {}",
                    outcome.passed,
                    file.display()
                ));
                outcome.failures.iter().for_each(|failure| self.report(failure));
            }
        }
    }

    /// Tests each key, and compares the names that mappings spell out with what the team has.
    fn ask_loops(&mut self, config: &Config) -> Result<(), CliError> {
        let answers = runtime()?.block_on(async {
            let mut answers = Vec::new();
            for (name, destination) in &config.destinations {
                answers.push((name, ask(destination).await));
            }
            answers
        });
        let problems = answers.iter().filter_map(|(name, answer)| {
            let problem = answer.as_ref().err()?;
            Some(format!("destination `{name}`: {problem}"))
        });
        self.stage("loops", problems.collect());
        for (name, answer) in &answers {
            if let Ok(warnings) = answer {
                say(&format!("  destination `{name}`: Loops accepts the API key"));
                warnings.iter().for_each(|warning| self.warn(warning));
            }
        }
        Ok(())
    }
}

/// What Loops does not know of the names in the mappings; the error says why it could not be asked.
async fn ask(destination: &DestinationConfig) -> Result<Vec<String>, String> {
    let options = ClientOptions {
        base_url: destination.base_url.clone(),
        api_key: destination.api_key.clone(),
        rate: destination.rate,
        connect_timeout: LOOPS_TIMEOUT,
        timeout: LOOPS_TIMEOUT,
    };
    let client = Client::new(&options, Arc::new(SystemClock)).map_err(|error| error.to_string())?;
    let key = read(&client, "/api-key").await?;
    if key.get("success").and_then(serde_json::Value::as_bool) != Some(true) {
        return Err("GET /api-key: the answer is not one of Loops: is base_url right?".to_owned());
    }
    let properties = names(&read(&client, "/contacts/properties").await?, "key");
    let lists = names(&read(&client, "/lists").await?, "id");
    let mut warnings = Vec::new();
    for subscription in destination.planner.subscriptions.iter().filter(|one| one.enabled) {
        let literal = LiteralNames::of(subscription);
        for property in literal.properties.difference(&properties) {
            warnings.push(format!(
                "subscription `{}`: Loops has no contact property `{property}` (create it in Loops first, or fix the name)",
                subscription.name
            ));
        }
        for list in literal.mailing_lists.difference(&lists) {
            warnings.push(format!(
                "subscription `{}`: Loops has no mailing list `{list}` (the ids are in Loops: Settings, Lists)",
                subscription.name
            ));
        }
    }
    Ok(warnings)
}

async fn read(client: &Client, path: &str) -> Result<serde_json::Value, String> {
    let slot = client.pacer().slot().await;
    match client.read(&slot, path).await {
        Ok((200, body)) => serde_json::from_slice(&body).map_err(|error| {
            format!("GET {path}: the answer is not JSON ({error}): is base_url right?")
        }),
        Ok((401 | 403, _)) => {
            Err("Loops refuses the API key: copy it again from Loops: Settings, API".to_owned())
        }
        Ok((404, _)) => Err(format!(
            "GET {path}: not found (404): is base_url right? That of Loops is https://app.loops.so/api/v1"
        )),
        Ok((status, _)) => Err(format!("GET {path}: Loops answered {status}")),
        Err(error) => Err(format!("GET {path}: {error}")),
    }
}

/// The names under `key` in a list of objects.
fn names(list: &serde_json::Value, key: &str) -> BTreeSet<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| Some(item.get(key)?.as_str()?.to_owned())).collect()
}
