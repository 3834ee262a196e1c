//! Feedback: what Loops reported, and the webhooks to be forwarded.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::connection::Connection;
use super::error::Fault;
use super::params::{params, text};
use super::rows::{count, from_ms, get, to_ms};
use super::steps::{Effects, Step};
use super::{contacts, opt_outs, receipts};
use crate::queue::{FeedbackRecord, Forward, NewFeedback, Recorded, SignedWebhook};
use crate::segment::PersonDigest;
use crate::store::contacts::{change, created};
use crate::store::feedback::{due_again, has_room, latest_due, origin};

/// The columns that [`record`] reads.
macro_rules! columns {
    () => {
        "id, destination, webhook_id, received_at, at, event, person, email, contact_id, origin, origin_id,
           origin_name, email_id"
    };
}

/// $1 to $12 the columns of a record, $13 to $16 the webhook to be forwarded.
const INSERT: &str = "
    INSERT INTO @loops_events (destination, webhook_id, received_at, at, event, person, email, contact_id, origin,
                               origin_id, origin_name, email_id, forward_at, forward_timestamp, forward_signature,
                               forward_body)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
    ON CONFLICT (destination, webhook_id) DO NOTHING";
/// $1 destination. Returns the number and the bytes of webhooks that wait to be forwarded.
const WAITING: &str = "
    SELECT COUNT(*), COALESCE(SUM(octet_length(forward_body)), 0)::bigint FROM @loops_events
    WHERE destination = $1 AND forward_at IS NOT NULL";
/// $1 digest, $2 limit.
pub(super) const BY_PERSON: &str = concat!(
    "(SELECT ",
    columns!(),
    " FROM @loops_events WHERE person = $1 ORDER BY at DESC, id DESC LIMIT $2)
    UNION ALL
    (SELECT ",
    columns!(),
    " FROM @loops_events WHERE email = $1 ORDER BY at DESC, id DESC LIMIT $2)"
);
/// $1 destination, $2 limit.
pub(super) const BY_DESTINATION: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM @loops_events WHERE destination = $1 ORDER BY received_at DESC, id DESC LIMIT $2"
);
/// $1 destination.
pub(super) const LAST_HEARD: &str =
    "SELECT MAX(received_at) FROM @loops_events WHERE destination = $1";
/// $1 destination, $2 due by, $3 or due after this (written while the clock was ahead), $4 limit. Webhooks that another
/// process is taking are left to it.
const DUE: &str = "
    SELECT id, webhook_id, received_at, forward_tries + 1, forward_timestamp, forward_signature, forward_body
    FROM @loops_events
    WHERE destination = $1 AND forward_at IS NOT NULL AND (forward_at <= $2 OR forward_at > $3)
    ORDER BY forward_at, id LIMIT $4 FOR UPDATE SKIP LOCKED";
/// $1 id, $2 tries, $3 due again.
const TAKE: &str = "UPDATE @loops_events SET forward_tries = $2, forward_at = $3 WHERE id = $1";
/// $1 destination, $2 webhook id.
const END_FORWARD: &str = "
    UPDATE @loops_events
    SET forward_at = NULL, forward_timestamp = NULL, forward_signature = NULL, forward_body = NULL
    WHERE destination = $1 AND webhook_id = $2 AND forward_at IS NOT NULL";

/// $1 received before or at, $2 limit. Webhooks that are too old to be forwarded.
pub(super) const PAST_FORWARDS: &str = "
    UPDATE @loops_events
    SET forward_at = NULL, forward_timestamp = NULL, forward_signature = NULL, forward_body = NULL
    WHERE id IN (
        SELECT id FROM @loops_events WHERE forward_at IS NOT NULL AND received_at <= $1 LIMIT $2
        FOR UPDATE SKIP LOCKED)";
/// $1 received before or at, $2 limit.
pub(super) const PAST: &str = "
    DELETE FROM @loops_events WHERE id IN (
        SELECT id FROM @loops_events WHERE received_at <= $1 ORDER BY received_at LIMIT $2
        FOR UPDATE SKIP LOCKED)";
/// $1 digest, $2 destination, $3 limit.
pub(super) const OF_PERSON: &str = "
    DELETE FROM @loops_events WHERE id IN (
        SELECT id FROM @loops_events WHERE person = $1 AND destination = $2
        UNION ALL
        SELECT id FROM @loops_events WHERE email = $1 AND destination = $2
        LIMIT $3)";

/// Records an event.
pub(super) struct Record(pub(super) NewFeedback);

#[async_trait]
impl Step for Record {
    type Output = Recorded;

    async fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<Recorded, Fault> {
        let NewFeedback { record: of, forward } = &self.0;
        let mut forward = forward.as_ref();
        let mut recorded = Recorded::New;
        if let Some(webhook) = forward {
            let row = transaction.query_one(WAITING, params![of.destination]).await?;
            if !has_room(get(&row, 0)?, get(&row, 1)?, webhook) {
                (forward, recorded) = (None, Recorded::NotForwarded);
            }
        }
        let origin = of.origin.as_ref();
        let (received_at, at) = (to_ms(of.received_at), to_ms(of.at));
        let (user, email) = (of.user.map(|digest| digest.0), of.email.map(|digest| digest.0));
        let event = text(&of.event);
        let contact_id = of.contact_id.as_deref().map(text);
        let kind = origin.map(|origin| origin.kind.as_str());
        let origin_id = origin.map(|origin| text(&origin.id));
        let origin_name = origin.and_then(|origin| origin.name.as_deref()).map(text);
        let email_id = of.email_id.as_deref().map(text);
        let forward_at = forward.map(|_| received_at);
        let timestamp = forward.map(|webhook| webhook.timestamp.as_str());
        let signature = forward.map(|webhook| webhook.signature.as_str());
        let body = forward.map(|webhook| &webhook.body[..]);
        let params = params![
            of.destination,
            of.webhook_id,
            received_at,
            at,
            event,
            user,
            email,
            contact_id,
            kind,
            origin_id,
            origin_name,
            email_id,
            forward_at,
            timestamp,
            signature,
            body,
        ];
        let inserted = transaction.execute(INSERT, params).await?;
        if inserted > 0 {
            if of.event == "contact.deleted" {
                receipts::confirm(transaction, of).await?;
            }
            // Contacts go before opt-outs, since an erasure locks them in that order.
            if let Some(is_deleted) = change(of) {
                let digests = of.user.into_iter().chain(of.email);
                contacts::report(transaction, &of.destination, digests, of.received_at, is_deleted)
                    .await?;
            }
            if let Some(contact) = created(of) {
                let (at, now) = (of.at, of.received_at);
                contacts::make_known(transaction, &of.destination, contact, at, now).await?;
            }
            // Loops also reports that a contact unsubscribed when it is deleted.
            if of.event != "contact.unsubscribed"
                || !receipts::is_beside_deletion(transaction, of).await?
            {
                opt_outs::report(transaction, of).await?;
            }
        }
        Ok(if inserted > 0 { recorded } else { Recorded::Duplicate })
    }
}

/// Takes webhooks for forwarding.
pub(super) struct TakeForwards {
    pub(super) destination: String,
    pub(super) now: Timestamp,
    pub(super) limit: u32,
}

#[async_trait]
impl Step for TakeForwards {
    type Output = Vec<Forward>;

    async fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<Vec<Forward>, Fault> {
        let (now, latest, limit) = (to_ms(self.now), latest_due(self.now), i64::from(self.limit));
        let mut taken = Vec::new();
        for row in transaction.query(DUE, params![self.destination, now, latest, limit]).await? {
            let (id, tries): (i64, i32) = (get(&row, 0)?, get(&row, 3)?);
            let forward = Forward {
                webhook_id: get(&row, 1)?,
                received_at: from_ms(get(&row, 2)?),
                tries: count(i64::from(tries)),
                webhook: SignedWebhook {
                    timestamp: get(&row, 4)?,
                    signature: get(&row, 5)?,
                    body: Bytes::copy_from_slice(get(&row, 6)?),
                },
            };
            let due = due_again(self.now, forward.tries);
            transaction.execute(TAKE, params![id, tries, due]).await?;
            taken.push(forward);
        }
        Ok(taken)
    }
}

/// Ends the forwarding of a webhook.
pub(super) struct EndForward {
    pub(super) destination: String,
    pub(super) webhook_id: String,
}

#[async_trait]
impl Step for EndForward {
    type Output = ();

    async fn run(&self, transaction: &Connection, _: &mut Effects) -> Result<(), Fault> {
        transaction.execute(END_FORWARD, params![self.destination, self.webhook_id]).await?;
        Ok(())
    }
}

/// Reads a row; returns the record and its row id.
pub(super) fn record(row: &Row) -> Result<(i64, FeedbackRecord), Fault> {
    let record = FeedbackRecord {
        destination: get(row, 1)?,
        webhook_id: get(row, 2)?,
        received_at: from_ms(get(row, 3)?),
        at: from_ms(get(row, 4)?),
        event: get(row, 5)?,
        user: get::<Option<i64>>(row, 6)?.map(PersonDigest),
        email: get::<Option<i64>>(row, 7)?.map(PersonDigest),
        contact_id: get(row, 8)?,
        origin: origin(get(row, 9)?, get(row, 10)?, get(row, 11)?),
        email_id: get(row, 12)?,
    };
    Ok((get(row, 0)?, record))
}
