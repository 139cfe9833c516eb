//! Listeners that are files: who may connect, what a client without an address counts as, and what becomes of the file.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use http::Request;
use http_body_util::Empty;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::harness::{Armiger, Authority, Backend, Config, Connection, Files, Response, within};

/// A folder for sockets, and the path of one in it.
fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    (folder, path)
}

fn on(backend: &Backend, path: &Path) -> Config {
    Config::to(backend).listener(&format!("address: \"unix:{}\"", path.display()))
}

async fn connect(path: &Path, is_http2: bool) -> Connection {
    let stream = within("a connection", UnixStream::connect(path)).await.unwrap();
    Connection::over(stream, is_http2, ([127, 0, 0, 1], 80).into()).await
}

async fn get(path: &Path, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    connect(path, false).await.request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await
}

#[tokio::test]
async fn requests_come_by_a_file_as_by_any_other_socket() {
    let (_folder, path) = file();
    let backend = Backend::echo().await;
    let armiger = Armiger::with(on(&backend, &path).listener("forwarded: true")).await;
    for is_http2 in [false, true] {
        let mut connection = connect(&path, is_http2).await;
        for _ in 0..3 {
            let body = vec![b'x'; 1 << 20];
            assert_eq!(connection.post("/", body.clone()).await.assert_status(200).body, body);
        }
    }
    let seen = &backend.requests()[0];
    assert_eq!((seen.header("x-forwarded-for"), seen.header("x-forwarded-port")), ("unknown", "80"));
    assert!(seen.header("forwarded").starts_with("for=unknown;proto=http"), "{seen:#?}");
    let line = armiger.logged(|line| line["status"] == 200).await;
    assert!(line.get("client").is_none_or(serde_json::Value::is_null), "{line}");
    assert_eq!(armiger.stop().await.cut, 0);
    assert!(!path.exists(), "the file goes with its listener");
}

#[tokio::test]
async fn tls_is_spoken_on_a_file_too() {
    let (_folder, path) = file();
    let authority = Authority::new();
    let pair = authority.issue(&["a.test"]);
    let backend = Backend::replies("ok").await;
    let config =
        on(&backend, &path).listener("tls: {certificates: [{certificate: \"${file:a.crt}\", key: \"${file:a.key}\"}]}");
    let files = Files::of(&config);
    files.write("a.crt", &pair.certificate);
    files.write("a.key", &pair.key);
    let _armiger = Armiger::from_file(files.config()).await;
    let stream = UnixStream::connect(&path).await.unwrap();
    let stream = authority.dialler("a.test", &["h2"], None).over(stream).await.unwrap();
    Connection::over(stream, true, ([127, 0, 0, 1], 443).into()).await.get("/").await.assert_status(200);
    assert_eq!(backend.only().await.header("x-forwarded-port"), "443");
}

#[tokio::test]
async fn who_comes_by_a_file_is_believed_only_where_the_configuration_says_so() {
    let backend = Backend::replies("ok").await;
    for (trusted, told) in [
        ("[]", "unknown"),
        ("[10.0.0.0/8]", "unknown"),
        ("[\"0.0.0.0/0\", \"::/0\"]", "unknown"),
        ("[unix]", "192.0.2.7, unknown"),
    ] {
        let (_folder, path) = file();
        let armiger = Armiger::with(on(&backend, &path).listener(&format!("trusted_proxies: {trusted}"))).await;
        get(&path, &[("x-forwarded-for", "192.0.2.7")]).await.assert_status(200);
        assert_eq!(backend.requests().last().unwrap().header("x-forwarded-for"), told, "{trusted}");
        let line = armiger.logged(|line| line["status"] == 200).await;
        assert_eq!(line["client"] == "192.0.2.7", trusted == "[unix]", "{line}");
    }
}

#[tokio::test]
async fn rules_about_addresses_name_who_comes_by_a_file() {
    let backend = Backend::replies("ok").await;
    for (rules, status) in [
        ("{allow: [127.0.0.0/8]}", 403),
        ("{allow: [unix]}", 200),
        ("{deny: [unix]}", 403),
        ("{deny: [127.0.0.0/8]}", 200),
    ] {
        let (_folder, path) = file();
        let _armiger = Armiger::with(on(&backend, &path).policies(&format!("ip_filter: {rules}"))).await;
        assert_eq!(get(&path, &[]).await.status, status, "{rules}");
    }
}

#[tokio::test]
async fn the_file_has_the_mode_that_is_asked_for_and_stays_the_same_over_a_reload() {
    let (_folder, path) = file();
    // What a process left behind that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let backend = Backend::replies("ok").await;
    let files = Files::of(on(&backend, &path));
    let armiger = Armiger::watching(files.config().into()).await;
    let found = || std::fs::symlink_metadata(&path).unwrap();
    assert_eq!(found().permissions().mode() & 0o777, 0o600);
    let identity = found().ino();
    let mut connection = connect(&path, false).await;
    connection.get("/").await.assert_status(200);

    files.replace("config.yaml", on(&backend, &path).listener("socket_access: group"));
    armiger.in_force(2).await;
    assert_eq!((found().permissions().mode() & 0o777, found().ino()), (0o660, identity));
    connection.get("/").await.assert_status(200);
    get(&path, &[]).await.assert_status(200);

    // One that cannot be had changes nothing.
    let precious = path.with_extension("txt");
    std::fs::write(&precious, "precious").unwrap();
    files.replace("config.yaml", on(&backend, &precious));
    armiger.until_status(|status| status.to_string().contains("no socket")).await;
    get(&path, &[]).await.assert_status(200);
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");

    let moved = path.with_extension("moved");
    files.replace("config.yaml", on(&backend, &moved));
    armiger.in_force(3).await;
    get(&moved, &[]).await.assert_status(200);
    within("the old file to go", async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_file_is_one_listeners_and_no_two_take_it() {
    let (_folder, path) = file();
    let backend = Backend::replies("ok").await;
    let _armiger = Armiger::with(on(&backend, &path)).await;
    let report = Armiger::try_with(on(&backend, &path)).await.err().expect("it is taken");
    assert!(report.contains("in use"), "{report}");
    get(&path, &[]).await.assert_status(200);
    let two = format!(
        "listeners:\n- {{name: a, address: \"unix:{0}\"}}\n- {{name: b, address: \"unix:{0}\"}}",
        path.with_extension("two").display()
    );
    let report = Armiger::try_with(Config::to(&backend).top(&two)).await.err().expect("named twice");
    assert!(report.contains("is taken by another listener"), "{report}");
}

#[tokio::test]
async fn a_balancer_of_this_machine_names_its_clients_only_where_files_are_believed() {
    const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let counted = |word: &str| format!("armiger_proxy_headers_total{{listener=\"http\",outcome=\"{word}\"}}");
    let backend = Backend::replies("ok").await;
    for (from, is_believed) in [("unix", true), ("127.0.0.0/8", false), ("0.0.0.0/0", false)] {
        let (_folder, path) = file();
        let config = on(&backend, &path).listener(&format!("proxy_protocol: {{from: [\"{from}\"]}}"));
        let armiger = Armiger::with(config).await;
        let mut stream = within("a connection", UnixStream::connect(&path)).await.unwrap();
        // Who is not believed may be gone before this.
        let _ = stream.write_all(format!("{LINE}{GET}").as_bytes()).await;
        let mut answer = String::new();
        let read = within("the end", stream.read_to_string(&mut answer)).await;

        let outcome = if is_believed { "v1" } else { "untrusted" };
        within(outcome, async { while armiger.metric(&counted(outcome)).await < 1.0 {} }).await;
        if !is_believed {
            assert!(read.is_err() || answer.is_empty(), "{from}: {answer}");
            continue;
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{from}: {answer}");
        assert_eq!(backend.only().await.header("x-forwarded-for"), "192.0.2.7");
        armiger.logged(|line| line["client"] == "192.0.2.7").await;
    }
    assert_eq!(backend.count(), 1);

    // Nor is a file what comes by an address.
    let armiger = Armiger::with(Config::to(&backend).listener("proxy_protocol: {from: [unix]}")).await;
    armiger.raw(format!("{LINE}{GET}")).await.assert_closed().await;
    within("untrusted", async { while armiger.metric(&counted("untrusted")).await < 1.0 {} }).await;
}
