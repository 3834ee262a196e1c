//! Reads secrets from a key, the environment or a file, all by the same rules.
//!
//! Blanks, line breaks and a byte order mark around a secret are never part of it: editors, `echo` and
//! Kubernetes add them, and with them the service would answer 401 for ever. Other secrets that cannot be
//! intended are errors at start. No error contains a secret or a part of one.

use std::path::Path;

use super::errors::Check;
use crate::config::environment::{short_name, trim};
use crate::config::tree::Secrets;
use crate::secret::Secret;

/// Separates the secrets in a file that may hold several.
const LINE_BREAKS: &[char] = &['\r', '\n'];

/// Separates the secrets in a list that is written as one string, as in an environment variable.
const LIST: &[char] = &['\r', '\n', ','];

/// A secret as it is written.
pub(super) struct WrittenSecrets<'a> {
    /// The table, such as `sources.shop`.
    pub(super) table: &'a str,
    /// Its name there, such as `webhook_secret`. The list has the same name with an `s`, the file with
    /// `_file`.
    pub(super) name: &'a str,
    pub(super) single: Option<Secret>,
    pub(super) list: Option<Secrets>,
    pub(super) file: Option<&'a Path>,
}

impl Check<'_> {
    /// The secret of a key or its file; inner `None` if neither is given, outer `None` if an error was
    /// recorded.
    pub(super) fn secret(
        &mut self,
        key: &str,
        given: Option<Secret>,
        file: Option<&Path>,
    ) -> Option<Option<Secret>> {
        let texts = self.given_or_read(key, given.into_iter().collect(), file)?;
        Some(self.clean(key, &texts, file)?.pop())
    }

    /// All secrets of a key, its file and its list. Empty if nothing is given, or an error was recorded.
    pub(super) fn secrets(&mut self, written: WrittenSecrets<'_>) -> Vec<Secret> {
        let key = format!("{}.{}", written.table, written.name);
        let single = written.single.into_iter().collect();
        let texts = self.given_or_read(&key, single, written.file).unwrap_or_default();
        let mut secrets =
            self.clean(&key, &split(&texts, LINE_BREAKS), written.file).unwrap_or_default();
        if let Some(list) = written.list {
            let key = format!("{key}s");
            if list.is_empty() {
                self.mistake(&key, "is empty: give at least one secret, or leave the key out");
            }
            secrets.extend(self.clean(&key, &list.split(LIST), None).unwrap_or_default());
        }
        secrets
    }

    /// The write keys of a source or of its file; `None`: an error was recorded.
    pub(super) fn write_keys(
        &mut self,
        key: &str,
        given: Secrets,
        file: Option<&Path>,
    ) -> Option<Vec<Secret>> {
        let given = given.split(LIST);
        let texts = self.given_or_read(key, given, file)?;
        let texts = if file.is_some() { split(&texts, LIST) } else { texts };
        self.clean(key, &texts, file)
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
            self.mistake(key, format!("give the secret either here or in {key}_file, not both"));
            return None;
        }
        match std::fs::read(file) {
            // A file that is not UTF-8 is not ASCII either, which `clean` reports.
            Ok(bytes) => Some(vec![Secret::new(String::from_utf8_lossy(&bytes))]),
            Err(error) => {
                let problem = format!("{} cannot be read: {error}", file.display());
                self.missing(&format!("{key}_file"), problem);
                None
            }
        }
    }

    /// Removes what is not part of the secrets; `None` if one of them is not usable. `file` is the file that
    /// they were read from, if any.
    fn clean(&mut self, key: &str, texts: &[Secret], file: Option<&Path>) -> Option<Vec<Secret>> {
        let mut secrets = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match clean(text.expose()) {
                Ok(secret) => secrets.push(Secret::new(secret)),
                Err(problem) => {
                    let number = match texts.len() {
                        1 => String::new(),
                        _ => format!("number {}: ", index + 1),
                    };
                    let origin = match (file, short_name(key)) {
                        (Some(file), _) => format!(" (in the file {})", file.display()),
                        (None, Some(name)) if self.place.contains("environment") => {
                            format!(" ({name} sets this key)")
                        }
                        (None, _) => String::new(),
                    };
                    self.mistake(key, format!("{number}{problem}{origin}"));
                }
            }
        }
        (secrets.len() == texts.len()).then_some(secrets)
    }
}

impl Secrets {
    fn is_empty(&self) -> bool {
        matches!(self, Secrets::Many(secrets) if secrets.is_empty())
    }

    /// Returns a list unchanged, and splits a string.
    fn split(self, separators: &[char]) -> Vec<Secret> {
        match self {
            Secrets::Many(secrets) => secrets,
            Secrets::One(text) => split(&[text], separators),
        }
    }
}

/// The parts that are not blank. If all are blank, one blank string, so that the error can say so.
fn split(texts: &[Secret], separators: &[char]) -> Vec<Secret> {
    let parts = texts.iter().flat_map(|text| text.expose().split(separators));
    let parts: Vec<Secret> = parts.filter(|part| !trim(part).is_empty()).map(Secret::new).collect();
    if parts.is_empty() { texts.first().cloned().into_iter().collect() } else { parts }
}

/// The secret in a string, or what is wrong with it.
fn clean(text: &str) -> Result<&str, &'static str> {
    let text = trim(text);
    let is_quoted = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if text.is_empty() {
        Err("it is empty")
    } else if !text.is_ascii() {
        Err(
            "it holds a character that is not ASCII, such as a typographic quote or an invisible space; a file must be plain text, not UTF-16",
        )
    } else if text.bytes().any(|byte| byte.is_ascii_control()) {
        Err("it holds a line break, a tab or another control character")
    } else if is_quoted('"') || is_quoted('\'') {
        Err(
            "it is still in quotes, which files and Docker's --env-file keep as part of the value: remove them",
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
            ("'", Ok("'")),
            ("\"half", Ok("\"half")),
            ("", Err("empty")),
            (" \u{feff}\r\n", Err("empty")),
            ("\"abc\"", Err("quotes")),
            (" 'abc'\n", Err("quotes")),
            ("''", Err("quotes")),
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
