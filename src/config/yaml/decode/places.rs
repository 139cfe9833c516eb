//! Where a key belongs that stands where nobody knows it, by the schema of the document.

use std::cell::Cell;

use serde_json::{Map, Value};

use super::super::super::issue::quote;
use super::super::error::list;

/// How deep is looked for a key.
const DEPTH_MAX: usize = 6;
/// In more places than these a key may be anything.
const PLACES_MAX: usize = 3;

/// How many ways through the document are looked up: a file with a mistake has a few.
const WAYS_MAX: usize = 2_000;

/// Where the types know a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Keys of the mapping itself, under which it belongs; and whether each holds a list of such mappings.
    inside: Vec<(String, bool)>,
    /// Everywhere else: `upstreams.<name>`.
    elsewhere: Vec<String>,
}

impl Places {
    /// Where a key belongs that stands in a mapping which may have these.
    pub(crate) fn find(schema: &Value, known: &[&str], name: &str) -> Self {
        let mut places = Self::default();
        visit(schema, schema, &mut String::new(), 0, &mut |path, properties| {
            let is_it = properties.len() == known.len() && known.iter().all(|key| properties.contains_key(*key));
            if is_it && places.inside.is_empty() {
                places.inside = within(schema, properties, name);
            }
            if properties.contains_key(name) && !places.elsewhere.iter().any(|known| known == path) {
                places.elsewhere.push(path.to_owned());
            }
        });
        places
    }
}

/// What to do about a key that belongs under another one of its mapping, and which.
pub(super) fn inside<'p>(places: &'p Places, name: &str) -> Option<(String, Vec<&'p str>)> {
    if places.inside.is_empty() || places.inside.len() > PLACES_MAX {
        return None;
    }
    let keys: Vec<&str> = places.inside.iter().map(|(key, _)| key.as_str()).collect();
    let entries = if places.inside.iter().all(|(_, is_list)| *is_list) { "the entries of " } else { "" };
    Some((format!("{} goes under {entries}{}", quote(name), list(&keys, "or")), keys))
}

/// What to do about a key that belongs to something else.
pub(super) fn elsewhere(places: &Places, name: &str) -> Option<String> {
    let paths: Vec<&str> = places.elsewhere.iter().map(String::as_str).filter(|path| !path.is_empty()).collect();
    ((1..=PLACES_MAX).contains(&paths.len())).then(|| format!("{} is a key of {}", quote(name), list(&paths, "and of")))
}

/// One step of a way through the document.
#[derive(Clone, Copy)]
pub(crate) enum Step<'k> {
    /// To the value of a key.
    Key(&'k str),
    /// To an entry of a list.
    Item,
}

/// What the types know of ways through the document.
pub(crate) struct Types<'s> {
    schema: &'s dyn Fn() -> &'s Value,
    /// How often they are asked yet. Beyond it they know nothing.
    left: Cell<usize>,
}

impl<'s> Types<'s> {
    /// `schema`: what says it, made when it is asked for.
    pub(crate) fn new(schema: &'s dyn Fn() -> &'s Value) -> Self {
        Self { schema, left: Cell::new(WAYS_MAX) }
    }

    /// Of a value that no type reads.
    pub(crate) fn none() -> Self {
        static NONE: Value = Value::Null;
        Self::new(&|| &NONE)
    }

    /// Whether something may stand at the end of a way.
    pub(crate) fn know(&self, way: &[Step<'_>]) -> bool {
        !self.at(way).is_empty()
    }

    /// Whether that may be a mapping.
    pub(crate) fn have_keys(&self, way: &[Step<'_>]) -> bool {
        let is_mapping =
            |map: &&Map<String, Value>| map.contains_key("properties") || map.contains_key("additionalProperties");
        self.at(way).iter().any(is_mapping)
    }

    fn at(&self, way: &[Step<'_>]) -> Vec<&'s Map<String, Value>> {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 0 {
            return Vec::new();
        }
        let schema = (self.schema)();
        way.iter().fold(forms(schema, schema), |around, step| {
            let inner = around.into_iter().filter_map(|map| match step {
                Step::Item => map.get("items"),
                Step::Key(key) => {
                    let properties = map.get("properties").and_then(Value::as_object);
                    properties.and_then(|known| known.get(*key)).or_else(|| map.get("additionalProperties"))
                }
            });
            inner.flat_map(|inner| forms(schema, inner)).collect()
        })
    }
}

/// The forms that a value may have, by one part of the schema.
fn forms<'s>(schema: &'s Value, node: &'s Value) -> Vec<&'s Map<String, Value>> {
    let mut found = Vec::new();
    let mut open = vec![(node, 0)];
    while let Some((node, steps)) = open.pop() {
        let Some(map) = node.as_object().filter(|_| steps < 8) else { continue };
        found.push(map);
        if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix("#/$defs/")) {
            open.extend(schema.get("$defs").and_then(|types| types.get(name)).map(|inner| (inner, steps + 1)));
        }
        for choice in ["anyOf", "oneOf", "allOf"] {
            let choices = map.get(choice).and_then(Value::as_array).into_iter().flatten();
            open.extend(choices.map(|inner| (inner, steps + 1)));
        }
    }
    found
}

/// Calls `seen` with each mapping of keys that the schema has, and the way to it.
fn visit(
    schema: &Value,
    node: &Value,
    path: &mut String,
    depth: usize,
    seen: &mut dyn FnMut(&str, &Map<String, Value>),
) {
    if depth > DEPTH_MAX {
        return;
    }
    for (shape, properties) in mappings(schema, node) {
        let length = path.len();
        path.push_str(shape.words(path.is_empty()));
        seen(path, properties);
        for (key, inner) in properties {
            let length = path.len();
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(key);
            visit(schema, inner, path, depth + 1, seen);
            path.truncate(length);
        }
        path.truncate(length);
    }
}

/// The keys of a mapping under which it may have this one.
fn within(schema: &Value, properties: &Map<String, Value>, name: &str) -> Vec<(String, bool)> {
    let knows = |inner: &Value| {
        mappings(schema, inner)
            .into_iter()
            .find(|(shape, properties)| *shape != Shape::ByName && properties.contains_key(name))
            .map(|(shape, _)| shape == Shape::List)
    };
    properties.iter().filter_map(|(key, inner)| Some((key.clone(), knows(inner)?))).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Alone,
    List,
    ByName,
}

impl Shape {
    fn words(self, is_first: bool) -> &'static str {
        match self {
            Self::Alone => "",
            Self::List => "[]",
            Self::ByName if is_first => "<name>",
            Self::ByName => ".<name>",
        }
    }
}

/// The mappings of known keys that a value may be, or hold as a list or by name.
fn mappings<'s>(schema: &'s Value, node: &'s Value) -> Vec<(Shape, &'s Map<String, Value>)> {
    let mut found = Vec::new();
    let mut open = vec![(Shape::Alone, node, 0)];
    while let Some((shape, node, steps)) = open.pop() {
        let Some(map) = node.as_object().filter(|_| steps < 8) else { continue };
        if let Some(Value::Object(properties)) = map.get("properties") {
            found.push((shape, properties));
        }
        if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix("#/$defs/"))
            && let Some(inner) = schema.get("$defs").and_then(|types| types.get(name))
        {
            open.push((shape, inner, steps + 1));
        }
        for choice in ["anyOf", "oneOf", "allOf"] {
            let choices = map.get(choice).and_then(Value::as_array).into_iter().flatten();
            open.extend(choices.map(|inner| (shape, inner, steps + 1)));
        }
        if shape == Shape::Alone {
            open.extend(map.get("items").map(|inner| (Shape::List, inner, steps + 1)));
            open.extend(map.get("additionalProperties").map(|inner| (Shape::ByName, inner, steps + 1)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_found_in_what_stands_beside_it_and_elsewhere() {
        let schema = json!({
            "properties": {
                "routes": {"type": "array", "items": {"$ref": "#/$defs/Route"}},
                "upstreams": {"additionalProperties": {"$ref": "#/$defs/Upstream"}},
            },
            "$defs": {
                "Route": {"properties": {"name": {}, "policies": {"anyOf": [{"$ref": "#/$defs/Policies"}, {"type": "null"}]}}},
                "Policies": {"properties": {"cors": {}}},
                "Upstream": {"properties": {"retry": {"properties": {"attempts": {}}}}},
            },
        });
        let of_route = Places::find(&schema, &["name", "policies"], "cors");
        assert_eq!(inside(&of_route, "cors"), Some(("`cors` goes under `policies`".to_owned(), vec!["policies"])));
        let of_root = Places::find(&schema, &["routes", "upstreams"], "policies");
        assert_eq!(
            inside(&of_root, "policies").map(|(hint, _)| hint).as_deref(),
            Some("`policies` goes under the entries of `routes`")
        );
        let retry = Places::find(&schema, &["name", "policies"], "retry");
        assert_eq!(
            (inside(&retry, "retry"), elsewhere(&retry, "retry").as_deref()),
            (None, Some("`retry` is a key of `upstreams.<name>`"))
        );
        let none = Places::find(&schema, &["cors"], "banana");
        assert_eq!((inside(&none, "banana"), elsewhere(&none, "banana")), (None, None));
    }
}
