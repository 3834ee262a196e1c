//! Reads a body within the limits on time, on its size after inflating, and on memory.
//!
//! No part of a body is dropped silently. Several gzip members make one body, as RFC 1952 says. Bytes that follow them
//! belong to the body unchanged. If a gzip was cut off, everything that can be inflated is read, because it may contain
//! whole messages.

use std::io::{ErrorKind, Read as _};

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use flate2::bufread::GzDecoder;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::time::timeout;

use super::HttpState;
use super::error::{ApiError, Contract};
use super::memory::{Account, NoRoom};

/// The first bytes of a gzip member, by RFC 1952.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The most nearly empty gzip members of a body. Opening one costs more than its contents. A batch may have this many
/// messages, in case a sender compresses each separately.
const SMALL_MEMBERS_MAX: usize = 10_000;

/// A gzip member with fewer bytes than this is nearly empty.
const SMALL_MEMBER_BYTES: usize = 1_024;

/// How many bytes are inflated at a time.
const INFLATED_BYTES: usize = 16 * 1_024;

/// How much longer JSON usually is than its gzip.
const USUAL_RATIO: usize = 8;

/// A body in memory, and the account that pays for it.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Vec<u8>,
    pub(super) account: Account,
}

/// Reads a body to its end. The account pays for it.
pub(super) async fn read(
    body: Body,
    headers: &HeaderMap,
    state: &HttpState,
    contract: Contract,
    account: Account,
) -> Result<ReadBody, ApiError> {
    let is_gzip = is_gzip(headers)?;
    let limits = &state.0.limits;
    let mut into = Growing::new(limits.body_bytes_max, account, contract);
    let length = body.size_hint().exact();
    // Compressed or not, a body that is longer than the limit is too large.
    if length.is_some_and(|length| length > limits.body_bytes_max as u64) {
        return Err(too_large(limits.body_bytes_max));
    }
    into.expect(length);
    let collected = match timeout(limits.body_timeout, collect(body, into, is_gzip)).await {
        Ok(collected) => collected?,
        Err(_) => {
            return Err(contract.not_now("the body did not arrive in time: send the request again"));
        }
    };
    if !is_gzip {
        return Ok(collected.end());
    }
    let usual_bytes = collected.bytes.len().saturating_mul(USUAL_RATIO);
    let inflated = state.0.large_bodies.on(contract, usual_bytes, || {
        let (compressed, mut into) = collected.beside();
        // All room is reserved at once, so that the buffer is not moved as it grows.
        into.expect(inflated_length(&compressed));
        into.reserve()?;
        inflate(&compressed, into)
    });
    inflated.await.map(Growing::end)
}

/// Returns the inflated length that a gzip states at its end.
fn inflated_length(compressed: &[u8]) -> Option<u64> {
    compressed.last_chunk().map(|length| u64::from(u32::from_le_bytes(*length)))
}

/// Returns whether a body is gzip according to `Content-Encoding`, in any casing and under its old name too.
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
struct Growing {
    bytes: Vec<u8>,
    bytes_max: usize,
    /// The length that the sender announced. The buffer is not moved before it exceeds this.
    bytes_usual: usize,
    account: Account,
    /// The bytes that the account holds for another purpose.
    beside: usize,
    contract: Contract,
}

impl Growing {
    fn new(bytes_max: usize, account: Account, contract: Contract) -> Self {
        let bytes = Vec::new();
        Self { bytes, bytes_max, bytes_usual: bytes_max, account, beside: 0, contract }
    }

    fn push(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        let due = self.bytes.len() + chunk.len();
        if due > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        let capacity = self.bytes.capacity();
        if due > capacity {
            self.grow(due.max((capacity * 2).min(self.bytes_usual)))?;
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// Reserves room for the announced length.
    fn reserve(&mut self) -> Result<(), ApiError> {
        self.grow(self.bytes_usual)
    }

    fn grow(&mut self, capacity: usize) -> Result<(), ApiError> {
        // While the buffer is moved, it is in memory twice.
        self.hold(self.bytes.capacity() + capacity)?;
        self.bytes.reserve_exact(capacity - self.bytes.len());
        self.hold(self.bytes.capacity())
    }

    fn hold(&mut self, bytes: usize) -> Result<(), ApiError> {
        let held = self.account.hold(self.beside + bytes);
        held.map_err(|NoRoom| self.contract.no_room())
    }

    /// Records the length that its sender announced.
    fn expect(&mut self, bytes: Option<u64>) {
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        self.bytes_usual = bytes.unwrap_or(usize::MAX).min(self.bytes_max);
    }

    /// Returns the bytes, and a new body that grows beside them on the same account.
    fn beside(self) -> (Vec<u8>, Self) {
        let beside = self.bytes.capacity();
        (self.bytes, Self { bytes: Vec::new(), beside, ..self })
    }

    /// Returns the finished body. Any other body on its account must have been dropped.
    fn end(mut self) -> ReadBody {
        // Holding less than before never fails.
        let _ = self.account.hold(self.bytes.capacity());
        ReadBody { bytes: self.bytes, account: self.account }
    }
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::too_large(format!(
        "the body has more than {bytes_max} bytes (after inflating): send smaller batches, or raise server.body_bytes_max"
    ))
}

fn broken_body() -> ApiError {
    ApiError::bad_request(
        "broken_body",
        "the body ended early, or is not gzip although Content-Encoding says so",
    )
}

async fn collect(mut body: Body, mut into: Growing, is_gzip: bool) -> Result<Growing, ApiError> {
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

fn inflate(compressed: &[u8], mut into: Growing) -> Result<Growing, ApiError> {
    let mut rest = compressed;
    let mut chunk = vec![0; INFLATED_BYTES];
    let mut small_members = 0;
    loop {
        let before = into.bytes.len();
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
        small_members += usize::from(into.bytes.len() - before < SMALL_MEMBER_BYTES);
        if small_members > SMALL_MEMBERS_MAX {
            return Err(ApiError::bad_request(
                "broken_body",
                format!(
                    "the body has more than {SMALL_MEMBERS_MAX} gzip members with almost nothing in them: compress it as a whole"
                ),
            ));
        }
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

    use super::super::memory::Budget;
    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_body_pays_for_what_it_takes() {
        let budget = Budget::new(400_000, 100_000);
        let free = || {
            let mut account = budget.account();
            let units = (0..).take_while(|_| account.add_bytes(1_024).is_ok());
            units.count() * 1_024
        };
        let all = free();
        // The first 16 KiB come from the part for small requests.
        let took = || all - free() + 16 * 1_024;
        let mut body = Growing::new(100_000, budget.account(), Contract::Tracking);
        let mut in_chunks = || (0..99).try_for_each(|_| body.push(&[b' '; 1_000]));
        in_chunks().unwrap();
        assert_eq!(in_chunks().unwrap_err().code, "too_large");
        assert!((99_000..102_000).contains(&took()), "{}", took());
        let (compressed, mut inflated) = body.beside();
        inflated.push(&[b' '; 50_000]).unwrap();
        assert!((149_000..153_000).contains(&took()), "{}", took());
        drop(compressed);
        let body = inflated.end();
        assert!((50_000..52_000).contains(&took()), "{}", took());
        drop(body);
        assert_eq!(free(), all);
    }

    #[test]
    fn everything_that_can_be_inflated_is_read() {
        let budget = Budget::new(1_000_000, 100_000);
        let inflated = |compressed: &[u8]| {
            let into = Growing::new(100_000, budget.account(), Contract::Tracking);
            inflate(compressed, into).map(|into| String::from_utf8_lossy(&into.bytes).into_owned())
        };
        let (one, two) = (gzip("one"), gzip("two"));
        assert_eq!(inflated(&one), Ok("one".to_owned()));
        assert_eq!(inflated(&[&one[..], &two].concat()), Ok("onetwo".to_owned()));
        assert_eq!(inflated(&[&one[..], b"rest"].concat()), Ok("onerest".to_owned()));
        assert_eq!(inflated(&[&one[..], &[0; 99]].concat()), Ok("one".to_owned()));
        assert_eq!(inflated(&[&one[..], &two[..two.len() - 3]].concat()), Ok("onetwo".to_owned()));
        // Empty members are cheap to send, but not to open.
        let empty = gzip("");
        assert_eq!(inflated(&[empty.repeat(9_999), one.clone()].concat()), Ok("one".to_owned()));
        let too_many = inflated(&[empty.repeat(10_000), one.clone()].concat()).unwrap_err();
        assert_eq!(too_many.code, "broken_body");
        assert!(too_many.message.contains("compress it as a whole"), "{}", too_many.message);
        let filled = gzip(&" ".repeat(9));
        assert_eq!(inflated(&filled.repeat(5_000)).unwrap().len(), 45_000);
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
