//! A Redis that several armigers share: the connection to it, for whoever keeps something there.
//!
//! One connection, which the thread `background` opens, watches and opens again; requests on every worker send through it,
//! and it takes what comes in the order it comes. **The connection is the breaker**: after three failures in a row it is
//! taken away, so that requests do without at once, and a new one is put there only after it has answered a `PING`. A reload that
//! names another server takes it away too, and at once: nothing that is meant for the one is ever said to the other.

#[cfg(test)]
pub mod agreeing;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, IntoConnectionInfo, Pipeline, RedisResult, TlsCertificates};
use tokio::sync::Notify;

use crate::config::redis::Redis as Settings;
use crate::config::{Issue, Issues, KeyPath};
use crate::keep::{Identity, Keeper};
use crate::telemetry::metrics::StoreMetrics;
use crate::timer::Wheel;
use crate::upstream::background::{self, Awaited, Background, Desk, Ticket};

/// Failures in a row after which Redis is not asked any more.
const FAILURES_MAX: u32 = 3;

/// How long a connection may take until it has answered.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The first and the longest wait before the next try. Up to half of it is left to chance, so that all armigers do not come
/// at once.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Requests that may be on their way at once; further ones do without.
const PIPELINE_MAX: usize = 4096;

/// It did not answer, or not in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away;

/// A shared store, kept over reloads: one client, whatever changes.
pub struct Client {
    /// What is kept there, in words.
    what: &'static str,
    ticket: Ticket,
    plan: Mutex<Option<Arc<Settings>>>,
    timeout_ms: AtomicU32,
    connection: ArcSwapOption<MultiplexedConnection>,
    /// The one that a reload left, until the work has its turn: for who has a last word for that server.
    left: Mutex<Option<Arc<MultiplexedConnection>>>,
    failures: AtomicU32,
    /// The failure for which the last connection was left, in words.
    reason: Mutex<String>,
    /// Rung when the connection was left: it fails, or the plan is another one.
    bell: Arc<Notify>,
    metrics: StoreMetrics,
}

/// Compiles the section, which stands at `path`, for who keeps `what` there. Touches no network.
pub fn compile(
    settings: &Settings,
    path: &KeyPath,
    (what, section): (&'static str, &'static str),
    metrics: StoreMetrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Option<Arc<Client>> {
    let before = issues.len();
    let url = settings.url.as_str();
    let is_known = ["redis://", "rediss://", "unix:///"].iter().any(|scheme| url.starts_with(scheme));
    if !is_known || url.into_connection_info().is_err() {
        issues.push(
            Issue::new(path.key("url"), "is no address of a Redis")
                .hint("write `redis://HOST:6379`, `rediss://HOST:6379` for TLS, or `unix:///PATH`"),
        );
    } else if url
        .split_once("://")
        .is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|host| host.contains('@')))
    {
        issues.push(
            Issue::new(path.key("url"), "holds a credential")
                .hint("put it under `username` and `password`: there it is masked"),
        );
    }
    if settings.username.as_deref() == Some("") {
        issues.push(Issue::new(path.key("username"), "is empty").hint("leave it out for the user `default`"));
    }
    let timeout = settings.timeout.get();
    if !(Duration::from_millis(1)..=Duration::from_secs(5)).contains(&timeout) {
        issues.push(Issue::new(path.key("timeout"), "is out of bounds").hint("choose from 1ms to 5s"));
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if settings.prefix.is_empty() || settings.prefix.len() > 100 || !settings.prefix.bytes().all(fits) {
        issues.push(
            Issue::new(path.key("prefix"), "cannot begin a key")
                .hint("use 1 to 100 letters, digits, `-`, `_`, `.` and `:`"),
        );
    }
    if settings.ca.is_some() && (!url.starts_with("rediss://") || client(settings).is_err()) {
        let hint = "give certificates in PEM, and a `rediss://` URL; or leave `ca` out";
        issues.push(Issue::new(path.key("ca"), "goes with no server").hint(hint));
    }
    if issues.len() != before {
        return None;
    }
    let identity = Identity::of("redis", section).setting("url", url).setting("prefix", &settings.prefix);
    let client = keeper.keep(identity, || Client::new(what, metrics));
    background::employ(keeper, &client, settings.clone());
    Some(client)
}

fn client(settings: &Settings) -> RedisResult<redis::Client> {
    let mut info = settings.url.as_str().into_connection_info()?;
    let mut login = info.redis_settings().clone();
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.expose());
    }
    info = info.set_redis_settings(login);
    match &settings.ca {
        None => redis::Client::open(info),
        Some(ca) => {
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.clone().into_bytes()) };
            redis::Client::build_with_tls(info, certificates)
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    fn new(what: &'static str, metrics: StoreMetrics) -> Self {
        Self {
            what,
            ticket: Ticket::default(),
            plan: Mutex::default(),
            timeout_ms: AtomicU32::new(20),
            connection: ArcSwapOption::empty(),
            left: Mutex::default(),
            failures: AtomicU32::new(0),
            reason: Mutex::default(),
            bell: Arc::default(),
            metrics,
        }
    }

    fn plan(&self) -> Option<Arc<Settings>> {
        locked(&self.plan).clone()
    }

    /// Whether it answered when it was last asked.
    pub fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// The connection to the server of the plan before, for who follows the same reload right behind this. Given once.
    pub fn leave(&self) -> Option<Arc<MultiplexedConnection>> {
        // Nothing was left where the reload names the same server.
        locked(&self.left).take().or_else(|| self.connection.load_full())
    }

    /// Whether this is the connection that requests go by.
    fn goes_by(&self, connection: &Arc<MultiplexedConnection>) -> bool {
        self.connection.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, connection))
    }

    /// Asks it something, within the time that a request waits.
    ///
    /// # Errors
    /// It did not answer in time, or with an error, or is left alone for a while.
    pub async fn ask<T>(
        &self,
        wheel: &Wheel,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, Away> {
        let Some(connection) = self.connection.load_full() else {
            self.metrics.asked("unavailable");
            return Err(Away);
        };
        let mut handle = (*connection).clone();
        let mut asking = std::pin::pin!(ask(&mut handle));
        let mut timer = wheel.timer();
        timer.arm(Duration::from_millis(u64::from(self.timeout_ms.load(Ordering::Relaxed))));
        let answer = std::future::poll_fn(|cx| match asking.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => timer.poll_expired(cx).map(|()| None),
        })
        .await;
        match answer {
            Some(Ok(answer)) => {
                if self.failures.load(Ordering::Relaxed) != 0 {
                    self.failures.store(0, Ordering::Relaxed);
                }
                self.metrics.asked("ok");
                Ok(answer)
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "redis failed");
                self.failed("error", &error, &connection);
                Err(Away)
            }
            None => {
                self.failed("timeout", &"no answer in time", &connection);
                Err(Away)
            }
        }
    }

    fn failed(&self, outcome: &'static str, reason: &dyn Display, connection: &Arc<MultiplexedConnection>) {
        self.metrics.asked(outcome);
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 < FAILURES_MAX {
            return;
        }
        // A late failure of a connection that was left already is no word about the new one.
        let current = self.connection.compare_and_swap(Arc::as_ptr(connection), None);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            *locked(&self.reason) = reason.to_string();
            self.metrics.is_up(false);
            self.bell.notify_one();
        }
    }
}

impl Background for Client {
    type Plan = Settings;

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn follow(&self, plan: &Arc<Settings>) {
        let millis = u32::try_from(plan.timeout.get().as_millis()).unwrap_or(u32::MAX);
        self.timeout_ms.store(millis, Ordering::Relaxed);
        let mut held = locked(&self.plan);
        let is_same = |old: &Settings| {
            let of = |one: &Settings| (one.url.clone(), one.username.clone(), one.password.clone(), one.ca.clone());
            of(old) == of(plan)
        };
        if !held.as_deref().is_some_and(is_same) {
            // The first plan is what the work begins with: nothing has to be left for it.
            if held.replace(plan.clone()).is_some() {
                // Here, and not where the work has its turn: who follows the same reload would ask the one for the other.
                *locked(&self.left) = self.connection.swap(None);
                self.metrics.is_up(false);
                self.bell.notify_one();
            }
        }
    }

    async fn work(state: Weak<Self>, _: Desk) {
        let mut wait = RETRY.0;
        // What is wrong was logged. The last connection was of no use: one that only answers a `PING`, such as to a replica.
        let (mut is_told, mut told, mut is_restless) = (false, String::new(), false);
        loop {
            let Some(client) = state.upgrade() else { return };
            let Some(plan) = client.plan() else { return };
            let opened = tokio::time::timeout(CONNECT_TIMEOUT, open(&plan)).await;
            match opened {
                Ok(Ok(connection)) => {
                    let connection = Arc::new(connection);
                    // While it was opened a reload may have named another server.
                    if client.plan().is_some_and(|newest| Arc::ptr_eq(&newest, &plan)) {
                        client.failures.store(0, Ordering::Relaxed);
                        client.connection.store(Some(connection.clone()));
                        client.metrics.is_up(true);
                    }
                    let (opened, what) = (tokio::time::Instant::now(), client.what);
                    // Its own state is not held while it waits, or that would never end.
                    let bell = client.bell.clone();
                    drop(client);
                    let goes_by = || state.upgrade().is_some_and(|client| client.goes_by(&connection));
                    // Looked at first: what was rung may be about one that was left long ago.
                    let mut left = pin!(async {
                        while goes_by() {
                            bell.notified().await
                        }
                    });
                    let is_settled = match is_restless {
                        false => goes_by(),
                        true => tokio::time::timeout(RETRY.1, &mut left).await.is_err(),
                    };
                    if is_settled {
                        tracing::info!(url = %plan.url, what, "shared over redis");
                        is_told = false;
                        left.await;
                    }
                    let Some(client) = state.upgrade() else { return };
                    // Whoever had a last word has said it, or holds it.
                    locked(&client.left).take();
                    let is_changed = client.plan().is_none_or(|newest| !Arc::ptr_eq(&newest, &plan));
                    let error = locked(&client.reason).clone();
                    if !is_changed && (!is_told || told != error) {
                        tracing::warn!(url = %plan.url, what, error, "redis fails: they do without it");
                        (is_told, told) = (true, error);
                    }
                    is_restless = !is_changed && opened.elapsed() < RETRY.1;
                    if is_restless {
                        drop(client);
                        pause(&mut wait, &bell).await;
                    } else {
                        wait = RETRY.0;
                    }
                }
                failed => {
                    if !is_told {
                        is_told = true;
                        let error = match failed {
                            Ok(Err(error)) => error.to_string(),
                            _ => "no answer in time".to_owned(),
                        };
                        tracing::warn!(url = %plan.url, what = client.what, error, "redis cannot be reached: they do without it");
                    }
                    let bell = client.bell.clone();
                    drop(client);
                    pause(&mut wait, &bell).await;
                }
            }
        }
    }

    fn awaited(&self, _: &Settings) -> Option<Awaited> {
        None
    }
}

/// Waits before the next try, unless there is another plan.
async fn pause(wait: &mut Duration, bell: &Notify) {
    let pause = wait.mul_f64(0.5 + fastrand::f64() / 2.0);
    *wait = (*wait * 2).min(RETRY.1);
    let _ = tokio::time::timeout(pause, bell.notified()).await;
}

/// Begins what is to happen at one moment. `EXEC` ends it, and has all that came of it in its answer; those of the commands
/// in between only say that they wait, and are to be ignored.
///
/// Not by way of `Pipeline::atomic`: where the server refuses `MULTI` itself, redis (1.8.1) takes two of one, and a build that
/// looks for such things loses the connection by a panic.
pub fn transaction() -> Pipeline {
    let mut pipe = redis::pipe();
    pipe.cmd("MULTI").ignore();
    pipe
}

/// A connection that has answered.
async fn open(settings: &Settings) -> RedisResult<MultiplexedConnection> {
    // Requests have a time limit of their own, in the wheel of their worker.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(None)
        .set_concurrency_limit(PIPELINE_MAX);
    let mut connection = client(settings)?.get_multiplexed_async_connection_with_config(&config).await?;
    Cmd::new().arg("PING").exec_async(&mut connection).await?;
    Ok(connection)
}
