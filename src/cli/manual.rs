//! `completions` and `man`: files that packagers install beside the program.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::error::CliError;
use super::output::say;
use crate::clock::{Clock as _, SystemClock};

/// Options of `completions`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Writes to standard output:
  segment-loops completions bash \\
    > /usr/share/bash-completion/completions/segment-loops
  segment-loops completions zsh \\
    > /usr/share/zsh/vendor-completions/_segment-loops
  segment-loops completions fish > ~/.config/fish/completions/segment-loops.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Writes one page for the program and one for each command:
  segment-loops man --to /usr/local/share/man/man1")]
pub struct ManArgs {
    /// An existing folder.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Prints the completions of the program, whose command this is.
pub(super) fn complete(args: &CompletionsArgs, mut command: Command) -> Result<(), CliError> {
    let name = command.get_name().to_owned();
    // The generators panic if they cannot write, so they write to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    std::io::stdout().write_all(&script).map_err(|source| CliError::Io {
        what: "the completions cannot be written to standard output".to_owned(),
        source,
    })
}

/// Writes the pages of the program, whose command this is.
pub(super) fn write(args: &ManArgs, command: Command) -> Result<(), CliError> {
    if !args.to.is_dir() {
        return Err(CliError::Usage(format!(
            "--to: the folder {} does not exist: create it first",
            args.to.display()
        )));
    }
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let count = write_pages(&command, &args.to)?;
    say(&format!("{count} pages written to {}", args.to.display()));
    Ok(())
}

/// Writes the page of a command and those of its subcommands; returns how many.
fn write_pages(command: &Command, folder: &Path) -> Result<u64, CliError> {
    let mut count = 1;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        count += write_pages(below, folder)?;
    }
    let page = Man::new(command.clone());
    let name = page.get_filename();
    let mut text = Vec::new();
    let rendered = page
        .title(name.trim_end_matches(".1").to_uppercase())
        .date(format!("{:.10}", SystemClock.now().to_string()))
        .source(concat!("segment-loops ", env!("CARGO_PKG_VERSION")))
        .manual("segment-loops")
        .render(&mut text);
    let path = folder.join(name);
    let written =
        rendered.and_then(|()| std::fs::write(&path, tidied(&String::from_utf8_lossy(&text))));
    written.map_err(|source| CliError::Io {
        what: format!("{} cannot be written", path.display()),
        source,
    })?;
    Ok(count)
}

/// The longest line of text of which mandoc does not complain.
const LINE_BYTES_MAX: usize = 80;

/// How many bytes mandoc makes of a character that is not ASCII: `\[u2026]`.
const ESCAPE_BYTES: usize = 8;

/// Returns a page without what mandoc complains about: blanks at ends of lines, breaks next to vertical space, and long
/// lines.
fn tidied(page: &str) -> String {
    let lines: Vec<&str> = page.lines().map(str::trim_end).collect();
    let is_space = |line: Option<&&str>| line.is_some_and(|line| line.is_empty() || *line == ".sp");
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|index| lines.get(index));
        if *line == ".br" && (is_space(before) || is_space(lines.get(index + 1))) {
            continue;
        }
        // What clap calls extra is a section with a usual name here.
        wrap(if *line == ".SH EXTRA" { ".SH NOTES" } else { line }, &mut text);
    }
    text
}

/// Writes a line of text as several if it is long, and a request as it is. Roff fills lines again, so this changes
/// nothing on the page.
fn wrap(line: &str, text: &mut String) {
    let is_request = |text: &str| text.starts_with(['.', '\'']);
    let bytes = |text: &str| -> usize {
        text.chars().map(|c| if c.is_ascii() { 1 } else { ESCAPE_BYTES }).sum()
    };
    let mut rest = line;
    while bytes(rest) > LINE_BYTES_MAX && !is_request(line) {
        let indent = rest.len() - rest.trim_start().len();
        // What follows must be taken for text, neither for a request nor for an indented line.
        let may_break = |at: &usize| {
            let after = &rest[at + 1..];
            *at > indent && !after.starts_with(' ') && !is_request(after)
        };
        let breaks = || rest.match_indices(' ').map(|(at, _)| at).filter(may_break);
        let within = breaks().take_while(|at| bytes(&rest[..*at]) <= LINE_BYTES_MAX).last();
        let Some(at) = within.or_else(|| breaks().next()) else { break };
        text.push_str(rest[..at].trim_end());
        text.push('\n');
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_beside_vertical_space_are_dropped() {
        let page = "a \n.br\nb\n.br\n\n.br\nc\n";
        assert_eq!(tidied(page), "a\n.br\nb\n\nc\n");
    }

    #[test]
    fn long_lines_of_text_are_wrapped_and_never_begin_like_a_request() {
        let (word, eighty) = ("a".repeat(39), format!("{0} {0}", "b".repeat(39)));
        for (line, expected) in [
            (format!("{eighty}c"), format!("{eighty}c\n")),
            (format!("{eighty}cd"), format!("{0}\n{0}cd\n", "b".repeat(39))),
            (format!("{word} 'x {word} {word}"), format!("{word} 'x\n{word} {word}\n")),
            (format!("{word} {word}y .x"), format!("{word}\n{word}y .x\n")),
            (format!("  {word} {word}"), format!("  {word}\n{word}\n")),
            ("x".repeat(100), format!("{}\n", "x".repeat(100))),
            (format!("{word} {word}…"), format!("{word}\n{word}…\n")),
            (format!(".SH {word} {word} {word}"), format!(".SH {word} {word} {word}\n")),
        ] {
            let mut text = String::new();
            wrap(&line, &mut text);
            assert_eq!(text, expected, "{line}");
        }
    }
}
