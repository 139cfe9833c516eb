//! The cache: what is stored and for whom, what is asked anew, who waits for whom, and what operators do with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{
    Answer, Armiger, Backend, Config, Connection, Files, Response, SECRET_YAML, Signal, Signer, answer, claims,
    streamed, within,
};

type Headers<'h> = &'h [(&'h str, &'h str)];

fn request(method: &str, target: &str, headers: Headers<'_>) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

async fn get(armiger: &Armiger, target: &str, headers: Headers<'_>) -> Response {
    armiger.request(request("GET", target, headers)).await
}

fn reply(status: u16, headers: Headers<'_>, body: impl Into<Bytes>) -> Answer {
    let mut reply = answer(status, body);
    for (name, value) in headers {
        reply.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    reply
}

/// Answers with a body that counts the requests of each target, and these headers.
async fn counting(headers: &'static [(&'static str, &'static str)]) -> Backend {
    let counts = Mutex::new(HashMap::<String, usize>::new());
    Backend::with(move |seen| {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(seen.target.clone()).or_default();
        *count += 1;
        reply(200, headers, count.to_string())
    })
    .await
}

async fn caching(backend: &Backend, policy: &str) -> Armiger {
    Armiger::with(Config::to(backend).policies(&format!("cache: {policy}"))).await
}

fn status(response: &Response) -> String {
    response.headers.get("cache-status").map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

// === conformance ===

/// One rule: an answer that is fetched by a first request, and what a second one gets.
struct Rule {
    rfc: &'static str,
    first: Headers<'static>,
    answer: (u16, Headers<'static>),
    second: (&'static str, Headers<'static>),
    /// Whether the second one is answered without the upstream.
    is_stored: bool,
    /// Its status.
    status: u16,
}

const fn rule(rfc: &'static str, answer: Headers<'static>, is_stored: bool) -> Rule {
    Rule { rfc, first: &[], answer: (200, answer), second: ("GET", &[]), is_stored, status: 200 }
}

const fn asked(
    rfc: &'static str,
    answer: Headers<'static>,
    second: Headers<'static>,
    is_stored: bool,
    status: u16,
) -> Rule {
    Rule { rfc, first: &[], answer: (200, answer), second: ("GET", second), is_stored, status }
}

const FRESH: Headers<'static> = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];
const AUTH: Headers<'static> = &[("authorization", "Basic YTpi")];

#[rustfmt::skip]
const RULES: &[Rule] = &[
    rule("9111 §3: explicit freshness", &[("cache-control", "max-age=60")], true),
    rule("9111 §4.2.2: nothing is guessed", &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], false),
    rule("9111 §5.3: Expires", &[("expires", "Fri, 31 Dec 2100 23:59:59 GMT")], true),
    rule("9111 §5.3: an invalid date is in the past", &[("expires", "0")], false),
    rule("9111 §5.2.2.1: max-age before Expires", &[("cache-control", "max-age=60"), ("expires", "0")], true),
    rule("9111 §5.2.2.10: s-maxage before max-age", &[("cache-control", "max-age=60, s-maxage=0")], false),
    rule("9111 §5.2.2.10", &[("cache-control", "max-age=0, s-maxage=60")], true),
    rule("9111 §5.2.2.5", &[("cache-control", "no-store, max-age=60")], false),
    rule("9111 §5.2.2.7", &[("cache-control", "private, max-age=60")], false),
    rule("9111 §5.2.2.4: must be asked first", &[("cache-control", "no-cache, max-age=60"), ("etag", "\"a\"")], false),
    rule("9111 §5.2: case does not count", &[("cache-control", "MAX-AGE=60")], true),
    rule("9111 §4.2.1: invalid is stale", &[("cache-control", "max-age=60x")], false),
    rule("9111 §4.2.3: Age counts", &[("cache-control", "max-age=60"), ("age", "61")], false),
    rule("9111 §4.2.3", &[("cache-control", "max-age=600"), ("age", "5")], true),
    rule("9111 §4.2.3: an old Date counts", &[("cache-control", "max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")], false),
    rule("9111 §4.1: Vary: *", &[("cache-control", "max-age=60"), ("vary", "*")], false),
    rule("9111 §7.3: cookies", &[("cache-control", "max-age=60"), ("set-cookie", "a=1")], false),
    rule("9213 §2.2: a targeted field", &[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")], true),
    rule("9213 §2.2", &[("cache-control", "max-age=60"), ("cdn-cache-control", "no-store")], false),
    rule("9213 §2.1: an invalid one is not there", &[("cache-control", "max-age=60"), ("cdn-cache-control", "max-age=\"0\"")], true),
    rule("9213 §2.1: a key that is none", &[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60, &&&")], false),
    rule("9213 §2.1: Expires does not count beside it", &[("cdn-cache-control", "must-revalidate"), ("expires", "Fri, 31 Dec 2100 23:59:59 GMT")], false),
    rule("9213 §2.2: private", &[("cache-control", "max-age=60"), ("cdn-cache-control", "private")], false),
    rule("9213 §2.2: max-age", &[("cache-control", "max-age=60"), ("cdn-cache-control", "max-age=0")], false),
    rule("9111 §3: neither freshness nor validator", &[], false),
    rule("9111 §5.2: what is not known does not count", &[("cache-control", "immutable, x=\"max-age=0, no-store\", max-age=60")], true),
    rule("9111 §5.2: several lines are one list", &[("cache-control", "max-age=60"), ("cache-control", "no-store")], false),
    rule("9111 §5.2: quoted is the same", &[("cache-control", "max-age=\"60\"")], true),
    rule("9111 §5.2: other quotes are none", &[("cache-control", "max-age='60'")], false),
    rule("9111 §5.2: no blank before the sign", &[("cache-control", "max-age =60")], false),
    rule("9111 §5.2: nor after it", &[("cache-control", "max-age= 60")], false),
    rule("9111 §1.2.2: zeros in front", &[("cache-control", "max-age=0060")], true),
    rule("9111 §1.2.2: more than can be told apart", &[("cache-control", "max-age=99999999999")], true),
    rule("9111 §4.2.1: two that differ", &[("cache-control", "max-age=60, max-age=90")], false),
    rule("9111 §4.2.1: less than nothing", &[("cache-control", "max-age=-60")], false),
    rule("9111 §4.2.1: a fraction", &[("cache-control", "max-age=60.5")], false),
    rule("9111 §5.2.2.10: s-maxage before Expires", &[("cache-control", "s-maxage=60"), ("expires", "0")], true),
    rule("9111 §5.2.2.2: must-revalidate while fresh", &[("cache-control", "max-age=60, must-revalidate")], true),
    rule("9111 §5.2.2.8: proxy-revalidate while fresh", &[("cache-control", "max-age=60, proxy-revalidate")], true),
    rule("9111 §5.2.2.3: must-understand", &[("cache-control", "must-understand, no-store, max-age=60")], true),
    rule("9111 §5.2.2.4: no-cache of a field", &[("cache-control", "max-age=60, no-cache=\"x-a\""), ("x-a", "1")], true),
    rule("9111 §5.2.2.7: private of a field", &[("cache-control", "max-age=60, private=\"x-a\""), ("x-a", "1")], true),
    rule("9111 §5.2.2.7: private of the cookie", &[("cache-control", "max-age=60, private=\"set-cookie\""), ("set-cookie", "a=1")], true),
    rule("9111 §5.2.2.9: public is no lifetime", &[("cache-control", "public")], false),
    rule("9111 §5.3: the same date twice is none", &[("expires", "Fri, 31 Dec 2100 23:59:59 GMT"), ("expires", "Fri, 31 Dec 2100 23:59:59 GMT")], false),
    rule("9111 §5.3: the past", &[("expires", "Sun, 06 Nov 1994 08:49:37 GMT")], false),
    rule("9111 §5.3: after Date, whatever it is now", &[("date", "Fri, 31 Dec 2100 23:59:58 GMT"), ("expires", "Fri, 31 Dec 2100 23:58:58 GMT")], false),
    rule("9110 §5.6.7: the form of RFC 850", &[("expires", "Thursday, 31-Dec-48 23:59:59 GMT")], true),
    rule("9111 §5.1: Age that is no number", &[("cache-control", "max-age=60"), ("age", "abc")], true),
    rule("9111 §5.1: Age less than nothing", &[("cache-control", "max-age=60"), ("age", "-90")], true),
    rule("9111 §5.1: of several the first", &[("cache-control", "max-age=60"), ("age", "90, 0")], false),
    rule("9111 §5.1: of several lines the first", &[("cache-control", "max-age=60"), ("age", "0"), ("age", "90")], true),
    rule("9111 §4.1: an asterisk among others", &[("cache-control", "max-age=60"), ("vary", "x-a, *")], false),
    rule("9111 §4.1: an asterisk on another line", &[("cache-control", "max-age=60"), ("vary", ""), ("vary", "*")], false),
    rule("9111 §4.1: nothing to vary on", &[("cache-control", "max-age=60"), ("vary", ",")], true),
    rule("9111 §3.1: what Connection names", &[("cache-control", "max-age=60"), ("connection", "x-a"), ("x-a", "1")], true),
    rule("9110 §14.4: a part with the status of a whole", &[("cache-control", "max-age=60"), ("content-range", "bytes 0-0/1")], false),
    rule("a coding that nobody asked for", &[("cache-control", "max-age=60"), ("content-encoding", "gzip")], true),
    rule("5861 §3: its own lifetime counts first", &[("cache-control", "max-age=60, stale-while-revalidate=0")], true),
    rule("html: server-sent events", &[("cache-control", "max-age=60"), ("content-type", "text/event-stream")], false),
    asked("9111 §5.2.1.4: no-cache", FRESH, &[("cache-control", "no-cache")], false, 200),
    asked("9111 §5.4: Pragma", FRESH, &[("pragma", "no-cache")], false, 200),
    asked("9111 §5.2.1.5: no-store", FRESH, &[("cache-control", "no-store")], false, 200),
    asked("9111 §5.2.1.1: max-age", FRESH, &[("cache-control", "max-age=0")], false, 200),
    asked("9111 §5.2.1.1", FRESH, &[("cache-control", "max-age=60")], true, 200),
    asked("9111 §5.2.1.3: min-fresh", FRESH, &[("cache-control", "min-fresh=90")], false, 200),
    asked("9111 §5.2.1.3", FRESH, &[("cache-control", "min-fresh=10")], true, 200),
    asked("9111 §5.2.1.2: max-stale", &[("cache-control", "max-age=10"), ("age", "20")], &[("cache-control", "max-stale=60")], true, 200),
    asked("9111 §5.2.1.2: max-stale without a number", &[("cache-control", "max-age=10"), ("age", "20")], &[("cache-control", "max-stale")], true, 200),
    asked("9111 §5.2.1.2: not so stale", &[("cache-control", "max-age=10"), ("age", "20")], &[("cache-control", "max-stale=5")], false, 200),
    asked("9111 §4.2.4: must-revalidate forbids it", &[("cache-control", "max-age=10, must-revalidate"), ("age", "20")], &[("cache-control", "max-stale=60")], false, 200),
    asked("9111 §5.2.2.10: so does s-maxage", &[("cache-control", "s-maxage=10"), ("age", "20")], &[("cache-control", "max-stale=60")], false, 200),
    asked("9111 §5.2.1.1: older than that", &[("cache-control", "max-age=60"), ("age", "20")], &[("cache-control", "max-age=10")], false, 200),
    asked("9111 §5.2.1.1: no number", FRESH, &[("cache-control", "max-age=x")], false, 200),
    asked("9111 §5.2.1.3: with its age", &[("cache-control", "max-age=60"), ("age", "50")], &[("cache-control", "min-fresh=20")], false, 200),
    asked("9111 §5.2.1.7: not stale", &[("cache-control", "max-age=10"), ("age", "20")], &[("cache-control", "only-if-cached")], true, 504),
    asked("9111 §5.2.1: what is not known does not count", FRESH, &[("cache-control", "x-new=1, only-if-there")], true, 200),
    asked("9111 §5.4: Pragma beside Cache-Control", FRESH, &[("pragma", "no-cache"), ("cache-control", "max-age=60")], true, 200),
    asked("9111 §5.2.1.7: only-if-cached", FRESH, &[("cache-control", "only-if-cached")], true, 200),
    asked("9111 §5.2.1.7: 504 where there is nothing", &[("cache-control", "no-store")], &[("cache-control", "only-if-cached")], true, 504),
    asked("9110 §13.1.2: If-None-Match", FRESH, &[("if-none-match", "\"x\", W/\"a\"")], true, 304),
    asked("9110 §13.1.2", FRESH, &[("if-none-match", "\"x\"")], true, 200),
    asked("9110 §13.1.3: If-Modified-Since", &[("cache-control", "max-age=60"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], true, 304),
    asked("9110 §13.1.2: any", FRESH, &[("if-none-match", "*")], true, 304),
    asked("9110 §13.1.2: not in quotes", FRESH, &[("if-none-match", "a")], true, 200),
    asked("9110 §13.1.2: among several lines", FRESH, &[("if-none-match", "\"x\""), ("if-none-match", "\"a\"")], true, 304),
    asked("9110 §13.1.3: later", &[("cache-control", "max-age=60"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("if-modified-since", "Sun, 06 Nov 1994 08:49:38 GMT")], true, 304),
    asked("9110 §13.1.3: earlier", &[("cache-control", "max-age=60"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], true, 200),
    asked("9110 §13.1.3: no date", &[("cache-control", "max-age=60"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("if-modified-since", "0")], true, 200),
    asked("9110 §13.1.3: the form of RFC 850", &[("cache-control", "max-age=60"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")], true, 304),
    asked("9111 §4.3.2: without Last-Modified by Date", &[("cache-control", "max-age=60")],
        &[("if-modified-since", "Fri, 31 Dec 2100 23:59:59 GMT")], true, 304),
    asked("9110 §13.2.2: tags before dates", &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("if-none-match", "\"x\""), ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], true, 200),
    asked("9110 §13.2.2: tags before ranges", FRESH, &[("if-none-match", "\"a\""), ("range", "bytes=0-0")], true, 304),
    asked("9110 §13.1.4: If-Unmodified-Since is the upstream's", FRESH, &[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], false, 200),
    asked("9110 §14.1.2: the end of it", FRESH, &[("range", "bytes=-1")], true, 206),
    asked("9110 §14.1.2: more than there is", FRESH, &[("range", "bytes=0-99")], true, 206),
    asked("9110 §14.1.2: nothing of the end", FRESH, &[("range", "bytes=-0")], true, 416),
    asked("9110 §14.2: another unit is none", FRESH, &[("range", "lines=0-0")], true, 200),
    asked("9110 §14.2: what is no range is none", FRESH, &[("range", "bytes=1-0")], true, 200),
    asked("9110 §13.1.5: If-Range without Range", FRESH, &[("if-range", "\"b\"")], true, 200),
    asked("9110 §13.1.5: only strong tags", &[("cache-control", "max-age=60"), ("etag", "W/\"a\"")], &[("range", "bytes=0-0"), ("if-range", "W/\"a\"")], true, 200),
    asked("9110 §13.1.5: a date", &[("cache-control", "max-age=60"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("range", "bytes=0-0"), ("if-range", "Sun, 06 Nov 1994 08:49:37 GMT")], true, 206),
    asked("9110 §13.1.5: another date", &[("cache-control", "max-age=60"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("range", "bytes=0-0"), ("if-range", "Sun, 06 Nov 1994 08:49:38 GMT")], true, 200),
    asked("9110 §14.2: a range", FRESH, &[("range", "bytes=0-0")], true, 206),
    asked("9110 §14.2: several are all", FRESH, &[("range", "bytes=0-0,0-0")], true, 200),
    asked("9110 §15.5.17", FRESH, &[("range", "bytes=9-")], true, 416),
    asked("9110 §13.1.5: If-Range", FRESH, &[("range", "bytes=0-0"), ("if-range", "\"b\"")], true, 200),
    asked("9110 §13.1.5", FRESH, &[("range", "bytes=0-0"), ("if-range", "\"a\"")], true, 206),
    asked("9110 §13.1.1: If-Match is the upstream's", FRESH, &[("if-match", "\"a\"")], false, 200),
    asked("9111 §3.5: not with credentials", FRESH, AUTH, false, 200),
    asked("9111 §3.5", FRESH, &[("cookie", "a=1")], false, 200),
    asked("9111 §3.5: other credentials", FRESH, &[("x-api-key", "k")], false, 200),
    asked("9111 §3.5: public", &[("cache-control", "max-age=60, public")], AUTH, true, 200),
    Rule { first: AUTH, ..rule("9111 §3.5: fetched with credentials", &[("cache-control", "max-age=60")], false) },
    Rule { first: AUTH, ..rule("9111 §3.5: public", &[("cache-control", "max-age=60, public")], true) },
    Rule { first: AUTH, ..rule("9111 §3.5: s-maxage", &[("cache-control", "s-maxage=60")], true) },
    Rule { first: AUTH, ..rule("9111 §3.5: must-revalidate", &[("cache-control", "max-age=60, must-revalidate")], true) },
    Rule { first: &[("accept-language", "de")], ..rule("9111 §4.1", &[("cache-control", "max-age=60"), ("vary", "accept-language")], false) },
    Rule { first: &[("accept-language", "de, en")], second: ("GET", &[("accept-language", "de,en")]),
        ..rule("9111 §4.1: blanks do not count", &[("cache-control", "max-age=60"), ("vary", "Accept-Language")], true) },
    Rule { first: &[("accept-encoding", "gzip, foo")], second: ("GET", &[("accept-encoding", "gzip;q=0.5")]),
        ..rule("9111 §4.1: codings", &[("cache-control", "max-age=60"), ("vary", "accept-encoding")], true) },
    Rule { first: &[("x-a", "1")], second: ("GET", &[("x-a", "1")]), ..rule("9111 §4.1: the same", &[("cache-control", "max-age=60"), ("vary", "x-a")], true) },
    Rule { first: &[("x-a", "1")], second: ("GET", &[("x-a", "2")]), ..rule("9111 §4.1: another", &[("cache-control", "max-age=60"), ("vary", "x-a")], false) },
    Rule { second: ("GET", &[("x-a", "")]), ..rule("9111 §4.1: empty is not absent", &[("cache-control", "max-age=60"), ("vary", "x-a")], false) },
    Rule { second: ("GET", &[("x-b", "2")]), ..rule("9111 §4.1: what it does not vary on", &[("cache-control", "max-age=60"), ("vary", "x-a")], true) },
    Rule { first: &[("x-a", "1"), ("x-b", "2")], second: ("GET", &[("x-a", "1"), ("x-b", "3")]),
        ..rule("9111 §4.1: one of two", &[("cache-control", "max-age=60"), ("vary", "x-a"), ("vary", "x-b")], false) },
    Rule { first: &[("x-a", "1, 2")], second: ("GET", &[("x-a", "1"), ("x-a", "2")]),
        ..rule("9111 §4.1: several lines are one list", &[("cache-control", "max-age=60"), ("vary", "x-a")], true) },
    Rule { first: &[("accept-encoding", "gzip")], second: ("GET", &[("accept-encoding", "identity")]),
        ..rule("9110 §12.5.3: a coding is for those who take it", &[("cache-control", "max-age=60"), ("content-encoding", "gzip")], false) },
    Rule { first: &[("accept-encoding", "gzip")], second: ("GET", &[("accept-encoding", "gzip, foo")]),
        ..rule("9110 §12.5.3", &[("cache-control", "max-age=60"), ("content-encoding", "gzip")], true) },
    Rule { first: &[("x-request-id", "r")], ..rule("varies on what armiger writes", &[("cache-control", "max-age=60"), ("vary", "x-request-id")], false) },
    Rule { second: ("HEAD", &[]), ..rule("9110 §9.3.2: HEAD from GET", FRESH, true) },
    Rule { second: ("HEAD", &[("range", "bytes=0-0")]), ..rule("9110 §14.2: HEAD has no ranges", FRESH, true) },
    Rule { answer: (299, &[("cache-control", "max-age=60")]), status: 299, ..rule("9111 §3: a status that is not understood", &[], false) },
    Rule { answer: (401, &[("cache-control", "max-age=60")]), status: 401, ..rule("9111 §3: what a caller lacks", &[], false) },
    Rule { answer: (204, &[("cache-control", "max-age=60")]), status: 204, ..rule("9111 §3: 204", &[], true) },
    Rule { answer: (301, &[("cache-control", "max-age=60"), ("location", "/x")]), status: 301, ..rule("9111 §3: 301", &[], true) },
    Rule { answer: (308, &[("cache-control", "max-age=60"), ("location", "/x")]), status: 308, ..rule("9111 §3: 308", &[], true) },
    Rule { answer: (410, &[("cache-control", "max-age=60")]), status: 410, ..rule("9111 §3: 410", &[], true) },
    Rule { answer: (503, &[("cache-control", "max-age=60")]), status: 503, ..rule("9111 §3: explicit 503", &[], true) },
    Rule { answer: (404, &[("cache-control", "max-age=60"), ("etag", "\"a\"")]), second: ("GET", &[("if-none-match", "\"a\"")]), status: 404,
        ..rule("9110 §13.2.1: conditions are about a 200", &[], true) },
    Rule { answer: (404, &[("cache-control", "max-age=60")]), second: ("GET", &[("range", "bytes=0-0")]), status: 404,
        ..rule("9110 §14.2: so are ranges", &[], true) },
    Rule { answer: (404, &[("cache-control", "max-age=60")]), status: 404, ..rule("9111 §3: 404", &[], true) },
    Rule { answer: (500, &[("cache-control", "max-age=60")]), status: 500, ..rule("9111 §3: explicit 500", &[], true) },
    Rule { answer: (404, &[]), status: 404, ..rule("9111 §4.2.2: 404 is not guessed", &[], false) },
    Rule { answer: (206, &[("cache-control", "max-age=60"), ("content-range", "bytes 0-0/9")]), status: 206, ..rule("9111 §3.3", &[], false) },
    Rule { answer: (302, &[("cache-control", "max-age=60"), ("location", "/x")]), status: 302, ..rule("9111 §3: 302", &[], true) },
    Rule { first: &[("range", "bytes=0-0")], ..rule("9111 §3.3: a part is not asked for the whole", FRESH, false) },
    Rule { first: &[("x-http-method-override", "DELETE")], ..rule("no key tells of it", FRESH, false) },
];

#[tokio::test]
async fn each_rule_holds() {
    let counts = Mutex::new(HashMap::<String, usize>::new());
    let backend = Backend::with(move |seen| {
        let place: usize = seen.target[1..].parse().unwrap();
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(seen.target.clone()).or_default();
        *count += 1;
        let (status, headers) = RULES[place].answer;
        reply(status, headers, count.to_string())
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let mut wrong = Vec::new();
    for (place, rule) in RULES.iter().enumerate() {
        let target = format!("/{place}");
        let first = get(&armiger, &target, rule.first).await;
        if rule.answer.0 != 204 {
            assert_eq!(first.text(), "1", "{}", rule.rfc);
        }
        let (method, headers) = rule.second;
        let second = armiger.request(request(method, &target, headers)).await;
        let asked = backend.requests().iter().filter(|seen| seen.target == target).count();
        let is_stored = asked == 1;
        if (is_stored, second.status) != (rule.is_stored, rule.status) {
            wrong.push(format!(
                "RFC {}: {:?} then {:?}: asked {asked} times, {} with `{}`",
                rule.rfc,
                rule.answer,
                rule.second,
                second.status,
                status(&second)
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What becomes of what is stored: a request, what the upstream answers it if it is asked, and what the client then has.
struct Step {
    asks: (&'static str, &'static str, Headers<'static>),
    answer: Option<(u16, Headers<'static>)>,
    status: u16,
    /// Headers of the answer, or of none of that name.
    headers: &'static [(&'static str, Option<&'static str>)],
}

const fn step(
    asks: (&'static str, &'static str, Headers<'static>),
    answer: Option<(u16, Headers<'static>)>,
    status: u16,
    headers: &'static [(&'static str, Option<&'static str>)],
) -> Step {
    Step { asks, answer, status, headers }
}

const GET: (&str, &str, Headers<'static>) = ("GET", "/a", &[]);
const HEAD: (&str, &str, Headers<'static>) = ("HEAD", "/a", &[]);
const STALE: Headers<'static> = &[("cache-control", "max-age=0"), ("etag", "\"a\""), ("x-a", "1"), ("x-b", "1")];
const KEPT: Headers<'static> = &[("cache-control", "max-age=60")];
const MODIFIED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");

/// Each begins with what is stored of `/a`.
#[rustfmt::skip]
const STORIES: &[(&str, &[Step])] = &[
    ("9111 §4.3.4: a 304 brings it up to date, and what it leaves out stays", &[
        step(GET, Some((200, STALE)), 200, &[("x-a", Some("1"))]),
        step(GET, Some((304, &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("x-a", "2")])), 200, &[("x-a", Some("2")), ("x-b", Some("1"))]),
        step(GET, None, 200, &[("x-a", Some("2")), ("x-b", Some("1")), ("cache-control", Some("max-age=60"))]),
    ]),
    ("9111 §4.3.4: by Last-Modified", &[
        step(GET, Some((200, &[("cache-control", "max-age=0"), MODIFIED])), 200, &[]),
        step(GET, Some((304, &[("cache-control", "max-age=60"), MODIFIED])), 200, &[]),
        step(GET, None, 200, &[]),
    ]),
    ("9111 §4.3.4: a 304 of another tag brings nothing up to date", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(GET, Some((304, &[("etag", "\"b\""), ("cache-control", "max-age=60"), ("x-a", "2")])), 200, &[("x-a", Some("1"))]),
        step(GET, Some((200, KEPT)), 200, &[]),
    ]),
    ("9111 §3.5: a 304 that does not say that it is for all is for who asked", &[
        step(GET, Some((200, &[("cache-control", "public, max-age=0"), ("etag", "\"a\"")])), 200, &[]),
        step(("GET", "/a", AUTH), Some((304, &[("etag", "\"a\""), ("x-a", "mine")])), 200, &[("cache-status", Some("armiger; fwd=stale; fwd-status=304; detail=credentials"))]),
        step(GET, Some((200, KEPT)), 200, &[("x-a", None)]),
    ]),
    ("9111 §3.5: so is what a HEAD is answered", &[
        step(GET, Some((200, &[("cache-control", "public, max-age=0, must-revalidate"), ("etag", "\"a\"")])), 200, &[]),
        step(("HEAD", "/a", AUTH), Some((200, &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("x-a", "mine")])), 200, &[("x-a", Some("mine"))]),
        step(GET, Some((304, &[("cache-control", "max-age=60"), ("etag", "\"a\"")])), 200, &[("x-a", None)]),
    ]),
    ("9111 §3.2: what describes the bytes stays with them", &[
        step(GET, Some((200, &[("cache-control", "max-age=0"), ("etag", "\"a\""), ("content-type", "text/a")])), 200, &[]),
        step(GET, Some((304, &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("content-type", "text/b"), ("content-length", "9")])), 200, &[("content-type", Some("text/a")), ("content-length", Some("1"))]),
    ]),
    ("9111 §3.1: a 304 leaves nothing behind that is never stored", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(GET, Some((304, &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("set-cookie", "a=1"), ("connection", "x-c"), ("x-c", "1")])), 200, &[]),
        step(GET, None, 200, &[("set-cookie", None), ("x-c", None)]),
    ]),
    ("9111 §5.2.2.5: no-store in a 304", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(GET, Some((304, &[("etag", "\"a\""), ("cache-control", "no-store")])), 200, &[("cache-status", Some("armiger; fwd=stale; fwd-status=304; detail=no_store"))]),
        step(GET, Some((200, KEPT)), 200, &[]),
    ]),
    ("9111 §4.1: a 304 that varies on something else", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(GET, Some((304, &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("vary", "x-v")])), 200, &[]),
        step(GET, Some((200, KEPT)), 200, &[]),
    ]),
    ("9111 §4.3.3: another answer takes its place", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(GET, Some((200, &[("cache-control", "max-age=60"), ("x-a", "3")])), 200, &[("x-a", Some("3")), ("x-b", None)]),
        step(GET, None, 200, &[("x-a", Some("3")), ("x-b", None), ("etag", None)]),
    ]),
    ("9111 §4.3.3: so does one that says it is gone", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(GET, Some((410, KEPT)), 410, &[]),
        step(GET, None, 410, &[]),
    ]),
    ("9111 §4.3.3: an error is passed on", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(GET, Some((503, &[])), 503, &[]),
        step(GET, Some((304, &[("etag", "\"a\"")])), 200, &[("x-a", Some("1"))]),
    ]),
    ("5861 §4, 9211 §2.3: unless what is stale may take its place", &[
        step(GET, Some((200, &[("cache-control", "max-age=0, stale-if-error=60")])), 200, &[]),
        step(GET, Some((503, &[])), 200, &[("cache-status", Some("armiger; fwd=stale; fwd-status=503; ttl=*"))]),
    ]),
    ("9111 §4.3.5: a HEAD brings it up to date", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(HEAD, Some((200, &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("x-a", "2")])), 200, &[("cache-status", Some("armiger; fwd=stale"))]),
        step(GET, None, 200, &[("x-a", Some("2")), ("x-b", Some("1"))]),
    ]),
    ("9111 §4.3.5: or tells that there is another", &[
        step(GET, Some((200, &[("cache-control", "max-age=60"), ("etag", "\"a\"")])), 200, &[]),
        step(("HEAD", "/a", &[("cache-control", "no-cache")]), Some((200, &[("etag", "\"b\"")])), 200, &[("cache-status", Some("armiger; fwd=request"))]),
        step(GET, Some((200, KEPT)), 200, &[("cache-status", Some("armiger; fwd=stale; stored; ttl=*"))]),
    ]),
    ("9111 §4.3.5: a HEAD that fails tells nothing", &[
        step(GET, Some((200, &[("cache-control", "max-age=60"), ("etag", "\"a\"")])), 200, &[]),
        step(("HEAD", "/a", &[("cache-control", "no-cache")]), Some((500, &[("etag", "\"b\"")])), 500, &[]),
        step(GET, None, 200, &[]),
    ]),
    ("9111 §4: what a HEAD is answered is not stored", &[
        step(HEAD, Some((200, KEPT)), 200, &[]),
        step(GET, Some((200, KEPT)), 200, &[]),
    ]),
    ("9111 §4.4, 9211 §2.2: an unsafe method makes it invalid", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("DELETE", "/a", &[]), Some((204, &[])), 204, &[("cache-status", Some("armiger; fwd=method"))]),
        step(GET, Some((200, KEPT)), 200, &[("cache-status", Some("armiger; fwd=uri-miss; stored; ttl=*"))]),
    ]),
    ("9111 §4.4: one that nobody knows too", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("M-SEARCH", "/a", &[]), Some((200, &[])), 200, &[]),
        step(GET, Some((200, KEPT)), 200, &[]),
    ]),
    ("9111 §4.4: a redirection is no error", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("PUT", "/a", &[]), Some((303, &[("location", "/b")])), 303, &[]),
        step(GET, Some((200, KEPT)), 200, &[]),
    ]),
    ("9111 §4.4: an error is", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("PUT", "/a", &[]), Some((500, &[])), 500, &[]),
        step(GET, None, 200, &[]),
    ]),
    ("9111 §4.4: a safe one changes nothing", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("OPTIONS", "/a", &[]), Some((200, &[])), 200, &[("cache-status", Some("armiger; fwd=method"))]),
        step(GET, None, 200, &[]),
    ]),
    ("9111 §4.4: Content-Location", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("POST", "/b", &[]), Some((201, &[("content-location", "http://h.test/a")])), 201, &[]),
        step(GET, Some((200, KEPT)), 200, &[]),
    ]),
    ("9111 §4.4: Location, as a reference", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("POST", "/b/c", &[]), Some((201, &[("location", "../a#top")])), 201, &[]),
        step(GET, Some((200, KEPT)), 200, &[]),
    ]),
    ("9111 §4.4: not of another host", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("POST", "/b", &[]), Some((201, &[("location", "//other.test/a"), ("content-location", "http://other.test/a")])), 201, &[]),
        step(GET, None, 200, &[]),
    ]),
    ("9111 §4.4: nor of another port", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("POST", "/b", &[]), Some((201, &[("location", "http://h.test:8443/a")])), 201, &[]),
        step(GET, None, 200, &[]),
    ]),
    ("9111 §4.4: all variants", &[
        step(("GET", "/a", &[("x-v", "1")]), Some((200, &[("cache-control", "max-age=60"), ("vary", "x-v")])), 200, &[]),
        step(("GET", "/a", &[("x-v", "2")]), Some((200, &[("cache-control", "max-age=60"), ("vary", "x-v")])), 200, &[("cache-status", Some("armiger; fwd=vary-miss; stored; ttl=*"))]),
        step(("GET", "/a", &[("x-v", "1")]), None, 200, &[]),
        step(("PATCH", "/a", &[]), Some((200, &[])), 200, &[]),
        step(("GET", "/a", &[("x-v", "1")]), Some((200, &[("cache-control", "max-age=60"), ("vary", "x-v")])), 200, &[("cache-status", Some("armiger; fwd=uri-miss; stored; ttl=*"))]),
        step(("GET", "/a", &[("x-v", "2")]), Some((200, &[("cache-control", "max-age=60"), ("vary", "x-v")])), 200, &[]),
    ]),
    ("9111 §4.1: another list of headers", &[
        step(("GET", "/a", &[("x-v", "1")]), Some((200, &[("cache-control", "max-age=60"), ("vary", "x-v")])), 200, &[]),
        step(("GET", "/a", &[("x-v", "2")]), Some((200, &[("cache-control", "max-age=60"), ("vary", "x-w")])), 200, &[]),
        step(("GET", "/a", &[("x-v", "3")]), None, 200, &[]),
    ]),
    ("9211 §2.2: what is there for others", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("GET", "/a", AUTH), Some((200, KEPT)), 200, &[("cache-status", Some("armiger; fwd=miss; detail=credentials"))]),
        step(GET, None, 200, &[]),
    ]),
    ("9211 §2.2: fresh, and more is demanded", &[
        step(GET, Some((200, KEPT)), 200, &[]),
        step(("GET", "/a", &[("cache-control", "no-cache")]), Some((200, KEPT)), 200, &[("cache-status", Some("armiger; fwd=request; stored; ttl=*"))]),
    ]),
    ("9211 §2.2: stale, whatever is demanded", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(("GET", "/a", &[("cache-control", "max-age=90")]), Some((200, KEPT)), 200, &[("cache-status", Some("armiger; fwd=stale; stored; ttl=*"))]),
    ]),
    ("9111 §5.2.1.7, 9211: nothing is stored, and nobody is asked", &[
        step(("GET", "/a", &[("cache-control", "only-if-cached")]), None, 504, &[("cache-status", Some("armiger; detail=not_cached"))]),
    ]),
    ("9110 §15.5.17: a 416 says nothing of the whole, and is not stored behind this", &[
        step(GET, Some((200, &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("expires", "Fri, 31 Dec 2100 23:59:59 GMT")])), 200, &[]),
        step(("GET", "/a", &[("range", "bytes=9-")]), None, 416, &[("cache-control", Some("no-store")), ("etag", None), ("expires", None), ("content-range", Some("bytes */1"))]),
    ]),
    ("9110 §15.4.5: a 304 has what tells of the response", &[
        step(GET, Some((200, &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("vary", "x-v"), ("content-location", "/b"), ("content-type", "text/a")])), 200, &[]),
        step(("GET", "/a", &[("if-none-match", "\"a\"")]), None, 304,
            &[("etag", Some("\"a\"")), ("vary", Some("x-v")), ("content-location", Some("/b")), ("cache-control", Some("max-age=60")), ("content-type", None)]),
    ]),
    ("9111 §4.3.1: a client's own conditions are not those of the cache", &[
        step(GET, Some((200, STALE)), 200, &[]),
        step(("GET", "/a", &[("if-none-match", "\"mine\"")]), Some((304, &[("etag", "\"a\""), ("cache-control", "max-age=60")])), 200, &[]),
        step(("GET", "/a", &[("if-none-match", "\"a\"")]), None, 304, &[]),
    ]),
];

#[tokio::test]
async fn each_story_ends_as_it_should() {
    let answers = Arc::new(Mutex::new(None));
    let told = answers.clone();
    let backend = Backend::with(move |_| match told.lock().unwrap().take() {
        Some((status, headers)) => reply(status, headers, if [204, 304].contains(&status) { "" } else { "1" }),
        None => reply(599, &[], "nobody was to ask"),
    })
    .await;
    let mut wrong = Vec::new();
    let armiger = caching(&backend, "{}").await;
    for (place, (rfc, steps)) in STORIES.iter().enumerate() {
        let purged = armiger.admin().post("/cache/purge", json!({"all": true}).to_string()).await;
        purged.assert_status(200);
        for (number, Step { asks: (method, target, headers), answer, status: expected, headers: told }) in
            steps.iter().enumerate()
        {
            *answers.lock().unwrap() = *answer;
            let mut all = headers.to_vec();
            all.push(("host", "h.test"));
            let response = armiger.request(request(method, target, &all)).await;
            let was_asked = answers.lock().unwrap().is_none();
            // What ends with an asterisk only begins so: seconds may have passed.
            let has = |(name, expected): &(&str, Option<&str>)| {
                let value = response.headers.get(*name).and_then(|value| value.to_str().ok());
                match expected.and_then(|expected| expected.strip_suffix('*')) {
                    Some(beginning) => value.is_some_and(|value| value.starts_with(beginning)),
                    None => value == *expected,
                }
            };
            let is_right = response.status == *expected && told.iter().all(has) && (was_asked || answer.is_none());
            if !is_right {
                wrong.push(format!(
                    "RFC {rfc} (story {place}, step {number}): {} {:?}, asked: {was_asked}",
                    response.status, response.headers
                ));
            }
            if answer.is_some() && (200..300).contains(&response.status) && *method == "GET" {
                // Stored behind the answer.
                within("what is fetched to be stored", async {
                    let row = "/state/cache";
                    while armiger.admin().get(row).await.json()["rows"][1]["flights"] != 0 {}
                })
                .await;
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Nobody knows what became of it.
#[tokio::test]
async fn an_unsafe_request_whose_client_left_makes_its_url_invalid() {
    let go = Signal::new();
    let (wait, count) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::serving(move |asked| {
        let (go, number) = (wait.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if asked.method() == Method::POST {
                go.wait().await;
            }
            reply(200, &[("cache-control", "max-age=60")], number.to_string())
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let host = [("host", "h")];
    assert_eq!(get(&armiger, "/", &host).await.text(), "0");
    assert_eq!(get(&armiger, "/", &host).await.text(), "0");
    let client = armiger.raw("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
    backend.arrived(2).await;
    client.reset();
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 0.0).await;

    assert_eq!(get(&armiger, "/", &host).await.text(), "2");
    go.send();
}

/// Answers what is asked for safely, with a number, and nothing else before the signal.
async fn hesitant(go: &Signal, is_broken: &Arc<AtomicBool>) -> Backend {
    let (wait, broken, count) = (go.clone(), is_broken.clone(), Arc::new(AtomicUsize::new(0)));
    Backend::serving(move |asked| {
        let (go, is_broken) = (wait.clone(), broken.load(Ordering::SeqCst));
        let is_held = asked.method() == Method::POST || asked.uri().path() == "/held";
        let number = if is_held { 0 } else { count.fetch_add(1, Ordering::SeqCst) };
        async move {
            if is_held {
                go.wait().await;
            }
            match is_broken {
                true => reply(503, &[], "broken"),
                false => reply(200, &[("cache-control", "max-age=60, stale-if-error=60")], number.to_string()),
            }
        }
    })
    .await
}

/// It is not let go of what may be good: whoever may send such requests cannot take it from others.
#[tokio::test]
async fn what_may_have_changed_still_stands_in_for_an_error() {
    let (go, is_broken) = (Signal::new(), Arc::new(AtomicBool::new(false)));
    let backend = hesitant(&go, &is_broken).await;
    let armiger = caching(&backend, "{}").await;
    let host = [("host", "h")];
    assert_eq!(get(&armiger, "/", &host).await.text(), "0");
    let client = armiger.raw("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
    backend.arrived(2).await;
    client.reset();
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 0.0).await;
    is_broken.store(true, Ordering::SeqCst);

    let covered = get(&armiger, "/", &host).await;

    assert_eq!((covered.status, covered.text()), (200, "0"));
    go.send();
}

/// The upstream may have done what it was asked to, and then was too slow to say so.
#[tokio::test]
async fn an_unsafe_request_that_the_upstream_does_not_answer_makes_its_url_stale() {
    let go = Signal::new();
    let backend = hesitant(&go, &Arc::default()).await;
    let config = Config::to(&backend).upstream("timeouts: {first_byte: 100ms}").policies("cache: {}");
    let armiger = Armiger::with(config).await;
    let first = armiger.get("/").await.text().to_owned();

    armiger.post("/", "x").await.assert_status(504);

    assert_ne!(armiger.get("/").await.text(), first);
    go.send();
}

/// What reached no upstream changed nothing.
#[tokio::test]
async fn an_unsafe_request_that_nobody_was_asked_by_makes_nothing_invalid() {
    let go = Signal::new();
    let backend = hesitant(&go, &Arc::default()).await;
    let limits = "limits: {in_flight_max: 1, queue_max: 5, queue_wait: 20s}";
    let armiger = Armiger::with(Config::to(&backend).upstream(limits).policies("cache: {}")).await;
    let host = [("host", "h")];
    let first = get(&armiger, "/", &host).await.text().to_owned();
    let held = armiger.raw("GET /held HTTP/1.1\r\nhost: h\r\n\r\n").await;
    backend.arrived(2).await;
    let client = armiger.raw("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 2.0).await;
    client.reset();
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 1.0).await;

    let second = get(&armiger, "/", &host).await;

    assert!(status(&second).starts_with("armiger; hit"), "{}", status(&second));
    assert_eq!((second.text(), backend.count()), (&*first, 2));
    drop(held);
    go.send();
}

/// What one caller is told says nothing to others, be it good or bad.
#[tokio::test]
async fn what_a_caller_with_credentials_is_told_takes_nothing_from_others() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = is_broken.clone();
    let backend = Backend::with(move |seen| match seen.headers.get("if-none-match") {
        _ if broken.load(Ordering::SeqCst) => reply(503, &[], "broken"),
        Some(_) => reply(304, &[("etag", "\"a\"")], ""),
        None => {
            let control = "public, max-age=0, stale-if-error=60";
            reply(200, &[("etag", "\"a\""), ("cache-control", control)], "old")
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let host = ("host", "h");
    assert_eq!(get(&armiger, "/", &[host]).await.text(), "old");

    let own = get(&armiger, "/", &[host, AUTH[0]]).await;

    assert_eq!(own.text(), "old");
    assert!(status(&own).contains("detail=credentials"), "{}", status(&own));
    is_broken.store(true, Ordering::SeqCst);
    let covered = get(&armiger, "/", &[host]).await;
    assert_eq!((covered.status, covered.text()), (200, "old"));
}

/// What a slow answer to a HEAD confirms may be another's past.
#[tokio::test]
async fn a_late_head_does_not_put_back_what_was_replaced() {
    let go = Signal::new();
    let (wait, count) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::serving(move |asked| {
        let (go, is_head) = (wait.clone(), asked.method() == Method::HEAD);
        let number = if is_head { 0 } else { count.fetch_add(1, Ordering::SeqCst) };
        async move {
            if is_head {
                go.wait().await;
            }
            match (is_head, number) {
                (true, _) => reply(200, &[("etag", "\"a\""), ("cache-control", "max-age=60")], ""),
                (_, 0) => reply(200, &[("etag", "\"a\""), ("cache-control", "max-age=0")], ""),
                _ => reply(200, &[("etag", "\"b\""), ("cache-control", "max-age=60")], "new"),
            }
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let host = [("host", "h")];
    get(&armiger, "/", &host).await.assert_header("etag", "\"a\"");
    let mut head = armiger.raw("HEAD / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    backend.arrived(2).await;
    assert_eq!(get(&armiger, "/", &host).await.text(), "new");
    go.send();
    assert!(head.rest().await.starts_with(b"HTTP/1.1 200"));

    assert_eq!(get(&armiger, "/", &host).await.text(), "new");
}

/// A header that one provider looks for keys in is a credential wherever an upstream may see it.
#[tokio::test]
async fn a_key_in_a_header_of_any_name_is_a_credential() {
    let backend = counting(KEPT).await;
    let keys = format!(
        "[{{hash: \"{}\", subject: one}}]",
        armiger::identity::api_key::hash("a-key-of-forty-characters-that-is-nobodys")
    );
    let identity = format!("identity: {{partners: {{api_keys: {{header: x-partner, keys: {keys}}}}}}}");
    let armiger = Armiger::with(Config::to(&backend).top(&identity).policies("cache: {}")).await;
    assert_eq!(armiger.get("/").await.text(), "1");
    assert_eq!(armiger.get("/").await.text(), "1");
    assert_eq!(get(&armiger, "/", &[("x-partner", "a")]).await.text(), "2");
    assert_eq!(get(&armiger, "/", &[("x-partner", "b")]).await.text(), "3");
}

/// RFC 9111 §5.1, RFC 9211.
#[tokio::test]
async fn a_stored_answer_tells_its_age_and_where_it_is_from() {
    let backend =
        counting(&[("cache-control", "max-age=60"), ("age", "7"), ("x-a", "b"), ("x-request-id", "theirs")]).await;
    let armiger = caching(&backend, "{}").await;

    let miss = armiger.get("/a").await;
    let hit = armiger.get("/a").await;
    let head = armiger.request(request("HEAD", "/a", &[])).await;

    assert_eq!(status(&miss), "armiger; fwd=uri-miss; stored; ttl=53");
    hit.assert_status(200)
        .assert_header("x-a", "b")
        .assert_header("content-length", "1")
        .assert_header("cache-control", "max-age=60");
    assert!(status(&hit).starts_with("armiger; hit; ttl=5"), "{}", status(&hit));
    assert!(["7", "8", "9"].contains(&hit.header("age")), "{}", hit.header("age"));
    assert_ne!(hit.header("x-request-id"), "theirs");
    assert_ne!(hit.header("x-request-id"), miss.header("x-request-id"), "each exchange has its own");
    assert_eq!((hit.text(), head.text(), head.header("content-length")), ("1", "", "1"));
    assert_eq!(backend.count(), 1);
}

/// RFC 9111 §4.3: validators are the cache's own, and a 304 refreshes what is stored.
#[tokio::test]
async fn a_stale_answer_is_asked_about_by_its_own_validators() {
    let backend = Backend::with(|seen| match seen.headers.get("if-none-match") {
        Some(tag) if tag == "\"a\"" => {
            reply(304, &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("x-a", "2")], "")
        }
        _ => reply(200, &[("etag", "\"a\""), ("cache-control", "max-age=0"), ("x-a", "1")], "body"),
    })
    .await;
    let armiger = caching(&backend, "{}").await;

    let first = get(&armiger, "/", &[("if-none-match", "\"client\"")]).await;
    let second = get(&armiger, "/", &[("if-none-match", "\"client\"")]).await;
    let third = get(&armiger, "/", &[("if-none-match", "\"a\"")]).await;

    assert!(!backend.requests()[0].has("if-none-match"), "a client's own validator is not asked by");
    first.assert_status(200).assert_header("x-a", "1");
    second.assert_status(200).assert_header("x-a", "2");
    assert_eq!(
        (second.text(), status(&second).as_str()),
        ("body", "armiger; fwd=stale; fwd-status=304; stored; ttl=60")
    );
    third.assert_status(304).assert_no_header("content-type").assert_header("etag", "\"a\"");
    assert_eq!(backend.count(), 2);
}

/// RFC 9111 §4.4.
#[tokio::test]
async fn an_unsafe_request_that_succeeds_makes_its_url_invalid() {
    let counts = AtomicUsize::new(0);
    let backend = Backend::with(move |seen| match (seen.method.as_str(), seen.target.as_str()) {
        ("POST", "/refused") => reply(403, &[], ""),
        ("POST", "/list") => reply(201, &[("location", "/list/7")], ""),
        ("POST", "/other") => reply(201, &[("location", "http://elsewhere.test/list")], ""),
        ("POST", _) => reply(204, &[], ""),
        _ => reply(200, &[("cache-control", "max-age=60")], counts.fetch_add(1, Ordering::Relaxed).to_string()),
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    for (posted, asked, is_gone) in [
        ("/a", "/a", true),
        ("/a", "/b", false),
        ("/refused", "/refused", false),
        ("/list", "/list/7", true),
        ("/other", "/list", false),
    ] {
        let before = armiger.get(asked).await;
        armiger.post(posted, "x").await;
        let after = armiger.get(asked).await;
        assert_eq!(before.text() != after.text(), is_gone, "POST {posted}, GET {asked}");
    }
}

// === for whom ===

fn signed(sub: &str, more: Value) -> String {
    let mut all = claims(json!({"sub": sub}));
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    format!("Bearer {}", Signer::secret("HS256").token(&all))
}

fn identified(backend: &Backend, cache: &str) -> Config {
    Config::to(backend)
        .top(&format!(
            "identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}}}}}"
        ))
        .policies(&format!("identity: {{providers: [staff]}}\ncache: {cache}"))
}

#[tokio::test]
async fn what_callers_are_known_for_is_cached_only_where_somebody_says_for_whom() {
    let backend = Backend::replies("ok").await;
    for (cache, is_fine) in [
        ("{ttl: {default: 10s}}", false),
        ("{ttl: {200: 10s}}", false),
        ("{ttl: {default: 10s}, vary_by: [\"claim:plan\"]}", false),
        ("{ttl: {default: 10s}, vary_by: [\"claim:sub\"]}", true),
        (
            "{ttl: {default: 10s}, vary_by: [\"claim:sub\"]}\nheaders: {request: {set: {x-plan: \"${claims.plan}\"}}}",
            false,
        ),
        (
            "{ttl: {default: 10s}, vary_by: [\"claim:sub\", \"claim:plan\"]}\nheaders: {request: {set: {x-plan: \"${claims.plan}\"}}}",
            true,
        ),
        ("{ttl: {default: 10s}, shared_across_users: true}", true),
        ("{}", true),
        ("{ttl: {max: 10s}}", true),
    ] {
        let started = Armiger::try_with(identified(&backend, cache)).await;
        assert_eq!(started.is_ok(), is_fine, "{cache}");
        if let Err(report) = started {
            assert!(report.contains("would give one caller's answers to another"), "{report}");
        }
    }
}

#[tokio::test]
async fn two_callers_of_one_url_get_each_their_own() {
    let backend = Backend::with(|seen| reply(200, &[], seen.header("authorization").to_owned())).await;
    let armiger = Armiger::with(identified(&backend, "{ttl: {default: 1m}, vary_by: [\"claim:sub\"]}")).await;
    let (ada, bob) = (signed("ada", json!({})), signed("bob", json!({})));

    for caller in [&ada, &bob, &ada, &bob] {
        let response = get(&armiger, "/", &[("authorization", caller)]).await;
        assert_eq!(response.text(), caller);
    }
    get(&armiger, "/", &[]).await.assert_problem(401, "token-missing");

    assert_eq!(backend.count(), 2);
}

/// One caller whose rights have changed is not to see what it saw with those it had.
#[tokio::test]
async fn a_caller_with_other_scopes_gets_an_answer_of_its_own() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(identified(&backend, "{ttl: {default: 1m}, vary_by: [\"claim:sub\"]}")).await;
    for scope in ["read", "read write", "read", "read write"] {
        let token = signed("ada", json!({"scope": scope}));
        get(&armiger, "/", &[("authorization", &token)]).await.assert_status(200);
    }
    assert_eq!(backend.count(), 2);
}

/// The upstream's own word, and the route's.
#[tokio::test]
async fn callers_share_what_is_said_to_be_for_all() {
    for (cache, header, calls) in
        [("{}", "max-age=60", 4), ("{}", "public, max-age=60", 1), ("{shared_across_users: true}", "max-age=60", 1)]
    {
        let backend = Backend::with(move |_| reply(200, &[("cache-control", header)], "x")).await;
        let armiger = Armiger::with(identified(&backend, cache)).await;
        for sub in ["ada", "bob", "ada", "bob"] {
            get(&armiger, "/", &[("authorization", &signed(sub, json!({})))]).await.assert_status(200);
        }
        assert_eq!(backend.count(), calls, "{cache} {header}");
    }
}

/// What the route writes into the request is not known when the next one comes.
#[tokio::test]
async fn an_answer_that_varies_on_what_the_route_writes_is_not_stored() {
    let backend = Backend::with(|seen| {
        reply(200, &[("cache-control", "max-age=60"), ("vary", "x-client, cookie")], seen.header("x-client").to_owned())
    })
    .await;
    let policies = "
        headers: {request: {set: {x-client: \"${client.address}\"}, remove: [cookie]}}
        cache: {}
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;
    armiger.get("/").await;
    armiger.get("/").await;
    assert_eq!(backend.count(), 2);

    let backend = Backend::with(|_| reply(200, &[("cache-control", "max-age=60"), ("vary", "cookie")], "x")).await;
    let armiger =
        Armiger::with(Config::to(&backend).policies("headers: {request: {remove: [cookie]}}\ncache: {}")).await;
    get(&armiger, "/", &[("cookie", "a=1")]).await;
    get(&armiger, "/", &[("cookie", "b=2")]).await.assert_status(200);
    assert_eq!(backend.count(), 1, "the upstream never sees the cookie");
}

/// Random callers, `Vary`, purges and answers, against a model that knows only what nobody may ever get.
#[tokio::test]
async fn no_answer_ever_reaches_another_caller() {
    let number = AtomicUsize::new(0);
    let backend = Backend::with(move |seen| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        let caller = seen.headers.get("x-caller").map_or("", |value| value.to_str().unwrap());
        let flavour = seen.headers.get("x-flavour").map_or("", |value| value.to_str().unwrap());
        let control = [
            "max-age=60",
            "max-age=0",
            "private",
            "no-store",
            "max-age=60, must-revalidate",
            "max-age=0, stale-while-revalidate=60",
        ];
        let mut seed = fastrand::Rng::with_seed(number as u64);
        let mut headers = vec![("cache-control", control[seed.usize(..control.len())]), ("vary", "x-flavour")];
        if seed.bool() {
            headers.push(("etag", "\"never\""));
        }
        reply(200, &headers, format!("{caller}|{flavour}|{}|{number}", seen.target))
    })
    .await;
    let armiger = caching(&backend, "{vary_by: [\"header:x-caller\"]}").await;
    let mut random = fastrand::Rng::with_seed(7);
    let mut connection = armiger.connect().await;
    // The least number that an answer may have after a purge of all.
    let mut least = 0;
    let mut latest = 0;
    for _ in 0..600 {
        let target = format!("/{}", random.u8(..3));
        let (caller, flavour) = (format!("c{}", random.u8(..4)), format!("f{}", random.u8(..3)));
        if random.u8(..40) == 0 {
            let purged = armiger.admin().post("/cache/purge", json!({"all": true}).to_string()).await;
            purged.assert_status(200);
            least = latest + 1;
        }
        let headers = [("x-caller", caller.as_str()), ("x-flavour", flavour.as_str())];
        let response = connection.request(request("GET", &target, &headers)).await;
        let parts: Vec<&str> = response.text().split('|').collect();
        assert_eq!(parts[..3], [&*caller, &*flavour, &*target], "{}", status(&response));
        let number: usize = parts[3].parse().unwrap();
        assert!(number >= least, "{number} is from before the purge at {least}");
        latest = latest.max(number);
    }
    assert!(backend.count() < 600, "nothing was ever stored");
}

#[tokio::test]
async fn cookies_are_stored_for_nobody() {
    let backend = counting(&[("cache-control", "max-age=60"), ("set-cookie", "session=secret")]).await;
    let armiger = caching(&backend, "{strip_set_cookie: true}").await;
    for _ in 0..2 {
        let response = armiger.get("/").await;
        response.assert_no_header("set-cookie");
        assert_eq!(response.text(), "1");
    }
}

// === stale ===

/// A backend whose first answer is stale at once, and which takes its time for the others.
async fn renewing(go: &Signal) -> Backend {
    let (go, count) = (go.clone(), AtomicUsize::new(0));
    Backend::serving(move |_| {
        let (go, number) = (go.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if number > 0 {
                go.wait().await;
                return reply(200, &[("cache-control", "max-age=60")], "new");
            }
            reply(200, &[("cache-control", "max-age=0, stale-while-revalidate=60")], "old")
        }
    })
    .await
}

async fn refreshing(backend: &Backend, drain: &str) -> Armiger {
    let armiger = Armiger::with(Config::to(backend).policies("cache: {}").top(&format!("drain: {drain}"))).await;
    armiger.get("/").await;
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 1.0).await;
    assert_eq!(armiger.get("/").await.text(), "old");
    backend.arrived(2).await;
    armiger
}

#[tokio::test]
async fn the_end_of_armiger_waits_for_a_refresh() {
    let go = Signal::new();
    let backend = renewing(&go).await;
    let armiger = refreshing(&backend, "{delay: 0s, timeout: 1h}").await;
    armiger.running().drain().begin();
    let over = armiger.running().drain().over();
    let too_early = tokio::time::timeout(std::time::Duration::from_millis(300), over).await;
    assert!(too_early.is_err(), "armiger ended before the refresh was over");
    go.send();
    within("the end", armiger.running().drain().over()).await;
    assert_eq!(armiger.stop().await.cut, 0);
}

#[tokio::test]
async fn the_end_of_armiger_waits_for_a_refresh_no_longer_than_for_exchanges() {
    let backend = renewing(&Signal::new()).await;
    let armiger = refreshing(&backend, "{delay: 0s, timeout: 100ms}").await;
    armiger.running().drain().begin();
    within("the end", armiger.running().drain().over()).await;
}

/// The worker that asks may have no connection of its own left.
#[tokio::test]
async fn at_the_end_nobody_is_left_without_the_answer_that_another_worker_asks_for() {
    let go = Signal::new();
    let wait = go.clone();
    let backend = Backend::serving(move |_| {
        let go = wait.clone();
        async move {
            go.wait().await;
            reply(200, &[("cache-control", "max-age=60")], "one for all")
        }
    })
    .await;
    let config = Config::to(&backend).policies("cache: {}").top("drain: {delay: 0s, timeout: 1h}");
    let armiger = Armiger::with_workers(2, config).await;
    let gauge = "armiger_http_requests_in_flight{route=\"everything\"}";
    let leader = armiger.raw("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    backend.arrived(1).await;
    let client = armiger.client();
    let follower = tokio::spawn(async move { client.request(request("GET", "/", &[("host", "h")])).await });
    armiger.until_metric(gauge, 2.0).await;
    leader.reset();
    armiger.until_metric(gauge, 1.0).await;

    armiger.running().drain().begin();

    let over = armiger.running().drain().over();
    let too_early = tokio::time::timeout(std::time::Duration::from_millis(300), over).await;
    assert!(too_early.is_err(), "somebody still waits");
    go.send();
    assert_eq!(follower.await.unwrap().assert_status(200).text(), "one for all");
    assert_eq!((armiger.stop().await.cut, backend.count()), (0, 1));
}

/// Who looks up why one gets another answer than others sees for which requests each is, and not who asked.
#[tokio::test]
async fn a_look_at_a_url_tells_its_variants_apart_and_nobodys_credentials() {
    let vary = [("cache-control", "public, max-age=60"), ("vary", "accept-language, x-plan")];
    let backend = Backend::with(move |_| reply(200, &vary, "x")).await;
    let armiger = caching(&backend, "{vary_by: [\"header:x-shop\"]}").await;
    for (language, plan, shop) in [("de", "gold", "1"), ("en", "iron", "1"), ("en", "gold", "2")] {
        get(&armiger, "/a", &[("accept-language", language), ("x-plan", plan), ("x-shop", shop)]).await;
    }
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 3.0).await;

    let stored = armiger.admin().get("/cache/lookup?url=/a").await.assert_status(200).json();

    let rows = stored["stored"].as_array().unwrap();
    let languages = |language: &str| rows.iter().filter(|row| row["request"]["accept-language"] == language).count();
    assert_eq!((rows.len(), languages("de"), languages("en")), (3, 1, 2), "{stored:#}");
    let of = |pointer: &str| {
        let all = rows.iter().map(|row| row.pointer(pointer).unwrap().as_str().unwrap());
        all.collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!((of("/request/x-plan/hash"), of("/key")), (2, 2), "{stored:#}");
    let text = stored.to_string();
    assert!(!text.contains("gold") && !text.contains("iron"), "{text}");
}

#[tokio::test]
async fn a_cache_without_room_is_told_so() {
    let backend = Backend::replies("").await;
    for room in ["memory", "fills_max"] {
        let config = Config::to(&backend).top(&format!("cache: {{{room}: 0B}}")).policies("cache: {}");
        let Err(report) = Armiger::try_with(config).await else { panic!("it is accepted") };
        assert!(report.contains(&format!("has no room to store anything: `cache.{room}` is 0B")), "{report}");
        assert!(!report.contains("entry_max"), "{report}");
    }
}

/// RFC 5861 §3: one refresh, behind the backs of all.
#[tokio::test]
async fn a_stale_answer_is_used_while_one_refresh_runs() {
    let go = Signal::new();
    let backend = renewing(&go).await;
    let armiger = caching(&backend, "{}").await;
    armiger.get("/").await;
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 1.0).await;

    for _ in 0..20 {
        let response = armiger.get("/").await;
        assert_eq!(response.text(), "old");
        assert!(status(&response).contains("detail=revalidating"), "{}", status(&response));
    }
    backend.arrived(2).await;
    assert_eq!(backend.count(), 2, "one refresh for all of them");
    go.send();
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 2.0).await;

    assert_eq!(armiger.get("/").await.text(), "new");
    assert_eq!(backend.count(), 2);
}

/// RFC 5861 §4, and RFC 9111 §4.2.4 for what forbids it.
#[tokio::test]
async fn a_stale_answer_takes_the_place_of_an_error() {
    for (control, is_covered) in [
        ("max-age=0, stale-if-error=60", true),
        ("max-age=0", true),
        ("max-age=0, must-revalidate", false),
        ("max-age=0, proxy-revalidate", false),
        ("s-maxage=0", false),
        ("no-cache", false),
    ] {
        let is_broken = Arc::new(AtomicBool::new(false));
        let broken = is_broken.clone();
        let mut backend = Backend::with(move |_| match broken.load(Ordering::SeqCst) {
            true => reply(503, &[], "broken"),
            false => reply(200, &[("cache-control", control), ("etag", "\"a\"")], "old"),
        })
        .await;
        let armiger = caching(&backend, "{stale_if_error: 10m}").await;
        armiger.get("/").await;
        is_broken.store(true, Ordering::SeqCst);

        let response = armiger.get("/").await;
        assert_eq!(response.status, if is_covered { 200 } else { 503 }, "{control}");
        backend.stop();
        let response = armiger.get("/").await;
        if is_covered {
            assert_eq!(response.text(), "old", "{control}");
            assert!(
                status(&response).contains("hit") && status(&response).contains("detail=error"),
                "{}",
                status(&response)
            );
        } else {
            response.assert_problem(502, "upstream-connect");
        }
    }
}

/// Nobody asks an upstream whose breaker is open, and what is stored serves on.
#[tokio::test]
async fn a_stale_answer_takes_the_place_of_an_upstream_whose_breaker_is_open() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = is_broken.clone();
    let backend = Backend::with(move |_| match broken.load(Ordering::SeqCst) {
        true => reply(503, &[], "broken"),
        false => reply(200, &[("cache-control", "max-age=0, stale-if-error=60")], "old"),
    })
    .await;
    let breaker = "breaker: {trip: {consecutive: 2}, open_for: {base: 1m}}";
    let armiger = Armiger::with(Config::to(&backend).upstream(breaker).policies("cache: {}")).await;
    armiger.get("/").await.assert_status(200);
    is_broken.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(armiger.get("/").await.assert_status(200).text(), "old");
    }
    let asked = backend.count();

    for _ in 0..3 {
        let response = armiger.get("/").await;
        assert_eq!((response.status, response.text()), (200, "old"));
        assert!(
            status(&response).contains("hit") && status(&response).contains("detail=error"),
            "{}",
            status(&response)
        );
    }
    armiger.get("/other").await.assert_problem(503, "breaker-open");
    assert_eq!((asked, backend.count()), (3, 3), "none of them reached it");
}

#[tokio::test]
async fn a_slow_upstream_is_an_error_too() {
    let go = Signal::new();
    let (wait, count) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::serving(move |_| {
        let (go, number) = (wait.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if number > 0 {
                go.wait().await;
            }
            reply(200, &[("cache-control", "max-age=0, stale-if-error=60")], "old")
        }
    })
    .await;
    let config = Config::to(&backend).upstream("timeouts: {first_byte: 50ms}").policies("cache: {}");
    let armiger = Armiger::with(config).await;
    armiger.get("/").await;
    let response = armiger.get("/").await;
    assert_eq!((response.status, response.text()), (200, "old"));
    go.send();
}

// === waiting for one another ===

const CROWD: usize = 1000;

/// Asks for one URL so often at once, on ten connections, which are to be kept.
async fn crowd(armiger: &Armiger) -> (Vec<Connection>, Vec<JoinHandle<Response>>) {
    let (mut connections, mut tasks) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let connection = armiger.connect_h2c().await;
        for _ in 0..CROWD / 10 {
            let mut hand = connection.share();
            tasks.push(tokio::spawn(async move { hand.get("/hot").await }));
        }
        connections.push(connection);
    }
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", CROWD as f64).await;
    (connections, tasks)
}

fn roomy(backend: &Backend) -> Config {
    Config::to(backend)
        .listener("limits: {streams_max: 200, in_flight_max: 4000}")
        .upstream("pool: {connections_max: 1100}\nlimits: {in_flight_max: 4000}")
        .policies("cache: {coalesce_wait: 1m}")
}

#[tokio::test]
async fn a_thousand_that_ask_for_one_cold_url_ask_the_upstream_once() {
    let (first, rest) = (Signal::new(), Signal::new());
    let signals = (first.clone(), rest.clone());
    let backend = Backend::serving(move |_| {
        let (first, rest) = signals.clone();
        async move {
            first.wait().await;
            let (chunks, mut answer) = streamed(200);
            answer.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            tokio::task::spawn_local(async move {
                chunks.data("one ").await;
                rest.wait().await;
                chunks.data("two").await;
            });
            answer
        }
    })
    .await;
    let armiger = Armiger::with(roomy(&backend)).await;
    let (_connections, tasks) = crowd(&armiger).await;

    first.send();
    // Each has its head while the second part of the body has not come.
    armiger
        .until_metric("armiger_cache_requests_total{result=\"collapsed\",route=\"everything\"}", (CROWD - 1) as f64)
        .await;
    rest.send();
    for task in tasks {
        assert_eq!(task.await.expect("an answer").text(), "one two");
    }
    assert_eq!(backend.count(), 1);
}

/// Whoever waited for an answer that is none to store asks at once, and not one after the other; whoever comes later does
/// not wait.
#[tokio::test]
async fn a_thousand_that_ask_for_what_is_not_stored_ask_at_the_same_time() {
    let (first, rest) = (Signal::new(), Signal::new());
    let signals = (first.clone(), rest.clone());
    let count = Arc::new(AtomicUsize::new(0));
    let backend = Backend::serving(move |_| {
        let (first, rest) = signals.clone();
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            if number == 0 {
                first.wait().await
            } else {
                rest.wait().await
            }
            reply(200, &[("cache-control", "no-store")], "own")
        }
    })
    .await;
    let armiger = Armiger::with(roomy(&backend)).await;
    let (_connections, tasks) = crowd(&armiger).await;
    assert_eq!(backend.count(), 1, "all wait for the first");

    first.send();
    // All of them are there before one of them is answered.
    backend.arrived(CROWD).await;
    rest.send();
    for task in tasks {
        assert_eq!(task.await.expect("an answer").text(), "own");
    }
    armiger.get("/hot").await.assert_status(200);
    assert_eq!(backend.count(), CROWD + 1);
}

/// Who waits must not suffer from who began.
#[tokio::test]
async fn a_fetch_goes_on_when_the_client_that_began_it_leaves() {
    let (first, rest) = (Signal::new(), Signal::new());
    let signals = (first.clone(), rest.clone());
    let backend = Backend::serving(move |_| {
        let (first, rest) = signals.clone();
        async move {
            first.wait().await;
            let (chunks, mut answer) = streamed(200);
            answer.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            tokio::task::spawn_local(async move {
                chunks.data("one ").await;
                rest.wait().await;
                chunks.data("two").await;
            });
            answer
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let gauge = "armiger_http_requests_in_flight{route=\"everything\"}";
    let leader = armiger.raw("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    backend.arrived(1).await;
    let follow = |armiger: &Armiger| {
        let client = armiger.client();
        tokio::spawn(async move { client.request(request("GET", "/", &[("host", "h")])).await })
    };
    let follower = follow(&armiger);
    armiger.until_metric(gauge, 2.0).await;
    leader.reset();
    armiger.until_metric(gauge, 1.0).await;
    first.send();
    armiger.until_metric("armiger_cache_requests_total{result=\"collapsed\",route=\"everything\"}", 1.0).await;
    rest.send();

    assert_eq!(follower.await.unwrap().text(), "one two");
    armiger.request(request("GET", "/", &[("host", "h")])).await.assert_status(200);
    assert_eq!(backend.count(), 1);
}

/// What breaks off must not look complete, and must not be stored.
#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_all_and_is_not_stored() {
    let count = Arc::new(AtomicUsize::new(0));
    let backend = Backend::serving(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            if number > 0 {
                return reply(200, &[("cache-control", "max-age=60")], "whole");
            }
            let (chunks, mut answer) = streamed(200);
            answer.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            tokio::task::spawn_local(async move {
                chunks.data("half").await;
                chunks.cut().await;
            });
            answer
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let mut connection = armiger.connect().await;
    assert!(connection.try_request(request("GET", "/", &[])).await.is_err(), "a cut answer never looks complete");
    assert_eq!(armiger.get("/").await.text(), "whole");
}

/// Longer than `entry_max`, whether the answer says so or not.
#[tokio::test]
async fn what_is_too_long_goes_through_and_is_not_stored() {
    let long = "x".repeat(300 << 10);
    let body = long.clone();
    let backend = Backend::serving(move |request| {
        let (long, is_told) = (body.clone(), request.uri().path() == "/told");
        async move {
            if is_told {
                return reply(200, &[("cache-control", "max-age=60")], long);
            }
            let (chunks, mut answer) = streamed(200);
            answer.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            tokio::task::spawn_local(async move {
                for part in long.as_bytes().chunks(16 << 10) {
                    chunks.data(Bytes::copy_from_slice(part)).await;
                }
            });
            answer
        }
    })
    .await;
    let armiger = caching(&backend, "{entry_max: 64KiB}").await;
    for (round, target) in ["/told", "/told", "/untold", "/untold"].into_iter().enumerate() {
        let response = armiger.get(target).await;
        assert!(response.body == long, "{target}: {} bytes", response.body.len());
        assert_eq!(backend.count(), round + 1, "{target}");
    }
}

// === operators ===

async fn purge(armiger: &Armiger, order: Value) -> Response {
    armiger.admin().post("/cache/purge", order.to_string()).await
}

#[tokio::test]
async fn operators_purge_by_url_prefix_and_tag() {
    for (order, gone) in [
        (json!({"url": "http://h.test/a/1"}), &["/a/1"][..]),
        (json!({"url": ["http://h.test/a/1", "http://h.test/b"]}), &["/a/1", "/b"]),
        (json!({"prefix": "/a/"}), &["/a/1", "/a/2"]),
        (json!({"prefix": "http://h.test/a/"}), &["/a/1", "/a/2"]),
        (json!({"prefix": "http://other.test/"}), &[]),
        (json!({"tag": "t"}), &["/a/1", "/b"]),
        (json!({"all": true}), &["/a/1", "/a/2", "/b"]),
    ] {
        let backend = Backend::with({
            let counts = Mutex::new(HashMap::<String, usize>::new());
            move |seen| {
                let mut counts = counts.lock().unwrap();
                let count = counts.entry(seen.target.clone()).or_default();
                *count += 1;
                let tag = if seen.target == "/a/2" { "u" } else { "s t" };
                let headers = [("cache-control", "max-age=60"), ("surrogate-key", tag), ("vary", "x-v")];
                reply(200, &headers, count.to_string())
            }
        })
        .await;
        let armiger = caching(&backend, "{}").await;
        let host = ("host", "h.test");
        for target in ["/a/1", "/a/2", "/b"] {
            for variant in ["1", "2"] {
                let response = get(&armiger, target, &[host, ("x-v", variant)]).await;
                response.assert_no_header("surrogate-key");
            }
        }
        purge(&armiger, order.clone()).await.assert_status(200);
        for target in ["/a/1", "/a/2", "/b"] {
            for variant in ["1", "2"] {
                let response = get(&armiger, target, &[host, ("x-v", variant)]).await;
                let is_gone = response.text().parse::<usize>().unwrap() > 2;
                assert_eq!(is_gone, gone.contains(&target), "{order} {target} {variant}");
            }
        }
    }
}

#[tokio::test]
async fn a_purge_beats_a_fetch_that_is_under_way() {
    let go = Signal::new();
    let (wait, count) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::serving(move |_| {
        let (go, number) = (wait.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if number == 0 {
                go.wait().await;
            }
            reply(200, &[("cache-control", "max-age=60")], number.to_string())
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let client = armiger.client();
    let before = tokio::spawn(async move { client.get("/").await });
    backend.arrived(1).await;
    purge(&armiger, json!({"all": true})).await.assert_status(200);

    // Asked after the purge, it does not wait for what was asked before.
    assert_eq!(armiger.get("/").await.text(), "1");
    go.send();
    assert_eq!(before.await.unwrap().text(), "0");
    armiger.until_metric("armiger_cache_fills_total{outcome=\"purged\",route=\"everything\"}", 1.0).await;
    assert_eq!(armiger.get("/").await.text(), "1");
}

/// Whoever waited for a fetch that failed has in hand what was stored when it began to wait.
#[tokio::test]
async fn what_was_purged_while_somebody_waited_does_not_stand_in_for_an_error() {
    let go = Signal::new();
    let (wait, count) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::serving(move |_| {
        let (go, number) = (wait.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if number == 0 {
                return reply(200, &[("cache-control", "max-age=0, stale-if-error=60")], "old");
            }
            go.wait().await;
            reply(503, &[], "broken")
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let ask = || {
        let client = armiger.client();
        tokio::spawn(async move { client.request(request("GET", "/", &[("host", "h")])).await })
    };
    armiger.request(request("GET", "/", &[("host", "h")])).await;
    let leader = ask();
    backend.arrived(2).await;
    let follower = ask();
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 2.0).await;
    purge(&armiger, json!({"all": true})).await.assert_status(200);
    go.send();

    assert_eq!((leader.await.unwrap().status, follower.await.unwrap().status), (503, 503));
    assert_eq!(backend.count(), 3, "the follower asked for itself");
}

#[tokio::test]
async fn a_soft_purge_leaves_what_may_be_used_stale() {
    let backend = counting(&[("cache-control", "max-age=60, stale-while-revalidate=60")]).await;
    let armiger = caching(&backend, "{}").await;
    armiger.get("/").await;
    purge(&armiger, json!({"all": true, "soft": true})).await.assert_status(200);
    assert_eq!(armiger.get("/").await.text(), "1");
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 2.0).await;
    assert_eq!(armiger.get("/").await.text(), "2");
}

#[tokio::test]
async fn operators_see_what_is_stored_and_why_something_is_not() {
    let backend = Backend::with(|seen| match seen.target.as_str() {
        "/a?b=1&c=2" => reply(200, &[("cache-control", "max-age=60"), ("cache-tag", "t")], "four"),
        _ => reply(200, &[("cache-control", "no-store")], "none"),
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    for target in ["/a?b=1&c=2", "/a?b=1&c=2", "/none"] {
        get(&armiger, target, &[("host", "h.test")]).await;
    }

    let rows = armiger.admin().get("/state/cache").await.assert_status(200).json();
    assert_eq!(rows["rows"][0]["keys"], 2, "{rows:#}");
    let row = &rows["rows"][1];
    assert_eq!((&row["route"], &row["hit"], &row["miss"]), (&json!("everything"), &json!(1), &json!(2)), "{rows:#}");
    let look =
        async |url: &str| armiger.admin().get(&format!("/cache/lookup?url={url}")).await.assert_status(200).json();
    let stored = look("http://h.test/a%3Fb=1%26c=2").await;
    let row = &stored["stored"][0];
    assert_eq!((&row["state"], &row["bytes"], &row["tags"]), (&json!("fresh"), &json!(4), &json!(["t"])), "{stored:#}");
    assert_eq!(row["host"], "h.test", "a path alone is looked up for all hosts: {stored:#}");
    let elsewhere = look("http://other.test/a%3Fb=1%26c=2").await;
    assert_eq!((&elsewhere["stored"], &elsewhere["hosts"]), (&json!([]), &json!(["h.test"])), "{elsewhere:#}");
    let none = look("/none").await;
    assert_eq!((&none["stored"][0]["state"], &none["stored"][0]["why"]), (&json!("not_stored"), &json!("no_store")));
    let other = look("/other").await;
    assert_eq!((&other["stored"], other["hint"].is_string()), (&json!([]), true));
    // Why what callers get is stored for nobody.
    for _ in 0..2 {
        get(&armiger, "/a?mine", &[("host", "h.test"), ("authorization", "Bearer a")]).await;
    }
    let mine = look("/a%3Fmine").await;
    assert_eq!((&mine["stored"][0]["why"], &mine["stored"][0]["hit_for_miss"]), (&json!("no_store"), &json!(0)));
    for order in [
        json!({}),
        json!({"url": "/a"}),
        json!({"url": "x/a"}),
        json!({"url": "http://h:99999/a"}),
        json!({"prefix": "x"}),
        json!({"tag": "a b"}),
        json!({"tag": ["a", "b,c"]}),
        json!({"tag": ""}),
        json!({"tag": "a", "all": true}),
        json!({"urls": "x"}),
    ] {
        assert_eq!(purge(&armiger, order.clone()).await.status, 400, "{order}");
    }
    // Whoever looks where the rows are is told where one URL is looked up.
    let astray = armiger.admin().get("/state/cache?url=/a").await;
    assert_eq!(astray.status, 400);
    assert!(astray.text().contains("/cache/lookup?url="), "{}", astray.text());
}

// === reload ===

#[tokio::test]
async fn what_is_stored_outlives_a_reload_unless_keys_mean_something_else() {
    let backend = counting(&[("cache-control", "max-age=60")]).await;
    let yaml = |policy: &str| Config::to(&backend).policies(&format!("cache: {policy}")).to_string();
    let files = Files::of(yaml("{}"));
    let armiger = Armiger::watching(files.config().into()).await;
    let get = async || get(&armiger, "/a", &[("host", "h.test")]).await.text().to_owned();
    assert_eq!(get().await, "1");

    files.replace("config.yaml", yaml("{stale_if_error: 5m, ttl: {max: 1h}}"));
    armiger.in_force(2).await;
    assert_eq!(get().await, "1");
    files.replace("config.yaml", yaml("{query: {sort: true}}"));
    armiger.in_force(3).await;
    assert_eq!(get().await, "2");
    let told = armiger.status().await.to_string();
    assert!(told.contains("reset"), "{told}");
}

/// A variant has the values of headers one after the other: read by other names it would show one as another.
#[tokio::test]
async fn a_look_after_a_reload_that_withholds_a_header_shows_no_value_of_it() {
    let reply_headers = [("cache-control", "max-age=60, public"), ("vary", "cookie, origin")];
    let backend = Backend::with(move |_| reply(200, &reply_headers, "x")).await;
    let yaml =
        |more: &str| Config::to(&backend).policies(&format!("cache: {{shared_across_users: true}}{more}")).to_string();
    let files = Files::of(yaml(""));
    let armiger = Armiger::watching(files.config().into()).await;
    get(&armiger, "/a", &[("cookie", "sid=s3cret"), ("origin", "https://a.test")]).await;
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 1.0).await;
    let look = async || armiger.admin().get("/cache/lookup?url=/a").await.assert_status(200).text().to_owned();
    assert!(look().await.contains("https://a.test"));

    files.replace("config.yaml", yaml("\nheaders: {request: {remove: [cookie]}}"));
    armiger.in_force(2).await;

    let told = look().await;
    assert!(!told.contains("s3cret"), "{told}");
    let status = armiger.status().await.to_string();
    assert!(status.contains("headers withheld from the upstream"), "{status}");
}

#[tokio::test]
async fn what_was_stored_for_all_is_gone_when_it_is_for_each() {
    let backend = counting(&[("cache-control", "max-age=60")]).await;
    let yaml = |policy: &str| Config::to(&backend).policies(&format!("cache: {policy}")).to_string();
    let files = Files::of(yaml("{shared_across_users: true}"));
    let armiger = Armiger::watching(files.config().into()).await;
    let headers = [("host", "h.test"), ("authorization", "Bearer a")];
    assert_eq!(get(&armiger, "/a", &headers).await.text(), "1");
    assert_eq!(get(&armiger, "/a", &headers).await.text(), "1");

    files.replace("config.yaml", yaml("{}"));
    armiger.in_force(2).await;
    assert_eq!(get(&armiger, "/a", &[("host", "h.test")]).await.text(), "2");
}

/// Answers what is asked for safely, with how often it was written, and what is not only upon the signal.
async fn written(go: &Signal) -> Backend {
    let (wait, writes) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    Backend::serving(move |asked| {
        let (go, writes) = (wait.clone(), writes.clone());
        async move {
            if asked.method() == Method::POST {
                go.wait().await;
                writes.fetch_add(1, Ordering::SeqCst);
            }
            reply(200, &[("cache-control", "max-age=600")], writes.load(Ordering::SeqCst).to_string())
        }
    })
    .await
}

/// What is stored by the new configuration was asked for before the write too.
#[tokio::test]
async fn an_unsafe_request_makes_invalid_what_is_stored_after_a_reload_too() {
    let host = [("host", "h")];
    for (section, policy) in [("cache: {memory: 80MiB}", "{}"), ("", "{query: {ignore: [b]}}")] {
        let go = Signal::new();
        let backend = written(&go).await;
        let files = Files::of(Config::to(&backend).policies("cache: {}").to_string());
        let armiger = Armiger::watching(files.config().into()).await;
        let write = armiger.raw("POST /a?b=1 HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
        backend.arrived(1).await;
        let config = Config::to(&backend).top(section).policies(&format!("cache: {policy}"));
        files.replace("config.yaml", config.to_string());
        armiger.in_force(2).await;
        assert_eq!(get(&armiger, "/a?b=1", &host).await.text(), "0");
        assert!(status(&get(&armiger, "/a?b=1", &host).await).contains("hit"), "{section}{policy}");

        go.send();

        within("the write to count", async { while get(&armiger, "/a?b=1", &host).await.text() == "0" {} }).await;
        drop(write);
    }
}
