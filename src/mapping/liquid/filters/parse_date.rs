//! Reads dates from texts as V8's `Date.parse` does where the local time is UTC: ISO 8601, the written
//! forms of the web and much that only looks like a date.

use jiff::tz::Offset;
use jiff::{SignedDuration, civil};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
/// Hours from Greenwich.
const ZONES: [(&str, i64); 12] = [
    ("z", 0),
    ("ut", 0),
    ("utc", 0),
    ("gmt", 0),
    ("est", -5),
    ("edt", -4),
    ("cst", -6),
    ("cdt", -5),
    ("mst", -7),
    ("mdt", -6),
    ("pst", -8),
    ("pdt", -7),
];

/// What a date's text has said so far.
#[derive(Default)]
struct Draft {
    /// Numbers of the day, in their order.
    day: Vec<i64>,
    month: Option<i64>,
    time: Vec<i64>,
    is_time_done: bool,
    milliseconds: i64,
    /// Hours to add for PM; `Some(0)` for AM.
    half: Option<i64>,
    /// Minutes east of Greenwich.
    offset: Option<i64>,
    has_number: bool,
    /// Whether it begins with an ISO date: then a `T` may follow.
    is_iso: bool,
}

/// The moment that a text names, as V8's `Date.parse` finds it where the local time is UTC.
pub(super) fn milliseconds(text: &str) -> Option<f64> {
    let iso = text.split(['t', 'T']).next().unwrap_or_default();
    let is_iso = iso.len() == 10 && iso.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let mut draft = Draft { is_iso, ..Draft::default() };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '0'..='9' => draft.number(rest)?,
            'A'.. => draft.word(rest)?,
            '+' | '-' if draft.offset == Some(0) || !draft.time.is_empty() => draft.offset(rest)?,
            '+' | '-' | ')' if draft.has_number => return None,
            '(' => skip_parentheses(rest),
            other => &rest[other.len_utf8()..],
        };
    }
    draft.milliseconds()
}

/// The digits that `text` begins with, their number, and what is behind them.
fn digits(text: &str) -> (&str, i64, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (digits, digits.parse().unwrap_or(i64::MAX), rest)
}

fn skip_parentheses(text: &str) -> &str {
    let mut depth = 0_usize;
    for (place, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[place + 1..];
        }
    }
    ""
}

impl Draft {
    /// Whether a number goes on with the time: minutes or seconds after a colon.
    fn expects_time(&self, number: i64) -> bool {
        !self.is_time_done && matches!(self.time.len(), 1..=3) && number < 60
    }

    fn number<'t>(&mut self, text: &'t str) -> Option<&'t str> {
        self.has_number = true;
        let (_, number, rest) = digits(text);
        if let Some(rest) = rest.strip_prefix(':') {
            if self.is_time_done || self.time.len() >= 3 {
                return None;
            }
            self.time.push(number);
            return Some(rest);
        }
        if self.expects_time(number) {
            self.time.push(number);
            self.is_time_done = true;
            if let Some(fraction) = rest.strip_prefix('.') {
                let (digits, _, rest) = digits(fraction);
                let first: String = digits.chars().chain("00".chars()).take(3).collect();
                self.milliseconds = first.parse().ok().filter(|_| !digits.is_empty())?;
                return Some(rest);
            }
            let goes_on = |c: char| c.is_whitespace() || matches!(c, '+' | '-' | 'z' | 'Z');
            return (rest.is_empty() || rest.starts_with(goes_on)).then_some(rest);
        }
        if self.day.len() >= 3 {
            return None;
        }
        self.day.push(number);
        Some(rest.strip_prefix('-').unwrap_or(rest))
    }

    /// A word is made of letters and of all that comes behind `A` in Unicode. So in V8.
    fn word<'t>(&mut self, text: &'t str) -> Option<&'t str> {
        let end = text.find(|c: char| c < 'A').unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let word = word.to_ascii_lowercase();
        let month = MONTHS.iter().zip(1..).find(|(name, _)| word.starts_with(*name));
        let zone = ZONES.iter().find(|(name, _)| *name == word);
        if let ("am" | "pm", false) = (word.as_str(), self.time.is_empty()) {
            self.half = Some(if word == "pm" { 12 } else { 0 });
        } else if let Some((_, month)) = month {
            self.month = Some(month);
            return Some(rest.strip_prefix('-').unwrap_or(rest));
        } else if let (Some((_, hours)), true) = (zone, self.has_number) {
            self.offset = Some(hours * 60);
        } else if word == "t" && self.is_iso && self.day.len() == 3 && self.time.is_empty() {
            // Between an ISO date and its time.
        } else if self.has_number || rest.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        Some(rest)
    }

    fn offset<'t>(&mut self, text: &'t str) -> Option<&'t str> {
        let sign = if text.starts_with('-') { -1 } else { 1 };
        let (written, number, rest) = digits(&text[1..]);
        self.has_number = true;
        if let Some(minutes) = rest.strip_prefix(':') {
            let (_, minutes, rest) = digits(minutes);
            self.offset = Some(sign * number.checked_mul(60)?.checked_add(minutes)?);
            return Some(rest);
        }
        let minutes = match written.len() {
            1 | 2 => number * 60,
            3 | 4 => number / 100 * 60 + number % 100,
            _ => return None,
        };
        self.offset = Some(sign * minutes);
        Some(rest)
    }

    fn milliseconds(mut self) -> Option<f64> {
        if self.day.is_empty() {
            return None;
        }
        self.day.resize(3, 1);
        let is_day = |number: i64| (1..=31).contains(&number);
        let (year, month, day) = match (self.month, is_day(self.day[0])) {
            (None, false) => (self.day[0], self.day[1], self.day[2]),
            (None, true) => (self.day[2], self.day[0], self.day[1]),
            (Some(month), false) => (self.day[0], month, self.day[1]),
            (Some(month), true) => (self.day[1], month, self.day[0]),
        };
        let year = match year {
            0..=49 => year + 2000,
            50..=99 => year + 1900,
            other => other,
        };
        let first =
            civil::Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, 1).ok()?;
        // A day beyond its month runs into the next.
        let day = first
            .checked_add(SignedDuration::from_hours((day - 1) * 24))
            .ok()
            .filter(|_| is_day(day))?;
        let midnight = Offset::UTC.to_timestamp(day.to_datetime(civil::Time::midnight())).ok()?;
        let time = self.time_of_day()? - self.offset.unwrap_or(0) * 60_000;
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of 20,000 years are exact")]
        Some((midnight.as_millisecond() + time) as f64)
    }

    fn time_of_day(&mut self) -> Option<i64> {
        self.time.resize(3, 0);
        let (mut hour, minute, second) = (self.time[0], self.time[1], self.time[2]);
        if let Some(half) = self.half {
            hour = if (1..=12).contains(&hour) { hour % 12 + half } else { return None };
        }
        let is_midnight = (hour, minute, second, self.milliseconds) == (24, 0, 0, 0);
        let is_time = hour < 24 && minute < 60 && second < 60;
        let seconds =
            if is_time || is_midnight { hour * 3600 + minute * 60 + second } else { return None };
        Some(seconds * 1000 + self.milliseconds)
    }
}
