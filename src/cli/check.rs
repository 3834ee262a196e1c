//! `check`: checks the configuration in stages: parse, compile, environment, Loops. It reports all findings at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::cases;
use super::database::open_store;
use super::error::CliError;
use super::options::ConfigOptions;
use super::output::say;
use super::process::runtime;
use crate::app::must_know_somebody;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config, DestinationConfig, Flags, Planner, Problem, Stage};
use crate::destination::{Catalogue, CatalogueRecord, Missing, NewContactsPolicy};
use crate::loops::{Client, ClientOptions, ReadError};

/// How long Loops may take to respond.
const LOOPS_TIMEOUT: Duration = Duration::from_secs(10);

/// The most pages of event names that are read, with fifty names each.
const EVENT_PAGES_MAX: u32 = 40;

/// Options of `check`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Finds all errors at once: in the files, in triggers and mappings, in keys and secrets; then asks Loops \
whether it accepts the keys and has the names that the mappings spell out. Sends and changes nothing.

  segment-loops check --config segment-loops.toml
For CI:
  segment-loops check --offline --subscriptions new.toml --cases cases.yaml

Exit codes: 0 if there are no errors (warnings do not count), 3 if the configuration has errors, 1 if only \
cases fail, or Loops refuses a key or lacks a name.")]
pub struct CheckArgs {
    /// Subscription files (TOML, YAML or JSON), instead of the configured ones.
    #[arg(long, value_name = "FILE")]
    subscriptions: Vec<PathBuf>,
    /// Test files: messages and the requests they must produce.
    #[arg(long, value_name = "FILE")]
    cases: Vec<PathBuf>,
    /// Skip keys and Loops: for CI.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    config: ConfigOptions,
}

pub(super) fn run(args: CheckArgs) -> Result<(), CliError> {
    let flags = Flags { subscriptions: args.subscriptions, ..args.config.flags() };
    let mut report = Report::default();
    let loaded = config::load(&flags, config::environment());
    let problems = loaded.as_ref().err().map(|error| error.0.clone()).unwrap_or_default();
    let is_left_out = |problem: &Problem| args.offline && problem.stage == Stage::Environment;
    report.is_configuration = problems.iter().any(|problem| !is_left_out(problem));
    let of_stage = |stage: Stage| {
        let of_stage = problems.iter().filter(move |problem| problem.stage == stage);
        of_stage.map(ToString::to_string).collect::<Vec<_>>()
    };
    report.stage("parse", of_stage(Stage::Parse));
    // What cannot be read is not checked any further.
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
                report.known_contacts(config)?;
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
    /// Whether some of the errors are in the configuration.
    is_configuration: bool,
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
            let is_configuration = self.is_configuration;
            return Err(CliError::Check { found: told, is_configuration });
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

    /// Checks that the store knows a contact of each destination that may create none.
    fn known_contacts(&mut self, config: &Config) -> Result<(), CliError> {
        let is_needed = config.destinations.values().any(|destination| {
            let options = destination.planner.destination.contact_options();
            options.new_contacts == NewContactsPolicy::KnownOnly
        });
        if !is_needed {
            return Ok(());
        }
        let problem = runtime()?.block_on(async {
            let store = open_store(&config.store).await?;
            let known = must_know_somebody(config, &*store).await;
            store.close().await;
            Ok::<_, CliError>(known.err())
        })?;
        self.is_configuration |= problem.is_some();
        self.stage("contacts", problem.iter().map(ToString::to_string).collect());
        Ok(())
    }

    /// Tests each key, and compares the names in mappings with those that the team has.
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
            let Ok(missing) = answer else { continue };
            say(&format!("  destination `{name}`: Loops accepts the API key"));
            for one in missing {
                let problem = one.problem.to_string();
                match one.is_error {
                    true => self.report(&problem),
                    false => self.warn(&problem),
                }
            }
        }
        Ok(())
    }
}

/// Returns the names in the mappings that Loops does not know. The error says why Loops could not be asked.
async fn ask(destination: &DestinationConfig) -> Result<Vec<Missing>, String> {
    let options = ClientOptions {
        base_url: destination.base_url.clone(),
        api_key: destination.api_key.clone(),
        rate: destination.rate,
        connect_timeout: LOOPS_TIMEOUT,
        timeout: LOOPS_TIMEOUT,
    };
    let client = Client::new(&options, Arc::new(SystemClock)).map_err(|error| error.to_string())?;
    let slot = || client.pacer().slot();
    let key = client.probe(&slot().await).await;
    let key = match key.result {
        Ok(answer) if answer.status >= 300 => Err(ReadError::Status(answer.status)),
        Ok(answer) => Ok(answer.success),
        Err(error) => Err(error.into()),
    };
    if key.map_err(|error| words("/api-key", error))? != Some(true) {
        return Err(
            "GET /api-key: the response does not come from Loops: is base_url right?".to_owned()
        );
    }
    let (mut record, now) = (CatalogueRecord::default(), SystemClock.now());
    let properties = client.contact_properties(&slot().await).await;
    record.set_properties(properties.map_err(|error| words("/contacts/properties", error))?, now);
    let lists = client.mailing_lists(&slot().await).await;
    record.set_lists(lists.map_err(|error| words("/lists", error))?, now);
    let (mut events, mut next) = (Vec::new(), None);
    for _ in 0..EVENT_PAGES_MAX {
        let page = client.event_names(&slot().await, next.as_deref()).await;
        let (names, cursor) = page.map_err(|error| words("/event-patterns", error))?;
        events.extend(names);
        next = cursor;
        if next.is_none() {
            break;
        }
    }
    record.set_events(events, next.is_none(), now);
    let catalogue = Arc::new(Catalogue::new(record));
    Ok(destination.planner.destination.with_catalogue(Some(catalogue)).missing_names())
}

fn words(path: &str, error: ReadError) -> String {
    match error {
        ReadError::Status(401 | 403) => {
            "Loops refuses the API key: copy it again from Loops: Settings, API".to_owned()
        }
        ReadError::Status(404) => format!(
            "GET {path}: not found (404): is base_url right? That of Loops is https://app.loops.so/api/v1"
        ),
        ReadError::Status(status) => format!("GET {path}: Loops answered {status}"),
        ReadError::Unreadable => {
            format!("GET {path}: the response does not come from Loops: is base_url right?")
        }
        ReadError::Call(error) => format!("GET {path}: {error}"),
    }
}
