//! How sentences begin, and how they write numbers, durations and times.

use std::time::Duration;

use jiff::Timestamp;

/// Begins a sentence: the first letter becomes a capital.
pub(super) fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Counts things: `1 message`, `1,204 messages`.
pub(super) fn counted(count: u64, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        more => format!("{} {one}s", number(more)),
    }
}

/// Counts things: `1 message`, `1,204 messages`.
pub(super) fn count(number: usize, one: &str) -> String {
    counted(number as u64, one)
}

/// Writes a number with a comma before each three digits.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a duration in its most natural unit.
pub(super) fn in_words(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..90 => counted(seconds, "second"),
        90..5_400 => counted((seconds + 30) / 60, "minute"),
        5_400..129_600 => counted((seconds + 1_800) / 3_600, "hour"),
        _ => counted((seconds + 43_200) / 86_400, "day"),
    }
}

/// Writes a time for a sentence.
pub(super) fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
