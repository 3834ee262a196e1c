//! Keeps requests from resubscribing people who left, as reported by Loops.

use jiff::Timestamp;

use crate::action::Endpoint;
use crate::destination::subscribes;
use crate::js::{Object, Value};
use crate::queue::OptOut;
use crate::segment::PersonDigest;

/// Returns whether a request subscribes its contact, to all mails or to a list.
pub(super) fn is_opt_in(endpoint: Endpoint, body: &Object) -> bool {
    !opt_ins(endpoint, body).is_empty()
}

/// Returns the subscriptions that a request gives its contact: ids of mailing lists, and `None` for all mails.
pub(super) fn opt_ins(endpoint: Endpoint, body: &Object) -> Vec<Option<String>> {
    if endpoint == Endpoint::DeleteContact {
        return Vec::new();
    }
    let all = body.get("subscribed").is_some_and(subscribes).then_some(None);
    let joined = lists(body).filter(|(_, value)| subscribes(value));
    all.into_iter().chain(joined.map(|(list, _)| Some(list.to_owned()))).collect()
}

fn lists(body: &Object) -> impl Iterator<Item = (&str, &Value)> {
    let lists = body.get("mailingLists").and_then(Value::as_object);
    lists.into_iter().flat_map(Object::iter)
}

/// The opt-outs that affect a message.
pub(super) struct Consent {
    /// Opt-outs of the people that the requests of the message would subscribe.
    pub(super) opt_outs: Vec<OptOut>,
    /// When the message happened.
    pub(super) happened_at: Timestamp,
}

impl Consent {
    /// Removes from a request the fields that would resubscribe one of these persons, with a warning for each; returns
    /// whether it removed any. If the subscription has `resubscribe` set, it removes them only from messages that are
    /// not newer than the opt-out.
    pub(super) fn guard(
        &self,
        persons: &[PersonDigest],
        resubscribe: bool,
        endpoint: Endpoint,
        body: &mut Object,
        warnings: &mut Vec<String>,
    ) -> bool {
        if self.opt_outs.is_empty() || !is_opt_in(endpoint, body) {
            return false;
        }
        let left = |list: Option<&str>| {
            let of_person = self.opt_outs.iter().filter(|left| left.is_about(persons));
            let newest = of_person.filter(|left| left.list.as_deref() == list);
            let newest = newest.max_by_key(|left| left.at)?;
            (!resubscribe || self.happened_at <= newest.at).then_some(newest)
        };
        let why = |field: &str, left: &OptOut| {
            let way = match resubscribe {
                true => "the message is not newer than that",
                false => {
                    "set resubscribe = true in the subscription if newer messages may undo that"
                }
            };
            format!(
                "`{field}` was left out: it would resubscribe a person who left, as Loops reported at {} ({}); {way}",
                left.at, left.event
            )
        };
        let before = warnings.len();
        if body.get("subscribed").is_some_and(subscribes)
            && let Some(left) = left(None)
        {
            body.remove("subscribed");
            warnings.push(why("subscribed", left));
        }
        let joined = lists(body).filter(|(_, value)| subscribes(value));
        let found: Vec<(String, &OptOut)> =
            joined.filter_map(|(list, _)| Some((list.to_owned(), left(Some(list))?))).collect();
        if let Some(Value::Object(lists)) = body.get_mut("mailingLists") {
            for (list, left) in found {
                lists.remove(&list);
                warnings.push(why(&format!("mailingLists.{list}"), left));
            }
            // An upsert always carries `mailingLists`.
            if lists.is_empty() && endpoint == Endpoint::SendEvent {
                body.remove("mailingLists");
            }
        }
        warnings.len() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::decode::decode_strict;

    const ADA: PersonDigest = PersonDigest(1);
    const MAILBOX: PersonDigest = PersonDigest(2);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn left(list: Option<&str>, second: i64) -> OptOut {
        let (list, event) = (list.map(str::to_owned), "email.unsubscribed".to_owned());
        OptOut { user: Some(ADA), email: Some(MAILBOX), list, at: at(second), event }
    }

    /// Returns the body that is sent for a message that happened at 100, and the number of warnings.
    fn guard(
        endpoint: Endpoint,
        persons: &[PersonDigest],
        opt_outs: Vec<OptOut>,
        resubscribe: bool,
        body: &str,
    ) -> (String, usize) {
        let Ok(Value::Object(mut body)) = decode_strict(body) else { panic!("{body}") };
        let mut warnings = Vec::new();
        let consent = Consent { opt_outs, happened_at: at(100) };
        let guarded = consent.guard(persons, resubscribe, endpoint, &mut body, &mut warnings);
        assert_eq!(guarded, !warnings.is_empty());
        (Value::Object(body).to_json(), warnings.len())
    }

    #[test]
    fn what_subscribes_somebody_again_who_left_is_left_out() {
        let all = || vec![left(None, 50)];
        let list = || vec![left(Some("a"), 50)];
        let cases = [
            (all(), r#"{"userId":"u","subscribed":true}"#, r#"{"userId":"u"}"#, 1),
            (all(), r#"{"subscribed":"true"}"#, "{}", 1),
            (all(), r#"{"subscribed":false}"#, r#"{"subscribed":false}"#, 0),
            (all(), r#"{"subscribed":null}"#, r#"{"subscribed":null}"#, 0),
            (all(), r#"{"mailingLists":{"a":true}}"#, r#"{"mailingLists":{"a":true}}"#, 0),
            (list(), r#"{"subscribed":true}"#, r#"{"subscribed":true}"#, 0),
            (
                list(),
                r#"{"mailingLists":{"a":true,"b":true}}"#,
                r#"{"mailingLists":{"b":true}}"#,
                1,
            ),
            (list(), r#"{"mailingLists":{"a":false}}"#, r#"{"mailingLists":{"a":false}}"#, 0),
            (list(), r#"{"mailingLists":{"a":true}}"#, r#"{"mailingLists":{}}"#, 1),
            (
                [all(), list()].concat(),
                r#"{"subscribed":true,"mailingLists":{"a":true}}"#,
                r#"{"mailingLists":{}}"#,
                2,
            ),
        ];
        for (opt_outs, body, expected, warnings) in cases {
            let sent = guard(Endpoint::UpdateContact, &[ADA], opt_outs, false, body);
            assert_eq!(sent, (expected.to_owned(), warnings), "{body}");
        }
    }

    #[test]
    fn contact_properties_of_an_event_are_guarded_and_its_own_are_not() {
        let opt_outs = vec![left(None, 50), left(Some("a"), 50)];
        let body = r#"{"eventName":"e","eventProperties":{"subscribed":true},"subscribed":true,"mailingLists":{"a":true}}"#;
        let sent = guard(Endpoint::SendEvent, &[ADA], opt_outs, false, body);
        let expected = r#"{"eventName":"e","eventProperties":{"subscribed":true}}"#;
        assert_eq!(sent, (expected.to_owned(), 2));
    }

    #[test]
    fn a_subscription_may_resubscribe_with_what_is_newer() {
        let body = r#"{"subscribed":true}"#;
        for (left_at, is_sent) in [(99, true), (100, false), (101, false)] {
            let opt_outs = vec![left(None, 1), left(None, left_at)];
            let (sent, _) = guard(Endpoint::UpdateContact, &[ADA], opt_outs, true, body);
            assert_eq!(sent == body, is_sent, "{left_at}");
        }
    }

    #[test]
    fn a_person_is_known_by_the_id_and_by_the_address() {
        let body = r#"{"subscribed":true}"#;
        for (persons, is_sent) in [
            (vec![ADA], false),
            (vec![PersonDigest(9), MAILBOX], false),
            (vec![PersonDigest(9)], true),
        ] {
            let opt_outs = vec![left(None, 50)];
            let (sent, _) = guard(Endpoint::UpdateContact, &persons, opt_outs, false, body);
            assert_eq!(sent == body, is_sent, "{persons:?}");
        }
    }
}
