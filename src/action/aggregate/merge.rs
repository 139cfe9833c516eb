//! From parts to one document, in the order of the file whoever answered first. Joins bytes and reads no values.

use std::collections::HashMap;

use crate::action::json::{Kind, View};
use crate::action::shape::Writer;
use crate::config::aggregate::{MergeMode, OnConflict};

/// A part's share of the document.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// Its key, in quotes: in a group its place, elsewhere an object around it, if there is one.
    pub key: Option<&'a [u8]>,
    /// What it says.
    pub value: View<'a>,
}

/// Two parts say different things under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict;

/// Whether a part may say this in a document of that form.
pub fn fits(mode: MergeMode, is_wrapped: bool, kind: Kind) -> bool {
    match mode {
        MergeMode::Group | MergeMode::Concat => true,
        MergeMode::Flat | MergeMode::Deep => is_wrapped || matches!(kind, Kind::Object | Kind::Null),
    }
}

/// Puts the shares together, in their order.
///
/// # Errors
/// Two shares differ under one key, and `on_conflict` leaves no choice.
pub fn merge(mode: MergeMode, on_conflict: OnConflict, shares: &[Share<'_>]) -> Result<Vec<u8>, Conflict> {
    let length: usize =
        shares.iter().map(|share| share.value.bytes().len() + share.key.map_or(0, <[u8]>::len) + 4).sum();
    let mut out = Vec::with_capacity(length + 2);
    match mode {
        MergeMode::Group => {
            let mut object = Writer::object(&mut out);
            for share in shares {
                object.member(share.key.unwrap_or(b"\"\"")).extend_from_slice(share.value.bytes());
            }
            object.end();
        }
        MergeMode::Concat => {
            let mut array = Writer::array(&mut out);
            for share in shares {
                match (share.key, share.value.kind()) {
                    (Some(key), _) => {
                        let mut object = Writer::object(array.next());
                        object.member(key).extend_from_slice(share.value.bytes());
                        object.end();
                    }
                    (None, Kind::Array) => {
                        let inside = share.value.inside();
                        if !inside.is_empty() {
                            array.next().extend_from_slice(inside);
                        }
                    }
                    // No content is no entry.
                    (None, Kind::Null) => {}
                    (None, _) => array.next().extend_from_slice(share.value.bytes()),
                }
            }
            array.end();
        }
        MergeMode::Flat | MergeMode::Deep => {
            let mut object = Object::default();
            let rule = Rule { is_deep: mode == MergeMode::Deep, on_conflict };
            for share in shares {
                match share.key {
                    Some(key) => object.add(key, share.value, rule)?,
                    None => object.add_members(share.value, rule)?,
                }
            }
            object.write(&mut out);
        }
    }
    Ok(out)
}

#[derive(Clone, Copy)]
struct Rule {
    is_deep: bool,
    on_conflict: OnConflict,
}

/// An object that several parts add to.
#[derive(Default)]
struct Object<'a> {
    members: Vec<(&'a [u8], Node<'a>)>,
    places: HashMap<String, usize>,
}

enum Node<'a> {
    /// As a part said it.
    Raw(View<'a>),
    /// What several parts made.
    Made(Object<'a>),
}

impl<'a> Object<'a> {
    /// Adds the members of an object: each once, the last of those with one name in the place of the first.
    fn add_members(&mut self, view: View<'a>, rule: Rule) -> Result<(), Conflict> {
        let mut members: Vec<(&'a [u8], View<'a>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (key, value) in view.members() {
            match places.entry(key.text().into_owned()) {
                std::collections::hash_map::Entry::Occupied(place) => members[*place.get()].1 = value,
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(members.len());
                    members.push((key.bytes(), value));
                }
            }
        }
        members.into_iter().try_for_each(|(key, value)| self.add(key, value, rule))
    }

    /// Recursion is as deep as the documents, which are bounded.
    fn add(&mut self, key: &'a [u8], value: View<'a>, rule: Rule) -> Result<(), Conflict> {
        let name = crate::action::json::decode(key).into_owned();
        let Some(&place) = self.places.get(&name) else {
            self.places.insert(name, self.members.len());
            self.members.push((key, Node::Raw(value)));
            return Ok(());
        };
        let there = &mut self.members[place].1;
        if rule.is_deep && value.kind() == Kind::Object {
            if let Node::Raw(raw) = there
                && raw.kind() == Kind::Object
            {
                let mut made = Object::default();
                made.add_members(*raw, rule)?;
                *there = Node::Made(made);
            }
            if let Node::Made(made) = there {
                return made.add_members(value, rule);
            }
        }
        if matches!(there, Node::Raw(raw) if *raw == value) {
            return Ok(());
        }
        match rule.on_conflict {
            OnConflict::Error => return Err(Conflict),
            OnConflict::First => {}
            OnConflict::Last => *there = Node::Raw(value),
        }
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Writer::object(out);
        for (key, node) in &self.members {
            let out = object.member(key);
            match node {
                Node::Raw(view) => out.extend_from_slice(view.bytes()),
                Node::Made(made) => made.write(out),
            }
        }
        object.end();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::action::json::Json;

    #[track_caller]
    fn check(mode: MergeMode, on_conflict: OnConflict, parts: &[(&str, &str)], expected: Option<&str>) {
        let parts: Vec<(&str, Json)> = parts
            .iter()
            .map(|(key, text)| {
                (*key, Json::check(Bytes::copy_from_slice(text.as_bytes())).expect("the test gives JSON"))
            })
            .collect();
        let shares: Vec<Share<'_>> = parts
            .iter()
            .map(|(key, json)| Share { key: (!key.is_empty()).then_some(key.as_bytes()), value: json.view() })
            .collect();
        let merged = merge(mode, on_conflict, &shares).ok().map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
        assert_eq!(merged.as_deref(), expected);
        if let Some(merged) = merged {
            Json::check(merged.into()).expect("what is merged is JSON");
        }
    }

    use MergeMode::{Concat, Deep, Flat, Group};
    use OnConflict::{Error, First, Last};

    #[test]
    fn a_group_has_a_key_for_each_part_and_their_bytes() {
        check(Group, Error, &[("\"b\"", "{ \"x\":1.0 }"), ("\"a\"", "null")], Some("{\"b\":{ \"x\":1.0 },\"a\":null}"));
        check(Group, Error, &[], Some("{}"));
    }

    #[test]
    fn flat_puts_keys_side_by_side() {
        let parts = [("", r#"{"z":1,"y":{"a":1}}"#), ("", r#"{"y":{"b":2},"x":10}"#), ("", "null")];
        check(Flat, Error, &parts, None);
        check(Flat, First, &parts, Some(r#"{"z":1,"y":{"a":1},"x":10}"#));
        check(Flat, Last, &parts, Some(r#"{"z":1,"y":{"b":2},"x":10}"#));
        check(Flat, Error, &[("", r#"{"a":1}"#), ("\"a\"", "1")], Some(r#"{"a":1}"#));
        check(Flat, Error, &[("", r#"{"a":1,"a":2}"#), ("", r#"{"b":3}"#)], Some(r#"{"a":2,"b":3}"#));
        check(Flat, Error, &[("", r#"{"a":1}"#), ("", r#"{"\u0061":2}"#)], None);
    }

    #[test]
    fn deep_merges_objects_and_nothing_else() {
        let parts = [("", r#"{"o":{"a":1,"p":{"x":1}},"l":[1]}"#), ("", r#"{"o":{"p":{"y":2},"b":2}}"#)];
        check(Deep, Error, &parts, Some(r#"{"o":{"a":1,"p":{"x":1,"y":2},"b":2},"l":[1]}"#));
        let clash = [("", r#"{"o":{"a":1},"l":[1]}"#), ("", r#"{"o":{"a":2},"l":[2]}"#)];
        check(Deep, Error, &clash, None);
        check(Deep, First, &clash, Some(r#"{"o":{"a":1},"l":[1]}"#));
        check(Deep, Last, &clash, Some(r#"{"o":{"a":2},"l":[2]}"#));
        check(
            Deep,
            Last,
            &[("", r#"{"o":{"a":1}}"#), ("", r#"{"o":5}"#), ("", r#"{"o":{"b":1}}"#)],
            Some(r#"{"o":{"b":1}}"#),
        );
    }

    #[test]
    fn concat_joins_lists_and_takes_in_the_rest() {
        check(
            Concat,
            Error,
            &[("", "[1, 2]"), ("", "[ ]"), ("", "{\"a\":1}"), ("", "null"), ("\"k\"", "[3]")],
            Some("[1, 2,{\"a\":1},{\"k\":[3]}]"),
        );
    }

    #[test]
    fn only_objects_lie_side_by_side() {
        assert!(fits(Flat, false, Kind::Object) && fits(Flat, true, Kind::Array) && fits(Deep, false, Kind::Null));
        assert!(!fits(Flat, false, Kind::Array) && !fits(Deep, false, Kind::Text));
        assert!(fits(Group, false, Kind::Text) && fits(Concat, false, Kind::Plain));
    }
}
