//! Each diagnosis can be reached, and the worse one comes first.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::depths::Depths;
use super::found::Found;
use super::view::{Funnel, Status};
use crate::console::diagnosis::{Diagnosis, DiagnosisCode};
use crate::queue::{
    Depth, DestinationStatus, FailureReason, LeaseHolder, LeaseState, PauseReason, PauseStatus,
    ProcessStatus, Replica, Replicas, Stage, Tally, Unavailable,
};

fn now() -> Timestamp {
    "2026-11-01T12:00:30Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn tally(stage: Stage, reason: Option<&str>, at: Timestamp, count: u64) -> Tally {
    let (destination, source) = ("default".to_owned(), "web".to_owned());
    Tally {
        at,
        stage,
        destination,
        source,
        subscription: None,
        reason: reason.map(str::to_owned),
        count,
    }
}

/// A process that delivers, and 100 messages in the last hour, all of them delivered.
fn found() -> Found {
    let destination = DestinationStatus {
        rate: 10,
        rate_max: 10,
        waiting: Some([0; 3]),
        ..DestinationStatus::default()
    };
    let status = ProcessStatus {
        destinations: [("default".to_owned(), destination)].into(),
        ..ProcessStatus::default()
    };
    let replica = Replica {
        name: "a".to_owned(),
        host: "h".to_owned(),
        version: "1".to_owned(),
        started_at: ago(1_000),
        last_seen_at: ago(3),
        status,
    };
    let holder = LeaseHolder { holder: "a".to_owned(), since: ago(900), until: ago(-5) };
    let lease = LeaseState { destination: "default".to_owned(), token: 1, holder: Some(holder) };
    let stages = [Stage::Received, Stage::Delivered, Stage::DeliveryDelivered];
    let tallies = |at| stages.map(|stage| tally(stage, None, at, 100)).to_vec();
    Found {
        accepts: true,
        replicas: Replicas { now: now(), replicas: vec![replica], leases: vec![lease] },
        depths: BTreeMap::new(),
        configured: ["default".to_owned()].into(),
        shadows: BTreeSet::new(),
        sources: ["web".to_owned()].into(),
        minutes: tallies(ago(90)),
        hours: tallies(ago(30)),
        days: Vec::new(),
        caps: BTreeMap::new(),
        held: BTreeMap::new(),
        conflicts: Vec::new(),
    }
}

fn process(found: &mut Found) -> &mut ProcessStatus {
    &mut found.replicas.replicas[0].status
}

fn destination(found: &mut Found) -> &mut DestinationStatus {
    process(found).destinations.get_mut("default").unwrap()
}

/// Makes a diagnosis hold.
fn make(code: DiagnosisCode, found: &mut Found) {
    match code {
        DiagnosisCode::StoreDown | DiagnosisCode::AllWell => {}
        DiagnosisCode::StoreFull => found.accepts = false,
        DiagnosisCode::KeyRefused | DiagnosisCode::WrongBaseUrl => {
            let is_key = code == DiagnosisCode::KeyRefused;
            let reason = if is_key { PauseReason::Key } else { PauseReason::BaseUrl };
            let pause = PauseStatus { since: ago(60), reason, check_at: ago(-9) };
            destination(found).pause = Some(pause);
            destination(found).waiting = Some([1_204, 0, 0]);
        }
        DiagnosisCode::NobodyDelivers => {
            found.replicas.leases[0].holder.as_mut().unwrap().until = ago(1);
            let depth = Depth {
                messages: 1,
                by_class: [1, 0, 0],
                oldest_by_class: [Some(ago(9)), None, None],
                ..Depth::default()
            };
            found.depths.insert("default".to_owned(), depth);
        }
        DiagnosisCode::UnknownDestination => {
            let depth = Depth {
                messages: 2,
                by_class: [0, 2, 0],
                oldest_by_class: [None, Some(ago(9)), None],
                ..Depth::default()
            };
            found.depths.insert("old".to_owned(), depth);
        }
        DiagnosisCode::LoopsDown => {
            destination(found).failing_since = Some(ago(10));
            destination(found).failing_status = Some(503);
        }
        DiagnosisCode::SpaceLow => process(found).is_space_low = true,
        DiagnosisCode::Shadow => {
            destination(found).is_shadow = true;
            found.minutes.push(tally(Stage::DeliveryShadowed, None, ago(90), 4));
        }
        DiagnosisCode::Rejecting => {
            let codes = [("bad_json".to_owned(), 12)].into();
            process(found).rejected.insert("web".to_owned(), codes);
        }
        DiagnosisCode::Failing => {
            found.minutes.push(tally(Stage::DeliveryFailed, Some("refused"), ago(90), 6));
        }
        DiagnosisCode::Limited => destination(found).rate = 5,
        DiagnosisCode::Behind => {
            destination(found).waiting = Some([0, 0, 600]);
            destination(found).oldest_received_at = Some(ago(61));
        }
        DiagnosisCode::Held => destination(found).held = Some(3),
        DiagnosisCode::SomeFailed => {
            found.minutes.push(tally(Stage::DeliveryFailed, Some("refused"), ago(90), 1));
        }
        DiagnosisCode::MostlyUnmatched => {
            for (reason, count) in [("consent", 50), ("no_subscription", 1_151)] {
                found.minutes.push(tally(Stage::Unmatched, Some(reason), ago(90), count));
            }
        }
        DiagnosisCode::NothingYet => {
            found.minutes.clear();
            found.hours.clear();
        }
        DiagnosisCode::Quiet => {
            found.minutes.clear();
            found.hours[0].at = ago(2 * 86_400);
        }
    }
}

#[test]
fn each_diagnosis_is_reached_and_says_what_it_found() {
    for (code, expected) in [
        (
            DiagnosisCode::StoreFull,
            "Messages cannot be stored; senders are asked to retry, and what was accepted is safe.",
        ),
        (
            DiagnosisCode::KeyRefused,
            "Loops refuses the API key of `default`; nothing is lost; 1,204 messages wait.",
        ),
        (
            DiagnosisCode::WrongBaseUrl,
            "There is no Loops at the base URL of `default`; nothing is lost; 1,204 messages wait.",
        ),
        (
            DiagnosisCode::NobodyDelivers,
            "No process delivers for `default`; nothing is lost; 1 message waits.",
        ),
        (
            DiagnosisCode::UnknownDestination,
            "The destination `old` is not configured; nothing is lost; 2 messages wait.",
        ),
        (
            DiagnosisCode::LoopsDown,
            "Loops answers 503 for `default`; nothing is lost; no message waits.",
        ),
        (
            DiagnosisCode::SpaceLow,
            "The disk has little free space: messages that can wait are refused until there is more.",
        ),
        (
            DiagnosisCode::Rejecting,
            "Much of what source `web` sends is rejected: 12 in the last hour, most with the code `bad_json`.",
        ),
        (
            DiagnosisCode::Failing,
            "6 of 106 deliveries failed in the last hour; they can be replayed.",
        ),
        (
            DiagnosisCode::Limited,
            "Loops has asked to slow down: 5 of 10 requests a second go to `default`; no message waits.",
        ),
        (
            DiagnosisCode::Behind,
            "The queue of `default` is behind: 600 messages wait, about 30 minutes of work.",
        ),
        (
            DiagnosisCode::Held,
            "3 messages to `default` are held: as many contacts as new_contacts_per_day allows were created today.",
        ),
        (
            DiagnosisCode::SomeFailed,
            "1 of 101 deliveries failed in the last hour; all else is well.",
        ),
        (
            DiagnosisCode::MostlyUnmatched,
            "No subscription took 1,201 of 1,301 messages in the last hour, most often because no trigger of an enabled subscription matched.",
        ),
        (DiagnosisCode::NothingYet, "Everything is ready, and no message has been accepted yet."),
        (
            DiagnosisCode::Quiet,
            "Everything works, and no message was accepted in the last 24 hours.",
        ),
        (
            DiagnosisCode::Shadow,
            "Everything works, and nothing is sent: `default` is in shadow mode. 4 deliveries would have been sent in the last hour.",
        ),
        (
            DiagnosisCode::AllWell,
            "All is well: 100 messages delivered in the last hour, nothing waits.",
        ),
    ] {
        let mut found = found();
        make(code, &mut found);
        let Diagnosis { code: reached, sentence, .. } = Status::of(found).diagnosis;
        assert_eq!((reached, sentence.as_str()), (code, expected));
    }
}

#[test]
fn of_two_that_hold_the_worse_one_is_shown() {
    // These empty what others count.
    let alone = [DiagnosisCode::NothingYet, DiagnosisCode::Quiet];
    let codes = || DiagnosisCode::ALL.into_iter().skip(1).filter(|code| !alone.contains(code));
    for (index, worse) in codes().enumerate() {
        for better in codes().skip(index + 1) {
            let mut found = found();
            // A holder is needed for what it reports; a key and a URL are not wrong at once.
            if worse == DiagnosisCode::NobodyDelivers || better == DiagnosisCode::NobodyDelivers {
                continue;
            }
            make(better, &mut found);
            make(worse, &mut found);
            assert_eq!(Status::of(found).diagnosis.code, worse, "with {better:?}");
        }
    }
}

#[test]
fn an_alarm_that_is_a_false_one_is_not_raised() {
    let well = |change: &dyn Fn(&mut Found)| {
        let mut found = found();
        change(&mut found);
        let diagnosis = Status::of(found).diagnosis;
        assert_eq!(diagnosis.code, DiagnosisCode::AllWell, "{}", diagnosis.sentence);
    };
    well(&|found| destination(found).failing_since = Some(ago(9)));
    well(&|found| {
        destination(found).failing_since = Some(ago(60));
        destination(found).failing_status = Some(429);
    });
    well(&|found| destination(found).oldest_received_at = Some(ago(60)));
    // Somebody wanted that.
    well(&|found| {
        found.minutes.push(tally(Stage::DeliveryFailed, Some("discarded"), ago(90), 50));
    });
    // What was shadowed is done, too.
    well(&|found| {
        found.minutes.push(tally(Stage::Unmatched, Some("no_subscription"), ago(90), 150));
        found.minutes.push(tally(Stage::Shadowed, None, ago(90), 100));
    });
    // Half is not most.
    well(&|found| {
        found.minutes.push(tally(Stage::Unmatched, Some("no_subscription"), ago(90), 100));
    });
    // Strangers, and a few of many.
    well(&|found| {
        process(found).rejected.insert(String::new(), [("unauthorized".to_owned(), 900)].into());
        process(found).rejected.insert("web".to_owned(), [("bad_json".to_owned(), 11)].into());
    });
    // A process that is gone says nothing any more.
    well(&|found| {
        let mut gone = found.replicas.replicas[0].clone();
        gone.name = "gone".to_owned();
        gone.last_seen_at = ago(21);
        gone.status.is_space_low = true;
        found.replicas.replicas.push(gone);
    });
    // Nor does one that has lost the lease.
    well(&|found| {
        let mut other = found.replicas.replicas[0].clone();
        other.name = "b".to_owned();
        other.status.destinations.get_mut("default").unwrap().rate = 1;
        found.replicas.replicas.push(other);
    });
    // Nobody delivers, but nothing waits.
    well(&|found| found.replicas.leases[0].holder = None);
}

#[test]
fn shadow_mode_beside_live_destinations_is_said() {
    let mut found = found();
    for name in ["staging", "test"] {
        found.configured.insert(name.to_owned());
        found.shadows.insert(name.to_owned());
    }
    let shadowed = tally(Stage::DeliveryShadowed, None, ago(90), 4);
    found.minutes.push(Tally { destination: "test".to_owned(), ..shadowed });
    let diagnosis = Status::of(found).diagnosis;
    assert_eq!(diagnosis.code, DiagnosisCode::Shadow);
    assert_eq!(
        diagnosis.sentence,
        "Everything works: 100 messages delivered in the last hour. `staging` and `test` are in shadow mode: 4 more deliveries would have been sent."
    );
}

#[test]
fn what_is_held_now_counts_more_than_what_was_reported() {
    let mut found = found();
    destination(&mut found).held = Some(3);
    found.held.insert("default".to_owned(), (0, None));
    assert_eq!(Status::of(found).diagnosis.code, DiagnosisCode::AllWell);
}

#[test]
fn the_numbers_of_a_status_add_up() {
    let mut found = found();
    make(DiagnosisCode::Behind, &mut found);
    found.minutes.push(tally(Stage::DeliveryFailed, Some("refused"), ago(90), 3));
    found.hours.push(tally(Stage::DeliveryFailed, Some("refused"), ago(7_200), 4));
    found.hours.push(tally(Stage::Unmatched, Some("trigger"), ago(3 * 86_400), 9));
    let codes = [("bad_json".to_owned(), 2)];
    process(&mut found).rejected.insert("web".to_owned(), codes.clone().into());
    let mut other = found.replicas.replicas[0].clone();
    other.name = "b".to_owned();
    other.status = ProcessStatus { free_bytes: Some(7), ..ProcessStatus::default() };
    other.status.rejected.insert("web".to_owned(), codes.into());
    found.replicas.replicas.push(other);
    let status = Status::of(found);
    assert_eq!(status.free_bytes, Some(7));
    let one = &status.destinations[0];
    assert_eq!((one.waiting.total, one.waiting.bulk, one.empty_in_s), (600, 600, Some(1_800)));
    assert_eq!(one.holder.as_deref(), Some("a"));
    let failed: Vec<_> = one.failed.iter().map(|one| (one.reason, one.hour, one.day)).collect();
    assert_eq!(failed, [(FailureReason::Refused, 3, 4)]);
    let source = &status.sources[0];
    assert_eq!(source.rejected, [("bad_json".to_owned(), 4)].into());
    assert_eq!((source.received_hour, source.received_day), (100, 100));
    assert_eq!(source.last_received_at, Some(ago(30)));
    let of = |span, unmatched| Funnel {
        span,
        received: 100,
        delivered: 100,
        unmatched,
        unmatched_reasons: Some(("trigger".to_owned(), unmatched))
            .filter(|(_, count)| *count > 0)
            .into_iter()
            .collect(),
        ..Funnel::default()
    };
    assert_eq!(status.funnel, [of("1h", 0), of("24h", 0), of("7d", 9)]);
}

#[test]
fn the_runbook_has_the_row_of_each_diagnosis() {
    let runbook = include_str!("../../../docs/runbook.md");
    let (_, table) = runbook.split_once("## At 3 a.m.").unwrap();
    let table = table.split("\n## ").next().unwrap();
    for code in DiagnosisCode::ALL {
        let Some(row) = code.runbook() else { continue };
        let first = |line: &str| line.split('|').nth(1).unwrap_or_default().replace('`', "");
        assert!(table.lines().any(|line| first(line).contains(row)), "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_destination_without_a_report_is_counted_seldom() {
    let (depths, counts) = (Depths::default(), Cell::new(0));
    let count = async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        counts.set(counts.get() + 1);
        Ok(Depth { messages: counts.get(), ..Depth::default() })
    };
    let messages = async || depths.of("gone", count).await.unwrap().messages;
    let after = async |seconds| tokio::time::advance(Duration::from_secs(seconds)).await;
    // At the same time, then again within 200 times as long as the count took.
    assert_eq!(tokio::join!(messages(), messages()), (1, 1));
    after(19).await;
    assert_eq!(messages().await, 1);
    let other = depths.of("other", async || Ok(Depth::default())).await.unwrap();
    assert_eq!(other, Depth::default(), "each destination has its own");
    after(1).await;
    assert_eq!(messages().await, 2);
    after(20).await;
    let failed = depths.of("gone", async || Err(Unavailable("down".into()))).await;
    assert!(failed.is_err());
    assert_eq!(messages().await, 3, "what failed is counted again");
}
