//! What follows from how a call went: the one place where Loops' answers get their meaning.

use std::time::Duration;

use crate::action::Endpoint;
use crate::loops::{Answer, CallError, Reply};
use crate::queue::AttemptOutcome;

/// What to do after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Loops has it.
    Delivered,
    /// Loops had it before: its idempotency key was used up by an earlier attempt.
    DeliveredBefore,
    /// The contact to delete is not there.
    NothingToDelete,
    /// Too many requests: wait, and slow down.
    Limited(Option<Duration>),
    /// It may work later; how long Loops asks to wait, if it does.
    Retry(Option<Duration>),
    /// The key is wrong: nothing can be delivered until it is right.
    Unauthorized {
        /// What Loops said.
        detail: String,
    },
    /// Loops will never take it.
    Refused {
        /// What Loops said.
        detail: String,
    },
}

impl Disposition {
    /// Reads a reply to a request at `endpoint`.
    pub fn of(endpoint: Endpoint, reply: &Reply) -> Self {
        let answer = match &reply.result {
            Ok(answer) => answer,
            // Loops may or may not have the request. Sending the same again is safe: contact
            // updates are idempotent, and events carry a key.
            Err(CallError::Timeout | CallError::Connect(_) | CallError::Broken(_)) => {
                return Disposition::Retry(None);
            }
        };
        match answer.status {
            200..=299 => Disposition::Delivered,
            409 if endpoint.takes_idempotency_key() => Disposition::DeliveredBefore,
            404 if endpoint == Endpoint::DeleteContact => Disposition::NothingToDelete,
            429 => Disposition::Limited(answer.retry_after),
            401 | 403 => Disposition::Unauthorized { detail: words(answer) },
            408 => Disposition::Retry(answer.retry_after),
            400..=499 => Disposition::Refused { detail: words(answer) },
            // 5xx; and what Loops' contract does not have (1xx, 3xx) comes from something between,
            // so that giving up would lose the request.
            _ => Disposition::Retry(answer.retry_after),
        }
    }

    /// Whether it shows that Loops takes the key.
    pub fn proves_key(&self) -> bool {
        match self {
            Disposition::Delivered
            | Disposition::DeliveredBefore
            | Disposition::NothingToDelete
            | Disposition::Refused { .. } => true,
            Disposition::Limited(_) | Disposition::Retry(_) | Disposition::Unauthorized { .. } => {
                false
            }
        }
    }

    /// What the attempt came to, for logs and records.
    pub fn outcome(&self) -> AttemptOutcome {
        match self {
            Disposition::Delivered => AttemptOutcome::Delivered,
            Disposition::DeliveredBefore => AttemptOutcome::DeliveredBefore,
            Disposition::NothingToDelete => AttemptOutcome::NothingToDelete,
            Disposition::Limited(_) => AttemptOutcome::Limited,
            Disposition::Retry(_) => AttemptOutcome::Retry,
            Disposition::Unauthorized { .. } => AttemptOutcome::Unauthorized,
            Disposition::Refused { .. } => AttemptOutcome::Refused,
        }
    }
}

fn words(answer: &Answer) -> String {
    format!(
        "Loops answered {}: {}",
        answer.status,
        answer.message.as_deref().unwrap_or("no message")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loops::RateHeaders;

    fn of(endpoint: Endpoint, status: u16) -> Disposition {
        let answer = Answer {
            status,
            retry_after: Some(Duration::from_secs(9)),
            rate: RateHeaders::default(),
            message: Some("why".to_owned()),
            excerpt: String::new(),
        };
        Disposition::of(endpoint, &Reply { result: Ok(answer), duration: Duration::ZERO })
    }

    #[test]
    fn every_status_has_its_meaning() {
        let cases: [(Endpoint, &[u16], &str); 11] = [
            (Endpoint::SendEvent, &[200, 201, 204, 299], "delivered"),
            (Endpoint::SendEvent, &[409], "delivered_before"),
            (Endpoint::UpdateContact, &[409], "refused"),
            (Endpoint::DeleteContact, &[404], "nothing_to_delete"),
            (Endpoint::SendEvent, &[404], "refused"),
            (Endpoint::UpdateContact, &[429], "limited"),
            (Endpoint::UpdateContact, &[401, 403], "unauthorized"),
            (Endpoint::UpdateContact, &[408, 500, 501, 502, 503, 504, 599], "retry"),
            (Endpoint::UpdateContact, &[100, 301, 304], "retry"),
            (Endpoint::UpdateContact, &[400, 402, 404, 405, 413, 422, 499], "refused"),
            (Endpoint::DeleteContact, &[400], "refused"),
        ];
        for (endpoint, statuses, word) in cases {
            for status in statuses {
                assert_eq!(of(endpoint, *status).outcome().as_str(), word, "{endpoint:?} {status}");
            }
        }
    }

    #[test]
    fn a_call_without_an_answer_is_tried_again() {
        for error in [
            CallError::Timeout,
            CallError::Connect(String::new()),
            CallError::Broken(String::new()),
        ] {
            let reply = Reply { result: Err(error), duration: Duration::ZERO };
            assert_eq!(Disposition::of(Endpoint::SendEvent, &reply), Disposition::Retry(None));
        }
    }

    #[test]
    fn a_refusal_says_what_loops_said() {
        assert_eq!(
            of(Endpoint::SendEvent, 400),
            Disposition::Refused { detail: "Loops answered 400: why".to_owned() }
        );
    }
}
