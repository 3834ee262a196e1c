//! Reads a body: within its time, within its size after inflating, within what memory allows.
//!
//! Nothing of a body is dropped in silence. Several gzip members are one body, as RFC 1952 has it; what
//! follows them is part of the body as it is; and of a gzip that was cut off everything that can be
//! inflated is read, because whole messages may be in it.

use std::io::{ErrorKind, Read as _};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::{ApiError, Contract};
use super::{HttpState, work};

/// The budget is counted in units of this many bytes, so that a semaphore's counter can hold it.
const BUDGET_UNIT: usize = 1_024;

/// The first bytes of a gzip member, by RFC 1952.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// How many bytes are inflated at a time.
const INFLATED_BYTES: usize = 16 * 1_024;

/// How much longer JSON usually is than its gzip.
const USUAL_RATIO: usize = 8;

/// The first bytes of each body are paid for from a part of the budget that nothing else may use.
const SMALL_BODY_BYTES: usize = 32 * 1_024;

/// Bytes of bodies that may still be taken into memory.
///
/// It has two parts, so that small bodies get in while large ones, or slow ones whose senders nobody
/// knows yet, hold all the rest: a quarter pays for the first 32 KiB of bodies and nothing else.
#[derive(Debug)]
pub(super) struct Budget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Budget {
    /// A budget of this many bytes in all; one body of `body_bytes_max` always has room in it.
    pub(super) fn new(bytes: usize, body_bytes_max: usize) -> Self {
        let semaphore = |bytes: usize| {
            Arc::new(Semaphore::new(bytes.div_ceil(BUDGET_UNIT).min(Semaphore::MAX_PERMITS)))
        };
        let small = bytes / 4;
        Self { small: semaphore(small), large: semaphore((bytes - small).max(body_bytes_max)) }
    }

    fn take(&self, units: usize, is_small: bool) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(units).ok()?;
        let from = |part: &Arc<Semaphore>| Arc::clone(part).try_acquire_many_owned(units).ok();
        let small = if is_small { from(&self.small) } else { None };
        small.or_else(|| from(&self.large))
    }
}

/// A body in memory; its part of the budget is given back when it is dropped.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    _permits: Vec<OwnedSemaphorePermit>,
}

/// Reads a body to its end.
pub(super) async fn read(
    body: Body,
    headers: &HeaderMap,
    state: &HttpState,
    contract: Contract,
) -> Result<ReadBody, ApiError> {
    let is_gzip = is_gzip(headers)?;
    let limits = &state.0.limits;
    let growing = || Growing::new(limits.body_bytes_max, &state.0.budget, contract);
    let collecting = collect(body, growing(), is_gzip);
    let collected = match timeout(limits.body_timeout, collecting).await {
        Ok(collected) => collected?,
        Err(_) => {
            return Err(contract.not_now("the body did not come in time: send the request again"));
        }
    };
    if !is_gzip {
        return Ok(collected.end());
    }
    let compressed = collected.end();
    let usual_bytes = compressed.bytes.len().saturating_mul(USUAL_RATIO);
    let inflated = work::on(state, usual_bytes, || inflate(&compressed.bytes, growing())).await?;
    Ok(inflated.end())
}

/// Whether a body is gzip by its `Content-Encoding`, in any casing, also by its old name.
fn is_gzip(headers: &HeaderMap) -> Result<bool, ApiError> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let encoding = encodings.next().map_or(&b""[..], |value| value.as_bytes().trim_ascii());
    match encoding.to_ascii_lowercase().as_slice() {
        b"gzip" | b"x-gzip" if encodings.next().is_none() => Ok(true),
        b"identity" | b"" if encodings.next().is_none() => Ok(false),
        _ => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unknown_encoding",
            "Content-Encoding must be gzip, or left out",
        )),
    }
}

/// A body that grows, within its size and the budget.
struct Growing<'b> {
    bytes: BytesMut,
    bytes_max: usize,
    budget: &'b Budget,
    contract: Contract,
    permits: Vec<OwnedSemaphorePermit>,
    /// Units that were paid for small bodies, and beyond.
    paid: [usize; 2],
}

impl<'b> Growing<'b> {
    fn new(bytes_max: usize, budget: &'b Budget, contract: Contract) -> Self {
        let bytes = BytesMut::new();
        Self { bytes, bytes_max, budget, contract, permits: Vec::new(), paid: [0; 2] }
    }

    fn push(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        if self.bytes.len() + chunk.len() > self.bytes_max {
            return Err(ApiError::too_large(format!(
                "the body has more than {} bytes (after inflating): send smaller batches, or raise server.body_bytes_max",
                self.bytes_max
            )));
        }
        self.bytes.extend_from_slice(chunk);
        let small = self.bytes.len().min(SMALL_BODY_BYTES);
        for (part, bytes) in [small, self.bytes.len() - small].into_iter().enumerate() {
            let due = bytes.div_ceil(BUDGET_UNIT);
            if due > self.paid[part] {
                let permit = self.budget.take(due - self.paid[part], part == 0);
                self.permits.push(permit.ok_or_else(|| {
                    self.contract.not_now(
                        "too many bodies come in at once: send the request again after Retry-After",
                    )
                })?);
                self.paid[part] = due;
            }
        }
        Ok(())
    }

    fn end(self) -> ReadBody {
        ReadBody { bytes: self.bytes.freeze(), _permits: self.permits }
    }
}

fn broken_body() -> ApiError {
    ApiError::bad_request(
        "broken_body",
        "the body broke off, or is not the gzip that Content-Encoding says",
    )
}

async fn collect(
    mut body: Body,
    mut into: Growing<'_>,
    is_gzip: bool,
) -> Result<Growing<'_>, ApiError> {
    while let Some(frame) = body.frame().await {
        if let Ok(chunk) = frame.map_err(|_| broken_body())?.into_data() {
            into.push(&chunk)?;
            if is_gzip && !into.bytes.iter().zip(GZIP_MAGIC).all(|(byte, magic)| *byte == magic) {
                return Err(broken_body());
            }
        }
    }
    Ok(into)
}

fn inflate<'b>(compressed: &[u8], mut into: Growing<'b>) -> Result<Growing<'b>, ApiError> {
    let mut rest = compressed;
    let mut chunk = vec![0; INFLATED_BYTES];
    loop {
        let mut member = GzDecoder::new(rest);
        loop {
            match member.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => into.push(&chunk[..read])?,
                Err(error)
                    if error.kind() == ErrorKind::UnexpectedEof && !into.bytes.is_empty() =>
                {
                    return Ok(into);
                }
                Err(_) => return Err(broken_body()),
            }
        }
        rest = member.into_inner();
        if !rest.starts_with(&GZIP_MAGIC) {
            break;
        }
    }
    // Files are padded with NUL bytes.
    let padding = rest.iter().rev().take_while(|byte| **byte == 0).count();
    into.push(&rest[..rest.len() - padding])?;
    Ok(into)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn large_bodies_leave_room_for_small_ones() {
        let budget = Budget::new(1_000_000, 500_000);
        let held = |bytes: usize| {
            let mut body = Growing::new(500_000, &budget, Contract::Tracking);
            body.push(&vec![b' '; bytes]).map(|()| body.end())
        };
        let mut large = Vec::new();
        for bytes in [500_000, 100_000] {
            while let Ok(body) = held(bytes) {
                large.push(body);
            }
        }
        assert_eq!(held(100_000).map(|_| ()).unwrap_err().code, "not_now");
        // More than what may be left of the part for large ones.
        let small: Vec<_> = (0..3).map(|_| held(25 * BUDGET_UNIT).unwrap()).collect();
        drop((large, small));
        assert!(held(500_000).is_ok());
    }

    #[test]
    fn everything_that_can_be_inflated_is_read() {
        let budget = Budget::new(1_000_000, 100_000);
        let inflated = |compressed: &[u8]| {
            let into = Growing::new(100_000, &budget, Contract::Tracking);
            inflate(compressed, into).map(|into| String::from_utf8_lossy(&into.bytes).into_owned())
        };
        let (one, two) = (gzip("one"), gzip("two"));
        assert_eq!(inflated(&one), Ok("one".to_owned()));
        assert_eq!(inflated(&[&one[..], &two].concat()), Ok("onetwo".to_owned()));
        assert_eq!(inflated(&[&one[..], b"rest"].concat()), Ok("onerest".to_owned()));
        assert_eq!(inflated(&[&one[..], &[0; 99]].concat()), Ok("one".to_owned()));
        assert_eq!(inflated(&[&one[..], &two[..two.len() - 3]].concat()), Ok("onetwo".to_owned()));
        let long: String = (0..5_000).map(|n| format!("{n},")).collect();
        let cut = gzip(&long);
        let read = inflated(&cut[..cut.len() / 2]).unwrap();
        assert!(read.len() > 1_000 && long.starts_with(&read), "{}", read.len());
        let mut wrong = one.clone();
        wrong[one.len() - 6] ^= 1;
        for broken in [&b""[..], b"no gzip", &one[..5], &wrong] {
            assert_eq!(inflated(broken).map_err(|error| error.code), Err("broken_body"));
        }
        let bomb = gzip(&" ".repeat(100_001));
        assert_eq!(inflated(&bomb).map_err(|error| error.code), Err("too_large"));
    }
}
