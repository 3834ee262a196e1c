//! The filter of messages: the parameters that several operations share.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::query::{Parameters, bad_query};
use super::state::{AdminState, store_fault};
use super::values::TimeOrAgo;
use crate::http::error::ApiError;
use crate::queue::{FailureReason, Filter, MessageState, Tally, TallyStep};
use crate::segment::{Digests, MessageType, PersonDigest, PersonIdKind};

/// The names of the parameters of pages. Digests stand for people there, because the URL of a page ends up in logs,
/// histories and bookmarks.
pub(super) const PAGE_NAMES: [&str; 10] = [
    "person",
    "state",
    "reason",
    "destination",
    "source",
    "type",
    "event",
    "subscription",
    "from",
    "to",
];

/// The most ids of one person in a URL.
pub(super) const PERSONS_MAX: usize = 8;

/// The most names that an error lists.
const NAMES_SHOWN_MAX: usize = 20;

/// The parameters. All that are given must hold.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct FilterQuery {
    // Only pages have it: see `PAGE_NAMES`.
    #[param(ignore)]
    pub(super) person: Option<String>,
    /// A user id; also finds an anonymous id or an e-mail address.
    #[param(example = "user_1", min_length = 1)]
    pub(super) user_id: Option<String>,
    /// An anonymous id.
    #[param(min_length = 1)]
    pub(super) anonymous_id: Option<String>,
    /// An e-mail address; upper and lower case are the same.
    #[param(min_length = 1)]
    pub(super) email: Option<String>,
    /// Why one of the deliveries failed: `refused`, `expired`, `invalid`, `placeholder_id`, `discarded` or `unreadable`.
    #[param(value_type = Option<String>, example = "refused")]
    pub(super) reason: Option<FailureReason>,
    /// Name of the destination.
    #[param(example = "default")]
    pub(super) destination: Option<String>,
    /// Name of the source.
    #[param(example = "default")]
    pub(super) source: Option<String>,
    /// The kind of Segment call.
    pub(super) r#type: Option<MessageType>,
    /// Name of the event of a track.
    #[param(min_length = 1)]
    pub(super) event: Option<String>,
    /// Name of a subscription that took the message. With `reason`: whose delivery failed for that reason.
    pub(super) subscription: Option<String>,
    /// Accepted at this time or later: a time, a day in UTC, or how long ago (`90m`, `12h`, `7d`).
    #[param(value_type = Option<String>, example = "2026-01-02")]
    pub(super) from: Option<TimeOrAgo>,
    /// Accepted before this time, written in the same way.
    #[param(value_type = Option<String>, example = "2026-01-03")]
    pub(super) to: Option<TimeOrAgo>,
}

/// The outcome of the messages in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListedState {
    /// Messages in this state.
    In(MessageState),
    /// Pending messages that are held.
    Held,
}

impl ListedState {
    /// All values.
    pub(super) const ALL: [ListedState; 6] = {
        let [pending, delivered, shadowed, failed, unmatched] = MessageState::ALL;
        [
            ListedState::In(pending),
            ListedState::Held,
            ListedState::In(delivered),
            ListedState::In(shadowed),
            ListedState::In(failed),
            ListedState::In(unmatched),
        ]
    };

    /// Returns the name of the state, as a query gives it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            ListedState::In(state) => state.as_str(),
            ListedState::Held => "held",
        }
    }

    /// Returns the state of the messages themselves.
    fn state(self) -> MessageState {
        match self {
            ListedState::In(state) => state,
            ListedState::Held => MessageState::Pending,
        }
    }
}

/// The state of the messages that a page lists.
#[derive(Debug, Deserialize)]
struct StateQuery {
    state: Option<ListedState>,
}

/// Reads the filter from the parameters of a page, and checks its names.
pub(super) async fn of_page(given: &Parameters, state: &AdminState) -> Result<Filter, ApiError> {
    let StateQuery { state: listed } = given.read()?;
    given.read::<FilterQuery>()?.filter(listed, state).await
}

impl FilterQuery {
    /// Makes the filter for messages in this state, and checks its names.
    pub(super) async fn filter(
        self,
        listed: Option<ListedState>,
        state: &AdminState,
    ) -> Result<Filter, ApiError> {
        let filter = self.unchecked(listed, &state.store.digests(), state.clock.now())?;
        check_names(&filter, state).await?;
        Ok(filter)
    }

    fn unchecked(
        self,
        listed: Option<ListedState>,
        digests: &Digests,
        now: Timestamp,
    ) -> Result<Filter, ApiError> {
        let filter = Filter {
            persons: self.persons(digests)?,
            state: listed.map(ListedState::state),
            is_held: listed == Some(ListedState::Held),
            reason: self.reason,
            destination: self.destination,
            source: self.source,
            kind: self.r#type,
            event: self.event,
            subscription: self.subscription,
            from: self.from.map(|from| from.at(now)),
            to: self.to.map(|to| to.at(now)),
        };
        match contradiction(&filter) {
            Some(contradiction) => Err(bad_query(contradiction)),
            None => Ok(filter),
        }
    }

    /// Returns the digests of the person.
    fn persons(&self, digests: &Digests) -> Result<Vec<PersonDigest>, ApiError> {
        if let Some(person) = &self.person {
            return parse_persons(person).ok_or_else(|| {
                bad_query("`person` must be a digest, as in the links of the console's search")
            });
        }
        Ok(match (&self.user_id, &self.anonymous_id, &self.email) {
            (None, None, None) => Vec::new(),
            (Some(id), None, None) => digests.any_person(id),
            (None, Some(id), None) => vec![digests.person(PersonIdKind::Anonymous, id)],
            // No address contains a space: it was a plus sign that was not encoded.
            (None, None, Some(email)) => {
                vec![digests.person(PersonIdKind::Email, &email.trim().replace(' ', "+"))]
            }
            _ => return Err(bad_query("give only one of `userId`, `anonymousId` and `email`")),
        })
    }
}

/// Writes digests of persons as the value of the parameter `person`.
pub(super) fn write_persons(persons: &[PersonDigest]) -> String {
    persons
        .iter()
        .map(|PersonDigest(digest)| format!("{digest:016x}"))
        .collect::<Vec<_>>()
        .join("-")
}

/// Reads what [`write_persons`] writes.
pub(super) fn parse_persons(text: &str) -> Option<Vec<PersonDigest>> {
    let of = |digest: &str| {
        let is_whole = digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_whole
            .then(|| u64::from_str_radix(digest, 16))
            .map(|digest| Some(PersonDigest(digest.ok()?.cast_signed())))?
    };
    let persons: Vec<_> = text.split('-').map(of).collect::<Option<_>>()?;
    (persons.len() <= PERSONS_MAX).then_some(persons)
}

/// Returns why no message can match a filter.
fn contradiction(filter: &Filter) -> Option<&'static str> {
    let is_for_failed = filter.state.is_none_or(|state| state == MessageState::Failed);
    let is_for_tracks = filter.kind.is_none_or(|kind| kind == MessageType::Track);
    if filter.reason.is_some() && !is_for_failed {
        return Some("`reason` is for failed messages: set `state` to failed, or leave it out");
    }
    if filter.subscription.is_some() && filter.state == Some(MessageState::Unmatched) {
        return Some("unmatched messages have no `subscription`: leave it or `state` out");
    }
    if filter.event.is_some() && !is_for_tracks {
        return Some("`event` is for tracks: set `type` to track, or leave it out");
    }
    let ends = filter.from.zip(filter.to);
    ends.filter(|(from, to)| from >= to).map(|_| "`from` must be before `to`")
}

/// A condition on a name, and where names of its kind can be found.
struct Named<'a> {
    parameter: &'static str,
    given: Option<&'a str>,
    configured: BTreeSet<String>,
    counted: fn(&Tally) -> Option<&str>,
}

/// Rejects names that occur neither in the configuration nor in the records. A name that is no longer configured may
/// still be in records.
pub(super) async fn check_names(filter: &Filter, state: &AdminState) -> Result<(), ApiError> {
    let named = [
        Named {
            parameter: "destination",
            given: filter.destination.as_deref(),
            configured: state.planners.keys().cloned().collect(),
            counted: |tally| Some(&tally.destination),
        },
        Named {
            parameter: "source",
            given: filter.source.as_deref(),
            configured: state.sources.borrow().names().map(str::to_owned).collect(),
            counted: |tally| Some(&tally.source),
        },
        Named {
            parameter: "subscription",
            given: filter.subscription.as_deref(),
            configured: state.subscription_names(),
            counted: |tally| tally.subscription.as_deref(),
        },
    ];
    for Named { parameter, given, configured, counted } in named {
        let Some(given) = given.filter(|given| !configured.contains(*given)) else { continue };
        let (from, to) = (Timestamp::MIN, Timestamp::MAX);
        let tallies = state.store.tallies(TallyStep::Hour, from, to).await.map_err(store_fault)?;
        if tallies.iter().all(|tally| counted(tally) != Some(given)) {
            let names = shown(&configured);
            return Err(bad_query(format!("`{parameter}` is unknown: it must be one of {names}")));
        }
    }
    Ok(())
}

fn shown(names: &BTreeSet<String>) -> String {
    let mut shown: Vec<&str> = names.iter().map(String::as_str).take(NAMES_SHOWN_MAX).collect();
    let more = names.len() - shown.len();
    let more = format!("{more} more");
    if names.len() > shown.len() {
        shown.push(&more);
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::query::Query;
    use axum::http::StatusCode;

    #[derive(Deserialize, IntoParams)]
    struct Listed {
        state: Option<ListedState>,
    }

    fn parse(query: &str) -> Result<Filter, ApiError> {
        let uri = format!("/api/messages{query}").parse().unwrap();
        let now = "2026-11-01T12:00:00Z".parse().unwrap();
        let Query(query, Listed { state }) = Query::<FilterQuery, Listed>::of(&uri)?;
        query.unchecked(state, &Digests::new(&[0; 32]), now)
    }

    #[test]
    fn the_description_of_reason_lists_all_reasons() {
        let described = FilterQuery::into_params(|| None);
        let reason = described.iter().find(|one| one.name == "reason").unwrap();
        let listed = reason.description.as_deref().unwrap().split('`').skip(1).step_by(2);
        assert!(listed.eq(FailureReason::ALL.map(FailureReason::as_str)));
    }

    #[test]
    fn each_parameter_becomes_a_condition() {
        let digests = Digests::new(&[0; 32]);
        let all = Filter::default();
        let email = digests.person(PersonIdKind::Email, "ada@example.com");
        let tagged = digests.person(PersonIdKind::Email, "ada+1@example.com");
        let anonymous = digests.person(PersonIdKind::Anonymous, "a1");
        let time = |text: &str| Some(text.parse().unwrap());
        for (query, expected) in [
            ("", all.clone()),
            ("?userId=u%201", Filter { persons: digests.any_person("u 1"), ..all.clone() }),
            ("?anonymousId=a1", Filter { persons: vec![anonymous], ..all.clone() }),
            ("?email=%20Ada@Example.com", Filter { persons: vec![email], ..all.clone() }),
            ("?email=ada+1@example.com", Filter { persons: vec![tagged], ..all.clone() }),
            ("?state=unmatched", Filter { state: Some(MessageState::Unmatched), ..all.clone() }),
            (
                "?state=failed&reason=expired",
                Filter {
                    state: Some(MessageState::Failed),
                    reason: Some(FailureReason::Expired),
                    ..all.clone()
                },
            ),
            (
                "?state=held",
                Filter { state: Some(MessageState::Pending), is_held: true, ..all.clone() },
            ),
            ("?type=group", Filter { kind: Some(MessageType::Group), ..all.clone() }),
            (
                "?event=Signed+Up&type=track",
                Filter {
                    event: Some("Signed Up".to_owned()),
                    kind: Some(MessageType::Track),
                    ..all.clone()
                },
            ),
            (
                "?from=1d&to=2026-11-01",
                Filter {
                    from: time("2026-10-31T12:00:00Z"),
                    to: time("2026-11-01T00:00:00Z"),
                    ..all.clone()
                },
            ),
        ] {
            assert_eq!(parse(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn an_error_names_the_parameter_and_what_is_allowed_but_no_value() {
        for (query, named) in [
            ("?userId=", "`userId` is empty"),
            ("?email=%20", "`email` is empty"),
            ("?email=grace@example.com&userId=u", "one of `userId`, `anonymousId` and `email`"),
            (
                "?state=grace",
                "`state` must be one of pending, held, delivered, shadowed, failed, unmatched",
            ),
            ("?reason=grace", "`reason` must be one of refused, expired, invalid"),
            ("?reason=unknown", "`reason` must be one of"),
            ("?reason=refused&state=pending", "`reason` is for failed messages"),
            ("?subscription=s&state=unmatched", "no `subscription`"),
            ("?type=grace", "`type` must be one of identify, track"),
            ("?event=grace&type=identify", "`event` is for tracks"),
            ("?from=grace", "`from` must be a time such as"),
            ("?to=yesterday", "`to` must be a time such as"),
            ("?from=1h&to=1h", "`from` must be before `to`"),
            ("?from=2026-11-02&to=2026-11-01", "`from` must be before `to`"),
            ("?user=grace", "allowed are userId, anonymousId, email"),
            ("?person=grace", "allowed are userId, anonymousId, email"),
            ("?grace@example.com", "allowed are userId"),
            ("?event=grace&event=grace", "`event` is given more than once"),
        ] {
            let error = parse(query).unwrap_err();
            assert_eq!(
                (error.status, error.code),
                (StatusCode::BAD_REQUEST, "bad_query"),
                "{query}"
            );
            assert!(error.message.contains(named), "{query}: {}", error.message);
            assert!(!error.message.contains("grace"), "{query}: {}", error.message);
        }
    }

    #[test]
    fn many_names_are_not_all_shown() {
        let names = |count: usize| (0..count).map(|n| format!("n{n:02}")).collect();
        assert_eq!(shown(&names(2)), "n00, n01");
        assert!(shown(&names(20)).ends_with("n18, n19"));
        assert!(shown(&names(23)).ends_with("n19, 3 more"));
    }
}
