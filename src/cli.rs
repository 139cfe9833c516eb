//! The command line. Standard output is data, standard error is messages. Exit codes: 0 good, 1 a bad configuration or
//! a failure, 2 a wrong command line.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::app::{self, Options, Running, Source, StartError, StopSignals};
use crate::config::issue::Report;
use crate::config::reference;
use crate::demo;
use crate::keep::Keeper;
use crate::policy::Blocks;
use crate::telemetry::metrics::Metrics;

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
    /// What of armiger's own messages to show, on standard error.
    #[arg(long, global = true, env = "ARMIGER_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    log_level: tracing_subscriber::filter::LevelFilter,
    /// The form of these messages.
    #[arg(long, global = true, env = "ARMIGER_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
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
        #[arg(long, env = "ARMIGER_WORKERS", default_value_t = 0, hide_default_value = true, value_name = "N")]
        workers: usize,
    },
    /// Tell everything that is wrong with a configuration. Touches no network.
    Check {
        #[command(flatten)]
        config: ConfigArg,
        /// The form of the report.
        #[arg(long, env = "ARMIGER_FORMAT", default_value = "text")]
        format: ReportFormat,
    },
    /// Print the configuration's JSON Schema, or its reference in Markdown.
    Schema {
        /// What to print.
        #[arg(long, env = "ARMIGER_SCHEMA_FORMAT", default_value = "json")]
        format: SchemaFormat,
    },
    /// Start three small back ends and armiger in front of them, to try things out.
    Demo {
        /// The port that armiger listens on instead of the configuration's.
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
    #[arg(long, short, env = "ARMIGER_CONFIG", default_value = "config.yaml", value_name = "FILE")]
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
enum SchemaFormat {
    /// JSON Schema, draft 2020-12, for editors.
    Json,
    /// `docs/configuration.md`.
    Markdown,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run { config, workers } => {
            watch(&cli.log);
            run(&config.config, workers)
        }
        Command::Check { config, format } => check(&config.config, format),
        Command::Schema { format } => print(&schema(format)),
        Command::Demo { port, config } => {
            watch(&cli.log);
            demo::run(port, config).map(|()| ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "armiger", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Version => print(concat!("armiger ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    result.unwrap_or_else(|error| {
        complain(&error);
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

fn complain(error: &anyhow::Error) {
    match error.downcast_ref::<StartError>() {
        Some(StartError::Config(report)) => eprint!("{}", report.text(is_coloured(&std::io::stderr()))),
        _ => eprintln!("armiger: {error:#}"),
    }
}

/// Colours are for terminals, unless `NO_COLOR` says no (no-color.org).
fn is_coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Shows armiger's own messages on standard error.
fn watch(log: &LogArgs) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(log.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(is_coloured(&std::io::stderr()));
    // Fails only where a message log is installed already, which then stays.
    let _ = match log.log_format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

fn run(config: &Path, workers: usize) -> anyhow::Result<ExitCode> {
    let signals = StopSignals::listen()?;
    let running = Running::start(Options { workers, ..Options::new(Source::File(config.into())) })?;
    for (name, address) in running.addresses() {
        tracing::info!(listener = name, %address, "listening");
    }
    tracing::info!(address = %running.admin(), "admin listening");
    let signal = signals.wait();
    tracing::info!(signal, "stopping");
    running.stop();
    Ok(ExitCode::SUCCESS)
}

fn check(config: &Path, format: ReportFormat) -> anyhow::Result<ExitCode> {
    let checked = app::check(&Source::File(config.into()), 1, &Metrics::new(), Keeper::fresh());
    match checked {
        Ok(snapshot) => {
            if format == ReportFormat::Json {
                print("[]\n")?;
            } else {
                eprintln!(
                    "armiger: {} is good: {}, {}, {}",
                    config.display(),
                    counted(snapshot.listeners.len(), "listener"),
                    counted(snapshot.upstreams, "upstream"),
                    counted(snapshot.document.routes.len(), "route")
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(report) => {
            print(&rendered(&report, format))?;
            Ok(ExitCode::FAILURE)
        }
    }
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

/// The configuration's schema in one of its forms.
fn schema(format: SchemaFormat) -> String {
    let schema = reference::schema::<Blocks>();
    match format {
        SchemaFormat::Json => format!("{schema:#}\n"),
        SchemaFormat::Markdown => reference::markdown(&schema),
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
