//! TLS: to upstreams, whom armiger believes and how it proves who it is.

use std::fmt::Write;

use rustls::version::{TLS12, TLS13};
use tokio::net::TcpListener;

use super::harness::{Armiger, Authority, Backend, Config, Files, Front, Pair, answer, within};

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
