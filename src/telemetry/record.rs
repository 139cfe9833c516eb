//! The record of an exchange: the facts its access-log line is written from.
//!
//! Policies, upstreams and the proxy push what they know while the exchange is in flight; `access_log` turns the whole
//! into one line when it is over. A record keeps its buffers over [`Record::clear`], so the steady state allocates
//! nothing.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, Method, Version};
use smallvec::SmallVec;

use super::trace::RequestId;

/// The most verdicts, attempts and headers of a record that are logged; the rest is left out.
pub const ROWS_MAX: usize = 64;

/// The most bytes of host, path, query or one header value kept in a record; the rest is cut off.
pub const TEXT_MAX: usize = 8 * 1024;

/// The most bytes of text capacity that a cleared record keeps.
const TEXT_KEPT: usize = 4 * 1024;

/// What stands for a method that could not be read.
pub fn unread_method() -> Method {
    // A dash is a token, so that this is one; no client's request gets as far as to be taken for it.
    Method::from_bytes(b"-").unwrap_or_default()
}

/// How a policy's word is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Enforcement {
    /// The policy decides.
    #[default]
    Enforce,
    /// The policy is asked and its word is written down, never acted on.
    Shadow,
}

impl Enforcement {
    /// The word in logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// What a policy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VerdictWord {
    /// It has no objection.
    Pass,
    /// It has no objection, and changes the request or the response.
    Amend,
    /// It answers in place of the action.
    Answer,
    /// It refuses.
    Reject,
}

impl VerdictWord {
    /// Every word, in the order of [`index`](Self::index).
    pub const ALL: [Self; 4] = [Self::Pass, Self::Amend, Self::Answer, Self::Reject];

    /// The word in logs and metric labels. Where the policy does not decide, a word that would have changed something
    /// says so: `would_reject`.
    pub fn as_str(self, mode: Enforcement) -> &'static str {
        match (self, mode) {
            (Self::Pass, _) => "pass",
            (Self::Amend, Enforcement::Enforce) => "amend",
            (Self::Amend, _) => "would_amend",
            (Self::Answer, Enforcement::Enforce) => "answer",
            (Self::Answer, _) => "would_answer",
            (Self::Reject, Enforcement::Enforce) => "reject",
            (Self::Reject, _) => "would_reject",
        }
    }

    /// The position in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        self as usize
    }
}

/// One policy's word about the exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictRow {
    /// The policy's name, as in the configuration.
    pub policy: &'static str,
    /// The stage it was asked at.
    pub stage: &'static str,
    /// What it said.
    pub verdict: VerdictWord,
    /// The slug of its reason, if it refused or would have.
    pub reason: Option<&'static str>,
    /// What operators are told beyond the reason, such as `jwt_expired`.
    pub cause: Option<Cow<'static, str>>,
    /// Whether its word counted.
    pub mode: Enforcement,
}

/// One try to get the answer from an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// The endpoint's address: `host:port` or a socket path.
    pub addr: Arc<str>,
    /// The slug of what came of it.
    pub outcome: &'static str,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// What operators are told beyond the outcome, if there was no answer.
    pub cause: Option<Cow<'static, str>>,
    /// From checkout to the response head, or to the failure.
    pub duration: Duration,
    /// It came as far as the endpoint: armiger had a place for it, and a socket.
    pub was_asked: bool,
}

/// One part of an aggregated answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRow {
    /// Its name.
    pub part: Arc<str>,
    /// The name of the upstream asked.
    pub upstream: Arc<str>,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// `ok`, or the slug of what went wrong.
    pub outcome: &'static str,
    /// From its begin to its end.
    pub duration: Duration,
}

/// Who cut an answer short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutBy {
    /// The client went away.
    Client,
    /// The upstream broke off.
    Upstream,
    /// A deadline of ours passed.
    Deadline,
    /// The credential that the request was let in by has ended.
    Credential,
}

impl CutBy {
    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Deadline => "deadline",
            Self::Credential => "credential",
        }
    }
}

/// The facts of one exchange. What stays unset is left out of the line.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the request head was complete.
    pub time: SystemTime,
    /// The exchange's name in logs and answers.
    pub request_id: Option<RequestId>,
    /// The trace it belongs to; all zero for none.
    pub trace_id: [u8; 16],
    /// The client, after trusted proxies have been believed.
    pub client: Option<IpAddr>,
    /// The request's method.
    pub method: Method,
    /// The request's protocol version.
    pub version: Version,
    /// The status sent to the client; 0 if none was.
    pub status: u16,
    /// The name of the status of a gRPC call, if it is one.
    pub grpc_status: Option<&'static str>,
    /// The name of the route that matched.
    pub route: Option<Arc<str>>,
    /// The name of the listener that accepted the connection.
    pub listener: Option<Arc<str>>,
    /// The name of the upstream asked.
    pub upstream: Option<Arc<str>>,
    /// The slug of the reason, if armiger refused or failed.
    pub reason: Option<&'static str>,
    /// What stood in for an upstream that failed.
    pub fallback: Option<&'static str>,
    /// From the request head to the end of the answer.
    pub duration: Duration,
    /// Body bytes received from the client.
    pub bytes_in: u64,
    /// Body bytes sent to the client.
    pub bytes_out: u64,
    /// The answer reached its end.
    pub complete: bool,
    /// Who cut it short, if it did not.
    pub cut_by: Option<CutBy>,
    /// The upstream's answer ended before all of the request had gone to it.
    pub upload_cut: bool,
    /// The policies' verdicts, in the order they were asked.
    pub verdicts: SmallVec<[VerdictRow; 4]>,
    /// The attempts to get the answer, in the order they were made.
    pub attempts: SmallVec<[AttemptRow; 2]>,
    /// Which of them are of `upstream`, where another was asked as well. None: all.
    pub attempts_of_upstream: Option<Range<usize>>,
    /// The parts of an aggregated answer, in the order they ended.
    pub parts: Vec<PartRow>,
    /// Host, path, query and header values, one after the other.
    text: Vec<u8>,
    host: Range<usize>,
    path: Range<usize>,
    query: Option<Range<usize>>,
    headers: SmallVec<[(HeaderName, Range<usize>); 2]>,
    /// Few ask for any, so they take no room in the record.
    response_headers: Vec<(HeaderName, Range<usize>)>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            time: UNIX_EPOCH,
            request_id: None,
            trace_id: [0; 16],
            client: None,
            method: Method::GET,
            version: Version::HTTP_11,
            status: 0,
            grpc_status: None,
            route: None,
            listener: None,
            upstream: None,
            reason: None,
            fallback: None,
            duration: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            complete: false,
            cut_by: None,
            upload_cut: false,
            verdicts: SmallVec::new(),
            attempts: SmallVec::new(),
            attempts_of_upstream: None,
            parts: Vec::new(),
            text: Vec::new(),
            host: 0..0,
            path: 0..0,
            query: None,
            headers: SmallVec::new(),
            response_headers: Vec::new(),
        }
    }
}

impl Record {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// The attempt that came to an endpoint of the upstream last. None where the answer is not an upstream's alone.
    pub fn last_asked(&self) -> Option<&AttemptRow> {
        self.attempts_of_its_own()?.iter().rfind(|attempt| attempt.was_asked)
    }

    /// Why the last of these had no answer.
    pub fn last_cause(&self) -> Option<&str> {
        self.attempts_of_its_own()?.last()?.cause.as_deref()
    }

    fn attempts_of_its_own(&self) -> Option<&[AttemptRow]> {
        self.upstream.as_ref()?;
        Some(match &self.attempts_of_upstream {
            None => &self.attempts[..],
            Some(own) => self.attempts.get(own.start..own.end.min(self.attempts.len())).unwrap_or_default(),
        })
    }

    /// Forgets every fact and keeps the buffers.
    pub fn clear(&mut self) {
        // Field by field, in place: a record is large, and this runs once per exchange. Without `..`, so that a new
        // field cannot be forgotten.
        let Self {
            time,
            request_id,
            trace_id,
            client,
            method,
            version,
            status,
            grpc_status,
            route,
            listener,
            upstream,
            reason,
            fallback,
            duration,
            bytes_in,
            bytes_out,
            complete,
            cut_by,
            upload_cut,
            verdicts,
            attempts,
            attempts_of_upstream,
            parts,
            text,
            host,
            path,
            query,
            headers,
            response_headers,
        } = self;
        *time = UNIX_EPOCH;
        *request_id = None;
        *trace_id = [0; 16];
        *client = None;
        *method = Method::GET;
        *version = Version::HTTP_11;
        *status = 0;
        *grpc_status = None;
        (*route, *listener, *upstream) = (None, None, None);
        *reason = None;
        *fallback = None;
        *duration = Duration::ZERO;
        (*bytes_in, *bytes_out) = (0, 0);
        *complete = false;
        *cut_by = None;
        *upload_cut = false;
        verdicts.clear();
        attempts.clear();
        *attempts_of_upstream = None;
        parts.clear();
        text.clear();
        // After a request with a large head; a spare record is not to hold its bytes.
        text.shrink_to(TEXT_KEPT);
        (*host, *path, *query) = (0..0, 0..0, None);
        headers.clear();
        response_headers.clear();
    }

    /// Sets the host the client asked for. Any bytes are allowed here and in the other texts.
    pub fn set_host(&mut self, host: &[u8]) {
        self.host = self.store(host);
    }

    /// Sets the normalised path, without the query.
    pub fn set_path(&mut self, path: &[u8]) {
        self.path = self.store(path);
    }

    /// Sets the query, without its question mark; it is logged only where the configuration says so, and redacted.
    pub fn set_query(&mut self, query: Option<&[u8]>) {
        self.query = query.map(|query| self.store(query));
    }

    /// Adds a request header. `access_log` shows it if the configuration says so, and the values of credentials as
    /// `***`, whoever adds them.
    pub fn push_header(&mut self, name: &HeaderName, value: &[u8]) {
        if self.headers.len() < ROWS_MAX {
            let range = self.store(value);
            self.headers.push((name.clone(), range));
        }
    }

    /// Adds a header of the answer, likewise.
    pub fn push_response_header(&mut self, name: &HeaderName, value: &[u8]) {
        if self.response_headers.len() < ROWS_MAX {
            let range = self.store(value);
            self.response_headers.push((name.clone(), range));
        }
    }

    /// The host the client asked for; empty if unset.
    pub fn host(&self) -> &[u8] {
        &self.text[self.host.clone()]
    }

    /// The normalised path; empty if unset.
    pub fn path(&self) -> &[u8] {
        &self.text[self.path.clone()]
    }

    /// The query as it was sent, secrets included.
    pub fn query(&self) -> Option<&[u8]> {
        self.query.clone().map(|range| &self.text[range])
    }

    /// The request headers that were kept, as they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&HeaderName, &[u8])> {
        self.headers.iter().map(|(name, range)| (name, &self.text[range.clone()]))
    }

    /// The headers of the answer that were kept, as they were sent.
    pub fn response_headers(&self) -> impl Iterator<Item = (&HeaderName, &[u8])> {
        self.response_headers.iter().map(|(name, range)| (name, &self.text[range.clone()]))
    }

    fn store(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(&bytes[..bytes.len().min(TEXT_MAX)]);
        start..self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleared_record_equals_a_new_one_and_keeps_its_buffer() {
        let mut record = Record::new();
        record.set_host(b"shop.example.com");
        record.set_path(b"/orders");
        record.set_query(Some(b"a=1"));
        record.push_header(&http::header::USER_AGENT, b"curl");
        record.push_response_header(&http::header::LOCATION, b"/");
        record.attempts.push(AttemptRow {
            addr: "127.0.0.1:1".into(),
            outcome: "ok",
            status: Some(200),
            cause: None,
            duration: Duration::ZERO,
            was_asked: true,
        });
        record.status = 200;
        record.complete = true;
        record.cut_by = Some(CutBy::Client);
        let capacity = record.text.capacity();
        record.clear();
        assert_eq!(format!("{record:?}"), format!("{:?}", Record::new()));
        assert_eq!(record.text.capacity(), capacity);
    }

    #[test]
    fn texts_are_kept_apart() {
        let mut record = Record::new();
        record.set_path(b"/p");
        record.set_host(b"h");
        record.push_header(&http::header::USER_AGENT, b"ua");
        record.set_query(Some(b""));
        assert_eq!((record.host(), record.path(), record.query()), (&b"h"[..], &b"/p"[..], Some(&b""[..])));
        assert_eq!(record.headers().collect::<Vec<_>>(), [(&http::header::USER_AGENT, &b"ua"[..])]);
        record.set_query(None);
        assert_eq!(record.query(), None);
    }

    #[test]
    fn what_a_client_sends_is_kept_within_bounds() {
        let mut record = Record::new();
        for _ in 0..1_000 {
            record.push_header(&http::header::USER_AGENT, b"x");
        }
        record.set_path(&[b'x'; 2 * TEXT_MAX]);
        assert_eq!(record.headers().count(), ROWS_MAX);
        assert_eq!(record.path().len(), TEXT_MAX);
    }

    #[test]
    fn every_verdict_word_is_at_its_index() {
        for (index, word) in VerdictWord::ALL.into_iter().enumerate() {
            assert_eq!(word.index(), index, "{word:?}");
        }
    }
}
