//! The context of a span, which another span needs to become its child or to link to it.

use std::fmt;

const TRACE_ID_BYTES: usize = 16;
const SPAN_ID_BYTES: usize = 8;

/// The bit of the flags that marks a recorded trace.
const SAMPLED: u8 = 1;

/// The context of a span. It identifies nobody: its ids are random.
///
/// Stored as 25 bytes: the id of the trace, the id of the span, the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; TRACE_ID_BYTES],
    span_id: [u8; SPAN_ID_BYTES],
    flags: u8,
}

impl TraceContext {
    /// The length of a stored context.
    pub const BYTES: usize = TRACE_ID_BYTES + SPAN_ID_BYTES + 1;

    /// Creates a context from its parts; `None` if an id is zero, which is not valid.
    pub fn new(
        trace_id: [u8; TRACE_ID_BYTES],
        span_id: [u8; SPAN_ID_BYTES],
        flags: u8,
    ) -> Option<Self> {
        let is_valid = trace_id != [0; TRACE_ID_BYTES] && span_id != [0; SPAN_ID_BYTES];
        is_valid.then_some(Self { trace_id, span_id, flags })
    }

    /// Parses the header `traceparent`, as <https://www.w3.org/TR/trace-context/> specifies it; `None` if it is not
    /// valid.
    pub fn from_traceparent(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let version = hex::<1>(parts.next()?)?;
        let trace_id = hex(parts.next()?)?;
        let span_id = hex(parts.next()?)?;
        let [flags] = hex::<1>(parts.next()?)?;
        // A later version may add parts. The first version has four.
        let is_readable = match version {
            [0] => parts.next().is_none(),
            [version] => version != 0xff,
        };
        Self::new(trace_id, span_id, flags).filter(|_| is_readable)
    }

    /// Reads the stored form, which [`TraceContext::to_bytes`] writes; `None` if the bytes are not in that form.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (span_id, rest) = rest.split_first_chunk()?;
        let [flags] = *rest else { return None };
        Self::new(*trace_id, *span_id, flags)
    }

    /// Returns the stored form.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [self.flags; Self::BYTES];
        bytes[..TRACE_ID_BYTES].copy_from_slice(&self.trace_id);
        bytes[TRACE_ID_BYTES..Self::BYTES - 1].copy_from_slice(&self.span_id);
        bytes
    }

    /// Returns the id of the trace.
    pub fn trace_id(&self) -> TraceId {
        TraceId(self.trace_id)
    }

    /// Returns the id of the span.
    pub fn span_id(&self) -> [u8; SPAN_ID_BYTES] {
        self.span_id
    }

    /// Returns the flags, as in `traceparent`.
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Returns whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// The id of a trace. It is displayed as 32 hexadecimal digits, the form in which people search for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub [u8; TRACE_ID_BYTES]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Parses exactly this many bytes in lower-case hexadecimal digits.
fn hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut bytes = [0; BYTES];
    if pairs.len() != BYTES || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_traceparent_is_read_as_the_specification_has_it() {
        let read = |header: String| TraceContext::from_traceparent(&header);
        let context = read(format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(context.trace_id().to_string(), TRACE);
        assert_eq!(context.span_id(), [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert!(context.is_sampled());
        assert!(!read(format!("00-{TRACE}-{SPAN}-00")).unwrap().is_sampled());
        // A later version, with a part that is unknown today.
        assert_eq!(read(format!("01-{TRACE}-{SPAN}-01-more")), Some(context));
        let (no_trace, no_span) = ("0".repeat(32), "0".repeat(16));
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{no_trace}-{SPAN}-01"),
            format!("00-{TRACE}-{no_span}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-é{}-01", &SPAN[2..]),
        ] {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn the_stored_form_is_read_back_and_nothing_else() {
        let context = TraceContext::from_traceparent(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        let bytes = context.to_bytes();
        assert_eq!(TraceContext::from_bytes(&bytes), Some(context));
        for bad in [&bytes[1..], &[0; 25], b"", &[1; 26]] {
            assert_eq!(TraceContext::from_bytes(bad), None);
        }
    }
}
