//! The result of an import, for people and for programs. It never holds a part of a message.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cli::error::CliError;
use crate::queue::intake::Rejection;
use crate::segment::message::InvalidMessage;

/// How many rejected lines are shown. All of them go into the file.
const SHOWN_MAX: usize = 20;

/// The counts, and the rejections.
pub(super) struct Report {
    pub(super) accepted: u64,
    pub(super) duplicates: u64,
    rejected: u64,
    /// How many of the rejected lines are not JSON objects.
    not_objects: u64,
    shown: Vec<String>,
    file: Option<(PathBuf, BufWriter<File>)>,
}

impl Report {
    pub(super) fn open(file: Option<&Path>) -> Result<Self, CliError> {
        let file = match file {
            None => None,
            Some(path) => {
                let opened = File::create(path).map_err(|source| broken(path, source))?;
                Some((path.to_owned(), BufWriter::new(opened)))
            }
        };
        Ok(Self {
            accepted: 0,
            duplicates: 0,
            rejected: 0,
            not_objects: 0,
            shown: Vec::new(),
            file,
        })
    }

    pub(super) fn reject(
        &mut self,
        name: &str,
        number: u64,
        reason: &Rejection,
    ) -> Result<(), CliError> {
        self.rejected += 1;
        let is_object = !matches!(
            reason,
            Rejection::NotJson(_) | Rejection::Invalid(InvalidMessage::NotAnObject)
        );
        self.not_objects += u64::from(!is_object);
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(format!("  {name}:{number}: {}: {reason}", reason.code()));
        }
        if let Some((path, file)) = &mut self.file {
            let line = json!({
                "file": name,
                "line": number,
                "code": reason.code(),
                "message": reason.to_string(),
            });
            writeln!(file, "{line}").map_err(|source| broken(path, source))?;
        }
        Ok(())
    }

    /// Returns whether no line is a JSON object, as in a file whose messages span several lines.
    pub(super) fn is_not_lines(&self) -> bool {
        self.accepted + self.duplicates == 0
            && self.rejected > 0
            && self.rejected == self.not_objects
    }

    pub(super) fn summary(&self, took: Duration) -> String {
        let mut text = format!(
            "accepted: {}\nduplicates: {}\nrejected: {}",
            self.accepted, self.duplicates, self.rejected
        );
        for line in &self.shown {
            text.push('\n');
            text.push_str(line);
        }
        let more = self.rejected - self.shown.len() as u64;
        if more > 0 {
            let hint = if self.file.is_some() { "in the report" } else { "see --report FILE" };
            text.push_str(&format!("\n  and {more} more: {hint}"));
        }
        text.push_str(&format!("\ntook: {:.1} s", took.as_secs_f64()));
        text
    }

    /// Finishes the file and returns how many lines were rejected.
    pub(super) fn close(self) -> Result<u64, CliError> {
        if let Some((path, mut file)) = self.file {
            file.flush().map_err(|source| broken(&path, source))?;
        }
        Ok(self.rejected)
    }
}

fn broken(path: &Path, source: std::io::Error) -> CliError {
    CliError::Io { what: format!("the report {} cannot be written", path.display()), source }
}
