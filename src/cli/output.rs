//! What commands print for people.

use std::io::{IsTerminal as _, Write as _};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Prints a line for people on standard output.
pub(super) fn say(text: &str) {
    // A closed pipe (`segment-loops dev | head`) must not end the service.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Counts things: `1 message`, `1,204 messages`.
pub(super) fn counted(count: u64, one: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{} {one}{end}", HumanCount(count))
}

/// Prints a line for people on standard error, at once.
pub(super) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A progress bar, which is hidden if nobody watches.
pub(super) fn bar(template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}
