//! Values from outside the file: `${env:NAME}`, `${env:NAME:-default}`, `${file:/path}`.
//!
//! They are put into scalars after parsing, so that no value can change the structure of the document, and a scalar
//! remembers that it holds one, so that no message shows it. `${claims.sub}` and the like, which have no prefix, are
//! for the policies that read them and stay as they are, `$${claims.sub}` too. `$${env:NAME}` stands for the text
//! `${env:NAME}`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::issue::{Issue, quote, suggest};
use super::tree::{Content, Node, NodeId, Scalar, Tree};

/// The most that a file may put into one value.
const FILE_MAX: u64 = 64 * 1024;
/// The most that all values from outside may have together.
const TOTAL_MAX: usize = 4 * 1024 * 1024;

/// Where values from outside come from.
#[derive(Clone, Debug)]
pub struct Environment {
    variables: Option<HashMap<String, String>>,
    directory: PathBuf,
}

impl Environment {
    /// The process's environment, and files as it sees them.
    pub fn process() -> Self {
        Self { variables: None, directory: PathBuf::new() }
    }

    /// These variables and no others.
    pub fn fixed<'v>(variables: impl IntoIterator<Item = (&'v str, &'v str)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { variables: Some(variables), directory: PathBuf::new() }
    }

    /// The directory that paths without a leading `/` start from: that of the configuration file.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    fn variable(&self, name: &str) -> Result<Option<String>, Refusal> {
        match &self.variables {
            Some(variables) => Ok(variables.get(name).cloned()),
            None => match std::env::var(name) {
                Ok(value) => Ok(Some(value)),
                Err(std::env::VarError::NotPresent) => Ok(None),
                Err(std::env::VarError::NotUnicode(_)) => Err(Refusal::new(
                    format!("the environment variable {} is not UTF-8", quote(name)),
                    "set it to plain text; encode what is binary",
                )),
            },
        }
    }
}

/// What became of the scalars.
#[derive(Default)]
pub(crate) struct Expanded {
    /// Scalars that could not be filled in.
    pub(crate) failed: Vec<(NodeId, Issue)>,
    /// Files that values came from, each once.
    pub(crate) files: Vec<PathBuf>,
    /// Values that hold something from outside, each with the text that stands for it in the file.
    pub(crate) outside: Vec<(String, String)>,
    /// Each value from outside, once, with the reference to it. Not defaults, which stand in the file.
    pub(crate) values: Vec<(String, String)>,
}

/// Fills in every value of the tree.
pub(crate) fn expand(text: &str, tree: &mut Tree, environment: &Environment) -> Expanded {
    let mut walk = Walk {
        text,
        environment,
        contents: HashMap::new(),
        total: 0,
        failed: Vec::new(),
        files: Vec::new(),
        outside: Vec::new(),
        values: BTreeMap::new(),
    };
    walk.node(&mut tree.root);
    let Walk { failed, files, outside, values, .. } = walk;
    let values = values.into_iter().map(|(reference, value)| (value, reference)).collect();
    let failed = failed
        .into_iter()
        .map(|(id, span, refusal)| (id, Issue::new(tree.path(id), refusal.message).span(span).hint(refusal.hint)))
        .collect();
    Expanded { failed, files, outside, values }
}

/// Why a reference cannot be filled in.
#[derive(Clone)]
struct Refusal {
    message: String,
    hint: String,
}

impl Refusal {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

struct Walk<'e> {
    text: &'e str,
    environment: &'e Environment,
    /// Read once, so that two uses of a file cannot differ.
    contents: HashMap<PathBuf, Result<String, Refusal>>,
    total: usize,
    failed: Vec<(NodeId, Range<usize>, Refusal)>,
    files: Vec<PathBuf>,
    outside: Vec<(String, String)>,
    /// By reference.
    values: BTreeMap<String, String>,
}

impl Walk<'_> {
    fn node(&mut self, node: &mut Node) {
        match &mut node.content {
            Content::Scalar(scalar) => {
                if scalar.text.contains("${") {
                    self.scalar(node.id, &node.span, scalar);
                }
            }
            Content::List(items) => items.iter_mut().for_each(|item| self.node(item)),
            Content::Mapping(entries) => {
                for entry in entries {
                    self.key(&entry.key);
                    self.node(&mut entry.value);
                }
            }
        }
    }

    fn key(&mut self, key: &Node) {
        let text = key.text();
        if ["${env:", "${file:"].iter().any(|form| text.contains(form) && !text.contains(&format!("${form}"))) {
            let refusal =
                Refusal::new("a key cannot come from outside", "only values are filled in; write the key out");
            self.failed.push((key.id, key.span.clone(), refusal));
        }
    }

    fn scalar(&mut self, id: NodeId, span: &Range<usize>, scalar: &mut Scalar) {
        let mut out = String::new();
        let mut outside = false;
        let mut rest = scalar.text.as_str();
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            let reference = match Reference::read(from) {
                Ok(reference) => reference,
                // Written so that it is not filled in.
                Err(_) if before.ends_with('$') => {
                    out.push_str(&before[..before.len() - 1]);
                    out.push_str("${");
                    rest = &from[2..];
                    continue;
                }
                Err(refusal) => {
                    let raw = &from[..from.find('}').map_or(from.len(), |end| end + 1)];
                    self.failed.push((id, self.place(span, raw), refusal));
                    return;
                }
            };
            match reference {
                // Not ours, with its escape if it has one: whoever reads it knows what that means.
                None => {
                    out.push_str(before);
                    out.push_str("${");
                    rest = &from[2..];
                }
                Some((_, length)) if before.ends_with('$') => {
                    out.push_str(&before[..before.len() - 1]);
                    out.push_str(&from[..length]);
                    rest = &from[length..];
                }
                Some((reference, length)) => {
                    out.push_str(before);
                    let value = self.value(&reference).and_then(|value| {
                        self.total += value.len();
                        if self.total > TOTAL_MAX {
                            return Err(Refusal::new(
                                "the values from outside are too large together",
                                format!("they may have {} MiB; a value counts as often as it is used", TOTAL_MAX >> 20),
                            ));
                        }
                        Ok(value)
                    });
                    match value {
                        Ok(value) => out.push_str(&value),
                        Err(refusal) => {
                            self.failed.push((id, self.place(span, &from[..length]), refusal));
                            return;
                        }
                    }
                    outside = true;
                    rest = &from[length..];
                }
            }
        }
        out.push_str(rest);
        if outside {
            self.outside.push((out.clone(), scalar.text.clone()));
        }
        scalar.text = out;
        scalar.outside = outside;
    }

    /// The reference itself, where the file has it just as it was read.
    fn place(&self, span: &Range<usize>, raw: &str) -> Range<usize> {
        match self.text.get(span.clone()).and_then(|slice| slice.find(raw)) {
            Some(at) => span.start + at..span.start + at + raw.len(),
            None => span.clone(),
        }
    }

    fn value(&mut self, reference: &Reference<'_>) -> Result<String, Refusal> {
        match reference {
            Reference::Variable { name, default } => {
                match (self.environment.variable(name)?.filter(|value| !value.is_empty() || default.is_none()), default)
                {
                    (Some(value), _) => {
                        self.values.insert(format!("${{env:{name}}}"), value.clone());
                        Ok(value)
                    }
                    (None, Some(default)) => Ok((*default).to_owned()),
                    (None, None) => Err(Refusal::new(
                        format!("the environment variable {} is not set", quote(name)),
                        format!("set it, or give a default: `${{env:{name}:-…}}`"),
                    )),
                }
            }
            Reference::File(name) => {
                let path = self.environment.directory.join(name);
                if let Some(known) = self.contents.get(&path) {
                    return known.clone();
                }
                let content = read(&path);
                if let Ok(value) = &content {
                    self.values.insert(format!("${{file:{name}}}"), value.clone());
                }
                self.files.push(path.clone());
                self.contents.insert(path, content.clone());
                content
            }
        }
    }
}

/// What stands between `${` and `}`.
#[derive(Debug, PartialEq)]
enum Reference<'t> {
    Variable { name: &'t str, default: Option<&'t str> },
    File(&'t str),
}

impl<'t> Reference<'t> {
    /// Reads the reference that a text begins with, and how many bytes it has. `None`: it is one of a policy.
    fn read(text: &'t str) -> Result<Option<(Self, usize)>, Refusal> {
        let inner = &text[2..];
        let end = inner.find('}');
        let name: &str = &inner[..inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len())];
        let after = &inner[name.len()..];
        if !after.starts_with(':') {
            // `${HOST}` is how shells write it, and no policy has such a name.
            let shouted =
                name.len() > 1 && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            if shouted && after.starts_with('}') {
                return Err(Refusal::new(
                    format!("{} does not say where from", quote(&text[..name.len() + 3])),
                    format!("write `${{env:{name}}}`; as plain text, `$${{{name}}}`"),
                ));
            }
            return Ok(None);
        }
        let Some(end) = end else {
            return Err(Refusal::new("a `${` is never closed", "add the `}`"));
        };
        let body = &inner[name.len() + 1..end];
        let length = end + 3;
        match name {
            "env" => {
                let (variable, default) = match body.split_once(":-") {
                    Some((variable, default)) => (variable, Some(default)),
                    None => (body, None),
                };
                let is_name = !variable.is_empty()
                    && !variable.starts_with(|c: char| c.is_ascii_digit())
                    && variable.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                if !is_name {
                    return Err(Refusal::new(
                        format!("{} is no name of an environment variable", quote(variable)),
                        "write `${env:NAME}`, or `${env:NAME:-default}`",
                    ));
                }
                if default.is_some_and(|default| default.contains("${")) {
                    return Err(Refusal::new("a default cannot hold another `${…}`", "write the default out"));
                }
                Ok(Some((Reference::Variable { name: variable, default }, length)))
            }
            "file" if body.is_empty() => Err(Refusal::new("`${file:}` names no file", "write `${file:/path}`")),
            "file" if body.contains(":-") => {
                Err(Refusal::new("a file has no default", "remove what begins with `:-`; only `${env:…}` takes one"))
            }
            "file" => Ok(Some((Reference::File(body), length))),
            other => {
                let hint = if body.starts_with('-') || other.bytes().any(|b| b.is_ascii_uppercase()) {
                    format!("write `${{env:{other}{}}}`", &inner[name.len()..end])
                } else {
                    match suggest(other, ["env", "file"]) {
                        Some(near) => format!("did you mean `${{{near}:…}}`?"),
                        None => "values come from `${env:NAME}` or `${file:/path}`".to_owned(),
                    }
                };
                Err(Refusal::new(format!("unknown source {}", quote(&format!("${{{other}:…}}"))), hint))
            }
        }
    }
}

fn read(path: &Path) -> Result<String, Refusal> {
    let shown = quote(&path.to_string_lossy());
    let refuse = |error: io::Error| {
        let (what, hint) = match error.kind() {
            io::ErrorKind::NotFound => ("no such file", "create it, or mount the secret that holds it"),
            io::ErrorKind::PermissionDenied => ("permission denied", "let the user that armiger runs as read it"),
            io::ErrorKind::IsADirectory => ("it is a directory", "name a file in it"),
            _ => return Refusal::new(format!("cannot read {shown}: {error}"), "see that it is a readable file"),
        };
        Refusal::new(format!("cannot read {shown}: {what}"), hint)
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes)).map_err(refuse)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Refusal::new(
            format!("{shown} is too large for a value"),
            format!("the most is {} KiB", FILE_MAX / 1024),
        ));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
        Err(_) => Err(Refusal::new(format!("{shown} is not UTF-8"), "encode what is binary, as base64 for instance")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand_one(value: &str) -> Result<(String, bool), String> {
        let environment = Environment::fixed([("HOST", "db"), ("EMPTY", ""), ("YAML", "a: b\nc: [")]);
        let text = format!("v: '{}'", value.replace('\'', "''"));
        let mut tree = super::super::tree::parse(&text).map_err(|issue| issue.message).expect("valid YAML").tree;
        let expanded = expand(&text, &mut tree, &environment);
        match expanded.failed.into_iter().next() {
            Some((_, issue)) => Err(format!("{} | {}", issue.message, issue.hint.unwrap_or_default())),
            None => {
                let scalar = tree.root.entry("v").and_then(|entry| entry.value.scalar()).expect("a scalar");
                Ok((scalar.text.clone(), scalar.outside))
            }
        }
    }

    #[test]
    fn values_are_filled_in_and_what_is_not_ours_stays() {
        for (value, text, outside) in [
            ("http://${env:HOST}:80", "http://db:80", true),
            ("${env:HOST}${env:HOST}", "dbdb", true),
            ("${env:NONE:-x:-y}", "x:-y", true),
            ("${env:EMPTY:-x}", "x", true),
            ("${env:EMPTY}", "", true),
            ("${env:YAML}", "a: b\nc: [", true),
            ("${claims.sub}", "${claims.sub}", false),
            ("$${claims.sub}", "$${claims.sub}", false),
            ("${path.id} ${env:HOST}", "${path.id} db", true),
            ("$${env:HOST}", "${env:HOST}", false),
            ("$${HOST} $${a:b}", "${HOST} ${a:b}", false),
            ("$${env:HOST} ${env:HOST}", "${env:HOST} db", true),
            ("${", "${", false),
            ("$", "$", false),
            ("{id}", "{id}", false),
        ] {
            assert_eq!(expand_one(value), Ok((text.to_owned(), outside)), "{value}");
        }
    }

    #[test]
    fn a_reference_that_cannot_be_filled_in_says_what_to_write() {
        for (value, expected) in [
            ("${env:NONE}", "the environment variable `NONE` is not set | set it, or give a default: `${env:NONE:-…}`"),
            ("${foo:bar}", "unknown source `${foo:…}` | values come from `${env:NAME}` or `${file:/path}`"),
            ("${files:/x}", "unknown source `${files:…}` | did you mean `${file:…}`?"),
            ("${HOST:-x}", "unknown source `${HOST:…}` | write `${env:HOST:-x}`"),
            ("${HOST}", "`${HOST}` does not say where from | write `${env:HOST}`; as plain text, `$${HOST}`"),
            (
                "${env:A-b}",
                "`A-b` is no name of an environment variable | write `${env:NAME}`, or `${env:NAME:-default}`",
            ),
            ("${env:HOST", "a `${` is never closed | add the `}`"),
            ("${file:}", "`${file:}` names no file | write `${file:/path}`"),
            ("${file:/none/x}", "cannot read `/none/x`: no such file | create it, or mount the secret that holds it"),
            ("${env:NONE:-${env:HOST}}", "a default cannot hold another `${…}` | write the default out"),
        ] {
            assert_eq!(expand_one(value), Err(expected.to_owned()), "{value}");
        }
    }
}
