//! TLS: with clients and to upstreams, whom armiger believes and how it proves who it is.

use std::fmt::Write;
use std::time::Duration;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::harness::{Armiger, Authority, Backend, Config, Files, Front, Pair, address_in, answer, now, within};

/// A text as a YAML value on one line.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// The upstream's block `tls` with this authority and whatever else is said.
fn believing(authority: &Authority, more: &str) -> String {
    format!("tls: {{ca: {}{more}}}", quoted(&authority.pem()))
}

fn config(url: &str, tls: &str) -> Config {
    Config::to_url(url).upstream(tls)
}

// === out ===

#[tokio::test]
async fn an_upstream_is_reached_by_tls_and_its_connection_used_again() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let pair = authority.issue(&["127.0.0.1"]);
        let builder = rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into());
        let server = builder.with_protocol_versions(versions).unwrap().with_no_client_auth();
        let front = Front::of(&backend, server.with_single_cert(pair.chain(), pair.private()).unwrap()).await;
        let armiger = Armiger::with(config(&front.url(), &believing(&authority, ""))).await;
        let before = backend.connections();
        for _ in 0..20 {
            armiger.get("/").await.assert_status(200);
        }
        let body = vec![b'x'; 300_000];
        armiger.post("/", body.clone()).await.assert_status(200);
        assert_eq!(backend.requests().last().unwrap().body_bytes, body.len() as u64);
        assert_eq!(front.seen().len(), 1, "tickets that lie unread do not end a connection");
        assert_eq!(backend.connections(), before + 1);
    }
}

#[tokio::test]
async fn http2_is_spoken_only_where_the_endpoint_agrees() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let pair = authority.issue(&["127.0.0.1"]);
    let agrees = Front::of(&backend, pair.server(&["h2", "http/1.1"], None)).await;
    let h2 = "protocol: h2";
    let armiger = Armiger::with(config(&agrees.url(), &believing(&authority, "")).upstream(h2)).await;
    armiger.get("/").await.assert_status(200);
    assert_eq!(agrees.seen()[0].alpn.as_deref(), Some("h2"));
    assert_eq!(backend.only().await.version, http::Version::HTTP_2);

    let silent = Front::of(&backend, pair.server(&[], None)).await;
    let armiger = Armiger::with(config(&silent.url(), &believing(&authority, "")).upstream(h2)).await;
    armiger
        .get("/")
        .await
        .assert_problem(502, "upstream-tls")
        .assert_header("proxy-status", "armiger; error=tls_protocol_error");
    assert_eq!(backend.count(), 1, "nothing reached it");
}

#[tokio::test]
async fn a_certificate_that_is_not_to_be_believed_is_a_502_and_nothing_reaches_the_upstream() {
    let (authority, stranger, backend) = (Authority::new(), Authority::new(), Backend::replies("ok").await);
    let expired = authority.issue_with(&["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let ours = believing(&authority, "");
    for (pair, tls) in [
        (stranger.issue(&["127.0.0.1"]), ours.as_str()),
        (authority.issue(&["127.0.0.2"]), &ours),
        (authority.issue(&["localhost"]), &ours),
        (expired, &ours),
        (authority.issue(&["127.0.0.1"]), "tls: {}"),
        (authority.issue(&["127.0.0.1"]), "limits: {in_flight_max: 9}"),
        (authority.issue(&["127.0.0.1"]), &believing(&authority, ", server_name: app.test")),
        (authority.issue(&["app.test"]), &believing(&authority, ", names: [spiffe://test/app, other.test]")),
        (stranger.issue(&["spiffe://test/app"]), &believing(&authority, ", names: [spiffe://test/app]")),
    ] {
        let front = Front::of(&backend, pair.server(&[], None)).await;
        let armiger = Armiger::with(config(&front.url(), tls)).await;
        let refusal = armiger.post("/", "secret").await;
        refusal.assert_problem(502, "upstream-certificate");
        refusal.assert_header("proxy-status", "armiger; error=tls_certificate_error");
        // Why stands in the log alone.
        let line = armiger.logged(|line| line["status"] == 502).await;
        let cause = line["attempts"][0]["cause"].as_str().unwrap_or_else(|| panic!("{line:#}"));
        assert!(cause.contains("certificate") && cause.len() <= 200, "{cause}");
        assert!(!refusal.text().contains(cause), "{}", refusal.text());
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn another_name_may_be_asked_for_and_names_pinned() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    for (names, tls, asked) in [
        (&["app.test"][..], believing(&authority, ", server_name: app.test"), Some("app.test")),
        (&["spiffe://test/app"], believing(&authority, ", names: [spiffe://test/app]"), None),
        (&["b.test"], believing(&authority, ", names: [a.test, b.test], server_name: c.test"), Some("c.test")),
        (&["whatever"], "tls: {insecure_skip_verify: true}".to_owned(), None),
    ] {
        let front = Front::of(&backend, authority.issue(names).server(&[], None)).await;
        let armiger = Armiger::with(config(&front.url(), &tls)).await;
        armiger.get("/").await.assert_status(200);
        assert_eq!(front.seen()[0].name.as_deref(), asked, "{tls}");
    }
}

#[tokio::test]
async fn armiger_proves_who_it_is_where_it_is_asked() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let Pair { certificate, key } = authority.issue(&["armiger.test"]);
    let server = authority.issue(&["127.0.0.1"]);
    for versions in ["1.2", "1.3"] {
        let mut asks = server.server(&[], Some(&authority));
        if versions == "1.2" {
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                super::harness::roots(&authority).into(),
                rustls::crypto::aws_lc_rs::default_provider().into(),
            );
            let builder =
                rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into());
            let builder = builder.with_protocol_versions(&[&TLS12]).unwrap();
            let builder = builder.with_client_cert_verifier(verifier.build().unwrap());
            asks = builder.with_single_cert(server.chain(), server.private()).unwrap();
        }
        let front = Front::of(&backend, asks).await;
        let files = Files::none();
        files.write("armiger.key", &key);
        let mut yaml = String::new();
        write!(
            yaml,
            ", certificate: {}, key: \"${{file:{}}}\"",
            quoted(&certificate),
            files.path("armiger.key").display()
        )
        .unwrap();
        let armiger = Armiger::with(config(&front.url(), &believing(&authority, &yaml))).await;
        armiger.get("/").await.assert_status(200);
        assert_eq!(front.seen()[0].client_certificates, 1);

        let nameless = Armiger::with(config(&front.url(), &believing(&authority, ""))).await;
        let refusal = nameless.post("/", "x").await;
        refusal.assert_problem(502, "upstream-tls");
        refusal.assert_header("proxy-status", "armiger; error=tls_alert_received");
    }
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn the_end_of_what_armiger_shows_to_an_upstream_is_told() {
    let authority = Authority::new();
    let until = |year| {
        authority.issue_with(&["armiger.test"], |params| {
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(year, 1, 1));
        })
    };
    let shown = ", certificate: \"${file:armiger.crt}\", key: \"${file:armiger.key}\"";
    let files = Files::of(config("https://127.0.0.1:1", &believing(&authority, shown)));
    let put = |pair: Pair| {
        files.write("armiger.key", &pair.key);
        files.write("armiger.crt", &pair.certificate);
    };
    put(until(2060));
    let armiger = Armiger::watching(files.config().into()).await;
    let metric = "armiger_upstream_tls_certificate_not_after_timestamp_seconds";
    let end = async || {
        let row = armiger.admin().get("/state/upstreams").await.json()["rows"][0]["certificate_not_after"].clone();
        (armiger.metric(&format!("{metric}{{upstream=\"app\"}}")).await, row)
    };
    within("the end", async { while end().await.0 == 0.0 {} }).await;
    assert_eq!(end().await, (2_840_140_800.0, json!("2060-01-01T00:00:00Z")));

    let text = std::fs::read_to_string(files.config()).unwrap();
    std::fs::write(files.config(), text.replace(shown, "")).unwrap();
    armiger.in_force(2).await;
    within("no certificate", async {
        while armiger.admin().get("/metrics").await.text().contains(&format!("{metric}{{")) {}
    })
    .await;
    assert_eq!(end().await.1, json!(null));

    armiger.stop().await;
    std::fs::write(files.config(), text).unwrap();
    put(until(2002));
    let mut process = Armiger::spawn(&["run", "--config", &files.config(), "--workers", "1"]);
    let line = process.stderr_line("the certificate that the upstream is shown is out of date");
    assert!(line.contains("WARN") && line.contains("upstream=\"app\""), "{line}");
    process.signal("TERM");
    process.finish();
}

#[tokio::test]
async fn what_is_no_tls_or_silent_is_told_apart_and_another_endpoint_is_tried() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let plain = format!("https://{}", backend.address());
    let armiger = Armiger::with(config(&plain, "tls: {}")).await;
    armiger.get("/").await.assert_problem(502, "upstream-tls");

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("https://{}", silent.local_addr().unwrap());
    let armiger = Armiger::with(config(&silent, "timeouts: {tls: 50ms}")).await;
    let refusal = armiger.get("/").await;
    refusal
        .assert_problem(502, "upstream-tls-timeout")
        .assert_header("proxy-status", "armiger; error=connection_timeout");

    let front = Front::of(&backend, authority.issue(&["127.0.0.1"]).server(&[], None)).await;
    let both = format!("{plain}\", \"{}", front.url());
    let armiger = Armiger::with(config(&both, &believing(&authority, ""))).await;
    for _ in 0..4 {
        armiger.post("/", "x").await.assert_status(200);
    }
}

#[tokio::test]
async fn a_new_authority_or_certificate_is_in_force_for_the_next_connection() {
    let (old, new, backend) = (Authority::new(), Authority::new(), Backend::with(|_| answer(200, "ok")).await);
    let front = Front::of(&backend, new.issue(&["127.0.0.1"]).server(&[], None)).await;
    let files = Files::of(config(&front.url(), "tls: {ca: \"${file:ca.pem}\"}"));
    files.write("ca.pem", old.pem());
    let armiger = Armiger::watching(files.config().into()).await;
    armiger.get("/").await.assert_problem(502, "upstream-certificate");
    files.replace("ca.pem", "damaged");
    let told = armiger.until_status(|status| status["last_reload"]["result"] == "refused").await;
    assert!(told.to_string().contains("holds no certificate"), "{told}");
    files.replace("ca.pem", new.pem());
    armiger.in_force(2).await;
    armiger.get("/").await.assert_status(200);
    within("a handshake", front.shaken(1)).await;
}

// === in ===

/// A listener with these pairs, and more keys of `tls`; and the files that it reads.
fn serving(backend: &Backend, pairs: &[&Pair], more: &str) -> Files {
    serving_with(Config::to(backend), pairs, more)
}

fn serving_with(config: Config, pairs: &[&Pair], more: &str) -> Files {
    let listed: Vec<String> = (0..pairs.len())
        .map(|place| format!("{{certificate: \"${{file:{place}.crt}}\", key: \"${{file:{place}.key}}\"}}"))
        .collect();
    let files = Files::of(config.listener(&format!("tls: {{certificates: [{}]{more}}}", listed.join(", "))));
    for (place, pair) in pairs.iter().enumerate() {
        files.write(&format!("{place}.crt"), &pair.certificate);
        files.write(&format!("{place}.key"), &pair.key);
    }
    files
}

#[tokio::test]
async fn a_client_speaks_tls_of_either_version_and_the_protocol_that_was_agreed_on() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let files = serving(&backend, &[&authority.issue(&["a.test"])], "");
    let armiger = Armiger::watching(files.config().into()).await;
    for version in [&TLS12, &TLS13] {
        for (alpn, spoken) in [
            (&["h2", "http/1.1"][..], http::Version::HTTP_2),
            (&["http/1.1"], http::Version::HTTP_11),
            (&[], http::Version::HTTP_11),
        ] {
            let dialler = authority.dialler_of("a.test", alpn, None, &[version]);
            let mut connection = dialler.connect(armiger.address()).await;
            for _ in 0..3 {
                let answer = connection.get("/").await;
                assert_eq!((answer.status, answer.version, answer.text()), (200, spoken, "ok"));
            }
            let body = vec![b'x'; 200_000];
            connection.post("/", body.clone()).await.assert_status(200);
            let seen = backend.requests().pop().unwrap();
            assert_eq!(seen.body_bytes, 200_000);
            assert_eq!((seen.header("x-forwarded-proto"), seen.header("x-forwarded-port").len()), ("https", 5));
        }
    }
    armiger.until_metric(r#"armiger_tls_handshakes_total{listener="http",outcome="full"}"#, 6.0).await;
    let end = armiger
        .metric(r#"armiger_tls_certificate_not_after_timestamp_seconds{certificate="a.test",listener="http"}"#)
        .await;
    assert!(end > 1_800_000_000.0, "{end}");
}

#[tokio::test]
async fn the_gate_stands_below_http_over_tls_too() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let files = serving(&backend, &[&authority.issue(&["a.test"])], "");
    let armiger = Armiger::watching(files.config().into()).await;
    for (bytes, status) in [
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n", "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
    ] {
        let mut stream = authority.dialler("a.test", &[], None).dial(armiger.address()).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        within("the end", stream.read_to_end(&mut answer)).await.expect("TLS says that it ends");
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{}", answer.escape_ascii());
    }
    // Pipelined requests pass one by one.
    let mut stream = authority.dialler("a.test", &[], None).dial(armiger.address()).await.unwrap();
    stream
        .write_all(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    within("the end", stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn each_client_gets_the_certificate_of_the_name_it_asks_for() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let pairs = [authority.issue(&["a.test", "127.0.0.1"]), authority.issue(&["*.b.test"])];
    let files = serving(&backend, &[&pairs[0], &pairs[1]], "");
    let armiger = Armiger::watching(files.config().into()).await;
    for (name, shown) in [("a.test", 0), ("x.b.test", 1), ("127.0.0.1", 0)] {
        let stream = authority.dialler(name, &[], None).dial(armiger.address()).await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], pairs[shown].chain()[0], "{name}");
    }
    let error = authority.dialler("other.test", &[], None).dial(armiger.address()).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_renewed_pair_is_in_force_one_that_does_not_match_is_refused_and_sessions_are_resumed() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let [old, new, other] = [(); 3].map(|()| authority.issue(&["a.test"]));
    let files = serving(&backend, &[&old], "");
    let armiger = Armiger::watching(files.config().into()).await;
    let dialler = authority.dialler("a.test", &[], None);
    let shown = async |dialler: &super::harness::Dialler| {
        let mut stream = dialler.dial(armiger.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        within("the end", stream.read_to_end(&mut answer)).await.unwrap();
        let session = stream.get_ref().1;
        (session.peer_certificates().unwrap()[0].clone(), session.handshake_kind().unwrap())
    };
    assert_eq!(shown(&dialler).await, (old.chain().remove(0), HandshakeKind::Full));
    let mut lasting = dialler.connect(armiger.address()).await;
    lasting.get("/").await.assert_status(200);

    files.replace("0.key", &other.key);
    let told = armiger.until_status(|status| status["last_reload"]["result"] == "refused").await;
    assert!(told.to_string().contains("is not the key of `certificate`"), "{told}");
    assert!(!told.to_string().contains("PRIVATE KEY"), "{told}");
    assert_eq!(shown(&authority.dialler("a.test", &[], None)).await.0, old.chain()[0]);

    files.replace("0.crt", &new.certificate);
    files.replace("0.key", &new.key);
    armiger.in_force(2).await;
    assert_eq!(shown(&authority.dialler("a.test", &[], None)).await.0, new.chain()[0]);
    assert_eq!(shown(&dialler).await.1, HandshakeKind::Resumed, "over the reload");
    lasting.get("/").await.assert_status(200);
}

#[tokio::test]
async fn handshakes_end_in_time_and_are_bounded() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let config = Config::to(&backend).listener("timeouts: {handshake: 100ms}\nlimits: {handshakes_max: 1}");
    let files = serving_with(config, &[&authority.issue(&["a.test"])], "");
    let armiger = Armiger::watching(files.config().into()).await;
    let mut half = TcpStream::connect(armiger.address()).await.unwrap();
    // The beginning of a record with a handshake message in it.
    half.write_all(&[22, 3, 1, 1, 0, 1]).await.unwrap();
    within("the end", half.read_to_end(&mut Vec::new())).await.ok();
    armiger.until_metric(r#"armiger_tls_handshakes_total{listener="http",outcome="timeout"}"#, 1.0).await;
    let mut silent = TcpStream::connect(armiger.address()).await.unwrap();
    within("the end", silent.read_to_end(&mut Vec::new())).await.ok();
    armiger.until_metric(r#"armiger_limit_hits_total{limit="handshake"}"#, 2.0).await;
    let mut plain = TcpStream::connect(armiger.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    within("the end", plain.read_to_end(&mut Vec::new())).await.ok();
    armiger.until_metric(r#"armiger_tls_handshakes_total{listener="http",outcome="failed"}"#, 1.0).await;

    let mut holder = TcpStream::connect(armiger.address()).await.unwrap();
    holder.write_all(&[22, 3, 1]).await.unwrap();
    // Only one at a time: while the first one goes on, the second is cut off.
    while armiger.metric(r#"armiger_limit_hits_total{limit="handshakes_max"}"#).await < 1.0 {
        let mut second = TcpStream::connect(armiger.address()).await.unwrap();
        second.write_all(&[22, 3, 1]).await.unwrap();
        within("the end", second.read_to_end(&mut Vec::new())).await.ok();
    }
    drop(holder);
    let dialler = authority.dialler("a.test", &["h2"], None);
    // Its place is free once armiger has seen its end.
    while dialler.dial(armiger.address()).await.is_err() {}
    dialler.connect(armiger.address()).await.get("/").await.assert_status(200);
}

#[tokio::test]
async fn clients_prove_who_they_are_by_certificates() {
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let backend = Backend::replies("ok").await;
    for mode in ["required", "optional"] {
        let config = Config::to(&backend)
            .top(
                r#"
                identity:
                  mesh:
                    mtls:
                      names: ["spiffe://test/ns/shop/*"]
                      roles: {"spiffe://test/ns/shop/cart": [reader]}
                "#,
            )
            .policies("identity: {providers: [mesh]}\nroles: {any: [reader]}");
        let auth = format!(", client_auth: {{ca: \"${{file:clients.pem}}\", mode: {mode}}}");
        let files = serving_with(config, &[&authority.issue(&["a.test"])], &auth);
        files.write("clients.pem", clients.pem());
        let armiger = Armiger::watching(files.config().into()).await;
        let ask = async |pair: Option<&Pair>, alpn: &str| {
            let dialler = authority.dialler("a.test", &[alpn], pair);
            let mut connection = dialler.connect(armiger.address()).await;
            let request = http::Request::get("/").body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
            connection.try_request(request).await
        };
        let cart = clients.issue(&["spiffe://test/ns/shop/cart"]);
        for alpn in ["h2", "http/1.1"] {
            ask(Some(&cart), alpn).await.unwrap().assert_status(200);
        }
        let other = clients.issue(&["spiffe://test/ns/shop/other"]);
        ask(Some(&other), "h2").await.unwrap().assert_problem(403, "forbidden");
        let outside = clients.issue(&["spiffe://test/ns/outside"]);
        ask(Some(&outside), "h2").await.unwrap().assert_problem(401, "token-invalid");
        let nobody = ask(None, "http/1.1").await;
        match mode {
            "required" => assert!(nobody.is_err()),
            _ => drop(nobody.unwrap().assert_problem(401, "token-missing")),
        }
        // TLS 1.3 tells a client only after its handshake that it is not let in.
        let dialler =
            authority.dialler("a.test", &["http/1.1"], Some(&stranger.issue(&["spiffe://test/ns/shop/cart"])));
        if let Ok(mut stream) = dialler.dial(armiger.address()).await {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let mut answer = Vec::new();
            let _ = within("the end", stream.read_to_end(&mut answer)).await;
            assert!(answer.is_empty(), "{}", answer.escape_ascii());
        }
    }
    assert_eq!(backend.count(), 4);
}

#[tokio::test]
async fn a_certificate_that_was_taken_back_is_not_let_in() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let (good, bad) = (
        authority.issue_with(&["good.test"], |params| params.serial_number = Some(7u64.into())),
        authority.issue_with(&["bad.test"], |params| params.serial_number = Some(8u64.into())),
    );
    let auth = ", client_auth: {ca: \"${file:ca.pem}\", crl: \"${file:crl.pem}\"}";
    let files = serving_with(Config::to(&backend), &[&authority.issue(&["a.test"])], auth);
    files.write("ca.pem", authority.pem());
    files.write("crl.pem", authority.revoking(&[99]));
    let armiger = Armiger::watching(files.config().into()).await;
    let passes = async |pair: &Pair| {
        let dialler = authority.dialler("a.test", &["http/1.1"], Some(pair));
        let Ok(mut stream) = dialler.dial(armiger.address()).await else { return false };
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        answer.starts_with(b"HTTP/1.1 200")
    };
    assert!(passes(&good).await && passes(&bad).await);
    files.replace("crl.pem", authority.revoking(&[8]));
    armiger.in_force(2).await;
    assert!(passes(&good).await && !passes(&bad).await);
}

#[tokio::test]
async fn a_list_that_is_out_of_date_is_warned_of_and_lets_nobody_in() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let auth = ", client_auth: {ca: \"${file:ca.pem}\", crl: \"${file:crl.pem}\"}";
    let files = serving_with(Config::to(&backend), &[&authority.issue(&["a.test"])], auth);
    files.write("ca.pem", authority.pem());
    files.write("crl.pem", authority.revoking_until(2025, &[99]));
    let mut process = Armiger::spawn(&["run", "--config", &files.config(), "--workers", "1"]);
    let told = "`client_auth.crl` is out of date, and clients of its authority are refused: renew it";
    let line = process.stderr_line(told);
    assert!(
        line.contains("WARN") && line.contains("listener=http") && line.contains("authority=Test authority"),
        "{line}"
    );
    let address = address_in(&process.stderr_line("listening listener="));

    let pair = authority.issue(&["good.test"]);
    let passes = async || {
        let dialler = authority.dialler("a.test", &["http/1.1"], Some(&pair));
        let Ok(mut stream) = dialler.dial(address).await else { return false };
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        answer.starts_with(b"HTTP/1.1 200")
    };
    assert!(!passes().await);
    process.stderr_line("a client's certificate is refused");

    files.replace("crl.pem", authority.revoking(&[99]));
    process.stderr_line("the configuration is in force version=2");
    assert!(passes().await);

    files.replace("crl.pem", authority.revoking_until(2026, &[99]));
    process.stderr_line(told);
    process.signal("TERM");
    process.finish();
}

#[tokio::test]
async fn operators_see_when_certificates_and_lists_end() {
    let (authority, other) = (Authority::new(), Authority::new());
    let backend = Backend::replies("ok").await;
    let until = |year| authority.issue_with(&["a.test"], |params| params.not_after = rcgen::date_time_ymd(year, 1, 1));
    let auth = ", client_auth: {ca: \"${file:ca.pem}\", crl: \"${file:crl.pem}\"}";
    let files = serving_with(Config::to(&backend), &[&until(2030), &until(2060)], auth);
    files.write("ca.pem", format!("{}{}", authority.pem(), other.pem()));
    files.write("crl.pem", format!("{}{}", other.revoking_until(2049, &[1]), authority.revoking_until(2090, &[1])));
    let armiger = Armiger::watching(files.config().into()).await;

    for (metric, end) in [
        (
            r#"armiger_tls_certificate_not_after_timestamp_seconds{certificate="a.test",listener="http"}"#,
            1_893_456_000.0,
        ),
        (
            r#"armiger_tls_crl_next_update_timestamp_seconds{authority="Test authority",listener="http"}"#,
            2_493_072_000.0,
        ),
    ] {
        assert_eq!(armiger.metric(metric).await, end, "of several by one name what ends first");
    }
    let shown = armiger.admin().get("/state/listeners").await.json();
    let row = &shown["rows"][0];
    assert_eq!(
        row["certificates"],
        json!([{"name": "a.test", "not_after": "2030-01-01T00:00:00Z"}, {"name": "a.test", "not_after": "2060-01-01T00:00:00Z"}])
    );
    assert_eq!(
        row["crls"],
        json!([
            {"authority": "Test authority", "next_update": "2049-01-01T00:00:00Z"},
            {"authority": "Test authority", "next_update": "2090-01-01T00:00:00Z"},
        ])
    );

    let config = std::fs::read_to_string(files.config()).unwrap().replace(auth, "");
    std::fs::write(files.config(), config).unwrap();
    armiger.in_force(2).await;
    let metrics = armiger.admin().get("/metrics").await;
    assert!(!metrics.text().contains("armiger_tls_crl_next_update_timestamp_seconds{"));
}

#[tokio::test]
async fn connections_by_tls_drain_without_a_lost_request() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let config = Config::to(&backend).top("drain: {delay: 50ms, timeout: 5s}");
    let files = serving_with(config, &[&authority.issue(&["a.test"])], "");
    let armiger = Armiger::watching(files.config().into()).await;
    let mut connections = Vec::new();
    for alpn in ["h2", "http/1.1"] {
        let mut connection = authority.dialler("a.test", &[alpn], None).connect(armiger.address()).await;
        connection.get("/").await.assert_status(200);
        connections.push(connection);
    }
    let stopped = armiger.stop().await;
    assert_eq!(stopped.cut, 0);
    for mut connection in connections {
        connection.closed().await;
    }
}

#[tokio::test]
async fn a_certificate_that_ends_is_believed_no_longer_on_a_connection_that_lasts() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let config = Config::to(&backend).top("identity: {mesh: {mtls: {}}}").policies("identity: {providers: [mesh]}");
    let auth = ", client_auth: {ca: \"${file:ca.pem}\"}";
    let files = serving_with(config, &[&authority.issue(&["a.test"])], auth);
    files.write("ca.pem", authority.pem());
    let armiger = Armiger::watching(files.config().into()).await;
    let end = now() + 6;
    let pair = authority.issue_with(&["app.test"], |params| {
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end.unsigned_abs());
    });
    let diallers = ["h2", "http/1.1"].map(|alpn| authority.dialler("a.test", &[alpn], Some(&pair)));
    let mut connections = Vec::new();
    for dialler in &diallers {
        let mut connection = dialler.connect(armiger.address()).await;
        connection.get("/").await.assert_status(200);
        connections.push(connection);
    }

    while now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    for mut connection in connections {
        connection.get("/").await.assert_problem(421, "certificate-over");
        connection.closed().await;
    }
    for dialler in &diallers {
        // What the client may have kept of its session does not help it.
        let Ok(mut stream) = dialler.dial(armiger.address()).await else { continue };
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    }
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn who_is_let_in_no_longer_is_not_served_once_more_and_others_are() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let issue = |name, number: u64| authority.issue_with(&[name], |params| params.serial_number = Some(number.into()));
    let auth = ", client_auth: {ca: \"${file:ca.pem}\", crl: \"${file:crl.pem}\"}";
    let files = serving_with(Config::to(&backend), &[&authority.issue(&["a.test"])], auth);
    files.write("ca.pem", authority.pem());
    files.write("crl.pem", authority.revoking(&[99]));
    let armiger = Armiger::watching(files.config().into()).await;
    let mut connections = Vec::new();
    for alpn in ["h2", "http/1.1"] {
        for (pair, is_good) in [(issue("good.test", 7), true), (issue("bad.test", 8), false)] {
            let mut connection = authority.dialler("a.test", &[alpn], Some(&pair)).connect(armiger.address()).await;
            connection.get("/").await.assert_status(200);
            connections.push((connection, is_good));
        }
    }

    files.replace("crl.pem", authority.revoking(&[8]));
    armiger.in_force(2).await;

    for (mut connection, is_good) in connections {
        let answer = connection.get("/").await;
        if is_good {
            answer.assert_status(200);
        } else {
            answer.assert_problem(421, "certificate-over");
        }
        connection.closed().await;
    }
    assert_eq!(backend.count(), 6);
}

#[tokio::test]
async fn a_certificate_that_is_refused_leaves_a_line() {
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let backend = Backend::replies("ok").await;
    let auth = ", client_auth: {ca: \"${file:clients.pem}\"}";
    let config = Config::to(&backend).top("drain: {delay: 0s}");
    let files = serving_with(config, &[&authority.issue(&["a.test"])], auth);
    files.write("clients.pem", clients.pem());
    let mut process = Armiger::spawn(&["run", "--config", &files.config(), "--workers", "1"]);
    let address = address_in(&process.stderr_line("listener"));

    let bad = stranger.issue(&["spiffe://test/x"]);
    for _ in 0..20 {
        if let Ok(mut stream) = authority.dialler("a.test", &["http/1.1"], Some(&bad)).dial(address).await {
            let mut rest = Vec::new();
            let _ = within("the end", stream.read_to_end(&mut rest)).await;
        }
    }
    let line = process.stderr_line("a client's certificate is refused");
    assert!(
        line.contains("INFO") && line.contains("peer=127.0.0.1:") && line.contains("invalid peer certificate"),
        "{line}"
    );

    process.signal("TERM");
    let finished = process.finish();
    let lines = finished.stderr.matches("certificate is refused").count();
    assert!(lines < 20, "anybody can show such, as often as they like: {finished:#?}");
}
