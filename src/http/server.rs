//! Serves a router on a listener: bounded connections, in all and from one address; bounds on clients
//! that send their headers slowly or never read; a graceful end.
//!
//! `axum::serve` has only the last of these, so this drives hyper itself. HTTP/1.1 only: Segment,
//! its SDKs and reverse proxies speak it to their upstreams.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::address::Peer;
use super::head::Head;
use super::places::{Place, Places};
use super::stall::{Cut, WatchedStream};

pub use super::server_limits::{AddressConnections, ServerLimits};

/// How long to wait after a connection could not be accepted, for example for lack of file descriptors.
const ACCEPT_FAULT_WAIT: Duration = Duration::from_millis(100);

/// The most bytes of a request's path and headers. Segment's subscription destination sends 20 KB in one header.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// The most headers of a request. Browsers and a chain of proxies may send more than hyper's default of 100. Beyond the
/// limit, hyper responds with a bare 431, on which SDKs drop their messages.
const HEADERS_MAX: usize = 256;

/// The send buffer of a connection; Linux doubles it. A socket accepts more bytes once a third of its buffer is free,
/// and that is the progress `write_timeout` waits for. Without this bound, Linux lets the buffer grow to 4 MB: a client
/// would have to read 45 KB a second, and one that never reads would hold all of it. With it, 5 KB a second are enough,
/// and a client 100 ms away can still read a megabyte a second.
const SEND_BUFFER_BYTES: u32 = 64 * 1024;

/// How many connections may wait to be accepted. Linux allows 4,096 unless configured otherwise.
const BACKLOG: u32 = 4_096;

/// In a response's extensions, makes the server drop the connection without a response.
#[derive(Debug, Clone, Copy)]
pub struct ResetConnection;

/// The end of a connection whose response asked for it.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped on purpose")]
struct Dropped;

/// Responds to the requests of a server.
pub trait Answer: Send + Sync + 'static {
    /// Returns the response to a request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response> + Send;

    /// Reports a request that hyper could not read. hyper has responded to it with 400, 414 or 431, without a body.
    fn report_unreadable(&self, _error: &hyper::Error) {}
}

impl Answer for Router {
    async fn answer(&self, request: Request<Incoming>) -> Response {
        let answered: Result<_, Infallible> = self.clone().oneshot(request).await;
        answered.unwrap_or_else(|never| match never {})
    }
}

/// Listens on an address, for [`serve`].
///
/// # Errors
///
/// If the address is in use, or is not an address of this machine.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As `TcpListener::bind` does: otherwise the address could not be used for a minute after a stop. On Windows, this
    // would let another program take the address.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit this size.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` is cancelled. Then accepts no more connections, and lets requests in progress finish within
/// `grace`.
pub async fn serve(
    listener: TcpListener,
    app: impl Answer,
    limits: ServerLimits,
    stop: CancellationToken,
    grace: Duration,
) {
    let app = Arc::new(app);
    let (header_timeout, write_timeout) = (limits.header_timeout, limits.write_timeout);
    let heads = limits.heads.clone();
    let places = Arc::new(Places::new(limits));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = stop.cancelled() => break,
        };
        let Some((stream, peer, place)) = accepted else {
            continue;
        };
        let head = Head::new(&heads);
        let stream = WatchedStream::new(stream, write_timeout, head.clone());
        let service = {
            let app = Arc::clone(&app);
            hyper::service::service_fn(move |request| {
                answer(Arc::clone(&app), peer, head.clone(), request)
            })
        };
        let app = Arc::clone(&app);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        let places = Arc::clone(&places);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                match Cut::of(&error) {
                    Some(cut) => places.report_cut(cut, peer),
                    None if error.is_parse() => app.report_unreadable(&error),
                    None => {}
                }
                debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        warn!(connections = connections.len(), "connections were cut at the end of the grace time");
    }
    connections.shutdown().await;
}

/// Waits for a place and a connection; `None` if the connection's address has too many, or, after a pause, if accepting
/// failed.
async fn accept(listener: &TcpListener, places: &Places) -> Option<(TcpStream, Peer, Place)> {
    let permit = places.free().await?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            let place = places.take(permit, Peer(peer))?;
            // A small response must not wait for the client's next packet.
            let _ = stream.set_nodelay(true);
            Some((stream, Peer(peer), place))
        }
        Err(error) => {
            places.report_fault(&error);
            tokio::time::sleep(ACCEPT_FAULT_WAIT).await;
            None
        }
    }
}

async fn answer(
    app: Arc<impl Answer>,
    peer: Peer,
    head: Head,
    mut request: Request<Incoming>,
) -> Result<Response, Box<dyn Error + Send + Sync>> {
    let _answering = head.complete(request.headers().len())?;
    request.extensions_mut().insert(peer);
    let response = app.answer(request).await;
    if response.extensions().get::<ResetConnection>().is_some() {
        return Err(Dropped.into());
    }
    Ok(response)
}
