//! From a file to a [`Document`]: [`load`] for those who want all or nothing, [`load_partial`] for those who go on to
//! check what could be read.

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Document;
use super::bundle::{Bundle, TOTAL_MAX};
use super::files::{Inputs, Reader};
use super::include::{self, Assembled, Others, Text};
use super::issue::{Issue, Issues, KeyPath, Mask, Report, Source, quote};
use super::reference;
use super::yaml::decode;
use super::yaml::decode::places::{Places, Types};
pub use super::yaml::expand::Environment;
use super::yaml::secrecy::{self, Secrets};

/// The most bytes that one file of a configuration may have.
pub const FILE_MAX: usize = 1024 * 1024;

/// A document without mistakes of form, and the files that it came from.
#[derive(Clone, Debug)]
pub struct Loaded<P> {
    /// What the user wrote.
    pub document: Document<P>,
    /// The files, for issues that are found later.
    pub source: Source,
    /// What was read. A change of it is a change of the document.
    pub inputs: Inputs,
}

impl<P> Loaded<P> {
    /// Issues that were found later, with their places in the files.
    pub fn report(&self, issues: Issues) -> Report {
        self.source.report(issues)
    }
}

/// As much of a document as could be read, and what is wrong with the rest.
///
/// What could not be read is left out: an entry of a list or mapping, or a key that has a default. For a key that must be there
/// another value stands in, so that what else is wrong with its entry can be told. Paths for issues
/// count as `document` does; `source` knows what is left out or stood in for ([`Source::is_lost`]) and counts as the files do.
#[derive(Clone, Debug)]
pub struct Partial<P> {
    /// What could be read. `None`: nothing, as when the file is no YAML.
    pub document: Option<Document<P>>,
    /// The files.
    pub source: Source,
    /// What is wrong. Later checks add to it.
    pub issues: Issues,
    /// What was read, or should have been.
    pub inputs: Inputs,
    /// Values that hold something from outside, each with the text that stands for it in the file: whoever shows the
    /// document shows the latter.
    pub outside: Vec<(String, String)>,
    /// Secrets that are the default of their reference, `${env:NAME:-default}`: whoever reads the file knows them.
    pub defaulted: Vec<KeyPath>,
    /// The same documents with other values of keys that stand in it several times, which is a mistake. For what else is
    /// wrong in them ([`Source::report_others`]), and for nothing else.
    pub others: Vec<(Document<P>, Source)>,
}

impl<P> Partial<P> {
    /// The document if nothing is wrong with it, else all issues with their places.
    pub fn finish(self) -> Result<Loaded<P>, Report> {
        match self.document {
            Some(document) if self.issues.is_empty() => {
                Ok(Loaded { document, source: self.source, inputs: self.inputs })
            }
            _ => Err(self.source.report(self.issues)),
        }
    }

    fn nothing(source: Source, issue: Issue, reader: Reader) -> Self {
        let mut issues = Issues::new();
        issues.push(issue);
        let inputs = reader.finish(Bundle::default());
        Self { document: None, source, issues, inputs, outside: Vec::new(), defaulted: Vec::new(), others: Vec::new() }
    }
}

/// Reads a file and what it includes. Any mistake, and be it an unreadable file, gives a report of all there are.
pub fn load<P>(path: &Path) -> Result<Loaded<P>, Report>
where
    P: Default + Serialize + DeserializeOwned + JsonSchema,
{
    load_partial(path).finish()
}

/// Reads a text as if it were a file of that name, but for `include`, which a text alone cannot have.
pub fn load_str<P>(name: &str, text: &str) -> Result<Loaded<P>, Report>
where
    P: Default + Serialize + DeserializeOwned + JsonSchema,
{
    decode_partial(name, text, &Environment::process()).finish()
}

/// Reads a file, and what it includes, as far as possible.
///
/// Files that are swapped together behind one link, as Kubernetes does it, are read from the same side of the swap. Of
/// others, [`Inputs::is_unchanged`] tells afterwards whether one was changed meanwhile; [`load_stable`] asks it.
pub fn load_partial<P>(path: &Path) -> Partial<P>
where
    P: Default + Serialize + DeserializeOwned + JsonSchema,
{
    let name = path.display().to_string();
    let environment = Environment::process().directory(path.parent().unwrap_or(Path::new("")));
    let mut reader = Reader::new();
    match read(path, &mut reader) {
        Ok(content) => {
            decode(Text { name, path: path.to_owned(), content, wrong: None }, Others::Named, &environment, reader)
        }
        Err(unreadable) => {
            let (text, issue) = *unreadable;
            let source = Source::new(&name, &text).conceal(&secrecy::in_text(&text));
            Partial::nothing(source, issue, reader)
        }
    }
}

/// Reads a file, and what it includes, as far as possible, and starts over when something was changed while it read: at
/// most `tries` times in all, at least once. `false`: it was changed each time, and the last reading may be half old, half
/// new.
pub fn load_stable<P>(path: &Path, tries: usize) -> (Partial<P>, bool)
where
    P: Default + Serialize + DeserializeOwned + JsonSchema,
{
    let mut left = tries.max(1);
    loop {
        let partial = load_partial(path);
        left -= 1;
        let is_stable = partial.inputs.is_unchanged();
        if is_stable || left == 0 {
            return (partial, is_stable);
        }
    }
}

/// Reads a configuration as it once was, as far as possible. Values of `${env:…}` and `${file:…}` are those of now.
///
/// Its inputs are what `${file:…}` names: the YAML files are not looked at.
pub fn load_bundle<P>(bundle: &Bundle) -> Partial<P>
where
    P: Default + Serialize + DeserializeOwned + JsonSchema,
{
    let environment = Environment::process().directory(bundle.directory());
    let mut reader = Reader::new();
    let mut texts = bundle.files().iter().map(|file| Text {
        name: file.name.clone(),
        path: bundle.directory().join(&file.path),
        content: file.text.as_ref().to_owned(),
        wrong: None,
    });
    let Some(main) = texts.next() else {
        return Partial::nothing(Source::new("", ""), include::empty(), reader);
    };
    if bundle.len() > TOTAL_MAX {
        let issue = Issue::new(KeyPath::root(), format!("the configuration is larger than {} MiB", TOTAL_MAX >> 20))
            .hint("split the work among several armigers");
        return Partial::nothing(Source::new(&main.name, ""), issue, reader);
    }
    let others = texts.collect();
    for file in bundle.files() {
        reader.note(&bundle.directory().join(&file.path), file.text.as_bytes());
    }
    decode(main, Others::Given(others), &environment, reader)
}

/// Reads a text as far as possible, with values from this environment.
pub fn decode_partial<P>(name: &str, text: &str, environment: &Environment) -> Partial<P>
where
    P: Default + Serialize + DeserializeOwned + JsonSchema,
{
    let mut reader = Reader::new();
    if text.len() > FILE_MAX {
        return Partial::nothing(Source::new(name, ""), too_large(), reader);
    }
    let path = match environment.base() {
        Some(directory) => directory.join(name),
        None => PathBuf::from(name),
    };
    reader.note(&path, text.as_bytes());
    let main = Text { name: name.to_owned(), path, content: text.to_owned(), wrong: None };
    decode(main, Others::Named, environment, reader)
}

fn decode<P>(main: Text, others: Others, environment: &Environment, mut reader: Reader) -> Partial<P>
where
    P: Default + Serialize + DeserializeOwned + JsonSchema,
{
    let assembled = include::assemble(main, others, environment, &mut reader);
    let Assembled { source, text, tree, mut issues, mut lost, mut concealed, mut outside, bundle } = assembled;
    let inputs = reader.finish(bundle);
    let schema = OnceCell::new();
    let reference = || schema.get_or_init(reference::schema::<P>);
    let types = Types::new(&reference);
    let Secrets { mut spans, mut texts } =
        tree.as_ref().map(|tree| Secrets::find(&tree.root, &types)).unwrap_or_default();
    concealed.append(&mut spans);
    let Some(tree) = tree else {
        let mask = Mask::new(outside.outside.iter().chain(&outside.values));
        let source = source.conceal(&concealed).masked(mask);
        let outside = outside.outside;
        return Partial { document: None, source, issues, inputs, outside, defaulted: Vec::new(), others: Vec::new() };
    };
    concealed.append(&mut secrecy::improper_within(&tree.root, &text));
    concealed.append(&mut secrecy::in_comments(&text));
    let required = |known: &[&str]| reference::required(reference(), known);
    let places = |known: &[&str], name: &str| Places::find(reference(), known, name);
    let read = decode::decode(&text, &tree, &mut issues, &mut lost, &mut concealed, &required, &places);
    let decode::Decoded { value: document, misspelt, stood_in, defaulted, is_repeated, turns } = read;
    let source = source.decoded(tree, lost, misspelt, stood_in).repeated(is_repeated).conceal(&concealed);
    // A default that is a secret is shown by nothing else, either.
    for (_, written) in outside.outside.iter_mut().filter(|(_, written)| !source.shows(written)) {
        *written = secrecy::without_defaults(written);
    }
    // A word that stands there in plain sight as well is none that a message must not have.
    texts.retain(|(secret, _)| !source.shows(secret));
    let mask = Mask::new(outside.outside.iter().chain(&outside.values).chain(&texts));
    let source = source.masked(mask);
    let others = turns.into_iter().map(|turn| source.turned(turn)).collect();
    Partial { document, source, issues, inputs, outside: outside.outside, defaulted, others }
}

/// The text of the main file, or why there is none, with as much of the text as helps to show it.
fn read(path: &Path, reader: &mut Reader) -> Result<String, Box<(String, Issue)>> {
    let refuse = |message: String, hint: &str| {
        Box::new((String::new(), Issue::new(KeyPath::root(), message).hint(hint.to_owned())))
    };
    let bytes = reader.read(path, FILE_MAX).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            refuse("there is no such file".into(), "name the configuration with `--config`, or create it")
        }
        io::ErrorKind::PermissionDenied => {
            refuse("permission denied".into(), "let the user that armiger runs as read it")
        }
        io::ErrorKind::IsADirectory => {
            refuse("this is a directory".into(), "name the file in it, such as `config.yaml`")
        }
        _ => refuse(format!("cannot read the file: {error}"), "see that it is a readable file"),
    })?;
    if bytes.len() > FILE_MAX {
        return Err(Box::new((String::new(), too_large())));
    }
    include::utf8(bytes)
}

fn too_large() -> Issue {
    Issue::new(KeyPath::root(), format!("the file is larger than {} MiB", FILE_MAX >> 20))
        .hint("see that it is the configuration; one this large may be split with `include`")
}

/// Says what a caller asked for and the file does not have: ``unknown upstream `oders` ``, with the nearest name.
pub fn unknown_name<'k>(
    path: KeyPath,
    what: &str,
    name: &str,
    known: impl IntoIterator<Item = &'k str> + Clone,
) -> Issue {
    let near = super::issue::suggest(name, known.clone());
    let hint = match near {
        _ if name.contains("://") => format!("write the name of one: an address stands under `endpoints` of an {what}"),
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let mut names: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
            names.sort();
            match names.len() {
                0 => format!("there is no {what} yet; add one of that name"),
                1..=8 => format!("there is {}", names.join(", ")),
                more => format!("there are {more}, among them {}", names[..8].join(", ")),
            }
        }
    };
    Issue::new(path, format!("unknown {what} {}", quote(name))).hint(hint)
}

#[cfg(test)]
mod tests;
