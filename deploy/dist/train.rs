//! Drives an armiger as a day's traffic would, so that its counters tell the compiler which code is used most.
//!
//! `train ARMIGER FOLDER [SHARE]`: FOLDER is for the files that this needs; SHARE is how much of the usual number of requests is
//! sent, in percent. Ends with an error as soon as an answer is not what it should be. Needs openssl, and the ports of `armiger demo`.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Connections at once.
const CONNECTIONS: usize = 8;

/// The file of what the processes say of themselves.
const SAID: &str = "said";

/// How long a process may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests of one kind.
struct Visit {
    times: usize,
    status: u16,
    request: Vec<u8>,
}

impl Visit {
    fn get(times: usize, status: u16, path: &str, headers: &str) -> Self {
        Self::send(times, status, "GET", path, headers, "")
    }

    fn send(times: usize, status: u16, method: &str, path: &str, headers: &str, body: &str) -> Self {
        // What browsers and libraries send along.
        let usual = "User-Agent: train/1.0\r\nAccept: */*\r\n";
        let head = format!("{method} {path} HTTP/1.1\r\nHost: api.test\r\n{usual}{headers}");
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        Self { times, status, request: format!("{head}{length}\r\n{body}").into_bytes() }
    }
}

/// A process that is killed if nobody ended it.
struct Process(Child);

impl Process {
    fn start(armiger: &str, folder: &Path, arguments: &[&str], environment: &[(&str, String)]) -> Outcome<Self> {
        let said = OpenOptions::new().create(true).append(true).open(folder.join(SAID))?;
        let mut command = Command::new(armiger);
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.env("ARMIGER_LOG_LEVEL", "error");
        Ok(Self(command.spawn()?))
    }

    /// Ends it by the signal, so that it can write down what it counted.
    fn end(mut self, signal: &str) -> Outcome<()> {
        Command::new("kill").args([signal, &self.0.id().to_string()]).status()?;
        let since = Instant::now();
        loop {
            match self.0.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("armiger ended with {status}").into()),
                None if since.elapsed() > PATIENCE => return Err("armiger does not end".into()),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// A connection of HTTP/1.1 that is used again.
struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects as soon as somebody listens.
    fn open(port: u16) -> Outcome<Self> {
        let since = Instant::now();
        loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    return Ok(Self(BufReader::with_capacity(64 * 1024, stream)));
                }
                Err(error) if since.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Sends a request and gives the status of its answer, read to the end.
    fn ask(&mut self, request: &[u8]) -> Outcome<u16> {
        self.0.get_mut().write_all(request)?;
        let status = self.line()?.split(' ').nth(1).unwrap_or_default().parse()?;
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", value)) => length = value.parse()?,
                Some(("transfer-encoding", _)) => is_chunked = true,
                Some(_) => {}
                None => break,
            }
        }
        if matches!(status, 204 | 304) {
            return Ok(status);
        }
        while is_chunked {
            length = u64::from_str_radix(&self.line()?, 16)?;
            self.skip(length)?;
            self.line()?;
            is_chunked = length > 0;
            length = 0;
        }
        self.skip(length)?;
        Ok(status)
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err("the connection ended within an answer".into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn skip(&mut self, length: u64) -> Outcome<()> {
        let skipped = std::io::copy(&mut (&mut self.0).take(length), &mut std::io::sink())?;
        if skipped == length { Ok(()) } else { Err("the connection ended within a body".into()) }
    }
}

/// Makes all visits, several at once.
fn drive(port: u16, visits: &[Visit], share: usize) -> Outcome<()> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(move || -> Outcome<()> {
                    let mut connection = Connection::open(port)?;
                    for visit in visits {
                        for _ in 0..(visit.times * share / 100 / CONNECTIONS).max(1) {
                            let status = connection.ask(&visit.request)?;
                            if status != visit.status {
                                let request = String::from_utf8_lossy(&visit.request);
                                return Err(format!("{status} in place of {} for {request}", visit.status).into());
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| "a client panicked")?)
    })
}

/// Ports that nobody listens on now.
fn free_ports<const COUNT: usize>() -> Outcome<[u16; COUNT]> {
    let mut held = Vec::new();
    let mut ports = [0; COUNT];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn token(armiger: &str, folder: &Path, environment: &[(&str, String)], arguments: &[&str]) -> Outcome<String> {
    let mut command = Command::new(armiger);
    command.args(["token", "mint"]).args(arguments).current_dir(folder);
    let minted = command.envs(environment.iter().map(|(name, value)| (name, value))).output()?;
    if !minted.status.success() {
        return Err(String::from_utf8_lossy(&minted.stderr).into_owned().into());
    }
    Ok(format!("Authorization: Bearer {}\r\n", String::from_utf8(minted.stdout)?.trim()))
}

/// armiger between clients and an upstream, by each protocol and with each policy that most requests meet.
fn as_proxy(armiger: &str, folder: &Path, share: usize) -> Outcome<()> {
    let [origin_port, front, front_tls, admin] = free_ports()?;
    let environment = [
        ("ORIGIN", origin_port.to_string()),
        ("FRONT", front.to_string()),
        ("FRONT_TLS", front_tls.to_string()),
        ("ADMIN", admin.to_string()),
        ("SMALL", "0123456789abcdef".repeat(4)),
        ("SECRET", "known to everybody, and for the training only".to_owned()),
    ];
    let minting = ["--config", "proxy.yaml", "--provider", "known", "--sub", "ada", "--role", "admin", "--ttl", "1h"];
    let bearer = token(armiger, folder, &environment, &minting)?;
    let origin = Process::start(armiger, folder, &["run", "--workers", "1", "--config", "origin.yaml"], &environment)?;
    let proxy = Process::start(armiger, folder, &["run", "--workers", "1", "--config", "proxy.yaml"], &environment)?;
    drop(Connection::open(origin_port)?);
    let body = "0123456789abcdef".repeat(256);
    let form = "Content-Type: application/json\r\nCookie: a=b; c=d\r\nX-Forwarded-For: 10.0.0.1\r\n";
    let traced = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let chunked = Visit {
        times: 1_000,
        status: 200,
        request: b"POST /small/1 HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n".to_vec(),
    };
    let visits = [
        Visit::get(24_000, 200, "/small/1?a=b", ""),
        Visit::get(8_000, 200, "/middle/1", ""),
        Visit::get(400, 200, "/demo/large?mib=1", ""),
        Visit::send(4_000, 200, "POST", "/small/1", form, &body),
        chunked,
        Visit::get(1_000, 200, "/rewritten/small/%7Euser/./1", traced),
        Visit::get(4_000, 200, "/guarded/small/1", ""),
        Visit::get(4_000, 200, "/static", ""),
        Visit::get(8_000, 200, "/h2c/small/1", ""),
        Visit::get(400, 200, "/h2c/demo/large?mib=1", ""),
        Visit::send(1_000, 200, "POST", "/h2c/small/1", form, &body),
        Visit::get(8_000, 200, "/h2/small/1", ""),
        Visit::get(8_000, 200, "/tls/small/1", ""),
        Visit::get(200, 200, "/tls/demo/large?mib=1", ""),
        Visit::get(400, 200, "/anew/small/1", ""),
        Visit::get(4_000, 200, "/jwt/small/1", &bearer),
        Visit::get(8_000, 200, "/known/small/1", &bearer),
        Visit::get(400, 401, "/known/small/1", ""),
        Visit::get(8_000, 200, "/rate/small/1", ""),
        Visit::get(16_000, 200, "/cache/small/1", ""),
        Visit::get(8_000, 200, "/cache/middle/1", ""),
        Visit::get(2_000, 304, "/cache/small/1", "If-None-Match: \"1\"\r\n"),
        Visit::get(1_000, 206, "/cache/middle/1", "Range: bytes=0-99\r\n"),
        Visit::get(16_000, 200, "/all/small/1", &bearer),
        Visit::get(400, 503, "/failing", ""),
    ];
    drive(front, &visits, share)?;
    drive(admin, &[Visit::get(80, 200, "/metrics", ""), Visit::get(80, 200, "/readyz", "")], share)?;
    proxy.end("-TERM")?;
    origin.end("-TERM")
}

/// The routes of the demo, which have the rest: documents of several parts, batches, sagas, content codings.
fn as_demo(armiger: &str, folder: &Path, port: u16, share: usize) -> Outcome<()> {
    let bearer = token(armiger, folder, &[], &["--demo", "--sub", "ada", "--role", "user", "--scope", "account"])?;
    let json = "Content-Type: application/json\r\n";
    let packed = "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n";
    let visits = [
        Visit::get(2_000, 200, "/users/7", "Accept-Encoding: br, gzip\r\n"),
        Visit::get(400, 200, "/catalogue/1", ""),
        Visit::get(400, 200, "/app/echo?x=1", "Origin: https://shop.example.com\r\n"),
        Visit::get(80, 418, "/app/fail?status=418", ""),
        Visit::get(400, 200, "/account/me", &bearer),
        Visit::get(80, 404, "/nowhere", ""),
        Visit::send(400, 200, "POST", "/app/echo-body", packed, &"x".repeat(32 * 1024)),
        Visit::send(200, 200, "POST", "/batch", json, "[{\"path\":\"/users/7\"},{\"path\":\"/app/echo\"}]"),
        Visit::send(80, 402, "POST", "/checkout/7", "Content-Length: 0\r\n", ""),
    ];
    drive(port, &visits, share)?;
    // One of its parts always fails, which opens the breaker of `app`: only once no client needs that one any more.
    drive(port, &[Visit::get(80, 200, "/dashboard/7", "")], share)
}

/// What the processes read, besides what the environment tells them.
fn furnish(folder: &Path) -> Outcome<()> {
    std::fs::write(folder.join("origin.yaml"), include_str!("origin.yaml"))?;
    std::fs::write(folder.join("proxy.yaml"), include_str!("proxy.yaml"))?;
    std::fs::write(folder.join("middle"), "0123456789abcdef".repeat(640))?;
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -keyout tls.key -out tls.crt";
    let made = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output()?;
    if made.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&made.stderr).into_owned().into()) }
}

fn train(armiger: &str, folder: &Path, share: usize) -> Outcome<()> {
    furnish(folder)?;
    let [port] = free_ports()?;
    // Its back ends serve the proxy too.
    let demo = Process::start(armiger, folder, &["demo", "--port", &port.to_string()], &[])?;
    as_demo(armiger, folder, port, share)?;
    as_proxy(armiger, folder, share)?;
    demo.end("-INT")
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, armiger, folder, rest @ ..] = &arguments[..] else { return Err("train ARMIGER FOLDER [SHARE]".into()) };
    let armiger = std::fs::canonicalize(armiger)?.display().to_string();
    let share = rest.first().map_or(Ok(100), |share| share.parse())?;
    let folder = Path::new(folder);
    let outcome = train(&armiger, folder, share);
    if outcome.is_err()
        && let Ok(said) = std::fs::read_to_string(folder.join(SAID))
    {
        eprintln!("{said}");
    }
    outcome
}
