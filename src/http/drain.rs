//! Reads bodies on that were answered early: a client that is still writing when the connection is
//! closed would see a broken connection instead of the answer, and send it all again.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::HttpState;

/// How much of a body is read on, as it comes over the wire.
const DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Who sends nothing for so long is not writing.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Lends a request's body out, and reads the rest of it before the answer goes out.
pub(super) async fn unread(
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let until = Instant::now() + state.0.limits.body_timeout;
    let (owner, mut returned) = oneshot::channel();
    let request = request.map(|body| Body::new(Lent { body: Some(body), owner: Some(owner) }));
    let response = next.run(request).await;
    if let Ok(body) = returned.try_recv() {
        // No longer than a body may take in all: one that came too slowly is not waited for again.
        let left = until.saturating_duration_since(Instant::now());
        let _ = timeout(left, drain(body)).await;
    }
    response
}

/// Reads on for a while without keeping anything.
async fn drain(mut body: Body) {
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
    body: Option<Body>,
    owner: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
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
            // Where the owner is gone, so is the connection.
            let _ = owner.send(body);
        }
    }
}
