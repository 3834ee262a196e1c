//! `@replace`: replaces plain strings, as JavaScript's `String.replace` does.

use super::budget::{Budget, MappingFailure};
use super::check::REPLACE_UNITS_MAX;

/// What is replaced, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct How {
    pub(super) first: Pair,
    pub(super) second: Option<Pair>,
    pub(super) everywhere: bool,
    pub(super) ignores_case: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) pattern: String,
    pub(super) replacement: String,
}

impl Pair {
    /// Returns why Segment's runtime fails once it uses the pair.
    pub(super) fn problem(&self) -> Option<String> {
        let too_long = |text: &str| text.encode_utf16().count() > REPLACE_UNITS_MAX;
        let text = |which| {
            format!("@replace requires a \"{which}\" less than {REPLACE_UNITS_MAX} characters")
        };
        if too_long(&self.pattern) {
            Some(text("pattern"))
        } else {
            too_long(&self.replacement).then(|| text("replacement"))
        }
    }
}

impl How {
    pub(super) fn replace(&self, text: &str, budget: &Budget) -> Result<String, MappingFailure> {
        let text = self.replace_pair(text, &self.first, budget)?;
        match &self.second {
            Some(second) => self.replace_pair(&text, second, budget),
            None => Ok(text),
        }
    }

    /// Returns the strings that it may insert into an unknown string.
    pub(super) fn replacements(&self) -> Vec<String> {
        let first = self.first.replacement.clone();
        let Some(second) = &self.second else { return vec![first] };
        let first = self.replace_pair(&first, second, &Budget::default()).unwrap_or_default();
        vec![first, second.replacement.clone()]
    }

    fn replace_pair(
        &self,
        text: &str,
        pair: &Pair,
        budget: &Budget,
    ) -> Result<String, MappingFailure> {
        if let Some(problem) = pair.problem() {
            return Err(MappingFailure(problem));
        }
        let mut replaced = String::new();
        let mut plain_from = 0;
        for (start, end) in self.places(text, &pair.pattern) {
            let before = replaced.len();
            replaced.push_str(&text[plain_from..start]);
            expand(&pair.replacement, text, start, end, &mut replaced);
            plain_from = end;
            budget.spend_text(replaced.len() - before)?;
        }
        replaced.push_str(&text[plain_from..]);
        budget.spend_text(text.len() - plain_from)?;
        Ok(replaced)
    }

    /// Returns where the pattern is: start and end of each occurrence in bytes, without overlap.
    fn places(&self, text: &str, pattern: &str) -> Vec<(usize, usize)> {
        let count = if self.everywhere { usize::MAX } else { 1 };
        if !self.ignores_case {
            let found = text.match_indices(pattern).take(count);
            return found.map(|(start, found)| (start, start + found.len())).collect();
        }
        let wanted: Vec<char> = pattern.chars().map(fold).collect();
        let chars: Vec<(usize, char)> = text.char_indices().map(|(at, c)| (at, fold(c))).collect();
        let mut places = Vec::new();
        let mut at = 0;
        while places.len() < count && at + wanted.len() <= chars.len() {
            let end = at + wanted.len();
            if chars[at..end].iter().map(|(_, c)| c).eq(&wanted) {
                places.push((chars[at].0, chars.get(end).map_or(text.len(), |(end, _)| *end)));
                at = end;
            } else {
                at += 1;
            }
        }
        places
    }
}

/// Folds a character as JavaScript does when it ignores case without the `u` flag: to the simple upper case of a single
/// UTF-16 code unit, never from beyond ASCII into it. Characters beyond U+FFFF are two units and stay as they are.
fn fold(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None)
            if c.len_utf16() == 1 && one.len_utf16() == 1 && (c.is_ascii() || !one.is_ascii()) =>
        {
            one
        }
        _ => c,
    }
}

/// Writes a replacement: `$$`, `$&`, `` $` `` and `$'` are special, `$1` is not.
fn expand(replacement: &str, text: &str, start: usize, end: usize, out: &mut String) {
    let mut rest = replacement;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let special = match rest[dollar + 1..].chars().next() {
            Some('$') => Some("$"),
            Some('&') => Some(&text[start..end]),
            Some('`') => Some(&text[..start]),
            Some('\'') => Some(&text[end..]),
            _ => None,
        };
        out.push_str(special.unwrap_or("$"));
        rest = &rest[dollar + if special.is_some() { 2 } else { 1 }..];
    }
    out.push_str(rest);
}
