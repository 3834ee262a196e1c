//! `drift`: compares what Loops holds of a sample of contacts with what the messages of the last days should have left
//! there. Changes nothing, and works beside a running service, even one in shadow mode.

mod expected;
mod report;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::database::{open_existing, store_fault, with_catalogue};
use super::error::CliError;
use super::options::{DestinationOption, StoreOptions, moment, size, whole};
use super::output::{bar, say};
use super::process::{runtime, start_telemetry, stop_signal};
use crate::action::ActionKind;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, DeliveryConfig, DestinationConfig};
use crate::destination::{Destination, IdentityGuard};
use crate::loops::{Client, ClientOptions, FindBy, ReadError};
use crate::queue::{
    DeliveryRecord, DeliveryState, Filter, MessageRecord, NotNeededReason, Seq, Store,
};
use crate::segment::PersonIdKind;
use expected::{Expected, Key, Made, compare};
use report::{Report, counted};

/// The progress bar over the people.
const BAR: &str = "{bar:30} {pos}/{len} people  {eta} left";

const SAMPLE_DEFAULT: usize = 200;
const SAMPLE_MAX: usize = 10_000;
const SINCE_DEFAULT: &str = "7d";

/// How many contacts are read in a second. The service, and hosted Segment, need the rate of the same team.
const READS_PER_SECOND: u32 = 1;

/// How many messages are read at once, and the contents of how many are in memory at once.
const PAGE: u32 = 200;
const CONTENTS_AT_ONCE: usize = 10;

/// The most messages of one person that are read, latest first.
const OF_PERSON_MAX: usize = 1_000;

/// How often Loops is asked again for a contact while it answers that there are too many requests.
const LIMITED_MAX: u32 = 20;

/// How many contacts in a row may fail to be read before the command gives up.
const UNREAD_MAX: usize = 5;

/// Options of `drift`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Takes the people whose contact updates were delivered (or shadowed) last, works out from all their \
stored messages what the current subscriptions leave at Loops, and reads each contact from Loops, \
one a second. For each property and each subscription, it counts what is the same, what differs, \
what is missing, and what only Loops has. The last is not a difference, because others may write \
to the contact too. Nothing is changed. Without --show, neither addresses nor values are printed.

  segment-loops drift --data /data
  segment-loops drift --data /data --sample 50 --since 12h --show

Exit codes: 0 if everything compared is the same, 4 if something differs or a contact is not \
found, 1 if nothing could be compared, or not everything.")]
pub struct DriftArgs {
    /// How many people, at most 10000 [default: 200].
    #[arg(long, value_name = "NUMBER", value_parser = whole(1, SAMPLE_MAX))]
    sample: Option<u64>,
    /// Only people with a message since this time: a time, a day (UTC), or how long ago (90m, 12h, 7d)
    /// [default: 7d].
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    #[command(flatten)]
    destination: DestinationOption,
    /// Print the ids and values of what differs: personal data.
    #[arg(long)]
    show: bool,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreOptions,
}

/// The exit code says whether anything differs.
pub(super) fn run(args: DriftArgs) -> Result<(), CliError> {
    let sample = args.sample.map_or(SAMPLE_DEFAULT, size);
    let since = args.since.as_deref().unwrap_or(SINCE_DEFAULT);
    let since = moment("--since", since, SystemClock.now())?;
    let config = config::load_destinations(&args.store.flags(), config::environment())?;
    let (name, destination) = args.destination.choose(&config.destinations)?;
    let destination = destination.as_ref().map_err(Clone::clone)?;
    let settings = &config.settings;
    let _telemetry = start_telemetry("warn", settings.log.format);
    runtime()?.block_on(async {
        let store = open_existing(&settings.store).await?;
        let report = Report::new(name.to_owned(), since, args.show);
        let (delivery, destination) = (&settings.delivery, (name, destination));
        let found = drift(&*store, delivery, destination, (sample, since), report).await;
        store.close().await;
        let (report, stopped) = found?;
        match args.json {
            true => say(&report.to_json()),
            false => say(&report.to_string()),
        }
        end(&report, stopped)
    })
}

fn end(report: &Report, stopped: Option<String>) -> Result<(), CliError> {
    if let Some(why) = stopped {
        return Err(CliError::Failed(format!("not all contacts were compared: {why}")));
    }
    if report.people == 0 {
        return Err(CliError::Failed(
            "nothing was compared: since --since, no update of a contact was delivered or shadowed whose message is still kept"
                .to_owned(),
        ));
    }
    if report.differs() {
        return Err(CliError::Differs);
    }
    match report.unread {
        0 if report.compared == 0 => Err(CliError::Failed(
            "nothing was compared: the lines \"not compared\" say why".to_owned(),
        )),
        0 => Ok(()),
        unread => Err(CliError::Failed(format!(
            "{} could not be read: run the same command again",
            counted(unread, "contact", "contacts")
        ))),
    }
}

/// Compares a sample. Returns what was found, and why it ended early if it did.
async fn drift(
    store: &dyn Store,
    delivery: &DeliveryConfig,
    (name, destination): (&str, &DestinationConfig),
    (sample, since): (usize, Timestamp),
    mut report: Report,
) -> Result<(Report, Option<String>), CliError> {
    let planner = with_catalogue(store, name, &destination.planner).await?;
    let options = ClientOptions {
        base_url: destination.base_url.clone(),
        api_key: destination.api_key.clone(),
        rate: Some(READS_PER_SECOND),
        connect_timeout: Duration::from_millis(delivery.connect_timeout_ms),
        timeout: Duration::from_millis(delivery.timeout_ms),
    };
    let client = Client::new(&options, Arc::new(SystemClock))
        .map_err(|error| CliError::Failed(error.to_string()))?;
    let people = people(store, &planner, name, sample, since).await?;
    report.people = people.len();
    let (stop, bar) = (stop_signal(), bar(BAR));
    bar.set_length(people.len() as u64);
    let mut unread_in_a_row = 0;
    let mut stopped = None;
    for key in &people {
        bar.inc(1);
        let expected = expectation(store, &planner, name, key).await?;
        if expected.is_deleted {
            report.deleted += 1;
            continue;
        }
        if expected.is_empty() {
            report.without_values += 1;
            continue;
        }
        let found = tokio::select! {
            biased;
            () = stop.cancelled() => {
                stopped = Some("interrupted".to_owned());
                break;
            }
            found = find(&client, key) => found,
        };
        match found {
            Ok(Some(contact)) => report.add(key, &compare(&expected, &contact)),
            Ok(None) => report.not_found += 1,
            Err(ReadError::Status(status @ (401 | 403))) => {
                stopped = Some(format!("Loops refuses the API key (status {status})"));
                break;
            }
            Err(error) => {
                report.unread += 1;
                unread_in_a_row += 1;
                if unread_in_a_row == UNREAD_MAX {
                    stopped = Some(format!("{error}, for {UNREAD_MAX} contacts in a row"));
                    break;
                }
                continue;
            }
        }
        unread_in_a_row = 0;
    }
    bar.finish_and_clear();
    Ok((report, stopped))
}

/// Returns the contacts that were updated last, or would have been.
async fn people(
    store: &dyn Store,
    planner: &Destination,
    destination: &str,
    sample: usize,
    since: Timestamp,
) -> Result<Vec<Key>, CliError> {
    let filter = Filter {
        destination: Some(destination.to_owned()),
        from: Some(since),
        ..Filter::default()
    };
    let (mut keys, mut seen) = (Vec::new(), HashSet::new());
    let mut before: Option<Seq> = None;
    loop {
        let page = store.list(&filter, before, PAGE).await.map_err(store_fault)?;
        let is_update = |one: &DeliveryRecord| {
            one.action == Some(ActionKind::CreateOrUpdateContact) && counts(one)
        };
        let with_update =
            page.messages.iter().filter(|record| record.deliveries.iter().any(is_update));
        let records: Vec<&MessageRecord> = with_update.collect();
        for records in records.chunks(CONTENTS_AT_ONCE) {
            for (_, requests) in planned(store, planner, records).await? {
                let updates =
                    requests.iter().filter(|one| one.action == ActionKind::CreateOrUpdateContact);
                for key in updates.filter_map(|one| Key::of(&one.body)) {
                    if seen.insert(key.clone()) {
                        keys.push(key);
                    }
                }
            }
            if keys.len() >= sample {
                keys.truncate(sample);
                return Ok(keys);
            }
        }
        before = page.next;
        if before.is_none() {
            return Ok(keys);
        }
    }
}

/// Returns what the messages of a contact leave at Loops, as far as they are kept.
async fn expectation(
    store: &dyn Store,
    planner: &Destination,
    destination: &str,
    key: &Key,
) -> Result<Expected, CliError> {
    let digests = store.digests();
    let persons = match key {
        Key::User(id) => vec![digests.person(PersonIdKind::User, id)],
        Key::Email(address) => vec![digests.person(PersonIdKind::Email, address)],
    };
    let filter = Filter { persons, destination: Some(destination.to_owned()), ..Filter::default() };
    let (mut records, mut before) = (Vec::new(), None);
    loop {
        let page = store.list(&filter, before, PAGE).await.map_err(store_fault)?;
        records.extend(page.messages);
        before = page.next;
        if before.is_none() || records.len() >= OF_PERSON_MAX {
            break;
        }
    }
    // Sort them in the order in which they were sent, or would have been.
    records.sort_by_key(|record| record.seq);
    let takes_addresses = planner.contact_options().identity != IdentityGuard::Guard;
    let mut expected = Expected::default();
    let records: Vec<&MessageRecord> = records.iter().collect();
    for records in records.chunks(CONTENTS_AT_ONCE) {
        for (record, requests) in planned(store, planner, records).await? {
            // One that names another contact changes that.
            for request in requests.iter().filter(|one| Key::of(&one.body).as_ref() == Some(key)) {
                let made = Made {
                    endpoint: request.endpoint,
                    body: &request.body,
                    subscription: &request.subscription,
                    message_id: &record.message_id,
                };
                expected.apply(made, takes_addresses);
            }
        }
    }
    Ok(expected)
}

/// A request that was sent or would have been, as the subscriptions in force make it.
struct Planned {
    action: ActionKind,
    endpoint: crate::action::Endpoint,
    subscription: String,
    body: Map<String, Value>,
}

/// Returns whether a delivery has reached Loops, or would have.
fn counts(delivery: &DeliveryRecord) -> bool {
    let has_ended = matches!(delivery.state, DeliveryState::Delivered | DeliveryState::Shadowed);
    let is_stale =
        delivery.not_needed.as_ref().is_some_and(|why| why.reason == NotNeededReason::Stale);
    has_ended && !is_stale && !delivery.is_superseded
}

/// Returns the requests of the messages whose contents are kept, in the order of the messages.
async fn planned<'r>(
    store: &dyn Store,
    planner: &Destination,
    records: &[&'r MessageRecord],
) -> Result<Vec<(&'r MessageRecord, Vec<Planned>)>, CliError> {
    let seqs: Vec<Seq> = records.iter().map(|record| record.seq).collect();
    let contents = store.contents(&seqs).await.map_err(store_fault)?;
    let contents: HashMap<Seq, _> = contents.into_iter().map(|one| (one.seq, one)).collect();
    let mut all = Vec::new();
    for record in records {
        let Some(message) = contents.get(&record.seq).and_then(|one| one.message()) else {
            continue;
        };
        let reached = |subscription: &str| {
            let name = Some(subscription);
            let mut its = record.deliveries.iter().filter(|one| counts(one));
            its.any(|one| one.subscription.as_deref() == name)
        };
        let deliveries = planner.plan(&message).deliveries;
        let requests = deliveries.into_iter().filter(|one| reached(&one.subscription));
        let requests = requests.filter_map(|one| {
            let request = one.outcome.ok()?;
            let Ok(Value::Object(body)) = serde_json::from_slice(&request.body) else {
                return None;
            };
            let (action, endpoint, subscription) = (one.action, request.endpoint, one.subscription);
            Some(Planned { action, endpoint, subscription, body })
        });
        all.push((*record, requests.collect()));
    }
    Ok(all)
}

/// Reads a contact, waiting as long as Loops says that there are too many requests.
async fn find(client: &Client, key: &Key) -> Result<Option<Map<String, Value>>, ReadError> {
    let by = match key {
        Key::User(id) => FindBy::UserId(id),
        Key::Email(address) => FindBy::Email(address),
    };
    let mut limited = 0;
    loop {
        let slot = client.pacer().slot().await;
        match client.find(&slot, by).await {
            // The next slot comes at the time for which Loops asked.
            Err(ReadError::Status(429)) if limited < LIMITED_MAX => limited += 1,
            found => return found,
        }
    }
}
