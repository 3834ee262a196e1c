//! Reads the rest of a body after an early response. If the connection were closed while the client is still writing,
//! the client would see a broken connection instead of the response, and send everything again.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// How much of the rest of a body is read, in bytes on the wire.
const DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A client that sends nothing for this long is no longer writing.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Lends out a request's body, so that the rest of it can be read before the response is sent. The whole body may take
/// as long as `body_timeout`. `None`: there is no body.
pub(super) fn lend(
    request: Request<Incoming>,
    body_timeout: Duration,
) -> (Request<Body>, Option<Loan>) {
    if request.body().is_end_stream() {
        return (request.map(Body::new), None);
    }
    let until = Instant::now() + body_timeout;
    let (owner, returned) = oneshot::channel();
    let lent = |body| Body::new(Lent { body: Some(body), owner: Some(owner) });
    (request.map(lent), Some(Loan { returned, until }))
}

/// A body that was lent out.
pub(super) struct Loan {
    returned: oneshot::Receiver<Incoming>,
    until: Instant,
}

impl Loan {
    /// Reads the rest of the body, if it was given back before its end.
    pub(super) async fn read_rest(mut self) {
        if let Ok(body) = self.returned.try_recv() {
            // A body may not take longer in all than `body_timeout`, so a slow one gets no extra time.
            let left = self.until.saturating_duration_since(Instant::now());
            let _ = timeout(left, drain(body)).await;
        }
    }
}

/// Reads the rest of a body for a while, and discards it.
async fn drain(mut body: Incoming) {
    // A body this long is not read to its end, so the connection is closed either way. Close it at once, before the
    // client sends more.
    if body.size_hint().lower() > DRAIN_BYTES_MAX as u64 {
        return;
    }
    let mut drained = 0;
    while drained < DRAIN_BYTES_MAX {
        match timeout(PAUSE_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => drained += frame.data_ref().map_or(0, Bytes::len),
            Ok(Some(Err(_)) | None) | Err(_) => return,
        }
    }
}

/// A body that goes back to its owner when it is dropped before its end.
struct Lent {
    body: Option<Incoming>,
    owner: Option<oneshot::Sender<Incoming>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = frame {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(owner)) = (self.body.take(), self.owner.take())
            && !body.is_end_stream()
        {
            // If the owner is gone, so is the connection.
            let _ = owner.send(body);
        }
    }
}
