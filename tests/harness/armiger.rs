//! armiger under test: in process on free ports, or the real executable.

use std::fmt::{self, Display, Formatter};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use armiger::app::{Options, Running, Source, StartError, Stopped};
use bytes::Bytes;
use http::Request;
use hyper::body::Body;
use serde_json::Value;
use tokio::sync::Notify;

use super::{Backend, Client, Connection, DEADLINE, RawConversation, Response, until, within};

/// A document with one listener `http` and the admin listener, both on free ports, of which a test gives only what it
/// is about. Displayed, it is YAML.
///
/// Every part is YAML itself, without the key that it stands under: `.policies("cors: {origins: [\"*\"]}")`.
#[derive(Clone, Debug, Default)]
pub struct Config {
    top: String,
    listener: String,
    upstreams: String,
    upstream: String,
    policies: String,
    route: String,
    routes: Option<String>,
}

impl Config {
    /// Proxies every path to `backend`, as the upstream `app`, by the route `everything`.
    pub fn to(backend: &Backend) -> Self {
        Self::to_url(&backend.url())
    }

    /// Proxies every path to this URL, as the upstream `app`, by the route `everything`.
    pub fn to_url(url: &str) -> Self {
        Self { upstreams: format!("app:\n  endpoints: [\"{url}\"]\n"), ..Self::default() }
    }

    /// No upstream; routes are to come.
    pub fn empty() -> Self {
        Self::default()
    }

    /// More keys of the document: `access_log: {sample: 0.0}`.
    pub fn top(mut self, yaml: &str) -> Self {
        self.top += &dedent(yaml);
        self
    }

    /// More keys of the listener: `limits: {headers_max: 10}`.
    pub fn listener(mut self, yaml: &str) -> Self {
        self.listener += &dedent(yaml);
        self
    }

    /// More keys of the upstream `app`: `timeouts: {first_byte: 50ms}`.
    pub fn upstream(mut self, yaml: &str) -> Self {
        self.upstream += &dedent(yaml);
        self
    }

    /// One more upstream.
    pub fn and(mut self, name: &str, backend: &Backend) -> Self {
        self.upstreams += &format!("{name}:\n  endpoints: [\"{}\"]\n", backend.url());
        self
    }

    /// One more upstream, by its URL.
    pub fn and_url(mut self, name: &str, url: &str) -> Self {
        self.upstreams += &format!("{name}:\n  endpoints: [\"{url}\"]\n");
        self
    }

    /// One more upstream, by its URL, which speaks HTTP/2 in clear text.
    pub fn and_h2c(mut self, name: &str, url: &str) -> Self {
        self.upstreams += &format!("{name}:\n  endpoints: [\"{url}\"]\n  protocol: h2c\n");
        self
    }

    /// Policies of the route `everything`: `body_limit: {max: 1KiB}`.
    pub fn policies(mut self, yaml: &str) -> Self {
        self.policies += &dedent(yaml);
        self
    }

    /// More keys of the route `everything`: `timeout: 50ms`.
    pub fn route(mut self, yaml: &str) -> Self {
        self.route += &dedent(yaml);
        self
    }

    /// These routes, a YAML list, in place of the route `everything`.
    pub fn routes(mut self, yaml: &str) -> Self {
        *self.routes.get_or_insert_default() += &dedent(yaml);
        self
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.top)?;
        if !has_key(&self.top, "admin") {
            writeln!(f, "admin: {{address: \"127.0.0.1:0\"}}")?;
        }
        if !has_key(&self.top, "listeners") {
            writeln!(f, "listeners:\n  - name: http")?;
            if !has_key(&self.listener, "address") {
                writeln!(f, "    address: 127.0.0.1:0")?;
            }
            write!(f, "{}", indent(&self.listener, 4))?;
        }
        if !self.upstreams.is_empty() {
            // The keys of `app` follow its first two lines, before those of the others.
            let others = self.upstreams.match_indices('\n').nth(1).map_or(self.upstreams.len(), |(at, _)| at + 1);
            let (app, others) = self.upstreams.split_at(others);
            write!(f, "upstreams:\n{}{}{}", indent(app, 2), indent(&self.upstream, 4), indent(others, 2))?;
        }
        let Some(routes) = &self.routes else {
            writeln!(f, "routes:\n  - name: everything\n    match: {{path: \"/{{rest...}}\"}}")?;
            if !self.policies.is_empty() {
                write!(f, "    policies:\n{}", indent(&self.policies, 6))?;
            }
            write!(f, "{}", indent(&self.route, 4))?;
            return if self.upstreams.is_empty() { Ok(()) } else { writeln!(f, "    proxy: {{upstream: app}}") };
        };
        write!(f, "routes:\n{}", indent(routes, 2))
    }
}

fn has_key(yaml: &str, key: &str) -> bool {
    yaml.lines().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))
}

/// Takes away the blank lines around and the indentation that all lines share, so that YAML can be indented in a test.
fn dedent(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shared = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| format!("{}\n", &line[shared..])).collect()
}

fn indent(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

/// armiger, in this process. Begins to stop when dropped.
pub struct Armiger {
    running: Option<Running>,
    log: Arc<Log>,
}

impl Armiger {
    /// Starts it on a document: a [`Config`], or YAML with a listener `http` on port 0 and the admin listener on
    /// port 0. Fails the test with the report if the document is wrong.
    pub async fn with(yaml: impl Display) -> Self {
        let yaml = yaml.to_string();
        let start = Self::try_with(&yaml).await;
        start.unwrap_or_else(|report| panic!("armiger did not start:\n{report}\non\n{yaml}"))
    }

    /// Starts it, or gives the report of what is wrong.
    pub async fn try_with(yaml: impl Display) -> Result<Self, String> {
        Self::start(text(yaml), 1)
    }

    /// Proxies every path to `backend`.
    pub async fn proxying(backend: &Backend) -> Self {
        Self::with(Config::to(backend)).await
    }

    /// Starts it on a file.
    pub async fn from_file(path: impl Into<PathBuf>) -> Self {
        Self::start(Source::File(path.into()), 1).unwrap_or_else(|report| panic!("armiger did not start:\n{report}"))
    }

    /// Starts it with more workers than the one that tests usually have.
    pub async fn with_workers(workers: usize, yaml: impl Display) -> Self {
        Self::start(text(yaml), workers).unwrap_or_else(|report| panic!("armiger did not start:\n{report}"))
    }

    fn start(source: Source, workers: usize) -> Result<Self, String> {
        Self::launch(Options { workers, ..Options::new(source) })
    }

    /// Starts it, with an access log that the test can read.
    pub(super) fn launch(mut options: Options) -> Result<Self, String> {
        let log = Arc::new(Log::default());
        options.access_log = Some(Box::new(LogWriter { log: log.clone(), line: Vec::new() }));
        let running = Running::start(options).map_err(|error| match error {
            StartError::Config(report) => report.text(false),
            other => other.to_string(),
        })?;
        Ok(Self { running: Some(running), log })
    }

    /// It, as a program has it.
    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("armiger runs until it is stopped")
    }

    /// Where its listener `http` is.
    pub fn address(&self) -> SocketAddr {
        self.address_of("http")
    }

    /// Where the listener of this name is.
    pub fn address_of(&self, listener: &str) -> SocketAddr {
        self.running().address(listener).unwrap_or_else(|| panic!("armiger has no listener `{listener}`"))
    }

    /// A client of its listener `http`.
    pub fn client(&self) -> Client {
        Client::to(self.address())
    }

    /// A client of its admin listener.
    pub fn admin(&self) -> Client {
        Client::to(self.running().admin().tcp().expect("the admin listener of a test is on TCP"))
    }

    /// A client of its listener for probes.
    pub fn probes(&self) -> Client {
        let address = self.running().probes().expect("the test's document has `probes`");
        Client::to(address.tcp().expect("probes are on TCP"))
    }

    /// GETs a path on a connection of its own.
    pub async fn get(&self, path: &str) -> Response {
        self.client().get(path).await
    }

    /// POSTs a body on a connection of its own.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Response {
        self.client().post(path, body).await
    }

    /// Sends a request on a connection of its own.
    pub async fn request<B>(&self, request: Request<B>) -> Response
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        self.client().request(request).await
    }

    /// Opens an HTTP/1.1 connection.
    pub async fn connect(&self) -> Connection {
        self.client().connect().await
    }

    /// Opens an HTTP/2 connection.
    pub async fn connect_h2c(&self) -> Connection {
        self.client().connect_h2c().await
    }

    /// Opens a connection and writes these bytes.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> RawConversation {
        self.client().raw(bytes).await
    }

    /// Waits for a line of the access log that fits, and gives it.
    pub async fn logged(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let found = || self.log.lines().iter().find(|line| fits(line)).cloned();
        let waiting = tokio::time::timeout(DEADLINE, until(&self.log.changed, found));
        waiting.await.unwrap_or_else(|_| {
            let lines: Vec<String> = self.log.lines().iter().map(Value::to_string).collect();
            panic!("no fitting line in the access log within {DEADLINE:?}; it has:\n{}", lines.join("\n"))
        })
    }

    /// Waits until the access log has `n` lines, and gives all it has.
    pub async fn log_lines(&self, n: usize) -> Vec<Value> {
        let found = || (self.log.lines().len() >= n).then(|| self.log.lines());
        within(&format!("{n} lines of access log"), until(&self.log.changed, found)).await
    }

    /// What gives all lines of the access log, when armiger is gone too.
    pub fn lines(&self) -> impl Fn() -> Vec<Value> + Send + 'static {
        let log = self.log.clone();
        move || log.lines()
    }

    /// The value of a metric, as `/metrics` shows it: `armiger_connections{listener="http"}`. 0 if it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.admin().get("/metrics").await.assert_status(200).text().to_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap_or_else(|_| panic!("{series} has the value {value:?}")))
    }

    /// Stops it and waits until it has.
    pub async fn stop(mut self) -> Stopped {
        let running = self.running.take().expect("armiger runs until it is stopped");
        // Elsewhere, so that clients of this test go on while armiger waits for them.
        let stopping = tokio::task::spawn_blocking(move || running.stop());
        within("armiger to stop", stopping).await.expect("armiger stops without a panic")
    }

    /// Runs the real executable to its end.
    pub fn binary(args: &[&str]) -> Finished {
        Process::start(args, &[]).finish()
    }

    /// Runs the real executable in a folder to its end.
    pub fn binary_at(folder: &Path, args: &[&str]) -> Finished {
        let mut command = Command::new(env!("CARGO_BIN_EXE_armiger"));
        command.args(args).current_dir(folder);
        Process::launch(command, &[]).finish()
    }

    /// Runs the real executable to its end, with variables in its environment.
    pub fn binary_in(args: &[&str], environment: &[(&str, &str)]) -> Finished {
        Process::start(args, environment).finish()
    }

    /// Starts the real executable.
    pub fn spawn(args: &[&str]) -> Process {
        Process::start(args, &[])
    }

    /// Starts the real executable under a limit, in the words of the shell's `ulimit`. Fails where the limit cannot be set.
    pub fn spawn_limited(args: &[&str], limit: &str) -> Process {
        let mut command = Command::new("sh");
        let script = format!("ulimit {limit} || exit 1; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_armiger")]).args(args);
        Process::launch(command, &[])
    }

    /// Starts the real executable, with variables in its environment.
    pub fn spawn_in(args: &[&str], environment: &[(&str, &str)]) -> Process {
        Process::start(args, environment)
    }
}

impl Drop for Armiger {
    fn drop(&mut self) {
        // Elsewhere, and not waited for: the clients of this test share its thread, and armiger gives them time to say
        // goodbye.
        if let Some(running) = self.running.take() {
            std::thread::spawn(move || running.stop());
        }
    }
}

fn text(yaml: impl Display) -> Source {
    Source::Text { name: "test.yaml".into(), text: yaml.to_string() }
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Value>>,
    changed: Notify,
}

impl Log {
    fn lines(&self) -> Vec<Value> {
        self.lines.lock().expect("no panic while a line is added").clone()
    }
}

/// Where armiger writes its access log.
struct LogWriter {
    log: Arc<Log>,
    line: Vec<u8>,
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.ends_with(b"\n") {
                // A line that is no JSON is kept as a string, for the test to stumble over.
                let line = serde_json::from_slice(&self.line)
                    .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.line).into_owned()));
                self.line.clear();
                self.log.lines.lock().expect("no panic while a line is added").push(line);
                self.log.changed.notify_waiters();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The address in a line `listening`, whichever form the messages have.
pub fn address_in(line: &str) -> SocketAddr {
    let at = line.find("127.0.0.1:").unwrap_or_else(|| panic!("no address in {line:?}"));
    let rest = &line[at..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|_| panic!("no address in {line:?}"))
}

/// The real executable, running. Killed when dropped.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<(Stream, String)>,
    seen: Vec<(Stream, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// The real executable's end.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote on standard output.
    pub stdout: String,
    /// What it wrote on standard error.
    pub stderr: String,
}

impl Finished {
    /// Fails unless it exited with this code.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }
}

impl Process {
    fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_armiger"));
        command.args(args);
        Self::launch(command, environment)
    }

    fn launch(mut command: Command, environment: &[(&str, &str)]) -> Self {
        // Only what the test gives counts, whatever the developer's shell has.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ARMIGER_")) {
            command.env_remove(name);
        }
        let mut child = command
            .env("NO_COLOR", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the executable was built with this test");
        let (sender, lines) = mpsc::sync_channel(1024);
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        forward(stdout, Stream::Out, sender.clone());
        forward(stderr, Stream::Err, sender);
        Self { child, lines, seen: Vec::new() }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its memory in KiB, and how many file descriptors it has open.
    pub fn usage(&self) -> (u64, usize) {
        let descriptors = format!("/proc/{}/fd", self.child.id());
        (self.memory("VmRSS:"), std::fs::read_dir(descriptors).expect("the process runs").count())
    }

    /// The most memory that it had so far, in KiB.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The processor time that its threads took so far.
    pub fn processor_time(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the process runs");
        let nanos = threads.map(|thread| {
            let times = std::fs::read_to_string(thread.expect("a thread").path().join("schedstat")).unwrap_or_default();
            times.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
        });
        Duration::from_nanos(nanos.sum())
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process runs");
        let memory = status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
        memory.expect("the kernel tells a process's memory")
    }

    /// Waits for a line on standard output that contains `text`, and gives it.
    #[track_caller]
    pub fn stdout_line(&mut self, text: &str) -> String {
        self.line(Stream::Out, text)
    }

    /// Waits for a line on standard error that contains `text`, and gives it.
    #[track_caller]
    pub fn stderr_line(&mut self, text: &str) -> String {
        self.line(Stream::Err, text)
    }

    #[track_caller]
    fn line(&mut self, stream: Stream, text: &str) -> String {
        if let Some((_, line)) = self.seen.iter().find(|(from, line)| *from == stream && line.contains(text)) {
            return line.clone();
        }
        loop {
            let Ok((from, line)) = self.lines.recv_timeout(DEADLINE) else {
                panic!("no line with {text:?} from the process; it wrote {:#?}", self.seen);
            };
            self.seen.push((from, line.clone()));
            if from == stream && line.contains(text) {
                return line;
            }
        }
    }

    /// Sends it a signal: `TERM`, `INT`, `HUP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("`kill` is there").success(), "SIG{name} was not sent");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        // Both streams end with the process, and the channel with both streams.
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => self.seen.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("the process said nothing for {DEADLINE:?} and did not end; it wrote {:#?}", self.seen)
                }
            }
        }
        let status = self.child.wait().expect("the process is this one's child");
        let said =
            |stream| self.seen.iter().filter(|(from, _)| *from == stream).map(|(_, line)| line.as_str()).collect();
        Finished { status, stdout: said(Stream::Out), stderr: said(Stream::Err) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn forward(from: impl Read + Send + 'static, stream: Stream, sender: mpsc::SyncSender<(Stream, String)>) {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while let Ok(1..) = from.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).into_owned();
            if sender.send((stream, text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_gives_only_what_it_is_about() {
        let config = Config::to_url("http://127.0.0.1:1")
            .listener("limits: {headers_max: 10}")
            .upstream("protocol: h2c")
            .policies(
                "
                cors:
                  origins: [\"*\"]
                ",
            )
            .route("timeout: 1s");
        let expected = r#"admin: {address: "127.0.0.1:0"}
listeners:
  - name: http
    address: 127.0.0.1:0
    limits: {headers_max: 10}
upstreams:
  app:
    endpoints: ["http://127.0.0.1:1"]
    protocol: h2c
routes:
  - name: everything
    match: {path: "/{rest...}"}
    policies:
      cors:
        origins: ["*"]
    timeout: 1s
    proxy: {upstream: app}
"#;
        assert_eq!(config.to_string(), expected);
    }

    #[test]
    fn lines_reach_the_log_however_they_are_written() {
        let log = Arc::new(Log::default());
        let mut writer = LogWriter { log: log.clone(), line: Vec::new() };
        for part in ["{\"a\"", ":1}\n{\"a\":2}", "\nnot json\n{\"a\":"] {
            writer.write_all(part.as_bytes()).unwrap();
        }
        let expected = [serde_json::json!({"a": 1}), serde_json::json!({"a": 2}), "not json\n".into()];
        assert_eq!(log.lines(), expected);
    }
}
