//! What the system and the terminal tell the process.

use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT, by its name: end.
    Stop(&'static str),
    /// SIGHUP: look at the configuration again.
    Reload,
}

/// SIGTERM, Ctrl-C and SIGHUP. From [`Signals::listen`] on they no longer end the process.
pub struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    /// Listens. To be done before armiger starts: whoever sees that it serves may already stop it.
    ///
    /// # Errors
    /// The system does not let us listen for signals.
    pub fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hang_up = signal(SignalKind::hangup())?;
        drop(inside);
        Ok(Self { runtime, terminate, interrupt, hang_up })
    }

    /// Waits for a signal, or for `end`, which gives `None`.
    pub fn next(&mut self, end: impl Future<Output = ()>) -> Option<Signal> {
        let Self { runtime, terminate, interrupt, hang_up } = self;
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = end => None,
                _ = terminate.recv() => Some(Signal::Stop("SIGTERM")),
                _ = interrupt.recv() => Some(Signal::Stop("SIGINT")),
                _ = hang_up.recv() => Some(Signal::Reload),
            }
        })
    }
}
