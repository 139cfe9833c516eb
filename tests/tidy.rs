//! What keeps the project as ARCHITECTURE.md has it: layers, the example, listed tests, headers, dependencies.
//!
//! Each check is a function over text that returns what is wrong and what to do, with a test that it catches something;
//! the tests at the top run them over the project.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

/// Who may import whom: only what stands in an earlier row, or its own folder. Of one row nobody imports another.
const LAYERS: &[&[&str]] = &[
    &["timer", "keep", "machine", "turn"],
    &["config", "http"],
    &["telemetry", "tls"],
    &["limits"],
    &["exchange"],
    &["upstream"],
    &["expression", "identity", "redis_client"],
    &["policy", "action"],
    &["snapshot"],
    &["proxy"],
    &["server"],
    // The program: wiring, then what starts it.
    &["app"],
    &["demo"],
    &["cli"],
];

/// Files that see everyone: the map of the library and the program.
const ABOVE_ALL: &[&str] = &["src/lib.rs", "src/main.rs"];

/// Licences that let armiger be MIT OR Apache-2.0 and be shipped as a binary. The same list stands in deny.toml.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates of which two versions would be two incompatible sets of types, or two TLS stacks.
const ONE_VERSION: &[&str] = &["h2", "http", "http-body", "hyper", "rustls", "tokio"];

/// Crates that must not come in.
const BANNED: &[&str] = &["native-tls", "openssl", "openssl-sys"];

// === the project ===

#[test]
fn imports_follow_the_layers() {
    let policies = policy_rows(&read("src/policy/mod.rs"));
    let wrong = sources("src").iter().flat_map(|path| upward_imports(path, &read(path), &policies)).collect();
    report(wrong);
}

#[test]
fn every_policy_is_in_the_example() {
    let policies = policy_rows(&read("src/policy/mod.rs"));
    assert!(!policies.is_empty(), "no row found in the table of src/policy/mod.rs; has its form changed?");
    report(missing_policies(&policies, &read("config.example.yaml")));
}

#[test]
fn every_test_file_is_listed() {
    let mut wrong = unlisted("tests/main.rs", &read("tests/main.rs"), &read("Cargo.toml"), &sources("tests"));
    for folder in folders("tests") {
        let index = format!("{folder}/mod.rs");
        if root().join(&index).exists() {
            wrong.extend(unlisted(&index, &read(&index), "", &sources(&folder)));
        }
    }
    report(wrong);
}

#[test]
fn every_source_file_says_what_it_is() {
    report(sources("src").iter().chain(&sources("tests")).filter_map(|path| headless(path, &read(path))).collect());
}

#[test]
fn dependencies_keep_the_rules() {
    let mut wrong = versions(&read("Cargo.lock"));
    wrong.extend(licences(&metadata()));
    wrong.extend(licence_lists_differ(&read("deny.toml")));
    report(wrong);
}

#[track_caller]
fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The Rust files below a folder, as paths from the project's root, in order.
fn sources(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in entries(folder) {
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            found.extend(sources(&path));
        } else if path.ends_with(".rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn folders(folder: &str) -> Vec<String> {
    let inside = entries(folder).into_iter().filter(|entry| entry.path().is_dir());
    inside.map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy())).collect()
}

fn entries(folder: &str) -> Vec<std::fs::DirEntry> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    entries.map(|entry| entry.expect("the project's folders can be read")).collect()
}

/// What cargo knows of the packages that are built here.
fn metadata() -> serde_json::Value {
    // Without a platform cargo asks for packages that are never built here, and so never downloaded.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let host = run(Command::new("rustc").arg("-vV"));
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc knows its host").to_owned();
    let arguments = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host];
    let text = run(Command::new(cargo).args(arguments).current_dir(root()));
    serde_json::from_str(&text).expect("cargo metadata gives JSON")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the tool writes text")
}

// === layers ===

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Imports against the arrows in the file at `path`.
fn upward_imports(path: &str, source: &str, policies: &[String]) -> Vec<String> {
    if ABOVE_ALL.contains(&path) || path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let modules = modules_of(path);
    let own = modules[0].as_str();
    let Some(own_rank) = rank(own) else {
        return vec![format!(
            "{path}: `{own}` has no rank; give it a row in LAYERS of tests/tidy.rs and in ARCHITECTURE.md §4"
        )];
    };
    let mut wrong = BTreeSet::new();
    for (line, target) in named_modules(&code_of(source), &modules) {
        let other = target[0].as_str();
        if other != own {
            match rank(other) {
                Some(rank) if rank < own_rank => {}
                Some(rank) if rank == own_rank => {
                    wrong.insert(format!(
                        "{path}:{line}: `{own}` names its sibling `{other}`; let them meet in a lower layer, such as the exchange"
                    ));
                }
                Some(_) => {
                    wrong.insert(format!(
                        "{path}:{line}: `{own}` names `{other}`, which is above it; move what is needed down, or hand it in as an argument"
                    ));
                }
                None => {
                    wrong.insert(format!(
                        "{path}:{line}: `crate::{other}` has no rank; name it by the module it lives in, or give it a row in LAYERS of tests/tidy.rs"
                    ));
                }
            }
        } else if let [_, this, ..] = modules.as_slice()
            && let [_, that, ..] = target.as_slice()
            && own == "policy"
            && this != that
            && policies.contains(this)
            && policies.contains(that)
        {
            wrong.insert(format!(
                "{path}:{line}: the policy `{this}` names the policy `{that}`; let them meet in the exchange"
            ));
        }
    }
    wrong.into_iter().collect()
}

/// `src/policy/cors.rs` is `policy`, `cors`.
fn modules_of(path: &str) -> Vec<String> {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(Into::into).collect()
}

/// Every `crate::a::b` and `super::...` path in code, as the modules that it leads to (two of them at most), with its
/// line. Macros (`crate::name!`) live nowhere and are left out.
fn named_modules(code: &str, modules: &[String]) -> Vec<(usize, Vec<String>)> {
    let path = regex::Regex::new(r"\b(crate|super(?:\s*::\s*super)*)\s*::\s*").expect("a valid pattern");
    let mut found = Vec::new();
    for start in path.captures_iter(code) {
        let whole = start.get(0).expect("a match has a text");
        // `self::super` and `$crate` are the same thing; `a::crate` is not Rust.
        let base: Vec<String> = match &start[1] {
            "crate" => Vec::new(),
            supers => {
                let up = supers.matches("super").count();
                // Further up than the root there is nothing: the code is in an inline module.
                modules[..modules.len().saturating_sub(up)].to_vec()
            }
        };
        let line = code[..whole.start()].matches('\n').count() + 1;
        for mut leaf in leaves(&code[whole.end()..]) {
            let mut target = base.clone();
            target.append(&mut leaf);
            target.truncate(2);
            if !target.is_empty() {
                found.push((line, target));
            }
        }
    }
    found
}

/// The first two names of each path that begins here: `a::b::C` is one, `{a, b::{c, d}}` are three.
fn leaves(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if let Some(inside) = text.strip_prefix('{') {
        let mut found = Vec::new();
        let (mut depth, mut start) = (0, 0);
        for (at, letter) in inside.char_indices() {
            match letter {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    found.extend(leaves(&inside[start..at]));
                    start = at + 1;
                    if letter == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return found;
    }
    let length = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(length);
    let rest = rest.trim_start();
    if name.is_empty() || name == "self" || rest.starts_with('!') {
        return Vec::new();
    }
    let Some(rest) = rest.strip_prefix("::") else { return vec![vec![name.into()]] };
    let inner = leaves(rest);
    if inner.is_empty() {
        return vec![vec![name.into()]];
    }
    inner
        .into_iter()
        .map(|mut leaf| {
            leaf.insert(0, name.into());
            leaf
        })
        .collect()
}

/// Source with comments, string literals and `#[cfg(test)]` items blanked out. Lines stay where they are.
fn code_of(source: &str) -> String {
    without_tests(&without_text(source))
}

fn without_text(source: &str) -> String {
    // In this order at each place: comments, raw strings, strings, characters (which a lifetime is not).
    let text = regex::Regex::new(concat!(
        r#"(?s)//[^\n]*|/\*.*?\*/"#,
        r###"|\bb?r##".*?"##|\bb?r#".*?"#|\bb?r"[^"]*""###,
        r#"|"(?:\\.|[^"\\])*"|'(?:\\[^\n]{1,10}?|[^'\\\n])'"#,
    ))
    .expect("a valid pattern");
    text.replace_all(source, |found: &regex::Captures<'_>| blank(&found[0])).into_owned()
}

/// As many lines, and nothing on them.
fn blank(text: &str) -> String {
    text.chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }).collect()
}

fn without_tests(code: &str) -> String {
    let mark = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(mark) {
        out += &rest[..at];
        let end = at + item_length(&rest[at..]);
        out += &blank(&rest[at..end]);
        rest = &rest[end..];
    }
    out + rest
}

/// How long the item is that begins here: to its `;`, or to the end of its braces.
fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, letter) in code.char_indices() {
        match letter {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

// === the example ===

/// The YAML keys of the rows `key => Type,` of the `policies!` table.
fn policy_rows(source: &str) -> Vec<String> {
    let code = without_text(source);
    let Some(at) = code.find("policies! {") else { return Vec::new() };
    let table = &code[at..at + item_length(&code[at..])];
    let row = regex::Regex::new(r"(\w+)\s*=>\s*\w+\s*,").expect("a valid pattern");
    row.captures_iter(table).map(|row| row[1].to_owned()).collect()
}

fn missing_policies(policies: &[String], example: &str) -> Vec<String> {
    let shown = |key: &String| {
        let key = format!("{key}:");
        example.lines().map(|line| line.split(" #").next().unwrap_or("")).any(|line| {
            let is_key =
                |at: usize| line[..at].chars().next_back().is_none_or(|before| matches!(before, ' ' | '{' | ','));
            !line.trim_start().starts_with('#') && line.match_indices(&key).any(|(at, _)| is_key(at))
        })
    };
    let missing = policies.iter().filter(|key| !shown(key));
    missing
        .map(|key| {
            format!("config.example.yaml: shows no `{key}`; show it once, with a comment that a newcomer understands")
        })
        .collect()
}

// === test files ===

/// Files beside `index`, or folders with a `mod.rs` beside it, that no `mod` line of it names.
fn unlisted(index: &str, source: &str, manifest: &str, files: &[String]) -> Vec<String> {
    let folder = index.rsplit_once('/').map_or("", |(folder, _)| folder);
    let code = without_text(source);
    let listed = regex::Regex::new(r"\bmod\s+(\w+)\s*;").expect("a valid pattern");
    let listed: BTreeSet<&str> = listed.captures_iter(&code).filter_map(|line| Some(line.get(1)?.as_str())).collect();
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| *file != index) {
        let Some(inside) = file.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')) else { continue };
        let module = match inside.split('/').collect::<Vec<_>>().as_slice() {
            [file] => file.trim_end_matches(".rs").to_owned(),
            [folder, "mod.rs"] => (*folder).to_owned(),
            _ => continue,
        };
        let is_own_binary = manifest.contains(&format!("path = \"{file}\""));
        if !listed.contains(module.as_str()) && !is_own_binary {
            wrong.push(format!("{file}: is never run; add `mod {module};` to {index}"));
        }
    }
    wrong
}

fn headless(path: &str, source: &str) -> Option<String> {
    let says =
        source.lines().next().is_some_and(|line| line.strip_prefix("//! ").is_some_and(|rest| !rest.trim().is_empty()));
    (!says).then(|| format!("{path}: does not begin with a `//!` line; say in one sentence what the file is"))
}

// === dependencies ===

/// Crates of Cargo.lock that are banned, or there in two versions: of every platform and every feature.
fn versions(lock: &str) -> Vec<String> {
    let package = regex::Regex::new(r#"name = "([^"]+)"\nversion = "([^"]+)""#).expect("a valid pattern");
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in package.captures_iter(lock) {
        let (_, [name, version]) = package.extract();
        found.entry(name).or_default().push(version);
    }
    let mut wrong = Vec::new();
    for name in BANNED.iter().filter(|name| found.contains_key(*name)) {
        wrong.push(format!(
            "Cargo.lock: has `{name}`; see `cargo tree -i {name}` who brings it, and switch to its rustls feature"
        ));
    }
    for name in ONE_VERSION {
        if let Some(versions) = found.get(name).filter(|versions| versions.len() > 1) {
            let versions = versions.join(" and ");
            wrong.push(format!(
                "Cargo.lock: has `{name}` {versions}; see `cargo tree -d`, and move all who use it to one version"
            ));
        }
    }
    wrong
}

/// Packages whose licence does not let armiger be what it is.
fn licences(metadata: &serde_json::Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or("?");
        let licence = package["license"].as_str().unwrap_or("");
        if !is_allowed(licence) {
            wrong.push(format!(
                "{name}: its licence is {licence:?}; use another crate, or, if the licence lets armiger be MIT OR Apache-2.0, add it to LICENCES of tests/tidy.rs and to deny.toml"
            ));
        }
    }
    wrong
}

/// Whether an SPDX expression can be met with allowed licences. `/` is an old way to write `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    either(&mut words) && words.is_empty()
}

fn either(words: &mut Vec<&str>) -> bool {
    let mut allowed = both(words);
    while words.pop_if(|word| *word == "OR").is_some() {
        // Both sides are read whatever the first says.
        allowed |= both(words);
    }
    allowed
}

fn both(words: &mut Vec<&str>) -> bool {
    let mut allowed = licence(words);
    while words.pop_if(|word| *word == "AND").is_some() {
        allowed &= licence(words);
    }
    allowed
}

fn licence(words: &mut Vec<&str>) -> bool {
    match words.pop() {
        Some("(") => {
            let allowed = either(words);
            words.pop() == Some(")") && allowed
        }
        Some(name) if words.last() == Some(&"WITH") => {
            words.pop();
            let exception = words.pop().unwrap_or("");
            LICENCES.contains(&format!("{name} WITH {exception}").as_str())
        }
        Some(name) => LICENCES.contains(&name),
        None => false,
    }
}

fn licence_lists_differ(deny: &str) -> Option<String> {
    let section = deny.split("[licenses]").nth(1)?.split(']').next()?;
    let listed: Vec<&str> = section.split('"').skip(1).step_by(2).collect();
    (listed != LICENCES)
        .then(|| "deny.toml: allows other licences than LICENCES of tests/tidy.rs; make them alike, in order".into())
}

// === each check catches what it is for ===

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn imports(path: &str, source: &str, expected: &[&str]) {
        let policies = ["cors".to_owned(), "headers".to_owned()];
        let wrong = upward_imports(path, source, &policies);
        let is_told = |part: &&str| wrong.iter().any(|wrong| wrong.contains(*part));
        assert!(wrong.len() == expected.len() && expected.iter().all(is_told), "{source:?}: {wrong:#?}");
    }

    #[test]
    fn an_import_against_the_arrows_is_caught() {
        imports(
            "src/http/path.rs",
            "use crate::exchange::Exchange;",
            &["src/http/path.rs:1: `http` names `exchange`, which is above it"],
        );
        imports("src/http/path.rs", "\n\nfn f() -> crate::proxy::X {}", &["path.rs:3: `http` names `proxy`"]);
        imports("src/http/path.rs", "use crate::{timer::Timer, server::{A, B}, http::{body, path}};", &["`server`"]);
        imports("src/http/mod.rs", "use super::upstream::Pools;", &["`upstream`"]);
        imports("src/http/path.rs", "use super::super::{snapshot, timer};", &["`snapshot`"]);
        imports("src/http/path.rs", "macro_rules! m { () => { $crate::app::run() } }", &["`app`"]);
        imports("src/http/path.rs", "use crate  ::\n    proxy;", &["`proxy`"]);
        imports("src/app.rs", "use crate::cli;", &["`cli`"]);
    }

    #[test]
    fn an_import_of_a_sibling_is_caught() {
        imports("src/http/path.rs", "use crate::config::Issue;", &["sibling `config`"]);
        imports("src/action/proxy.rs", "use crate::policy::Chain;", &["sibling `policy`"]);
        imports("src/policy/cors.rs", "use super::headers::Config;", &["the policy `cors` names the policy `headers`"]);
        imports("src/policy/cors/origin.rs", "use crate::policy::headers;", &["the policy `cors`"]);
    }

    #[test]
    fn an_import_along_the_arrows_is_fine() {
        imports(
            "src/policy/cors.rs",
            "use super::{Policy, Scope};\nuse crate::exchange::Exchange;\nuse crate::policy::Stage;",
            &[],
        );
        imports("src/policy/mod.rs", "use crate::policy::{cors, headers};", &[]);
        imports("src/http/path.rs", "use super::body::Body;\nuse http::header;\nuse self::inner::X;", &[]);
        imports("src/http/path.rs", "crate::told!();", &[]);
        imports("src/lib.rs", "use crate::app;", &[]);
    }

    #[test]
    fn what_is_no_code_is_no_import() {
        imports("src/http/path.rs", "// crate::app\n/// [`crate::app`]\n/* crate::app\n */", &[]);
        imports(
            "src/http/path.rs",
            "const A: &str = \"crate::app \\\" crate::app\"; const B: &str = r#\"crate::app\"#;",
            &[],
        );
        imports("src/http/path.rs", "const C: char = '\"'; use crate::app; const D: char = '\"';", &["`app`"]);
        imports("src/http/path.rs", "fn f<'a>(x: &'a str) { crate::app::run() }", &["`app`"]);
        imports(
            "src/http/path.rs",
            "#[cfg(test)]\nmod tests { use crate::app; fn f() { } }\nuse crate::proxy;",
            &["path.rs:3: `http` names `proxy`"],
        );
        imports("src/http/path.rs", "#[cfg(test)]\nmod tests;\nuse crate::proxy;", &["`proxy`"]);
        imports("src/http/tests.rs", "use crate::app;", &[]);
    }

    #[test]
    fn a_module_without_a_rank_is_caught() {
        imports("src/helpers.rs", "", &["`helpers` has no rank"]);
        imports("src/http/path.rs", "use crate::Error;", &["`crate::Error` has no rank"]);
    }

    #[test]
    fn the_rows_of_the_table_are_found() {
        let source = "mod cors;\n/// `x => Y,`\ntable::policies! {\n    // YAML key   type\n    cors => Cors,\n    ip_filter  => IpFilter,\n}\nfn f() { match x { a => B, } }";
        assert_eq!(policy_rows(source), ["cors", "ip_filter"]);
    }

    #[test]
    fn a_policy_that_the_example_does_not_show_is_caught() {
        let policies = ["cors".to_owned(), "headers".to_owned()];
        let missing = |example: &str| missing_policies(&policies, example).len();
        assert_eq!(missing("policies:\n  cors: off\n  headers:\n"), 0);
        assert_eq!(missing("policies: {cors: off, headers: {}}\n"), 0);
        assert_eq!(missing("# cors: off\n  x: 1 # headers: off\n"), 2);
        assert_eq!(missing("  my-cors: 1\n  headers_max: 1\n"), 2);
    }

    #[test]
    fn a_test_file_that_is_never_run_is_caught() {
        let files =
            ["tests/main.rs", "tests/cors.rs", "tests/h/mod.rs", "tests/h/a.rs", "tests/own.rs"].map(String::from);
        let manifest = "[[test]]\nname = \"own\"\npath = \"tests/own.rs\"\n";
        let check = |source: &str| unlisted("tests/main.rs", source, manifest, &files);
        assert_eq!(check("mod cors;\nmod h;"), [""; 0]);
        assert_eq!(check("mod h;\n// mod cors;"), ["tests/cors.rs: is never run; add `mod cors;` to tests/main.rs"]);
        assert_eq!(check("mod cors;"), ["tests/h/mod.rs: is never run; add `mod h;` to tests/main.rs"]);
        assert_eq!(unlisted("tests/h/mod.rs", "", "", &files[2..4]).len(), 1);
    }

    #[test]
    fn a_file_that_does_not_say_what_it_is_is_caught() {
        assert!(headless("a.rs", "use x;\n//! late").is_some());
        assert!(headless("a.rs", "").is_some());
        assert!(headless("a.rs", "//!\n//! x").is_some());
        assert!(headless("a.rs", "//! Paths.").is_none());
    }

    #[test]
    fn a_second_version_and_a_banned_crate_are_caught() {
        let package =
            |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\n");
        let lock =
            package("http", "0.2.0") + &package("http", "1.0.0") + &package("syn", "1.0.0") + &package("syn", "2.0.0");
        assert!(matches!(versions(&lock).as_slice(), [one] if one.contains("`http` 0.2.0 and 1.0.0")));
        assert!(
            matches!(versions(&package("openssl-sys", "0.9.0")).as_slice(), [one] if one.contains("cargo tree -i openssl-sys"))
        );
        assert!(versions(&package("http", "1.0.0")).is_empty());
    }

    #[test]
    fn a_licence_that_does_not_fit_is_caught() {
        for fits in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR X",
        ] {
            assert!(is_allowed(fits), "{fits}");
        }
        for not in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND (Y OR Z)", "MIT WITH X", "MIT Apache-2.0", "(MIT"]
        {
            assert!(!is_allowed(not), "{not}");
        }
        let metadata =
            serde_json::json!({"packages": [{"name": "a", "license": "MIT"}, {"name": "b", "license": null}]});
        assert!(matches!(licences(&metadata).as_slice(), [one] if one.starts_with("b: ")));
        assert!(licence_lists_differ("[licenses]\nallow = [\"MIT\"]").is_some());
    }
}
