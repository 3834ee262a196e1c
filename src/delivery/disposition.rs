//! The meaning of Loops' responses: the one place where they are interpreted.

use std::time::Duration;

use crate::action::Endpoint;
use crate::loops::{Answer, CallError, Reply};
use crate::queue::AttemptOutcome;

/// What an attempt showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Loops took the request.
    Delivered,
    /// Loops took the request earlier: a previous attempt used its idempotency key.
    DeliveredBefore,
    /// The contact to delete does not exist.
    NothingToDelete,
    /// Something other than Loops responds to every path: the base URL is wrong.
    Misdirected,
    /// There were too many requests. Slow down, and wait as long as Loops asks, if it does.
    Limited(Option<Duration>),
    /// A retry may succeed. Wait at least as long as Loops asks, if it does.
    Retry(Option<Duration>),
    /// The key is wrong. Nothing can be delivered until it is corrected.
    Unauthorized {
        /// Loops' message.
        detail: String,
    },
    /// Something between us and Loops refuses this request, although Loops accepts the key. It may be a proxy that
    /// temporarily cannot reach Loops, or a firewall that blocks this request permanently.
    Doubtful {
        /// The message of that proxy or firewall.
        detail: String,
    },
    /// Loops will never take this request.
    Refused {
        /// Loops' message.
        detail: String,
    },
}

/// The meaning of a reply, as far as the reply alone shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning<'a> {
    Known(Disposition),
    /// The key must be checked before this reply can be interpreted. If the base URL is wrong, every call gets a 404,
    /// or a 4xx of another server, which must not be taken for Loops' response to the request.
    NeedsCheck(Unclear<'a>),
}

/// A response whose meaning depends on a check of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unclear<'a> {
    endpoint: Endpoint,
    answer: &'a Answer,
}

impl Meaning<'_> {
    /// Interprets the reply to a request to `endpoint`.
    pub fn of(endpoint: Endpoint, reply: &Reply) -> Meaning<'_> {
        let answer = match &reply.result {
            Ok(answer) => answer,
            // Loops may or may not have the request. Sending it again is safe: contact updates are
            // idempotent, and events carry a key.
            Err(CallError::Timeout | CallError::Connect(_) | CallError::Broken(_)) => {
                return Meaning::Known(Disposition::Retry(None));
            }
        };
        Meaning::Known(match answer.status {
            200..=299 => match answer.success {
                Some(true) => Disposition::Delivered,
                Some(false) => Disposition::Refused { detail: words(answer) },
                // Something between us and Loops responded: a captive portal, a gateway, a web app.
                None => Disposition::Retry(answer.retry_after),
            },
            // A 409 without JSON comes from something between us and Loops. It does not mean a known key.
            409 if endpoint.takes_idempotency_key() && answer.is_object => {
                Disposition::DeliveredBefore
            }
            429 => Disposition::Limited(answer.retry_after),
            401 | 403 => Disposition::Unauthorized { detail: words(answer) },
            408 => Disposition::Retry(answer.retry_after),
            400..=499 if answer.status == 404 || !answer.is_object => {
                return Meaning::NeedsCheck(Unclear { endpoint, answer });
            }
            400..=499 => Disposition::Refused { detail: words(answer) },
            // 5xx. Also 1xx and 3xx, which are not in Loops' contract: something between us and Loops sent them, and
            // giving up would lose the request.
            _ => Disposition::Retry(answer.retry_after),
        })
    }
}

impl Unclear<'_> {
    /// Interprets the response with the result of the check.
    pub fn checked(self, check: KeyCheck) -> Disposition {
        let Self { endpoint, answer } = self;
        match check {
            KeyCheck::Right if !answer.is_object => Disposition::Doubtful { detail: words(answer) },
            KeyCheck::Right if answer.status == 404 && endpoint == Endpoint::DeleteContact => {
                Disposition::NothingToDelete
            }
            KeyCheck::Right => Disposition::Refused { detail: words(answer) },
            KeyCheck::Wrong => Disposition::Unauthorized { detail: words(answer) },
            KeyCheck::NotFound | KeyCheck::Foreign => Disposition::Misdirected,
            KeyCheck::Unknown => Disposition::Retry(answer.retry_after),
        }
    }
}

impl Disposition {
    /// Returns whether no other attempt follows: Loops works, and has taken the request or refused it for good.
    pub fn is_final(&self) -> bool {
        match self {
            Disposition::Delivered
            | Disposition::DeliveredBefore
            | Disposition::NothingToDelete
            | Disposition::Refused { .. } => true,
            Disposition::Misdirected
            | Disposition::Limited(_)
            | Disposition::Retry(_)
            | Disposition::Unauthorized { .. }
            | Disposition::Doubtful { .. } => false,
        }
    }

    /// Returns whether the request is retried because something other than Loops responded. Loops does not redirect,
    /// and sends no 2xx or 4xx without a JSON object.
    pub fn is_not_of_loops(&self, reply: &Reply) -> bool {
        let is_foreign = |status| matches!(status, 100..=399);
        match self {
            Disposition::Doubtful { .. } => true,
            Disposition::Retry(_) => {
                reply.result.as_ref().is_ok_and(|answer| is_foreign(answer.status))
            }
            _ => false,
        }
    }

    /// Returns whether the response proves that Loops accepts the key.
    pub fn proves_key(&self) -> bool {
        match self {
            Disposition::Delivered
            | Disposition::DeliveredBefore
            | Disposition::NothingToDelete
            | Disposition::Refused { .. } => true,
            Disposition::Limited(_)
            | Disposition::Retry(_)
            | Disposition::Misdirected
            | Disposition::Doubtful { .. }
            | Disposition::Unauthorized { .. } => false,
        }
    }

    /// Returns the outcome of the attempt, for logs and records.
    pub fn outcome(&self) -> AttemptOutcome {
        match self {
            Disposition::Delivered => AttemptOutcome::Delivered,
            Disposition::DeliveredBefore => AttemptOutcome::DeliveredBefore,
            Disposition::NothingToDelete => AttemptOutcome::NothingToDelete,
            Disposition::Misdirected => AttemptOutcome::NotFound,
            Disposition::Limited(_) => AttemptOutcome::Limited,
            Disposition::Retry(_) | Disposition::Doubtful { .. } => AttemptOutcome::Retry,
            Disposition::Unauthorized { .. } => AttemptOutcome::Unauthorized,
            Disposition::Refused { .. } => AttemptOutcome::Refused,
        }
    }
}

/// The result of a check of the key (`GET /api-key`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCheck {
    /// Loops accepts the key.
    Right,
    /// Loops refuses the key.
    Wrong,
    /// The path or its method does not exist: the base URL is wrong.
    NotFound,
    /// The response does not come from Loops. On its own, this may be temporary, such as a captive portal. After a
    /// request was refused in the same way, it means that the base URL is wrong.
    Foreign,
    /// Loops cannot be reached, or its response shows neither.
    Unknown,
}

impl KeyCheck {
    /// Interprets a reply to a check of the key.
    pub fn of(reply: &Reply) -> Self {
        match &reply.result {
            Ok(answer) => match (answer.status, answer.success) {
                (200..=299, Some(true)) => KeyCheck::Right,
                (200..=299, Some(false)) | (401 | 403, _) => KeyCheck::Wrong,
                (404 | 405 | 410, _) => KeyCheck::NotFound,
                (408 | 429, _) => KeyCheck::Unknown,
                (200..=499, _) if !answer.is_object => KeyCheck::Foreign,
                _ => KeyCheck::Unknown,
            },
            Err(CallError::Timeout | CallError::Connect(_) | CallError::Broken(_)) => {
                KeyCheck::Unknown
            }
        }
    }
}

fn words(answer: &Answer) -> String {
    format!("Loops answered {}", in_words(answer))
}

/// Returns the status and the message of a response, for people.
pub(super) fn in_words(answer: &Answer) -> String {
    format!("{}: {}", answer.status, answer.message.as_deref().unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loops::RateHeaders;

    fn reply(status: u16, success: Option<bool>) -> Reply {
        let answer = Answer {
            status,
            retry_after: Some(Duration::from_secs(9)),
            rate: RateHeaders::default(),
            is_object: true,
            success,
            message: Some("why".to_owned()),
            excerpt: String::new(),
        };
        Reply { result: Ok(answer), duration: Duration::ZERO }
    }

    /// A reply whose body is an HTML page.
    fn page(status: u16) -> Reply {
        let mut page = reply(status, None);
        page.result.as_mut().unwrap().is_object = false;
        page
    }

    fn of(endpoint: Endpoint, status: u16, success: Option<bool>) -> Disposition {
        let reply = reply(status, success);
        let (disposition, is_checked) = interpret(endpoint, &reply, KeyCheck::Right);
        assert_eq!(is_checked, status == 404);
        disposition
    }

    /// Interprets a reply with the result of a check, if one is needed; also returns whether one is needed.
    fn interpret(endpoint: Endpoint, reply: &Reply, check: KeyCheck) -> (Disposition, bool) {
        match Meaning::of(endpoint, reply) {
            Meaning::Known(disposition) => (disposition, false),
            Meaning::NeedsCheck(unclear) => (unclear.checked(check), true),
        }
    }

    #[test]
    fn each_status_has_one_meaning() {
        let cases: [(Endpoint, &[u16], &str); 11] = [
            (Endpoint::SendEvent, &[409], "delivered_before"),
            (Endpoint::UpdateContact, &[409], "refused"),
            (Endpoint::DeleteContact, &[404], "nothing_to_delete"),
            (Endpoint::SendEvent, &[404], "refused"),
            (Endpoint::UpdateContact, &[404], "refused"),
            (Endpoint::UpdateContact, &[429], "limited"),
            (Endpoint::UpdateContact, &[401, 403], "unauthorized"),
            (Endpoint::UpdateContact, &[408, 500, 501, 502, 503, 504, 599], "retry"),
            (Endpoint::UpdateContact, &[100, 301, 304], "retry"),
            (Endpoint::UpdateContact, &[400, 402, 405, 413, 422, 499], "refused"),
            (Endpoint::DeleteContact, &[400], "refused"),
        ];
        for (endpoint, statuses, word) in cases {
            for status in statuses {
                for success in [None, Some(false), Some(true)] {
                    let outcome = of(endpoint, *status, success).outcome().as_str();
                    assert_eq!(outcome, word, "{endpoint:?} {status}");
                }
            }
        }
    }

    #[test]
    fn a_2xx_is_a_success_only_if_its_body_says_so() {
        for endpoint in Endpoint::ALL {
            for status in [200, 201, 204, 299] {
                assert_eq!(of(endpoint, status, Some(true)), Disposition::Delivered);
                assert_eq!(of(endpoint, status, Some(false)).outcome().as_str(), "refused");
                let again = Disposition::Retry(Some(Duration::from_secs(9)));
                assert_eq!(of(endpoint, status, None), again);
            }
        }
    }

    #[test]
    fn a_404_is_interpreted_by_a_check_of_the_key() {
        let no_answer = Reply { result: Err(CallError::Timeout), duration: Duration::ZERO };
        let cases = [
            (reply(200, Some(true)), "refused", "nothing_to_delete"),
            (reply(200, Some(false)), "unauthorized", "unauthorized"),
            (reply(401, None), "unauthorized", "unauthorized"),
            (reply(404, None), "not_found", "not_found"),
            (reply(405, None), "not_found", "not_found"),
            (page(410), "not_found", "not_found"),
            (page(200), "not_found", "not_found"),
            (page(302), "not_found", "not_found"),
            (page(400), "not_found", "not_found"),
            (page(403), "unauthorized", "unauthorized"),
            (page(429), "retry", "retry"),
            (page(502), "retry", "retry"),
            (reply(200, None), "retry", "retry"),
            (reply(500, Some(false)), "retry", "retry"),
            (no_answer, "retry", "retry"),
        ];
        for (check, for_others, for_deletions) in cases {
            let check = KeyCheck::of(&check);
            let outcome = |endpoint, reply: &Reply| {
                let (disposition, is_checked) = interpret(endpoint, reply, check);
                assert!(is_checked, "{reply:?}");
                disposition.outcome().as_str()
            };
            let not_found = reply(404, None);
            assert_eq!(outcome(Endpoint::SendEvent, &not_found), for_others);
            assert_eq!(outcome(Endpoint::UpdateContact, &not_found), for_others);
            assert_eq!(outcome(Endpoint::DeleteContact, &not_found), for_deletions);
            // A refusal that is not a JSON object does not come from Loops, so it is not final.
            let for_pages = if for_others == "refused" { "retry" } else { for_others };
            for status in [400, 404, 405, 409, 410, 413, 422] {
                for endpoint in Endpoint::ALL {
                    assert_eq!(outcome(endpoint, &page(status)), for_pages, "{status}");
                }
            }
        }
        for status in [200, 302, 401, 403, 408, 429, 500] {
            for endpoint in Endpoint::ALL {
                assert!(!interpret(endpoint, &page(status), KeyCheck::Right).1, "{status}");
            }
        }
    }

    #[test]
    fn a_call_without_an_answer_is_retried() {
        for error in [
            CallError::Timeout,
            CallError::Connect(String::new()),
            CallError::Broken(String::new()),
        ] {
            let reply = Reply { result: Err(error), duration: Duration::ZERO };
            let meaning = Meaning::of(Endpoint::SendEvent, &reply);
            assert_eq!(meaning, Meaning::Known(Disposition::Retry(None)));
        }
    }

    #[test]
    fn a_refusal_has_the_message_of_loops() {
        assert_eq!(
            of(Endpoint::SendEvent, 400, Some(false)),
            Disposition::Refused { detail: "Loops answered 400: why".to_owned() }
        );
        assert_eq!(
            of(Endpoint::SendEvent, 200, Some(false)),
            Disposition::Refused { detail: "Loops answered 200: why".to_owned() }
        );
    }
}
