//! Actions without an upstream, and methods that end at armiger.

use super::*;

#[tokio::test]
async fn a_fixed_answer_is_as_the_file_has_it() {
    let routes = "
        - name: text
          match: {path: /text}
          respond: {body: \"hello\\n\"}
        - name: json
          match: {path: /json}
          respond: {status: 203, content_type: application/json, body: '{\"a\": 1}', headers: {x-a: one}}
        - {name: page, match: {path: /page}, respond: {body: p, headers: {content-type: text/html}}}
        - {name: empty, match: {path: /empty}, respond: {status: 204}}
    ";
    let armiger = Armiger::with(Config::empty().routes(routes)).await;

    let text = armiger.get("/text").await;
    assert_eq!(text.assert_status(200).assert_header("content-type", "text/plain; charset=utf-8").text(), "hello\n");
    let json = armiger.get("/json").await;
    json.assert_status(203).assert_header("content-type", "application/json").assert_header("x-a", "one");
    assert_eq!(json.json()["a"], 1);
    let page = armiger.get("/page").await;
    let kinds: Vec<_> = page.headers.get_all("content-type").iter().collect();
    assert_eq!(kinds, ["text/html"], "in place of the default");
    let empty = armiger.raw("GET /empty HTTP/1.1\r\nhost: a\r\n\r\n").await.answer().await;
    empty.assert_status(204).assert_no_header("content-length").assert_no_header("content-type");
    let mut head = armiger.raw("HEAD /text HTTP/1.1\r\nhost: a\r\n\r\n").await;
    head.answer_to_head().await.assert_status(200).assert_header("content-length", "6");
}

#[tokio::test]
async fn an_answer_of_armigers_own_leaves_no_body_unread_between_requests() {
    let armiger = Armiger::with(Config::empty().routes("- {name: a, match: {path: /a}, respond: {body: ok}}")).await;

    let mut conversation = armiger
        .raw("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\nGET /evil HTTP/1.1\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;

    // Either the body is drained, and the next answer is that of `/a`, or the connection ends.
    conversation.answer().await.assert_status(200);
    match conversation.try_answer().await {
        Ok(second) => {
            second.assert_status(200);
        }
        Err(Broken::Closed | Broken::Reset) => {}
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_redirect_has_the_parameters_and_the_query() {
    let routes = "
        - {name: default, match: {path: \"/old/{id}\"}, redirect: {to: \"/new/{id}\"}}
        - {name: away, match: {path: \"/away/{rest...}\"}, redirect: {to: \"https://example.com/{rest}?from=here\", status: 302}}
    ";
    let armiger = Armiger::with(Config::empty().routes(routes)).await;

    armiger.get("/old/7?a=b").await.assert_status(308).assert_header("location", "/new/7?a=b");
    armiger.get("/away/a/b").await.assert_status(302).assert_header("location", "https://example.com/a/b?from=here");
    armiger.get("/away/a?x=1").await.assert_header("location", "https://example.com/a?from=here&x=1");
    armiger.post("/old/%0d%0ax", "body").await.assert_status(308).assert_header("location", "/new/%0D%0Ax");
}

#[tokio::test]
async fn options_of_the_whole_server_and_methods_of_no_use_end_at_armiger() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    armiger.raw("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").await.answer().await.assert_status(204);
    armiger.request(request("TRACE", "/", &[])).await.assert_problem(405, "method-not-allowed");

    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn max_forwards_counts_down_for_options_and_ends_at_armiger() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    armiger.request(request("OPTIONS", "/a", &[("max-forwards", "0")])).await.assert_status(204);
    assert_eq!(backend.count(), 0);

    armiger.request(request("OPTIONS", "/a", &[("max-forwards", "2")])).await.assert_status(200);
    armiger.request(request("GET", "/a", &[("max-forwards", "0")])).await.assert_status(200);
    let left: Vec<_> = backend.requests().iter().map(|seen| seen.header("max-forwards").to_owned()).collect();
    assert_eq!(left, ["1", "0"], "other methods take no notice of it (RFC 9110 §7.6.2)");
}
