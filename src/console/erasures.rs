//! Erasures of people: how to ask for one, shared by the API, the pages and the command line, and the receipt.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::filter::{parse_persons, write_persons};
use crate::destination::Destination;
use crate::queue::{
    AcceptError, ErasedRows, Inbox, NewMessage, NewReceipt, Receipt, Receipts, RequestId, Seq,
    WriteAheadLog,
};
use crate::segment::Digests;

/// The receipt of an erasure. It identifies the person only by a digest that only this installation can make.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Erasure {
    /// The id of the receipt.
    pub id: String,
    /// The state of the erasure.
    pub state: ErasureState,
    /// Name of the destination.
    pub destination: String,
    /// The digest of the user id or address that the deletion names, as in the paths of the console.
    pub person: String,
    /// When the deletion was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub asked_at: Timestamp,
    /// Loops' response to the deletion.
    pub at_loops: ErasureAtLoops,
    /// What was erased here.
    pub erased: ErasedHere,
    /// What happens to the database's write-ahead log: `truncated` (it is emptied after each erasure, as readers
    /// allow), `external` (another program copies and empties it), or `postgres` (it is the server's).
    pub write_ahead_log: String,
    /// What the erasure does not cover, for people.
    pub not_covered: Vec<String>,
    /// The HMAC-SHA256 over this receipt without its signature, with the key of the installation.
    /// `segment-loops erase --verify` checks it.
    pub signature: String,
}

/// The state of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureState {
    /// It has not ended. Unless Loops has deleted the contact, nothing was erased.
    Open,
    /// It has ended.
    Erased,
}

impl ErasureState {
    /// All values.
    pub(super) const ALL: [ErasureState; 2] = [ErasureState::Open, ErasureState::Erased];

    /// Returns the state as receipts have it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            ErasureState::Open => "open",
            ErasureState::Erased => "erased",
        }
    }
}

/// Loops' response to a deletion.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErasureAtLoops {
    /// The number of the request; null if none was made yet, or if the request is no longer on record after a move to
    /// another database.
    #[schema(required)]
    pub request: Option<i64>,
    /// The status of the last response. 404: Loops had no such contact.
    #[schema(required)]
    pub status: Option<u16>,
    /// When Loops deleted the contact or answered that there is none.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub deleted_at: Option<Timestamp>,
    /// Why Loops has not deleted it, in a word: the outcome of the last attempt, or the reason why there is no further
    /// one.
    #[schema(required)]
    pub problem: Option<String>,
    /// When the contact was deleted, according to Loops' webhook `contact.deleted`; null if Loops has not reported it.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub confirmed_at: Option<Timestamp>,
}

/// What was erased here.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErasedHere {
    /// When it ended.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Messages, including the deletion: their contents, responses, warnings and digests.
    pub messages: u64,
    /// Events that Loops reported.
    pub feedback: u64,
    /// Records of the contact's values at Loops.
    pub contacts: u64,
    /// Records of who left.
    pub opt_outs: u64,
}

/// Receipts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Erasures {
    /// The receipts, newest first.
    pub erasures: Vec<Erasure>,
    /// Send it as `before` to get the next page; null at the end.
    #[schema(required)]
    pub next: Option<i64>,
}

/// Why receipts could not be read. The error repeats nothing of the text, which may be about people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableReceipts {
    /// The text is not JSON.
    #[error("line {line} is not JSON: {RECEIPTS_ALLOWED}")]
    NotJson {
        /// The line, from 1.
        line: usize,
    },
    /// The text is JSON, but not a receipt, or a part of a receipt is missing.
    #[error("what begins in line {line} is not a receipt, or not a whole one: {RECEIPTS_ALLOWED}")]
    NotReceipts {
        /// The line, from 1.
        line: usize,
    },
}

const RECEIPTS_ALLOWED: &str = "give what GET /api/erasures or `segment-loops erase --receipt ID` returned, unchanged; several may follow each other";

impl Erasure {
    /// Makes the receipt that people see from a stored one, and signs it.
    pub fn new(receipt: Receipt, log: WriteAheadLog, digests: &Digests) -> Self {
        let Receipt { destination, erased_at, asked_at, erased, .. } = receipt;
        let state = match erased_at {
            Some(_) => ErasureState::Erased,
            None => ErasureState::Open,
        };
        let erasure = Self {
            id: receipt.id,
            state,
            not_covered: not_covered(&destination, erased_at, log),
            destination,
            person: write_persons(&[receipt.person]),
            asked_at,
            at_loops: ErasureAtLoops {
                request: receipt.request.map(|request| request.0),
                status: receipt.status,
                deleted_at: receipt.deleted_at,
                problem: receipt.problem,
                confirmed_at: receipt.confirmed_at,
            },
            erased: ErasedHere {
                at: erased_at,
                messages: erased.messages,
                feedback: erased.feedback,
                contacts: erased.contacts,
                opt_outs: erased.opt_outs,
            },
            write_ahead_log: log.as_str().to_owned(),
            signature: String::new(),
        };
        Self { signature: erasure.made_signature(digests), ..erasure }
    }

    /// Returns the stored receipt, without its number in the list; `None` if `person` is not a digest.
    pub fn receipt(&self) -> Option<Receipt> {
        let [person] = parse_persons(&self.person)?[..] else { return None };
        let Self { at_loops, erased, .. } = self;
        Some(Receipt {
            number: 0,
            id: self.id.clone(),
            destination: self.destination.clone(),
            person,
            asked_at: self.asked_at,
            problem: at_loops.problem.clone(),
            status: at_loops.status,
            request: at_loops.request.map(RequestId),
            deleted_at: at_loops.deleted_at,
            confirmed_at: at_loops.confirmed_at,
            erased_at: erased.at,
            erased: ErasedRows {
                messages: erased.messages,
                feedback: erased.feedback,
                contacts: erased.contacts,
                opt_outs: erased.opt_outs,
            },
        })
    }

    /// Returns whether this installation signed the receipt and nothing in it was changed.
    pub fn is_genuine(&self, digests: &Digests) -> bool {
        self.signature == self.made_signature(digests)
    }

    fn made_signature(&self, digests: &Digests) -> String {
        let unsigned = Self { signature: String::new(), ..self.clone() };
        // Strings, numbers and times can always be serialized.
        digests.sign(&serde_json::to_string(&unsigned).unwrap_or_default())
    }
}

fn not_covered(destination: &str, erased_at: Option<Timestamp>, log: WriteAheadLog) -> Vec<String> {
    let end = erased_at.map_or("the erasure ends".to_owned(), |at| at.to_string());
    let mut not_covered = vec![
        format!("copies and backups of the database that were made before {end}"),
        "messages that have neither the user id nor the address of the deletion as their order key, such as those with only an anonymous id: they go when their retention ends".to_owned(),
        format!("destinations other than {destination}, and the systems that sent the messages"),
        "message ids, names of events and subscriptions, states, times and counts".to_owned(),
        "messages of this person that were accepted after the deletion".to_owned(),
    ];
    match log {
        WriteAheadLog::Truncated => {}
        WriteAheadLog::External => not_covered.push(format!(
            "the write-ahead log and its copies that another program keeps, such as Litestream, as far as they are older than {end}: they go when its retention ends"
        )),
        WriteAheadLog::Postgres => not_covered.push(format!(
            "archives of the write-ahead log and standbys of the PostgreSQL server, as far as they are older than {end}"
        )),
    }
    not_covered
}

impl Erasures {
    /// Reads receipts as the API and the command line return them: pages of a list, arrays, or single receipts, one
    /// after another.
    pub fn read(text: &str) -> Result<Vec<Self>, UnreadableReceipts> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
        let mut pages = Vec::new();
        // The line of each value is counted on from that of the value before it.
        let (mut line, mut counted) = (1, 0);
        loop {
            let rest = text.get(values.byte_offset()..).unwrap_or_default();
            let start = text.len() - rest.trim_start().len();
            line += text.get(counted..start).unwrap_or_default().matches('\n').count();
            counted = start;
            let value = match values.next() {
                None => return Ok(pages),
                Some(Ok(value)) => value,
                Some(Err(error)) => return Err(UnreadableReceipts::NotJson { line: error.line() }),
            };
            let page = match value {
                serde_json::Value::Object(page) if page.contains_key("erasures") => {
                    serde_json::from_value(page.into())
                }
                list @ serde_json::Value::Array(_) => {
                    serde_json::from_value(list).map(|erasures| Self { erasures, next: None })
                }
                one => {
                    serde_json::from_value(one).map(|one| Self { erasures: vec![one], next: None })
                }
            };
            pages.push(page.map_err(|_| UnreadableReceipts::NotReceipts { line })?);
        }
    }

    /// Returns whether pages of a list, in any order, reach back to a time: the page with the oldest receipt is the
    /// last one of the list, or has a receipt from before that time.
    pub fn reach_back(pages: &[Self], to: Timestamp) -> bool {
        let oldest = |page: &Self| page.erasures.iter().map(|one| one.asked_at).min();
        let furthest = pages.iter().min_by_key(|page| (oldest(page), page.next.is_some()));
        furthest.is_none_or(|page| {
            page.next.is_none() || oldest(page).is_some_and(|asked_at| asked_at < to)
        })
    }

    /// Makes a page of a list that was read with this limit.
    pub(super) fn new(
        found: Vec<Receipt>,
        limit: u32,
        log: WriteAheadLog,
        digests: &Digests,
    ) -> Self {
        let is_full = found.len() >= limit as usize;
        let next = found.last().filter(|_| is_full).map(|receipt| receipt.number);
        let erasures = found.into_iter().map(|receipt| Erasure::new(receipt, log, digests));
        Self { erasures: erasures.collect(), next }
    }
}

/// Returns why a deletion would not be sent to Loops; `None` if it would be.
pub fn why_not(destination: &Destination, deletion: &NewMessage) -> Option<String> {
    let contents = crate::queue::Contents { seq: Seq(0), payload: deletion.payload.clone() };
    let Some(message) = contents.message() else {
        return Some("no deletion can be made from the id".to_owned());
    };
    let plan = destination.plan(&message);
    let deleting = plan
        .deliveries
        .iter()
        .find(|delivery| delivery.action == crate::action::ActionKind::DeleteContact);
    match (deleting.map(|delivery| &delivery.outcome), plan.unmatched) {
        (Some(Ok(_)), _) if destination.is_shadow() => {
            Some("the destination is in shadow mode (mode = \"shadow\")".to_owned())
        }
        (Some(Ok(_)), _) => None,
        (Some(Err(failure)), _) => Some(failure.detail.clone()),
        (None, Some(unmatched)) => Some(unmatched.detail),
        (None, None) => Some(
            "no subscription with the action deleteContact takes messages of type delete"
                .to_owned(),
        ),
    }
}

/// Accepts a deletion and makes its receipt; returns the receipt's id.
pub async fn ask(
    inbox: &dyn Inbox,
    receipts: &dyn Receipts,
    deletion: NewMessage,
) -> Result<String, AcceptError> {
    let receipt = NewReceipt::of(&deletion);
    inbox.accept(vec![deletion]).await?;
    Ok(receipts.open_receipt(&receipt).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ErasedRows;
    use crate::segment::PersonDigest;

    fn receipt() -> Receipt {
        let at = |second| Timestamp::from_second(second).unwrap();
        Receipt {
            number: 1,
            id: "r1".to_owned(),
            destination: "default".to_owned(),
            person: PersonDigest(-1),
            asked_at: at(1),
            problem: None,
            status: Some(200),
            request: None,
            deleted_at: Some(at(2)),
            confirmed_at: None,
            erased_at: Some(at(3)),
            erased: ErasedRows { messages: 2, ..ErasedRows::default() },
        }
    }

    #[test]
    fn a_receipt_that_was_changed_or_made_elsewhere_is_not_genuine() {
        let digests = Digests::new(&[1; 32]);
        let erasure = Erasure::new(receipt(), WriteAheadLog::Truncated, &digests);
        let text = serde_json::to_string(&erasure).unwrap();
        let read: Erasure = serde_json::from_str(&text).unwrap();
        assert!(read.is_genuine(&digests));
        assert!(!read.is_genuine(&Digests::new(&[2; 32])));
        let mut changed = read.clone();
        changed.erased.messages = 3;
        assert!(!changed.is_genuine(&digests));
        assert_eq!(read.receipt(), Some(Receipt { number: 0, ..receipt() }));
        let unsigned = Erasure { signature: String::new(), ..read };
        assert!(!unsigned.is_genuine(&digests));
    }

    #[test]
    fn receipts_are_read_as_the_api_and_the_command_line_give_them() {
        let digests = Digests::new(&[1; 32]);
        let one = serde_json::to_string_pretty(&Erasure::new(
            receipt(),
            WriteAheadLog::External,
            &digests,
        ));
        let one = one.unwrap();
        for (text, count) in [
            (one.clone(), 1),
            (format!("{one}\n{one}\n"), 2),
            (format!("[{one}, {one}]"), 2),
            (format!("{{\"erasures\": [{one}], \"next\": null}}"), 1),
            (String::new(), 0),
            ("[]".to_owned(), 0),
        ] {
            let pages = Erasures::read(&text).unwrap();
            let read: Vec<_> = pages.into_iter().flat_map(|page| page.erasures).collect();
            assert_eq!(read.len(), count, "{text}");
            assert!(read.iter().all(|one| one.is_genuine(&digests)));
        }
        for (wrong, line, expected) in [
            ("{}".to_owned(), 1, "not a receipt"),
            ("\n[1]".to_owned(), 2, "not a receipt"),
            ("no JSON".to_owned(), 1, "not JSON"),
            ("[]\n[\n]\n\n[] []\n {}".to_owned(), 6, "not a receipt"),
            (format!("[{}]\n\n{{\"id\": 1}}", one.replace('\n', "")), 3, "not a receipt"),
            (format!("[{}]\n\n{{\"id\": 1,", one.replace('\n', "")), 3, "not JSON"),
        ] {
            let problem = Erasures::read(&wrong).unwrap_err().to_string();
            let named = format!("line {line} ");
            assert!(problem.contains(&named) && problem.contains(expected), "{wrong}: {problem}");
        }
    }

    #[test]
    fn pages_reach_back_if_the_last_one_is_there_or_is_older_than_the_copy() {
        let page = |seconds: &[i64], next| {
            let erasure = |second: &i64| {
                let asked_at = Timestamp::from_second(*second).unwrap();
                let receipt = Receipt { asked_at, ..receipt() };
                Erasure::new(receipt, WriteAheadLog::Truncated, &Digests::new(&[1; 32]))
            };
            Erasures { erasures: seconds.iter().map(erasure).collect(), next }
        };
        let reach = |pages: &[Erasures], to| {
            Erasures::reach_back(pages, Timestamp::from_second(to).unwrap())
        };
        assert!(reach(&[], 5));
        assert!(reach(&[page(&[9, 8], None)], 5));
        assert!(!reach(&[page(&[9, 8], Some(8))], 5));
        assert!(!reach(&[page(&[9, 5], Some(5))], 5), "another may have been asked for just then");
        assert!(reach(&[page(&[9, 4], Some(4))], 5));
        assert!(reach(&[page(&[9, 8], Some(8)), page(&[7, 6], None)], 5));
        assert!(reach(&[page(&[7, 6], None), page(&[9, 8], Some(8))], 5));
        assert!(!reach(&[page(&[9, 8], Some(8)), page(&[7, 6], Some(6))], 5));
        assert!(reach(&[page(&[], None)], 5));
    }

    #[test]
    fn a_receipt_says_until_when_copies_may_hold_the_person() {
        let digests = Digests::new(&[1; 32]);
        let of = |receipt, log| Erasure::new(receipt, log, &digests);
        let ended = of(receipt(), WriteAheadLog::Truncated);
        assert!(ended.not_covered[0].contains("1970-01-01T00:00:03Z"), "{ended:?}");
        let open = of(Receipt { erased_at: None, ..receipt() }, WriteAheadLog::Postgres);
        assert_eq!(open.state, ErasureState::Open);
        assert!(open.not_covered[0].contains("the erasure ends"), "{open:?}");
        assert_eq!(open.not_covered.len(), ended.not_covered.len() + 1);
    }
}
