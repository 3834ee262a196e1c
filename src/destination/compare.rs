//! Compares what a subscription does with a message before and after a change.

use std::sync::Arc;

use super::catalogue::Catalogue;
use super::compiled::CompiledSubscription;
use super::explain::ExplainedField;
use super::guard::DestinationOptions;
use super::plan::{Noted, Plan, PlanFailure};
use super::planner::{Destination, turned_off};
use super::subscription::{Subscription, SubscriptionProblem};
use super::terms::Terms;
use crate::js::Value;
use crate::js::decode::decode;
use crate::loops::Request;
use crate::mapping::Unresolved;
use crate::segment::{Message, MessageType};

/// A change of one subscription.
#[derive(Debug, Clone)]
pub struct Revision {
    /// The subscription before the change; `None`: it is new.
    before: Option<CompiledSubscription>,
    /// The subscription after the change; `None`: it is removed.
    after: Option<CompiledSubscription>,
    options: DestinationOptions,
    catalogue: Option<Arc<Catalogue>>,
}

/// What a change means for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// The request and its warnings stay as they are, or it fails as before.
    Same,
    /// The request becomes another one, or a failure becomes a request or another failure.
    Changed,
    /// There was no request, since the trigger did not take the message.
    NewlyTaken,
    /// The trigger no longer takes the message.
    NoLongerTaken,
    /// The delivery would fail, and did not before.
    Error,
    /// The request stays as it is, but there is a new warning.
    Warning,
}

/// What a change means for a message, in full.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The kind of change.
    pub change: Change,
    /// What the subscription made of the message; `None`: it did not take it.
    pub before: Option<Made>,
    /// What it makes of the message after the change; `None`: it does not take it.
    pub after: Option<Made>,
}

/// A subscription's result for a message that it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The request, or why there is none.
    pub outcome: Result<Request, PlanFailure>,
    /// What was left out of the request or changed in it; never contains a value.
    pub warnings: Vec<String>,
}

/// The comparison was stopped; the text says where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// In a trigger.
    #[error("the trigger")]
    Trigger,
    /// In a mapping, at this field.
    #[error("the field `{0}` of the mapping")]
    Field(String),
    /// In a mapping that is one directive as a whole.
    #[error("the mapping")]
    Mapping,
}

impl Stopped {
    fn in_mapping(field: Option<String>) -> Self {
        field.map_or(Stopped::Mapping, Stopped::Field)
    }
}

impl Change {
    /// All of them.
    pub const ALL: [Change; 6] = [
        Change::Same,
        Change::Changed,
        Change::NewlyTaken,
        Change::NoLongerTaken,
        Change::Error,
        Change::Warning,
    ];

    /// Returns its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Change::Same => "same",
            Change::Changed => "changed",
            Change::NewlyTaken => "newly_taken",
            Change::NoLongerTaken => "no_longer_taken",
            Change::Error => "error",
            Change::Warning => "warning",
        }
    }
}

impl Destination {
    /// Returns the subscription with this name.
    pub fn subscription(&self, name: &str) -> Option<&CompiledSubscription> {
        self.subscriptions.iter().find(|one| one.name() == name)
    }

    /// Returns the destination with `subscription` in place of the one called `name`, or added if that is `None` or
    /// unknown; and the change that this is. Reports the same errors as [`Destination::compile`].
    ///
    /// ```
    /// use segment_loops::destination::{Change, Destination, Made, Unsupported};
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::segment::Message;
    ///
    /// let before = Destination::compile(&Destination::default_subscriptions(), Unsupported::Omit).unwrap();
    /// let mut subscription = before.subscription("Send an event").unwrap().written().clone();
    /// let mapping = br#"{"userId": {"@path": "$.userId"}, "eventName": "signedUp"}"#;
    /// subscription.mapping = decode(mapping)?;
    /// let (_after, revision) = before.revise(Some("Send an event"), &subscription).unwrap();
    ///
    /// let message = Message::from_stored(decode(br#"{
    ///     "type": "track", "messageId": "m1", "userId": "u1", "event": "Signed Up"
    /// }"#)?)?;
    /// let comparison = revision.compare(&message, &|| false)?.unwrap();
    /// assert_eq!(comparison.change, Change::Changed);
    /// let request = |made: Option<Made>| made.unwrap().outcome.unwrap().body;
    /// assert_eq!(request(comparison.before), r#"{"eventName":"Signed Up","userId":"u1"}"#);
    /// assert_eq!(request(comparison.after), r#"{"eventName":"signedUp","userId":"u1"}"#);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn revise(
        &self,
        name: Option<&str>,
        subscription: &Subscription,
    ) -> Result<(Self, Revision), Vec<SubscriptionProblem>> {
        let mut written: Vec<Subscription> =
            self.subscriptions.iter().map(|one| one.written.clone()).collect();
        let known = written.iter_mut().find(|one| name == Some(&one.name));
        let index = match known {
            Some(known) => {
                *known = subscription.clone();
                written.iter().position(|one| one == subscription).unwrap_or_default()
            }
            None => {
                written.push(subscription.clone());
                written.len() - 1
            }
        };
        let after = Self::compile(&written, self.options.clone())?;
        let after = after.with_catalogue(self.catalogue.clone());
        let revision = Revision {
            before: name.and_then(|name| self.subscription(name)).cloned(),
            after: after.subscriptions.get(index).cloned(),
            options: self.options.clone(),
            catalogue: self.catalogue.clone(),
        };
        Ok((after, revision))
    }

    /// Like [`Destination::plan`], but stops once `stop`, which is called repeatedly, returns true. The error has the name
    /// of the subscription and where it was stopped.
    pub fn plan_until(
        &self,
        message: &Message,
        stop: &dyn Fn() -> bool,
    ) -> Result<Plan, (String, Stopped)> {
        self.plan_with(message, |one| {
            let made = one.make_until(message.value(), self.terms(), stop);
            let made = made.map_err(|place| (one.name().to_owned(), place))?;
            Ok(made.map(|Made { outcome, warnings }| {
                one.planned(outcome, Noted { warnings, ..Noted::default() })
            }))
        })
    }

    /// Returns the changes that lead to another destination with the same options, by the names of subscriptions.
    pub fn revisions(&self, after: &Self) -> Vec<Revision> {
        let kept = self.subscriptions.iter().map(|one| (Some(one), after.subscription(one.name())));
        let added =
            after.subscriptions.iter().filter(|one| self.subscription(one.name()).is_none());
        kept.chain(added.map(|one| (None, Some(one))))
            .filter(|(before, after)| match (before, after) {
                (Some(before), Some(after)) => before.written != after.written,
                _ => true,
            })
            .map(|(before, after)| Revision {
                before: before.cloned(),
                after: after.cloned(),
                options: self.options.clone(),
                catalogue: self.catalogue.clone(),
            })
            .collect()
    }
}

impl Revision {
    /// Returns the name of the subscription, after the change if it is still there.
    pub fn name(&self) -> &str {
        self.after.as_ref().or(self.before.as_ref()).map_or("", CompiledSubscription::name)
    }

    /// Whether the subscription may take some message of this type, and of this event if it is known, before or after the
    /// change.
    pub fn may_take(&self, kind: MessageType, event: Option<&str>) -> bool {
        let may = |one: &CompiledSubscription| match event {
            Some(event) => one.may_match_event(kind, event),
            None => one.may_match(kind),
        };
        self.before.iter().chain(&self.after).any(|one| one.is_enabled() && may(one))
    }

    /// What changes besides the requests, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let (Some(before), Some(after)) = (&self.before, &self.after) else {
            return Vec::new();
        };
        let (before, after) = (&before.written, &after.written);
        let mut notes = Vec::new();
        if before.name != after.name {
            notes.push(format!(
                "The name changes from “{}” to “{}”: it is part of the idempotency keys, so events that are sent again would reach Loops twice.",
                before.name, after.name
            ));
        }
        if before.merge != after.merge {
            let now = if after.merge { "may now be merged" } else { "are no longer merged" };
            notes.push(format!("Its requests {now} with their neighbours."));
        }
        if before.max_age_s != after.max_age_s {
            let age = |age: Option<u64>| age.map_or("none".to_owned(), |age| age.to_string());
            let (before, after) = (age(before.max_age_s), age(after.max_age_s));
            notes.push(format!("max_age_s changes from {before} to {after}."));
        }
        if before.resubscribe != after.resubscribe {
            let now = if after.resubscribe { "may now" } else { "no longer" };
            notes.push(format!("Its requests {now} subscribe people again who left."));
        }
        notes
    }

    /// Returns what the change means for a message; `None` if the subscription takes it neither before nor after. Stops
    /// once `stop`, which is called repeatedly, returns true.
    pub fn compare(
        &self,
        message: &Message,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Comparison>, Stopped> {
        let is_off = self.options.no_consent(message).is_some();
        if is_off || turned_off(message.value()).is_some() {
            return Ok(None);
        }
        let terms = Terms::new(&self.options, self.catalogue.as_deref());
        let make = |one: &Option<CompiledSubscription>| match one {
            Some(one) => one.make_until(message.value(), terms, stop),
            None => Ok(None),
        };
        let before = make(&self.before)?;
        let is_unchanged = match (&self.before, &self.after) {
            (Some(before), Some(after)) => before.written == after.written,
            _ => false,
        };
        let after = if is_unchanged { before.clone() } else { make(&self.after)? };
        let change = change(before.as_ref(), after.as_ref());
        Ok(change.map(|change| Comparison { change, before, after }))
    }

    /// Returns where the values of the fields come from after the change, or before it if the subscription no longer
    /// takes the message. `stop` is as for [`Revision::compare`].
    pub fn explain(
        &self,
        message: &Message,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<ExplainedField>, Stopped> {
        let taking = |one: &&CompiledSubscription| {
            one.is_enabled() && one.trigger.matches_until(message.value(), stop) == Ok(true)
        };
        let Some(one) = self.after.iter().chain(&self.before).find(taking) else {
            return if stop() { Err(Stopped::Trigger) } else { Ok(Vec::new()) };
        };
        let fields = match one.mapping.resolve_fields_until(message.value(), stop) {
            Ok(fields) => fields,
            Err(Unresolved::Failed(_)) => return Ok(Vec::new()),
            Err(Unresolved::Stopped { field }) => return Err(Stopped::in_mapping(field)),
        };
        let explained = one.explain_fields(message.value(), &fields, stop);
        if stop() { Err(Stopped::Mapping) } else { Ok(explained) }
    }
}

impl CompiledSubscription {
    /// As it is written.
    pub fn written(&self) -> &Subscription {
        &self.written
    }

    /// Like [`CompiledSubscription::plan`], but stops once `stop` returns true; `None` also if it is disabled.
    fn make_until(
        &self,
        message: &Value,
        terms: Terms<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Made>, Stopped> {
        if !self.is_enabled() {
            return Ok(None);
        }
        let mut noted = Noted::default();
        let outcome = match self.trigger.matches_until(message, stop) {
            Ok(false) => return Ok(None),
            Ok(true) => match self.mapping.resolve_fields_until(message, stop) {
                Ok(fields) => self.request(message, fields, terms, &mut noted),
                Err(Unresolved::Failed(failure)) => Err(PlanFailure::invalid(failure.to_string())),
                Err(Unresolved::Stopped { field }) => return Err(Stopped::in_mapping(field)),
            },
            Err(_) if stop() => return Err(Stopped::Trigger),
            Err(failure) => Err(PlanFailure::invalid(failure.to_string())),
        };
        Ok(Some(Made { outcome, warnings: noted.warnings }))
    }
}

fn change(before: Option<&Made>, after: Option<&Made>) -> Option<Change> {
    Some(match (before, after) {
        (None, None) => return None,
        (Some(_), None) => Change::NoLongerTaken,
        (None, Some(Made { outcome: Ok(_), .. })) => Change::NewlyTaken,
        (None, Some(_)) => Change::Error,
        (Some(before), Some(after)) => match (&before.outcome, &after.outcome) {
            (Ok(_), Err(_)) => Change::Error,
            (Ok(one), Ok(other)) if is_same(one, other) => {
                let is_new = |warning: &String| !before.warnings.contains(warning);
                if after.warnings.iter().any(is_new) { Change::Warning } else { Change::Same }
            }
            (Err(one), Err(other)) if one == other => Change::Same,
            _ => Change::Changed,
        },
    })
}

/// Whether two requests are the same for Loops: the order of keys does not matter.
fn is_same(one: &Request, other: &Request) -> bool {
    let parse = |request: &Request| decode(&request.body).ok();
    one == other
        || one.endpoint == other.endpoint && parse(one).is_some() && parse(one) == parse(other)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::destination::subscription::read;

    fn subscription(text: &str) -> Subscription {
        read(&decode(text.as_bytes()).unwrap(), 0).unwrap()
    }

    fn message(text: &str) -> Message {
        Message::from_stored(decode(text.as_bytes()).unwrap()).unwrap()
    }

    fn destination(subscriptions: &[&str]) -> Destination {
        let subscriptions: Vec<_> = subscriptions.iter().map(|text| subscription(text)).collect();
        Destination::compile(&subscriptions, DestinationOptions::default()).unwrap()
    }

    const BEFORE: &str = r#"{"name":"s","action":"sendEvent","events":["Signed *"],"without":["email"],"mapping":{"eventName":"signed"}}"#;

    fn revision(after: &str) -> Revision {
        destination(&[BEFORE]).revise(Some("s"), &subscription(after)).unwrap().1
    }

    const SIGNED_UP: &str = r#"{"type":"track","userId":"u","event":"Signed Up","properties":{"plan":"pro","tags":{"a":1}}}"#;
    const ORDERED: &str = r#"{"type":"track","userId":"u","event":"Ordered"}"#;

    #[test]
    fn each_change_has_its_word() {
        for (after, given, expected) in [
            (BEFORE, SIGNED_UP, Some(Change::Same)),
            (BEFORE, ORDERED, None),
            // Another mapping with the same result.
            (
                r#"{"name":"s","action":"sendEvent","events":["Signed *"],"without":["email"],"mapping":{"eventName":{"@literal":"signed"}}}"#,
                SIGNED_UP,
                Some(Change::Same),
            ),
            (
                r#"{"name":"s","action":"sendEvent","events":["Signed *"],"mapping":{"eventName":"signedUp"}}"#,
                SIGNED_UP,
                Some(Change::Changed),
            ),
            (
                r#"{"name":"s","action":"sendEvent","events":["*"]}"#,
                ORDERED,
                Some(Change::NewlyTaken),
            ),
            (
                r#"{"name":"s","action":"sendEvent","events":["Ordered"]}"#,
                SIGNED_UP,
                Some(Change::NoLongerTaken),
            ),
            (
                r#"{"name":"s","enabled":false,"action":"sendEvent","events":["Signed *"]}"#,
                SIGNED_UP,
                Some(Change::NoLongerTaken),
            ),
            (
                r#"{"name":"s","action":"sendEvent","events":["Signed *"],"without":["userId"]}"#,
                SIGNED_UP,
                Some(Change::Error),
            ),
            (
                r#"{"name":"s","action":"sendEvent","events":["*"],"without":["userId"]}"#,
                ORDERED,
                Some(Change::Error),
            ),
            // What cannot be sent is left out, which makes the same request.
            (
                r#"{"name":"s","action":"sendEvent","events":["Signed *"],"without":["email"],"mapping":{"eventName":"signed","contactProperties":{"tags":{"@path":"$.properties.tags"}}}}"#,
                SIGNED_UP,
                Some(Change::Warning),
            ),
        ] {
            let compared = revision(after).compare(&message(given), &|| false).unwrap();
            assert_eq!(compared.map(|compared| compared.change), expected, "{after}");
        }
    }

    #[test]
    fn a_failure_that_stays_is_the_same_and_one_that_goes_a_change() {
        let failing = r#"{"name":"s","action":"sendEvent","events":["*"],"without":["userId"]}"#;
        let renamed = r#"{"name":"s","action":"sendEvent","events":["*"],"without":["userId"],"mapping":{"eventName":"x"}}"#;
        let mended = r#"{"name":"s","action":"sendEvent","events":["*"]}"#;
        for (after, expected) in [(renamed, Change::Same), (mended, Change::Changed)] {
            let (_, revision) =
                destination(&[failing]).revise(Some("s"), &subscription(after)).unwrap();
            let compared = revision.compare(&message(ORDERED), &|| false).unwrap().unwrap();
            assert_eq!(compared.change, expected, "{after}");
        }
    }

    #[test]
    fn a_message_for_which_the_destination_is_off_is_taken_by_none() {
        let off =
            r#"{"type":"track","userId":"u","event":"Signed Up","integrations":{"All":false}}"#;
        assert_eq!(revision(BEFORE).compare(&message(off), &|| false), Ok(None));
    }

    #[test]
    fn a_comparison_that_is_stopped_says_where() {
        let asked = Cell::new(0);
        let mut places = Vec::new();
        for limit in 0..40 {
            asked.set(0);
            let stop = || {
                asked.set(asked.get() + 1);
                asked.get() > limit
            };
            let after = r#"{"name":"s","action":"sendEvent","trigger":"type = \"track\"","mapping":{"@merge":{"direction":"left","objects":[{"eventName":"x"}]}}}"#;
            // The short form would merge its defaults into the directive.
            let after = after.replace("\"action\"", "\"partnerAction\"");
            if let Err(stopped) = revision(&after).compare(&message(SIGNED_UP), &stop) {
                places.push(stopped.to_string());
            }
        }
        places.dedup();
        let fields = ["eventName", "userId", "eventProperties"];
        let expected: Vec<String> = std::iter::once("the trigger".to_owned())
            .chain(places.iter().filter(|place| place.contains("field")).cloned())
            .chain(["the trigger".to_owned(), "the mapping".to_owned()])
            .collect();
        assert_eq!(places, expected);
        for field in fields {
            assert!(places.contains(&format!("the field `{field}` of the mapping")), "{places:?}");
        }
    }

    #[test]
    fn revisions_are_the_subscriptions_that_differ() {
        let other = BEFORE.replace("\"s\"", "\"other\"");
        let changed = BEFORE.replace("signed\"", "changed\"");
        let added = BEFORE.replace("\"s\"", "\"added\"");
        let before = destination(&[BEFORE, &other]);
        let names = |after: &Destination| {
            let revisions = before.revisions(after);
            revisions.iter().map(|one| one.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&destination(&[BEFORE, &other])), Vec::<String>::new());
        assert_eq!(names(&destination(&[&other, BEFORE])), Vec::<String>::new());
        assert_eq!(names(&destination(&[&changed, &other, &added])), ["s", "added"]);
        assert_eq!(names(&destination(&[BEFORE])), ["other"]);
    }

    #[test]
    fn a_new_subscription_has_a_name_of_its_own() {
        let destination = destination(&[BEFORE]);
        let problems = destination.revise(None, &subscription(BEFORE)).unwrap_err();
        assert!(problems[0].problem.contains("another subscription"), "{problems:?}");
        let added = subscription(&BEFORE.replace("\"s\"", "\"added\""));
        let (after, revision) = destination.revise(None, &added).unwrap();
        assert_eq!(after.subscription_names().collect::<Vec<_>>(), ["s", "added"]);
        let compared = revision.compare(&message(SIGNED_UP), &|| false).unwrap().unwrap();
        assert_eq!((compared.change, compared.before), (Change::NewlyTaken, None));
    }
}
