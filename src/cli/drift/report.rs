//! The result of the comparison, for people and for programs. It holds only names, counts and message ids, unless
//! values were asked for.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::expected::{Compared, Key, Line};

/// The most rows of a table for people, and the most properties for programs: a contact may have any number of them.
const ROWS_SHOWN_MAX: usize = 50;
const PROPERTIES_MAX: usize = 1_000;

/// The most messages that are named for one property.
const EXAMPLES_MAX: usize = 3;

/// The most values that are shown.
const VALUES_MAX: usize = 100;

/// The longest name or value that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 100;

/// The result of the comparison.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    destination: String,
    #[serde(serialize_with = "as_text")]
    since: Timestamp,
    /// How many people's contacts were to be read.
    pub(super) people: usize,
    /// How many contacts were compared.
    pub(super) compared: usize,
    /// How many people have no contact at Loops.
    pub(super) not_found: usize,
    /// How many people's contacts Loops did not return.
    pub(super) unread: usize,
    /// How many people's last request deletes them. They are not compared.
    pub(super) deleted: usize,
    /// How many people have no message that sets a value, for example because a mapping takes `userId` from elsewhere.
    /// They are not compared.
    pub(super) without_values: usize,
    properties: BTreeMap<String, Row>,
    subscriptions: BTreeMap<String, Row>,
    /// How many properties there are beyond those that are counted.
    more_properties: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<Shown>,
    #[serde(skip)]
    shows_values: bool,
}

/// The counts of a property, or of what a subscription set.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    same: u64,
    differs: u64,
    missing: u64,
    only_there: u64,
    /// Messages that set a value that differs or is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<String>,
}

/// A value that differs from what is expected.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    contact: String,
    property: String,
    expected: Option<Value>,
    held: Option<Value>,
    message_id: String,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

impl Row {
    fn add(&mut self, compared: Compared, message_id: Option<&str>) {
        let count = match compared {
            Compared::Same => &mut self.same,
            Compared::Differs => &mut self.differs,
            Compared::Missing => &mut self.missing,
            Compared::OnlyThere => &mut self.only_there,
        };
        *count += 1;
        let is_wrong = matches!(compared, Compared::Differs | Compared::Missing);
        if let Some(id) = message_id.filter(|_| is_wrong)
            && self.messages.len() < EXAMPLES_MAX
            && !self.messages.iter().any(|known| known == id)
        {
            self.messages.push(id.to_owned());
        }
    }

    fn wrong(&self) -> u64 {
        self.differs + self.missing
    }
}

impl Report {
    pub(super) fn new(destination: String, since: Timestamp, shows_values: bool) -> Self {
        Self {
            destination,
            since,
            people: 0,
            compared: 0,
            not_found: 0,
            unread: 0,
            deleted: 0,
            without_values: 0,
            properties: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            more_properties: 0,
            values: Vec::new(),
            shows_values,
        }
    }

    /// Adds the comparison of a contact.
    pub(super) fn add(&mut self, key: &Key, lines: &[Line<'_>]) {
        self.compared += 1;
        for Line { name, compared, expected, held } in lines {
            let message_id = expected.map(|setting| setting.message_id.as_str());
            let is_known = self.properties.contains_key(name);
            if is_known || self.properties.len() < PROPERTIES_MAX {
                self.properties.entry(name.clone()).or_default().add(*compared, message_id);
            } else {
                self.more_properties += 1;
            }
            let Some(setting) = expected else { continue };
            let row = self.subscriptions.entry(setting.subscription.clone()).or_default();
            row.add(*compared, message_id);
            let is_wrong = matches!(compared, Compared::Differs | Compared::Missing);
            if self.shows_values && is_wrong && self.values.len() < VALUES_MAX {
                let (Key::User(contact) | Key::Email(contact)) = key;
                self.values.push(Shown {
                    contact: contact.clone(),
                    property: name.clone(),
                    expected: Some(setting.value.clone()),
                    held: held.cloned(),
                    message_id: setting.message_id.clone(),
                });
            }
        }
    }

    /// Returns whether Loops holds anything else than was sent, or would have been.
    pub(super) fn differs(&self) -> bool {
        self.not_found > 0 || self.subscriptions.values().any(|row| row.wrong() > 0)
    }

    pub(super) fn to_json(&self) -> String {
        // Strings, numbers and JSON can always be serialized.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn table(
        formatter: &mut fmt::Formatter<'_>,
        title: &str,
        rows: &BTreeMap<String, Row>,
        has_only_there: bool,
    ) -> fmt::Result {
        let mut sorted: Vec<(&String, &Row)> = rows.iter().collect();
        // Rows with something wrong come first, then rows that exist only at Loops.
        sorted.sort_by_key(|(_, row)| std::cmp::Reverse((row.wrong(), row.only_there)));
        let shown = &sorted[..sorted.len().min(ROWS_SHOWN_MAX)];
        let names: Vec<String> = shown.iter().map(|(name, _)| plain(name)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let width = width.max(title.chars().count());
        let last = if has_only_there { "  only there" } else { "" };
        writeln!(
            formatter,
            "\n{title:width$}  {:>7}  {:>7}  {:>7}{last}",
            "same", "differs", "missing"
        )?;
        for ((_, row), name) in shown.iter().zip(&names) {
            let Row { same, differs, missing, only_there, .. } = row;
            write!(formatter, "{name:width$}  {same:>7}  {differs:>7}  {missing:>7}")?;
            if has_only_there {
                write!(formatter, "  {only_there:>10}")?;
            }
            if !row.messages.is_empty() {
                let ids: Vec<String> = row.messages.iter().map(|id| plain(id)).collect();
                write!(formatter, "  for example {}", ids.join(", "))?;
            }
            writeln!(formatter)?;
        }
        match sorted.len() - shown.len() {
            0 => Ok(()),
            more => writeln!(formatter, "and {more} more"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{} with messages since {:.0}: {} of {} compared",
            counted(self.people, "person", "people"),
            self.since,
            counted(self.compared, "contact", "contacts"),
            self.destination
        )?;
        writeln!(formatter, "not found at Loops: {}", self.not_found)?;
        if self.unread > 0 {
            writeln!(formatter, "not read, since Loops did not return them: {}", self.unread)?;
        }
        if self.deleted > 0 {
            writeln!(formatter, "not compared, since they were deleted last: {}", self.deleted)?;
        }
        if self.without_values > 0 {
            writeln!(
                formatter,
                "not compared, since no message with their id or address sets a value (a mapping may take it from elsewhere): {}",
                self.without_values
            )?;
        }
        Self::table(formatter, "property", &self.properties, true)?;
        if self.more_properties > 0 {
            writeln!(formatter, "and {} values of further properties", self.more_properties)?;
        }
        Self::table(formatter, "subscription", &self.subscriptions, false)?;
        for shown in &self.values {
            let json = |value: &Option<Value>| {
                plain(&value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string))
            };
            writeln!(
                formatter,
                "{} {}: {} at Loops, {} expected, by message {}",
                plain(&shown.contact),
                plain(&shown.property),
                json(&shown.held),
                json(&shown.expected),
                plain(&shown.message_id)
            )?;
        }
        let verdict = match (self.differs(), self.compared) {
            (true, 0) => "Loops has none of these contacts",
            (true, _) => "Loops has something else",
            (false, 0) => "nothing was compared",
            (false, _) => "Loops has what was sent, or would have been in shadow mode",
        };
        write!(formatter, "\n{verdict}")
    }
}

/// Counts things: `1 contact`, `2 contacts`.
pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// Makes a string safe to print: without control characters, and no longer than a line holds.
fn plain(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(escaped).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn escaped(character: char) -> Vec<char> {
    match character.is_control() {
        true => character.escape_default().collect(),
        false => vec![character],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::expected::Setting;
    use super::*;

    fn setting(value: Value) -> Setting {
        Setting { value, subscription: "S".to_owned(), message_id: "m1".to_owned() }
    }

    #[test]
    fn values_and_ids_of_people_are_shown_only_if_asked_for() {
        let (set, held) = (setting(json!("secret")), json!("other secret"));
        let line = || Line {
            name: "plan".to_owned(),
            compared: Compared::Differs,
            expected: Some(&set),
            held: Some(&held),
        };
        let shown = |shows_values| {
            let mut report = Report::new("default".to_owned(), Timestamp::UNIX_EPOCH, shows_values);
            report.add(&Key::User("ada".to_owned()), &[line()]);
            assert!(report.differs());
            [report.to_string(), report.to_json()]
        };
        for text in shown(false) {
            assert!(text.contains("plan") && text.contains("m1"), "{text}");
            assert!(!text.contains("secret") && !text.contains("ada"), "{text}");
        }
        for text in shown(true) {
            assert!(text.contains("other secret") && text.contains("ada"), "{text}");
        }
    }

    #[test]
    fn what_loops_holds_alone_is_bounded_and_no_difference() {
        let value = json!("x");
        let lines: Vec<Line<'_>> = (0..10_000)
            .map(|n| Line {
                name: format!("p{n}\u{1b}[31m{}", "x".repeat(500)),
                compared: Compared::OnlyThere,
                expected: None,
                held: Some(&value),
            })
            .collect();
        let mut report = Report::new("default".to_owned(), Timestamp::UNIX_EPOCH, true);
        report.add(&Key::User("ada".to_owned()), &lines);
        assert!(!report.differs());
        let text = report.to_string();
        assert!(!text.contains('\u{1b}') && text.len() < 20_000, "{}", text.len());
        assert!(text.contains("and 9000 values of further properties"), "{text}");
    }
}
