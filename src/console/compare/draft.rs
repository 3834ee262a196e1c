//! A changed subscription while a person is writing it, and the errors in it.

use serde::Serialize;
use utoipa::ToSchema;

use crate::config::read_text;
use crate::destination::subscription::{Subscription, SubscriptionProblem, list_in, read};
use crate::destination::{Destination, Revision};
use crate::js::Value;

/// A subscription that may replace one in force.
#[derive(Debug)]
pub struct Draft {
    /// The destination with the draft in it.
    pub after: Destination,
    /// What changes.
    pub revision: Revision,
}

/// What is wrong with a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DraftProblem {
    /// The line of the text, from 1; null if it is not known, or the draft is not a text.
    #[schema(required)]
    pub line: Option<usize>,
    /// The key of the subscription; null if the text cannot be read at all.
    #[schema(required)]
    pub field: Option<String>,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl Draft {
    /// Reads a text in TOML, YAML or JSON that holds one subscription, or several, one of which is called `name`.
    pub fn of_text(
        text: &str,
        name: Option<&str>,
        destination: &Destination,
    ) -> Result<Self, Vec<DraftProblem>> {
        let value = read_text(text).map_err(|problem| {
            vec![DraftProblem { line: problem.line, field: None, problem: problem.problem }]
        })?;
        Self::of_value(&value, name, destination).map_err(|mut problems| {
            for problem in &mut problems {
                problem.line = line_of(text, problem);
            }
            problems
        })
    }

    /// Reads a draft from a JSON value.
    pub fn of_value(
        value: &Value,
        name: Option<&str>,
        destination: &Destination,
    ) -> Result<Self, Vec<DraftProblem>> {
        let chosen = choose(value, name)?;
        let subscription = read(chosen, 0).map_err(problems)?;
        let (after, revision) = destination.revise(name, &subscription).map_err(problems)?;
        Ok(Self { after, revision })
    }

    /// Makes a draft that changes nothing.
    pub fn unchanged(
        subscription: &Subscription,
        destination: &Destination,
    ) -> Result<Self, Vec<DraftProblem>> {
        let revised = destination.revise(Some(&subscription.name), subscription);
        revised.map(|(after, revision)| Self { after, revision }).map_err(problems)
    }
}

fn choose<'v>(value: &'v Value, name: Option<&str>) -> Result<&'v Value, Vec<DraftProblem>> {
    let list = list_in(value).unwrap_or_default();
    let is_called =
        |one: &&Value| name.is_some() && one.get("name").and_then(Value::as_str) == name;
    let found = match list.as_slice() {
        [only] => Some(*only),
        several => several.iter().copied().find(is_called),
    };
    found.ok_or_else(|| {
        let problem = match (list.len(), name) {
            (0, _) => "there is no subscription here: allowed are one subscription, a list of them, or an object with `subscriptions`".to_owned(),
            (count, Some(name)) => format!(
                "there are {count} subscriptions, and none of them is called `{name}`: write one alone, or keep its name"
            ),
            (count, None) => format!("there are {count} subscriptions: write one alone"),
        };
        vec![DraftProblem { line: None, field: None, problem }]
    })
}

fn problems(found: Vec<SubscriptionProblem>) -> Vec<DraftProblem> {
    let of = |one: SubscriptionProblem| DraftProblem {
        line: None,
        field: Some(one.field),
        problem: one.problem,
    };
    found.into_iter().map(of).collect()
}

/// Returns the line that a problem is about: the first one that begins with the key, or with the innermost key of the
/// place in the mapping that the problem names.
fn line_of(text: &str, problem: &DraftProblem) -> Option<usize> {
    let field = problem.field.as_deref()?;
    let pointer = problem.problem.strip_prefix("at `/").and_then(|rest| rest.split_once('`'));
    let keys = pointer.map_or("", |(pointer, _)| pointer).rsplit('/');
    let keys = keys.filter(|key| !key.is_empty() && key.parse::<usize>().is_err());
    let line_with = |key: &str| {
        let is_its = |line: &str| {
            let spelled = [format!("\"{key}\""), format!("'{key}'"), key.to_owned()];
            spelled.iter().any(|key| {
                line.match_indices(key.as_str()).any(|(at, key)| {
                    let before = line[..at].chars().next_back();
                    let after = line[at + key.len()..].trim_start().chars().next();
                    before.is_none_or(|c| !c.is_alphanumeric() && !"_@$.".contains(c))
                        && after.is_some_and(|c| "=:]".contains(c))
                })
            })
        };
        text.lines().position(is_its).map(|index| index + 1)
    };
    keys.chain([field]).find_map(line_with)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination() -> Destination {
        let text = "- {name: a, action: sendEvent, events: [A]}\n- {name: b, action: sendEvent, events: [B]}";
        let list = read_text(text).unwrap();
        let subscriptions: Vec<_> =
            list_in(&list).unwrap().into_iter().map(|one| read(one, 0).unwrap()).collect();
        Destination::compile(&subscriptions, crate::destination::DestinationOptions::default())
            .unwrap()
    }

    #[test]
    fn a_draft_is_one_subscription_or_the_one_with_the_name() {
        let one = "name = 'a'\naction = 'sendEvent'\nevents = ['C']";
        let list = "- {name: b, action: sendEvent, events: [D]}\n- {name: a, action: sendEvent, events: [C]}";
        for text in [one, list] {
            let draft = Draft::of_text(text, Some("a"), &destination()).unwrap();
            assert_eq!(draft.revision.name(), "a");
            assert_eq!(draft.after.subscription_names().collect::<Vec<_>>(), ["a", "b"]);
        }
        let renamed =
            Draft::of_text(&one.replace("'a'", "'c'"), Some("a"), &destination()).unwrap();
        assert_eq!(renamed.after.subscription_names().collect::<Vec<_>>(), ["c", "b"]);
        let added = Draft::of_text(&one.replace("'a'", "'c'"), None, &destination()).unwrap();
        assert_eq!(added.after.subscription_names().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn a_problem_has_its_line_and_field_and_says_what_is_allowed() {
        for (text, line, field, said) in [
            ("name = 'a'\naction = ", Some(2), None, "not TOML"),
            ("name = 'a'\naction = 'send'\nevents = ['A']", Some(2), Some("action"), "allowed are"),
            (
                "name: a\naction: sendEvent\ntrigger: 'type = \"track'",
                Some(3),
                Some("trigger"),
                "at character",
            ),
            (
                "[[subscriptions]]\nname = 'a'\naction = 'sendEvent'\nevents = ['A']\n[subscriptions.mapping]\nuserId = 'u'\neventName = { \"@pth\" = '$.event' }",
                Some(7),
                Some("mapping"),
                "at `/eventName`",
            ),
            (
                r#"{"name": "a", "action": "sendEvent",
"events": ["A"], "colour": "red"}"#,
                Some(2),
                Some("colour"),
                "unknown; allowed are",
            ),
            ("name = 'b'\naction = 'sendEvent'\nevents = ['A']", Some(1), Some("name"), "unique"),
            ("[]", None, None, "there is no subscription here"),
            ("- {name: c}\n- {name: d}", None, None, "none of them is called `a`"),
        ] {
            let found = Draft::of_text(text, Some("a"), &destination()).unwrap_err();
            assert_eq!((found[0].line, found[0].field.as_deref()), (line, field), "{found:?}");
            assert!(found[0].problem.contains(said), "{found:?}");
        }
    }
}
