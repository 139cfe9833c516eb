//! What the pages show: every piece of YAML is taken by `armiger check`, in the place that its first key says.
//!
//! A piece that begins with `listeners`, `upstreams` or another key of the whole file stands as it is, and what it does
//! not show is put beside it: a listener, a route, upstreams and providers of the names that it uses. Any other one is
//! that key's block: a policy, an action, a part of an upstream or of a listener.

use std::collections::BTreeSet;
use std::path::Path;

use armiger::app::{self, Source};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::telemetry::metrics::Metrics;
use regex::Regex;

use crate::harness::{Authority, Pair};

/// What Kubernetes reads, and not armiger.
const FOREIGN: [&str; 2] = ["apiVersion", "lifecycle"];

/// A piece of a page.
struct Piece {
    /// `docs/limits.md:91`
    at: String,
    text: String,
}

fn pieces() -> Vec<Piece> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).chain([root.join("README.md")]);
    pages
        .flat_map(|page| pieces_of(page.strip_prefix(root).unwrap(), &std::fs::read_to_string(&page).unwrap()))
        .collect()
}

fn pieces_of(page: &Path, text: &str) -> Vec<Piece> {
    let (mut found, mut lines) = (Vec::new(), text.lines().enumerate());
    while let Some((place, line)) = lines.next() {
        let Some(margin) = line.strip_suffix("```yaml").filter(|margin| margin.trim().is_empty()) else { continue };
        let inner = lines.by_ref().map(|(_, line)| line.strip_prefix(margin).unwrap_or(line));
        let text = inner.take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        found.push(Piece { at: format!("{}:{}", page.display(), place + 1), text });
    }
    found
}

fn keys(text: &str) -> BTreeSet<&str> {
    let is_key = |key: &&str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    text.lines().filter_map(|line| Some(line.split_once(':')?.0)).filter(is_key).collect()
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

/// All that `pattern` finds in its group.
fn all(pattern: &str, text: &str) -> BTreeSet<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// The configurations that the piece may be a part of.
fn wholes(piece: &str) -> Vec<String> {
    const ACTIONS: [&str; 6] = ["proxy", "aggregate", "batch", "saga_in_memory", "respond", "redirect"];
    let params = all(r"path\.(\w+)|\{rest\}", &piece.replace("{rest}", "path.rest"));
    let path: String = params.iter().map(|name| format!("/{{{name}}}")).collect();
    let path = if path.is_empty() { "/shown".to_owned() } else { path };
    let mut found = vec![piece.to_owned()];
    for caller in ["", "identity: {providers: [shown]}"] {
        let policies = if caller.is_empty() { String::new() } else { format!("  policies: {{{caller}}}\n") };
        let begin = |matches: &str| format!("routes:\n- name: shown\n  match: {matches}\n");
        let head = begin(&format!("{{path: \"{path}\"}}"));
        let proxy = "  proxy: {upstream: shown}\n";
        if !keys(piece).contains("routes") {
            found.push(format!("{piece}{head}{policies}{proxy}"));
        }
        found.push(format!("{head}  policies:\n{}{}{proxy}", indented(caller, 4), indented(piece, 4)));
        let own = if keys(piece).contains("match") { "routes:\n- name: shown\n" } else { &head };
        let action = if ACTIONS.iter().any(|action| keys(piece).contains(action)) { "" } else { proxy };
        found.push(format!("{own}{policies}{}{action}", indented(piece, 2)));
        found.push(format!("{head}{policies}  aggregate:\n{}", indented(piece, 4)));
        found.push(format!("{head}{policies}  aggregate:\n    parts:\n{}", indented(piece, 6)));
    }
    found.push(format!("routes:\n{piece}"));
    found.push(format!(
        "upstreams:\n  shown:\n    endpoints: [\"http://127.0.0.1:3000\", \"http://127.0.0.2:3000\"]\n{}",
        indented(piece, 4)
    ));
    found.push(format!(
        "listeners:\n- name: http\n  address: 127.0.0.1:0\n  trusted_proxies: [10.0.0.0/8]\n{}",
        indented(piece, 2)
    ));
    found.push(format!("identity:\n  shown:\n{}", indented(piece, 4)));
    found.into_iter().map(|whole| completed(&whole)).collect()
}

/// With what it uses and does not show.
fn completed(text: &str) -> String {
    let mut text = text.to_owned();
    let upstreams = all(r#"upstream: "?([\w-]+)"#, &text);
    // What is translated to gRPC needs somebody who speaks it.
    let protocol = if text.contains("grpc_web") { "h2c" } else { "http1" };
    add(&mut text, "upstreams", &upstreams, |name| {
        format!("{name}: {{endpoints: [\"http://127.0.0.1:3000\"], protocol: {protocol}}}")
    });
    let lists = all(r"providers: \[([^\]]*)\]", &text);
    let providers = lists.iter().flat_map(|list| list.split(',')).map(|name| name.trim().to_owned()).collect();
    add(&mut text, "identity", &providers, |name| {
        format!("{name}: {{jwt: {{issuer: {name}, audiences: [a], keys: {{secret: \"${{env:SHOWN_SECRET}}\"}}}}}}")
    });
    if !keys(&text).contains("listeners") {
        text.push_str("listeners:\n- {name: http, address: 127.0.0.1:0}\n");
    }
    if !keys(&text).contains("routes") {
        text.push_str("routes:\n- {name: shown, match: {path: /}, respond: {}}\n");
    }
    text
}

/// Puts those of `names` that are missing into a section.
fn add(text: &mut String, section: &str, names: &BTreeSet<String>, entry: impl Fn(&str) -> String) {
    let begin = format!("{section}:\n");
    let place = if text.starts_with(&begin) { Some(begin.len()) } else { None };
    let place = place.or_else(|| text.find(&format!("\n{begin}")).map(|place| place + 1 + begin.len()));
    let body = place.map(|place| {
        let lines = text[place..].lines().take_while(|line| line.is_empty() || line.starts_with([' ', '#']));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    });
    let known = all(r"(?m)^  ([\w-]+):", &body.unwrap_or_default());
    let missing: String = names.difference(&known).map(|name| format!("  {}\n", entry(name))).collect();
    match place {
        _ if missing.is_empty() => {}
        Some(place) => text.insert_str(place, &missing),
        None => text.push_str(&format!("{begin}{missing}")),
    }
}

/// What `check` has against it; nothing if it is good.
fn against(text: &str, pair: &Pair) -> String {
    // The environment is the same for all tests, and a file has no such trouble.
    let text = &text.replace("${env:", "${file:env-");
    let folder = tempfile::tempdir().unwrap();
    for name in all(r"\$\{file:([^}]+)\}", text) {
        let path = folder.path().join(name.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let content = match name.rsplit_once('.').map_or("", |(_, end)| end) {
            "crt" | "pem" => pair.certificate.clone(),
            "key" => pair.key.clone(),
            "yaml" => format!("- {{hash: \"sha256:{}\", subject: billing}}", "5a".repeat(32)),
            _ => format!("{name}-0123456789abcdef0123456789abcdef"),
        };
        std::fs::write(path, content).unwrap();
    }
    for name in all(r#"include: \[([\w.]+)"#, text) {
        std::fs::write(folder.path().join(name), "upstreams: {included: {endpoints: [\"http://127.0.0.1:1\"]}}")
            .unwrap();
    }
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text.replace("${file:/", "${file:")).unwrap();
    let source = Source::File(path.as_path().into());
    let checked = app::check(&source, &Machine::detect(), 1, &Metrics::new(), Keeper::fresh());
    checked.err().map_or_else(String::new, |report| report.text(false))
}

/// Nothing, or what `check` has against the reading of it that comes closest.
fn wrong(piece: &str, pair: &Pair) -> Option<String> {
    let mut least: Option<String> = None;
    for whole in wholes(piece) {
        let found = against(&whole, pair);
        if found.is_empty() {
            return None;
        }
        let count = |report: &str| report.matches("error: ").count();
        if least.as_ref().is_none_or(|least| count(&found) < count(least)) {
            least = Some(found);
        }
    }
    least
}

#[test]
fn every_piece_of_yaml_on_a_page_is_good() {
    let pair = Authority::new().issue(&["localhost"]);
    let is_ours = |piece: &&Piece| !keys(&piece.text).iter().any(|key| FOREIGN.contains(key));
    let pieces = pieces();
    assert!(pieces.len() > 50, "the pages show something");
    let found = pieces.iter().filter(is_ours).filter_map(|piece| Some((&piece.at, wrong(&piece.text, &pair)?)));
    let found: Vec<String> = found.map(|(at, report)| format!("{at}\n{report}")).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A check that takes everything proves nothing.
#[test]
fn a_piece_that_is_no_good_is_found() {
    let pair = Authority::new().issue(&["localhost"]);
    for piece in [
        "upstreams:\n  app:\n    retry: {attempts: 3}\n",
        "upstreams:\n  app: {endpoints: [\"http://127.0.0.1:1\"], retry: {attempt: 3}}\n",
        "cors: {origin: [\"https://a.example\"]}\n",
        "rate_limit: [{name: a, rate: 3}]\n",
        "proxy: {upstream: app, to: b}\n",
        "rules: [{allow: \"claims.\"}]\n",
        "unknown: {}\n",
    ] {
        assert!(wrong(piece, &pair).is_some(), "{piece}");
    }
    for piece in ["rate_limit: [{name: a, rate: 3/s}]\n", "rules: [{allow: \"path.id == claims.sub\"}]\n"] {
        assert_eq!(wrong(piece, &pair), None, "{piece}");
    }
}
