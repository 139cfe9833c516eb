//! W3C trace context in and out, and request ids.
//!
//! Rules from W3C Trace Context, Level 1 (Recommendation, 2021-11-23): §3.2 `traceparent`, §3.3 `tracestate`,
//! §4.3 "mutating the traceparent field". Request ids are UUIDv7 (RFC 9562 §5.7).

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use crate::http::headers::name::{TRACEPARENT, TRACESTATE};

/// The longest `tracestate` passed on, in bytes over all its lines (§3.3.1.5 asks for at least 512).
pub const TRACESTATE_LENGTH_MAX: usize = 512;

/// The most members of a `tracestate` passed on (§3.3.1.1).
pub const TRACESTATE_MEMBERS_MAX: usize = 32;

/// The length of a version 00 `traceparent`.
const TRACEPARENT_LENGTH: usize = 55;

const FLAG_SAMPLED: u8 = 0x01;

/// Where an exchange belongs in a distributed trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Identifies the whole trace; never all zero.
    pub trace_id: [u8; 16],
    /// The span that the next party has for its parent; never all zero. After `continue_or_start` this is the
    /// caller's span, or a new one if the trace starts here.
    pub span_id: [u8; 8],
    /// The caller may have recorded the trace. False if the trace starts here: set it when it is known to be recorded.
    ///
    /// A trap for whoever sends a started context on: parent-based samplers behind obey this flag, so `false` turns
    /// their sampling off and `true` samples everything. Send it only when armiger itself decides about sampling.
    pub sampled: bool,
    /// The caller sent a valid context; false if the trace starts here.
    pub continued: bool,
    /// The caller's `tracestate` may be passed on: it belongs to this trace and is within bounds.
    pub keep_tracestate: bool,
}

impl TraceContext {
    /// A new trace with random ids, not sampled.
    pub fn start() -> Self {
        Self {
            trace_id: fastrand::u128(1..).to_be_bytes(),
            span_id: random_span_id(),
            sampled: false,
            continued: false,
            keep_tracestate: false,
        }
    }

    /// The caller's trace, or a new one if there is no `traceparent`, more than one, or an invalid one.
    ///
    /// A trace that starts anew drops the caller's `tracestate`, for it belongs to another trace (§4.3).
    pub fn continue_or_start(headers: &HeaderMap) -> Self {
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        match (parents.next(), parents.next()) {
            (Some(parent), None) => match Self::parse(parent.as_bytes()) {
                Some(context) => Self { keep_tracestate: may_pass_tracestate(headers), ..context },
                None => Self::start(),
            },
            _ => Self::start(),
        }
    }

    /// Reads a `traceparent` (§3.2.2); `None` if it is invalid.
    ///
    /// Version 00 must match to the byte: lower-case hex, no zero ids, nothing behind the flags. Of higher versions
    /// the part that version 00 defines is read, and what follows it must begin with a dash (§3.2.4).
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(TRACEPARENT_LENGTH)?;
        let version = hex_byte(head[0], head[1])?;
        let length_is_valid = match version {
            0x00 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        if !length_is_valid || [head[2], head[35], head[52]] != [b'-'; 3] {
            return None;
        }
        let trace_id: [u8; 16] = hex_bytes(&head[3..35])?;
        let span_id: [u8; 8] = hex_bytes(&head[36..52])?;
        let flags = hex_byte(head[53], head[54])?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        let sampled = flags & FLAG_SAMPLED != 0;
        Some(Self { trace_id, span_id, sampled, continued: true, keep_tracestate: true })
    }

    /// The context as a version 00 `traceparent`. Unknown flags are zero (§3.2.2.5).
    pub fn traceparent(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.text()).expect("hex digits and dashes are visible ASCII")
    }

    fn text(&self) -> [u8; TRACEPARENT_LENGTH] {
        let mut text = [b'-'; TRACEPARENT_LENGTH];
        write_hex(&mut text[0..2], &[0]);
        write_hex(&mut text[3..35], &self.trace_id);
        write_hex(&mut text[36..52], &self.span_id);
        write_hex(&mut text[53..55], &[if self.sampled { FLAG_SAMPLED } else { 0 }]);
        text
    }

    /// Puts the context into a request: `traceparent` replaced, `tracestate` removed unless it may be passed on.
    ///
    /// A `traceparent` that says the same already is left alone, which is the rule when armiger records no spans.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        let is_same = matches!((parents.next(), parents.next()), (Some(one), None) if one.as_bytes() == self.text());
        if !is_same {
            headers.insert(&TRACEPARENT, self.traceparent());
        }
        if !self.keep_tracestate {
            headers.remove(&TRACESTATE);
        }
    }
}

/// Checks the bounds of the caller's `tracestate`, all of its lines together.
fn may_pass_tracestate(headers: &HeaderMap) -> bool {
    let (mut length, mut members, mut lines) = (0, 0, 0);
    for line in headers.get_all(&TRACESTATE) {
        let bytes = line.as_bytes();
        length += bytes.len();
        lines += 1;
        // Empty members are allowed and count for nothing (§3.3.1.1).
        members += bytes.split(|byte| *byte == b',').filter(|member| !member.trim_ascii().is_empty()).count();
    }
    // Lines are joined by a comma each when they are read as one.
    let joined = length + usize::saturating_sub(lines, 1);
    joined <= TRACESTATE_LENGTH_MAX && members <= TRACESTATE_MEMBERS_MAX
}

fn random_span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// What a request is called in logs and answers.
///
/// Made here (UUIDv7, 36 bytes) or taken over from a caller who is trusted to name it.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

/// Makes request ids whose texts lie together in one allocation, which ends with the last of them: an id stands in the
/// request, in the answer and in the log, and would cost an allocation for each of the first two.
#[derive(Default)]
pub struct Mint(BytesMut);

impl Mint {
    /// Twenty-eight ids: a long download that holds one of them holds no more than this.
    const BYTES: usize = 28 * RequestId::MADE_LENGTH;

    /// The id of a request that arrived at `now`: see [`RequestId::new`].
    pub fn make(&mut self, now: SystemTime) -> RequestId {
        if self.0.capacity() < RequestId::MADE_LENGTH {
            self.0 = BytesMut::with_capacity(Self::BYTES);
        }
        self.0.extend_from_slice(&RequestId::text(now));
        RequestId::made(self.0.split().freeze())
    }
}

impl RequestId {
    /// The length of an id made here.
    pub const MADE_LENGTH: usize = 36;

    /// The longest id taken over from a caller.
    pub const INBOUND_LENGTH_MAX: usize = 128;

    /// A new UUIDv7 for a request that arrived at `now` (RFC 9562 §5.7: 48 bits of Unix milliseconds, 74 random bits).
    ///
    /// Unique, not secret: the random bits are guessable, so an id must never serve as a credential.
    pub fn new(now: SystemTime) -> Self {
        Self::made(Bytes::copy_from_slice(&Self::text(now)))
    }

    fn made(text: Bytes) -> Self {
        Self(HeaderValue::from_maybe_shared(text).expect("hex digits and dashes are visible ASCII"))
    }

    fn text(now: SystemTime) -> [u8; Self::MADE_LENGTH] {
        let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let random = fastrand::u128(..);
        const VERSION: u128 = 0x7 << 76;
        const VARIANT: u128 = 0b10 << 62;
        const RANDOM: u128 = (0xfff << 64) | (u64::MAX >> 2) as u128;
        let bytes = ((millis << 80) | VERSION | VARIANT | (random & RANDOM)).to_be_bytes();
        let mut text = [b'-'; Self::MADE_LENGTH];
        for (at, part) in
            [(0, &bytes[0..4]), (9, &bytes[4..6]), (14, &bytes[6..8]), (19, &bytes[8..10]), (24, &bytes[10..])]
        {
            write_hex(&mut text[at..at + 2 * part.len()], part);
        }
        text
    }

    /// Whether a caller's id is safe to take over: `[A-Za-z0-9._-]{1,128}`, nothing that could break a log or header.
    pub fn accept_inbound(value: &HeaderValue) -> bool {
        let bytes = value.as_bytes();
        (1..=Self::INBOUND_LENGTH_MAX).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    }

    /// The caller's id, if it is acceptable. Whether the caller is trusted is for the caller of this to know.
    pub fn from_inbound(value: &HeaderValue) -> Option<Self> {
        Self::accept_inbound(value).then(|| Self(value.clone()))
    }

    /// The id as ASCII text.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("an id is ASCII by construction")
    }

    /// The id for `x-request-id`.
    pub fn to_header_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// Writes `bytes` as lower-case hex; `text` is twice as long.
pub(crate) fn write_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    static PAIRS: [[u8; 2]; 256] = {
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0x0f]];
            byte += 1;
        }
        pairs
    };
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&PAIRS[usize::from(*byte)]);
    }
}

/// The value of a hex digit; upper case is refused, as §3.2.2 demands.
fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    Some((hex_digit(high)? << 4) | hex_digit(low)?)
}

fn hex_bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = hex_byte(pair[0], pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(lines: &[(&http::HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_valid_parent_is_read_and_written_back() {
        let context = TraceContext::parse(PARENT.as_bytes()).unwrap();
        assert_eq!(context.trace_id[..3], [0x0a, 0xf7, 0x65]);
        assert_eq!(context.span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(context.sampled && context.continued);
        assert_eq!(context.traceparent(), PARENT);
    }

    #[test]
    fn the_grammar_is_strict_for_version_00_and_forward_compatible_above() {
        for (value, sampled) in [
            (PARENT, Some(true)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", Some(false)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fe", Some(false)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff", Some(true)),
            ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some(true)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes", Some(true)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-", Some(true)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-", None),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g", None),
            ("00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01", None),
            ("0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("", None),
            ("00", None),
            (" 0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
        ] {
            assert_eq!(TraceContext::parse(value.as_bytes()).map(|context| context.sampled), sampled, "{value:?}");
        }
    }

    #[test]
    fn a_broken_or_doubled_parent_starts_a_new_trace_without_the_old_state() {
        for lines in [
            vec![],
            vec![(&TRACEPARENT, "nonsense"), (&TRACESTATE, "a=1")],
            vec![(&TRACEPARENT, PARENT), (&TRACEPARENT, PARENT), (&TRACESTATE, "a=1")],
            vec![(&TRACESTATE, "a=1")],
        ] {
            let mut headers = headers(&lines);
            let context = TraceContext::continue_or_start(&headers);
            assert!(!context.continued && !context.keep_tracestate, "{lines:?}");
            assert_ne!(context.traceparent(), PARENT);
            context.write_to(&mut headers);
            assert_eq!(headers.get_all(&TRACEPARENT).iter().collect::<Vec<_>>(), [&context.traceparent()]);
            assert!(!headers.contains_key(&TRACESTATE));
            assert!(TraceContext::parse(context.traceparent().as_bytes()).is_some());
        }
    }

    #[test]
    fn a_higher_version_is_passed_on_as_version_00() {
        let mut headers = headers(&[(&TRACEPARENT, &PARENT.replacen("00", "cc", 1)), (&TRACESTATE, "a=1")]);
        TraceContext::continue_or_start(&headers).write_to(&mut headers);
        assert_eq!(headers[&TRACEPARENT], PARENT);
        assert_eq!(headers[&TRACESTATE], "a=1");
    }

    #[test]
    fn the_state_passes_within_its_bounds() {
        let members = |count: usize| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        for (lines, passes) in [
            (vec![String::new()], true),
            (vec![members(32)], true),
            (vec![members(32), " , ".to_owned()], true),
            (vec![members(33)], false),
            (vec![members(20), members(20)], false),
            (vec![format!("a={}", "x".repeat(510))], true),
            (vec![format!("a={}", "x".repeat(511))], false),
            (vec![format!("a={}", "x".repeat(254)), format!("b={}", "x".repeat(254))], false),
        ] {
            let mut headers = headers(&[(&TRACEPARENT, PARENT)]);
            for line in &lines {
                headers.append(&TRACESTATE, HeaderValue::from_str(line).unwrap());
            }
            let context = TraceContext::continue_or_start(&headers);
            assert!(context.continued);
            context.write_to(&mut headers);
            assert_eq!(headers.contains_key(&TRACESTATE), passes, "{lines:?}");
            assert_eq!(headers[&TRACEPARENT], PARENT, "the trace goes on whatever the state");
        }
    }

    #[test]
    fn a_made_id_is_a_uuid_of_version_7_that_sorts_by_time() {
        let at = |millis| RequestId::new(UNIX_EPOCH + Duration::from_millis(millis));
        // The time stamp of the example in RFC 9562, appendix A.6.
        let id = at(0x017f_22e2_79b0).as_str().to_owned();
        assert!(id.starts_with("017f22e2-79b0-7"), "{id}");
        assert_eq!(id.len(), RequestId::MADE_LENGTH);
        for (index, byte) in id.bytes().enumerate() {
            match index {
                8 | 13 | 18 | 23 => assert_eq!(byte, b'-', "{id}"),
                19 => assert!(b"89ab".contains(&byte), "{id}"),
                _ => assert!(hex_digit(byte).is_some(), "{id}"),
            }
        }
        assert!(at(1).as_str() < at(2).as_str());
        assert_ne!(at(1), at(1));
        assert_eq!(RequestId::new(UNIX_EPOCH - Duration::from_secs(1)).as_str()[..13], *"00000000-0000");
        assert_eq!(at(5).to_header_value().len(), 36);
    }

    #[test]
    fn an_inbound_id_is_taken_over_only_if_it_is_harmless() {
        for (value, accepted) in [
            ("a", true),
            ("A-Z.0_9", true),
            (&"x".repeat(128), true),
            (&"x".repeat(129), false),
            ("", false),
            ("with space", false),
            ("quote\"", false),
            ("semi;colon", false),
            ("slash/", false),
        ] {
            let header = HeaderValue::from_str(value).unwrap();
            assert_eq!(RequestId::accept_inbound(&header), accepted, "{value:?}");
            assert_eq!(RequestId::from_inbound(&header).map(|id| id.to_string()), accepted.then(|| value.to_owned()));
        }
        assert!(!RequestId::accept_inbound(&HeaderValue::from_bytes(b"\xff").unwrap()));
    }
}
