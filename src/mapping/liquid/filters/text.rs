//! Filters of strings.

use std::collections::HashSet;

use super::super::budget::{Budget, RenderError};
use super::super::val::Val;
use super::args::{Named, arg, text_or};
use crate::js::{Value, clamp_index, count, from_utf16, is_space, utf16_length};

pub(super) const ALL: &[Named] = &[
    ("append", |value, args, _| match args {
        [tail] => Ok(Val::from(value.text() + &tail.text())),
        _ => Err(RenderError::new("append expect 2 arguments")),
    }),
    ("capitalize", |value, _, _| Ok(Val::from(capitalize(&value.text())))),
    ("downcase", |value, _, _| Ok(Val::from(value.text().to_lowercase()))),
    ("lstrip", |value, args, _| Ok(Val::from(strip(&value.text(), args, true, false)))),
    ("normalize_whitespace", |value, _, _| Ok(Val::from(spaces(&value.text())))),
    ("number_of_words", number_of_words),
    ("prepend", |value, args, _| match args {
        [head] => Ok(Val::from(head.text() + &value.text())),
        _ => Err(RenderError::new("prepend expect 2 arguments")),
    }),
    ("remove", |value, args, _| {
        let (text, pattern) = (value.text(), arg(args, 0).text());
        Ok(Val::from(if pattern.is_empty() { text } else { text.replace(&pattern, "") }))
    }),
    ("remove_first", |value, args, _| {
        Ok(Val::from(value.text().replacen(&arg(args, 0).text(), "", 1)))
    }),
    ("remove_last", |value, args, _| {
        Ok(Val::from(replace_last(value.text(), &arg(args, 0).text(), "")))
    }),
    ("replace", replace),
    ("replace_first", |value, args, _| {
        let (pattern, new) = (arg(args, 0).text(), arg(args, 1).text());
        Ok(Val::from(value.text().replacen(&pattern, &new, 1)))
    }),
    ("replace_last", |value, args, _| {
        let (pattern, new) = (arg(args, 0).text(), arg(args, 1).text());
        Ok(Val::from(replace_last(value.text(), &pattern, &new)))
    }),
    ("rstrip", |value, args, _| Ok(Val::from(strip(&value.text(), args, false, true)))),
    ("split", split),
    ("strip", |value, args, _| Ok(Val::from(strip(&value.text(), args, true, true)))),
    ("strip_newlines", |value, _, _| {
        Ok(Val::from(value.text().replace("\r\n", "").replace('\n', "")))
    }),
    ("truncate", truncate),
    ("truncatewords", truncate_words),
    ("upcase", |value, _, _| Ok(Val::from(value.text().to_uppercase()))),
];

fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        // JavaScript looks at one half of such a character, which has no case.
        Some(first) if first.len_utf16() > 1 => format!("{first}{}", chars.as_str().to_lowercase()),
        Some(first) => first.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// Removes white space, or the given characters, from the ends.
fn strip(text: &str, args: &[Val], left: bool, right: bool) -> String {
    let chars = arg(args, 0);
    // A literal such as `nil` is an object in JavaScript, so it counts as given, with no characters.
    let is_given = matches!(chars, Val::Nil | Val::Empty | Val::Blank) || chars.plain().is_truthy();
    let given: HashSet<char> = chars.text().chars().collect();
    let goes = |c: char| match is_given {
        // Characters of two code units never match, since JavaScript looks at single ones.
        true => c.len_utf16() == 1 && given.contains(&c),
        false => is_space(c),
    };
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes).to_owned() } else { text.to_owned() }
}

/// Replaces each run of white space by a single space.
fn spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut was_space = false;
    for c in text.chars() {
        if !is_space(c) {
            out.push(c);
        } else if !was_space {
            out.push(' ');
        }
        was_space = is_space(c);
    }
    out
}

fn words(text: &str) -> usize {
    text.split(is_space).filter(|word| !word.is_empty()).count()
}

fn is_cjk(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{3040}'..='\u{30ff}' | '\u{ac00}'..='\u{d7af}')
}

/// Counts words between white space. With `cjk`, each CJK character counts as well; `auto` is `cjk` if there is one.
fn number_of_words(value: Val, args: &[Val], _: &mut Budget) -> Result<Val, RenderError> {
    let text = value.text();
    let has_cjk = text.contains(is_cjk);
    let mode = arg(args, 0);
    let by_character = *mode == Val::from("cjk") || (*mode == Val::from("auto") && has_cjk);
    let total = match by_character {
        true => {
            text.split(is_cjk).map(words).sum::<usize>()
                + text.chars().filter(|c| is_cjk(*c)).count()
        }
        false => words(&text),
    };
    Ok(Val::number(count(total)))
}

/// Splits a string at each `separator`, or into characters if it is empty. (JavaScript also splits characters beyond
/// U+FFFF into their halves, which our strings cannot represent.)
fn pieces(text: &str, separator: &str, budget: &mut Budget) -> Result<Vec<String>, RenderError> {
    if separator.is_empty() {
        budget.spend_items(text.len())?;
        return Ok(text.chars().map(String::from).collect());
    }
    budget.spend_items(text.matches(separator).count())?;
    Ok(text.split(separator).map(str::to_owned).collect())
}

fn replace(value: Val, args: &[Val], budget: &mut Budget) -> Result<Val, RenderError> {
    let (text, pattern, new) = (value.text(), arg(args, 0).text(), arg(args, 1).text());
    let places = if pattern.is_empty() { text.len() } else { text.matches(&pattern).count() };
    budget.spend(places.saturating_mul(new.len()))?;
    if !pattern.is_empty() {
        return Ok(Val::from(text.replace(&pattern, &new)));
    }
    // Between characters, but not at the ends, as with JavaScript's split and join.
    let chars: Vec<String> = text.chars().map(String::from).collect();
    Ok(Val::from(chars.join(&new)))
}

fn replace_last(text: String, pattern: &str, new: &str) -> String {
    match text.rfind(pattern) {
        Some(place) => [&text[..place], new, &text[place + pattern.len()..]].concat(),
        None => text,
    }
}

fn split(value: Val, args: &[Val], budget: &mut Budget) -> Result<Val, RenderError> {
    let mut pieces = pieces(&value.text(), &arg(args, 0).text(), budget)?;
    let kept = pieces.iter().rposition(|piece| !piece.is_empty()).map_or(0, |last| last + 1);
    pieces.truncate(kept);
    Ok(Val::list(pieces.into_iter().map(Value::String).collect()))
}

fn truncate(value: Val, args: &[Val], _: &mut Budget) -> Result<Val, RenderError> {
    let (text, tail) = (value.text(), text_or(args, 1, "..."));
    let most = if arg(args, 0).is_undefined() { 50.0 } else { arg(args, 0).to_number() };
    if count(utf16_length(&text)) <= most {
        return Ok(value);
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let kept = clamp_index(most - count(utf16_length(&tail)), units.len());
    Ok(Val::from(from_utf16(&units[..kept]) + &tail))
}

fn truncate_words(value: Val, args: &[Val], budget: &mut Budget) -> Result<Val, RenderError> {
    let (text, tail) = (spaces(&value.text()), text_or(args, 1, "..."));
    let most = if arg(args, 0).is_undefined() { 15.0 } else { arg(args, 0).to_number() };
    let most = if most <= 0.0 { 1.0 } else { most };
    let words = pieces(&text, " ", budget)?;
    let kept = words[..clamp_index(most, words.len())].join(" ");
    Ok(Val::from(if count(words.len()) >= most { kept + &tail } else { kept }))
}
