//! What commands say beside their data, on standard error, in the form that the user asked for: [`Voice`].

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde_json::{Value, json};

use crate::app::StartError;
use crate::config::issue::Report;
use crate::telemetry::messages::{self, Form};

/// What cannot be done since a configuration is no good, and all that is wrong with that.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct BadConfig {
    pub(super) message: String,
    pub(super) report: Box<Report>,
}

/// How a command speaks.
#[derive(Clone, Copy)]
pub(super) struct Voice(Form);

impl Voice {
    pub(super) fn new(form: Form) -> Self {
        Self(form)
    }

    /// Of a command line that could not be read, as far as it says. `variable`: what the environment says.
    pub(super) fn of_arguments(arguments: impl IntoIterator<Item = OsString>, variable: Option<OsString>) -> Self {
        let mut form = variable;
        let mut arguments = arguments.into_iter().take_while(|argument| argument != "--");
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--log-format") => form = arguments.next(),
                Some(text) => form = text.strip_prefix("--log-format=").map(OsString::from).or(form),
                None => {}
            }
        }
        Self(if form.is_some_and(|form| form == "json") { Form::Json } else { Form::Text })
    }

    /// Tells something that is no failure.
    pub(super) fn tell(self, text: impl Display) {
        match self.0 {
            Form::Text => messages::say(format_args!("armiger: {text}")),
            Form::Json => messages::say(messages::line("INFO", &json!({"message": text.to_string()}))),
        }
    }

    /// Tells something that may be other than was meant.
    pub(super) fn warn(self, text: impl Display) {
        match self.0 {
            Form::Text => messages::say(format_args!("armiger: warning: {text}")),
            Form::Json => messages::say(messages::line("WARN", &json!({"message": text.to_string()}))),
        }
    }

    /// Tells why the command failed. The reason is the last line.
    pub(super) fn fail(self, error: &anyhow::Error) {
        let report = match error.downcast_ref::<StartError>() {
            Some(StartError::Config(report)) => Some(report),
            _ => error.downcast_ref::<BadConfig>().map(|bad| &bad.report),
        };
        match (self.0, report) {
            (Form::Text, None) => messages::say(format_args!("armiger: {error:#}")),
            (Form::Text, Some(report)) => {
                let report = report.text(is_coloured(&io::stderr()));
                messages::say(format_args!("{}\n\narmiger: {error:#}", report.trim_end()));
            }
            (Form::Json, report) => {
                let mut fields = json!({"message": format!("{error:#}")});
                if let Some(report) = report {
                    fields["issues"] = report.json();
                }
                messages::say(messages::line("ERROR", &fields));
            }
        }
    }

    /// Tells what is wrong with the command line; or what was asked for, as help is.
    pub(super) fn refuse(self, error: &clap::Error) -> ExitCode {
        if self.0 == Form::Text || !error.use_stderr() {
            // That nobody can read it is no reason to end in another way.
            let _ = error.print();
            if let Some(hint) = hint(error) {
                messages::say(format_args!("\nhint: {hint}"));
            }
        } else {
            messages::say(messages::line("ERROR", &wrong(error)));
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    }
}

/// What was probably meant by a command line: a file is named behind `-c`.
fn hint(error: &clap::Error) -> Option<String> {
    let (Some(ContextValue::String(argument)), Some(ContextValue::StyledStr(usage))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::Usage))
    else {
        return None;
    };
    let usage = usage.to_string();
    let takes_file = ["check", "run", "demo"].iter().any(|command| usage.contains(&format!("armiger {command}")));
    let is_meant = error.kind() == ErrorKind::UnknownArgument && takes_file && !argument.starts_with('-');
    is_meant.then(|| format!("write `-c {argument}` to name the configuration"))
}

/// What is wrong with a command line, as the fields of a message.
fn wrong(error: &clap::Error) -> Value {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => Some(usage.to_string()),
        _ => None,
    };
    let text = error.to_string();
    let message = match text.strip_prefix("error: ") {
        // It goes on with the usage, and with where there is help.
        Some(text) => text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more").next().unwrap_or(text),
        // The help itself.
        None => "no command is given; `--help` lists them",
    };
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let paragraphs: Vec<String> = message.split("\n\n").map(words).collect();
    let mut fields = json!({"message": paragraphs.join("; ")});
    if let Some(hint) = hint(error) {
        fields["hint"] = hint.into();
    }
    if let Some(usage) = usage {
        fields["usage"] = words(usage.trim_start_matches("Usage:")).into();
    }
    fields
}

/// Colours are for terminals, unless `NO_COLOR` says no (no-color.org).
pub(super) fn is_coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_found_in_a_command_line_that_cannot_be_read() {
        for (arguments, variable, is_json) in [
            (&["chek"][..], None, false),
            (&["chek"], Some("json"), true),
            (&["chek", "--log-format", "json"], None, true),
            (&["--log-format=json", "chek"], Some("text"), true),
            (&["--log-format=text", "chek"], Some("json"), false),
            (&["chek", "--", "--log-format=json"], None, false),
            (&["chek", "--log-format"], None, false),
        ] {
            let arguments = arguments.iter().map(OsString::from);
            let voice = Voice::of_arguments(arguments.clone(), variable.map(OsString::from));
            assert_eq!(voice.0 == Form::Json, is_json, "{:?}", arguments.collect::<Vec<_>>());
        }
    }
}
