//! `replay`: requeues finished messages, with the current subscriptions. Works beside a running
//! service, which picks them up within a second, and without one.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{CliError, open_store, runtime, say, start_telemetry, stop_signal};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config, Flags};
use crate::console::Changed;
use crate::destination::Catalogue;
use crate::queue::{
    AuditAction, AuditEntry, Choice, Criteria, CriteriaProblem, Log, ReplayAsk, Store, Unavailable,
    replay_arguments,
};
use crate::segment::Digests;
use crate::store;
use crate::telemetry;

/// Options of `replay`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Replays the messages that match all options. They are mapped again with the current subscriptions and
sent with a new idempotency key, in the order in which they were accepted, after what is waiting; their
age (max_age_s) does not matter. For a failed message, only its failed deliveries are repeated; for a
shadowed one, only its shadowed ones. The earlier outcome stays on record. Messages whose contents have been deleted cannot be replayed.")]
pub struct ReplayArgs {
    /// Message id; can be repeated.
    #[arg(long = "message-id", value_name = "ID")]
    message_ids: Vec<String>,
    /// User id; for messages without one, anonymous id or e-mail address.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// failed, unmatched, delivered, shadowed or all [default: failed].
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Why a delivery failed: refused, expired, invalid, placeholder_id, discarded or unreadable.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Name of a destination.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Name of a source.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Kind of Segment call: identify, track, page, screen, group, alias or delete.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Name of an event.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Name of a subscription; only its deliveries are replayed.
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// Received at or after this time, or day (UTC).
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Received before this time, or day (UTC).
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Replay every failed message.
    #[arg(long)]
    all_failed: bool,
    /// Replay only messages for which the current subscriptions would send a different request, and each
    /// only for the subscriptions that do, or that newly take it.
    #[arg(long)]
    only_changed: bool,
    /// Only count; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Configuration file (TOML) [default: environment variables only].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the database.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(args: ReplayArgs) -> Result<(), CliError> {
    let flags = Flags { file: args.config.clone(), data: args.data.clone(), ..Flags::default() };
    let config = config::load(&flags, config::environment())?;
    let (is_dry_run, only_changed) = (args.dry_run, args.only_changed);
    let criteria = criteria(args, &config)?;
    let _telemetry = start_telemetry("warn", config.log.format);
    runtime()?.block_on(async {
        let stop = stop_signal();
        if !store::exists(&config.store) {
            return Err(CliError::Usage(format!(
                "there is no database in {}: give the folder of the service with --data",
                config.store.data.display()
            )));
        }
        let store = open_store(&config.store).await?;
        let selection = criteria.selection(&store.digests()).map_err(usage)?;
        let bar = bar();
        let choice = match only_changed {
            true => Some(changed(&store, &config).await?),
            false => None,
        };
        let mut ask = ReplayAsk { selection, position: None, is_dry_run, now: SystemClock.now(), choice };
        let arguments = replay_arguments(&ask).to_string();
        let (mut replayed, mut without_contents, mut unchanged) = (0, 0, 0);
        let mut by_subscription: BTreeMap<String, u64> = BTreeMap::new();
        let ended = loop {
            let chunk = match store.replay(&ask).await {
                Ok(chunk) => chunk,
                Err(fault) => break Err(store_fault(fault)),
            };
            replayed += chunk.replayed;
            without_contents += chunk.without_contents;
            unchanged += chunk.unchanged;
            for (name, count) in chunk.by_subscription {
                *by_subscription.entry(name).or_default() += count;
            }
            let Some(next) = chunk.next else { break Ok(()) };
            bar.set_length(next.until.0.unsigned_abs());
            bar.set_position(next.after.0.unsigned_abs());
            bar.set_message(format!("{replayed} replayed"));
            ask.position = Some(next);
            if stop.is_cancelled() {
                let text = "interrupted: what was replayed is pending; run the same command again for the others (with --state delivered or all, these would be replayed twice once they are done)";
                break Err(CliError::Incomplete(text.to_owned()));
            }
        };
        if replayed > 0 && !is_dry_run {
            let result = format!("{replayed} replayed, {without_contents} without contents");
            record(&*store, arguments, result).await;
        }
        store.close().await;
        bar.finish_and_clear();
        if ended.is_ok() && replayed + without_contents + unchanged == 0 {
            say("no message matches");
        }
        let verb = if is_dry_run { "would be replayed" } else { "replayed" };
        say(&format!("{verb}: {replayed}\nwithout contents (expired, or of deleted people), not replayed: {without_contents}"));
        if only_changed {
            for (name, count) in by_subscription {
                say(&format!("  under {name}: {count}"));
            }
            say(&format!("unchanged by the subscriptions in force, not replayed: {unchanged}"));
        }
        ended
    })
}

/// Chooses what the configured subscriptions change, with what the service last read of the catalogue of Loops.
async fn changed(store: &Arc<dyn Store>, config: &Config) -> Result<Arc<dyn Choice>, CliError> {
    let mut planners = HashMap::new();
    for (name, destination) in &config.destinations {
        let mut planner = Arc::clone(&destination.planner.destination);
        if !planner.options().catalogue.refresh.is_zero() {
            let stored = store.catalogue(name, None).await.map_err(store_fault)?;
            let record = stored.and_then(|stored| serde_json::from_str(&stored.record).ok());
            let catalogue = record.map(|record| Arc::new(Catalogue::new(record)));
            planner = Arc::new(planner.with_catalogue(catalogue));
        }
        planners.insert(name.clone(), planner);
    }
    Ok(Arc::new(Changed::new(Arc::clone(store) as Arc<dyn Log>, planners)))
}

fn store_fault(fault: Unavailable) -> CliError {
    CliError::Store(fault.into())
}

/// Adds the replay to the list of what people did.
async fn record(store: &dyn Store, arguments: String, result: String) {
    let entry = AuditEntry {
        at: SystemClock.now(),
        role: "command".to_owned(),
        session: String::new(),
        process: "segment-loops replay".to_owned(),
        action: AuditAction::Replay,
        arguments,
        result,
    };
    if let Err(fault) = store.audit(&entry).await {
        tracing::warn!(error = %telemetry::chain(&fault), "the replay could not be recorded");
    }
}

fn criteria(args: ReplayArgs, config: &Config) -> Result<Criteria, CliError> {
    let criteria = Criteria {
        message_ids: args.message_ids,
        user: args.user,
        state: args.state,
        reason: args.reason,
        destination: args.destination,
        source: args.source,
        kind: args.kind,
        event: args.event,
        subscription: args.subscription,
        from: args.from,
        to: args.to,
        all_failed: args.all_failed,
    };
    // Before the database is opened; only the digests of the person need it.
    criteria.clone().selection(&Digests::new(&[0; 32])).map_err(usage)?;
    if let Some(name) = &criteria.destination
        && !config.destinations.contains_key(name)
    {
        let names: Vec<&str> = config.destinations.keys().map(String::as_str).collect();
        return Err(CliError::Usage(format!(
            "there is no destination `{name}`: --destination is one of {}",
            names.join(", ")
        )));
    }
    Ok(criteria)
}

fn usage(problem: CriteriaProblem) -> CliError {
    CliError::Usage(match problem {
        CriteriaProblem::Nothing => "choose messages with --message-id, --user, --reason, --destination, --source, --type, --event, --subscription, --from or --to, or all that failed with --all-failed; --state alone is not enough".to_owned(),
        other => format!("{other} (see segment-loops replay --help)"),
    })
}

/// A bar over the order of acceptance; hidden where nobody watches.
fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template("{bar:30} {percent}%  {msg}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}
