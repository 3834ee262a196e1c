//! Webhooks as Loops sends them: what happened to contacts and to the mails that events trigger.
//!
//! Each event request triggers one mail to its contact, as if each event had a workflow, unless the contact has left or
//! has no address. The address decides what happens to the mail: see [`fate`].

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::audience::Change;
use super::contact::Contact;
use super::team::Sandbox;
use crate::feedback::{Key, sign};
use crate::loops::{ClientError, SentWebhook, WebhookClient};
use crate::secret::Secret;

/// The most webhooks that may wait to be sent.
const WAITING_MAX: usize = 10_000;

/// How often a webhook is sent if it is not accepted.
const TRIES_MAX: u32 = 6;
/// How long to wait before the second try. The wait doubles with each further try.
const WAIT: Duration = Duration::from_millis(500);

/// Where webhooks go, and the secret that signs them.
#[derive(Debug, Clone)]
pub struct WebhookTarget {
    /// The URL.
    pub url: Secret,
    /// The signing secret: `whsec_` and base64.
    pub secret: Secret,
}

/// Why no webhooks can be sent.
#[derive(Debug, thiserror::Error)]
pub enum SandboxWebhookError {
    /// The secret holds no key.
    #[error(
        "the webhook secret does not have Loops' format: whsec_ and base64, such as whsec_ZGV2"
    )]
    Secret,
    /// The URL cannot be used.
    #[error("the webhook URL cannot be used: give one such as http://127.0.0.1:8080/loops/default")]
    Client(#[source] ClientError),
}

impl Sandbox {
    /// Sends webhooks from now on. The returned task sends them in order; the caller must run it.
    pub fn send_webhooks(
        &self,
        target: &WebhookTarget,
    ) -> Result<impl Future<Output = ()> + Send + 'static, SandboxWebhookError> {
        let key = Key::read(&target.secret).ok_or(SandboxWebhookError::Secret)?;
        let client = WebhookClient::new(&target.url).map_err(SandboxWebhookError::Client)?;
        let (outbox, mut waiting) = mpsc::channel(WAITING_MAX);
        // The outbox can be set only once; a second call has no effect.
        let _ = self.0.outbox.set(outbox);
        let clock = self.0.clock.clone();
        Ok(async move {
            while let Some(event) = waiting.recv().await {
                send(&client, &key, &event, || clock.now()).await;
            }
        })
    }

    /// Reports events, if webhooks are sent. Must not wait: it is called with the state locked.
    pub(super) fn report(&self, events: impl FnOnce(Timestamp) -> Vec<Value>) {
        let Some(outbox) = self.0.outbox.get() else { return };
        for event in events(self.0.clock.now()) {
            if outbox.try_send(event).is_err() {
                warn!("a webhook is dropped: too many wait to be sent");
            }
        }
    }
}

/// Sends a webhook until it is accepted, at most [`TRIES_MAX`] times.
async fn send(client: &WebhookClient, key: &Key, event: &Value, now: impl Fn() -> Timestamp) {
    let id = format!("msg_{}", uuid::Uuid::now_v7().simple());
    let body = Bytes::from(event.to_string());
    let name = event["eventName"].as_str().unwrap_or_default();
    for tries in 1..=TRIES_MAX {
        let timestamp = now().as_second().to_string();
        let signature = sign(key, &id, &timestamp, &body);
        let webhook =
            SentWebhook { id: &id, timestamp: &timestamp, signature: &signature, body: &body };
        let problem = match client.send(webhook).await {
            Ok(200..=299) => {
                info!(event = name, "webhook sent");
                return;
            }
            Ok(status) => format!("the response has the status {status}"),
            Err(error) => error.to_string(),
        };
        debug!(event = name, tries, problem, "a webhook was not accepted");
        if tries == TRIES_MAX {
            warn!(event = name, tries, problem, "a webhook was given up: it was not accepted");
            return;
        }
        sleep(WAIT * 2_u32.pow(tries - 1)).await;
    }
}

/// Returns the events for the changes that a request made to a contact.
pub(super) fn of_change(contact: &Contact, change: &Change, now: Timestamp) -> Vec<Value> {
    if change.is_new {
        return vec![event("contact.created", contact, now, json!({"contact": contact.to_json()}))];
    }
    let mut events = Vec::new();
    for (id, wanted) in &change.lists {
        let name = match wanted {
            true => "contact.mailingList.subscribed",
            false => "contact.mailingList.unsubscribed",
        };
        let list = json!({"id": id, "name": id, "description": null, "isPublic": true});
        events.push(event(name, contact, now, json!({"mailingList": list})));
    }
    if change.has_left {
        events.push(event("contact.unsubscribed", contact, now, json!({})));
    }
    events
}

/// Returns the events for a deleted contact. Loops also reports that it left.
pub(super) fn of_deletion(contact: &Contact, now: Timestamp) -> Vec<Value> {
    ["contact.unsubscribed", "contact.deleted"]
        .into_iter()
        .map(|name| event(name, contact, now, json!({})))
        .collect()
}

/// Returns the events for the mail that an event triggers. `workflow` is the number of the event's name, and `mail`
/// that of the mail.
pub(super) fn of_mail(
    contact: &Contact,
    event_name: &str,
    (workflow, mail): (usize, u64),
    now: Timestamp,
) -> Vec<Value> {
    let Some(address) = contact.email.as_deref().filter(|_| contact.is_subscribed()) else {
        return Vec::new();
    };
    let workflow_id = format!("lp{:022}", workflow + 1);
    let email = json!({
        "id": format!("em{mail:022}"),
        "emailMessageId": format!("mm{:022}", workflow + 1),
        "subject": format!("About {event_name}"),
    });
    let sent = json!({
        "loopId": workflow_id,
        "loopName": format!("On {event_name}"),
        "email": email,
        "mailingLists": [],
    });
    let later = json!({"sourceType": "loop", "loopId": workflow_id, "email": email});
    let mut events = vec![event("loop.email.sent", contact, now, sent)];
    events.extend(fate(address).iter().map(|name| event(name, contact, now, later.clone())));
    events
}

/// Returns what happens to a mail, by a word in its address, as in `ada+bounce@example.com`.
fn fate(address: &str) -> &'static [&'static str] {
    let words: [(&str, &[&str]); 7] = [
        ("+bounce", &["email.hardBounced"]),
        ("+softbounce", &["email.softBounced"]),
        ("+spam", &["email.delivered", "email.spamReported"]),
        ("+open", &["email.delivered", "email.opened"]),
        ("+click", &["email.delivered", "email.opened", "email.clicked"]),
        ("+unsubscribe", &["email.delivered", "email.unsubscribed"]),
        ("+resubscribe", &["email.delivered", "email.unsubscribed", "email.resubscribed"]),
    ];
    let found = words.into_iter().find(|(word, _)| address.contains(word));
    found.map_or(&["email.delivered"], |(_, events)| events)
}

/// Returns whether a contact with this address unsubscribes by a link in its mail, and stays away.
pub(super) fn unsubscribes(address: &str) -> bool {
    fate(address).last() == Some(&"email.unsubscribed")
}

fn event(name: &str, contact: &Contact, now: Timestamp, rest: Value) -> Value {
    let mut event: Map<String, Value> = Map::new();
    event.insert("eventName".to_owned(), name.into());
    event.insert("eventTime".to_owned(), now.as_second().into());
    event.insert("webhookSchemaVersion".to_owned(), "1.0.0".into());
    event.insert("contactIdentity".to_owned(), contact.to_short_json());
    if let Value::Object(rest) = rest {
        event.extend(rest);
    }
    Value::Object(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_decides_what_becomes_of_its_mail() {
        let cases: [(&str, &[&str]); 4] = [
            ("ada@example.com", &["email.delivered"]),
            ("ada+bounce@example.com", &["email.hardBounced"]),
            ("ada+softbounce@example.com", &["email.softBounced"]),
            ("ada+click@example.com", &["email.delivered", "email.opened", "email.clicked"]),
        ];
        for (address, expected) in cases {
            assert_eq!(fate(address), expected, "{address}");
        }
    }
}
