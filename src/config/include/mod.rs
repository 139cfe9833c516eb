//! Puts the files of a configuration together: what the main file includes becomes part of its lists and mappings.
//!
//! The texts are laid one after the other and the spans of each tree moved to where its text stands, so that decoder,
//! compile and report see one document, and a span still says which file it is in.

mod broken;
mod named;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bundle::{Bundle, BundledFile};
use super::files::Reader;
use super::issue::{Issue, Issues, KeyPath, Origin, Origins, Source, quote, suggest};
use super::yaml::decode::places::Types;
use super::yaml::error::known_names;
use super::yaml::expand::{Environment, Expansion, Outside};
use super::yaml::secrecy;
use super::yaml::tree::{self, Content, End, Entry, Node, NodeId, Scalar, Style, Tree, Used, found};

pub use named::FILES_MAX;

/// What an included file may have: lists are appended, mappings united.
const SHARED: &[&str] = &["listeners", "upstreams", "routes"];
/// Those of them that are lists.
const LISTS: &[&str] = &["listeners", "routes"];

/// Said of the place behind which the mistakes of a file that is no YAML are not all known.
const UNCHECKED: &str = "from here on nothing else was checked";

/// One file's content.
pub(super) struct Text {
    /// What messages call it.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) content: String,
    /// Why that is not what the file says: it is not UTF-8.
    pub(super) wrong: Option<Issue>,
}

/// Where the included files come from.
pub(super) enum Others {
    /// The main file names them.
    Named,
    /// These are they.
    Given(Vec<Text>),
}

/// All files as one.
pub(super) struct Assembled {
    /// Not yet decoded.
    pub(super) source: Source,
    pub(super) text: Arc<str>,
    /// `None`: the main file is no YAML.
    pub(super) tree: Option<Tree>,
    pub(super) issues: Issues,
    /// Values that are not what was meant, which an issue has told already.
    pub(super) lost: HashSet<NodeId>,
    /// What must not be shown.
    pub(super) concealed: Vec<Range<usize>>,
    pub(super) outside: Outside,
    pub(super) bundle: Bundle,
}

/// Reads what the main file includes, and puts all together.
pub(super) fn assemble(main: Text, others: Others, environment: &Environment, reader: &mut Reader) -> Assembled {
    let directory = environment.base().unwrap_or(Path::new("")).to_owned();
    let mut assembly = Assembly {
        directory: &directory,
        reader,
        expansion: Expansion::new(environment),
        text: String::new(),
        origins: Vec::new(),
        used: Used::default(),
        issues: Issues::new(),
        lost: HashSet::new(),
        concealed: Vec::new(),
        upstreams: HashMap::new(),
        files: Vec::new(),
        is_partial: false,
    };
    let tree = assembly.main(main, others, environment.base().is_some());
    assembly.finish(tree)
}

/// The text of a file. `Err`: it is not UTF-8; with as much of it as helps to show where.
pub(super) fn utf8(bytes: Vec<u8>) -> Result<String, Box<(String, Issue)>> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        let wide = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        let hint = if wide { "it looks like UTF-16: save it as UTF-8" } else { "save the file as UTF-8" };
        let message = format!("the byte 0x{:02x} here is not UTF-8", bytes.get(valid).copied().unwrap_or(0));
        // What replaces the byte keeps the place of what stands before it.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let end = text[valid..].chars().next().map_or(valid, |c| valid + c.len_utf8());
        Box::new((text, Issue::new(KeyPath::root(), message).span(valid..end).hint(hint)))
    })
}

/// What is wrong with a main file that is empty.
pub(super) fn empty() -> Issue {
    Issue::new(KeyPath::root(), "the file is empty").hint("it needs at least `listeners` and `routes`")
}

struct Assembly<'a, 'e> {
    directory: &'a Path,
    reader: &'a mut Reader,
    expansion: Expansion<'e>,
    text: String,
    origins: Vec<Origin>,
    used: Used,
    issues: Issues,
    lost: HashSet<NodeId>,
    concealed: Vec<Range<usize>>,
    /// Where the name of each stands.
    upstreams: HashMap<String, Range<usize>>,
    files: Vec<BundledFile>,
    /// Some file could not be read.
    is_partial: bool,
}

/// A file's tree, at its place among the others.
struct Parsed {
    root: Node,
    /// Their paths count as their file does.
    issues: Vec<Issue>,
}

impl Assembly<'_, '_> {
    fn main(&mut self, main: Text, others: Others, may_include: bool) -> Option<Tree> {
        let path = main.path.clone();
        let parsed = if main.content.trim_start_matches('\u{feff}').trim().is_empty() {
            self.add(&main.name, "", true);
            Err(Box::new(empty()))
        } else {
            self.parse(main)
        };
        let Parsed { mut root, issues } = match parsed {
            Ok(parsed) => parsed,
            Err(issue) => {
                self.issues.push(*issue);
                return None;
            }
        };
        issues.into_iter().for_each(|issue| self.issues.push(issue));
        if let Some(Entry { value: Node { content: Content::Mapping(entries), .. }, .. }) = root.entry("upstreams") {
            for entry in entries {
                self.upstreams.entry(entry.key.text().to_owned()).or_insert_with(|| entry.key.span.clone());
            }
        }
        let others = match others {
            Others::Given(texts) => texts,
            Others::Named => self.named(&root, &path, may_include),
        };
        for text in others {
            self.include(text, &mut root);
        }
        if self.is_partial {
            self.excuse(LISTS, &mut root);
        } else if has_pattern(&root) {
            self.excuse(&["routes"], &mut root);
        }
        Some(Tree::new(root))
    }

    fn finish(mut self, tree: Option<Tree>) -> Assembled {
        // Of what is no YAML there are no keys and values that could be looked at.
        for Origin { span, .. } in self.origins.iter().filter(|origin| !origin.is_read) {
            let secrets = secrecy::in_text(&self.text[span.clone()]).into_iter();
            self.concealed.extend(secrets.map(|secret| span.start + secret.start..span.start + secret.end));
        }
        let text: Arc<str> = self.text.into();
        let mut origins = self.origins.into_iter();
        let main = origins.next().unwrap_or(Origin { name: "".into(), span: 0..0, is_read: true });
        let source = Source::joined(Origins::new(main, origins), Arc::clone(&text)).partial(self.is_partial);
        Assembled {
            source,
            text,
            tree,
            issues: self.issues,
            lost: self.lost,
            concealed: self.concealed,
            outside: self.expansion.finish(),
            bundle: Bundle { directory: self.directory.to_owned(), files: self.files },
        }
    }

    /// Lays a text behind the others, and tells where it begins.
    fn add(&mut self, name: &str, text: &str, is_read: bool) -> usize {
        if !self.origins.is_empty() {
            self.text.push('\n');
        }
        let start = self.text.len();
        self.text.push_str(text);
        self.origins.push(Origin { name: name.into(), span: start..self.text.len(), is_read });
        start
    }

    /// Parses a text and fills in its values. `Err`: it is no YAML, and its place is known all the same.
    fn parse(&mut self, text: Text) -> Result<Parsed, Box<Issue>> {
        let Text { name, path, content, .. } = text;
        let parsed = tree::parse(&content, self.used);
        let start = self.add(&name, &content, parsed.is_ok());
        let path_below = path.strip_prefix(self.directory).unwrap_or(&path).to_owned();
        self.files.push(BundledFile { name, path: path_below, text: content.as_str().into() });
        let moved = |issue: Box<Issue>| Box::new(issue.moved(start, &HashMap::new()));
        let tree::Parsed { mut root, used, issues: mut noted, broken, end } = parsed.map_err(moved)?;
        self.used = used;
        self.lost.extend(broken);
        match end {
            None => {}
            Some(End::Document(from)) => self.cut(start, &content, from),
            Some(End::Break(issue)) => {
                self.cut(start, &content, 0);
                let Some((doubtful, from)) = broken::doubtful(&mut root, &content) else {
                    if let Some(origin) = self.origins.last_mut() {
                        origin.is_read = false;
                    }
                    return Err(moved(issue));
                };
                self.lost.extend(doubtful);
                noted.push(issue.also(from..from, UNCHECKED));
            }
        }
        let directory = match self.origins.len() {
            1 => self.directory,
            _ => path.parent().unwrap_or(Path::new("")),
        };
        let mut tree = Tree::new(root);
        for (node, issue) in self.expansion.fill(&content, &mut tree, directory, self.reader) {
            self.lost.insert(node);
            noted.push(issue);
        }
        let mut root = tree.root;
        tree::shift(&mut root, start);
        Ok(Parsed { root, issues: noted.into_iter().map(|issue| issue.moved(start, &HashMap::new())).collect() })
    }

    /// Notes that the tree of a text that begins at `start` does not have all of it. `from`: where there are secrets that no tree
    /// shows.
    fn cut(&mut self, start: usize, text: &str, from: usize) {
        self.is_partial = true;
        let secrets = secrecy::in_text(text.get(from..).unwrap_or_default()).into_iter();
        self.concealed.extend(secrets.map(|span| start + from + span.start..start + from + span.end));
    }

    fn refuse(&mut self, issue: Issue) {
        self.is_partial = true;
        self.issues.push(issue);
    }

    /// Adds what an included file has to what there is.
    fn include(&mut self, text: Text, root: &mut Node) {
        if let Some(issue) = text.wrong {
            let start = self.add(&text.name, &text.content, false);
            return self.refuse(issue.moved(start, &HashMap::new()));
        }
        // One that is just being written is empty too, and must not pass for one without routes.
        if says_nothing(&text.content) {
            let start = self.add(&text.name, &text.content, false);
            self.refuse(
                Issue::new(KeyPath::root(), "the file says nothing")
                    .span(start..start)
                    .hint("it needs `listeners`, `upstreams` or `routes`; to include nothing, remove the file"),
            );
            return;
        }
        let Parsed { root: included, issues } = match self.parse(text) {
            Ok(parsed) => parsed,
            Err(issue) => return self.refuse(*issue),
        };
        let mut before = HashMap::new();
        match included.content {
            Content::Mapping(entries) => {
                let mut seen: HashMap<String, Range<usize>> = HashMap::new();
                for entry in entries {
                    let key = entry.key.text().to_owned();
                    if let Some(first) = seen.get(&key) {
                        self.refuse(
                            Issue::new(KeyPath::root().key(&key), format!("the key {} stands here twice", quote(&key)))
                                .span(entry.key.span)
                                .also(first.clone(), "first here")
                                .hint("keep one of them"),
                        );
                        continue;
                    }
                    seen.insert(key.clone(), entry.key.span.clone());
                    // `x-…` is where anchors stand, which are of use in their own file only.
                    if key.starts_with("x-") {
                        continue;
                    }
                    if SHARED.contains(&key.as_str()) {
                        self.unite(key, entry, root, &mut before);
                    } else {
                        self.misplaced(&key, entry);
                    }
                }
            }
            _ => self.refuse(
                Issue::new(KeyPath::root(), format!("expected a mapping, found {}", found(&included)))
                    .span(included.span.start..tree::first_line_end(&self.text, &included.span))
                    .hint(known_names("key", SHARED)),
            ),
        }
        for issue in issues {
            self.issues.push(issue.moved(0, &before));
        }
    }

    /// A key that only the main file may have.
    fn misplaced(&mut self, key: &str, entry: Entry) {
        let main = self.origins.first().map_or_else(String::new, |main| quote(&main.name));
        let (message, hint) = match suggest(key, SHARED.iter().copied()) {
            Some(near) => {
                // What stands under it is not known now.
                self.is_partial = true;
                (format!("unknown key {}", quote(key)), format!("did you mean `{near}`?"))
            }
            None if key == "include" => {
                ("an included file cannot include others".to_owned(), format!("name the files in {main}"))
            }
            None => (
                format!("{} does not belong in an included file", quote(key)),
                format!("move it to {main}; an included file has `listeners`, `upstreams` and `routes`"),
            ),
        };
        // Nobody decodes this, and its nodes are none of the tree's.
        self.concealed.extend(secrecy::Secrets::find(&entry.value, &Types::none()).spans);
        if secrecy::is_secret_name(key) {
            self.concealed.push(entry.value.span);
        }
        self.issues.push(Issue::new(KeyPath::root().key(key), message).span(entry.key.span).hint(hint));
    }

    /// Appends a list, unites a mapping. `before`: how many entries the list had.
    fn unite(&mut self, key: String, entry: Entry, root: &mut Node, before: &mut HashMap<String, usize>) {
        let is_list = LISTS.contains(&key.as_str());
        let is_absent = |node: &Node| node.scalar().is_some_and(|scalar| scalar.style == Style::Absent);
        match &entry.value.content {
            Content::List(_) if is_list => {}
            Content::Mapping(_) if !is_list => {}
            _ if is_absent(&entry.value) => return,
            _ => {
                let (kind, hint) = match is_list {
                    true => ("a list", "begin each entry with `- `"),
                    false => ("a mapping", "write `name: …` below the key"),
                };
                return self.refuse(
                    Issue::new(KeyPath::root().key(&key), format!("expected {kind}, found {}", found(&entry.value)))
                        .span(entry.key.span)
                        .hint(hint),
                );
            }
        }
        let Content::Mapping(entries) = &mut root.content else { return };
        let place = match entries.iter_mut().position(|entry| entry.key.text() == key) {
            Some(place) => place,
            None => {
                let content = if is_list { Content::List(Vec::new()) } else { Content::Mapping(Vec::new()) };
                entries.push(Entry { key: entry.key, value: Node { content, ..entry.value.clone() } });
                entries.len() - 1
            }
        };
        let into = &mut entries[place].value;
        if is_absent(into) {
            into.content = if is_list { Content::List(Vec::new()) } else { Content::Mapping(Vec::new()) };
        }
        match (&mut into.content, entry.value.content) {
            (Content::List(items), Content::List(more)) => {
                before.insert(key, items.len());
                items.extend(more);
            }
            (Content::Mapping(entries), Content::Mapping(more)) => {
                for entry in more {
                    let name = entry.key.text();
                    match self.upstreams.get(name) {
                        Some(first) => self.issues.push(
                            Issue::new(
                                KeyPath::root().key(&key).key(name),
                                format!("another upstream is called {}", quote(name)),
                            )
                            .span(entry.key.span)
                            .also(first.clone(), "first used here")
                            .hint("give each its own name"),
                        ),
                        None => {
                            self.upstreams.insert(name.to_owned(), entry.key.span.clone());
                            entries.push(entry);
                        }
                    }
                }
            }
            // What the main file has there is no list or mapping, which the decoder tells.
            _ => self.is_partial = true,
        }
    }

    /// Where a file could not be read, what only it may have had is not missing; nor are routes that may come as files.
    fn excuse(&mut self, keys: &[&str], root: &mut Node) {
        let Content::Mapping(entries) = &mut root.content else { return };
        for key in keys {
            if entries.iter().any(|entry| entry.key.text() == *key) {
                continue;
            }
            let mut node = |content| Node { id: self.used.fresh(), span: root.span.start..root.span.start, content };
            let name = Scalar { text: (*key).to_owned(), style: Style::Plain, reference: None };
            entries.push(Entry { key: node(Content::Scalar(name)), value: node(Content::List(Vec::new())) });
        }
    }
}

/// Whether files may come that fit what the main file includes.
fn has_pattern(root: &Node) -> bool {
    let Some(Entry { value: Node { content: Content::List(items), .. }, .. }) = root.entry("include") else {
        return false;
    };
    items.iter().any(|item| item.scalar().is_some_and(|scalar| is_pattern(&scalar.text)))
}

/// Whether an entry of `include` stands for the files that fit it, which may be none.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether there is nothing but comments.
fn says_nothing(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').lines().all(|line| matches!(line.trim().chars().next(), None | Some('#')))
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::config::load::{Partial, load_partial};
    use crate::config::value::{Secret, Setting};

    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Blocks {
        token: Setting<Token>,
    }

    #[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Token {
        secret: Secret,
    }

    fn read(files: &[(&str, &str)]) -> Partial<Blocks> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        load_partial(&directory.path().join("main.yaml"))
    }

    /// `file:line:column message` of every issue.
    fn told(partial: Partial<Blocks>) -> Vec<String> {
        let report = partial.source.report(partial.issues);
        let file = |mark: &str| Path::new(mark).file_name().unwrap().to_string_lossy().into_owned();
        report
            .marks()
            .map(|mark| format!("{}:{}:{} {}", file(mark.file), mark.line, mark.column, mark.message))
            .collect()
    }

    const MAIN: &str = "include: [\"*/*.yaml\", a/x.yaml, b/x.yaml]\nlisteners: []\nroutes: []\n";

    fn main() -> String {
        MAIN.replace("\"*/*.yaml\", ", "")
    }

    #[test]
    fn the_bounds_of_one_file_are_those_of_all_together() {
        let anchored = format!("x-a: &a \"{}\"\nx-b: [{}]\nroutes: []\n", "x".repeat(100_000), ["*a"; 30].join(", "));
        assert_eq!(told(read(&[("main.yaml", &main()), ("a/x.yaml", &anchored), ("b/x.yaml", "routes: []")])), [""; 0]);
        let both = told(read(&[("main.yaml", &main()), ("a/x.yaml", &anchored), ("b/x.yaml", &anchored)]));
        assert_eq!(both.len(), 1, "{both:?}");
        assert!(
            both[0].starts_with("x.yaml:2:") && both[0].ends_with("the file is too large from here on"),
            "{both:?}"
        );
    }

    #[test]
    fn a_reference_of_the_same_name_in_another_directory_is_another_value_and_neither_shows() {
        let text = "routes: [{name: NAME, match: {path: /NAME}, redirect: {to: 1, status: \"${file:key}\"}}]\n";
        let partial = read(&[
            ("main.yaml", &main()),
            ("a/x.yaml", &text.replace("NAME", "a")),
            ("a/key", "swordfish-one"),
            ("b/x.yaml", &text.replace("NAME", "b")),
            ("b/key", "halibut-two"),
        ]);
        let mut later = Issues::new();
        later.push(Issue::new(KeyPath::root().key("routes"), "`swordfish-one` and `halibut-two`"));
        let report = partial.source.report(later);
        assert_eq!(report.marks().next().unwrap().message, "`${file:key}` and `${file:key}`");
        // A fixed remedy shows nothing of a value, whatever the value is.
        let mut fixed = Issues::new();
        let path = KeyPath::root().key("routes");
        fixed.push(Issue::new(path, "`swordfish-one`").hint("it begins with `swordfish-one`"));
        let report = partial.source.report(fixed);
        let mark = report.marks().next().unwrap();
        assert_eq!((mark.message, mark.hint), ("`${file:key}`", Some("it begins with `swordfish-one`")));
        let shown = partial.source.report(partial.issues.clone());
        let shown = format!("{shown}{}{}", shown.json(), shown.github());
        assert!(!shown.contains("fish") && !shown.contains("halibut"), "{shown}");
    }

    #[test]
    fn a_secret_in_plain_text_does_not_show_whichever_file_it_stands_in() {
        let text = "routes: [{name: a, match: {path: /}, policies: {token: {secret: hunter2hunter2}}, respond: {}}]\n";
        let partial = read(&[("main.yaml", &main()), ("a/x.yaml", "# a\n"), ("b/x.yaml", text)]);
        let report = partial.source.report(partial.issues);
        let shown = format!("{report}{}{}", report.json(), report.github());
        assert!(shown.contains("a secret stands in the file") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn places_are_those_of_the_file_whatever_stands_before_it() {
        let wrong = "\u{feff}routes:\n  - {name: é, match: {path: /}, respond: {status: no}}";
        let partial = read(&[("main.yaml", &main()), ("a/x.yaml", wrong), ("b/x.yaml", wrong)]);
        let json = partial.source.report(partial.issues).json();
        let places: Vec<_> = json
            .as_array()
            .unwrap()
            .iter()
            .map(|issue| (issue["line"].clone(), issue["column"].clone(), issue["end_column"].clone(), &issue["path"]))
            .collect();
        let place = (2.into(), 51.into(), 53.into(), &"routes[0].respond.status".into());
        assert_eq!(places, [place.clone(), place]);
    }

    #[test]
    fn a_pattern_in_a_directory_is_refused_and_hides_nothing_else() {
        let partial = read(&[("main.yaml", MAIN), ("a/x.yaml", "rutes: []\n"), ("b/x.yaml", "routes: [{}]\n")]);
        assert_eq!(
            told(partial),
            [
                "main.yaml:1:11 `*/*.yaml` has a `*`, `?` or `[` that is not in the name of a file",
                "x.yaml:1:1 unknown key `rutes`",
                "x.yaml:1:10 the keys `name` and `match` are missing",
            ]
        );
    }

    #[test]
    fn a_file_of_comments_says_nothing() {
        for (text, expected) in
            [("", true), (" \n\n", true), ("# a\n  # b", true), ("\u{feff}# a", true), ("a", false), ("#\na: 1", false)]
        {
            assert_eq!(says_nothing(text), expected, "{text:?}");
        }
    }
}
