//! Configuration files: what is read from a valid one, and how the mistakes of an invalid one are told.

use std::path::{Path, PathBuf};

use armiger::config::load::{Environment, Partial, decode_partial};
use armiger::config::reference;
use armiger::config::value::{HumanDuration, Secret, Setting};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A policy section with the least that shows how settings and secrets are told.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Policies {
    token: Setting<Token>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Token {
    secret: Secret,
}

fn files(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .expect("the directory of test configurations is there")
        .map(|entry| entry.expect("its entries can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> Partial<Policies> {
    let name = path.file_name().expect("a file").to_string_lossy();
    let text = std::fs::read_to_string(path).expect("a readable file");
    let directory = path.parent().expect("a file in a directory");
    decode_partial(&name, &text, &Environment::process().directory(directory))
}

fn valid(name: &str) -> armiger::config::Document<Policies> {
    let path = files("valid").into_iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
    read(&path.expect("a valid configuration of that name"))
        .finish()
        .unwrap_or_else(|report| panic!("{report}"))
        .document
}

#[test]
fn every_kind_of_mistake_is_told_at_its_place_with_a_remedy() {
    for path in files("invalid") {
        let Err(report) = read(&path).finish() else { panic!("{} is valid", path.display()) };
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        for mark in report.marks() {
            assert!(mark.hint.is_some(), "{name}: no remedy for {:?}", mark.message);
            assert!(mark.message.starts_with(|c: char| !c.is_uppercase()), "{name}: {:?}", mark.message);
        }
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("config_{name}"), report.text(false));
        });
    }
}

#[test]
fn every_valid_file_is_read() {
    for path in files("valid") {
        if let Err(report) = read(&path).finish() {
            panic!("{report}");
        }
    }
}

#[test]
fn merged_keys_give_way_to_those_that_are_written_out() {
    let document = valid("anchors");
    let exports = &document.upstreams["exports"].timeouts;
    assert_eq!((exports.first_byte, exports.idle), (HumanDuration::seconds(120), HumanDuration::seconds(30)));
}

#[test]
fn values_come_from_outside_and_what_a_policy_fills_in_stays() {
    let document = valid("outside");
    assert_eq!(document.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(document.listeners[0].limits.headers_max, 50);
    let route = &document.routes[0];
    assert_eq!(route.policies.token.on().map(|token| token.secret.expose()), Some("kept-apart"));
    assert_eq!(route.respond.as_ref().map(|respond| respond.body.as_str()), Some("${claims.sub} ${env:HOME}"));
}

#[test]
fn a_route_switches_off_what_the_defaults_ask() {
    let document = valid("switched_off");
    let asked: Vec<bool> = document
        .routes
        .iter()
        .map(|route| route.policies.token.or(&document.defaults.policies.token).on().is_some())
        .collect();
    assert_eq!(asked, [false, false, true]);
}

#[test]
fn what_is_running_can_be_shown_and_read_again_without_its_secrets() {
    let shown = serde_json::to_string(&valid("outside")).expect("a document can be shown");
    assert!(!shown.contains("kept-apart"), "{shown}");
    assert!(shown.contains("\"keep_alive\":\"75s\""), "{shown}");
}

#[test]
fn the_reference_covers_the_file() {
    let page = reference::markdown(&reference::schema::<Policies>());
    for heading in ["`listeners[]`", "`upstreams.<name>.timeouts`", "`routes[].match`", "`defaults.policies.token`"] {
        assert!(page.contains(heading), "{heading} is missing");
    }
}
