//! Clients of HTTP/2 that take their answers slowly, or not at all: nobody is cut who goes on reading, and the log tells
//! what left and not what was to leave.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{Armiger, Config, within};

/// More than fits the windows that a client has at first, several times.
const LENGTH: usize = 300_000;

/// A client that has asked for `/` and reads the answer at its own pace. Its windows are those of the beginning: 65,535.
struct Reader {
    stream: TcpStream,
    bytes: Vec<u8>,
    taken: usize,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

impl Reader {
    async fn of(armiger: &Armiger) -> Self {
        let mut stream = TcpStream::connect(armiger.address()).await.unwrap();
        // GET / for the host a.
        let asked = frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a']);
        let all = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..], &asked].concat();
        stream.write_all(&all).await.unwrap();
        Self { stream, bytes: Vec::new(), taken: 0 }
    }

    /// The next frame: kind, flags and payload. `None` at the end of the connection.
    async fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        loop {
            if let [a, b, c, kind, flags, ..] = self.bytes[..] {
                let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.bytes.len() >= end {
                    let payload = self.bytes[9..end].to_vec();
                    self.bytes.drain(..end);
                    return Some((kind, flags, payload));
                }
            }
            let mut some = [0; 16 << 10];
            match within("bytes of the answer", self.stream.read(&mut some)).await {
                Ok(length @ 1..) => self.bytes.extend_from_slice(&some[..length]),
                _ => return None,
            }
        }
    }

    /// Reads until the end of the answer, or of the connection; says whether it was the former. Whenever more than `most`
    /// has come, it waits for `pause` before it takes more.
    async fn read(&mut self, most: u32, pause: Duration) -> bool {
        let mut owed = 0;
        while let Some((kind, flags, payload)) = self.frame().await {
            match kind {
                0 => {
                    self.taken += payload.len();
                    owed += payload.len() as u32;
                    if flags & 1 != 0 {
                        return true;
                    }
                }
                // What armiger asks of a client that it says goodbye to.
                4 if flags & 1 == 0 => self.stream.write_all(&frame(4, 1, 0, &[])).await.unwrap(),
                6 if flags & 1 == 0 => self.stream.write_all(&frame(6, 1, 0, &payload)).await.unwrap(),
                _ => {}
            }
            if owed > most {
                tokio::time::sleep(pause).await;
                let more = [frame(8, 0, 0, &owed.to_be_bytes()), frame(8, 0, 1, &owed.to_be_bytes())].concat();
                if self.stream.write_all(&more).await.is_err() {
                    return false;
                }
                owed = 0;
            }
        }
        false
    }
}

fn config(timeouts: &str) -> Config {
    config_of(LENGTH, timeouts)
}

fn config_of(length: usize, timeouts: &str) -> Config {
    let body = "x".repeat(length);
    Config::empty()
        .listener(&format!("timeouts: {{{timeouts}}}"))
        .routes(&format!("- {{name: a, match: {{path: /}}, respond: {{body: {body}}}}}"))
}

#[tokio::test]
async fn a_slow_download_outlives_the_keep_alive_time() {
    let armiger = Armiger::with(config("keep_alive: 100ms")).await;
    let mut reader = Reader::of(&armiger).await;
    assert!(reader.read(60_000, Duration::from_millis(400)).await, "cut after {} bytes", reader.taken);
    assert_eq!(reader.taken, LENGTH);
    let line = armiger.logged(|line| line["route"] == "a").await;
    assert_eq!((&line["complete"], &line["bytes_out"]), (&true.into(), &LENGTH.into()));
    assert!(line["duration"].as_f64().unwrap() > 1.0, "it lasted until the last byte had left: {line}");
}

#[tokio::test]
async fn a_slow_download_outlives_a_drain() {
    let armiger = Armiger::with(config("keep_alive: 1m").top("drain: {delay: 0s, timeout: 30s}")).await;
    let mut reader = Reader::of(&armiger).await;
    assert_eq!(reader.frame().await.unwrap().0, 4);
    armiger.running().drain().begin();
    assert!(reader.read(60_000, Duration::from_millis(1300)).await, "cut after {} bytes", reader.taken);
    assert_eq!(reader.taken, LENGTH);
    assert_eq!(armiger.stop().await.cut, 0);
}

#[tokio::test]
async fn an_answer_that_its_client_leaves_half_way_is_logged_as_cut() {
    let armiger = Armiger::with(config("keep_alive: 1m")).await;
    let mut reader = Reader::of(&armiger).await;
    while reader.frame().await.unwrap().0 != 0 {}
    drop(reader);
    let line = armiger.logged(|line| line["route"] == "a").await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&false.into(), &"client".into()));
    assert_eq!(line["reason"], "client-closed", "{line}");
    armiger.until_metric("armiger_answers_cut_total{reason=\"client-closed\",route=\"a\"}", 1.0).await;
    assert!(line["bytes_out"].as_u64().unwrap() < LENGTH as u64, "{line}");
}

/// One piece of the answer takes longer than `body_idle`, of which each time it took something ends anew.
#[tokio::test]
async fn who_takes_a_little_now_and_then_is_waited_for() {
    let armiger = Armiger::with(config("keep_alive: 1m, body_idle: 300ms")).await;
    let mut reader = Reader::of(&armiger).await;
    assert!(reader.read(10_000, Duration::from_millis(100)).await, "cut after {} bytes", reader.taken);
    assert_eq!(reader.taken, LENGTH);
}

#[tokio::test]
async fn who_takes_nothing_of_the_rest_of_an_answer_is_let_go() {
    // Of the shorter one, hyper has all when the client stops: one byte more than fits its windows.
    for length in [LENGTH, 65_536] {
        let armiger = Armiger::with(config_of(length, "keep_alive: 1m, body_idle: 300ms")).await;
        let mut reader = Reader::of(&armiger).await;
        while reader.frame().await.is_some_and(|(kind, ..)| kind != 3) {}
        let line = armiger.logged(|line| line["route"] == "a").await;
        assert_eq!(line["complete"], false, "{line}");
        assert!(armiger.metric(r#"armiger_limit_hits_total{limit="body_idle"}"#).await >= 1.0);
    }
}

/// Pings are no progress: the place of an exchange is not held for as long as a client has nothing else to do.
#[tokio::test]
async fn pings_keep_no_answer_waiting() {
    let armiger = Armiger::with(config_of(65_536, "keep_alive: 1m, body_idle: 300ms")).await;
    let mut reader = Reader::of(&armiger).await;
    let pings = async {
        // The pause is the client's own.
        while reader.stream.write_all(&frame(6, 0, 0, &[0; 8])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    let logged = armiger.logged(|line| line["route"] == "a");
    let line =
        tokio::select! { line = logged => line, () = pings => armiger.logged(|line| line["route"] == "a").await };
    assert_eq!((&line["complete"], &line["cut_by"]), (&false.into(), &"client".into()), "{line}");
    assert_eq!(line["reason"], "client-slow", "{line}");
}

/// armiger's own pings are no traffic: who asks for nothing is sent away when `keep_alive` is over.
#[tokio::test]
async fn who_answers_pings_and_asks_for_nothing_is_sent_away() {
    let armiger = Armiger::with(config_of(10, "keep_alive: 700ms, body_idle: 200ms")).await;
    let mut reader = Reader::of(&armiger).await;
    assert!(reader.read(60_000, Duration::ZERO).await);
    let begun = std::time::Instant::now();
    while let Some((kind, flags, payload)) = reader.frame().await {
        match kind {
            6 if flags & 1 == 0 => reader.stream.write_all(&frame(6, 1, 0, &payload)).await.unwrap(),
            7 => break,
            _ => {}
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it is kept for ever");
    }
    armiger.until_metric("armiger_limit_hits_total{limit=\"keep_alive\"}", 1.0).await;
}
