//! `dev`: the service and a sandbox in one process, to try everything without an account.
//!
//! It reads the environment as `serve` does, so that any key can be tried, except for keys that would lead outside:
//! whatever the environment says, it sends only to its own sandbox and opens only its own database.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::error::CliError;
use super::output::say;
use super::process::{report_dropped_lines, runtime, start_telemetry, stop_signal};
use super::sandbox::{listen, new_sandbox, send_webhooks, serve};
use crate::app::{App, Outlets};
use crate::clock::SystemClock;
use crate::config::{self, Config, ConfigError, Flags, LogFormat};
use crate::sandbox::{Faults, Sandbox};
use crate::telemetry::Traces;

/// The write key, the webhook secret and the admin token of `dev`.
const DEV_KEY: &str = "dev";

/// The signing secret of the sandbox's webhooks: the base64 of [`DEV_KEY`].
const DEV_WEBHOOK_SECRET: &str = "whsec_ZGV2";

/// Where the service listens by default.
const LISTEN: &str = "127.0.0.1:8080";

/// Options of `dev`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Prints what to try, and keeps nothing unless --data names a folder.

  segment-loops dev
  segment-loops dev --subscriptions subscriptions.toml --data trial

Environment variables can set any key, as for `serve`, except what dev sets itself: the keys, \
secrets and tokens that it prints; the base URL of each destination, which is that of the sandbox; \
and the place of the database, so that it never delivers what waits in the database of the \
service.")]
pub struct DevArgs {
    /// Address and port of the service [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address and port of the sandbox.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    sandbox: SocketAddr,
    /// Folder of the database [default: a temporary folder].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Subscription files (TOML, YAML or JSON), instead of the configured ones.
    #[arg(long, value_name = "FILE")]
    subscriptions: Vec<PathBuf>,
    /// Format of the log [default: pretty].
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

pub(super) fn run(args: DevArgs) -> Result<(), CliError> {
    let throw_away = match args.data {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|source| CliError::Io {
            what: "cannot create a temporary folder; name one with --data".to_owned(),
            source,
        })?),
    };
    let data = match (&args.data, &throw_away) {
        (Some(data), _) => data.clone(),
        // The store creates this folder for its owner only.
        (None, Some(folder)) => folder.path().join("data"),
        (None, None) => PathBuf::from("data"),
    };
    runtime()?.block_on(async {
        let stop = stop_signal();
        let (sandbox_listener, sandbox_address) = listen(args.sandbox, "--sandbox")?;
        let flags = Flags {
            listen: args.listen,
            data: Some(data.clone()),
            subscriptions: args.subscriptions,
            destination: None,
            log_format: args.log_format,
            file: None,
        };
        let load = Box::new(move || load(&flags, sandbox_address));
        let config = load()?;
        let telemetry = start_telemetry(&config.log.level, config.log.format);
        let outlets = Outlets {
            metrics: telemetry.metrics.clone(),
            traces: Traces::start(&config::traces()),
        };
        tokio::spawn(report_dropped_lines(telemetry.dropped.clone()));
        let sandbox = new_sandbox(None, Faults::default());
        let sandbox_stop = CancellationToken::new();
        let sandbox_task = {
            let (sandbox, stop) = (sandbox.clone(), sandbox_stop.clone());
            tokio::spawn(async move { serve(&sandbox, sandbox_listener, stop).await })
        };
        let app = App::start(config, load, Arc::new(SystemClock), outlets).await?;
        send_webhooks(&sandbox, &webhook_url(app.address()), DEV_WEBHOOK_SECRET)?;
        say(&what_next(app.address(), sandbox_address, &data, throw_away.is_some()));
        let pending = app.run(stop).await?;
        sandbox_stop.cancel();
        // A sandbox that panicked has already logged it.
        let _ = sandbox_task.await;
        say(&what_was(&sandbox, pending));
        Ok(())
    })
}

/// Returns the URL at which the sandbox finds the service. The service may listen on all addresses of this machine.
fn webhook_url(mut service: SocketAddr) -> String {
    if service.ip().is_unspecified() {
        service.set_ip(match service.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{service}/loops/default")
}

/// Loads the configuration from the environment, with a sandbox as Loops.
fn load(flags: &Flags, sandbox: SocketAddr) -> Result<Config, ConfigError> {
    let base_url = format!("http://{sandbox}/api/v1");
    let own = [
        ("LOOPS_API_KEY", Some(DEV_KEY)),
        ("LOOPS_BASE_URL", Some(&base_url)),
        ("LOOPS_WEBHOOK_SECRET", Some(DEV_WEBHOOK_SECRET)),
        ("SEGMENT_WRITE_KEY", Some(DEV_KEY)),
        ("SEGMENT_WEBHOOK_SECRET", Some(DEV_KEY)),
        ("ADMIN_TOKEN", Some(DEV_KEY)),
        ("DATABASE_URL", None),
    ];
    let own = own.map(|(name, value)| (name, value.map(str::to_owned)));
    let mut environment = config::with_own(config::environment(), &own);
    for (key, value) in [("server.listen", LISTEN), ("log.format", "pretty")] {
        environment.entry(config::long_name(key)).or_insert_with(|| value.to_owned());
    }
    let mut config = config::load(flags, environment)?;
    for destination in config.destinations.values_mut() {
        destination.base_url.clone_from(&base_url);
    }
    Ok(config)
}

fn what_next(service: SocketAddr, sandbox: SocketAddr, data: &Path, is_throw_away: bool) -> String {
    let kept = if is_throw_away { "deleted at the end" } else { "kept" };
    format!(
        r#"
segment-loops listens at http://{service}, with a simulated Loops at http://{sandbox}.
Write key, webhook secret and admin token are all "{DEV_KEY}". The database is in {data} ({kept}).

Send it a person:

  curl -u {DEV_KEY}: http://{service}/v1/identify -d '{{
    "userId": "user_1", "messageId": "hello-1",
    "traits": {{"email": "ada@example.com", "firstName": "Ada", "plan": "pro"}}}}'

and an event:

  curl -u {DEV_KEY}: http://{service}/v1/track -d '{{
    "userId": "user_1", "event": "Signed Up", "properties": {{"plan": "pro"}}}}'

and an event that Loops refuses, about a person it does not know:

  curl -u {DEV_KEY}: http://{service}/v1/track -d '{{
    "userId": "user_2", "event": "Signed Up", "properties": {{"plan": "free"}}}}'

See what became of each, and why, in a browser: http://{service}/console (the token is "{DEV_KEY}").

Or look at the contact and the event in the simulated Loops, at what became of the first message, and at what Loops
reported of the mail that the event triggered:

  curl -H 'Authorization: Bearer {DEV_KEY}' 'http://{sandbox}/api/v1/contacts/find?userId=user_1'
  curl http://{sandbox}/sandbox/events
  curl -H 'Authorization: Bearer {DEV_KEY}' http://{service}/api/messages/hello-1
  curl -H 'Authorization: Bearer {DEV_KEY}' 'http://{service}/api/feedback?userId=user_1'

Ctrl-C stops it.
"#,
        data = data.display()
    )
}

fn what_was(sandbox: &Sandbox, pending: u64) -> String {
    let contacts = sandbox.contacts().len();
    let events = sandbox.events().len();
    let rest = match pending {
        0 => "nothing is left undone".to_owned(),
        1 => "1 message is still pending".to_owned(),
        more => format!("{more} messages are still pending"),
    };
    format!("Stopped. The simulated Loops has contacts: {contacts}, events: {events}; {rest}.")
}
