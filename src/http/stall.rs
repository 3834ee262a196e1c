//! A stream whose writes must make progress, and whose reads of headers are paid for.
//!
//! hyper limits how slowly a client may send its headers, and `body` how slowly it may send the rest. But a client that
//! never reads would hold its connection, and the response that waits for it, as long as it likes. This stream ends
//! such a connection, and also the connection of a client whose headers have no room in memory (see [`super::head`]).

use std::error::Error;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::head::{Head, NoRoom, READ_BYTES_MAX};

/// The client read nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("the client read no bytes within server.write_timeout_ms")]
struct Stalled;

/// Why a connection was ended by this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The client read nothing.
    Stalled,
    /// There was no memory for the headers.
    NoRoom,
}

impl Cut {
    /// Returns why this side ended the connection; `None` if the connection ended for another reason.
    pub(super) fn of(error: &hyper::Error) -> Option<Self> {
        let cause = error.source()?;
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<Stalled>()) {
            return Some(Self::Stalled);
        }
        // The error comes from a read or from the service.
        let is_no_room = cause.is::<NoRoom>() || inner.is_some_and(|inner| inner.is::<NoRoom>());
        is_no_room.then_some(Self::NoRoom)
    }
}

/// A stream that enforces these limits.
#[derive(Debug)]
pub(super) struct WatchedStream<S> {
    stream: S,
    /// How long a write may wait without writing a byte.
    write_timeout: Duration,
    /// Runs while a write is pending.
    stall: Option<Pin<Box<Sleep>>>,
    /// Drops the data that the system still keeps for the client.
    abandon: fn(&S),
    head: Head,
}

impl WatchedStream<TcpStream> {
    pub(super) fn new(stream: TcpStream, write_timeout: Duration, head: Head) -> Self {
        // The system would otherwise hold megabytes for a client that never reads them.
        let abandon = |stream: &TcpStream| {
            let _ = stream.set_zero_linger();
        };
        Self { stream, write_timeout, stall: None, abandon, head }
    }
}

impl<S> WatchedStream<S> {
    /// Ends a write that has been pending for too long.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let write_timeout = self.write_timeout;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(stall.as_mut().poll(context));
        (self.abandon)(&self.stream);
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, Stalled)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [const { MaybeUninit::uninit() }; READ_BYTES_MAX];
        let length = into.remaining().min(READ_BYTES_MAX);
        let mut part = ReadBuf::uninit(&mut bytes[..length]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
        self.head.read(part.filled().len()).map_err(io::Error::other)?;
        into.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // Neither flush nor shutdown waits for the client: TCP has no flush, and its shutdown only queues the end.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::http::head::HeadBudget;

    const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_keeps_its_connection_and_one_that_stops_loses_it() {
        let (stream, mut client) = duplex(10);
        let abandon = |_: &_| ();
        let head = Head::new(&HeadBudget::default());
        let mut stream =
            WatchedStream { stream, write_timeout: WRITE_TIMEOUT, stall: None, abandon, head };
        let writing = tokio::spawn(async move { stream.write_all(&[b'x'; 100]).await });
        // Ten bytes are in transit, so these reads make room for all but the last ten bytes.
        for _ in 0..80 {
            sleep(WRITE_TIMEOUT - Duration::from_millis(1)).await;
            client.read_u8().await.unwrap();
        }
        sleep(WRITE_TIMEOUT - Duration::from_millis(1)).await;
        assert!(!writing.is_finished());
        sleep(Duration::from_millis(2)).await;
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
