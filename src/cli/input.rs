//! Input from files or from standard input.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::CliError;

/// Returns whether a file of the command line stands for standard input or output.
pub(super) fn is_stream(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Opens a file, or standard input for `-`.
pub(super) fn open_input(file: &Path) -> Result<Box<dyn Read>, CliError> {
    if is_stream(file) {
        return Ok(Box::new(std::io::stdin()));
    }
    match File::open(file) {
        Ok(file) => Ok(Box::new(file)),
        Err(source) => Err(unreadable(file, source)),
    }
}

/// Reads the text of a file, or of standard input for `-`.
pub(super) fn read_text(file: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = open_input(file)?.read_to_string(&mut text);
    read.map_err(|source| unreadable(file, source))?;
    Ok(text)
}

/// Returns the name of an input file, for people.
pub(super) fn shown(file: &Path) -> String {
    match is_stream(file) {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    }
}

pub(super) fn unreadable(file: &Path, source: std::io::Error) -> CliError {
    CliError::Io { what: format!("{} cannot be read", shown(file)), source }
}
