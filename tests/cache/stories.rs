//! What several requests after one another get.

use super::*;

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
        step(GET, Some((304, &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("set-cookie", "a=1"), ("connection", "x-c"), ("x-c", "1")])), 200, &[("set-cookie", Some("a=1"))]),
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
