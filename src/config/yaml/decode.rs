//! Reads a tree into typed values and reports everything that does not fit.
//!
//! Types use plain `#[derive(Deserialize)]`, which stops at the first mistake. So: a value that does not fit is
//! reported, *lost* (as if it were absent), and the document is read again, until it can be read or nothing is left.
//! What follows from a loss (a key that is missing because its value was lost) is not reported. Where a mapping lacks a key
//! that it must have, another value stands in for it, so that the rest of the mapping is read, and checked later.
//!
//! `flatten`, `untagged` and internally tagged enums buffer values and lose their places: no type here uses them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::super::issue::{Issue, Issues, Segment, quote, suggest};
use super::super::value::KeyHash;
use super::error::{Error, Problem, known_names, list, words};
use super::scalar;
use super::secrecy;
use super::stand_in::{Keys, StandIns};
use super::tree::{Content, Entry, Node, NodeId, Scalar, Style, Tree, found};

/// How often a document is read. Each time at least one more mistake is found.
const ROUNDS_MAX: usize = 200;

/// The name by which [`Setting`](crate::config::value::Setting) makes itself known.
pub(crate) const SETTING: &str = "$armiger::Setting";
/// The name by which [`Secret`](crate::config::value::Secret) makes itself known.
pub(crate) const SECRET: &str = "$armiger::Secret";
/// The name by which [`KeyHash`] makes itself known.
pub(crate) const KEY_HASH: &str = "$armiger::KeyHash";

/// What to do about a secret that stands in the file.
const OUTSIDE: &str = "write `${env:NAME}` or `${file:/path}`, and keep the secret where it cannot be read along";

/// What was read of a tree.
pub(crate) struct Decoded<T> {
    /// The value. `None`: nothing could be read.
    pub(crate) value: Option<T>,
    /// Keys of mappings that unknown ones probably stand for.
    pub(crate) misspelt: HashSet<(NodeId, String)>,
    /// Keys of mappings whose value is none of the file's.
    pub(crate) stood_in: HashMap<NodeId, Rc<[&'static str]>>,
}

/// Reads the tree of a text. Adds what does not fit to `issues`, its nodes to `lost`, and to `concealed` where the file holds a
/// secret in plain text. `required`: which keys a mapping must have, by those that it may have.
pub(crate) fn decode<T: DeserializeOwned>(
    text: &str,
    tree: &Tree,
    issues: &mut Issues,
    lost: &mut HashSet<NodeId>,
    concealed: &mut Vec<Range<usize>>,
    required: &dyn Fn(&[&str]) -> Vec<String>,
) -> Decoded<T> {
    let context = Context {
        text,
        stand_ins: StandIns::new(required),
        stood_in: RefCell::default(),
        is_broken: Cell::new(!issues.is_empty()),
        tree,
        lost: RefCell::new(std::mem::take(lost)),
        issues: RefCell::new(std::mem::take(issues)),
        noted: RefCell::default(),
        misspelt: RefCell::default(),
        structs: RefCell::default(),
        concealed: RefCell::default(),
    };
    let mut value = None;
    for _ in 0..ROUNDS_MAX {
        context.structs.borrow_mut().clear();
        match T::deserialize(Value { node: &tree.root, context: &context }) {
            Ok(read) => {
                value = Some(read);
                break;
            }
            Err(error) => {
                let node = error.node.unwrap_or(tree.root.id);
                let was_broken = context.is_broken.replace(true);
                let goes_on = match error.problem {
                    // From now on mappings are looked at for what they lack.
                    Problem::Missing { .. } if !was_broken => true,
                    Problem::Refused { keys, key } => context.stand_ins.refuse(keys, key),
                    _ => false,
                };
                if !goes_on {
                    context.report(node, error.problem);
                    if !context.lose(node) {
                        break;
                    }
                }
            }
        }
    }
    *issues = context.issues.into_inner();
    *lost = context.lost.into_inner();
    concealed.append(&mut context.concealed.into_inner());
    Decoded { value, misspelt: context.misspelt.into_inner(), stood_in: context.stood_in.into_inner() }
}

/// What is known over all rounds.
struct Context<'t> {
    text: &'t str,
    stand_ins: StandIns<'t>,
    /// Keys that a mapping lacks, and that something stands in for.
    stood_in: RefCell<HashMap<NodeId, Rc<[&'static str]>>>,
    /// Whether a mistake was found: which keys mappings must have is of no use without one, and costs time.
    is_broken: Cell<bool>,
    tree: &'t Tree,
    lost: RefCell<HashSet<NodeId>>,
    issues: RefCell<Issues>,
    /// Keys that were reported, and mappings that lack some: they are met again in every round.
    noted: RefCell<HashSet<NodeId>>,
    /// Keys that an unknown one probably stands for.
    misspelt: RefCell<HashSet<(NodeId, String)>>,
    /// The mappings that are being read, outermost first, with the keys they know.
    structs: RefCell<Vec<(NodeId, Keys)>>,
    concealed: RefCell<Vec<Range<usize>>>,
}

impl Context<'_> {
    fn is_lost(&self, node: &Node) -> bool {
        self.lost.borrow().contains(&node.id)
    }

    /// Loses a node, or the nearest one around it that is not lost yet. `false`: nothing is left.
    fn lose(&self, node: NodeId) -> bool {
        let mut node = node;
        loop {
            if node == self.tree.root.id {
                return false;
            }
            if self.lost.borrow_mut().insert(node) {
                return true;
            }
            match self.tree.parent(node) {
                Some(parent) => node = parent,
                None => return false,
            }
        }
    }

    fn note(&self, issue: Issue) {
        self.issues.borrow_mut().push(issue);
    }

    /// Keeps a value out of what is shown of the file.
    fn conceal(&self, node: &Node) {
        self.concealed.borrow_mut().push(node.span.clone());
    }

    /// Whether a value that stands in the file must not be shown: its type says so, its name, or what it is.
    fn is_secret(&self, node: &Node) -> bool {
        let is_within = |span: &Range<usize>| span.start <= node.span.start && node.span.end <= span.end;
        let path = self.tree.path(node.id);
        let name = path.segments().iter().rev().find_map(|segment| match segment {
            Segment::Key(key) => Some(key),
            Segment::Index(_) => None,
        });
        self.concealed.borrow().iter().any(is_within)
            || name.is_some_and(|name| secrecy::is_secret_name(name))
            || node.scalar().is_some_and(|scalar| secrecy::is_private_key(&scalar.text))
    }

    fn report(&self, id: NodeId, problem: Problem) {
        let Some((node, key)) = self.find(id) else { return };
        let path = self.tree.path(id);
        match problem {
            Problem::Quiet | Problem::Refused { .. } => {}
            // The decoder stops at the first.
            Problem::Missing { key: first, known } => {
                let all = self.stand_ins.required(known);
                let lacks = |name: &&str| *name == first || all.contains(name);
                self.missing(node, key, known.iter().copied().filter(lacks));
            }
            Problem::Said { message, hint } => {
                let scalar = node.scalar();
                let (message, hint) = match scalar {
                    Some(Scalar { text, reference: Some(reference), .. }) => masked(&message, hint, text, reference),
                    _ if self.is_secret(node) => without_secrets(message, hint, node),
                    _ => (message, hint),
                };
                let span = match (scalar, key) {
                    (Some(Scalar { style: Style::Absent, .. }), Some(key)) => key.span.clone(),
                    (Some(_), _) => node.span.clone(),
                    (None, Some(key)) if !self.is_flow(node) => key.span.clone(),
                    (None, _) => first_of(node),
                };
                self.note(Issue::new(path, message).span(span).maybe_hint(hint));
            }
        }
    }

    /// Reports keys that a mapping lacks, those that nothing else told of. `key`: that leads to the mapping.
    fn missing(&self, node: &Node, key: Option<&Node>, names: impl Iterator<Item = &'static str>) {
        let names: Vec<&str> =
            names.filter(|name| node.entry(name).is_none() && !self.is_excused(node, name)).collect();
        let path = self.tree.path(node.id);
        let span = match (&node.content, key) {
            (Content::Mapping(_), Some(key)) => key.span.clone(),
            (Content::Mapping(entries), None) => match entries.first() {
                Some(first) if first.key.span.start == node.span.start => first.key.span.clone(),
                _ => node.span.clone(),
            },
            (_, Some(key)) => key.span.clone(),
            _ => node.span.clone(),
        };
        let place = match path.segments().last() {
            None => "at the top of the file".to_owned(),
            Some(Segment::Key(key)) => format!("under {}", quote(key)),
            Some(Segment::Index(_)) => "to this entry".to_owned(),
        };
        let (message, hint) = match names.as_slice() {
            [] => return,
            [name] => (format!("the key `{name}` is missing"), format!("add `{name}: …` {place}")),
            names => (format!("the keys {} are missing", list(names, "and")), format!("add them {place}")),
        };
        self.note(Issue::new(path, message).span(span).hint(hint));
    }

    /// The keys that a mapping must have and has not, or not in a form that can be read.
    fn lacking(&self, node: &Node, known: Keys, kept: &[&Entry]) -> Rc<[&'static str]> {
        if !self.is_broken.get() {
            return Rc::new([]);
        }
        let is_kept = |key: &&str| kept.iter().any(|entry| entry.key.text() == *key);
        let lacking: Rc<[&str]> = self.stand_ins.required(known).iter().copied().filter(|key| !is_kept(key)).collect();
        if !lacking.is_empty() {
            self.stood_in.borrow_mut().insert(node.id, lacking.clone());
        }
        lacking
    }

    fn is_flow(&self, node: &Node) -> bool {
        matches!(self.text.as_bytes().get(node.span.start), Some(b'{' | b'[' | b'*')) && node.scalar().is_none()
    }

    /// Whether a key is missing only because its value was lost, or because it is misspelt.
    fn is_excused(&self, node: &Node, name: &str) -> bool {
        let lost = match &node.content {
            Content::Mapping(entries) => entries
                .iter()
                .any(|entry| entry.key.text() == name && (self.is_lost(&entry.key) || self.is_lost(&entry.value))),
            _ => false,
        };
        lost || self.misspelt.borrow().contains(&(node.id, name.to_owned()))
    }

    /// A node, and the key that it is the value of.
    fn find(&self, id: NodeId) -> Option<(&Node, Option<&Node>)> {
        let mut chain = vec![id];
        while let Some(parent) = self.tree.parent(chain[chain.len() - 1]) {
            chain.push(parent);
        }
        let mut found = (&self.tree.root, None);
        for next in chain.into_iter().rev().skip(1) {
            found = match &found.0.content {
                Content::Scalar(_) => return None,
                Content::List(items) => (items.iter().find(|item| item.id == next)?, None),
                Content::Mapping(entries) => {
                    let entry = entries.iter().find(|entry| entry.key.id == next || entry.value.id == next)?;
                    if entry.key.id == next { (&entry.key, None) } else { (&entry.value, Some(&entry.key)) }
                }
            };
        }
        Some(found)
    }

    /// The entries to read of a mapping that knows these keys: those not lost, each key once. Reports repeated keys.
    fn entries<'t>(&self, entries: &'t [Entry], known: Keys) -> Vec<&'t Entry> {
        let mut seen: std::collections::HashMap<&str, &Node> = std::collections::HashMap::new();
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            let text = entry.key.text();
            if let Some(first) = seen.get(text) {
                // Nobody reads it.
                if is_secret_key(text) || holds_secrets(known) {
                    self.conceal(&entry.value);
                }
                if self.noted.borrow_mut().insert(entry.key.id) {
                    self.note(
                        Issue::new(self.tree.path(entry.key.id), format!("the key {} stands here twice", quote(text)))
                            .span(entry.key.span.clone())
                            .also(first.span.clone(), "first here")
                            .hint("keep one of them"),
                    );
                }
                continue;
            }
            seen.insert(text, &entry.key);
            if !self.is_lost(&entry.key) && !self.is_lost(&entry.value) {
                kept.push(entry);
            }
        }
        kept
    }

    fn unknown_key(&self, owner: &Node, entry: &Entry, known: &'static [&'static str], present: &HashSet<&str>) {
        let key = &entry.key;
        if !self.noted.borrow_mut().insert(key.id) {
            return;
        }
        let name = key.text();
        let issue = Issue::new(self.tree.path(key.id), format!("unknown key {}", quote(name))).span(key.span.clone());
        // A key that is there already cannot be the one that was meant.
        let near = suggest(name, known.iter().copied().filter(|known| !present.contains(known)));
        let hint = if let Some(inner) = belongs_inside(name, known) {
            // That key may well be missing now, which is no second mistake.
            self.misspelt.borrow_mut().insert((owner.id, inner.to_owned()));
            if let Some(entry) = owner.entry(inner) {
                self.misspelt.borrow_mut().insert((entry.value.id, name.to_owned()));
            }
            format!("{} goes under `{inner}`", quote(name))
        } else if let Some(near) = near {
            let hint = format!("did you mean `{near}`?");
            self.misspelt.borrow_mut().insert((owner.id, near));
            hint
        } else if let Some((outer, key)) = self.belongs_outside(owner, name) {
            self.misspelt.borrow_mut().insert((outer, name.to_owned()));
            format!("{} goes beside {}, not in it", quote(name), quote(&key))
        } else {
            known_names("key", known)
        };
        // What stands under a misspelt `secret` is one all the same; and beside a key's hash, the key itself might.
        let meant = suggest(name, known.iter().copied());
        if is_secret_key(name) || meant.is_some_and(|meant| is_secret_key(&meant)) || known.contains(&"hash") {
            self.conceal(&entry.value);
        }
        self.note(issue.hint(hint));
    }

    /// The nearest mapping around that knows this name, and the key in it that leads here.
    fn belongs_outside(&self, owner: &Node, name: &str) -> Option<(NodeId, String)> {
        let structs = self.structs.borrow();
        let (outer, _) = structs.iter().rev().find(|(id, known)| *id != owner.id && known.contains(&name))?;
        let depth = self.tree.path(*outer).segments().len();
        match self.tree.path(owner.id).segments().get(depth) {
            Some(Segment::Key(key)) => Some((*outer, key.clone())),
            _ => None,
        }
    }
}

/// Keys that are looked for a level too high, under the key that they belong to.
pub(crate) const INSIDE: [(&str, &[&str]); 1] = [(
    "match",
    &["hosts", "path", "path_prefix", "path_regex", "methods", "headers", "query", "cookies", "path_allow"],
)];

/// The one of these keys that a name belongs under.
fn belongs_inside(name: &str, known: &[&str]) -> Option<&'static str> {
    INSIDE.iter().find(|(inner, names)| known.contains(inner) && names.contains(&name)).map(|(inner, _)| *inner)
}

/// The first line of a list or mapping, as far as its first key.
fn first_of(node: &Node) -> Range<usize> {
    match &node.content {
        Content::Mapping(entries) => match entries.first() {
            Some(first) if first.key.span.start == node.span.start => first.key.span.clone(),
            _ => node.span.clone(),
        },
        _ => node.span.clone(),
    }
}

/// Whether a key holds a secret, in whatever mapping it is one.
fn is_secret_key(name: &str) -> bool {
    name == "key" || secrecy::is_secret_name(name)
}

/// Whether the mapping of these keys is there for what is secret in it.
fn holds_secrets(known: &[&str]) -> bool {
    ["secret", "client_secret", "password", "keys", "hash"].iter().any(|key| known.contains(key))
}

/// Takes all texts of a value that is secret out of what is said about it.
fn without_secrets(message: String, hint: Option<String>, node: &Node) -> (String, Option<String>) {
    match &node.content {
        Content::Scalar(scalar) if !secrecy::may_be_secret(scalar) => (message, hint),
        Content::Scalar(scalar) => {
            let (message, shown) = masked(&message, hint.clone(), &scalar.text, secrecy::STARS);
            (message, Some(shown.filter(|shown| hint.as_ref() == Some(shown)).unwrap_or_else(|| OUTSIDE.to_owned())))
        }
        Content::List(items) => {
            items.iter().fold((message, hint), |(message, hint), item| without_secrets(message, hint, item))
        }
        Content::Mapping(entries) => {
            entries.iter().fold((message, hint), |(message, hint), entry| without_secrets(message, hint, &entry.value))
        }
    }
}

/// Takes a value from outside out of what is said about it, and puts the reference to it there.
fn masked(message: &str, hint: Option<String>, value: &str, reference: &str) -> (String, Option<String>) {
    let put_in = quote(reference);
    let shown = [put_in.clone(), quote(value), format!("\"{value}\""), format!("`{value}`")];
    // What is put in is not looked at: a reference may be like the value.
    let pieces: Vec<&str> = shown.iter().fold(vec![message], |pieces, shown| {
        pieces.into_iter().flat_map(|piece| piece.split(shown.as_str())).collect()
    });
    let message = if pieces.iter().any(|piece| tells_of(value, reference, piece)) {
        format!("the value {put_in} does not fit")
    } else {
        pieces.join(&put_in)
    };
    let hint = hint.filter(|hint| !tells_of(value, reference, hint));
    (message, Some(hint.unwrap_or_else(|| "see what it stands for, which is not shown here".to_owned())))
}

/// Whether a text has a value in it, or so much of it as tells something that the file does not.
fn tells_of(value: &str, reference: &str, text: &str) -> bool {
    const WINDOW: usize = 4;
    let chars: Vec<char> = value.chars().collect();
    if chars.len() < WINDOW {
        // In part of many words; but what is in quotes is what somebody wrote.
        return text.split('`').skip(1).step_by(2).any(|quoted| !value.is_empty() && quoted.contains(value));
    }
    // Even a part of a secret is one.
    let mut windows = chars.windows(WINDOW).map(|window| window.iter().collect::<String>());
    windows.any(|window| text.contains(&window) && !reference.contains(&window))
}

/// A node to be read.
#[derive(Clone, Copy)]
struct Value<'t, 'c> {
    node: &'t Node,
    context: &'c Context<'t>,
}

impl<'t> Value<'t, '_> {
    /// Says where, of an error that does not know.
    fn here<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| error.at(self.node.id))
    }

    fn is_null(self) -> bool {
        self.node.scalar().is_some_and(Scalar::is_null)
    }

    fn wrong<T>(self, expected: &str, hint: Option<String>) -> Result<T, Error> {
        Err(Error::new(format!("expected {expected}, found {}", found(self.node)), hint).at(self.node.id))
    }

    /// The text of a scalar, as it is written.
    fn text(self, expected: &dyn Expected) -> Result<&'t str, Error> {
        let expected = words(expected);
        match &self.node.content {
            Content::Scalar(scalar) if scalar.is_null() => self.wrong(
                &expected,
                Some(if scalar.style != Style::Absent {
                    format!("put quotes around {} if it is a text, or remove the key", quote(&scalar.text))
                } else if expected == "a text" {
                    "write a value after the colon; an empty text is `\"\"`".to_owned()
                } else {
                    "write a value after the colon, or remove the key".to_owned()
                }),
            ),
            Content::Scalar(scalar) => Ok(&scalar.text),
            Content::List(items) => match items.as_slice() {
                [one] if one.scalar().is_some_and(|scalar| !scalar.is_outside()) => {
                    self.wrong(&expected, Some(format!("write {} alone, without `-` or `[ ]`", quote(one.text()))))
                }
                _ => self.wrong(&expected, Some("write a single value".to_owned())),
            },
            Content::Mapping(entries) => {
                // `path: {id}` was meant as text.
                let unquoted = matches!(entries.as_slice(), [only]
                    if only.value.scalar().is_some_and(|scalar| scalar.style == Style::Absent));
                let hint =
                    if unquoted { "put quotes around a text that begins with `{`" } else { "write a single value" };
                self.wrong(&expected, Some(hint.to_owned()))
            }
        }
    }

    fn visit_mapping<V: Visitor<'t>>(self, entries: Vec<&'t Entry>, visitor: V) -> Result<V::Value, Error> {
        self.visit_struct(entries, &[], Rc::new([]), visitor)
    }

    /// Visits a mapping of just these keys, and what stands in for those that it lacks.
    fn visit_struct<V: Visitor<'t>>(
        self,
        entries: Vec<&'t Entry>,
        known: Keys,
        lacking: Rc<[&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let entries = entries.into_iter();
        visitor.visit_map(Entries { entries, value: None, known, lacking, stood_in: 0, context: self.context })
    }

    fn visit_list<V: Visitor<'t>>(self, items: &'t [Node], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { items: items.iter(), context: self.context })
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),+ $(,)?) => {
        $(fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
            self.here(scalar::integer(self.node, i128::from(<$type>::MIN), i128::from(<$type>::MAX)).and_then(|value| {
                // The bounds are the type's own.
                visitor.$visit(value as $type)
            }))
        })+
    };
}

impl<'t> Deserializer<'t> for Value<'t, '_> {
    type Error = Error;

    integers! {
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
    }

    fn deserialize_f32<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.here(scalar::number(self.node).and_then(|value| visitor.visit_f64(value)))
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.here(scalar::boolean(self.node).and_then(|value| visitor.visit_bool(value)))
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        let expected = words(&visitor);
        let text = self.text(&visitor)?;
        self.here(visitor.visit_borrowed_str(text).map_err(|error| clearer(error, &expected, self.node)))
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { self.here(visitor.visit_none()) } else { self.here(visitor.visit_some(self)) }
    }

    fn deserialize_unit<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() {
            self.here(visitor.visit_unit())
        } else {
            self.wrong("nothing", Some("remove the value".into()))
        }
    }

    fn deserialize_unit_struct<V: Visitor<'t>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match (name, &self.node.content) {
            (SETTING, Content::Scalar(scalar)) if scalar.is_null() => {
                let key = self.context.tree.path(self.node.id);
                let name = match key.segments().last() {
                    Some(Segment::Key(key)) => quote(key),
                    _ => "this".to_owned(),
                };
                // What a policy with nothing in it would mean is a guess, and a guess about a policy is a hole.
                Err(Error::new(
                    format!("{name} says nothing"),
                    Some(format!("write its settings, or `off`; without the key {name} is as in `defaults`")),
                )
                .at(self.node.id))
            }
            (SETTING, Content::Scalar(scalar))
                if scalar.text == "off" || (scalar.is_bare() && scalar.text == "false") =>
            {
                self.here(visitor.visit_none())
            }
            (SETTING, Content::Scalar(scalar))
                if scalar.is_bare()
                    && matches!(scalar.text.as_str(), "on" | "true" | "yes" | "no" | "Off" | "OFF" | "False") =>
            {
                let hint = if matches!(scalar.text.as_str(), "on" | "true" | "yes") {
                    "write its settings; `{}` takes all defaults"
                } else {
                    "write `off`"
                };
                self.wrong("settings or `off`", Some(hint.to_owned()))
            }
            (SETTING, _) => self.here(visitor.visit_some(self)),
            (SECRET, content) if !matches!(content, Content::Scalar(scalar) if scalar.is_outside() || scalar.is_null()) =>
            {
                self.context.conceal(self.node);
                Err(Error::new("a secret stands in the file", Some(OUTSIDE.into())).at(self.node.id))
            }
            (KEY_HASH, content) => {
                let text = if let Content::Scalar(scalar) = content { &scalar.text } else { "" };
                if KeyHash::new(text).digest().is_none() {
                    // It may be the key itself.
                    self.context.conceal(self.node);
                }
                self.here(visitor.visit_newtype_struct(StrDeserializer::new(text)))
            }
            _ => self.here(visitor.visit_newtype_struct(self)),
        }
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.content {
            Content::List(items) => self.here(self.visit_list(items, visitor)),
            Content::Scalar(scalar) if scalar.style == Style::Absent => self.here(self.visit_list(&[], visitor)),
            Content::Scalar(scalar) if scalar.is_outside() || scalar.is_null() => self.wrong("a list", None),
            Content::Scalar(scalar) => {
                // Read as the one entry of a list, it tells whether that is what was meant.
                let alone = self.visit_list(std::slice::from_ref(self.node), visitor);
                let hint = match alone.map_err(|error| error.problem) {
                    _ if self.context.is_secret(self.node) => format!("write it as a list; {OUTSIDE}"),
                    Ok(_) => format!("write `[{}]`", scalar.text.escape_debug()),
                    Err(Problem::Said { message, hint: Some(hint) }) if message.starts_with("expected a mapping") => {
                        format!("begin each entry with `- `; {hint}")
                    }
                    Err(_) => "begin each entry with `- `".to_owned(),
                };
                self.wrong("a list", Some(hint))
            }
            Content::Mapping(_) => {
                if Probe::takes_secrets(visitor) {
                    self.context.conceal(self.node);
                }
                self.wrong("a list", Some("begin each entry with `- `".to_owned()))
            }
        }
    }

    fn deserialize_tuple<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.content {
            Content::Mapping(entries) => {
                let entries = self.context.entries(entries, &[]);
                self.here(self.visit_mapping(entries, visitor))
            }
            Content::Scalar(scalar) if scalar.style == Style::Absent => {
                self.here(self.visit_mapping(Vec::new(), visitor))
            }
            Content::List(_) => {
                let sign = if self.context.is_flow(self.node) { "`[ ]`" } else { "`- `" };
                self.wrong("a mapping", Some(format!("write `name: …` instead of {sign}")))
            }
            Content::Scalar(_) => self.wrong("a mapping", Some("write `name: …` below the key".to_owned())),
        }
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // One that has a secret in it may stand here as if it were that alone.
        if !matches!(self.node.content, Content::Mapping(_)) && holds_secrets(known) {
            self.context.conceal(self.node);
        }
        let entries: &[Entry] = match &self.node.content {
            Content::Mapping(entries) => entries,
            // A key with everything under it commented out.
            Content::Scalar(scalar) if scalar.style == Style::Absent => &[],
            Content::Scalar(_) => return self.wrong("a mapping", Some(known_names("key", known))),
            Content::List(_) => {
                let sign = if self.context.is_flow(self.node) { "[ ]" } else { "-" };
                return self.wrong("a mapping", Some(format!("remove the `{sign}`; {}", known_names("key", known))));
            }
        };
        let context = self.context;
        context.structs.borrow_mut().push((self.node.id, known));
        let present: HashSet<&str> = entries.iter().map(|entry| entry.key.text()).collect();
        let is_root = self.node.id == context.tree.root.id;
        let mut kept = context.entries(entries, known);
        kept.retain(|entry| {
            let key = entry.key.text();
            let is_known = known.contains(&key);
            // `x-…` at the top is where anchors for later use may stand.
            let is_spare = is_root && key.starts_with("x-");
            if !(is_known || is_spare) {
                context.unknown_key(self.node, entry, known, &present);
            }
            is_known
        });
        let lacking = context.lacking(self.node, known, &kept);
        let result = self.visit_struct(kept, known, lacking.clone(), visitor).map_err(|error| error.among(known));
        let result = self.here(result);
        // Only now is it known what of them stands somewhere else by mistake.
        if result.is_ok()
            && !lacking.is_empty()
            && context.noted.borrow_mut().insert(self.node.id)
            && let Some((_, key)) = context.find(self.node.id)
        {
            context.missing(self.node, key, lacking.iter().copied());
        }
        context.structs.borrow_mut().pop();
        result
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let (name, value) = match &self.node.content {
            Content::Scalar(scalar) if scalar.is_null() => {
                return self.wrong(&one_of(known), Some("write a value after the colon, or remove the key".into()));
            }
            Content::Scalar(_) => (self.node, None),
            Content::List(_) => {
                return self.wrong(&one_of(known), Some("write one of them, without `-` or `[ ]`".into()));
            }
            Content::Mapping(entries) => match self.context.entries(entries, &[]).as_slice() {
                [entry] => (&entry.key, Some(&entry.value)),
                // Its one entry was lost.
                [] if !entries.is_empty() => return Err(Error::quiet().at(self.node.id)),
                _ => return self.wrong(&one_of(known), Some("give just one of them".into())),
            },
        };
        if !known.contains(&name.text()) {
            let outside = name.scalar().is_some_and(Scalar::is_outside);
            let hint = match suggest(name.text(), known.iter().copied()) {
                Some(near) if !outside && known.len() > 8 => format!("did you mean `{near}`?"),
                // One that differs in a digit may be near and still not be meant.
                Some(near) if !outside => format!("did you mean `{near}`? it can be {}", list(known, "or")),
                _ => format!("write {}", list(known, "or")),
            };
            let what = if value.is_some() { "key" } else { "value" };
            let shown = quote(name.scalar().map_or("", Scalar::shown));
            return Err(Error::new(format!("unknown {what} {shown}"), Some(hint)).at(name.id));
        }
        self.here(visitor.visit_enum(Choice { name, value, context: self.context }))
    }

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.content {
            Content::List(_) => self.deserialize_seq(visitor),
            Content::Mapping(_) => self.deserialize_map(visitor),
            Content::Scalar(scalar) if scalar.is_null() => self.here(visitor.visit_unit()),
            Content::Scalar(scalar) => self.here(match scalar.text.as_str() {
                "true" if scalar.is_bare() => visitor.visit_bool(true),
                "false" if scalar.is_bare() => visitor.visit_bool(false),
                text if scalar.is_bare() => match (scalar::decimal(text), scalar::fraction(text)) {
                    (Some(value), _) if u64::try_from(value).is_ok() => visitor.visit_u64(value as u64),
                    (Some(value), _) if i64::try_from(value).is_ok() => visitor.visit_i64(value as i64),
                    (_, Some(value)) => visitor.visit_f64(value),
                    _ => visitor.visit_borrowed_str(text),
                },
                text => visitor.visit_borrowed_str(text),
            }),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_bytes<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! { <W: Visitor<'t>> i128 u128 }
}

/// Says it in full where a type of the standard library is short of words.
fn clearer(error: Error, expected: &str, node: &Node) -> Error {
    let Problem::Said { message, .. } = &error.problem else { return error };
    let text = node.text();
    let port =
        |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned()).filter(|port| port.parse::<u16>().is_ok());
    let is_too_large = || {
        let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
        port.parse::<u64>().is_ok_and(|port| port > u16::MAX.into()) && text.parse::<std::net::Ipv6Addr>().is_err()
    };
    let hint = match message.as_str() {
        "invalid socket address syntax" => match port(text) {
            Some(port) if text.starts_with("localhost:") => {
                format!("names are not looked up here: write `127.0.0.1:{port}`")
            }
            Some(port) if text.len() == port.len() + 1 || text.starts_with("*:") => format!("write `0.0.0.0:{port}`"),
            Some(_) => {
                "write `IP:port`; names are not looked up here, and IPv6 needs brackets: `[::1]:8080`".to_owned()
            }
            None if text.parse::<u16>().is_ok() => format!("write `0.0.0.0:{text}`"),
            None if is_too_large() => "there is no such port: the most is 65535".to_owned(),
            None if text.parse::<std::net::IpAddr>().is_ok() => {
                "add the port: `127.0.0.1:8080`, `[::1]:8080`".to_owned()
            }
            None => "write `IP:port`, such as `127.0.0.1:8080`".to_owned(),
        },
        "invalid IP address syntax" | "invalid IPv4 address syntax" | "invalid IPv6 address syntax" => {
            "write an address such as `10.0.0.1` or `fd00::1`".to_owned()
        }
        _ => return error,
    };
    let outside = node.scalar().is_some_and(Scalar::is_outside);
    Error {
        node: error.node,
        ..Error::new(format!("expected {expected}, found {}", found(node)), (!outside).then_some(hint))
    }
}

fn one_of(known: &[&str]) -> String {
    list(known, "or")
}

/// The entries of a mapping, in the order of the file, and then what stands in for those that it lacks.
struct Entries<'t, 'c> {
    entries: std::vec::IntoIter<&'t Entry>,
    value: Option<&'t Node>,
    known: Keys,
    lacking: Rc<[&'static str]>,
    /// How many of them were visited.
    stood_in: usize,
    context: &'c Context<'t>,
}

impl<'t> MapAccess<'t> for Entries<'t, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if let Some(entry) = self.entries.next() {
            self.value = Some(&entry.value);
            return seed.deserialize(Value { node: &entry.key, context: self.context }).map(Some);
        }
        let Some(key) = self.lacking.get(self.stood_in) else { return Ok(None) };
        self.stood_in += 1;
        let key: StrDeserializer<'_, Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Error> {
        if let Some(node) = self.value.take() {
            return seed.deserialize(Value { node, context: self.context }).map_err(|error| error.at(node.id));
        }
        match self.stood_in.checked_sub(1).and_then(|last| self.lacking.get(last)) {
            Some(key) => self.context.stand_ins.of(self.known, key).read(seed),
            None => Err(Error::custom("a value was read before its key")),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len() + self.lacking.len() - self.stood_in)
    }
}

/// The entries of a list that are not lost.
struct Items<'t, 'c> {
    items: std::slice::Iter<'t, Node>,
    context: &'c Context<'t>,
}

impl<'t> SeqAccess<'t> for Items<'t, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let context = self.context;
        match self.items.find(|item| !context.is_lost(item)) {
            Some(node) => seed.deserialize(Value { node, context }).map(Some).map_err(|error| error.at(node.id)),
            None => Ok(None),
        }
    }
}

/// Asks what the entries of a list would be, and gives none.
struct Probe<'p>(&'p Cell<bool>);

impl Probe<'_> {
    /// Whether they are secrets, or there for what is secret in them.
    fn takes_secrets<'t, V: Visitor<'t>>(visitor: V) -> bool {
        let takes = Cell::new(false);
        // It fails, for there is nothing to read.
        drop(visitor.visit_seq(Probe(&takes)));
        takes.get()
    }
}

impl<'t> SeqAccess<'t> for Probe<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        seed.deserialize(Probe(self.0)).map(Some)
    }
}

impl<'t> Deserializer<'t> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'t>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::quiet())
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, name: &'static str, _: V) -> Result<V::Value, Error> {
        self.0.set(matches!(name, SECRET | KEY_HASH));
        Err(Error::quiet())
    }

    fn deserialize_struct<V: Visitor<'t>>(self, _: &'static str, known: Keys, _: V) -> Result<V::Value, Error> {
        self.0.set(holds_secrets(known));
        Err(Error::quiet())
    }

    forward_to_deserialize_any! {
        <W: Visitor<'t>> bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// One of several names, with a value when it stands as `name: value`.
struct Choice<'t, 'c> {
    name: &'t Node,
    value: Option<&'t Node>,
    context: &'c Context<'t>,
}

impl<'t> EnumAccess<'t> for Choice<'t, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.text().into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'t> Choice<'t, '_> {
    fn value(&self) -> Result<Value<'t, '_>, Error> {
        let name = self.name.text();
        match self.value {
            Some(node) => Ok(Value { node, context: self.context }),
            None => {
                Err(Error::new(format!("`{name}` needs a value"), Some(format!("write `{name}: …` below the key"))))
            }
        }
    }
}

impl<'t> VariantAccess<'t> for Choice<'t, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.value {
            None => Ok(()),
            Some(_) => {
                let name = self.name.text();
                Err(Error::new(format!("`{name}` takes no value"), Some(format!("write `{name}` alone"))))
            }
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<S::Value, Error> {
        let value = self.value()?;
        value.here(seed.deserialize(value))
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.value()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'t>>(self, known: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.value()?.deserialize_struct("", known, visitor)
    }
}
