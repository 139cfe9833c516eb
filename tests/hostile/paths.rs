//! One spelling of a path.

use super::*;

#[tokio::test]
async fn a_path_has_one_spelling_or_is_refused() {
    let backend = strict().await;
    let routes = r#"
    - {name: secret, match: {path_prefix: /secret}, policies: {ip_filter: {deny: [127.0.0.0/8]}}, proxy: {upstream: app}}
    - {name: everything, match: {path: "/{rest...}"}, proxy: {upstream: app}}
    "#;
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;

    for (target, expected) in [
        // As the back end gets it.
        ("/", Ok("/")),
        ("/a/./b", Ok("/a/b")),
        ("/a/../b", Ok("/b")),
        ("/a/%2e%2e/b", Ok("/b")),
        ("/a/.%2E/b", Ok("/b")),
        ("//a///b", Ok("/a/b")),
        ("/%61", Ok("/a")),
        ("/a%c3%a9", Ok("/a%C3%A9")),
        ("/a%2520b", Ok("/a%2520b")),
        ("/a/%252e%252e/b", Ok("/a/%252e%252e/b")),
        ("/%252fa", Ok("/%252fa")),
        ("/a?b=/../c;%2f%00\\", Ok("/a?b=/../c;%2f%00\\")),
        ("//evil.example/x", Ok("/evil.example/x")),
        // Refused, whoever is asked.
        ("/..", Err((400, "bad-path"))),
        ("/../x", Err((400, "bad-path"))),
        ("/a/../../x", Err((400, "bad-path"))),
        ("/%2e%2e/x", Err((400, "bad-path"))),
        ("/%", Err((400, "bad-path"))),
        ("/%4", Err((400, "bad-path"))),
        ("/%zz", Err((400, "bad-path"))),
        ("/a/..;/b", Err((400, "bad-path"))),
        ("/a/..%2fb", Err((400, "bad-path"))),
        ("/a/..%5cb", Err((400, "bad-path"))),
        ("/a\\..\\b", Err((400, "bad-path"))),
        ("/a%2fb", Err((400, "bad-path"))),
        ("/a%2Fb", Err((400, "bad-path"))),
        ("/a%00b", Err((400, "bad-path"))),
        ("/a\\b", Err((400, "bad-path"))),
        ("/a%5cb", Err((400, "bad-path"))),
        ("/a;b=c", Err((400, "bad-path"))),
        // No spelling leads round a policy.
        ("/secret", Err((403, "address-blocked"))),
        ("/secret/x", Err((403, "address-blocked"))),
        ("/./secret", Err((403, "address-blocked"))),
        ("//secret", Err((403, "address-blocked"))),
        ("/x/../secret", Err((403, "address-blocked"))),
        ("/x/%2e%2e/secret", Err((403, "address-blocked"))),
        ("/%73ecret", Err((403, "address-blocked"))),
        ("http://a/secret", Err((403, "address-blocked"))),
        ("/x/..;/secret", Err((400, "bad-path"))),
        ("/x%2f..%2fsecret", Err((400, "bad-path"))),
        ("/secret;x", Err((400, "bad-path"))),
        ("/secret%2fx", Err((400, "bad-path"))),
    ] {
        let before = backend.count();
        let answer = armiger.raw(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await.answer().await;
        match expected {
            Ok(seen) => {
                assert_eq!(answer.status, 200, "{target}: {answer:#?}");
                assert_eq!(backend.requests()[before].target, seen, "{target}");
            }
            Err((status, slug)) => {
                assert_eq!(answer.status, status, "{target}: {answer:#?}");
                answer.assert_problem(status, slug);
                assert_eq!(backend.count(), before, "{target}");
            }
        }
    }
}

#[tokio::test]
async fn a_route_may_allow_what_paths_hold() {
    let backend = strict().await;
    let allow = "path_allow: [encoded_slash, encoded_nul, backslash, semicolon]";
    let routes = format!(
        r#"
    - {{name: lax, match: {{path: "/lax/{{rest...}}", {allow}}}, proxy: {{upstream: app}}}}
    - {{name: everything, match: {{path: "/{{rest...}}"}}, proxy: {{upstream: app}}}}
    "#
    );
    let armiger = Armiger::with(Config::to(&backend).routes(&routes)).await;

    for (target, seen) in [
        ("/lax/a%2fb", "/lax/a%2Fb"),
        ("/lax/a%00b", "/lax/a%00b"),
        ("/lax/a\\b", "/lax/a%5Cb"),
        ("/lax/a;b=c", "/lax/a;b=c"),
    ] {
        let before = backend.count();
        armiger.raw(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await.answer().await.assert_status(200);
        assert_eq!(backend.requests()[before].target, seen, "{target}");
    }
    let before = backend.count();
    // Allowed for one route is not allowed for another, and a dot segment for whoever splits there never is.
    for target in ["/strict/a%2fb", "/lax/..%2fb", "/lax/..;/b", "/lax%2fa", "/lax;/a"] {
        let answer = armiger.raw(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await.answer().await;
        answer.assert_problem(400, "bad-path");
    }
    assert_eq!(backend.count(), before);
}
