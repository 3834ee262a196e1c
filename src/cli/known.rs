//! `known`: tells the service which contacts Loops has, from an export of the audience, so that they do not count as new.
//! Works on the database, beside a running service and without one. Interrupted, it is simply run again.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use super::{CliError, open_store, runtime, say, start_telemetry};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config, Flags};
use crate::queue::{KnownContact, Store};
use crate::segment::{Digests, PersonIdKind};

/// Contacts of one transaction.
const BATCH: usize = 500;

/// Options of `known`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads a CSV file with a header that has `email`, `userId` or both, as Loops exports its audience
(Audience, Export), and remembers these contacts as known: they do not count as new contacts, and
new_contacts_per_day and new_contacts = \"known_only\" let their messages through. Only digests are kept.
A file that was read before changes nothing.")]
pub struct KnownArgs {
    /// CSV file; - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name of the destination; may be left out if there is only one.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Configuration file (TOML) [default: environment variables only].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the database.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(args: KnownArgs) -> Result<(), CliError> {
    let flags = Flags { file: args.config.clone(), data: args.data.clone(), ..Flags::default() };
    let config = config::load(&flags, config::environment())?;
    let _telemetry = start_telemetry("warn", config.log.format);
    let destination = destination(&args, &config)?;
    let mut rows = Rows::open(&args)?;
    runtime()?.block_on(async {
        let store = open_store(&config.store).await?;
        let read = read(&mut rows, &destination, &*store).await;
        store.close().await;
        read
    })
}

fn destination(args: &KnownArgs, config: &Config) -> Result<String, CliError> {
    let mut names = config.destinations.keys();
    let found = match &args.destination {
        Some(name) => config.destinations.contains_key(name).then_some(name),
        None if config.destinations.len() == 1 => names.next(),
        None => None,
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = config.destinations.keys().map(String::as_str).collect();
        CliError::Usage(format!("give --destination, which is one of {}", names.join(", ")))
    })
}

/// Makes all contacts of the file known, a bounded number in one transaction.
async fn read(rows: &mut Rows, destination: &str, store: &dyn Store) -> Result<(), CliError> {
    let digests = store.digests();
    let (mut all, mut new) = (0, 0);
    loop {
        let (batch, problem) = rows.next(&digests);
        if !batch.is_empty() {
            let made = store.make_known(destination, &batch, SystemClock.now()).await;
            new += made.map_err(|fault| CliError::Store(fault.into()))?;
            all += batch.len();
        }
        match problem {
            Some(problem) => return Err(problem),
            None if batch.len() < BATCH => break,
            None => {}
        }
    }
    let known = match all {
        1 => format!("1 contact of `{destination}` is known"),
        _ => format!("{all} contacts of `{destination}` are known"),
    };
    say(&format!("{known}, {new} of them new"));
    Ok(())
}

/// The rows of the file.
struct Rows {
    reader: csv::Reader<Box<dyn Read>>,
    /// The file, for people.
    name: String,
    user: Option<usize>,
    email: Option<usize>,
}

impl Rows {
    fn open(args: &KnownArgs) -> Result<Self, CliError> {
        let name = args.file.display().to_string();
        let input: Box<dyn Read> =
            match args.file.as_os_str() == "-" {
                true => Box::new(std::io::stdin()),
                false => Box::new(File::open(&args.file).map_err(|source| CliError::Io {
                    what: format!("cannot read {name}"),
                    source,
                })?),
            };
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(input);
        let header = reader.headers().map_err(|error| unreadable(&name, error))?.clone();
        let column = |wanted: &str| header.iter().position(|name| spelled(name) == wanted);
        let (user, email) = (column("userid"), column("email"));
        if user.is_none() && email.is_none() {
            return Err(CliError::Usage(format!(
                "{name} has no column `email` or `userId`: its first line must name the columns, as in an export of Loops' audience"
            )));
        }
        Ok(Self { reader, name, user, email })
    }

    /// The next contacts, at most [`BATCH`], and what is wrong with the row behind them.
    fn next(&mut self, digests: &Digests) -> (Vec<KnownContact>, Option<CliError>) {
        let mut batch = Vec::new();
        let mut row = csv::StringRecord::new();
        while batch.len() < BATCH {
            match self.reader.read_record(&mut row) {
                Ok(true) => {}
                Ok(false) => return (batch, None),
                Err(error) => return (batch, Some(unreadable(&self.name, error))),
            }
            let field = |column: Option<usize>| {
                let text = column.and_then(|column| row.get(column)).map(str::trim);
                text.filter(|text| !text.is_empty())
            };
            let (user, email) = (field(self.user), field(self.email));
            let line = row.position().map_or(0, csv::Position::line);
            let problem = match (user, email) {
                (None, None) => "there is neither an `email` nor a `userId`",
                (_, Some(email)) if !email.contains('@') => "`email` is not an e-mail address",
                _ => {
                    let user = user.map(|id| digests.person(PersonIdKind::User, id));
                    let email = email.map(|id| digests.person(PersonIdKind::Email, id));
                    batch.extend(KnownContact::of(user, email));
                    continue;
                }
            };
            let problem = format!(
                "{}, line {line}: {problem}; what is before it is known: correct it and run the same command again",
                self.name
            );
            return (batch, Some(CliError::Usage(problem)));
        }
        (batch, None)
    }
}

/// The name of a column without what is written in different ways: `User ID` and `user_id` are `userid`.
fn spelled(name: &str) -> String {
    let letters = name.trim_start_matches('\u{feff}').chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// The error of the reader names the line, and repeats nothing of it.
fn unreadable(name: &str, error: csv::Error) -> CliError {
    let line = error.position().map(|at| format!(", line {}", at.line())).unwrap_or_default();
    match error.into_kind() {
        csv::ErrorKind::Io(source) => {
            CliError::Io { what: format!("cannot read {name}{line}"), source }
        }
        csv::ErrorKind::Utf8 { .. } => CliError::Usage(format!(
            "{name}{line}: is not UTF-8; what is before it is known: convert the file and run the same command again"
        )),
        _ => CliError::Usage(format!("{name}{line}: is not CSV")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_however_they_are_spelled() {
        for (name, expected) in [
            ("userId", "userid"),
            ("User ID", "userid"),
            ("user_id", "userid"),
            ("\u{feff}Email", "email"),
        ] {
            assert_eq!(spelled(name), expected);
        }
    }
}
