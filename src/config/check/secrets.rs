//! Reads secrets from keys, the environment and files, all by the same rules.
//!
//! White space and a byte order mark around a secret are never part of it: editors, `echo` and Kubernetes add them, and
//! with them the service would answer 401 forever. Other values that cannot be meant as secrets are errors at start. No
//! error contains a secret or a part of one.

use std::path::Path;

use super::errors::Check;
use crate::config::environment::{short_name, trim};
use crate::config::tree::Secrets;
use crate::secret::Secret;

/// Separates the secrets in a file that may hold several.
const LINE_BREAKS: &[char] = &['\r', '\n'];

/// Separates the secrets in a list that is written as one string, for example in an environment variable.
const LIST: &[char] = &['\r', '\n', ','];

/// Separates nothing: the key holds one secret, or the list is already split.
const NONE: &[char] = &[];

/// A secret as written.
pub(super) struct WrittenSecrets<'a> {
    /// The table, such as `sources.shop`.
    pub(super) table: &'a str,
    /// The name in the table, such as `webhook_secret`. The list has the same name with an `s`, the file with `_file`.
    pub(super) name: &'a str,
    pub(super) single: Option<Secret>,
    pub(super) list: Option<Secrets>,
    pub(super) file: Option<&'a Path>,
}

impl Check<'_> {
    /// Returns the secret of a key or its file. The inner `None` means that neither is given, the outer `None` that an
    /// error was recorded.
    pub(super) fn secret(
        &mut self,
        key: &str,
        given: Option<Secret>,
        file: Option<&Path>,
    ) -> Option<Option<Secret>> {
        let texts = self.given_or_read(key, given.into_iter().collect(), file)?;
        Some(self.clean(key, &texts, NONE, file)?.pop())
    }

    /// Returns all secrets of a key, its file and its list. There are none if nothing is given, or if an error was
    /// recorded.
    pub(super) fn secrets(&mut self, written: WrittenSecrets<'_>) -> Vec<Secret> {
        let key = format!("{}.{}", written.table, written.name);
        let single = written.single.into_iter().collect();
        let texts = self.given_or_read(&key, single, written.file).unwrap_or_default();
        let mut secrets = self.clean(&key, &texts, LINE_BREAKS, written.file).unwrap_or_default();
        if let Some(list) = written.list {
            let key = format!("{key}s");
            if list.is_empty() {
                self.report(&key, "is empty: give at least one secret, or leave the key out");
            }
            let (texts, separators) = list.into_texts();
            secrets.extend(self.clean(&key, &texts, separators, None).unwrap_or_default());
        }
        secrets
    }

    /// Returns the write keys of a source or of its file; `None` if an error was recorded.
    pub(super) fn write_keys(
        &mut self,
        key: &str,
        given: Secrets,
        file: Option<&Path>,
    ) -> Option<Vec<Secret>> {
        let (given, separators) = given.into_texts();
        let texts = self.given_or_read(key, given, file)?;
        self.clean(key, &texts, if file.is_some() { LIST } else { separators }, file)
    }

    fn given_or_read(
        &mut self,
        key: &str,
        given: Vec<Secret>,
        file: Option<&Path>,
    ) -> Option<Vec<Secret>> {
        let Some(file) = file else {
            return Some(given);
        };
        if !given.is_empty() {
            self.report(key, format!("give the secret either here or in {key}_file, not both"));
            return None;
        }
        match std::fs::read(file) {
            // A file that is not UTF-8 is not ASCII either, which `clean` reports.
            Ok(bytes) => Some(vec![Secret::new(String::from_utf8_lossy(&bytes))]),
            Err(error) => {
                // What is no path may be the secret itself.
                let name = match file.is_absolute() || file.exists() {
                    true => file.display().to_string(),
                    false => "the file that it names (not repeated here: a secret itself belongs in the key without _file)".to_owned(),
                };
                self.missing(&format!("{key}_file"), format!("{name} cannot be read: {error}"));
                None
            }
        }
    }

    /// Returns the secrets in the texts, without what is not part of them; `None` if one of them is not usable. Each
    /// text is judged as a whole before it is split, because the parts of a quoted list would look harmless. `file` is
    /// the file from which they were read, if any.
    fn clean(
        &mut self,
        key: &str,
        texts: &[Secret],
        separators: &[char],
        file: Option<&Path>,
    ) -> Option<Vec<Secret>> {
        let is_enclosed = |text: &&Secret| enclosure(trim(text.expose())).is_some();
        let parts = match texts.iter().find(is_enclosed) {
            Some(whole) if !separators.is_empty() => vec![whole.clone()],
            _ => split(texts, separators),
        };
        let mut secrets = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            match clean(part.expose()) {
                Ok(secret) => secrets.push(Secret::new(secret)),
                Err(problem) => {
                    let number = match parts.len() {
                        1 => String::new(),
                        _ => format!("number {}: ", index + 1),
                    };
                    let several = match separators {
                        [] => "",
                        LINE_BREAKS => "; several secrets are separated by line breaks",
                        _ => "; several secrets are separated by commas or line breaks",
                    };
                    let origin = match (file, short_name(key)) {
                        (Some(file), _) => format!(" (in the file {})", file.display()),
                        (None, Some(name)) if self.place.contains("environment") => {
                            format!(" ({name} sets this key)")
                        }
                        (None, _) => String::new(),
                    };
                    self.report(key, format!("{number}{problem}{several}{origin}"));
                }
            }
        }
        (secrets.len() == parts.len()).then_some(secrets)
    }
}

impl Secrets {
    fn is_empty(&self) -> bool {
        matches!(self, Secrets::Many(secrets) if secrets.is_empty())
    }

    /// Returns the texts as written, and what separates the secrets in each.
    fn into_texts(self) -> (Vec<Secret>, &'static [char]) {
        match self {
            Secrets::Many(secrets) => (secrets, NONE),
            Secrets::One(text) => (vec![text], LIST),
        }
    }
}

/// Returns the parts that are not blank. If all are blank, returns one blank string, so that the error can say so.
/// Without separators, returns the texts themselves.
fn split(texts: &[Secret], separators: &[char]) -> Vec<Secret> {
    if separators.is_empty() {
        return texts.to_vec();
    }
    let parts = texts.iter().flat_map(|text| text.expose().split(separators));
    let parts: Vec<Secret> = parts.filter(|part| !trim(part).is_empty()).map(Secret::new).collect();
    if parts.is_empty() { texts.first().cloned().into_iter().collect() } else { parts }
}

/// A pair of characters around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Enclosure {
    Quotes,
    Brackets,
}

/// Returns what encloses a text, from its first character to its last.
fn enclosure(text: &str) -> Option<Enclosure> {
    match (text.len() > 1, text.as_bytes().first()?, text.as_bytes().last()?) {
        (true, b'"', b'"') | (true, b'\'', b'\'') | (true, b'`', b'`') => Some(Enclosure::Quotes),
        (_, b'[', b']') | (_, b'{', b'}') | (_, b'(', b')') | (_, b'<', b'>') => {
            Some(Enclosure::Brackets)
        }
        _ => None,
    }
}

/// Returns the secret in a string, or what is wrong with it.
fn clean(text: &str) -> Result<&str, &'static str> {
    const QUOTES: [char; 3] = ['"', '\'', '`'];
    let text = trim(text);
    if text.is_empty() {
        return Err("it is empty");
    }
    match enclosure(text) {
        Some(Enclosure::Quotes) => {
            return Err(
                "it is still in quotes, which files and Docker's --env-file keep as part of the value: remove them",
            );
        }
        Some(Enclosure::Brackets) => {
            return Err(
                "it is in brackets, which would be part of the secret: remove them, and any quotes",
            );
        }
        None => {}
    }
    if !text.is_ascii() {
        Err(
            "it holds a character that is not ASCII, such as a typographic quote or an invisible space; a file must be plain text, not UTF-16",
        )
    } else if text.bytes().any(|byte| byte.is_ascii_control()) {
        Err("it holds a line break, a tab or another control character")
    } else if text.starts_with(['[', '{', '(', '<']) {
        Err(
            "it begins with a bracket, as a list or a placeholder does: remove brackets around it, or choose another secret",
        )
    } else if text.starts_with(QUOTES) || text.ends_with(QUOTES) {
        Err(
            "it begins or ends with a quote (\", ' or `), as if half of the quotes had been removed: remove quotes around it, or choose another secret",
        )
    } else if text.contains("\\n") || text.ends_with("\\r") {
        Err(
            "it holds a line break written as a backslash and a letter (\\n), which would be part of the secret: remove it, or write a real line break",
        )
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_a_secret_is_taken_off_and_what_cannot_be_meant_is_refused() {
        let cases = [
            ("abc", Ok("abc")),
            ("abc\n", Ok("abc")),
            ("abc\r\n", Ok("abc")),
            ("\n\n abc \t\r\n\r\n", Ok("abc")),
            ("\u{feff}abc", Ok("abc")),
            ("\u{feff} abc\u{feff}\n", Ok("abc")),
            ("\u{a0}abc\u{2028}", Ok("abc")),
            ("two words, typed by hand", Ok("two words, typed by hand")),
            ("it's", Ok("it's")),
            ("a\"b'c`d", Ok("a\"b'c`d")),
            ("ab(c)[d]", Ok("ab(c)[d]")),
            ("C:\\keys", Ok("C:\\keys")),
            ("", Err("empty")),
            (" \u{feff}\r\n", Err("empty")),
            ("\"abc\"", Err("quotes")),
            (" 'abc'\n", Err("quotes")),
            ("''", Err("quotes")),
            ("`abc`", Err("in quotes")),
            ("'", Err("a quote")),
            ("\"half", Err("a quote")),
            ("half\"", Err("a quote")),
            ("half`\n", Err("a quote")),
            ("\"mixed'", Err("a quote")),
            ("[\"abc\"]", Err("in brackets")),
            ("{abc}", Err("in brackets")),
            ("<your-key>", Err("in brackets")),
            ("[\"abc\"", Err("a bracket")),
            ("[abc", Err("a bracket")),
            ("abc\\n", Err("a backslash")),
            ("abc\\r\\n\n", Err("a backslash")),
            ("abc\\r", Err("a backslash")),
            ("old\\nnew", Err("a backslash")),
            ("ab\ncd", Err("control")),
            ("ab\tcd", Err("control")),
            ("ab\0", Err("control")),
            ("\u{7f}ab", Err("control")),
            ("schlüssel", Err("ASCII")),
            ("\u{201c}abc\u{201d}", Err("ASCII")),
            ("ab\u{200b}", Err("ASCII")),
            ("ab\u{fffd}", Err("ASCII")),
        ];
        for (text, expected) in cases {
            match (clean(text), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret, expected, "{text:?}"),
                (Err(problem), Err(word)) => assert!(problem.contains(word), "{text:?}: {problem}"),
                (found, expected) => panic!("{text:?}: {found:?}, expected {expected:?}"),
            }
        }
    }
}
