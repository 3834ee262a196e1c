//! What became of a message that Loops accepted, judged by the contact and by what Loops reported.

use super::facts::{Facts, is_not_needed};
use super::kind::VerdictKind;
use crate::console::asker::Held;
use crate::console::numbers::clock;
use crate::queue::{FeedbackRecord, MessageRecord};

/// Judges a message that Loops accepted.
pub(super) fn at_loops(facts: &Facts<'_>, message: &MessageRecord) -> (VerdictKind, String) {
    if let Some((sent, events)) = facts.events
        && events.is_complete
        && !events.names.iter().any(|name| name == sent)
    {
        let bare = |name: &str| -> String {
            name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
        };
        let meant = events.names.iter().find(|name| bare(name) == bare(sent));
        let meant = meant.map(|name| format!("; it lists “{name}”")).unwrap_or_default();
        let what =
            format!(", but lists no event named “{sent}” with which a workflow could start{meant}");
        return (VerdictKind::UnknownEvent, what);
    }
    let of_destination =
        || facts.feedback.iter().filter(|event| event.destination == message.destination);
    // Loops' times are whole seconds.
    let received = message.received_at.as_second();
    let since = || of_destination().filter(|event| event.at.as_second() >= received);
    if let Some(found) = held(facts.held) {
        return found;
    }
    if since().any(|event| event.event == "contact.deleted") && facts.held.is_none() {
        return (VerdictKind::NoContact, ", but the contact was deleted in Loops since".to_owned());
    }
    if let Some(found) = mail(since()) {
        return found;
    }
    let is_about_subscription = |event: &&FeedbackRecord| {
        let words = [UNSUBSCRIBED, SUBSCRIBED].concat();
        words.contains(&event.event.as_str())
    };
    let last = of_destination().find(is_about_subscription);
    if facts.held.is_none() && last.is_some_and(|last| UNSUBSCRIBED.contains(&&*last.event)) {
        let at = last.map(|last| format!(" since {}", clock(last.at))).unwrap_or_default();
        return (VerdictKind::Unsubscribed, format!(", but the contact is unsubscribed{at}"));
    }
    if is_not_needed(message) {
        return (VerdictKind::NotNeeded, String::new());
    }
    match facts.has_heard {
        // For example, the contact was created.
        true if since().next().is_some() => {
            (VerdictKind::Silent, ", and has reported no mail to the person since".to_owned())
        }
        true => {
            (VerdictKind::Silent, ", and has reported nothing about the person since".to_owned())
        }
        false => (
            VerdictKind::NeverHeard,
            "; what became of it there is not known, since Loops has never reported anything"
                .to_owned(),
        ),
    }
}

const UNSUBSCRIBED: [&str; 2] = ["contact.unsubscribed", "email.unsubscribed"];
const SUBSCRIBED: [&str; 2] = ["email.resubscribed", "contact.created"];

/// Judges by the contact that Loops holds.
fn held(held: Option<&Held>) -> Option<(VerdictKind, String)> {
    let held = held?;
    let Some(contact) = &held.contact else {
        let what = ", but has no contact of this person now".to_owned();
        return Some((VerdictKind::NoContact, what));
    };
    let text = |name: &str| contact.get(name).and_then(serde_json::Value::as_str);
    if held.is_suppressed == Some(true) {
        let what = ", but sends no mails to the address any more: it is suppressed".to_owned();
        Some((VerdictKind::Suppressed, what))
    } else if text("optInStatus") == Some("pending") {
        let what = ", but the contact has not confirmed yet that it wants mails".to_owned();
        Some((VerdictKind::OptInPending, what))
    } else if contact.get("subscribed") == Some(&serde_json::Value::Bool(false)) {
        Some((VerdictKind::Unsubscribed, ", but the contact is unsubscribed".to_owned()))
    } else {
        None
    }
}

/// Judges by the latest mail.
fn mail<'a>(
    events: impl Iterator<Item = &'a FeedbackRecord> + Clone,
) -> Option<(VerdictKind, String)> {
    let rank = |event: &str| {
        Some(match event {
            "email.hardBounced" | "email.softBounced" => VerdictKind::Bounced,
            "email.spamReported" => VerdictKind::SpamReported,
            "email.opened" | "email.clicked" => VerdictKind::Opened,
            "email.delivered" => VerdictKind::MailDelivered,
            "loop.email.sent" | "campaign.email.sent" | "transactional.email.sent" => {
                VerdictKind::MailSent
            }
            _ => return None,
        })
    };
    let of_mails = events.filter(|event| rank(&event.event).is_some());
    let latest = of_mails.clone().next()?;
    let of_it: Vec<&FeedbackRecord> =
        of_mails.filter(|event| event.email_id == latest.email_id).collect();
    // A mailbox that was full takes the mail later.
    let is_over = |event: &FeedbackRecord| {
        event.event == "email.softBounced" && event.webhook_id != latest.webhook_id
    };
    let known = of_it.iter().filter(|event| !is_over(event));
    let known = known.filter_map(|event| Some((rank(&event.event)?, *event)));
    let (kind, event) = known.min_by_key(|(kind, _)| *kind as usize)?;
    let origin = of_it.iter().find_map(|event| event.origin.as_ref());
    let origin = origin.map(|origin| {
        let kind = origin.kind.as_str().replace('_', " ");
        match &origin.name {
            Some(name) => format!(" of the {kind} “{name}”"),
            None => format!(" of a {kind}"),
        }
    });
    let origin = origin.unwrap_or_default();
    let at = clock(event.at);
    let what = match kind {
        VerdictKind::Bounced => format!("; a mail{origin} bounced at {at}"),
        VerdictKind::SpamReported => format!("; a mail{origin} was reported as spam at {at}"),
        VerdictKind::Opened => format!("; a mail{origin} was opened at {at}"),
        VerdictKind::MailDelivered => format!("; a mail{origin} was delivered at {at}"),
        _ => format!("; a mail{origin} was sent at {at}"),
    };
    Some((kind, what))
}
