//! `replay`: requeues finished messages, with the current subscriptions. Works beside a running service, which picks
//! them up within a second, or without one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use clap::Args;

use super::database::{must_be_known, open_existing, record, store_fault, with_catalogue};
use super::error::CliError;
use super::options::{StoreOptions, chosen, moment};
use super::output::{bar, say, warn};
use super::process::{runtime, start_telemetry, stop_signal};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Keyless, Planner};
use crate::console::Changed;
use crate::queue::{
    AuditAction, Choice, Criteria, CriteriaProblem, Log, ReplayAsk, Store, Unavailable,
    replay_arguments,
};
use crate::segment::Digests;
use crate::telemetry;

/// The progress bar over the order of acceptance.
const BAR: &str = "{bar:30} {percent}%  {msg}  {eta} left";

/// What is said when only a part was replayed.
const GO_ON: &str = "what was replayed is pending; run the same command again for the others (with --state delivered or all, these would be replayed twice once they are done)";

/// Options of `replay`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Replays the messages that match all options. They are mapped again with the current subscriptions \
and sent with a new idempotency key, in the order in which they were accepted, behind everything \
that is waiting. Their age (max_age_s) does not matter. Of a failed message, only the failed \
deliveries are repeated; of a shadowed one, only the shadowed ones. The earlier outcome stays on \
record. Messages whose contents have been deleted cannot be replayed. The command works with or \
without a running service; a running one begins to send within a second.

  segment-loops replay --all-failed --dry-run --data /data
  segment-loops replay --event \"Signed Up\" --from 7d --data /data
  segment-loops replay --message-id ID --message-id ID --data /data

--only-changed compares with the subscriptions in this command's own configuration, which it names \
first: give it the configuration of the service.")]
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
    /// Received at or after this: a time, a day (UTC), or how long ago (90m, 12h, 7d).
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Received before this: a time, a day (UTC), or how long ago.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Replay every failed message.
    #[arg(long)]
    all_failed: bool,
    /// Replay only messages for which the current subscriptions would send a different request, and only for
    /// the subscriptions that would, or that newly take the message.
    #[arg(long)]
    only_changed: bool,
    /// Only count; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreOptions,
}

pub(super) fn run(args: ReplayArgs) -> Result<(), CliError> {
    let config = config::load_keyless(&args.store.flags(), config::environment())?;
    let (is_dry_run, only_changed) = (args.dry_run, args.only_changed);
    let criteria = criteria(args, &config)?;
    let _telemetry = start_telemetry("warn", config.settings.log.format);
    runtime()?.block_on(async {
        let store = open_existing(&config.settings.store).await?;
        let done = work(&store, &config, criteria, (is_dry_run, only_changed)).await;
        store.close().await;
        done
    })
}

async fn work(
    store: &Arc<dyn Store>,
    config: &Keyless,
    criteria: Criteria,
    (is_dry_run, only_changed): (bool, bool),
) -> Result<(), CliError> {
    let stop = stop_signal();
    if let Some(name) = &criteria.destination {
        must_be_known(config, name, &**store).await?;
    }
    let selection = criteria.selection(&store.digests()).map_err(usage)?;
    let bar = bar(BAR);
    let choice = match only_changed {
        true => Some(changed(store, config).await?),
        false => None,
    };
    let now = SystemClock.now();
    let mut ask = ReplayAsk { selection, position: None, is_dry_run, now, choice };
    let arguments = replay_arguments(&ask).to_string();
    let (mut replayed, mut without_contents, mut unchanged) = (0, 0, 0);
    let mut by_subscription: BTreeMap<String, u64> = BTreeMap::new();
    let ended = loop {
        let chunk = match store.replay(&ask).await {
            Ok(chunk) => chunk,
            Err(fault) => break Err(failed(fault, replayed, is_dry_run)),
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
            break Err(interrupted(replayed, is_dry_run));
        }
    };
    if replayed > 0 && !is_dry_run {
        let result = format!("{replayed} replayed, {without_contents} without contents");
        record(&**store, AuditAction::Replay, arguments, result).await;
    }
    bar.finish_and_clear();
    if ended.is_ok() && replayed + without_contents + unchanged == 0 {
        say("no message matches");
    }
    let verb = if is_dry_run { "would be replayed" } else { "replayed" };
    say(&format!(
        "{verb}: {replayed}\nwithout contents (expired, or of deleted people), not replayed: {without_contents}"
    ));
    if only_changed {
        for (name, count) in by_subscription {
            say(&format!("  under {name}: {count}"));
        }
        say(&format!("unchanged by the subscriptions in force, not replayed: {unchanged}"));
    }
    ended
}

/// Returns the error for an interruption after this many messages.
fn interrupted(replayed: u64, is_dry_run: bool) -> CliError {
    if is_dry_run {
        return CliError::Failed(
            "interrupted: only a part of the messages was counted, and nothing was changed"
                .to_owned(),
        );
    }
    if replayed == 0 {
        return CliError::Failed("interrupted before anything was replayed".to_owned());
    }
    CliError::Partly(format!("interrupted: {GO_ON}"))
}

/// Returns the error for a fault of the store after this many messages.
fn failed(fault: Unavailable, replayed: u64, is_dry_run: bool) -> CliError {
    if replayed == 0 || is_dry_run {
        return store_fault(fault);
    }
    CliError::Partly(format!("the database failed ({}): {GO_ON}", telemetry::chain(&fault)))
}

/// Returns the choice of what the configured subscriptions change, with the catalogue that the service last read from
/// Loops.
async fn changed(store: &Arc<dyn Store>, config: &Keyless) -> Result<Arc<dyn Choice>, CliError> {
    let mut planners = HashMap::new();
    for (name, planner) in &config.planners {
        must_be_known(config, name, &**store).await?;
        warn(&format!("compared with, for `{name}`: {}", origin(planner)));
        planners.insert(name.clone(), with_catalogue(&**store, name, planner).await?);
    }
    Ok(Arc::new(Changed::new(Arc::clone(store) as Arc<dyn Log>, planners)))
}

/// Says where the subscriptions of a destination come from.
fn origin(planner: &Planner) -> String {
    if planner.is_default {
        return "Segment's default subscriptions, as none are configured here".to_owned();
    }
    let enabled = planner.subscriptions.iter().filter(|one| one.enabled).count();
    let files: Vec<String> = planner.files.iter().map(|file| file.display().to_string()).collect();
    let from = match files.as_slice() {
        [] => "of the configuration".to_owned(),
        files => format!("of {}", files.join(", ")),
    };
    format!("{enabled} of {} subscriptions enabled, {from}", planner.subscriptions.len())
}

fn criteria(args: ReplayArgs, config: &Keyless) -> Result<Criteria, CliError> {
    let now = SystemClock.now();
    let time = |option, text: Option<String>| match text {
        Some(text) => moment(option, &text, now).map(|time| Some(time.to_string())),
        None => Ok(None),
    };
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
        from: time("--from", args.from)?,
        to: time("--to", args.to)?,
        all_failed: args.all_failed,
    };
    // This is checked before the database is opened; only the digests of the person would need it.
    criteria.clone().selection(&Digests::new(&[0; 32])).map_err(usage)?;
    if let Some(name) = &criteria.destination {
        chosen("destination", Some(name), &config.planners)?;
    }
    Ok(criteria)
}

fn usage(problem: CriteriaProblem) -> CliError {
    CliError::Usage(match problem {
        CriteriaProblem::Nothing => "choose messages with --message-id, --user, --reason, --destination, --source, --type, --event, --subscription, --from or --to, or all that failed with --all-failed; --state alone is not enough".to_owned(),
        other => format!("{other} (see segment-loops replay --help)"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::exit::Exit;
    use super::*;

    #[test]
    fn only_an_interrupted_replay_that_replayed_something_is_done_in_part() {
        for (replayed, is_dry_run, code, words) in [
            (0, false, Exit::Failed, "before anything was replayed"),
            (5, true, Exit::Failed, "nothing was changed"),
            (5, false, Exit::Partly, "run the same command again"),
        ] {
            let error = interrupted(replayed, is_dry_run);
            assert_eq!(error.exit(), code, "{replayed}, {is_dry_run}: {error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_replay_that_fails_halfway_is_done_in_part() {
        for (replayed, is_dry_run, code) in
            [(0, false, Exit::Failed), (5, true, Exit::Failed), (5, false, Exit::Partly)]
        {
            let fault = Unavailable("the disk is full".into());
            let error = failed(fault, replayed, is_dry_run);
            assert_eq!(error.exit(), code, "{replayed}, {is_dry_run}: {error}");
            let text = telemetry::chain(&error).to_string();
            assert!(text.contains("the disk is full"), "{text}");
            assert!(text.contains("run the same command again"), "{text}");
        }
    }
}
