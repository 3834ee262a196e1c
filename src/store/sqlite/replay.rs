//! Replaying: readers find the messages that are done, one stretch of the order at a time, and the writer
//! makes them pending again, a bounded number in one transaction.

use async_trait::async_trait;
use sqlx::sqlite::{Sqlite, SqliteConnection};
use sqlx::{QueryBuilder, SqlitePool};

use super::recent::{Places, Recent, json_list};
use super::steps::Step;
use crate::queue::{Class, ReplayAsk, ReplayPosition, ReplayState, Selection, Seq};
use crate::segment::MessageHash;
use crate::store::rows::to_ms;
use crate::store::{Fault, sql};

/// Places in the order that one look goes over.
const STRETCH: i64 = 2_000;

/// Messages that are put back to work in one transaction. Small, since it shares the writer with the
/// senders.
pub(super) const MESSAGES_MAX: usize = 200;

/// Messages that fit, and where to go on.
pub(super) struct Found {
    /// In the order of acceptance.
    pub(super) replayable: Vec<Seq>,
    pub(super) without_contents: u64,
    pub(super) next: Option<ReplayPosition>,
}

pub(super) async fn find(
    readers: &SqlitePool,
    recent: &Recent,
    ask: &ReplayAsk,
) -> Result<Found, Fault> {
    let position = match ask.position {
        Some(position) => position,
        None => {
            let last: Option<i64> = sqlx::query_scalar(sql::LAST_SEQ).fetch_one(readers).await?;
            ReplayPosition { after: Seq::default(), until: Seq(last.unwrap_or(0)) }
        }
    };
    let (after, until) = (position.after.0, position.until.0);
    // Messages of one person, or of given ids, are few, and found by an index.
    let is_indexed = ask.selection.person.is_some() || !ask.selection.message_ids.is_empty();
    let last = if is_indexed { until } else { until.min(after.saturating_add(STRETCH)) };
    let mut newest = Newest::default();
    if let Some(person) = ask.selection.person {
        // A replayed message has a place behind the one that counts here.
        let behind = after.saturating_add(1)..=i64::MAX;
        let mut connection = readers.acquire().await?;
        newest.of_person = recent.newest_of_person(&mut connection, person, behind).await?;
    }
    if !ask.selection.message_ids.is_empty() {
        let hashes = hashes(&ask.selection);
        newest.of_ids = recent.newest_of_ids(readers, &hashes).await?;
    }
    let mut query = statement(&ask.selection, &newest, after, last);
    let rows: Vec<(i64, i64, bool)> = query.build_query_as().fetch_all(readers).await?;
    let is_cut = rows.len() as i64 == STRETCH;
    let seen = match rows.last() {
        Some((_, accepted, _)) if is_cut => *accepted,
        _ => last,
    };
    let without_contents = rows.iter().filter(|(.., is_replayable)| !is_replayable).count() as u64;
    Ok(Found {
        replayable: rows.iter().filter(|row| row.2).map(|row| Seq(row.0)).collect(),
        without_contents,
        next: (seen < until).then_some(ReplayPosition { after: Seq(seen), until: Seq(until) }),
    })
}

/// What is selected and may not have been moved.
#[derive(Debug, Default)]
pub(super) struct Newest {
    pub(super) of_person: Places,
    pub(super) of_ids: Places,
}

fn hashes(selection: &Selection) -> Vec<MessageHash> {
    selection.message_ids.iter().map(|id| MessageHash::of(id)).collect()
}

/// The messages that fit between two places in the order of acceptance.
pub(super) fn statement(
    selection: &Selection,
    newest: &Newest,
    after: i64,
    last: i64,
) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("");
    for (branch, place) in sql::REPLAY_BRANCHES {
        query.push(branch);
        if let Some(person) = selection.person {
            query.push(" AND m.seq IN (SELECT seq FROM persons WHERE person = ");
            query.push_bind(person.0).push(" AND seq > ").push_bind(after);
            query.push(" UNION ALL SELECT value FROM json_each(");
            query.push_bind(newest.of_person.clone()).push("))");
        }
        if !selection.message_ids.is_empty() {
            let hashes = json_list(hashes(selection).into_iter().map(|hash| hash.0));
            query.push(" AND m.seq IN (SELECT seq FROM message_ids WHERE message_hash IN (");
            query.push("SELECT value FROM json_each(").push_bind(hashes);
            query.push(")) UNION ALL SELECT value FROM json_each(");
            query.push_bind(newest.of_ids.clone()).push("))");
        }
        select(&mut query, selection);
        // In each branch, where the planner sees the index that it is for.
        query.push(format_args!(" AND {place} > ")).push_bind(after);
        query.push(format_args!(" AND {place} <= ")).push_bind(last);
    }
    query.push(" ORDER BY accepted LIMIT ").push_bind(STRETCH);
    query
}

/// Adds the conditions of a selection to a branch, whose message is `m`.
fn select(query: &mut QueryBuilder<Sqlite>, selection: &Selection) {
    query.push(match selection.state {
        ReplayState::Failed => " AND m.is_failed = 1",
        ReplayState::Unmatched => sql::REPLAY_UNMATCHED,
        ReplayState::Delivered => sql::REPLAY_DELIVERED,
        ReplayState::All => "",
    });
    if !selection.message_ids.is_empty() {
        query.push(" AND m.message_id IN (");
        let mut ids = query.separated(", ");
        for id in &selection.message_ids {
            ids.push_bind(id.clone());
        }
        query.push(")");
    }
    if let Some(destination) = &selection.destination {
        query.push(" AND m.destination = ").push_bind(destination.clone());
    }
    if let Some(from) = selection.from {
        query.push(" AND m.received_at >= ").push_bind(to_ms(from));
    }
    if let Some(to) = selection.to {
        query.push(" AND m.received_at < ").push_bind(to_ms(to));
    }
    if selection.reason.is_some() || selection.subscription.is_some() {
        query.push(
            " AND EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = m.seq AND d.is_superseded = 0",
        );
        if selection.state == ReplayState::Failed {
            query.push(" AND d.state = 'failed'");
        }
        if let Some(reason) = selection.reason {
            query.push(" AND d.reason = ").push_bind(reason.as_str());
        }
        if let Some(subscription) = &selection.subscription {
            query.push(" AND d.subscription = ").push_bind(subscription.clone());
        }
        query.push(")");
    }
}

/// Puts messages back to work; answers how many. One that is no longer done, or lost its contents
/// meanwhile, is passed over.
pub(super) struct Requeue {
    pub(super) seqs: Vec<Seq>,
    /// Whether deliveries that did not fail stand.
    pub(super) failed_only: bool,
    pub(super) subscription: Option<String>,
}

#[async_trait]
impl Step for Requeue {
    type Output = u64;
    const ARRIVES: bool = true;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<u64, Fault> {
        let mut replayed = 0;
        for Seq(old) in &self.seqs {
            // What is put back to work is work in bulk: it must not delay what a person waits for.
            let new: Option<i64> = sqlx::query_scalar(sql::REPLAY_MESSAGE)
                .bind(old)
                .bind(Class::Bulk.code())
                .fetch_optional(&mut *connection)
                .await?;
            let Some(new) = new else { continue };
            sqlx::query(sql::REPLAY_NUMBER)
                .bind(old)
                .bind(new)
                .bind(self.subscription.as_deref())
                .execute(&mut *connection)
                .await?;
            sqlx::query(sql::SUPERSEDE)
                .bind(old)
                .bind(i64::from(self.failed_only))
                .bind(self.subscription.as_deref())
                .execute(&mut *connection)
                .await?;
            sqlx::query(sql::MOVE_DELIVERIES).bind(old).bind(new).execute(&mut *connection).await?;
            for text in [sql::DELETE_REPLAY, sql::DELETE_MESSAGE] {
                sqlx::query(text).bind(old).execute(&mut *connection).await?;
            }
            replayed += 1;
        }
        Ok(replayed)
    }
}
