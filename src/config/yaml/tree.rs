//! The YAML text as a tree whose every key and value knows its bytes in the file.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

use super::super::issue::{Issue, KeyPath, Segment, quote};
use super::syntax;

/// How deep lists and mappings may nest, aliases included.
pub(crate) const DEPTH_MAX: usize = 48;
/// How many values and keys a file may have, with every alias counted as what it stands for.
pub(crate) const NODES_MAX: usize = 200_000;
/// How many bytes of text its values and keys may have, with every alias counted as what it stands for.
pub(crate) const TEXT_MAX: usize = 4 * 1024 * 1024;

/// A number that tells one node of a tree from the others. The copies that aliases make have numbers of their own.
pub(crate) type NodeId = u32;

/// A value, or a key.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Bytes in the file. Of an alias: of the `*name`; the nodes below it have the bytes of their definition.
    pub(crate) span: Range<usize>,
    pub(crate) content: Content,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A single value, as text: what it means is for the reader to decide.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) style: Style,
    /// What stands in the file, if the text came from the environment or another file, in part at least: the text must not
    /// be shown, and this is shown in its place.
    pub(crate) reference: Option<Arc<str>>,
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without quotes.
    Plain,
    /// In quotes, or as a block (`|`, `>`).
    Quoted,
    /// Not at all: a key with nothing after its colon.
    Absent,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Node,
    pub(crate) value: Node,
}

/// A parsed file.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) root: Node,
    parents: HashMap<NodeId, NodeId>,
}

impl Scalar {
    /// Whether it says "no value": nothing, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        match self.style {
            Style::Absent => true,
            Style::Plain => !self.is_outside() && matches!(self.text.as_str(), "~" | "null" | "Null" | "NULL"),
            Style::Quoted => false,
        }
    }

    /// Whether its text may be a number or a boolean. A value from outside may although it is quoted, since within
    /// `{ }` a `${…}` has to be.
    pub(crate) fn is_bare(&self) -> bool {
        self.style == Style::Plain || self.is_outside()
    }

    /// Whether its text, or a part of it, does not stand in the file.
    pub(crate) fn is_outside(&self) -> bool {
        self.reference.is_some()
    }

    /// What a message shows of it.
    pub(crate) fn shown(&self) -> &str {
        self.reference.as_deref().unwrap_or(&self.text)
    }
}

impl Node {
    /// The scalar, if it is one.
    pub(crate) fn scalar(&self) -> Option<&Scalar> {
        match &self.content {
            Content::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The text of a scalar, else an empty one.
    pub(crate) fn text(&self) -> &str {
        self.scalar().map_or("", |scalar| scalar.text.as_str())
    }

    /// The first entry of that key, if this is a mapping that has one.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key.text() == key),
            _ => None,
        }
    }
}

impl Tree {
    pub(crate) fn new(root: Node) -> Self {
        let mut parents = HashMap::new();
        let mut open = vec![&root];
        while let Some(node) = open.pop() {
            match &node.content {
                Content::Scalar(_) => {}
                Content::List(items) => {
                    for item in items {
                        parents.insert(item.id, node.id);
                        open.push(item);
                    }
                }
                Content::Mapping(entries) => {
                    for entry in entries {
                        parents.insert(entry.key.id, node.id);
                        parents.insert(entry.value.id, node.id);
                        open.push(&entry.value);
                    }
                }
            }
        }
        Self { root, parents }
    }

    /// The node that this one stands in.
    pub(crate) fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.parents.get(&id).copied()
    }

    /// The keys and positions that lead to a key or value, as they stand in the file.
    pub(crate) fn path(&self, id: NodeId) -> KeyPath {
        let mut chain = vec![id];
        while let Some(parent) = self.parent(chain[chain.len() - 1]) {
            chain.push(parent);
        }
        let mut path = KeyPath::root();
        let mut node = &self.root;
        for next in chain.into_iter().rev().skip(1) {
            let found = match &node.content {
                Content::Scalar(_) => None,
                Content::List(items) => {
                    items.iter().enumerate().find(|(_, item)| item.id == next).map(|(index, item)| {
                        path.push(Segment::Index(index));
                        item
                    })
                }
                Content::Mapping(entries) => {
                    entries.iter().find(|entry| entry.key.id == next || entry.value.id == next).map(|entry| {
                        path.push(Segment::Key(entry.key.text().to_owned()));
                        &entry.value
                    })
                }
            };
            match found {
                Some(found) => node = found,
                None => break,
            }
        }
        path
    }
}

/// How much of what a configuration may have is used up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    nodes: usize,
    bytes: usize,
}

impl Used {
    /// A number for a node that stands in no file.
    pub(crate) fn fresh(&mut self) -> NodeId {
        self.nodes += 1;
        number(self.nodes)
    }
}

/// What became of a file's text.
pub(crate) struct Parsed {
    pub(crate) root: Node,
    /// With this file.
    pub(crate) used: Used,
    /// Of things that YAML has and a configuration may not. The tree is without them.
    pub(crate) issues: Vec<Issue>,
    /// Values that are not what was meant, which an issue has told already.
    pub(crate) broken: Vec<NodeId>,
    /// Why the tree ends before the text does.
    pub(crate) end: Option<End>,
}

/// Why a tree ends before its text.
pub(crate) enum End {
    /// Another document begins at this byte, which `issues` tells.
    Document(usize),
    /// From somewhere on the text is no YAML. The tree has what was read until then, with nothing for what had not ended; the
    /// mistake itself may stand before it.
    Break(Box<Issue>),
}

/// Parses a file. Its nodes have other numbers than those of the files before, which used up so much. `Err`: it cannot be
/// read as YAML.
pub(crate) fn parse(text: &str, used: Used) -> Result<Parsed, Box<Issue>> {
    let mut options = granit_parser::options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        disallow_directives: true,
    };
    options.set_emit_comments(false);
    let mut builder = Builder { text, nodes: used.nodes, bytes: used.bytes, ..Builder::default() };
    let mut end = None;
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((Event::DocumentStart(..), span)) if builder.root.is_some() => {
                let bytes = span.byte_range().unwrap_or(0..0);
                let says_nothing = |node: &Node| node.scalar().is_some_and(|scalar| scalar.style == Style::Absent);
                let is_first = builder.root.take_if(|root| says_nothing(root)).is_some();
                let hint = match is_first {
                    true => "a configuration is one document: remove this `---`, or the one above",
                    false => {
                        "a configuration is one document: remove this `---` and what is not needed; nothing below it was checked"
                    }
                };
                let issue = Issue::new(KeyPath::root(), "a second document begins here").span(bytes.clone()).hint(hint);
                builder.issues.push(issue);
                if !is_first {
                    end = Some(End::Document(bytes.start));
                    break;
                }
            }
            Ok((event, span)) => {
                let mut bytes = span.byte_range().unwrap_or(0..0);
                if let Some(tag) = span.tag_span().and_then(|tag| tag.byte_range()) {
                    // A text that begins with `!` is one: what is hidden of it begins there.
                    bytes.start = bytes.start.min(tag.start);
                    builder.note(
                        tag,
                        "a value has a tag (`!…`)",
                        "remove the tag; put quotes around a text that needs them",
                    );
                }
                if let Err(issue) = builder.event(event, bytes) {
                    end = Some(End::Break(issue));
                    break;
                }
            }
            Err(error) => {
                let path = |at: usize| builder.path_at(at);
                end = Some(End::Break(Box::new(syntax::explain(text, &error, &path))));
                break;
            }
        }
    }
    if let Some(End::Break(_)) = &end {
        builder.close();
    }
    match (builder.root, end) {
        (Some(root), end) => {
            let used = Used { nodes: builder.nodes, bytes: builder.bytes };
            Ok(Parsed { root, used, issues: builder.issues, broken: builder.broken, end })
        }
        (None, Some(End::Break(issue))) => Err(issue),
        (None, _) => Err(Box::new(
            Issue::new(KeyPath::root(), "the file says nothing")
                .span(0..0)
                .hint("it needs at least `listeners` and `routes`"),
        )),
    }
}

/// An anchored value, with what a copy of it costs.
struct Anchored {
    node: Node,
    nodes: usize,
    bytes: usize,
    height: usize,
}

enum Frame {
    List { anchor: usize, start: usize, items: Vec<Node> },
    Mapping { anchor: usize, start: usize, entries: Vec<Entry>, key: Option<Node>, broken: bool },
}

#[derive(Default)]
struct Builder<'t> {
    text: &'t str,
    frames: Vec<Frame>,
    root: Option<Node>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    bytes: usize,
    issues: Vec<Issue>,
    broken: Vec<NodeId>,
}

impl Builder<'_> {
    /// Where the parser is.
    fn path(&self) -> KeyPath {
        let mut path = KeyPath::root();
        for frame in &self.frames {
            match frame {
                Frame::List { items, .. } => path.push(Segment::Index(items.len())),
                Frame::Mapping { key: Some(key), .. } => path.push(Segment::Key(key.text().to_owned())),
                Frame::Mapping { key: None, .. } => {}
            }
        }
        path
    }

    /// Where a place is at which the parser gave up. Whether the entry of a list has ended is just what it does not know.
    fn path_at(&self, at: usize) -> KeyPath {
        let mut path = self.path();
        // What a key has behind its colon ends with the line, unless it says that it does not.
        if let Some(Frame::Mapping { key: Some(key), .. }) = self.frames.last()
            && let Some(after) = self.text.get(key.span.end..at)
            && let Some((line, _)) = after.split_once('\n')
            && let value = line.trim_start_matches(['"', '\'']).trim_start_matches([':', ' ', '\t'])
            && !value.trim_end().is_empty()
            && !value.starts_with(['"', '\'', '[', '{', '|', '>', '&', '!', '#'])
        {
            path.pop();
        }
        path.without_last_index()
    }

    fn note(&mut self, span: Range<usize>, message: impl Into<String>, hint: &str) {
        // One is enough to refuse the file; a hostile one could have as many as it has bytes.
        if self.issues.len() < 100 {
            self.issues.push(Issue::new(self.path(), message).span(span).hint(hint.to_owned()));
        }
    }

    fn fresh(&mut self, bytes: usize, span: &Range<usize>) -> Result<NodeId, Box<Issue>> {
        self.bytes += bytes;
        let id = self.next();
        self.within_budget(span)?;
        Ok(id)
    }

    fn within_budget(&self, span: &Range<usize>) -> Result<(), Box<Issue>> {
        if self.nodes > NODES_MAX || self.bytes > TEXT_MAX {
            return Err(Box::new(
                Issue::new(self.path(), "the file is too large from here on").span(span.clone()).hint(
                    "an alias counts as often as it is used; use fewer, or split the work among several armigers",
                ),
            ));
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, span: Range<usize>) -> Result<(), Box<Issue>> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let style = match style {
                    ScalarStyle::Plain if span.is_empty() => Style::Absent,
                    ScalarStyle::Plain => Style::Plain,
                    _ => Style::Quoted,
                };
                let text = if style == Style::Absent { String::new() } else { text.into_owned() };
                let id = self.fresh(text.len(), &span)?;
                let content = Content::Scalar(Scalar { text, style, reference: None });
                self.complete(Node { id, span, content }, anchor)?;
            }
            Event::Alias(anchor) => self.alias(anchor, span)?,
            Event::SequenceStart(_, anchor, _) => {
                self.open(&span)?;
                self.frames.push(Frame::List { anchor, start: span.start, items: Vec::new() });
            }
            Event::MappingStart(_, anchor, _) => {
                self.open(&span)?;
                self.frames.push(Frame::Mapping {
                    anchor,
                    start: span.start,
                    entries: Vec::new(),
                    key: None,
                    broken: false,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.frames.pop() {
                    let id = self.fresh(0, &span)?;
                    let (node, anchor) = self.collection(frame, id, &span);
                    self.complete(node, anchor)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A list or mapping that has ended, and its anchor.
    fn collection(&mut self, frame: Frame, id: NodeId, span: &Range<usize>) -> (Node, usize) {
        match frame {
            Frame::List { anchor, start, items } => {
                let end = end_of(items.last().map(|item| item.span.end), start, span);
                (Node { id, span: start..end, content: Content::List(items) }, anchor)
            }
            Frame::Mapping { anchor, start, entries, broken, .. } => {
                let last = entries.last().map(|entry| entry.value.span.end.max(entry.key.span.end));
                let end = end_of(last, start, span);
                if broken {
                    self.broken.push(id);
                }
                (Node { id, span: start..end, content: Content::Mapping(self.merge(entries)) }, anchor)
            }
        }
    }

    /// Ends all that is open, where nothing more can be read.
    fn close(&mut self) {
        while let Some(mut frame) = self.frames.pop() {
            if let Frame::Mapping { entries, key, .. } = &mut frame
                && let Some(key) = key.take().filter(|key| key.scalar().is_some())
            {
                let end = key.span.end;
                let value = Scalar { text: String::new(), style: Style::Absent, reference: None };
                let value = Node { id: self.next(), span: end..end, content: Content::Scalar(value) };
                entries.push(Entry { key, value });
            }
            let id = self.next();
            // No alias comes any more.
            let (node, _) = self.collection(frame, id, &(0..0));
            // What it takes was counted when it was read.
            let _ = self.complete(node, 0);
        }
    }

    fn next(&mut self) -> NodeId {
        self.nodes += 1;
        number(self.nodes)
    }

    fn open(&self, span: &Range<usize>) -> Result<(), Box<Issue>> {
        if self.frames.len() >= DEPTH_MAX {
            return Err(Box::new(self.too_deep(span)));
        }
        Ok(())
    }

    fn too_deep(&self, span: &Range<usize>) -> Issue {
        Issue::new(KeyPath::root(), "lists and mappings nest too deep here")
            .span(span.clone())
            .hint(format!("no setting is deeper than a few levels; the most is {DEPTH_MAX}"))
    }

    fn alias(&mut self, anchor: usize, span: Range<usize>) -> Result<(), Box<Issue>> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(Box::new(
                Issue::new(self.path(), "an alias stands within what it stands for")
                    .span(span)
                    .hint("a value cannot hold itself; move the `&` further in"),
            ));
        };
        if self.frames.len() + anchored.height > DEPTH_MAX {
            return Err(Box::new(self.too_deep(&span)));
        }
        let (nodes, bytes) = (anchored.nodes, anchored.bytes);
        let first = self.nodes + 1;
        // Counted before it is made: ten lines of aliases can stand for more than the machine's memory.
        self.nodes += nodes;
        self.bytes += bytes;
        self.within_budget(&span)?;
        let Some(anchored) = self.anchors.get(&anchor) else { return Ok(()) };
        let mut next = number(first);
        let mut node = anchored.node.clone();
        renumber(&mut node, &mut next);
        node.span = span;
        self.complete(node, 0)
    }

    /// A value is read to its end: hands it to what it stands in.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Box<Issue>> {
        if anchor > 0 {
            let (nodes, bytes, height) = measure(&node);
            // The copy kept for the aliases costs as much as one of them.
            self.nodes += nodes;
            self.bytes += bytes;
            self.within_budget(&node.span)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, bytes, height });
        }
        match self.frames.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Mapping { entries, key, .. }) => match key.take() {
                None => *key = Some(node),
                Some(key) if key.scalar().is_none() => self.refuse_key(&key),
                Some(key) => entries.push(Entry { key, value: node }),
            },
        }
        Ok(())
    }

    fn refuse_key(&mut self, key: &Node) {
        let line = key.span.start..first_line_end(self.text, &key.span);
        // `{{ .Values.port }}` is a mapping with a mapping for a key.
        if self.text[..key.span.start].ends_with('{') && self.text[key.span.start..].starts_with('{') {
            self.note(
                key.span.start - 1..line.end,
                "this looks like a template that was not filled in",
                "render the template first; a text that really begins with `{{` needs quotes",
            );
            if let Some(Frame::Mapping { broken, .. }) = self.frames.last_mut() {
                *broken = true;
            }
        } else {
            self.note(line, "a key is a list or a mapping", "a key is a name; put quotes around an unusual one");
        }
    }

    /// Puts the entries of `<<` in, after the mapping's own, which win.
    fn merge(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let is_merge = |entry: &Entry| {
            entry.key.text() == "<<" && entry.key.scalar().is_some_and(|scalar| scalar.style == Style::Plain)
        };
        if !entries.iter().any(is_merge) {
            return entries;
        }
        let (merges, mut merged): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(is_merge);
        let mut taken: HashSet<String> = merged.iter().map(|entry| entry.key.text().to_owned()).collect();
        for merge in merges {
            let span = merge.value.span.clone();
            let sources = match merge.value.content {
                Content::List(items) => items,
                _ => vec![merge.value],
            };
            for source in sources {
                match source.content {
                    Content::Mapping(entries) => {
                        merged.extend(entries.into_iter().filter(|entry| taken.insert(entry.key.text().to_owned())));
                    }
                    _ => self.note(
                        span.clone(),
                        "`<<` takes the keys of a mapping, and this is none",
                        "write `<<: *name`, where `&name` marks a mapping above",
                    ),
                }
            }
        }
        merged
    }
}

fn end_of(last: Option<usize>, start: usize, end: &Range<usize>) -> usize {
    // A flow collection ends with its bracket. A block has none, and comments may lie between its last value and the
    // event of its end.
    if end.is_empty() { last.unwrap_or(end.end).max(start) } else { end.end }
}

/// Nodes, bytes of text and levels of a value.
fn measure(node: &Node) -> (usize, usize, usize) {
    let sum = |(nodes, bytes, height): (usize, usize, usize), child: &Node| {
        let (n, b, h) = measure(child);
        (nodes + n, bytes + b, height.max(h + 1))
    };
    match &node.content {
        Content::Scalar(scalar) => (1, scalar.text.len(), 0),
        Content::List(items) => items.iter().fold((1, 0, 1), sum),
        Content::Mapping(entries) => {
            entries.iter().fold((1, 0, 1), |total, entry| sum(sum(total, &entry.key), &entry.value))
        }
    }
}

fn number(count: usize) -> NodeId {
    NodeId::try_from(count).unwrap_or(NodeId::MAX)
}

/// Moves a value and all in it to where its file stands among the others.
pub(crate) fn shift(node: &mut Node, by: usize) {
    node.span = node.span.start + by..node.span.end + by;
    match &mut node.content {
        Content::Scalar(_) => {}
        Content::List(items) => items.iter_mut().for_each(|item| shift(item, by)),
        Content::Mapping(entries) => {
            for entry in entries {
                shift(&mut entry.key, by);
                shift(&mut entry.value, by);
            }
        }
    }
}

fn renumber(node: &mut Node, next: &mut NodeId) {
    node.id = *next;
    *next = next.saturating_add(1);
    match &mut node.content {
        Content::Scalar(_) => {}
        Content::List(items) => items.iter_mut().for_each(|item| renumber(item, next)),
        Content::Mapping(entries) => {
            for entry in entries {
                renumber(&mut entry.key, next);
                renumber(&mut entry.value, next);
            }
        }
    }
}

/// Where the first line of a span ends, without the white space at its end.
pub(crate) fn first_line_end(text: &str, span: &Range<usize>) -> usize {
    let slice = text.get(span.clone()).unwrap_or("");
    let line = slice.lines().next().unwrap_or("").trim_end();
    span.start + line.len()
}

/// A description of a value for "found …". Never shows a value from outside.
pub(crate) fn found(node: &Node) -> String {
    match &node.content {
        Content::List(items) if items.is_empty() => "an empty list".into(),
        Content::List(_) => "a list".into(),
        Content::Mapping(_) => "a mapping".into(),
        Content::Scalar(scalar) if scalar.style == Style::Absent => "nothing".into(),
        Content::Scalar(scalar) if scalar.style == Style::Quoted && !scalar.is_outside() => {
            format!("the text {}", quote(scalar.shown()))
        }
        Content::Scalar(scalar) => quote(scalar.shown()),
    }
}
