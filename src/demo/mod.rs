//! `armiger demo`: the example configuration in front of three small back ends, with nothing else to install.

pub mod backends;

use std::path::PathBuf;

use anyhow::Context;

use crate::app::signals::{Signal, Signals};
use crate::app::{Options, Running, Source};
use crate::telemetry::messages::{self, Messages};
use backends::Backends;

/// The configuration that the demo runs, as it lies in the repository.
pub const EXAMPLE: &str = include_str!("../../config.example.yaml");

/// What messages call it.
const NAME: &str = "config.example.yaml";

/// The listener's address in the example.
const ADDRESS: &str = "127.0.0.1:8080";

/// Runs until Ctrl-C. `messages` show what it says of itself.
///
/// # Errors
/// A port is taken, or the configuration is wrong.
pub fn run(port: Option<u16>, config: Option<PathBuf>, messages: Messages) -> anyhow::Result<()> {
    let source = match (config, port) {
        // Edits of it apply while the demo runs.
        (Some(path), None) => Source::File(path),
        (config, port) => text(config, port)?,
    };
    let is_example = matches!(&source, Source::Text { name, .. } if name == NAME);
    let mut signals = Signals::listen()?;
    let backends = Backends::start(backends::PORTS).context("the demo's back ends")?;
    let running = Running::start(Options { messages: Some(messages), ..Options::new(source) })?;
    let address = running.addresses().first().map_or_else(String::new, |(_, address)| address.to_string());
    messages::say(welcome(&address, &running.admin().to_string(), is_example));
    let drain = running.drain().clone();
    while signals.next(std::future::pending()) == Some(Signal::Reload) {
        running.reload();
    }
    messages::say("\nstopping");
    // Nobody has to learn of it, and whoever waits at the terminal may hurry.
    drain.begin_without_delay();
    if signals.next(drain.over()).is_some() {
        drain.hurry();
    }
    running.stop();
    drop(backends);
    Ok(())
}

/// The example, as the demo runs it.
pub fn source() -> Source {
    Source::Text { name: NAME.to_owned(), text: EXAMPLE.to_owned() }
}

/// The example, or the user's file, with another port.
fn text(config: Option<PathBuf>, port: Option<u16>) -> anyhow::Result<Source> {
    let (name, text) = match &config {
        None => (NAME.to_owned(), for_people(EXAMPLE)),
        Some(path) => {
            (path.display().to_string(), std::fs::read_to_string(path).with_context(|| path.display().to_string())?)
        }
    };
    let text = match port {
        Some(_) if !text.contains(ADDRESS) => {
            anyhow::bail!(
                "--port stands for the port of {ADDRESS}, which {name} does not name: change its listener instead"
            )
        }
        Some(port) => text.replace(ADDRESS, &format!("127.0.0.1:{port}")),
        None => text,
    };
    Ok(Source::Text { name, text })
}

/// The example logs JSON for machines; at a terminal lines for people are easier to follow.
fn for_people(example: &str) -> String {
    example.replace("format: json", "format: text")
}

fn welcome(address: &str, admin: &str, is_example: bool) -> String {
    let mut text = format!(
        "armiger listens on http://{address} in front of three back ends (users, orders, app). Ctrl-C stops it.\n"
    );
    // As it was called: it may be on no path.
    let program = std::env::args().next().unwrap_or_else(|| "armiger".into());
    if is_example {
        text.push_str("\nIn another terminal, try\n\n");
        for (command, shows) in TOUR {
            let command = command.replace("armiger token", &format!("{program} token"));
            let command = command.replace("ADDRESS", address).replace("ADMIN", admin);
            text.push_str(&format!("  {command}\n      {shows}\n"));
        }
    }
    text.push_str("\nEach request shows as a line below.\n");
    text
}

/// What to try, and what it shows.
const TOUR: &[(&str, &str)] = &[
    ("curl -i http://ADDRESS/users/7", "proxied to `users`, which sees /v1/users/7"),
    ("curl -i 'http://ADDRESS/app/echo?x=1'", "what a back end sees of a request"),
    ("curl -i -H 'x-channel: beta' http://ADDRESS/app/echo", "the same path, another route: it asks for a header"),
    ("curl -i 'http://ADDRESS/orders?user=7'", "`ip_filter` in shadow: the line below says what it would have done"),
    ("curl -i http://ADDRESS/account/me", "401: who calls? A token of the demo's own issuer says so:"),
    (
        "curl -i -H \"authorization: Bearer $(armiger token mint --demo --sub ada --role user --scope account)\" \
         http://ADDRESS/account/me",
        "the back end sees who calls in `x-caller`; without the role it is a 403",
    ),
    (
        "curl -i -H \"authorization: Bearer $(armiger token mint --demo --claim 'orders=[\"1001\"]')\" \
         http://ADDRESS/account/orders/1001",
        "`rules`: the order is among the token's; /account/orders/1002 is not",
    ),
    ("armiger token mint --demo --ttl 1m --claim exp=1 | armiger token inspect --demo", "what is wrong with a token"),
    (
        "curl -i http://ADDRESS/dashboard/7",
        "three services in one answer, asked at once; one fails, one is too slow, and the answer says so",
    ),
    (
        "curl -H 'content-type: application/json' -d '[{\"path\":\"/users/7\"},{\"path\":\"/nowhere\"}]' http://ADDRESS/batch",
        "two requests in one, each by its own route and policies",
    ),
    (
        "curl -i -X POST http://ADDRESS/checkout/7",
        "a saga: the second step fails (402), so the first is undone, and the answer says so",
    ),
    ("curl -i http://ADDRESS/nowhere", "a refusal: problem+json with a stable reason"),
    (
        "curl -i 'http://ADDRESS/app/slow?ms=6000'",
        "a back end that is too slow: 504 `upstream-timeout` after five seconds",
    ),
    ("curl -i http://ADDRESS/app/cut", "an answer cut short never looks complete"),
    ("curl -N http://ADDRESS/app/stream", "events, each at once"),
    ("curl -o /dev/null 'http://ADDRESS/app/large?mib=100'", "100 MiB in constant memory"),
    ("curl http://ADMIN/metrics", "what Prometheus scrapes"),
    ("curl http://ADMIN/config", "the configuration in force"),
];
