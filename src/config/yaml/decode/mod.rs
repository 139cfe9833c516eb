//! Reads a tree into typed values and reports everything that does not fit.
//!
//! Types use plain `#[derive(Deserialize)]`, which stops at the first mistake. So: a value that does not fit is
//! reported, *lost* (as if it were absent), and the document is read again, until it can be read or nothing is left.
//! What follows from a loss (a key that is missing because its value was lost) is not reported. Where a mapping lacks a key
//! that it must have, another value stands in for it, so that the rest of the mapping is read, and checked later.
//!
//! Of a key that stands in a mapping several times the first value is the document's. Once that could be read, the document is
//! read again with the others in its place, for the mistakes in them: in their form here, in their meaning by who compiles it.
//!
//! `flatten`, `untagged` and internally tagged enums buffer values and lose their places: no type here uses them.

mod hide;
mod inside;
pub(crate) mod places;
mod value;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use serde::de::DeserializeOwned;

use super::super::foreign;
use super::super::issue::{ISSUES_MAX, Issue, Issues, KeyPath, Segment, quote, suggest};
use super::error::{Problem, known_names, list};
use super::secrecy;
use super::stand_in::{Keys, StandIns};
use super::tree::{Content, Entry, Node, NodeId, Scalar, Style, Tree};
use hide::{holds_secrets, is_about_secret, is_secret_key, masked, without_secrets};
use places::Places;
use value::Value;

/// How often a document is read. Each time at least one more mistake is found.
const ROUNDS_MAX: usize = 200;

/// How many more values of repeated keys are read, each time with the whole document around them.
const TURNS_MAX: usize = 8;

/// For how many unknown keys it is found out where they belong.
const LOOKUPS_MAX: usize = 100;

/// How many keys of a mapping are told beside a place elsewhere.
const SHOWN_MAX: usize = 8;

/// The name by which [`Setting`](crate::config::value::Setting) makes itself known.
pub(crate) const SETTING: &str = "$armiger::Setting";
/// The name by which [`Secret`](crate::config::value::Secret) makes itself known.
pub(crate) const SECRET: &str = "$armiger::Secret";
/// The name by which [`KeyHash`](crate::config::value::KeyHash) makes itself known.
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
    /// Secrets that are the default of their reference, which stands in the file.
    pub(crate) defaulted: Vec<KeyPath>,
    /// Whether a key stands in a mapping several times.
    pub(crate) is_repeated: bool,
    /// The same with other values of such keys in it, in as many turns as it takes to read them all, and not too many.
    pub(crate) turns: Vec<Turn<T>>,
}

/// What was read of a tree with other values of repeated keys. The rest is as in [`Decoded`].
pub(crate) struct Turn<T> {
    pub(crate) value: T,
    /// The keys whose values these are.
    pub(crate) chosen: HashSet<NodeId>,
    pub(crate) lost: HashSet<NodeId>,
    pub(crate) misspelt: HashSet<(NodeId, String)>,
    pub(crate) stood_in: HashMap<NodeId, Rc<[&'static str]>>,
}

/// Reads the tree of a text. Adds what does not fit to `issues`, its nodes to `lost`, and to `concealed` where the file holds a
/// secret in plain text. `required`: which keys a mapping must have, by those that it may have. `places`: where in the types a
/// key belongs that stands in such a mapping.
pub(crate) fn decode<T: DeserializeOwned>(
    text: &str,
    tree: &Tree,
    issues: &mut Issues,
    lost: &mut HashSet<NodeId>,
    concealed: &mut Vec<Range<usize>>,
    required: &dyn Fn(&[&str]) -> Vec<String>,
    places: &dyn Fn(&[&str], &str) -> Places,
) -> Decoded<T> {
    let context = Context {
        text,
        stand_ins: StandIns::new(required),
        places,
        lookups: Cell::new(LOOKUPS_MAX),
        stood_in: RefCell::default(),
        is_broken: Cell::new(!issues.is_empty()),
        tree,
        lost: RefCell::new(std::mem::take(lost)),
        issues: RefCell::new(std::mem::take(issues)),
        noted: RefCell::default(),
        misspelt: RefCell::default(),
        repeated: RefCell::default(),
        defaulted: RefCell::default(),
        structs: RefCell::default(),
        concealed: RefCell::default(),
    };
    let mut rounds = ROUNDS_MAX;
    let value = context.read(&mut rounds);
    let misspelt = context.misspelt.borrow().clone();
    let stood_in = context.stood_in.borrow().clone();
    *lost = context.lost.borrow().clone();
    let mut turns = Vec::new();
    if value.is_some() {
        context.is_broken.set(true);
        for _ in 0..TURNS_MAX {
            let is_full = context.issues.borrow().len() >= ISSUES_MAX;
            if is_full || !context.turn() {
                break;
            }
            let Some(value) = context.read(&mut rounds) else { break };
            turns.push(context.turned(value));
        }
    }
    *issues = context.issues.into_inner();
    concealed.append(&mut context.concealed.into_inner());
    let is_repeated = !context.repeated.borrow().read.is_empty();
    Decoded { value, misspelt, stood_in, defaulted: context.defaulted.into_inner(), is_repeated, turns }
}

/// What is known over all rounds.
struct Context<'t> {
    text: &'t str,
    stand_ins: StandIns<'t>,
    places: &'t dyn Fn(&[&str], &str) -> Places,
    /// How often that is asked yet: it walks through all types.
    lookups: Cell<usize>,
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
    repeated: RefCell<Repeated>,
    defaulted: RefCell<Vec<KeyPath>>,
    /// The mappings that are being read, outermost first, with the keys they know.
    structs: RefCell<Vec<(NodeId, Keys)>>,
    concealed: RefCell<Vec<Range<usize>>>,
}

/// Entries whose key stands in their mapping several times, by the nodes of their keys.
#[derive(Default)]
struct Repeated {
    /// Those that were read, with all that is in them.
    read: HashSet<NodeId>,
    /// Those that are read this time, each with its value.
    now: HashMap<NodeId, NodeId>,
    /// Those that were seen and not read yet.
    left: HashSet<NodeId>,
}

impl Context<'_> {
    /// Reads the document, over and over until nothing more is wrong with it. `None`: nothing is left of it, or it was read too
    /// often.
    fn read<T: DeserializeOwned>(&self, rounds: &mut usize) -> Option<T> {
        while *rounds > 0 {
            *rounds -= 1;
            self.structs.borrow_mut().clear();
            let error = match T::deserialize(Value { node: &self.tree.root, context: self }) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let node = error.node.unwrap_or(self.tree.root.id);
            let was_broken = self.is_broken.replace(true);
            let goes_on = match error.problem {
                // From now on mappings are looked at for what they lack.
                Problem::Missing { .. } if !was_broken => true,
                Problem::Refused { keys, key } => self.stand_ins.refuse(keys, key),
                _ => false,
            };
            if !goes_on {
                self.report(node, error.problem);
                if !self.lose(node) {
                    return None;
                }
            }
        }
        None
    }

    /// Puts other values of repeated keys in the place of those that were read. `false`: there are none that can be reached.
    fn turn(&self) -> bool {
        let Repeated { read, now, left } = &mut *self.repeated.borrow_mut();
        let around = |id: &NodeId| std::iter::successors(Some(*id), |id| self.tree.parent(*id));
        let lost = self.lost.borrow();
        left.retain(|key| !around(key).any(|node| lost.contains(&node)));
        let within: HashSet<NodeId> = left.iter().flat_map(around).collect();
        let before = read.len();
        read.extend(now.drain().filter(|(_, value)| !within.contains(value)).map(|(key, _)| key));
        left.retain(|key| !read.contains(key));
        read.len() > before && !left.is_empty()
    }

    fn turned<T>(&self, value: T) -> Turn<T> {
        Turn {
            value,
            chosen: self.repeated.borrow().now.keys().copied().collect(),
            lost: self.lost.borrow().clone(),
            misspelt: self.misspelt.borrow().clone(),
            stood_in: self.stood_in.borrow().clone(),
        }
    }

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

    /// Notes a secret that is the default of its reference. That one is as open as a secret without a reference.
    fn default_of(&self, node: &Node) {
        let Some(Scalar { text, reference: Some(written), .. }) = node.scalar() else { return };
        let defaults = secrecy::defaults(written);
        if defaults.is_empty() || !self.noted.borrow_mut().insert(node.id) {
            return;
        }
        self.conceal(node);
        if defaults.into_iter().any(|default| text.contains(&written[default])) {
            self.defaulted.borrow_mut().push(self.tree.path(node.id));
        }
    }

    /// Whether a value that stands in the file must not be shown: its type says so, its name, or what it is.
    fn is_secret(&self, node: &Node) -> bool {
        let is_within = |span: &Range<usize>| span.start <= node.span.start && node.span.end <= span.end;
        self.concealed.borrow().iter().any(is_within)
            || self.name(node).is_some_and(|name| secrecy::is_secret_name(&name))
            || node.scalar().is_some_and(|scalar| secrecy::is_private_key(&scalar.text))
    }

    /// Whether a value is about a secret, which may stand in its place by mistake.
    fn is_about_secret(&self, node: &Node) -> bool {
        self.name(node).is_some_and(|name| is_about_secret(&name))
    }

    /// The nearest key around a value.
    fn name(&self, node: &Node) -> Option<String> {
        let path = self.tree.path(node.id);
        path.segments().iter().rev().find_map(|segment| match segment {
            Segment::Key(key) => Some(key.clone()),
            Segment::Index(_) => None,
        })
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
                    Some(Scalar { text, reference: Some(reference), .. }) if self.is_secret(node) => {
                        let shown = secrecy::without_defaults(reference);
                        masked(&message.replace(&**reference, &shown), hint, text, &shown)
                    }
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
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
        // Of each key all entries. There is one, but for a mistake.
        let mut all: Vec<(&Entry, Vec<&Entry>)> = Vec::with_capacity(entries.len());
        for entry in entries {
            match places.get(entry.key.text()).and_then(|place| all.get_mut(*place)) {
                Some((first, more)) => {
                    self.repeated_key(entry, first, known);
                    more.push(entry);
                }
                None => {
                    places.insert(entry.key.text(), all.len());
                    all.push((entry, Vec::new()));
                }
            }
        }
        let chosen =
            all.into_iter().map(|(first, more)| if more.is_empty() { first } else { self.choose(first, &more) });
        chosen.filter(|entry| !self.is_lost(&entry.key) && !self.is_lost(&entry.value)).collect()
    }

    fn repeated_key(&self, entry: &Entry, first: &Entry, known: Keys) {
        let text = entry.key.text();
        // It may be lost before anybody knows what is in it.
        let is_plain = entry.value.scalar().is_some() && known.contains(&text) && !is_about_secret(text);
        if is_secret_key(text) || holds_secrets(known) && !is_plain {
            self.conceal(&entry.value);
        }
        if self.noted.borrow_mut().insert(entry.key.id) {
            self.note(
                Issue::new(self.tree.path(entry.key.id), format!("the key {} stands here twice", quote(text)))
                    .span(entry.key.span.clone())
                    .also(first.key.span.clone(), "first here")
                    .hint("keep one of them"),
            );
        }
    }

    /// Which entry of a repeated key is read this time: the first that was not, or else the first.
    fn choose<'t>(&self, first: &'t Entry, more: &[&'t Entry]) -> &'t Entry {
        let Repeated { read, now, left } = &mut *self.repeated.borrow_mut();
        let mut unread =
            std::iter::once(first).chain(more.iter().copied()).filter(|entry| !read.contains(&entry.key.id));
        let chosen = unread.next().unwrap_or(first);
        left.extend(unread.map(|entry| entry.key.id));
        now.insert(chosen.key.id, chosen.value.id);
        chosen
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
        let places = OnceCell::new();
        let find = || {
            let left = self.lookups.get();
            self.lookups.set(left.saturating_sub(1));
            if left > 0 { (self.places)(known, name) } else { Places::default() }
        };
        let unspaced = name.split_once(':').map(|(before, _)| before).filter(|before| known.contains(before));
        let hint = if let Some(meant) = foreign::key(name, known, |key| !present.contains(key)) {
            meant.keys.iter().for_each(|key| self.goes_under(owner, key, name));
            meant.hint
        } else if let Some(inner) = belongs_inside(name, known) {
            self.goes_under(owner, inner, name);
            format!("{} goes under `{inner}`", quote(name))
        } else if let Some(meant) = unspaced {
            self.misspelt.borrow_mut().insert((owner.id, meant.to_owned()));
            "put a space after the `:`".to_owned()
        } else if let Some(kind) =
            self.name(owner).filter(|kind| known.contains(&kind.as_str()) && known.contains(&"mtls"))
        {
            known.iter().for_each(|key| self.goes_under(owner, key, name));
            format!("a provider has a name of its own around this: `identity: {{NAME: {{{kind}: {{…}}}}}}`")
        } else if let Some(near) = near {
            let hint = format!("did you mean `{near}`?");
            self.misspelt.borrow_mut().insert((owner.id, near));
            hint
        } else if let Some((hint, inner)) = places::inside(places.get_or_init(find), name) {
            inner.iter().for_each(|inner| self.goes_under(owner, inner, name));
            hint
        } else if let Some((outer, key)) = self.belongs_outside(owner, name) {
            self.misspelt.borrow_mut().insert((outer, name.to_owned()));
            format!("{} goes beside {}, not in it", quote(name), quote(&key))
        } else if let Some(meant) = foreign::name(known) {
            meant.keys.iter().for_each(|key| self.goes_under(owner, key, name));
            meant.hint
        } else if let Some(hint) = places::elsewhere(places.get_or_init(find), name) {
            // A word that many settings have may be meant as another one of these.
            if known.len() <= SHOWN_MAX { format!("{hint}; {}", known_names("key", known)) } else { hint }
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

    /// Notes that a key of a mapping may be missing only since what it should hold stands beside it, and the other way round.
    fn goes_under(&self, owner: &Node, inner: &str, name: &str) {
        let mut misspelt = self.misspelt.borrow_mut();
        misspelt.insert((owner.id, inner.to_owned()));
        if let Some(entry) = owner.entry(inner) {
            misspelt.insert((entry.value.id, name.to_owned()));
        }
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

/// Keys that are looked for a level too high: the key that they belong to, one that stands beside that, and they.
pub(crate) const INSIDE: [(&str, &str, &[&str]); 2] = [
    (
        "match",
        "name",
        &["hosts", "path", "path_prefix", "path_regex", "methods", "headers", "query", "cookies", "path_allow"],
    ),
    ("keys", "issuer", &["secret", "secrets", "secret_encoding", "pem", "jwks", "jwks_url", "discover"]),
];

/// The one of these keys that a name belongs under.
fn belongs_inside(name: &str, known: &[&str]) -> Option<&'static str> {
    let is_it = |(inner, beside, names): &&(&str, &str, &[&str])| {
        known.contains(inner) && known.contains(beside) && names.contains(&name)
    };
    INSIDE.iter().find(is_it).map(|(inner, ..)| *inner)
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
