//! WebSocket (RFC 6455) as a proxy sees it: the handshake, and where frames end.
//!
//! What is in frames is between client and back end. armiger follows their lengths only, so that it can end a conversation
//! between two of them with a word of its own.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Version};

/// A request to speak WebSocket, and the answer to its key that proves that it was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    accept: String,
}

impl Wish {
    /// Takes out of a request what is left of its wish: an upstream that looks at no more than that would grant it.
    pub fn take_out(headers: &mut HeaderMap) {
        for name in [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_EXTENSIONS] {
            headers.remove(name);
        }
    }

    /// What a request wishes that asks for the upgrade `upgrade`. None if it is no whole handshake (RFC 6455 §4.1).
    pub fn of<B>(request: &Request<B>, upgrade: Option<&HeaderValue>) -> Option<Self> {
        let headers = request.headers();
        let is_asked = *request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && upgrade.is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && only(headers, &SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
        // Looked for only then: a look-up costs more than all of the above.
        let key = is_asked.then(|| only(headers, &SEC_WEBSOCKET_KEY)).flatten()?;
        let is_key = STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
        is_key.then(|| Self::with_key(key.as_bytes()))
    }

    /// Whether a request of HTTP/2 wishes to speak WebSocket on its stream (RFC 8441 §4).
    pub fn is_extended_connect<B>(request: &Request<B>) -> bool {
        let protocol = request.extensions().get::<hyper::ext::Protocol>();
        *request.method() == Method::CONNECT && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
    }

    /// Makes of the 101 that grants it the answer of HTTP/2 (RFC 8441 §5).
    pub fn grant_stream<B>(response: &mut http::Response<B>) {
        *response.status_mut() = http::StatusCode::OK;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
            response.headers_mut().remove(name);
        }
    }

    /// Makes of a request that asks for an upgrade the one that asks for a stream of HTTP/2 instead (RFC 8441 §5). Its
    /// protocol is told when it is sent, see [`Wish::name_protocol`].
    pub fn ask_for_stream<B>(request: &mut Request<B>) {
        *request.method_mut() = Method::CONNECT;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY, CONTENT_LENGTH] {
            request.headers_mut().remove(name);
        }
    }

    /// Tells the protocol of a request for a stream.
    pub fn name_protocol<B>(request: &mut Request<B>) {
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    }

    /// Makes of the answer that grants a stream the 101 that grants this wish. Nobody else can say so: the back end never
    /// saw the key.
    pub fn grant_upgrade(&self, head: &mut http::response::Parts) {
        head.status = http::StatusCode::SWITCHING_PROTOCOLS;
        head.headers.remove(CONTENT_LENGTH);
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            head.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
    }

    /// A wish with a key of armiger's own, which is written to `headers`.
    pub fn own(headers: &mut HeaderMap) -> Self {
        let nonce: [u8; 16] = fastrand::u128(..).to_be_bytes();
        let key = STANDARD.encode(nonce);
        let wish = Self::with_key(key.as_bytes());
        if let Ok(key) = HeaderValue::try_from(key) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        wish
    }

    fn with_key(key: &[u8]) -> Self {
        /// RFC 6455 §1.3.
        const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
        Self { accept: STANDARD.encode(proof) }
    }

    /// Whether these headers of a 101 grant it (RFC 6455 §4.2.2).
    pub fn is_granted(&self, headers: &HeaderMap) -> bool {
        let names_upgrade = headers.get_all(CONNECTION).iter().any(|line| {
            line.as_bytes()
                .split(|byte| *byte == b',')
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        });
        names_upgrade
            && only(headers, &UPGRADE).is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
            && only(headers, &SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| accept == self.accept)
    }

    /// Writes the headers that ask for, or grant, an upgrade on one hop.
    pub fn name_upgrade(headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// The one value of a header, without blanks around it.
fn only<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok().map(str::trim) }
}

/// Follows frames to see where each ends.
#[derive(Debug, Default)]
pub struct FrameFollower {
    /// What has come of a frame's head.
    head: [u8; HEAD_MAX],
    length: usize,
    /// Bytes of its payload that are still to come.
    payload: u64,
}

/// The bytes that a frame's head has at most (RFC 6455 §5.2).
const HEAD_MAX: usize = 14;

impl FrameFollower {
    /// Whether the next byte begins a frame.
    pub fn is_between(&self) -> bool {
        self.length == 0 && self.payload == 0
    }

    /// Follows all of `bytes`.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.to_end(bytes);
            bytes = &bytes[taken..];
        }
    }

    /// Follows `bytes` to the end of the present frame, and says how many of them belong to it.
    pub fn to_end(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.payload > 0 {
                let here = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.payload -= here as u64;
                at += here;
            } else {
                self.head[self.length] = bytes[at];
                self.length += 1;
                at += 1;
                if self.length < self.needed() {
                    continue;
                }
                self.payload = self.announced();
                self.length = 0;
            }
            if self.is_between() {
                break;
            }
        }
        at
    }

    /// How long the head is, as far as it can tell.
    fn needed(&self) -> usize {
        if self.length < 2 {
            return 2;
        }
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        mask + match self.head[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        }
    }

    fn announced(&self) -> u64 {
        let [_, second, digits @ ..] = &self.head;
        let number = |length| digits[..length].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match second & 0x7f {
            126 => number(2),
            127 => number(8),
            short => u64::from(short),
        }
    }
}

/// Why armiger ends a conversation (RFC 6455 §7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// armiger ends.
    GoingAway,
    /// What the caller proved has ended.
    PolicyViolation,
}

impl Goodbye {
    fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::PolicyViolation => 1008,
        }
    }

    /// The close frame for the client.
    pub fn to_client(self) -> Vec<u8> {
        let [high, low] = self.code().to_be_bytes();
        vec![0x88, 2, high, low]
    }

    /// The close frame for the back end. What clients send is masked (RFC 6455 §5.3).
    pub fn to_server(self) -> Vec<u8> {
        let [high, low] = self.code().to_be_bytes();
        let mask @ [first, second, ..] = fastrand::u32(..).to_be_bytes();
        [&[0x88, 0x82][..], &mask, &[high ^ first, low ^ second]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut Request<()>)) -> Request<()> {
        let mut request = Request::get("/chat")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap();
        change(&mut request);
        request
    }

    #[test]
    fn only_a_whole_handshake_is_a_wish() {
        let websocket = HeaderValue::from_static("WebSocket");
        let wish = Wish::of(&request(|_| {}), Some(&websocket)).unwrap();
        // The example of RFC 6455 §1.3.
        assert_eq!(wish.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(Wish::of(&request(|_| {}), None), None);
        assert_eq!(Wish::of(&request(|_| {}), Some(&HeaderValue::from_static("h2c"))), None);
        for change in [
            (|request| *request.method_mut() = Method::POST) as fn(&mut Request<()>),
            |request| *request.version_mut() = Version::HTTP_10,
            |request| *request.version_mut() = Version::HTTP_2,
            |request| drop(request.headers_mut().remove(SEC_WEBSOCKET_KEY)),
            |request| drop(request.headers_mut().insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("short"))),
            |request| assert!(request.headers_mut().append(SEC_WEBSOCKET_KEY, HeaderValue::from_static("x"))),
            |request| drop(request.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"))),
        ] {
            assert_eq!(Wish::of(&request(change), Some(&websocket)), None);
        }
    }

    #[test]
    fn an_upgrade_is_granted_only_by_the_whole_answer() {
        let mut asked = HeaderMap::new();
        let wish = Wish::own(&mut asked);
        let mut answer = HeaderMap::new();
        Wish::name_upgrade(&mut answer);
        assert!(!wish.is_granted(&answer));
        answer.insert(SEC_WEBSOCKET_ACCEPT, wish.accept.parse().unwrap());
        assert!(wish.is_granted(&answer));
        for (name, value) in [("upgrade", "h2c"), ("connection", "keep-alive"), ("sec-websocket-accept", "x")] {
            let mut other = answer.clone();
            other.insert(name, HeaderValue::from_static(value));
            assert!(!wish.is_granted(&other), "{name}: {value}");
        }
    }

    #[test]
    fn frames_are_followed_however_they_are_cut_up() {
        let mut frames = Vec::new();
        for (length, is_masked) in [(0, false), (5, true), (125, false), (126, true), (70_000, false), (1, true)] {
            let mask = if is_masked { 0x80 } else { 0 };
            let mut frame = match length {
                0..126 => vec![0x82, mask | length as u8],
                126..65_536 => [&[0x82, mask | 126][..], &(length as u16).to_be_bytes()].concat(),
                _ => [&[0x82, mask | 127][..], &(length as u64).to_be_bytes()].concat(),
            };
            frame.extend([7; 4].iter().take(if is_masked { 4 } else { 0 }));
            frame.extend(std::iter::repeat_n(0xff, length));
            frames.push(frame);
        }
        let all = frames.concat();
        for step in [1, 2, 3, 7, 1000, all.len()] {
            let mut follower = FrameFollower::default();
            let mut ends = Vec::new();
            let mut at = 0;
            while at < all.len() {
                let chunk = &all[at..all.len().min(at + step)];
                at += follower.to_end(chunk);
                if follower.is_between() {
                    ends.push(at);
                }
            }
            let expected: Vec<usize> = frames
                .iter()
                .scan(0, |end, frame| {
                    *end += frame.len();
                    Some(*end)
                })
                .collect();
            assert_eq!(ends, expected, "in steps of {step}");
        }
    }

    #[test]
    fn a_goodbye_is_a_close_frame_masked_for_the_back_end() {
        assert_eq!(Goodbye::GoingAway.to_client(), [0x88, 2, 3, 0xe9]);
        let frame = Goodbye::PolicyViolation.to_server();
        let code = [frame[6] ^ frame[2], frame[7] ^ frame[3]];
        assert_eq!((&frame[..2], u16::from_be_bytes(code)), (&[0x88, 0x82][..], 1008));
        let mut follower = FrameFollower::default();
        follower.follow(&frame);
        assert!(follower.is_between());
    }
}
