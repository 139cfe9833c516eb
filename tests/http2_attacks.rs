//! Attacks by HTTP/2 frames, from a script: memory stays bounded, others are served, and the metric shows it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{Armiger, Backend, Client, Config, Files, Process, address_in, answer, streamed, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What the memory of the process may grow by: 16 MiB.
const GROWTH_MAX: u64 = 16 * 1024;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /` (or another method of the static table) for the host `a`, in HPACK (RFC 7541).
fn head(method: u8) -> Vec<u8> {
    vec![method, 0x86, 0x84, 0x41, 1, b'a']
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// Writes as long as it is taken; gives up where the other side no longer reads, or has closed.
async fn flood(address: SocketAddr, settings: &[u8], frames: impl Iterator<Item = Vec<u8>>) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
    stream.write_all(&opening).await.unwrap();
    let mut batch = Vec::new();
    for frame in frames {
        batch.extend(frame);
        if batch.len() > 32 << 10 {
            let written = tokio::time::timeout(Duration::from_millis(500), stream.write_all(&batch)).await;
            if !matches!(written, Ok(Ok(()))) {
                return stream;
            }
            batch.clear();
        }
    }
    let _ = tokio::time::timeout(Duration::from_millis(500), stream.write_all(&batch)).await;
    stream
}

/// What the other side said until it closed, or fell silent.
async fn said(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 10];
    let mut all = Vec::new();
    while let Ok(Ok(length @ 1..)) = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut bytes)).await {
        all.extend_from_slice(&bytes[..length]);
    }
    all
}

/// Whether a GOAWAY with this code is among what was said.
fn goes_away(said: &[u8], code: u32) -> bool {
    let mut rest = said;
    while let Some((head, tail)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, tail)) = tail.split_at_checked(length) else { return false };
        if head[3] == 7 && payload.get(4..8) == Some(&code.to_be_bytes()[..]) {
            return true;
        }
        rest = tail;
    }
    false
}

const ENHANCE_YOUR_CALM: u32 = 11;

/// The real executable before a back end that answers, never answers (`/hang`), or answers with much (`/much`).
struct Stage {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    _backend: Backend,
    _files: Files,
}

impl Stage {
    async fn set() -> Self {
        let backend = Backend::with(|seen| match seen.target.as_str() {
            "/hang" => {
                let (chunks, answer) = streamed(200);
                std::mem::forget(chunks);
                answer
            }
            "/much" => answer(200, vec![0; 1 << 20]),
            _ => answer(200, "ok"),
        })
        .await;
        let files = Files::of(Config::to(&backend).top("access_log: {format: \"off\"}"));
        let mut process = Armiger::spawn(&["run", "-c", &files.config()]);
        let address = address_in(&process.stderr_line("listener"));
        let admin = address_in(&process.stderr_line("admin"));
        let stage = Self { process, address, admin, _backend: backend, _files: files };
        // What is made once is no growth.
        for _ in 0..50 {
            stage.serves().await;
        }
        stage
    }

    async fn serves(&self) {
        let client = Client::to(self.address);
        client.connect_h2c().await.get("/").await.assert_status(200);
        client.get("/").await.assert_status(200);
    }

    async fn metric(&self, series: &str) -> f64 {
        let text = Client::to(self.admin).get("/metrics").await.text().to_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        line.unwrap_or(0.0)
    }

    /// Runs an attack from several connections, and holds armiger to its promises.
    async fn withstands<F>(&self, name: &str, attack: impl Fn() -> F)
    where
        F: Iterator<Item = Vec<u8>>,
    {
        self.withstands_with(name, &[], attack).await;
    }

    async fn withstands_with<F>(&self, name: &str, settings: &[u8], attack: impl Fn() -> F)
    where
        F: Iterator<Item = Vec<u8>>,
    {
        let before = self.process.usage().0;
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(flood(self.address, settings, attack()).await);
            within(name, self.serves()).await;
        }
        let after = self.process.usage().0;
        assert!(after < before + GROWTH_MAX, "{name}: {before} KiB grew to {after} KiB");
    }
}

fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

const FLOOD: usize = 20_000;

#[tokio::test]
async fn floods_of_streams_that_are_reset_end_the_connection_and_are_counted() {
    let stage = Stage::set().await;
    let rapid = || {
        streams().take(FLOOD).map(|stream| {
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(GET)), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
                .concat()
        })
    };
    stage.withstands("rapid reset", rapid).await;
    // A window update of nothing is a stream error: the server resets (CVE-2025-8671).
    let made = || {
        streams().take(FLOOD).map(|stream| {
            [frame(HEADERS, END_HEADERS, stream, &head(POST)), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
        })
    };
    stage.withstands("made you reset", made).await;
    for attack in [rapid().collect::<Vec<_>>(), made().collect()] {
        let mut stream = flood(stage.address, &[], attack.into_iter()).await;
        let said = said(&mut stream).await;
        assert!(said.is_empty() || goes_away(&said, ENHANCE_YOUR_CALM) || goes_away(&said, 1), "{}", said.len());
    }
    assert!(stage.metric(r#"armiger_limit_hits_total{limit="http2_flood"}"#).await > 0.0);
}

#[tokio::test]
async fn floods_of_continuations_and_header_bombs_are_bounded() {
    let stage = Stage::set().await;
    stage
        .withstands("CONTINUATION", || {
            std::iter::once(frame(HEADERS, END_STREAM, 1, &head(GET))).chain(
                (0..5000)
                    .map(|_| frame(CONTINUATION, 0, 1, &[&[0, 1, b'x', 0x7f, 0x81, 0x7e][..], &[b'y'; 253]].concat())),
            )
        })
        .await;
    // One large entry, then thousands of one-byte references to it (an HPACK bomb).
    stage
        .withstands("HPACK bomb", || {
            streams().take(200).map(|stream| {
                let mut block = head(GET);
                block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
                block.extend([b'y'; 4000]);
                block.extend([0xbe; 12_000]);
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
            })
        })
        .await;
    // References to an almost empty field: many fields of few bytes.
    stage
        .withstands("empty fields", || {
            streams().take(200).map(|stream| {
                let mut block = head(GET);
                block.extend([0x40, 6, b'c', b'o', b'o', b'k', b'i', b'e', 1, b'a']);
                block.extend([0xbe; 16_000]);
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
            })
        })
        .await;
}

#[tokio::test]
async fn floods_of_settings_pings_and_empty_data_are_bounded() {
    let stage = Stage::set().await;
    stage.withstands("SETTINGS", || (0..FLOOD * 5).map(|_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]))).await;
    stage.withstands("PING", || (0..FLOOD * 5).map(|_| frame(PING, 0, 0, b"12345678"))).await;
    stage
        .withstands("empty DATA", || {
            std::iter::once(frame(HEADERS, END_HEADERS, 1, &head(POST)))
                .chain((0..FLOOD * 5).map(|_| frame(DATA, 0, 1, &[])))
        })
        .await;
    stage.withstands("window updates", || (0..FLOOD * 5).map(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))).await;
}

#[tokio::test]
async fn readers_that_open_no_window_hold_little() {
    let stage = Stage::set().await;
    let much = |stream| {
        let path = [&[GET, 0x86, 0x44, 5][..], b"/much", &[0x41, 1, b'a']].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &path)
    };
    // INITIAL_WINDOW_SIZE is 0: no answer can be sent.
    let zero = [0, 4, 0, 0, 0, 0];
    stage.withstands_with("zero window", &zero, move || streams().take(50).map(much)).await;
    // A byte at a time.
    stage
        .withstands_with("dribbled window", &zero, move || {
            streams()
                .take(50)
                .map(much)
                .chain((0..2000).map(|round| frame(WINDOW_UPDATE, 0, round % 50 * 2 + 1, &[0, 0, 0, 1])))
        })
        .await;
}

#[tokio::test]
async fn a_client_opens_no_more_streams_than_allowed() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {streams_max: 7}")).await;
    let mut stream = TcpStream::connect(armiger.address()).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let said = said(&mut stream).await;
    // MAX_CONCURRENT_STREAMS.
    assert!(said.windows(6).any(|setting| setting == [0, 3, 0, 0, 0, 7]), "{}", said.escape_ascii());
}

/// A bound on what a connection holds of bodies that nobody reads, and room enough for one that is read at once.
#[tokio::test]
async fn a_client_sends_no_more_ahead_than_allowed() {
    let backend = Backend::replies("ok").await;
    for (streams, all) in [(100, 100 * 128), (7, 1024)] {
        let armiger =
            Armiger::with(Config::to(&backend).listener(&format!("limits: {{streams_max: {streams}}}"))).await;
        let mut stream = TcpStream::connect(armiger.address()).await.unwrap();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let said = said(&mut stream).await;
        // INITIAL_WINDOW_SIZE of 1 MiB.
        assert!(said.windows(6).any(|setting| setting == [0, 4, 0, 0x10, 0, 0]), "{}", said.escape_ascii());
        let more: u32 = all * 1024 - 65_535;
        let opened = frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        assert!(said.windows(opened.len()).any(|frame| frame == opened), "{}", said.escape_ascii());
    }
}
