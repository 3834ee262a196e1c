//! The selection lists that filter messages.

use crate::console::filter::ListedState;
use crate::console::query::Parameters;
use crate::console::state::AdminState;
use crate::queue::FailureReason;
use crate::segment::MessageType;

/// A selection list.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) options: Vec<Choice>,
}

pub(super) struct Choice {
    pub(super) value: String,
    pub(super) is_chosen: bool,
}

/// Returns the selection lists. A list with a single choice is left out.
pub(super) fn fields(state: &AdminState, given: &Parameters) -> Vec<Field> {
    let words = |words: &[&'static str]| words.iter().map(|word| (*word).to_owned()).collect();
    let states: Vec<&str> = ListedState::ALL.map(ListedState::as_str).to_vec();
    let kinds: Vec<&str> = MessageType::ALL.map(MessageType::as_str).to_vec();
    let reasons: Vec<&str> = FailureReason::ALL.map(FailureReason::as_str).to_vec();
    let sources: Vec<String> = state.sources.borrow().names().map(str::to_owned).collect();
    let mut destinations: Vec<String> = state.planners.keys().cloned().collect();
    destinations.sort_unstable();
    let all: [(&str, &str, Vec<String>); 6] = [
        ("state", "State", words(&states)),
        ("type", "Type", words(&kinds)),
        ("reason", "Failed as", words(&reasons)),
        ("subscription", "Subscription", state.subscription_names().into_iter().collect()),
        ("source", "Source", sources),
        ("destination", "Destination", destinations),
    ];
    let fields = all.into_iter().filter_map(|(name, label, mut values)| {
        let chosen = given.get(name);
        if let Some(chosen) = chosen.filter(|chosen| !values.iter().any(|value| value == chosen)) {
            values.push(chosen.to_owned());
        }
        let is_needed = values.len() > 1 || chosen.is_some();
        let of = |value: String| Choice { is_chosen: chosen == Some(value.as_str()), value };
        is_needed.then(|| Field { name, label, options: values.into_iter().map(of).collect() })
    });
    fields.collect()
}
