//! A configuration made of several files: what is included and in which order, how mistakes across files are told, and
//! that files changed together are never seen half old, half new.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use armiger::config::bundle::Bundle;
use armiger::config::load::{Partial, load_bundle, load_partial, load_stable};
use armiger::policy::Blocks;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::Armiger;

/// Files below a directory of their own.
struct Files(TempDir);

impl Files {
    fn of(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn check(&self, format: &str) -> String {
        let path = self.path("main.yaml");
        Armiger::binary(&["check", "-c", path.to_str().unwrap(), "--format", format]).assert_code(1).stdout.clone()
    }

    /// What `check` says, with the directory left out of the names.
    fn report(&self) -> String {
        self.check("text").replace(&format!("{}/", self.0.path().display()), "")
    }
}

const MAIN: &str = "\
include: [more.yaml, \"conf.d/*.yaml\"]
listeners: [{name: http, address: \"127.0.0.1:0\"}]
admin: {address: \"127.0.0.1:0\"}
upstreams:
  app: {endpoints: [\"http://127.0.0.1:1\"]}
routes:
  - {name: main, match: {path: /main}, respond: {body: main}}
";

fn route(name: &str, body: &str) -> String {
    format!("routes:\n  - {{name: {name}, match: {{path: /{name}}}, respond: {{body: \"{body}\"}}}}\n")
}

fn names(partial: &Partial<Blocks>) -> Vec<&str> {
    let document = partial.document.as_ref().unwrap_or_else(|| panic!("{:#?}", partial.issues));
    document.routes.iter().map(|route| route.name.as_str()).collect()
}

// === what is included ===

#[tokio::test]
async fn what_is_included_is_served() {
    let files = Files::of(&[
        ("main.yaml", MAIN),
        ("more.yaml", "listeners: [{name: second, address: \"127.0.0.1:0\"}]\n"),
        ("conf.d/a.yaml", &route("a", "${file:word}")),
        ("conf.d/word", "from beside it"),
    ]);

    let armiger = Armiger::from_file(files.path("main.yaml")).await;

    assert_eq!(armiger.get("/main").await.assert_status(200).text(), "main");
    assert_eq!(armiger.get("/a").await.assert_status(200).text(), "from beside it");
    assert_ne!(armiger.address(), armiger.address_of("second"));
}

#[test]
fn files_come_in_the_order_given_and_those_of_a_pattern_by_name_and_none_twice() {
    let main = MAIN.replace(
        "[more.yaml, \"conf.d/*.yaml\"]",
        "[z.yaml, \"conf.d/b*.yaml\", \"conf.d/*.yaml\", ./z.yaml, \"*.yaml\", \"none/*.yaml\"]",
    );
    let files = Files::of(&[
        ("main.yaml", &main),
        ("z.yaml", &route("z", "")),
        ("more.yaml", &route("more", "")),
        ("conf.d/b10.yaml", &route("b10", "")),
        ("conf.d/b2.yaml", &route("b2", "")),
        ("conf.d/a.yaml", &route("a", "")),
        ("conf.d/.hidden.yaml", &route("hidden", "")),
        ("conf.d/old.yaml~", &route("old", "")),
        ("conf.d/folder.yaml/x", ""),
    ]);
    symlink("a.yaml", files.path("conf.d/same.yaml")).unwrap();

    let partial = load_partial::<Blocks>(&files.path("main.yaml"));

    assert!(partial.issues.is_empty(), "{:#?}", partial.issues);
    assert_eq!(names(&partial), ["main", "z", "b10", "b2", "a", "more"]);
}

#[test]
fn a_main_file_may_leave_everything_to_others() {
    let files = Files::of(&[
        ("main.yaml", "include: [a.yaml, b.yaml]\nupstreams:\n"),
        ("a.yaml", "x-hosts: &hosts [\"http://127.0.0.1:1\"]\nupstreams: {app: {endpoints: *hosts}}\nlisteners:\n"),
        (
            "b.yaml",
            "listeners: [{name: http, address: \"127.0.0.1:0\"}]\nroutes: [{name: all, match: {path: /}, proxy: {upstream: app}}]\n",
        ),
    ]);

    let path = files.path("main.yaml");

    Armiger::binary(&["check", "-c", path.to_str().unwrap()]).assert_code(0);
}

#[test]
fn a_file_is_not_read_that_is_no_file() {
    let files = Files::of(&[("main.yaml", MAIN), ("more.yaml", &route("more", "")), ("conf.d/a.yaml", "")]);
    fs::remove_file(files.path("conf.d/a.yaml")).unwrap();
    // Nobody writes into it: to open it would take for ever.
    let made = std::process::Command::new("mkfifo").arg(files.path("conf.d/a.yaml")).status().unwrap();
    assert!(made.success());

    assert!(files.report().contains("it is no regular file"));
}

// === how mistakes are told ===

#[test]
fn a_name_used_twice_shows_both_places_each_in_its_file() {
    let files = Files::of(&[
        ("main.yaml", &MAIN.replace("127.0.0.1:0\"}]\nadmin", "127.0.0.1:8080\"}]\nadmin")),
        (
            "more.yaml",
            "\
# a comment
listeners:
  - {name: http, address: \"127.0.0.1:8080\"}
upstreams:
  app: {endpoints: [\"http://127.0.0.1:2\"]}
",
        ),
        ("conf.d/a.yaml", &route("main", "")),
    ]);

    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("include_names_used_twice", files.report());
    });

    let issues: Value = serde_json::from_str(&files.check("json")).unwrap();
    let place = |value: &Value| {
        let file = Path::new(value["file"].as_str().unwrap()).strip_prefix(files.0.path()).unwrap().to_owned();
        (file.display().to_string(), value["line"].as_u64().unwrap(), value["column"].as_u64().unwrap())
    };
    let places: Vec<_> =
        issues.as_array().unwrap().iter().map(|issue| (place(issue), place(&issue["related"][0]))).collect();
    let at = |file: &str, line, column| (file.to_owned(), line, column);
    assert_eq!(
        places,
        [
            (at("more.yaml", 3, 12), at("main.yaml", 2, 14)),
            (at("more.yaml", 3, 27), at("main.yaml", 2, 26)),
            (at("more.yaml", 5, 3), at("main.yaml", 5, 3)),
            (at("conf.d/a.yaml", 2, 12), at("main.yaml", 7, 6)),
            (at("conf.d/a.yaml", 2, 25), at("main.yaml", 7, 18)),
        ],
        "{issues:#}"
    );
    let github = files.check("github");
    let expected = format!("::error file={},line=2,endLine=2,col=12,", files.path("conf.d/a.yaml").display());
    let also = format!("first used here: {}:7:6", files.path("main.yaml").display());
    assert!(github.lines().any(|line| line.starts_with(&expected) && line.contains(&also)), "{github}");
}

#[test]
fn every_mistake_of_every_file_is_told_at_once_in_its_place() {
    let files = Files::of(&[
        (
            "main.yaml",
            &MAIN
                .replace("[more.yaml, \"conf.d/*.yaml\"]", "[more.yaml, none.yaml, \"conf.d/*.yaml\"]")
                .replace("admin:", "amdin:"),
        ),
        (
            "more.yaml",
            "\
include: [x.yaml]
admin: {address: \"127.0.0.1:1\"}
route: []
log: {token: hunter2hunter2}
routes:
  - {name: first, match: {path: /first}, respond: {status: ten}}
  - {name: second, match: {path: /second}, proxy: {upstream: nowhere}}
  - {name: third, match: {path: /third}, proxy: {upstream: \"${env:NOT_SET_AT_ALL}\"}}
",
        ),
        ("conf.d/1-broken.yaml", "routes:\n  - [\n"),
        ("conf.d/2-empty.yaml", "# nothing yet\n"),
        ("conf.d/3-list.yaml", "- a\n"),
        ("conf.d/4-kinds.yaml", "routes: {a: b}\nupstreams: [a]\nroutes: []\nlisteners:\n"),
        ("conf.d/5-last.yaml", &route("last", "").replace("respond", "respnod")),
    ]);
    fs::write(files.path("conf.d/6-latin1.yaml"), b"# caf\xe9\n").unwrap();

    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("include_every_mistake", files.report());
    });
    let said = format!("{}{}{}", files.check("text"), files.check("json"), files.check("github"));
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_makes_nothing_else_a_mistake() {
    let files = Files::of(&[
        ("main.yaml", "include: [more.yaml]\nroutes: [{name: a, match: {path: /a}, proxy: {upstream: elsewhere}}]\n"),
        ("more.yaml", "upstreams: {elsewhere: {endpoints: [\n"),
    ]);

    let report = files.report();

    assert!(report.contains(" --> more.yaml:1:") && report.ends_with("\n1 issue\n"), "{report}");
}

#[test]
fn what_an_entry_of_include_cannot_be_is_told_with_a_remedy() {
    let many: Vec<(String, String)> = (0..201).map(|n| (format!("many/{n:03}.yaml"), "routes: []".into())).collect();
    let large = format!("routes: []\n#{}\n", "x".repeat(1024 * 1023));
    let heavy: Vec<(String, String)> = (0..9).map(|n| (format!("heavy/{n}.yaml"), large.clone())).collect();
    let mut all: Vec<(&str, &str)> =
        many.iter().chain(&heavy).map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let huge = format!("#{}", "x".repeat(1024 * 1024));
    all.push(("huge.yaml", &huge));
    let files = Files::of(&all);
    for (include, expected) in [
        ("none.yaml", "cannot read `DIR/none.yaml`: no such file"),
        ("many", "cannot read `DIR/many`: it is a directory"),
        ("huge.yaml", "cannot read `DIR/huge.yaml`: it is larger than 1 MiB"),
        ("\"many/*.yaml\"", "there are more than 200 files to include"),
        ("\"heavy/*.yaml\"", "with this the configuration is larger than 8 MiB"),
        ("\"[a\"", "`[a` is no pattern"),
        ("\"*/x.yaml\"", "`*/x.yaml` has a `*`, `?` or `[` that is not in the name of a file"),
        ("\"**\"", "`**` has a `*`"),
        ("\"many/*/\"", "`many/*/` has a `*`"),
        ("\"\"", "names no file"),
        ("\"${env:HOME}/*\"", "which files are read cannot come from outside"),
    ] {
        fs::write(files.path("main.yaml"), MAIN.replace("[more.yaml, \"conf.d/*.yaml\"]", &format!("[{include}]")))
            .unwrap();
        let issues: Value = serde_json::from_str(&files.check("json")).unwrap();
        let [issue] = issues.as_array().unwrap().as_slice() else { panic!("{include}: {issues:#}") };
        // A message shows no more of a long path than its beginning.
        let message = issue["message"].as_str().unwrap().replace(&files.0.path().display().to_string(), "DIR");
        assert!(message.starts_with(expected), "{include}: {issues:#}");
        assert!(issue["hint"].is_string(), "{issues:#}");
        assert_eq!((&issue["line"], &issue["column"], &issue["path"]), (&1.into(), &11.into(), &"include[0]".into()));
    }
}

#[tokio::test]
async fn a_text_that_is_no_file_includes_none() {
    let report = Armiger::try_with(MAIN).await.map(|_| ()).unwrap_err();
    assert!(report.contains("a text that is no file cannot include others"), "{report}");
}

// === what was read ===

#[test]
fn what_was_read_is_told_and_can_be_read_again() {
    let more = "upstreams: {other: {endpoints: [\"http://${file:host}:1\"]}}\n";
    let files = Files::of(&[
        ("main.yaml", MAIN),
        ("more.yaml", more),
        ("host", "127.0.0.1"),
        ("conf.d/a.yaml", &route("a", "")),
    ]);
    let elsewhere = Files::of(&[
        ("main.yaml", MAIN),
        ("more.yaml", more),
        ("host", "127.0.0.2"),
        ("conf.d/a.yaml", &route("a", "")),
    ]);
    let (partial, stable) = load_stable::<Blocks>(&files.path("main.yaml"), 3);
    let inputs = &partial.inputs;

    assert!(stable && inputs.is_unchanged());
    let read: Vec<_> = inputs.files().iter().map(|stamp| stamp.path.clone()).collect();
    assert_eq!(read.len(), 4);
    for name in ["main.yaml", "more.yaml", "conf.d/a.yaml", "host"] {
        assert!(read.contains(&files.path(name)), "{name}: {read:#?}");
    }
    let root = files.0.path().canonicalize().unwrap();
    assert!(inputs.watched().contains(&root) && inputs.watched().contains(&root.join("conf.d")));

    let other = load_partial::<Blocks>(&elsewhere.path("main.yaml")).inputs;
    assert_eq!(inputs.content_hash(), other.content_hash(), "the directory and what it holds besides do not count");
    let again = load_partial::<Blocks>(&files.path("main.yaml")).inputs;
    assert_eq!(inputs.fingerprint(), again.fingerprint());
    fs::write(files.path("host"), "127.0.0.3").unwrap();
    let secret = load_partial::<Blocks>(&files.path("main.yaml")).inputs;
    assert!(!inputs.is_unchanged());
    assert_ne!(inputs.fingerprint(), secret.fingerprint());
    assert_eq!(inputs.content_hash(), secret.content_hash());

    // The files change; the bundle is what they were, with the values of now.
    inputs.bundle().save(files.0.path()).unwrap();
    fs::write(files.path("more.yaml"), "routes: [").unwrap();
    fs::remove_file(files.path("conf.d/a.yaml")).unwrap();
    let bundle = Bundle::open(files.0.path()).unwrap().unwrap();
    let restored = load_bundle::<Blocks>(&bundle);
    assert!(restored.issues.is_empty(), "{:#?}", restored.issues);
    assert_eq!(names(&restored), names(&partial));
    assert_eq!(restored.document.unwrap().upstreams["other"].endpoints, ["http://127.0.0.3:1"]);
    assert_eq!(restored.inputs.content_hash(), inputs.content_hash());
    assert_eq!(restored.inputs.fingerprint(), secret.fingerprint(), "the same was read, though from elsewhere");
    let saved = fs::read_to_string(files.path("last-good.json")).unwrap();
    assert!(saved.contains("${file:host}") && !saved.contains("http://127.0.0.3"), "{saved}");
}

// === files that change together ===

/// A directory as the kubelet mounts it: files are links through `..data`, which leads to one generation of them.
struct Mount(TempDir);

impl Mount {
    fn new() -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        mount.generation("..0", 0);
        mount.swap("..0");
        for name in ["main.yaml", "more.yaml", "word"] {
            symlink(format!("..data/{name}"), mount.0.path().join(name)).unwrap();
        }
        mount
    }

    fn generation(&self, name: &str, generation: usize) {
        let at = self.0.path().join(name);
        fs::create_dir(&at).unwrap();
        let main =
            MAIN.replace("\"conf.d/*.yaml\"", "\"*.yaml\"").replace("body: main", &format!("body: \"{generation}\""));
        fs::write(at.join("main.yaml"), main).unwrap();
        fs::write(at.join("more.yaml"), format!("{}{}", route("more", &generation.to_string()), WORD)).unwrap();
        fs::write(at.join("word"), generation.to_string()).unwrap();
    }

    fn swap(&self, to: &str) {
        symlink(to, self.0.path().join("..data_tmp")).unwrap();
        fs::rename(self.0.path().join("..data_tmp"), self.0.path().join("..data")).unwrap();
    }

    fn main(&self) -> PathBuf {
        self.0.path().join("main.yaml")
    }
}

const WORD: &str = "  - {name: word, match: {path: /word}, respond: {body: \"${file:word}\"}}\n";

/// The generation of which all three files are. `None`: something was gone before it could be read.
fn generation(partial: &Partial<Blocks>) -> Option<String> {
    let document = partial.document.as_ref().filter(|_| partial.issues.is_empty())?;
    let bodies: Vec<&str> =
        document.routes.iter().filter_map(|route| Some(route.respond.as_ref()?.body.as_str())).collect();
    assert_eq!(bodies.len(), 3);
    assert!(bodies.iter().all(|body| *body == bodies[0]), "half old, half new: {bodies:?}");
    Some(bodies[0].to_owned())
}

/// Runs `load` until it has given something `wanted` times, while another thread swaps as fast as it can.
fn storm(swap: impl Fn(usize) + Sync, wanted: usize, load: impl Fn() -> Option<String>) -> Vec<String> {
    /// Ends the other thread also when this one panics.
    struct Done<'d>(&'d AtomicBool);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| (1..).take_while(|_| !done.load(Ordering::Relaxed)).for_each(&swap));
        let _done = Done(&done);
        (0..wanted * 100).filter_map(|_| load()).take(wanted).collect()
    })
}

#[test]
fn two_generations_that_take_turns_are_never_mixed() {
    let mount = Mount::new();
    mount.generation("..1", 1);

    let seen =
        storm(|n| mount.swap(if n % 2 == 0 { "..0" } else { "..1" }), 500, || generation(&load_partial(&mount.main())));

    assert_eq!(seen.len(), 500);
    assert!(["0", "1"].iter().all(|one| seen.iter().any(|seen| seen == one)), "both were met");
}

#[test]
fn a_generation_that_is_removed_under_our_feet_is_never_half_read() {
    let mount = Mount::new();
    let last = std::sync::atomic::AtomicUsize::new(0);

    let seen = storm(
        |n| {
            mount.generation(&format!("..{n}"), n);
            mount.swap(&format!("..{n}"));
            fs::remove_dir_all(mount.0.path().join(format!("..{}", n - 1))).unwrap();
            last.store(n, Ordering::Relaxed);
        },
        100,
        || generation(&load_stable(&mount.main(), 20).0),
    );

    assert_eq!(seen.len(), 100);
    let (partial, stable) = load_stable(&mount.main(), 1);
    assert!(stable);
    assert_eq!(generation(&partial), Some(last.load(Ordering::Relaxed).to_string()));
}

#[test]
fn a_credential_in_a_url_is_shown_nowhere() {
    let directory = Files::of(&[(
        "main.yaml",
        "\
listeners: [{name: http, address: \"127.0.0.1:8080\"}]
identity:
  staff: {jwt: {issuer: a, audiences: [b], keys: {jwks_url: \"https://user:hunter2@id.test/keys\"}}}
  other: {jwt: {issuer: c, audiences: [d], keys: {secret: hunter3}}}
upstreams:
  app: {endpoints: [\"http://user:hunter2@127.0.0.1:3000\", \"htp://hunter2:x@h\"]}
routes: []
",
    )]);
    let report = directory.report();
    assert!(report.contains("***") && !report.contains("hunter"), "{report}");
    assert!(report.contains("contains credentials"), "{report}");
    assert!(!report.contains("names no key"), "it has one, which is told: {report}");
}

/// Of a sidecar whose routes come as files: it starts before the first, and runs on after the last.
#[tokio::test]
async fn routes_may_all_come_and_go_as_files() {
    let main = "include: [\"conf.d/*.yaml\"]\nlisteners: [{name: http, address: \"127.0.0.1:0\"}]\n\
                admin: {address: \"127.0.0.1:0\"}\n";
    let files = Files::of(&[("main.yaml", main), ("conf.d/README", "")]);
    let armiger = Armiger::watching(files.path("main.yaml")).await;
    armiger.get("/a").await.assert_status(404);
    fs::write(files.path("conf.d/a.yaml"), route("a", "here")).unwrap();
    armiger.in_force(2).await;
    armiger.get("/a").await.assert_status(200);
    fs::remove_file(files.path("conf.d/a.yaml")).unwrap();
    armiger.in_force(3).await;
    armiger.get("/a").await.assert_status(404);
}
