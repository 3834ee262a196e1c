//! Replaying: messages that are done are found by readers, a stretch of the order at a time, and put
//! back to work by the writer, a bounded number in one transaction.

use async_trait::async_trait;
use sqlx::sqlite::{Sqlite, SqliteConnection};
use sqlx::{QueryBuilder, SqlitePool};

use super::recent::{Places, Recent};
use super::steps::{Step, Verdict};
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
    pub(super) with_contents: Vec<Seq>,
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
    let mut of_one = Vec::new();
    if let Some(person) = ask.selection.person {
        let mut connection = readers.acquire().await?;
        // A replayed message has a place behind the one that counts here.
        of_one.push(recent.find_person(&mut connection, person, 0..=i64::MAX, i64::MAX).await?);
    }
    if !ask.selection.message_ids.is_empty() {
        let ids = &ask.selection.message_ids;
        let hashes: Vec<MessageHash> = ids.iter().map(|id| MessageHash::of(id)).collect();
        of_one.push(recent.find_ids(readers, &hashes).await?);
    }
    let mut query = statement(&ask.selection, &of_one, after, last);
    let rows: Vec<(i64, i64, bool)> = query.build_query_as().fetch_all(readers).await?;
    let is_cut = rows.len() as i64 == STRETCH;
    let seen = match rows.last() {
        Some((_, accepted, _)) if is_cut => *accepted,
        _ => last,
    };
    let without_contents = rows.iter().filter(|(.., has_contents)| !has_contents).count() as u64;
    Ok(Found {
        with_contents: rows.iter().filter(|row| row.2).map(|row| Seq(row.0)).collect(),
        without_contents,
        next: (seen < until).then_some(ReplayPosition { after: Seq(seen), until: Seq(until) }),
    })
}

/// The messages that fit between two places in the order of acceptance. `of_one`: the places of the
/// person and of the ids that are selected.
pub(super) fn statement(
    selection: &Selection,
    of_one: &[Places],
    after: i64,
    last: i64,
) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("");
    for (branch, place) in sql::REPLAY_BRANCHES {
        query.push(branch);
        for places in of_one {
            query.push(" AND m.seq IN (SELECT value FROM json_each(");
            query.push_bind(places.clone()).push("))");
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
        if let Some(reason) = &selection.reason {
            query.push(" AND d.reason = ").push_bind(reason.clone());
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

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Verdict<u64>, sqlx::Error> {
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
        Ok(Verdict::Done(replayed))
    }
}
