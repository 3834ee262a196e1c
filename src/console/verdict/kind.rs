//! The closed list of verdicts, each with its next step.

use crate::queue::FailureReason;

/// The possible verdicts, in the order in which they are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictKind {
    /// Nothing of this person is on record, and messages were rejected not long ago.
    Rejected,
    /// Nothing of this person is on record.
    NeverAccepted,
    /// A message waits, since Loops refuses the API key.
    WaitsForKey,
    /// A message waits, since there is no Loops at the base URL.
    WaitsForBaseUrl,
    /// A message waits for its next attempt.
    WaitsForRetry,
    /// A message is held, or waits behind one that is.
    Held,
    /// A message waits for its turn.
    WaitsForTurn,
    /// A delivery failed.
    Failed,
    /// No subscription took it.
    Unmatched,
    /// A subscription took it, but it was not to be sent.
    Withheld,
    /// Nothing was sent, since the destination was in shadow mode.
    Shadowed,
    /// The person was deleted.
    Deleted,
    /// Loops accepted the event, but lists none of this name.
    UnknownEvent,
    /// Loops has no contact any more.
    NoContact,
    /// Loops sends nothing to the address any more.
    Suppressed,
    /// The contact has not confirmed that it wants mails.
    OptInPending,
    /// The contact is unsubscribed.
    Unsubscribed,
    /// A mail was sent, and bounced.
    Bounced,
    /// A mail was reported as spam.
    SpamReported,
    /// A mail was opened.
    Opened,
    /// A mail was delivered.
    MailDelivered,
    /// A mail was sent.
    MailSent,
    /// Nothing was sent, because it would have changed nothing at Loops.
    NotNeeded,
    /// Loops accepted everything, and has reported nothing about the person since.
    Silent,
    /// Loops accepted everything, and has never reported anything.
    NeverHeard,
}

impl VerdictKind {
    /// All kinds, in this order.
    pub const ALL: [VerdictKind; 25] = [
        VerdictKind::Rejected,
        VerdictKind::NeverAccepted,
        VerdictKind::WaitsForKey,
        VerdictKind::WaitsForBaseUrl,
        VerdictKind::WaitsForRetry,
        VerdictKind::Held,
        VerdictKind::WaitsForTurn,
        VerdictKind::Failed,
        VerdictKind::Unmatched,
        VerdictKind::Withheld,
        VerdictKind::Shadowed,
        VerdictKind::Deleted,
        VerdictKind::UnknownEvent,
        VerdictKind::NoContact,
        VerdictKind::Suppressed,
        VerdictKind::OptInPending,
        VerdictKind::Unsubscribed,
        VerdictKind::Bounced,
        VerdictKind::SpamReported,
        VerdictKind::Opened,
        VerdictKind::MailDelivered,
        VerdictKind::MailSent,
        VerdictKind::NotNeeded,
        VerdictKind::Silent,
        VerdictKind::NeverHeard,
    ];

    /// Returns the name of the kind, as the API and the pages show it.
    pub fn as_str(self) -> &'static str {
        match self {
            VerdictKind::Rejected => "rejected",
            VerdictKind::NeverAccepted => "never_accepted",
            VerdictKind::WaitsForKey => "waits_for_key",
            VerdictKind::WaitsForBaseUrl => "waits_for_base_url",
            VerdictKind::WaitsForRetry => "waits_for_retry",
            VerdictKind::Held => "held",
            VerdictKind::WaitsForTurn => "waits_for_turn",
            VerdictKind::Failed => "failed",
            VerdictKind::Unmatched => "unmatched",
            VerdictKind::Withheld => "withheld",
            VerdictKind::Shadowed => "shadowed",
            VerdictKind::Deleted => "deleted",
            VerdictKind::UnknownEvent => "unknown_event",
            VerdictKind::NoContact => "no_contact",
            VerdictKind::Suppressed => "suppressed",
            VerdictKind::OptInPending => "opt_in_pending",
            VerdictKind::Unsubscribed => "unsubscribed",
            VerdictKind::Bounced => "bounced",
            VerdictKind::SpamReported => "spam_reported",
            VerdictKind::Opened => "opened",
            VerdictKind::MailDelivered => "mail_delivered",
            VerdictKind::MailSent => "mail_sent",
            VerdictKind::NotNeeded => "not_needed",
            VerdictKind::Silent => "silent",
            VerdictKind::NeverHeard => "never_heard",
        }
    }

    /// Returns what to do next.
    pub(super) fn next_step(self, reason: Option<FailureReason>) -> &'static str {
        match self {
            VerdictKind::Rejected => {
                "Read the `rejected` lines of the log, which say why: if this person's messages are among them, fix the sender. What was rejected earlier is in the log, too, and counted in segment_loops_rejected_total."
            }
            VerdictKind::NeverAccepted => {
                "Compare the id, letter by letter, with what the sender sends, and check that its messages are not rejected: the log has a `rejected` line for each, and segment_loops_rejected_total counts them."
            }
            VerdictKind::WaitsForKey => {
                "Put the right API key into force (LOOPS_API_KEY, or api_key of the destination) and restart; the message then goes out by itself."
            }
            VerdictKind::WaitsForBaseUrl => {
                "Set `base_url` of the destination to a URL that ends in /v1 and restart; the message then goes out by itself."
            }
            VerdictKind::WaitsForRetry => {
                "Nothing to do unless it lasts: the message is retried by itself for as long as delivery.retry_window_ms says."
            }
            VerdictKind::Held => {
                "Release new contacts on the page Now, or raise new_contacts_per_day and reload; or wait: it goes on by itself when the day ends (UTC)."
            }
            VerdictKind::WaitsForTurn => {
                "Nothing to do unless it lasts: the messages before it go out at Loops' rate."
            }
            VerdictKind::Failed => match reason {
                Some(FailureReason::Refused) => {
                    "Fix what Loops complains about, in the mapping, in the data or in Loops, then replay the message."
                }
                Some(FailureReason::Expired) => {
                    "Replay the message if it is still worth sending. If Loops may have it already, as the reason says, a replay may send a second mail."
                }
                Some(FailureReason::Invalid) => {
                    "Change the mapping so that it fills what is missing, reload, and replay the message."
                }
                Some(FailureReason::PlaceholderId) => {
                    "Fix the sender, which sends a word in place of an id; a replay would fail in the same way."
                }
                Some(FailureReason::Discarded) => {
                    "Replay the message if its contact is to be created after all."
                }
                Some(FailureReason::Unreadable | FailureReason::Unknown) | None => {
                    "Please report it, with the lines of the log that name the message."
                }
            },
            VerdictKind::Withheld => {
                "Nothing, if the reason is what you want. Otherwise remove it (a contact becomes known by `segment-loops known`, or by Loops' webhooks; the keys of the destination are on the page Settings), then replay the message."
            }
            VerdictKind::Unmatched => {
                "If a subscription should have taken it, change its trigger, reload, and replay the message."
            }
            VerdictKind::Shadowed => {
                "Nothing to do in shadow mode. Once the destination is live (mode = \"live\"), replay the message if nobody else has sent it."
            }
            VerdictKind::Deleted => {
                "Nothing to do: a later message with the same id makes a new contact."
            }
            VerdictKind::UnknownEvent => {
                "Compare the name with that in the workflow's trigger, letter by letter: names of events are case-sensitive."
            }
            VerdictKind::NoContact => {
                "Check in Loops whether the contact was deleted, or has another user id or address there."
            }
            VerdictKind::Suppressed => {
                "Correct the address, or have its suppression removed in Loops if the mailbox works again."
            }
            VerdictKind::OptInPending => {
                "The person must click on the link in the mail that asks for it."
            }
            VerdictKind::Unsubscribed => {
                "Respect it: such a contact gets transactional mails only, until it subscribes again."
            }
            VerdictKind::Bounced => "Correct the address: the mailbox did not take the mail.",
            VerdictKind::SpamReported => "Respect it: Loops sends no more mails to the address.",
            VerdictKind::Opened => "Nothing to do: the mail was read.",
            VerdictKind::MailDelivered => {
                "Ask the person to look in other folders of the mailbox, such as spam."
            }
            VerdictKind::MailSent => {
                "Wait: whether the mail arrived is usually known within minutes."
            }
            VerdictKind::NotNeeded => {
                "Nothing to do. If the contact differs at Loops, because somebody changed it there, replay the message: a replay is always sent."
            }
            VerdictKind::Silent => {
                "Check in Loops whether a workflow starts with this event, is switched on, and lets this contact in."
            }
            VerdictKind::NeverHeard => {
                "Set up Loops' webhook (loops_webhook_secret) to see here what became of mails; until then, check in Loops whether a workflow starts with this event."
            }
        }
    }
}
