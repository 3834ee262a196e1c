//! `sandbox`: a simulated Loops.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use tokio::net::TcpListener;

use super::error::CliError;
use super::output::say;
use super::process::{runtime, start_telemetry, stop_signal};
use crate::clock::SystemClock;
use crate::config::LogFormat;
use crate::http::server::{self, ServerLimits};
use crate::sandbox::{Faults, Sandbox, SandboxOptions, WebhookTarget};
use crate::secret::Secret;

/// Options of `sandbox`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Answers as Loops does, keeps contacts and events in memory, and shows them at /sandbox. Faults can be \
changed while it runs: PUT /sandbox/faults.

  segment-loops sandbox
  segment-loops sandbox --latency-ms 200 --error-rate 0.1 --error-status 503

A service that uses it:
  export LOOPS_BASE_URL=http://127.0.0.1:8090/api/v1 LOOPS_API_KEY=any
  SEGMENT_WRITE_KEY=KEY segment-loops serve")]
pub struct SandboxArgs {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// The API key it accepts [default: any].
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// URL to send webhooks to, as Loops does.
    #[arg(long, value_name = "URL", requires = "webhook_secret")]
    webhook: Option<String>,
    /// The secret that signs them: whsec_ and base64.
    #[arg(long, value_name = "SECRET", requires = "webhook")]
    webhook_secret: Option<String>,
    #[command(flatten, next_help_heading = "Faults")]
    faults: FaultArgs,
}

/// Faults, as options of the command line. They can be changed later by PUT /sandbox/faults.
#[derive(Debug, Args)]
pub(super) struct FaultArgs {
    /// Delay of each answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Requests allowed per second.
    #[arg(long, value_name = "N", default_value_t = 10)]
    rate_limit: u32,
    /// The share of requests that fail, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    error_rate: f64,
    /// The status of requests that fail.
    #[arg(long, value_name = "STATUS", default_value_t = 500)]
    error_status: u16,
    /// The share of requests whose connection is dropped before they take effect, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    reset_before_rate: f64,
    /// The share of requests whose connection is dropped after they took effect, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    reset_after_rate: f64,
}

pub(super) fn run(args: SandboxArgs) -> Result<(), CliError> {
    let _telemetry = start_telemetry("info", LogFormat::Pretty);
    runtime()?.block_on(async {
        let stop = stop_signal();
        let (listener, address) = listen(args.listen, "--listen")?;
        let faults = args.faults.faults()?;
        let sandbox = new_sandbox(args.api_key.map(Secret::new), faults);
        if let Some((url, secret)) = args.webhook.zip(args.webhook_secret) {
            send_webhooks(&sandbox, &url, &secret)?;
        }
        say(&format!(
            "A simulated Loops listens at http://{address}/api/v1\n\
             See what it got: http://{address}/sandbox\n\
             Point the service at it: LOOPS_BASE_URL=http://{address}/api/v1"
        ));
        serve(&sandbox, listener, stop).await;
        Ok(())
    })
}

impl FaultArgs {
    fn faults(&self) -> Result<Faults, CliError> {
        let faults = Faults {
            latency_ms: self.latency_ms,
            rate_limit: self.rate_limit,
            error_rate: self.error_rate,
            error_status: self.error_status,
            reset_before_rate: self.reset_before_rate,
            reset_after_rate: self.reset_after_rate,
            ..Faults::default()
        };
        faults.check().map_err(CliError::Faults)?;
        Ok(faults)
    }
}

/// Makes a sandbox for the team that the documentation names.
pub(super) fn new_sandbox(api_key: Option<Secret>, faults: Faults) -> Sandbox {
    let options = SandboxOptions { api_key, team_name: "Sandbox".to_owned(), faults };
    Sandbox::new(options, Arc::new(SystemClock))
}

/// Makes a sandbox send webhooks as long as the program runs.
pub(super) fn send_webhooks(sandbox: &Sandbox, url: &str, secret: &str) -> Result<(), CliError> {
    let target = WebhookTarget { url: Secret::new(url), secret: Secret::new(secret) };
    tokio::spawn(sandbox.send_webhooks(&target).map_err(CliError::SandboxWebhook)?);
    Ok(())
}

/// Listens, and returns the address, which a port of 0 leaves open. `option` is the one that chooses another address.
pub(super) fn listen(
    address: SocketAddr,
    option: &str,
) -> Result<(TcpListener, SocketAddr), CliError> {
    let error = |source| CliError::Io {
        what: format!("cannot listen on {address}: choose another with {option}"),
        source,
    };
    let listener = server::listen(address).map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    Ok((listener, address))
}

/// Serves a sandbox until `stop` is cancelled.
pub(super) async fn serve(
    sandbox: &Sandbox,
    listener: TcpListener,
    stop: tokio_util::sync::CancellationToken,
) {
    let limits = ServerLimits { listener: "sandbox", ..ServerLimits::default() };
    let grace = std::time::Duration::from_secs(1);
    server::serve(listener, sandbox.router(), limits, stop, grace).await;
}
