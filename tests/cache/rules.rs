//! What is stored, rule by rule of RFC 9111.

use super::*;

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
