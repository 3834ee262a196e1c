//! `known`: reads an export of the audience to tell the service which contacts Loops has, so that they do not count as
//! new. Works on the database, beside a running service or without one. If it is interrupted, it can simply be run
//! again.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use indicatif::HumanCount;

use super::database::{must_be_known, open_store, store_fault};
use super::error::CliError;
use super::input::{open_input, shown};
use super::options::{DestinationOption, StoreOptions};
use super::output::{counted, say};
use super::process::{runtime, start_telemetry};
use crate::clock::{Clock as _, SystemClock};
use crate::config;
use crate::queue::{KnownContact, Store};
use crate::segment::{Digests, PersonIdKind};

/// The contacts of one transaction.
const BATCH: usize = 500;

/// Options of `known`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads a CSV file whose header has `email`, `userId` or both, as Loops exports its audience \
(Audience, Export), and remembers these contacts as known: they do not count as new, and \
new_contacts_per_day and new_contacts = \"known_only\" let their messages through. Only digests \
are kept. Reading a file again changes nothing. The command works with or without a running \
service.

  segment-loops known audience.csv --data /data
  zcat audience.csv.gz | segment-loops known - --destination marketing")]
pub struct KnownArgs {
    /// CSV file; - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    destination: DestinationOption,
    #[command(flatten)]
    store: StoreOptions,
}

pub(super) fn run(args: KnownArgs) -> Result<(), CliError> {
    let config = config::load_keyless(&args.store.flags(), config::environment())?;
    let _telemetry = start_telemetry("warn", config.settings.log.format);
    let (destination, _) = args.destination.choose(&config.planners)?;
    let mut rows = Rows::open(&args)?;
    runtime()?.block_on(async {
        let store = open_store(&config.settings.store).await?;
        let known = async {
            must_be_known(&config, destination, &*store).await?;
            read(&mut rows, destination, &*store).await
        };
        let known = known.await;
        store.close().await;
        known
    })
}

/// Makes all contacts of the file known, with a bounded number per transaction.
async fn read(rows: &mut Rows, destination: &str, store: &dyn Store) -> Result<(), CliError> {
    let digests = store.digests();
    let (mut all, mut new) = (0_u64, 0);
    let problem = loop {
        let (batch, problem) = rows.next(&digests);
        if !batch.is_empty() {
            let made = store.make_known(destination, &batch, SystemClock.now()).await;
            new += made.map_err(store_fault)?;
            all += batch.len() as u64;
        }
        if problem.is_some() || batch.len() < BATCH {
            break problem;
        }
    };
    if all > 0 || problem.is_none() {
        let contacts = counted(all, "contact");
        let new = HumanCount(new);
        say(&format!("read {contacts} of `{destination}`; not known before: {new}"));
    }
    match problem {
        None => Ok(()),
        Some(problem) if all == 0 => Err(CliError::Input(problem)),
        Some(problem) => Err(CliError::Partly(format!(
            "{problem}; the contacts before it are known: correct it and run the same command again"
        ))),
    }
}

/// The rows of the file.
struct Rows {
    reader: csv::Reader<Box<dyn Read>>,
    /// The name of the file, for people.
    name: String,
    user: Option<usize>,
    email: Option<usize>,
}

impl Rows {
    fn open(args: &KnownArgs) -> Result<Self, CliError> {
        let name = shown(&args.file);
        let input = open_input(&args.file)?;
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(input);
        let header = reader.headers().map_err(|error| CliError::Input(unreadable(&name, error)))?;
        let header = header.clone();
        let column = |wanted: &str| header.iter().position(|name| spelled(name) == wanted);
        let (user, email) = (column("userid"), column("email"));
        if user.is_none() && email.is_none() {
            let how = match header
                .iter()
                .find_map(|name| name.chars().find(|c| ";\t|".contains(*c)))
            {
                Some(';') => {
                    "the columns seem to be separated by semicolons: separate them by commas, as a CSV file of Loops has them"
                }
                Some(_) => {
                    "the columns seem to be separated by tabs or bars: separate them by commas, as a CSV file of Loops has them"
                }
                None => "its first line must name the columns, as in an export of Loops' audience",
            };
            return Err(CliError::Input(format!(
                "{name} has no column `email` or `userId`: {how}"
            )));
        }
        Ok(Self { reader, name, user, email })
    }

    /// Returns the next contacts, at most [`BATCH`], and what is wrong with the row after them, if anything.
    fn next(&mut self, digests: &Digests) -> (Vec<KnownContact>, Option<String>) {
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
            let is_torn =
                |field: Option<&str>| field.is_some_and(|text| text.contains(['\n', '\r']));
            let problem = match (user, email) {
                _ if is_torn(user) || is_torn(email) => {
                    "a value that begins with a quote (\") does not end on its line: a quote is missing"
                }
                (None, None) => "there is neither an `email` nor a `userId`",
                (_, Some(email)) if !email.contains('@') => "`email` is not an e-mail address",
                _ => {
                    let user = user.map(|id| digests.person(PersonIdKind::User, id));
                    let email = email.map(|id| digests.person(PersonIdKind::Email, id));
                    batch.extend(KnownContact::of(user, email));
                    continue;
                }
            };
            return (batch, Some(format!("{}, line {line}: {problem}", self.name)));
        }
        (batch, None)
    }
}

/// Normalizes the name of a column: `User ID` and `user_id` become `userid`.
fn spelled(name: &str) -> String {
    let letters = name.trim_start_matches('\u{feff}').chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// Says what is wrong with a file: the line, but nothing of its contents.
fn unreadable(name: &str, error: csv::Error) -> String {
    let line = error.position().map(|at| format!(", line {}", at.line())).unwrap_or_default();
    match error.into_kind() {
        csv::ErrorKind::Io(source) => format!("{name}{line}: cannot be read: {source}"),
        csv::ErrorKind::Utf8 { .. } => format!("{name}{line}: is not UTF-8: convert the file"),
        _ => format!("{name}{line}: is not CSV"),
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
