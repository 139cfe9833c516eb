//! The PROXY protocol: whom a listener believes about its clients, and what upstreams are told of them.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::harness::{Armiger, Authority, Backend, Client, Config, Connection, Files, Pair, within};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
const LOCAL: &str = "proxy_protocol: {from: [127.0.0.0/8]}";

/// The same behind TLS with these.
fn secured(config: Config, pair: &Pair) -> Files {
    let tls = "tls: {certificates: [{certificate: \"${file:tls.crt}\", key: \"${file:tls.key}\"}]}";
    let files = Files::of(config.listener(tls));
    files.write("tls.crt", &pair.certificate);
    files.write("tls.key", &pair.key);
    files
}

/// A binary header: command, family, and what they announce.
fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

fn outcome(word: &str) -> String {
    format!("armiger_proxy_headers_total{{listener=\"http\",outcome=\"{word}\"}}")
}

async fn counted(armiger: &Armiger, word: &str) {
    let counting = async { while armiger.metric(&outcome(word)).await < 1.0 {} };
    within(&format!("a connection that is counted as {word}"), counting).await;
}

// === in ===

#[tokio::test]
async fn the_client_is_whom_a_trusted_balancer_names() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener(LOCAL)).await;
    let six = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[9], &[0; 15], &[1], &[0x12, 0x34, 0, 80]].concat();
    let tlvs = [192, 0, 2, 8, 127, 0, 0, 1, 0, 1, 0, 2, 0x04, 0, 2, 0, 0, 0x02, 0, 3, b'a', b'b', b'c'];
    for (header, client) in [
        (LINE.as_bytes().to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n".to_vec(), "2001:db8::9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN ::1 ::1 1 2\r\n".to_vec(), "127.0.0.1"),
        (binary(0x21, 0x11, &tlvs), "192.0.2.8"),
        (binary(0x21, 0x21, &six), "2001:db8::9"),
        (binary(0x21, 0x31, &[b'/'; 216]), "127.0.0.1"),
        (binary(0x20, 0x00, &[]), "127.0.0.1"),
    ] {
        let before = backend.count();
        let mut client_side = armiger.raw(&header).await;
        client_side.write("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.1\r\n\r\n").await;
        client_side.answer().await.assert_status(200);
        let seen = backend.received(before + 1).await.pop().unwrap();
        assert_eq!(seen.header("x-forwarded-for"), client, "{:?}", String::from_utf8_lossy(&header));
        armiger.logged(|line| line["client"] == client).await;
    }
    armiger.until_metric(&outcome("v1"), 2.0).await;
    armiger.until_metric(&outcome("v2"), 2.0).await;
    armiger.until_metric(&outcome("local"), 4.0).await;
}

#[tokio::test]
async fn a_header_comes_once_and_rules_see_the_client() {
    let config = Config::empty().listener(LOCAL).policies("ip_filter: {deny: [192.0.2.7]}");
    let armiger = Armiger::with(config.route("respond: {body: hello}")).await;
    armiger.raw(format!("{LINE}{GET}")).await.answer().await.assert_problem(403, "address-blocked");
    let other = LINE.replace("192.0.2.7", "192.0.2.8");
    armiger.raw(format!("{other}{GET}")).await.answer().await.assert_status(200);
    // A second one is a client's, and no HTTP.
    armiger.raw(format!("{other}{LINE}{GET}")).await.answer().await.assert_status(400);
    // By chance in one write or byte by byte.
    let mut dribbling = armiger.raw("").await;
    for byte in format!("{other}{GET}").bytes() {
        dribbling.write([byte]).await;
        tokio::task::yield_now().await;
    }
    dribbling.answer().await.assert_status(200);
}

#[tokio::test]
async fn who_is_not_trusted_or_sends_no_header_is_cut_off_and_counted() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("proxy_protocol: {from: [192.0.2.0/24]}")).await;
    armiger.raw(format!("{LINE}{GET}")).await.assert_closed().await;
    counted(&armiger, "untrusted").await;
    armiger.until_metric("armiger_connections{listener=\"http\"}", 0.0).await;

    let armiger = Armiger::with(Config::to(&backend).listener(LOCAL)).await;
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
    let large = binary(0x21, 0x11, &[0; 5000]);
    for (bytes, word) in [
        (GET.as_bytes(), "absent"),
        (b"\x16\x03\x01\x02\x00", "absent"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n", "malformed"),
        (&binary(0x21, 0x11, &[0; 11]), "malformed"),
        (long.as_bytes(), "too_long"),
        (&large, "too_long"),
    ] {
        armiger.raw(bytes).await.assert_closed().await;
        counted(&armiger, word).await;
    }
    let mut half = armiger.raw("PROXY TCP4 192.0").await;
    half.finish().await.assert_closed().await;
    counted(&armiger, "cut").await;
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_header_that_never_ends_is_not_waited_for() {
    let timeouts = "timeouts: {proxy_header: 100ms}";
    let armiger = Armiger::with(
        Config::empty().listener(LOCAL).listener(timeouts).routes("- {name: a, match: {path: /}, respond: {body: a}}"),
    )
    .await;
    let mut silent = armiger.raw("").await;
    let stream = TcpStream::connect(armiger.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (read, mut write) = stream.into_split();
    let dribble = tokio::spawn(async move {
        // Never idle for long, and never done.
        for byte in b"PROXY UNKNOWN ".iter().chain(std::iter::repeat_n(&b'x', 80)) {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("armiger waited for a header that does not end");
    });
    silent.assert_closed().await;
    within("the dribbling client to be cut off", dribble).await.unwrap();
    drop(read);
    armiger.until_metric(&outcome("timeout"), 2.0).await;
    armiger.until_metric("armiger_limit_hits_total{limit=\"proxy_header\"}", 2.0).await;
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let pair = authority.issue(&["app.test"]);
    let files = secured(Config::to(&backend).listener(LOCAL), &pair);
    let armiger = Armiger::from_file(files.config()).await;
    for (header, alpn) in [(LINE.as_bytes().to_vec(), "http/1.1"), (binary(0x21, 0x11, &[1; 12]), "h2")] {
        let before = backend.count();
        let mut stream = TcpStream::connect(armiger.address()).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let stream = authority.dialler("app.test", &[alpn], None).dial_over(stream).await.unwrap();
        let mut connection = Connection::over(stream, alpn == "h2", armiger.address()).await;
        connection.get("/").await.assert_status(200);
        let seen = backend.received(before + 1).await.pop().unwrap();
        let client = if alpn == "h2" { "1.1.1.1" } else { "192.0.2.7" };
        assert_eq!(seen.header("x-forwarded-for"), client);
        assert_eq!(seen.header("x-forwarded-proto"), "https");
    }
    // Within TLS it is none.
    let refused = authority.dialler("app.test", &[], None).dial(armiger.address()).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_list_of_nobody_and_names_are_refused() {
    let config = |from: &str| {
        Config::empty()
            .listener(&format!("proxy_protocol: {{from: {from}}}"))
            .routes("- {name: a, match: {path: /}, respond: {body: a}}")
    };
    for (from, complaint) in [("[]", "names nobody"), ("[balancer]", "10.0.0.0/8")] {
        let report = Armiger::try_with(config(from)).await.err().expect("a report");
        assert!(report.contains(complaint), "{report}");
    }
}

// === out ===

/// What a back end sees of a client that armiger names to it in this form: another armiger stands before the back end.
async fn told(version: &str, backend: &Backend) -> (Armiger, Armiger) {
    let far = Armiger::with(Config::to(backend).listener(LOCAL)).await;
    let near = Config::to_url(&format!("http://{}", far.address())).upstream(&format!("proxy_protocol: {version}"));
    (Armiger::with(near.listener("trusted_proxies: [127.0.0.1]")).await, far)
}

#[tokio::test]
async fn an_upstream_is_told_of_the_client_and_connections_are_not_shared_among_clients() {
    for version in ["v1", "v2"] {
        let backend = Backend::replies("ok").await;
        let (near, far) = told(version, &backend).await;
        let mut first = near.connect().await;
        let mut second = near.connect().await;
        for _ in 0..3 {
            first.get("/").await.assert_status(200);
            second.get("/").await.assert_status(200);
        }
        let forms = async || far.metric(&outcome(version)).await;
        assert_eq!(forms().await, 2.0, "each client's connection is used again, and by nobody else");

        // Named by a proxy that is trusted, it has no port.
        let named = |ip: &str| format!("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: {ip}\r\n\r\n");
        near.raw(named("192.0.2.7")).await.answer().await.assert_status(200);
        far.logged(|line| line["client"] == "192.0.2.7").await;
        near.raw(named("2001:db8::7")).await.answer().await.assert_status(200);
        far.logged(|line| line["client"] == "2001:db8::7").await;
        assert_eq!(forms().await, 4.0);
        near.raw(named("192.0.2.7")).await.answer().await.assert_status(200);
        assert_eq!(forms().await, 4.0, "the same client");
    }
}

#[tokio::test]
async fn idle_connections_of_others_give_way_where_no_more_may_be_open() {
    let backend = Backend::replies("ok").await;
    let far = Armiger::with(Config::to(&backend).listener(LOCAL)).await;
    let near = Armiger::with(
        Config::to_url(&format!("http://{}", far.address()))
            .upstream("proxy_protocol: v2")
            .upstream("pool: {connections_max: 1}"),
    )
    .await;
    let (mut first, mut second) = (near.connect().await, near.connect().await);
    for _ in 0..3 {
        first.get("/").await.assert_status(200);
        second.get("/").await.assert_status(200);
    }
    // And where one waits for another's.
    let asked = (0..8).map(|_| {
        let client = Client::to(near.address());
        tokio::spawn(async move { client.get("/").await.assert_status(200).status })
    });
    for asked in asked.collect::<Vec<_>>() {
        within("an answer", asked).await.unwrap();
    }
}

#[tokio::test]
async fn an_upstream_is_told_before_tls_and_health_checks_are_armigers_own() {
    let (authority, backend) = (Authority::new(), Backend::replies("ok").await);
    let pair = authority.issue(&["127.0.0.1"]);
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let files = secured(Config::to(&backend).listener(LOCAL), &pair);
    let far = Armiger::from_file(files.config()).await;
    let near = Armiger::with(
        Config::to_url(&format!("https://{}", far.address()))
            .upstream("proxy_protocol: v1")
            .upstream(&format!("tls: {{ca: {}}}", quoted(&authority.pem())))
            .upstream("health: {path: /, interval: 50ms, ready_wait: 5s}"),
    )
    .await;
    near.get("/").await.assert_status(200);
    counted(&far, "local").await;
    counted(&far, "v1").await;
}

#[tokio::test]
async fn the_header_is_the_first_that_an_upstream_gets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let armiger = Armiger::with(Config::to_url(&url).upstream("proxy_protocol: v1")).await;
    let mut stream = TcpStream::connect(armiger.address()).await.unwrap();
    let (source, destination) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    stream.write_all(GET.as_bytes()).await.unwrap();
    let (mut upstream, _) = within("a connection", listener.accept()).await.unwrap();
    let expected =
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nGET / HTTP/1.1\r\n", source.port(), destination.port());
    let mut bytes = vec![0; expected.len()];
    within("the header", tokio::io::AsyncReadExt::read_exact(&mut upstream, &mut bytes)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

#[tokio::test]
async fn http2_to_an_upstream_cannot_say_for_whom_it_is() {
    let config = Config::to_url("http://127.0.0.1:1").upstream("protocol: h2c").upstream("proxy_protocol: v2");
    let report = Armiger::try_with(config).await.err().expect("a report");
    assert!(report.contains("HTTP/2's are for all"), "{report}");
}
