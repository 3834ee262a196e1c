//! Formats moments by `%` codes, with LiquidJS' codes, flags and padding.

use jiff::civil::DateTime;

use super::super::budget::{Budget, RenderError};

/// A moment as it is shown.
pub(super) struct Moment {
    /// The local date and time.
    pub(super) shown: DateTime,
    /// Minutes west of Greenwich.
    pub(super) minutes: f64,
    /// The time zone's name, if it has one.
    pub(super) zone: Option<String>,
}

/// A code: what is between the `%` and the letter, and the letter.
struct Code<'f> {
    flags: &'f str,
    width: Option<usize>,
    letter: char,
}

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

pub(super) fn strftime(
    moment: &Moment,
    format: &str,
    budget: &mut Budget,
) -> Result<String, RenderError> {
    let mut out = String::new();
    let mut rest = format;
    while let Some(place) = rest.find('%') {
        out.push_str(&rest[..place]);
        let (written, code) = read(&rest[place..]);
        rest = &rest[place + written.len()..];
        let shown = code.and_then(|code| Some((convert(moment, &code, budget)?, code)));
        match shown {
            Some((shown, code)) => out.push_str(&pad(shown?, &code, budget)?),
            None => out.push_str(written),
        }
        budget.spend(written.len())?;
    }
    Ok(out + rest)
}

/// Splits off a code and returns its source with it; `None` if the letter is missing.
fn read(text: &str) -> (&str, Option<Code<'_>>) {
    let is_flag = |c: char| "-_0^#:".contains(c);
    let after_flags = text[1..].trim_start_matches(is_flag);
    let flags = &text[1..text.len() - after_flags.len()];
    let after_width = after_flags.trim_start_matches(|c: char| c.is_ascii_digit());
    let width = &after_flags[..after_flags.len() - after_width.len()];
    let after = after_width.strip_prefix(['E', 'O']).unwrap_or(after_width);
    let letter =
        after.chars().next().filter(|c| !matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}'));
    let Some(letter) = letter else {
        return (&text[..text.len() - after.len()], None);
    };
    // A width that is too large to parse is beyond all bounds, too.
    let width = (!width.is_empty()).then(|| width.parse().unwrap_or(usize::MAX)).filter(|w| *w > 0);
    let written = &text[..text.len() - after.len() + letter.len_utf8()];
    (written, Some(Code { flags, width, letter }))
}

/// Returns what a code stands for; `None` if there is no such code.
fn convert(
    moment: &Moment,
    code: &Code<'_>,
    budget: &mut Budget,
) -> Option<Result<String, RenderError>> {
    let at = moment.shown;
    let weekday = usize::from(at.weekday().to_sunday_zero_offset().unsigned_abs());
    let month = usize::from(at.month().unsigned_abs());
    let day_name = DAYS.get(weekday).copied().unwrap_or_default();
    let month_name = MONTHS.get(month - 1).copied().unwrap_or_default();
    let hour_of_12 = (at.hour() + 11) % 12 + 1;
    let half = if at.hour() < 12 { "AM" } else { "PM" };
    let year = at.year().to_string();
    let date = || format!("{month}/{}/{year}", at.day());
    let time = || format!("{hour_of_12}:{:02}:{:02} {half}", at.minute(), at.second());
    Some(Ok(match code.letter {
        'a' => day_name[..3].to_owned(),
        'A' => day_name.to_owned(),
        'b' | 'h' => month_name[..3].to_owned(),
        'B' => month_name.to_owned(),
        'c' => format!("{}, {}", date(), time()),
        'C' => year.chars().take(2).collect::<String>().parse::<i8>().unwrap_or(0).to_string(),
        'd' | 'e' => at.day().to_string(),
        'H' | 'k' => at.hour().to_string(),
        'I' | 'l' => hour_of_12.to_string(),
        'j' => at.day_of_year().to_string(),
        'L' => at.millisecond().to_string(),
        'm' => month.to_string(),
        'M' => at.minute().to_string(),
        'N' => return Some(fraction(at.millisecond(), code.width.unwrap_or(9), budget)),
        'p' => half.to_owned(),
        'P' => half.to_lowercase(),
        'q' => ordinal(at.day()).to_owned(),
        's' => seconds(at).to_string(),
        'S' => at.second().to_string(),
        'u' => (if weekday == 0 { 7 } else { weekday }).to_string(),
        'U' => week(at, 0).to_string(),
        'w' => weekday.to_string(),
        'W' => week(at, 1).to_string(),
        'x' => date(),
        'X' => time(),
        'y' => year.chars().skip(2).take(2).collect(),
        'Y' => year,
        'z' => offset(moment, code),
        'Z' => moment
            .zone
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| offset(moment, code)),
        't' => "\t".to_owned(),
        'n' => "\n".to_owned(),
        '%' => "%".to_owned(),
        _ => return None,
    }))
}

pub(super) fn ordinal(day: i8) -> &'static str {
    match day {
        11..=13 => "th",
        _ if day % 10 == 1 => "st",
        _ if day % 10 == 2 => "nd",
        _ if day % 10 == 3 => "rd",
        _ => "th",
    }
}

fn fraction(millisecond: i16, width: usize, budget: &mut Budget) -> Result<String, RenderError> {
    budget.spend(width)?;
    let digits = format!("{millisecond:03}");
    let zeros = "0".repeat(width.saturating_sub(digits.len()));
    Ok(format!("{digits:.width$}{zeros}", width = width.min(digits.len())))
}

/// Returns the seconds since 1970 by the local time (as LiquidJS does, although they should be by UTC).
fn seconds(at: DateTime) -> i64 {
    let timestamp =
        jiff::tz::Offset::UTC.to_timestamp(at).map(|timestamp| timestamp.as_millisecond());
    (timestamp.unwrap_or(0) + 500).div_euclid(1000)
}

fn week(at: DateTime, first_day: i16) -> i16 {
    let weekday = i16::from(at.weekday().to_sunday_zero_offset());
    let new_year = i16::from(at.first_of_year().weekday().to_sunday_zero_offset());
    let now = at.day_of_year() + first_day - weekday;
    (now - (7 - new_year + first_day)).div_euclid(7) + 1
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be a moment that can be shown")]
fn offset(moment: &Moment, code: &Code<'_>) -> String {
    let minutes = moment.minutes.abs() as i64;
    let sign = if moment.minutes > 0.0 { '-' } else { '+' };
    let colon = if code.flags.contains(':') { ":" } else { "" };
    format!("{sign}{:02}{colon}{:02}", minutes / 60, minutes % 60)
}

fn pad(mut shown: String, code: &Code<'_>, budget: &mut Budget) -> Result<String, RenderError> {
    let mut padding = if "aAbBceklpP".contains(code.letter) { ' ' } else { '0' };
    let usual = match code.letter {
        'd' | 'e' | 'H' | 'I' | 'k' | 'l' | 'm' | 'M' | 'S' | 'U' | 'W' => 2,
        'j' | 'L' => 3,
        _ => 0,
    };
    if code.flags.contains('^') {
        shown = shown.to_uppercase();
    } else if code.flags.contains('#') {
        let has_small = shown.contains(|c: char| c.is_ascii_lowercase());
        shown = if has_small { shown.to_uppercase() } else { shown.to_lowercase() };
    }
    if code.flags.contains('_') {
        padding = ' ';
    } else if code.flags.contains('0') {
        padding = '0';
    }
    let width = if code.flags.contains('-') { 0 } else { code.width.unwrap_or(usual) };
    let missing = width.saturating_sub(shown.chars().count());
    budget.spend(missing)?;
    Ok(String::from_iter(std::iter::repeat_n(padding, missing)) + &shown)
}
