//! The command line. Standard output is data, standard error is messages. Exit codes: 0 good, 1 a bad configuration or
//! a failure, 2 a wrong command line, 3 exchanges cut at the end of a run or a token that `token inspect` finds not good,
//! 3 and 4 what `diff --exit-code` found.

mod admin;
mod token;
mod voice;

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::app::signals::{Signal, Signals};
use crate::app::{self, Options, Running, Source};
use crate::config::issue::Report;
use crate::config::reference;
use crate::demo;
use crate::exchange;
use crate::keep::Keeper;
use crate::machine::Machine;
use crate::policy::Blocks;
use crate::server::admin::UNPROTECTED;
use crate::telemetry::access_log;
use crate::telemetry::messages::{self, Messages};
use crate::telemetry::metrics::Metrics;
use admin::{AdminArgs, BreakerCommand, KeysCommand, Purge};
use voice::{Voice, is_coloured};

/// The exit code of a run that had to cut exchanges when it ended, unless `drain.strict` is off.
const CUT: u8 = 3;

/// The configuration that is meant where none is named.
const CONFIG: &str = "config.yaml";

/// A sidecar proxy that carries what every production API needs and no service should write again.
#[derive(Parser)]
#[command(name = "armiger", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args)]
struct LogArgs {
    /// What of armiger's own messages to show, on standard error: off, error, warn, info, debug or trace. Overrules
    /// `log.level` of the configuration.
    #[arg(long, global = true, env = "ARMIGER_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<tracing_subscriber::filter::LevelFilter>,
    /// The form of these messages.
    #[arg(long, global = true, env = "ARMIGER_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

impl LogArgs {
    fn form(&self) -> messages::Form {
        match self.log_format {
            LogFormat::Text => messages::Form::Text,
            LogFormat::Json => messages::Form::Json,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run on a configuration until SIGTERM or Ctrl-C.
    Run {
        #[command(flatten)]
        config: ConfigArg,
        /// Worker threads. Default: the processors that the machine, or its control group, gives.
        #[arg(long, env = "ARMIGER_WORKERS", value_name = "N", value_parser = workers)]
        workers: Option<NonZeroUsize>,
        /// A directory in which the last accepted configuration is kept, without secrets from outside, to start from
        /// when the file is no good.
        #[arg(long, env = "ARMIGER_LAST_GOOD", value_name = "DIR")]
        last_good: Option<PathBuf>,
    },
    /// Tell everything that is wrong with a configuration. Touches no network.
    Check {
        #[command(flatten)]
        config: ConfigArg,
        /// The form of the report.
        #[arg(long, env = "ARMIGER_FORMAT", default_value = "text")]
        format: ReportFormat,
    },
    /// Tell what a reload from one configuration to another would change, by meaning, and what weakens protection.
    ///
    /// Both files are checked first. Values from the environment are those of this process. Touches no network.
    Diff {
        /// The configuration in force.
        #[arg(env = "ARMIGER_DIFF_OLD")]
        old: PathBuf,
        /// The one that would replace it.
        #[arg(env = "ARMIGER_DIFF_NEW")]
        new: PathBuf,
        /// The form of the report.
        #[arg(long, env = "ARMIGER_DIFF_FORMAT", default_value = "text")]
        format: DiffFormat,
        /// Exit with 3 if anything changes, and with 4 if a change weakens protection. Without it: 0 in either case.
        #[arg(long, env = "ARMIGER_DIFF_EXIT_CODE")]
        exit_code: bool,
    },
    /// Ask a running armiger to end without losing a request.
    Drain {
        /// Come back only when nothing is in flight any more, or armiger is gone.
        #[arg(long, env = "ARMIGER_WAIT")]
        wait: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Ask a running armiger to read its configuration again.
    Reload {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Print how a running armiger fares, as JSON.
    Status {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Have a running armiger fetch the keys that issuers publish.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Show the breakers of a running armiger, or overrule them for a while.
    #[command(subcommand)]
    Breaker(BreakerCommand),
    /// Have a running armiger purge what its caches hold, and print how many targets it was told.
    Purge(Purge),
    /// Make a token, tell what is wrong with one, or hash an API key.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print the configuration's JSON Schema, or a reference page of `docs/` in Markdown.
    Schema {
        /// What to print.
        #[arg(long, env = "ARMIGER_SCHEMA_FORMAT", default_value = "json")]
        format: SchemaFormat,
    },
    /// Start three small back ends and armiger in front of them, to try things out.
    Demo {
        /// The port that armiger listens on in place of 8080. A configuration of your own must then have 127.0.0.1:8080, where it
        /// is put in, and edits of it do not apply while the demo runs.
        #[arg(long, env = "ARMIGER_PORT", value_name = "PORT")]
        port: Option<u16>,
        /// Your own configuration instead of the example, in front of the same back ends.
        #[arg(long, short, env = "ARMIGER_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print a completion script.
    Completions {
        /// For which shell.
        #[arg(env = "ARMIGER_SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

#[derive(Args)]
struct ConfigArg {
    /// The configuration file.
    #[arg(long, short, env = "ARMIGER_CONFIG", default_value = CONFIG, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// For people.
    Text,
    /// An array of issues.
    Json,
    /// Annotations for GitHub Actions.
    Github,
}

#[derive(Clone, Copy, ValueEnum)]
enum DiffFormat {
    /// For people: a line for each change.
    Text,
    /// An object of changes and of live state.
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemaFormat {
    /// JSON Schema, draft 2020-12, for editors.
    Json,
    /// `docs/configuration.md`: the configuration's keys.
    Markdown,
    /// `docs/metrics.md`: what `/metrics` shows.
    Metrics,
    /// `docs/access-log.md`: the fields and formats of the access log.
    AccessLog,
    /// `docs/reasons.md`: why armiger refuses, and what that looks like.
    Reasons,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let arguments = std::env::args_os().skip(1);
            return Voice::of_arguments(arguments, std::env::var_os("ARMIGER_LOG_FORMAT")).refuse(&error);
        }
    };
    let voice = Voice::new(cli.log.form());
    // Where that fails, what there is has to do.
    let _ = Machine::raise_files();
    let result = match cli.command {
        Command::Run { config, workers, last_good } => {
            let messages = watch(&cli.log);
            let ended = run(&config.config, workers, last_good, messages.clone());
            messages.close();
            ended
        }
        Command::Check { config, format } => check(&config.config, format, voice),
        Command::Diff { old, new, format, exit_code } => diff(&old, &new, format, exit_code),
        Command::Drain { wait, admin } => admin::drain(&admin, wait, voice),
        Command::Reload { admin } => admin::reload(&admin, voice),
        Command::Status { admin } => admin::status(&admin, voice),
        Command::Keys(command) => admin::keys(&command, voice),
        Command::Breaker(command) => admin::breaker(&command, voice),
        Command::Purge(purge) => admin::purge(&purge, voice),
        Command::Token(command) => token::run(command, voice),
        Command::Schema { format } => print(&schema(format)),
        Command::Demo { port, config } => {
            let messages = watch(&cli.log);
            let ended = demo::run(port, config, messages.clone()).map(|()| ExitCode::SUCCESS);
            messages.close();
            ended
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "armiger", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Version => print(concat!("armiger ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    result.unwrap_or_else(|error| {
        voice.fail(&error);
        ExitCode::FAILURE
    })
}

/// Writes data. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Shows armiger's own messages on standard error.
fn watch(log: &LogArgs) -> Messages {
    Messages::install(log.log_level, log.form(), is_coloured(&std::io::stderr()))
}

fn run(
    config: &Path,
    workers: Option<NonZeroUsize>,
    last_good: Option<PathBuf>,
    messages: Messages,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let workers = workers.map_or(0, NonZeroUsize::get);
    let source = Source::File(config.into());
    let running = Running::start(Options { workers, last_good, messages: Some(messages), ..Options::new(source) })?;
    for (name, address) in running.addresses() {
        tracing::info!(listener = &*name, %address, "listening");
    }
    tracing::info!(address = %running.admin(), "admin listening");
    if let Some(address) = running.probes() {
        tracing::info!(%address, "probes listening");
    }
    let drain = running.drain().clone();
    let mut is_told = false;
    loop {
        // Drained by request, armiger stays until it is told to go: a supervisor would start it anew.
        let end = async {
            match is_told {
                true => drain.over().await,
                false => std::future::pending().await,
            }
        };
        match signals.next(end) {
            None => break,
            Some(Signal::Reload) => running.reload(),
            Some(Signal::Stop(signal)) if is_told => {
                tracing::info!(signal, "stopping at once");
                drain.hurry();
            }
            Some(Signal::Stop(signal)) => {
                is_told = true;
                tracing::info!(signal, "stopping");
                drain.begin();
            }
        }
    }
    let stopped = running.stop();
    let is_failure = stopped.is_strict && stopped.cut > 0;
    Ok(if is_failure { ExitCode::from(CUT) } else { ExitCode::SUCCESS })
}

fn check(config: &Path, format: ReportFormat, voice: Voice) -> anyhow::Result<ExitCode> {
    let machine = Machine::detect();
    let checked = app::check(&Source::File(config.into()), &machine, 1, &Metrics::new(), Keeper::fresh());
    match checked {
        Ok(app::Checked { snapshot, .. }) => {
            if let Some(scarcity) = app::scarcity(&snapshot, &machine) {
                voice.tell(format_args!("on this machine {scarcity}"));
            }
            app::doubts(&snapshot).iter().for_each(|doubt| voice.warn(doubt));
            if snapshot.document.admin.is_unprotected() {
                voice.warn(UNPROTECTED);
            }
            for secret in &snapshot.defaulted {
                voice.tell(format_args!(
                    "{secret} is its default, which stands in the file: set the variable in earnest"
                ));
            }
            if format == ReportFormat::Json {
                print("[]\n")?;
            } else {
                voice.tell(format_args!(
                    "{} is good: {}, {}, {}",
                    config.display(),
                    counted(snapshot.listeners.len(), "listener"),
                    counted(snapshot.upstreams.len(), "upstream"),
                    counted(snapshot.document.routes.len(), "route")
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(report) => {
            print(&rendered(&report, format))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn diff(old: &Path, new: &Path, format: DiffFormat, exit_code: bool) -> anyhow::Result<ExitCode> {
    let compared = match app::diff::compare(&Source::File(old.into()), &Source::File(new.into()), &Machine::detect()) {
        Ok(compared) => compared,
        Err(report) => {
            let format = if matches!(format, DiffFormat::Json) { ReportFormat::Json } else { ReportFormat::Text };
            print(&rendered(&report, format))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    print(&match format {
        DiffFormat::Text => compared.text(),
        DiffFormat::Json => format!("{:#}\n", compared.json()),
    })?;
    Ok(match &compared.changes {
        changes if !exit_code || changes.is_empty() => ExitCode::SUCCESS,
        changes if changes.weakens() => ExitCode::from(4),
        _ => ExitCode::from(3),
    })
}

/// How many workers there should be.
fn workers(text: &str) -> Result<NonZeroUsize, String> {
    const WORKERS_MAX: usize = 1024;
    text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= WORKERS_MAX).ok_or_else(|| {
        format!("write a number from 1 to {WORKERS_MAX}, or leave it out for as many as there are processors")
    })
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn rendered(report: &Report, format: ReportFormat) -> String {
    match format {
        ReportFormat::Text => report.text(is_coloured(&std::io::stdout())),
        ReportFormat::Json => format!("{:#}\n", report.json()),
        ReportFormat::Github => report.github(),
    }
}

/// The configuration's schema, or one of the reference pages.
fn schema(format: SchemaFormat) -> String {
    match format {
        SchemaFormat::Json => format!("{:#}\n", reference::schema::<Blocks>()),
        SchemaFormat::Markdown => reference::markdown(&reference::schema::<Blocks>()),
        SchemaFormat::Metrics => Metrics::new().reference(),
        SchemaFormat::AccessLog => access_log::reference(),
        SchemaFormat::Reasons => exchange::reference(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_flag_has_a_variable() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            for flag in sub.get_arguments().filter(|flag| !matches!(flag.get_id().as_str(), "help" | "version")) {
                let variable = flag.get_env().and_then(|name| name.to_str()).unwrap_or_default();
                assert!(variable.starts_with("ARMIGER_"), "{} {}", sub.get_name(), flag.get_id());
            }
        }
    }
}
