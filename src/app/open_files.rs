//! How many files this process may have open. Each connection takes one.

use crate::config::Config;

/// Open files besides connections of senders and requests to Loops: the database, the log, configuration files.
#[cfg(unix)]
const RESERVE: u64 = 64;

/// Raises the limit as far as the system allows without privileges, and warns if it may still be too low.
#[cfg(unix)]
pub(super) fn raise_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    // Some systems refuse to remove the limit altogether.
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { maximum } else { current };
    let needed = needed(config);
    // `None` means that there is no limit.
    if let Some(limit) = current.filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "the limit of open files is too low for server.connections_max: raise it (`ulimit -n`), or senders may be unable to connect"
        );
    }
}

#[cfg(not(unix))]
pub(super) fn raise_limit(_config: &Config) {}

/// Returns the most files that may be open at once with this configuration.
#[cfg(unix)]
fn needed(config: &Config) -> u64 {
    let listeners = 1 + usize::from(config.server.admin_listen.is_some());
    let senders = listeners * config.server.connections_max;
    let requests = config.destinations.len() * config.delivery.requests_max;
    (senders + requests) as u64 + RESERVE
}
