//! Clients that go away within their request, on each protocol: no answer, and nothing that would tell of one.

use http::Request;
use serde_json::json;
use tokio::net::TcpStream;

use crate::harness::{Armiger, Backend, Config, Script, within};

#[tokio::test]
async fn an_upload_that_is_given_up_has_no_answer_on_either_protocol() {
    for protocol in ["http1", "h2c"] {
        let backend = if protocol == "h2c" {
            Backend::seen(async |_| std::future::pending().await).await
        } else {
            Backend::raw(Script::new().head().hang()).await
        };
        let armiger = Armiger::with(Config::to(&backend).upstream(&format!("protocol: {protocol}"))).await;

        for (round, is_reset) in [false, true].into_iter().enumerate() {
            let head = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc";
            let conversation = armiger.raw(head).await;
            backend.arrived(round + 1).await;
            if is_reset { conversation.reset() } else { drop(conversation) }
        }
        let socket = TcpStream::connect(armiger.address()).await.unwrap();
        let (mut http2, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://a/2").header("content-length", 9).body(()).unwrap();
        let (answer, mut stream) = http2.send_request(request, false).unwrap();
        stream.send_data("abc".into(), false).unwrap();
        backend.arrived(3).await;
        stream.send_reset(h2::Reason::CANCEL);
        assert!(within("the end", answer).await.is_err());

        for line in armiger.log_lines(3).await {
            assert_eq!((&line["status"], &line["reason"]), (&json!(0), &json!("client-closed")), "{line}");
            assert_eq!((&line["complete"], &line["cut_by"]), (&json!(false), &json!("client")), "{line}");
            assert_eq!(line["bytes_out"], 0, "{line}");
        }
        let metrics = armiger.admin().get("/metrics").await;
        let told = |line: &&str| line.contains("_class=\"4xx\"") || line.starts_with("armiger_rejections_total{");
        let told: Vec<&str> = metrics.text().lines().filter(told).filter(|line| !line.ends_with(" 0")).collect();
        assert_eq!(told, [""; 0]);
    }
}
