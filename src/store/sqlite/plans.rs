//! Every statement finds its rows through the intended index, so that its cost does not grow with the history. The
//! statements of `list` have their own test.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::replay::statement;
use crate::queue::{FailureReason, Filter, ReplayState, Selection};
use crate::segment::{MessageHash, PersonDigest};

/// Lists each statement with its name and its look-ups, in alphabetical order.
macro_rules! statements {
    ($($module:ident { $($name:ident => $lookups:expr,)* })*) => {
        &[$($((
            concat!(stringify!($module), "::", stringify!($name)),
            super::$module::$name,
            &$lookups,
        ),)*)*]
    };
}

fn statements() -> &'static [(&'static str, &'static str, &'static [&'static str])] {
    statements! {
        accept {
            OF_ID => ["message_ids (message_hash=?)"],
            IDENTITY => ["messages (rowid=?)"],
            NEXT_SEQS => ["meta (name=?)"],
            INSERT => [],
            INSERT_PAYLOAD => [],
            MINUTE => [],
        }
        recent {
            SORTED_THROUGH => ["meta (name=?)"],
            UNKNOWN => ["messages (rowid>?)"],
            SORT_ID => ["messages (rowid=?)"],
            SORT_PERSON => ["messages (rowid=?)"],
            SORTED => ["meta (name=?)"],
        }
        lease {
            LEASE => [],
            RELEASE => ["sqlite_autoindex_leases_1 (destination=?)"],
            IN_FORCE => ["sqlite_autoindex_leases_1 (destination=?)"],
        }
        replicas {
            CHECK_IN => [],
            // As many rows as processes.
            FORGET => ["SCAN replicas"],
            CHECK_OUT => ["sqlite_autoindex_replicas_1 (name=?)"],
            REPLICAS => ["SCAN replicas"],
            LEASES => ["SCAN leases USING INDEX sqlite_autoindex_leases_1"],
        }
        awaiting {
            BEGIN => ["deliveries_request (request_id=?)"],
            APPEARED => ["awaiting_lane (lane=? AND destination=?)"],
            DUE => ["SCAN a USING INDEX awaiting_due", "m (rowid=?)"],
            END => ["awaiting (seq=?)"],
            MOVE => ["awaiting (seq=?)"],
            PAST => ["awaiting (seq=? AND subscription=?)", "awaiting_until (until<?)"],
            OF_PERSON => ["awaiting_lane (lane=? AND destination=?)"],
        }
        copied {
            SET_COPIED_AT => [],
            BACKUP_AT => ["meta (name=?)"],
            SET_BACKUP_AT => [],
            UNSET_COPIED_AT => ["meta (name=?)"],
        }
        catalogue {
            FIND => ["sqlite_autoindex_catalogues_1 (destination=?)"],
            KEEP => [],
        }
        contacts {
            FIND => ["contacts_contact (destination=? AND contact=?)"],
            OTHERS => [
                "contacts_claimed (claimed=? AND destination=?)",
                "contacts_contact (destination=? AND contact=?)",
                "contacts_email (email=? AND destination=?)",
            ],
            SHARE => [
                "contacts (rowid=?)",
                "contacts_claimed (claimed=? AND destination=? AND is_shared=?)",
                "contacts_contact (destination=? AND contact=?)",
                "contacts_email (email=? AND destination=? AND is_shared=?)",
            ],
            SHARE_OWN => ["contacts_contact (destination=? AND contact=?)"],
            KNOWN => [
                "contacts_contact (destination=? AND contact=?)",
                "contacts_email (email=? AND destination=?)",
            ],
            LEARN => [],
            KNOWS_ANY => ["contacts_contact (destination=?)"],
            CONFIRM => [],
            CREATED => ["contacts_contact (destination=? AND contact=?)"],
            MAKE_KNOWN => [],
            FORGET => ["contacts_contact (destination=? AND contact=?)"],
            FORGET_OF_LANE => [
                "contacts (rowid=?)",
                "contacts_contact (destination=? AND contact=?)",
                "contacts_lane (lane=? AND destination=?)",
                "m (rowid=?)",
            ],
            CLAIM => [],
            OF_PERSON => [
                "contacts (rowid=?)",
                "contacts_claimed (claimed=? AND destination=?)",
                "contacts_contact (destination=? AND contact=?)",
                "contacts_email (email=? AND destination=?)",
                "contacts_lane (lane=? AND destination=?)",
            ],
            REPORTED_BY_EMAIL => ["contacts_email (email=? AND destination=?)"],
            DELETED_BY_ITS_EMAIL => ["contacts_contact (destination=? AND contact=?)"],
            REPORTED => [],
            PAST => ["contacts (rowid=?)", "contacts_changed (changed_day<?)"],
        }
        conflicts {
            ANOTHER_ADDRESS => [],
            SEVERAL_USERS => ["contacts_email (email=? AND destination=?)"],
            LATEST => ["conflicts_shown (day>?)"],
            OF_PERSON => [
                "SCAN CONSTANT ROW",
                "conflicts_person (person=? AND destination=?)",
                "contacts_contact (destination=? AND contact=?)",
                "contacts_email (email=? AND destination=?)",
            ],
            PAST => ["conflicts (day<?)", "conflicts (day=? AND destination=? AND kind=? AND person=?)"],
        }
        arrivals {
            ARRIVED => ["creating_contact (destination=? AND contact=?)"],
            DUE => [
                "held (rowid=?)",
                "held_contact (contact=? AND destination=?)",
                "held_email (email=? AND destination=?)",
            ],
        }
        new_contacts {
            EXPECTED => ["creating_contact (destination=? AND contact=?)"],
            COUNT_EXPECTED => ["creating_contact (destination=?)"],
            COUNT_CREATED => ["tallies (step=? AND at>? AND at<?)"],
            DAY => ["new_contact_days (destination=? AND day=?)"],
            // As many rows as destinations and days.
            TODAY => ["SCAN new_contact_days"],
            ADD => [],
            PAST => ["SCAN new_contact_days", "new_contact_days (destination=? AND day=?)"],
            EXPECT => [],
            IS_BEFORE_DELETION =>
                ["m (rowid=?)", "messages_deletions (lane=? AND destination=? AND seq>?)"],
            HOLD => ["messages (rowid=?)"],
            HOLD_AGAIN => ["held (rowid=?)"],
            LANES => ["held_destination (destination=?)"],
            DUE_LANES => ["held_due (destination=?)"],
            FIRST_LANES => ["held_destination (destination=?)"],
            COUNT_HELD => ["held_destination (destination=?)"],
            HELD_OF => ["held_lane (lane=? AND destination=? AND seq<?)", "m (rowid=?)"],
            TO_DISCARD => ["held_destination (destination=?)", "m (rowid=?)"],
        }
        receipts {
            OPEN => [],
            OPENED => ["sqlite_autoindex_receipts_2 (message_hash=? AND source=? AND destination=?)"],
            FIND => ["sqlite_autoindex_receipts_1 (receipt=?)"],
            LIST => ["receipts (rowid<?)"],
            COUNT_OPEN => ["SCAN receipts USING INDEX receipts_open"],
            SETTLE => [
                "deliveries_request (request_id=?)",
                "e (rowid=?)",
                "loops_events_email (email=? AND at>?)",
                "loops_events_person (person=? AND at>?)",
                "m (rowid=?)",
            ],
            CONFIRM => ["receipts_person (person=? AND destination=?)"],
            DELETED_BETWEEN => ["receipts_person (person=? AND destination=?)"],
            DELETED_AT => ["receipts_person (person=? AND destination=?)"],
            ERASED => [
                "m (rowid=?)",
                "receipts (rowid=?)",
                "sqlite_autoindex_receipts_2 (message_hash=? AND source=? AND destination=?)",
            ],
            CLOSE_EARLIER => ["messages (rowid=?)", "receipts_person (person=? AND destination=?)"],
            CLOSE_ERASED => [
                "m (rowid=?)",
                "receipts (rowid=?)",
                "sqlite_autoindex_receipts_2 (message_hash=? AND source=? AND destination=?)",
            ],
            PAST => ["receipts (rowid=?)", "receipts_asked (asked_at<?)"],
        }
        opt_outs {
            LIFT => [
                "opt_outs (rowid=?)",
                "opt_outs_email (email=? AND destination=?)",
                "opt_outs_person (person=? AND destination=?)",
            ],
            FIND => ["opt_outs_email (email=? AND destination=?)", "opt_outs_person (person=? AND destination=?)"],
            CHANGE => [
                "opt_outs (rowid=?)",
                "opt_outs_email (email=? AND destination=?)",
                "opt_outs_person (person=? AND destination=?)",
            ],
            INSERT => [
                "SCAN CONSTANT ROW",
                "loops_events_email (email=? AND at>?)",
                "loops_events_person (person=? AND at>?)",
                "opt_outs_email (email=? AND destination=?)",
                "opt_outs_person (person=? AND destination=?)",
            ],
            OF_PERSON => [
                "opt_outs (rowid=?)",
                "opt_outs_email (email=? AND destination=?)",
                "opt_outs_person (person=? AND destination=?)",
            ],
        }
        feedback {
            INSERT => [],
            WAITING => ["loops_events_forward (destination=? AND forward_at>?)"],
            BY_PERSON => ["loops_events_email (email=?)", "loops_events_person (person=?)"],
            BY_DESTINATION => ["loops_events_destination (destination=?)"],
            LAST_HEARD => ["loops_events_destination (destination=?)"],
            DUE => ["loops_events_forward (destination=? AND forward_at>?)"],
            TAKE => ["loops_events (rowid=?)"],
            END_FORWARD => ["loops_events_webhook (destination=? AND webhook_id=?)"],
            PAST_FORWARDS => ["loops_events (rowid=?)", "loops_events_forward_received (received_at<?)"],
            PAST => ["loops_events (rowid=?)", "loops_events_received (received_at<?)"],
            OF_PERSON => [
                "loops_events (rowid=?)",
                "loops_events_email (email=?)",
                "loops_events_person (person=?)",
            ],
        }
        deliveries {
            INSERT_DELIVERY => ["replays (rowid=?)"],
            FREE_POSITION => ["deliveries_seq (seq=?)"],
            SET_ASIDE_MESSAGE => ["messages (rowid=?)"],
        }
        freeze {
            PLAN_STATE => ["messages (rowid=?)"],
            INSERT_REQUEST => [],
            BEGIN => ["requests (rowid=?)"],
            STANDS => ["deliveries_seq (seq=?)"],
            PLANNED => [
                "deliveries_failed (seq=?)",
                "deliveries_seq (seq=?)",
                "messages (rowid=?)",
            ],
        }
        settle {
            REQUEST_STATE => ["requests (rowid=?)"],
            ATTEMPT_KNOWN => ["attempts_request (request_id=? AND number=?)"],
            INSERT_ATTEMPT => [],
            SETTLE_REQUEST => ["requests (rowid=?)"],
            TAKE_APART_DELIVERIES => ["deliveries_request (request_id=?)"],
            TAKE_APART_REQUESTS => ["m (rowid=?)", "requests_merged_into (merged_into=?)"],
            PART_WITH_KEY => [
                "deliveries_request (request_id=?)",
                "requests_merged_into (merged_into=?)",
            ],
            DROP_MERGED_BODY => ["requests (rowid=?)"],
            FORGET_PARTS => ["deliveries_request (request_id=?)"],
            DELETE_PARTS => [
                "attempts_request (request_id=?)",
                "deliveries_request (request_id=?)",
                "requests_merged_into (merged_into=?)",
            ],
            SETTLE_DELIVERIES => ["deliveries_request (request_id=?)", "m (rowid=?)"],
            SETTLE_MESSAGES => [
                "deliveries_failed (seq=?)",
                "deliveries_request (request_id=?)",
                "deliveries_seq (seq=?)",
                "messages (rowid=?)",
            ],
            SETTLE_DELETIONS => ["deliveries_request (request_id=?)", "m (rowid=?)", "p (rowid=?)"],
            SETTLE_ERASURES => [
                "deliveries_request (request_id=?)",
                "deliveries_seq (seq=?)",
                "m (rowid=?)",
            ],
        }
        set_aside {
            PENDING_ID => ["messages (rowid=?)"],
            SET_ASIDE_PARTS => [
                "attempts_request (request_id=?)",
                "deliveries_request (request_id=?)",
                "deliveries_seq (seq=?)",
                "requests (rowid=?)",
            ],
            SET_ASIDE_DELIVERIES => ["deliveries_seq (seq=?)"],
            SET_ASIDE_REQUESTS => [
                "deliveries_request (request_id=?)",
                "deliveries_seq (seq=?)",
                "requests (rowid=?)",
            ],
            SET_ASIDE_ERASURE => ["deliveries_seq (seq=?)", "m (rowid=?)"],
        }
        purge {
            NEWEST => ["messages (rowid=?)", "messages_done"],
            PAST_CONTENTS => ["messages_contents (is_failed=? AND done_at<?)"],
            AHEAD_CONTENTS => ["messages_contents (is_failed=? AND done_at>?)"],
            DROP_EXCERPTS => [
                "attempts_request (request_id=?)",
                "deliveries_seq (seq=?)",
                "r (rowid=?)",
            ],
            DROP_DETAILS => ["deliveries_seq (seq=?)"],
            DROP_BODIES => ["deliveries_seq (seq=?)", "requests (rowid=?)"],
            DROP_PAYLOAD => ["payloads (rowid=?)"],
            HAS_NO_CONTENTS => ["messages (rowid=?)"],
            PAST_RECORDS => ["messages_done (done_at<?)"],
            AHEAD_RECORDS => ["messages_done (done_at>?)"],
            DELETE_DELIVERIES => ["deliveries_seq (seq=?)"],
            DELETE_ATTEMPTS => [
                "attempts_request (request_id=?)",
                "deliveries_request (request_id=?)",
                "requests_merged_into (merged_into=?)",
            ],
            DELETE_REQUEST => [
                "attempts_request (request_id=?)",
                "deliveries_request (request_id=?)",
                "requests (rowid=?)",
                "requests_merged_into (merged_into=?)",
            ],
            DELETE_REPLAY => ["replays (rowid=?)"],
            DELETE_ERASURE => ["erasures (rowid=?)"],
            DELETE_DELETION => ["deletions (rowid=?)"],
            DELETE_MESSAGE => [
                "deletions (rowid=?)",
                "deliveries_seq (seq=?)",
                "erasures (rowid=?)",
                "messages (rowid=?)",
                "replays (rowid=?)",
            ],
            DELETE_TALLIES => [
                "tallies (step=? AND at<?)",
                "tallies (step=? AND at=? AND stage=? AND destination=? AND source=? AND subscription=? AND reason=?)",
            ],
            DELETE_MINUTES => ["minutes (rowid<?)", "minutes (rowid=?)"],
            DELETE_AUDIT => ["audit (rowid=?)", "audit_at (at<?)"],
            DELETE_EVENT_NAMES => [
                // The few names of events, and only in the last call of a round.
                "SCAN e",
                "event_names (rowid=?)",
                "messages_event (event_id=?)",
            ],
        }
        erase {
            NEXT => ["d (rowid=?)", "e (rowid>?)", "m (rowid=?)"],
            OF_LANE => [
                "messages (rowid>? AND rowid<?)",
                "meta (name=?)",
                "persons (person=? AND seq>? AND seq<?)",
            ],
            IS_OPEN => ["erasures (rowid=?)"],
            IS_ERASABLE => ["messages (rowid=?)"],
            DROP_WARNINGS => ["deliveries_seq (seq=?)"],
            DELETE_PERSONS => ["messages (rowid=?)", "persons (person=? AND seq=?)"],
            DROP_DIGESTS => ["messages (rowid=?)"],
            ERASED_THROUGH => ["erasures (rowid=?)"],
            DELETE_DELETIONS => ["deletions_lane (lane=? AND destination=? AND accepted<?)"],
        }
        replay {
            LAST_SEQ => ["meta (name=?)"],
            FAILED_THROUGH => ["messages_failed (is_failed=? AND rowid>? AND rowid<?)"],
            REPLAYED_THROUGH => ["replays_first_seq (first_seq>? AND first_seq<?)"],
            INSERT => [
                "deletions (rowid=?)",
                "deletions_lane (lane=? AND destination=? AND accepted>?)",
                "deliveries_seq (seq=?)",
                "erasures (rowid=?)",
                "f (rowid=?)",
                "m (rowid=?)",
                "messages_deletions (lane=? AND destination=? AND seq>?)",
                "replays (rowid=?)",
                "x (rowid=?)",
            ],
            MOVE_PAYLOAD => ["payloads (rowid=?)"],
            NUMBER => ["replays (rowid=?)"],
            SUPERSEDE => ["deliveries_seq (seq=?)"],
            MOVE_DELIVERIES => ["deliveries_seq (seq=?)"],
        }
        log {
            PENDING => [
                "deliveries_seq (seq=?)",
                "messages_pending (destination=? AND class=? AND seq>?)",
                "r (rowid=?)",
            ],
            LEASE_HOLDER => ["sqlite_autoindex_leases_1 (destination=?)"],
            OF_LANE => [
                "deliveries_seq (seq=?)",
                "m (rowid=?)",
                "messages (rowid>?)",
                "meta (name=?)",
                "persons (person=? AND seq>?)",
                "r (rowid=?)",
            ],
            OPEN_MESSAGE => [
                "c (rowid=?)",
                "deletions_lane (lane=? AND destination=? AND accepted>?)",
                "m (rowid=?)",
                "p (rowid=?)",
            ],
            OPEN_REQUESTS => ["deliveries_seq (seq=?)", "r (rowid=?)"],
            OPEN_SETTLED => ["deliveries_seq (seq=?)"],
            PENDING_DESTINATIONS => ["messages_pending", "messages_pending (destination>?)"],
            // An index as small as the backlog.
            BACKLOG => ["SCAN messages USING COVERING INDEX messages_pending"],
            DEPTH_COUNT => ["messages_pending (destination=?)"],
            DEPTH_OLDEST => [
                "held_lane (lane=? AND destination=? AND seq<?)",
                "messages_pending (destination=? AND class=?)",
            ],
            BY_MESSAGE_ID => [
                "m (rowid=?)",
                "message_ids (message_hash=?)",
                "messages (rowid>?)",
                "meta (name=?)",
                "n (rowid=?)",
                "p (rowid=?)",
            ],
            BY_SEQ => ["m (rowid=?)", "n (rowid=?)", "p (rowid=?)"],
            CONTENTS => ["payloads (rowid=?)"],
            TRACE => ["payloads (rowid=?)"],
            REQUEST_BODY => ["requests (rowid=?)"],
            CARRIED => ["deliveries_request (request_id=?)"],
            SUBSCRIPTIONS => ["deliveries_request (request_id=?)"],
            PARTS => ["deliveries_request (request_id=?)", "p (rowid=?)"],
            DELIVERIES => ["a (seq=? AND subscription=?)", "deliveries_seq (seq=?)", "r (rowid=?)"],
            ATTEMPTS => ["attempts_request (request_id=?)"],
        }
        event_names {
            FIND => ["sqlite_autoindex_event_names_1 (source=? AND name=?)"],
            COUNT => ["sqlite_autoindex_event_names_1 (source=?)"],
            INSERT => [],
            SEEN => ["event_names (rowid=?)"],
        }
        audit {
            RECORD => [],
            LIST => ["audit (rowid<?)"],
        }
        tally {
            ADD => [],
        }
    }
}

#[test]
fn every_statement_uses_its_index() {
    let connection = empty();
    for (name, text, expected) in statements() {
        assert_eq!(lookups(&plan(&connection, text)), *expected, "{name}: {text}");
    }
}

/// A sort before a limit would read every row.
#[test]
fn a_limit_bounds_what_is_read() {
    let connection = empty();
    for (name, text, _) in statements() {
        // It sorts two parts that are themselves bounded.
        if text.contains("LIMIT") && *name != "log::OF_LANE" {
            let plan = plan(&connection, text);
            assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{name}: {plan:#?}");
        }
    }
}

#[test]
fn every_statement_is_among_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/sqlite");
    let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let mut found = Vec::new();
    for path in files.chain([folder.join("recent/mod.rs")]) {
        let module = path.strip_prefix(&folder).unwrap().to_str().unwrap();
        let Some(module) = module.strip_suffix(".rs") else { continue };
        let module = module.trim_end_matches("/mod");
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let constant = line.strip_prefix("pub(super) const ");
            if let Some((name, _)) = constant.and_then(|rest| rest.split_once(": &str")) {
                found.push(format!("{module}::{name}"));
            }
        }
    }
    let mut names: Vec<&str> = statements().iter().map(|(name, ..)| *name).collect();
    found.sort_unstable();
    names.sort_unstable();
    assert_eq!(found, names);
}

#[test]
fn a_selection_for_a_replay_uses_the_index_of_what_it_names() {
    let filter = Filter {
        reason: Some(FailureReason::Refused),
        event: Some("Signed Up".into()),
        ..Filter::default()
    };
    let persons = vec![PersonDigest(1), PersonDigest(2)];
    let of = |filter: Filter| Selection { filter, ..Selection::default() };
    let selection = of(filter.clone());
    let of_person = of(Filter { persons, ..filter });
    let of_id = Selection { message_ids: vec!["a".to_owned()], ..selection.clone() };
    let unmatched = Selection { state: ReplayState::Unmatched, ..Selection::default() };
    let delivered_of_person = Selection { state: ReplayState::Delivered, ..of_person.clone() };
    let ended_well = "messages_ended_well (is_failed=? AND rowid>? AND rowid<?)";
    let replayed = "replays_first_seq (first_seq>? AND first_seq<?)";
    let in_order = ["m (rowid>? AND rowid<?)", replayed];
    let failed = ["messages_failed (is_failed=? AND rowid>? AND rowid<?)", replayed];
    let by_person = ["m (rowid=?)", "persons (person=? AND seq>?)"];
    let by_id = ["m (rowid=?)", "message_ids (message_hash=? AND seq>?)"];
    let connection = empty();
    for (selection, hashes, expected, others) in [
        (&selection, &[][..], failed, &in_order[..1]),
        (&unmatched, &[], in_order, &[failed[0], ended_well]),
        (&of_person, &[], by_person, &[in_order[0], failed[0], replayed]),
        (&delivered_of_person, &[], by_person, &[in_order[0], ended_well, replayed]),
        (&of_id, &[MessageHash(1)], by_id, &[in_order[0], failed[0], replayed]),
    ] {
        let (text, _) = statement(selection, hashes, 0, 100, 200);
        let plan = plan(&connection, &text);
        let lookups = lookups(&plan);
        let has = |lookup: &&str| lookups.iter().any(|found| found == lookup);
        assert!(expected.iter().all(has), "{plan:#?}");
        assert!(!others.iter().any(has), "{plan:#?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN")), "{plan:#?}");
    }
}

fn empty() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("schema.sql")).unwrap();
    connection
}

fn plan(connection: &Connection, text: &str) -> Vec<String> {
    let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
    let nulls = vec![Value::Null; explain.parameter_count()];
    let steps = explain.query_map(params_from_iter(nulls), |row| row.get(3)).unwrap();
    steps.collect::<Result<_, _>>().unwrap()
}

/// Returns the look-ups of a plan, each once: the index, or the table that is its own index, with the compared columns.
/// Scans are returned unchanged, except those of parameters and of rows already found.
fn lookups(plan: &[String]) -> Vec<String> {
    let is_found =
        |rows: &str| plan.iter().any(|step| step.strip_prefix("CO-ROUTINE ") == Some(rows));
    let mut lookups = Vec::new();
    for step in plan {
        if let Some(rows) = step.strip_prefix("SCAN ") {
            if !rows.contains("VIRTUAL TABLE") && !is_found(rows) {
                lookups.push(step.clone());
            }
        } else if let Some((table, index)) =
            step.strip_prefix("SEARCH ").and_then(|step| step.split_once(" USING "))
        {
            let table = table.trim_end_matches(" EXISTS");
            let index = index.trim_end_matches(" LEFT-JOIN");
            let index = index.trim_start_matches("COVERING ").trim_start_matches("INDEX ");
            lookups.push(match index.split_once("PRIMARY KEY") {
                Some((_, compared)) => format!("{table}{compared}"),
                None => index.to_owned(),
            });
        }
    }
    lookups.sort_unstable();
    lookups.dedup();
    lookups
}
