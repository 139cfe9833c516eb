//! gRPC-Web (grpc/grpc doc/PROTOCOL-WEB.md): calls of clients that cannot read trailers, translated as they pass.
//!
//! What such a client sends is a call's messages as they are, or in base64. What it gets are the messages and, as the last
//! of them, the trailers.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::{Body as _, Frame, SizeHint};

use super::body::{Body, BodyError, Recode};
use super::grpc;

/// What content types of gRPC-Web begin with.
const KIND: &[u8] = b"application/grpc-web";

/// What they begin with where messages are in base64.
const TEXT: &[u8] = b"-text";

/// The flag of the last message, which holds trailers.
const TRAILERS: u8 = 0x80;

/// What a call is told that ended without a status.
const UNTOLD: &str = "grpc-status:2\r\ngrpc-message:The service ended the call without a status\r\n";

/// What belongs behind the messages and stands in the head where there are none.
const TRAILING: [HeaderName; 4] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static("grpc-retry-pushback-ms"),
];

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Binary,
    /// In base64.
    Text,
}

/// A call of gRPC-Web.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// How its messages are written.
    pub request: Form,
    /// How the answer's are to be.
    pub answer: Form,
}

impl Call {
    /// The call that the sender of these headers makes, if it is one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let (request, _) = kind(headers.get(CONTENT_TYPE)?)?;
        let wants = |line: &HeaderValue| {
            let kinds = line.as_bytes().split(|byte| *byte == b',');
            kinds.map(<[u8]>::trim_ascii).find_map(|kind| parts(kind).map(|(form, _)| form))
        };
        let answer = headers.get_all(ACCEPT).iter().find_map(wants).unwrap_or(request);
        Some(Self { request, answer })
    }
}

fn kind(value: &HeaderValue) -> Option<(Form, &[u8])> {
    parts(value.as_bytes())
}

/// The form that a content type names, and what follows it: `+proto`.
fn parts(kind: &[u8]) -> Option<(Form, &[u8])> {
    let rest = kind.strip_prefix(KIND)?;
    let (form, rest) = rest.strip_prefix(TEXT).map_or((Form::Binary, rest), |rest| (Form::Text, rest));
    rest.first().is_none_or(|byte| matches!(byte, b'+' | b';' | b' ')).then_some((form, rest))
}

/// Makes the head of a call what it is in gRPC.
pub fn translate(headers: &mut HeaderMap) {
    let translated = headers.get(CONTENT_TYPE).and_then(|value| {
        let (_, rest) = kind(value)?;
        HeaderValue::from_bytes(&[b"application/grpc", rest].concat()).ok()
    });
    if let Some(translated) = translated {
        headers.insert(CONTENT_TYPE, translated);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.remove(ACCEPT);
    }
}

/// Makes an answer of gRPC one of gRPC-Web. What is no answer of gRPC stays what it is.
pub fn answer(response: &mut Response<Body>, form: Form) {
    if !grpc::is_grpc(response.headers()) {
        return;
    }
    let body = std::mem::take(response.body_mut());
    let headers = response.headers_mut();
    let rest = headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| &kind.as_bytes()[b"application/grpc".len()..]);
    let middle = if form == Form::Text { TEXT } else { b"" };
    if let Ok(kind) = HeaderValue::from_bytes(&[KIND, middle, rest].concat()) {
        headers.insert(CONTENT_TYPE, kind);
    }
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRAILER);
    let outcome = Outcome::default();
    let body = if body.is_end_stream() {
        let mut trailers = HeaderMap::new();
        for name in TRAILING {
            if let Some(value) = headers.remove(&name) {
                trailers.insert(name, value);
            }
        }
        Body::full(written(&last(Some(&trailers), &outcome), form))
    } else {
        Body::Other(Box::new(Translated { body, form, outcome: outcome.clone(), is_over: false }))
    };
    *response.body_mut() = body;
    response.extensions_mut().insert(outcome);
}

/// What came of a call, for who does not see its trailers.
#[derive(Clone, Debug, Default)]
pub struct Outcome(Arc<OnceLock<&'static str>>);

impl Outcome {
    /// The name of its status, once it is known.
    pub fn status(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

/// The messages of an answer, and behind them its trailers.
struct Translated {
    body: Body,
    form: Form,
    outcome: Outcome,
    is_over: bool,
}

impl http_body::Body for Translated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()?;
        let bytes = match frame.map(Frame::into_data) {
            Some(Ok(data)) => data,
            behind => {
                this.is_over = true;
                let trailers = behind.and_then(Result::err).and_then(|frame| frame.into_trailers().ok());
                last(trailers.as_ref(), &this.outcome)
            }
        };
        Poll::Ready(Some(Ok(Frame::data(written(&bytes, this.form)))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Each piece is whole in itself, with its padding: a message is not to wait for the next one.
fn written(bytes: &Bytes, form: Form) -> Bytes {
    match form {
        Form::Binary => bytes.clone(),
        Form::Text => STANDARD.encode(bytes).into(),
    }
}

/// The message that holds trailers.
fn last(trailers: Option<&HeaderMap>, outcome: &Outcome) -> Bytes {
    let status = trailers.and_then(grpc::status);
    if let Some(status) = status {
        // Told once.
        let _ = outcome.0.set(status);
    }
    let mut block = BytesMut::new();
    for (name, value) in trailers.into_iter().flatten() {
        // Without a space: some clients take it for part of the value.
        for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
            block.extend_from_slice(part);
        }
    }
    if status.is_none() {
        block.extend_from_slice(UNTOLD.as_bytes());
    }
    let mut message = BytesMut::with_capacity(block.len() + 5);
    message.put_u8(TRAILERS);
    message.put_u32(u32::try_from(block.len()).unwrap_or(u32::MAX));
    message.extend_from_slice(&block);
    message.freeze()
}

/// Reads base64 of which every piece may have its own padding.
#[derive(Debug, Default)]
pub struct Base64 {
    /// The begin of a group of four.
    held: [u8; 4],
    length: usize,
}

impl Recode for Base64 {
    fn feed(&mut self, mut bytes: &[u8], is_last: bool) -> Result<Bytes, BodyError> {
        let mut out = Vec::with_capacity(bytes.len() / 4 * 3 + 3);
        while !bytes.is_empty() {
            if self.length > 0 || bytes.len() < 4 {
                let (byte, rest) = bytes.split_at(1);
                self.held[self.length] = byte[0];
                self.length += 1;
                bytes = rest;
                if self.length == 4 {
                    self.length = 0;
                    read(&self.held, &mut out)?;
                }
                continue;
            }
            let whole = bytes.len() / 4 * 4;
            // Padding ends a piece, and another may follow.
            let end = memchr::memchr(b'=', &bytes[..whole]).map_or(whole, |padding| (padding / 4 + 1) * 4);
            read(&bytes[..end], &mut out)?;
            bytes = &bytes[end..];
        }
        if is_last && self.length > 0 { Err(BodyError::ClientMalformed) } else { Ok(out.into()) }
    }
}

fn read(text: &[u8], out: &mut Vec<u8>) -> Result<(), BodyError> {
    STANDARD.decode_vec(text, out).map_err(|_| BodyError::ClientMalformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_call_is_known_by_its_content_type_and_answered_as_it_asks() {
        use Form::{Binary, Text};
        for (kind, accept, call) in [
            ("application/grpc-web", "", Some((Binary, Binary))),
            ("application/grpc-web+proto", "*/*", Some((Binary, Binary))),
            ("application/grpc-web-text", "", Some((Text, Text))),
            ("application/grpc-web-text+proto", "application/grpc-web-text", Some((Text, Text))),
            ("application/grpc-web+proto", "application/grpc-web-text+proto", Some((Binary, Text))),
            ("application/grpc-web-text;x=y", "text/html, application/grpc-web", Some((Text, Binary))),
            ("application/grpc-website", "", None),
            ("application/grpc", "application/grpc-web", None),
            ("application/json", "", None),
        ] {
            let found = Call::of(&headers(&[("content-type", kind), ("accept", accept)]));
            assert_eq!(found.map(|call| (call.request, call.answer)), call, "{kind}, {accept}");
        }
        let mut map = headers(&[("content-type", "application/grpc-web-text+proto"), ("accept", "*/*"), ("x-a", "b")]);
        translate(&mut map);
        assert_eq!(map, headers(&[("content-type", "application/grpc+proto"), ("te", "trailers"), ("x-a", "b")]));
    }

    #[test]
    fn base64_is_read_however_it_is_cut_and_padded() {
        let text = b"AAAAAAVoZWxsbw==AAAAAAE=eA==AAAA";
        let mut bytes = b"\0\0\0\0\x05hello\0\0\0\0\x01x\0\0\0".to_vec();
        for size in 1..text.len() {
            let mut reader = Base64::default();
            let mut out = Vec::new();
            let pieces: Vec<_> = text.chunks(size).collect();
            for (place, piece) in pieces.iter().enumerate() {
                out.extend(reader.feed(piece, place + 1 == pieces.len()).unwrap());
            }
            assert_eq!(out, bytes, "in pieces of {size}");
        }
        bytes.clear();
        for text in ["AAA", "A", "AA=A", "====", "A===", "AA==A", "AA\r\n", "AA-_", "AB=="] {
            let read = Base64::default().feed(text.as_bytes(), true);
            assert_eq!(read, Err(BodyError::ClientMalformed), "{text}");
        }
        assert_eq!(Base64::default().feed(b"", true), Ok(Bytes::new()));
    }

    #[test]
    fn trailers_are_the_last_message_and_a_call_without_a_status_is_no_success() {
        let outcome = Outcome::default();
        let message = last(Some(&headers(&[("grpc-status", "5"), ("x-why", "a: b")])), &outcome);
        assert_eq!(&message[..], b"\x80\0\0\0\x1bgrpc-status:5\r\nx-why:a: b\r\n");
        assert_eq!(outcome.status(), Some("NOT_FOUND"));
        let outcome = Outcome::default();
        let message = last(None, &outcome);
        assert!(message[5..].starts_with(b"grpc-status:2\r\n"));
        assert_eq!((outcome.status(), message.len() - 5), (None, usize::from(message[4])));
    }
}
