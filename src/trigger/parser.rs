//! From tokens to tests, as Segment parses them: unknown words are ignored, within a group the last `and` or `or`
//! applies to all tests, and a group contains no group.

use std::collections::VecDeque;

use super::condition::{Condition, Expected, Group, Join, Operator, Path, Subject, Test};
use super::error::TriggerError;
use super::lexer::{Token, TokenKind, lex};
use crate::js::{number_of_text, number_text};

/// Parses a trigger.
pub(super) fn parse(text: &str) -> Result<Group, TriggerError> {
    let tokens = join_names(lex(text)?);
    match group(tokens.into(), 0)? {
        Some(Condition::Group(group)) => Ok(group),
        Some(one) => Ok(Group { join: Join::And, conditions: vec![one] }),
        None => {
            let problem = "no test is left: a trigger tests type, event, name, userId, properties.…, \
                           traits.… or context.…, such as type = \"track\"";
            Err(TriggerError { at: 0, problem: problem.to_owned() })
        }
    }
}

/// Joins names with dots between them to one name.
fn join_names(tokens: Vec<Token>) -> Vec<Token> {
    let mut joined: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if token.kind == TokenKind::Dot
            && let Some(last) = joined.last_mut().filter(|last| last.kind == TokenKind::Name)
            && let Some(next) = tokens.next_if(|next| next.kind == TokenKind::Name)
        {
            last.value.push('.');
            last.value.push_str(&next.value);
        } else {
            joined.push(token);
        }
    }
    joined
}

/// Parses the tokens of a group: nothing, one condition, or several joined.
fn group(mut tokens: VecDeque<Token>, depth: usize) -> Result<Option<Condition>, TriggerError> {
    let mut conditions = Vec::new();
    let mut join = Join::And;
    while let Some(token) = tokens.pop_front().filter(|token| token.kind != TokenKind::End) {
        match token.kind {
            TokenKind::Name => name(&token, &mut tokens, &mut conditions)?,
            TokenKind::Operator if token.value == "!" => {
                if tokens.front().is_some_and(is_function)
                    && let Some(function) = tokens.pop_front()
                {
                    call(&function, true, &mut tokens, &mut conditions)?;
                }
            }
            TokenKind::ParenLeft => conditions.push(inner(&token, &mut tokens, depth)?),
            TokenKind::Conditional if token.value == "or" => join = Join::Or,
            TokenKind::Conditional => join = Join::And,
            _ => {}
        }
    }
    Ok(if conditions.len() > 1 {
        Some(Condition::Group(Group { join, conditions }))
    } else {
        conditions.pop()
    })
}

/// Parses a group in parentheses, which ends at the first `)`.
fn inner(
    open: &Token,
    tokens: &mut VecDeque<Token>,
    depth: usize,
) -> Result<Condition, TriggerError> {
    let mut inner = VecDeque::new();
    loop {
        match tokens.pop_front() {
            // The `)` of an inner group ended the outer one.
            None if depth > 0 => {
                let problem = "a group in parentheses cannot contain another one";
                return Err(TriggerError { at: open.at, problem: problem.to_owned() });
            }
            None => {
                let problem = "the parenthesis is not closed";
                return Err(TriggerError { at: open.at, problem: problem.to_owned() });
            }
            Some(token) if token.kind == TokenKind::ParenRight => {
                inner.push_back(Token {
                    kind: TokenKind::End,
                    value: "eos".to_owned(),
                    at: token.at,
                });
                break;
            }
            Some(token) => inner.push_back(token),
        }
    }
    Ok(group(inner, depth + 1)?.unwrap_or(Condition::Nothing))
}

fn is_function(token: &Token) -> bool {
    token.kind == TokenKind::Name && matches!(token.value.as_str(), "contains" | "match")
}

/// Parses a word: the subject of a test, a function, or something unknown.
fn name(
    token: &Token,
    tokens: &mut VecDeque<Token>,
    conditions: &mut Vec<Condition>,
) -> Result<(), TriggerError> {
    if is_function(token) {
        return call(token, false, tokens, conditions);
    }
    let Some(subject) = subject(&token.value) else {
        return Ok(());
    };
    let missing = |what: &str| TriggerError {
        at: token.at,
        problem: format!(
            "`{}` has no {what}: write {} = \"…\"",
            shown(&token.value),
            shown(&token.value)
        ),
    };
    let operator = tokens.pop_front().ok_or_else(|| missing("operator"))?;
    let value = tokens.pop_front().ok_or_else(|| missing("value"))?;
    conditions.push(Condition::Test(test(subject, &operator.value, &value)));
    Ok(())
}

/// Returns the subject that a word names, by its first part.
fn subject(word: &str) -> Option<Subject> {
    let first = word.split('.').next().unwrap_or_default();
    let path = || {
        Path::parse(
            word.strip_prefix(first).and_then(|rest| rest.strip_prefix('.')).unwrap_or(word),
        )
    };
    Some(match first {
        "type" => Subject::Type,
        "event" => Subject::Event,
        "name" => Subject::Name,
        "userId" => Subject::UserId,
        "properties" => Subject::Properties(path()),
        "traits" => Subject::Traits(path()),
        "context" => Subject::Context(path()),
        _ => return None,
    })
}

fn test(subject: Subject, operator: &str, value: &Token) -> Test {
    let is_plain = matches!(subject, Subject::Type | Subject::Event);
    let knows_flags = !is_plain && subject != Subject::Name;
    let knows_numbers = knows_flags && subject != Subject::UserId;
    let is_number = knows_numbers && value.kind == TokenKind::Number;
    let operator = match (operator, value.value.as_str()) {
        ("!=", "null") if !is_plain => Operator::Exists,
        ("=", "null") if !is_plain => Operator::NotExists,
        ("=", "true") if knows_flags => Operator::IsTrue,
        ("=", "false") if knows_flags => Operator::IsFalse,
        ("=", _) if is_number => Operator::NumberEquals,
        ("!=", _) if is_number => Operator::NumberNotEquals,
        // Segment's runtime finds operators by their text, so its internal names for them can be written, too.
        (text, _) => Operator::parse(text),
    };
    let mut expected = expected(value);
    if knows_numbers && value.kind == TokenKind::Name {
        expected.number = match value.value.as_str() {
            "true" => 1.0,
            "false" => 0.0,
            _ => expected.number,
        };
    }
    Test { subject, operator, expected }
}

/// Returns a value as a string, and as a number if it is one.
fn expected(value: &Token) -> Expected {
    let text = plain_text(value);
    let number = number_of_text(&text);
    let is_flag = value.kind == TokenKind::Name && matches!(text.as_str(), "true" | "false");
    Expected { is_flag, ..Expected::of(text, number) }
}

/// Removes a double quote at either end of a string; a single quote stays.
fn plain_text(value: &Token) -> String {
    match value.kind {
        TokenKind::Text => {
            let text = value.value.strip_prefix('"').unwrap_or(&value.value);
            text.strip_suffix('"').unwrap_or(text).to_owned()
        }
        TokenKind::Number => number_text(number_of_text(&value.value)),
        _ => value.value.clone(),
    }
}

/// Parses `contains(name, value)` or `match(name, value)`: the next five tokens, whatever they are.
fn call(
    function: &Token,
    negated: bool,
    tokens: &mut VecDeque<Token>,
    conditions: &mut Vec<Condition>,
) -> Result<(), TriggerError> {
    let missing = |what| TriggerError {
        at: function.at,
        problem: format!("{}() is missing its {what} argument", function.value),
    };
    tokens.pop_front();
    let name = tokens.pop_front().ok_or_else(|| missing("first"))?;
    tokens.pop_front();
    let value = tokens.pop_front().ok_or_else(|| missing("second"))?;
    tokens.pop_front();
    let expected = expected(&value);
    let (operator, expected) = match (function.value.as_str(), negated) {
        ("contains", false) => (Operator::Contains, expected),
        ("contains", true) => (Operator::NotContains, expected),
        (_, negated) if value.value.ends_with("*\"") => {
            let operator = if negated { Operator::NotStartsWith } else { Operator::StartsWith };
            (operator, without_last(expected))
        }
        (_, negated) => {
            let operator = if negated { Operator::NotEndsWith } else { Operator::EndsWith };
            (operator, without_first(expected))
        }
    };
    if let Some(subject) = called_subject(&name.value) {
        conditions.push(Condition::Test(Test { subject, operator, expected }));
    }
    Ok(())
}

/// Returns the subject that the first argument of a function names. Here `type` is ignored, and a word only has to
/// start with properties, traits or context.
fn called_subject(word: &str) -> Option<Subject> {
    let path = |first: &str| {
        Path::parse(
            word.strip_prefix(first).and_then(|rest| rest.strip_prefix('.')).unwrap_or(word),
        )
    };
    Some(match word {
        "event" => Subject::Event,
        "name" => Subject::Name,
        "userId" => Subject::UserId,
        _ if word.starts_with("properties") => Subject::Properties(path("properties")),
        _ if word.starts_with("traits") => Subject::Traits(path("traits")),
        _ if word.starts_with("context") => Subject::Context(path("context")),
        _ => return None,
    })
}

/// Removes the last character, which is the star.
fn without_last(expected: Expected) -> Expected {
    let mut text = expected.text;
    text.pop();
    Expected { text, ..expected }
}

/// Removes the first UTF-16 code unit, whether it is the star or not.
fn without_first(expected: Expected) -> Expected {
    let mut units = [0; 2];
    let mut chars = expected.text.chars();
    let lost_half = chars.next().and_then(|first| match first.encode_utf16(&mut units) {
        [_, low] => Some(*low),
        _ => None,
    });
    Expected { text: chars.as_str().to_owned(), lost_half, ..expected }
}

/// Returns a word as errors quote it, cut if it is long.
fn shown(word: &str) -> String {
    word.chars().take(60).collect()
}
