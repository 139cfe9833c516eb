//! What of a file that ceases to be YAML is believed.

use super::super::yaml::tree::{Content, Entry, Node, NodeId, Scalar, Style};
use super::{LISTS, SHARED};

/// Empties what of a tree cannot be trusted where its text ceases to be YAML: the last two entries of `routes` and the like, or
/// else all of the key that was read last. What made the rest of the text no YAML stands there, or behind it: a line that is out
/// of place may have begun an entry where another one went on, and brackets and quotes that are never closed let nothing around
/// them end. Tells which nodes these are and where the first begins. `None`: it is all of the tree.
pub(super) fn doubtful(root: &mut Node, text: &str) -> Option<(Vec<NodeId>, usize)> {
    if is_flow(root, text) {
        return None;
    }
    let Content::Mapping(entries) = &mut root.content else { return None };
    let (last, before) = entries.split_last_mut()?;
    let is_shared = SHARED.contains(&last.key.text());
    let mut doubtful = tail(last, 2, text);
    if !is_shared && let Some(before) = before.last_mut() {
        doubtful.extend(tail(before, 1, text));
    }
    let from = doubtful.iter().map(|(_, from)| *from).min()?;
    let ids = doubtful.into_iter().map(|(node, _)| {
        // What is said of it would be of something that nobody meant.
        node.content = Content::Scalar(Scalar { text: String::new(), style: Style::Absent, reference: None });
        node.id
    });
    Some((ids.collect(), from))
}

/// So many entries at the end of a list or mapping that files share, if it has more, or else all of it, each with where it begins.
fn tail<'n>(Entry { key, value }: &'n mut Entry, count: usize, text: &str) -> Vec<(&'n mut Node, usize)> {
    let name = key.text();
    let (is_list, is_shared) = (LISTS.contains(&name), SHARED.contains(&name) && !is_flow(value, text));
    let is_long = match &value.content {
        Content::List(items) => is_shared && is_list && items.len() > count,
        Content::Mapping(entries) => is_shared && !is_list && entries.len() > count,
        Content::Scalar(_) => false,
    };
    if !is_long {
        return vec![(value, key.span.start)];
    }
    match &mut value.content {
        Content::List(items) => items
            .iter_mut()
            .rev()
            .take(count)
            .map(|item| {
                let from = item.span.start;
                (item, from)
            })
            .collect(),
        Content::Mapping(entries) => {
            entries.iter_mut().rev().take(count).map(|entry| (&mut entry.value, entry.key.span.start)).collect()
        }
        Content::Scalar(_) => Vec::new(),
    }
}

/// Whether a list or mapping stands in brackets.
fn is_flow(node: &Node, text: &str) -> bool {
    matches!(text.as_bytes().get(node.span.start), Some(b'{' | b'['))
}
