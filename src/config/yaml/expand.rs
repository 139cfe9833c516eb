//! Values from outside the file: `${env:NAME}`, `${env:NAME:-default}`, `${file:/path}`.
//!
//! They are put into scalars after parsing, so that no value can change the structure of the document, and a scalar
//! remembers that it holds one, so that no message shows it. `${claims.sub}` and the like, which have no prefix, are
//! for the policies that read them and stay as they are, `$${claims.sub}` too. `$${env:NAME}` stands for the text
//! `${env:NAME}`.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::files::Reader;
use super::super::issue::{Issue, quote, suggest};
use super::tree::{Content, Node, NodeId, Scalar, Tree};

/// The most that a file may put into one value.
const FILE_MAX: usize = 64 * 1024;
/// The most that all values from outside may have together.
const TOTAL_MAX: usize = 4 * 1024 * 1024;

/// Where values from outside come from.
#[derive(Clone, Debug)]
pub struct Environment {
    variables: Option<HashMap<String, String>>,
    directory: Option<PathBuf>,
}

impl Environment {
    /// The process's environment, and files as it sees them.
    pub fn process() -> Self {
        Self { variables: None, directory: None }
    }

    /// These variables and no others.
    pub fn fixed<'v>(variables: impl IntoIterator<Item = (&'v str, &'v str)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { variables: Some(variables), directory: None }
    }

    /// The directory that paths without a leading `/` start from: that of the configuration file. Without it, `${file:…}`
    /// starts from the working directory, and nothing can be included.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    pub(crate) fn base(&self) -> Option<&Path> {
        self.directory.as_deref()
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

/// What came from outside.
#[derive(Default)]
pub(crate) struct Outside {
    /// Values that hold something from outside, each with the text that stands for it in the file.
    pub(crate) outside: Vec<(String, String)>,
    /// Each value from outside, once, with the reference to it. Not defaults, which stand in the file.
    pub(crate) values: Vec<(String, String)>,
}

/// Fills in values, of one file after the other.
pub(crate) struct Expansion<'e> {
    environment: &'e Environment,
    /// Read once, so that two uses of a file cannot differ.
    contents: HashMap<PathBuf, Result<String, Refusal>>,
    total: usize,
    outside: Vec<(String, String)>,
    /// With their references.
    values: BTreeSet<(String, String)>,
}

impl<'e> Expansion<'e> {
    pub(crate) fn new(environment: &'e Environment) -> Self {
        Self { environment, contents: HashMap::new(), total: 0, outside: Vec::new(), values: BTreeSet::new() }
    }

    /// Fills in every value of a file's tree. Paths without a leading `/` start from `directory`. Gives the scalars that
    /// could not be filled in.
    pub(crate) fn fill(
        &mut self,
        text: &str,
        tree: &mut Tree,
        directory: &Path,
        reader: &mut Reader,
    ) -> Vec<(NodeId, Issue)> {
        let mut walk = Walk { text, directory, reader, shared: self, failed: Vec::new() };
        walk.node(&mut tree.root);
        let failed = walk.failed;
        failed
            .into_iter()
            .map(|(id, span, refusal)| (id, Issue::new(tree.path(id), refusal.message).span(span).hint(refusal.hint)))
            .collect()
    }

    pub(crate) fn finish(self) -> Outside {
        Outside { outside: self.outside, values: self.values.into_iter().collect() }
    }
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

struct Walk<'w, 'e> {
    text: &'w str,
    directory: &'w Path,
    reader: &'w mut Reader,
    shared: &'w mut Expansion<'e>,
    failed: Vec<(NodeId, Range<usize>, Refusal)>,
}

impl Walk<'_, '_> {
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
                        self.shared.total += value.len();
                        if self.shared.total > TOTAL_MAX {
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
        let written = std::mem::replace(&mut scalar.text, out);
        if outside {
            scalar.reference = Some(written.as_str().into());
            self.shared.outside.push((scalar.text.clone(), written));
        }
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
                match (
                    self.shared.environment.variable(name)?.filter(|value| !value.is_empty() || default.is_none()),
                    default,
                ) {
                    (Some(value), _) => {
                        self.shared.values.insert((value.clone(), format!("${{env:{name}}}")));
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
                let path = self.directory.join(name);
                let content = match self.shared.contents.get(&path) {
                    Some(known) => known.clone(),
                    None => {
                        let content = read(&path, self.reader);
                        self.shared.contents.insert(path, content.clone());
                        content
                    }
                };
                if let Ok(value) = &content {
                    self.shared.values.insert((value.clone(), format!("${{file:{name}}}")));
                }
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
                    // What stands behind the name may be meant as a default, and be a secret.
                    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    let shown = match variable.find(|c| !is_part(c)) {
                        Some(at) => format!("{}…", variable.chars().take(at + 1).collect::<String>()),
                        None => variable.to_owned(),
                    };
                    return Err(Refusal::new(
                        format!("{} is no name of an environment variable", quote(&shown)),
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
                // No default is repeated: it may be a secret.
                let hint = if let Some(source) = ["env", "file"].iter().find(|name| other.eq_ignore_ascii_case(name)) {
                    format!("write `${{{source}:…}}`")
                } else if body.starts_with('-') {
                    format!("write `${{env:{other}:-…}}`")
                } else if other.bytes().any(|b| b.is_ascii_uppercase()) {
                    format!("write `${{env:{other}}}`, or with a default `${{env:{other}:-…}}`")
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

/// Whether a text that was not filled in has a reference of ours, or what was meant as one.
pub(super) fn has_reference(text: &str) -> bool {
    text.match_indices("${").any(|(at, open)| {
        let inner = text[at + open.len()..].trim_start();
        inner.starts_with("env") || !matches!(Reference::read(&text[at..]), Ok(None))
    })
}

fn read(path: &Path, reader: &mut Reader) -> Result<String, Refusal> {
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
    let bytes = reader.read(path, FILE_MAX).map_err(refuse)?;
    if bytes.len() > FILE_MAX {
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
    use super::super::tree::Used;
    use super::*;

    fn expand_one(value: &str) -> Result<(String, bool), String> {
        let environment = Environment::fixed([("HOST", "db"), ("EMPTY", ""), ("YAML", "a: b\nc: [")]);
        let text = format!("v: '{}'", value.replace('\'', "''"));
        let parsed = super::super::tree::parse(&text, Used::default()).map_err(|issue| issue.message);
        let mut tree = Tree::new(parsed.expect("valid YAML").root);
        let failed =
            Expansion::new(&environment).fill(&text, &mut tree, Path::new(""), &mut Reader::new()).into_iter().next();
        match failed {
            Some((_, issue)) => Err(format!("{} | {}", issue.message, issue.hint.unwrap_or_default())),
            None => {
                let scalar = tree.root.entry("v").and_then(|entry| entry.value.scalar()).expect("a scalar");
                Ok((scalar.text.clone(), scalar.is_outside()))
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
            ("${HOST:-x}", "unknown source `${HOST:…}` | write `${env:HOST:-…}`"),
            ("${ENV:HOST:-x}", "unknown source `${ENV:…}` | write `${env:…}`"),
            ("${HOST:x}", "unknown source `${HOST:…}` | write `${env:HOST}`, or with a default `${env:HOST:-…}`"),
            (
                "${env:HOST:x}",
                "`HOST:…` is no name of an environment variable | write `${env:NAME}`, or `${env:NAME:-default}`",
            ),
            ("${HOST}", "`${HOST}` does not say where from | write `${env:HOST}`; as plain text, `$${HOST}`"),
            (
                "${env:A-b}",
                "`A-…` is no name of an environment variable | write `${env:NAME}`, or `${env:NAME:-default}`",
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
