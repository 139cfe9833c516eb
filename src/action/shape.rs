//! What of a part's answer is taken: unwrapped, picked, left out, renamed. Cuts bytes and reads no values.

use crate::action::json::{Json, Key, Kind, View, index, write_text};

/// A place in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A key, or an index where there is an array.
    Name(Box<str>),
    /// Each entry of an array.
    Each,
}

impl Path {
    /// Reads `a.b`, `items.*.id` or, after a slash, a JSON Pointer `/a/b` (RFC 6901). The empty text is the whole document.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let step = |text: String| if text == "*" { Step::Each } else { Step::Name(text.into()) };
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        if let Some(pointer) = text.strip_prefix('/') {
            return Ok(Self(pointer.split('/').map(|name| step(name.replace("~1", "/").replace("~0", "~"))).collect()));
        }
        let mut steps = Vec::new();
        let mut name = String::new();
        let mut chars = text.chars();
        // A star that was escaped is a key.
        let mut is_escaped = false;
        loop {
            let sign = chars.next();
            match sign {
                Some('\\') => {
                    name.push(chars.next().ok_or("ends with `\\`")?);
                    is_escaped = true;
                }
                Some('.') | None => {
                    if name.is_empty() {
                        return Err("has nothing between two dots, or at an end");
                    }
                    let name = std::mem::take(&mut name);
                    steps.push(if is_escaped { Step::Name(name.into()) } else { step(name) });
                    is_escaped = false;
                    if sign.is_none() {
                        return Ok(Self(steps));
                    }
                }
                Some(other) => name.push(other),
            }
        }
    }

    /// The whole document.
    pub(super) fn whole() -> Self {
        Self(Vec::new())
    }

    /// Whether it goes through each entry of a list.
    pub(super) fn is_many(&self) -> bool {
        self.0.contains(&Step::Each)
    }

    /// Whether a key stands at its end.
    pub(super) fn ends_with_a_key(&self) -> bool {
        matches!(self.0.last(), Some(Step::Name(_)))
    }

    /// Whether it is the whole document.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether its first step is a key that no list has.
    pub(super) fn begins_with_a_key(&self) -> bool {
        matches!(self.0.first(), Some(Step::Name(name)) if index(name).is_none())
    }

    /// What stands there. Of a place in each entry of a list nothing does.
    pub(super) fn find<'a>(&self, view: View<'a>) -> Option<View<'a>> {
        self.0.iter().try_fold(view, |view, step| match step {
            Step::Name(name) => view.get(name),
            Step::Each => None,
        })
    }
}

/// Several places, as a tree.
#[derive(Clone, Debug, Default)]
struct Places {
    /// One ends here.
    is_here: bool,
    /// What the key that leads here is to be called.
    new_name: Option<Vec<u8>>,
    names: Vec<(Box<str>, Places)>,
    each: Option<Box<Places>>,
}

impl Places {
    fn at(&mut self, path: &Path) -> &mut Self {
        let mut place = self;
        for step in &path.0 {
            place = match step {
                Step::Each => place.each.get_or_insert_default(),
                Step::Name(name) => {
                    let at = place.names.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                        place.names.push((name.clone(), Self::default()));
                        place.names.len() - 1
                    });
                    &mut place.names[at].1
                }
            };
        }
        place
    }

    fn of_key(&self, key: Key<'_>) -> Option<&Self> {
        self.names.iter().find(|(name, _)| key.is(name)).map(|(_, place)| place)
    }

    fn of_item(&self, at: usize) -> Option<&Self> {
        let named = self.names.iter().find(|(name, _)| index(name) == Some(at)).map(|(_, place)| place);
        named.or(self.each.as_deref())
    }

    /// Writes what stands at these places. Whether anything does.
    fn pick(&self, view: View<'_>, out: &mut Vec<u8>) -> bool {
        if self.is_here {
            out.extend_from_slice(view.bytes());
            return true;
        }
        let mut found = false;
        match view.kind() {
            Kind::Object => {
                let mut object = Writer::object(out);
                for (key, value) in view.members() {
                    if let Some(place) = self.of_key(key) {
                        found |= object.try_member(key.bytes(), |out| place.pick(value, out));
                    }
                }
                object.end();
            }
            Kind::Array => {
                let mut array = Writer::array(out);
                for (at, item) in view.items().enumerate() {
                    if let Some(place) = self.of_item(at) {
                        found = true;
                        let out = array.next();
                        let from = out.len();
                        // Entries keep their places: one in which nothing was found is empty.
                        if !place.pick(item, out) {
                            out.truncate(from);
                            out.extend_from_slice(match item.kind() {
                                Kind::Object => b"{}",
                                Kind::Array => b"[]",
                                _ => b"null",
                            });
                        }
                    }
                }
                array.end();
            }
            _ => out.extend_from_slice(view.bytes()),
        }
        found
    }

    /// Writes all but what stands at these places.
    fn omit(&self, view: View<'_>, out: &mut Vec<u8>) {
        match view.kind() {
            Kind::Object => {
                let mut object = Writer::object(out);
                for (key, value) in view.members() {
                    match self.of_key(key) {
                        Some(place) if place.is_here => {}
                        Some(place) => place.omit(value, object.member(key.bytes())),
                        None => object.member(key.bytes()).extend_from_slice(value.bytes()),
                    }
                }
                object.end();
            }
            Kind::Array => {
                let mut array = Writer::array(out);
                for (at, item) in view.items().enumerate() {
                    match self.of_item(at) {
                        Some(place) if place.is_here => {}
                        Some(place) => place.omit(item, array.next()),
                        None => array.next().extend_from_slice(item.bytes()),
                    }
                }
                array.end();
            }
            _ => out.extend_from_slice(view.bytes()),
        }
    }

    /// Writes it with new names for keys.
    fn rename(&self, view: View<'_>, out: &mut Vec<u8>) {
        match view.kind() {
            Kind::Object => {
                // A key that gets the name of another takes its place: no key is to stand twice.
                let taken: Vec<&[u8]> = view
                    .members()
                    .filter_map(|(key, _)| self.of_key(key).and_then(|place| place.new_name.as_deref()))
                    .collect();
                let is_taken = |key: Key<'_>| {
                    !taken.is_empty() && {
                        let mut name = Vec::new();
                        write_text(&mut name, &key.text());
                        taken.contains(&name.as_slice())
                    }
                };
                let mut object = Writer::object(out);
                for (key, value) in view.members() {
                    match self.of_key(key) {
                        Some(place) if place.new_name.is_none() && is_taken(key) => {}
                        Some(place) => {
                            let name = place.new_name.as_deref().unwrap_or(key.bytes());
                            place.rename(value, object.member(name));
                        }
                        None if is_taken(key) => {}
                        None => object.member(key.bytes()).extend_from_slice(value.bytes()),
                    }
                }
                object.end();
            }
            Kind::Array => {
                let mut array = Writer::array(out);
                for (at, item) in view.items().enumerate() {
                    match self.of_item(at) {
                        Some(place) => place.rename(item, array.next()),
                        None => array.next().extend_from_slice(item.bytes()),
                    }
                }
                array.end();
            }
            _ => out.extend_from_slice(view.bytes()),
        }
    }
}

/// Writes an object or array, commas included.
pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    is_first: bool,
    close: u8,
}

impl<'o> Writer<'o> {
    pub(super) fn object(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_first: true, close: b'}' }
    }

    pub(super) fn array(out: &'o mut Vec<u8>) -> Self {
        out.push(b'[');
        Self { out, is_first: true, close: b']' }
    }

    /// Where the next entry of an array goes.
    pub(super) fn next(&mut self) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.is_first, false) {
            self.out.push(b',');
        }
        self.out
    }

    /// Where the value of the next member goes. `key` has its quotes.
    pub(super) fn member(&mut self, key: &[u8]) -> &mut Vec<u8> {
        let out = self.next();
        out.extend_from_slice(key);
        out.push(b':');
        out
    }

    /// Writes a member, unless there is nothing to write.
    fn try_member(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let (before, was_first) = (self.out.len(), self.is_first);
        let found = write(self.member(key));
        if !found {
            self.out.truncate(before);
            self.is_first = was_first;
        }
        found
    }

    pub(super) fn end(self) {
        self.out.push(self.close);
    }
}

/// All that is done to a part's answer, in the order of its fields.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    unwrap: Option<Path>,
    pick: Option<Places>,
    omit: Option<Places>,
    rename: Option<Places>,
}

impl Shape {
    pub(super) fn unwrapping(&mut self, path: Path) {
        self.unwrap = Some(path);
    }

    pub(super) fn picking(&mut self, path: &Path) {
        self.pick.get_or_insert_default().at(path).is_here = true;
    }

    pub(super) fn omitting(&mut self, path: &Path) {
        self.omit.get_or_insert_default().at(path).is_here = true;
    }

    pub(super) fn renaming(&mut self, path: &Path, name: &str) {
        let mut text = Vec::new();
        write_text(&mut text, name);
        self.rename.get_or_insert_default().at(path).new_name = Some(text);
    }

    /// Gives the document its shape. None: what was to be unwrapped is not there.
    pub(super) fn apply(&self, json: &Json) -> Option<Json> {
        let mut json = match &self.unwrap {
            None => json.clone(),
            Some(path) => Json::within(json, path.find(json.view())?),
        };
        let mut pass = |places: &Option<Places>, write: fn(&Places, View<'_>, &mut Vec<u8>)| {
            if let Some(places) = places {
                let mut out = Vec::with_capacity(json.bytes().len());
                write(places, json.view(), &mut out);
                json = Json::made(out);
            }
        };
        pass(&self.pick, |places, view, out| {
            places.pick(view, out);
        });
        pass(&self.omit, Places::omit);
        pass(&self.rename, Places::rename);
        Some(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn json(text: &str) -> Json {
        Json::check(Bytes::copy_from_slice(text.as_bytes())).expect("the test gives JSON")
    }

    fn path(text: &str) -> Path {
        Path::parse(text).expect("the test gives a path")
    }

    #[track_caller]
    fn check(build: impl FnOnce(&mut Shape), from: &str, to: &str) {
        let mut shape = Shape::default();
        build(&mut shape);
        let made = shape.apply(&json(from)).expect("something is there");
        assert_eq!(std::str::from_utf8(made.bytes()).unwrap(), to);
        json(to);
    }

    #[test]
    fn a_place_is_told_by_dots_or_as_a_pointer() {
        assert_eq!(path("a.b"), path("/a/b"));
        assert_eq!(path(r"a\.b.c"), path("/a.b/c"));
        assert_eq!(path("items.*.id"), path("/items/*/id"));
        assert_eq!(path(r"\*"), Path(vec![Step::Name("*".into())]));
        assert_eq!(path("/a~1b/~0"), Path(vec![Step::Name("a/b".into()), Step::Name("~".into())]));
        for wrong in ["a..b", ".a", "a.", "a\\"] {
            assert!(Path::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn picking_keeps_bytes_and_order() {
        let from = r#"{"z": 1.50 ,"a":{"b":9007199254740993,"c":"\u00e4"},"l":[{"id":1,"x":2},{"x":3},7]}"#;
        check(|shape| shape.picking(&path("z")), from, r#"{"z":1.50}"#);
        let several = |shape: &mut Shape| ["a.b", "z"].iter().for_each(|text| shape.picking(&path(text)));
        check(several, from, r#"{"z":1.50,"a":{"b":9007199254740993}}"#);
        check(|shape| shape.picking(&path("l.*.id")), from, r#"{"l":[{"id":1},{},7]}"#.replace(",7", ",null").as_str());
        check(|shape| shape.picking(&path("l.1")), from, r#"{"l":[{"x":3}]}"#);
        check(|shape| shape.picking(&path("none.at.all")), from, "{}");
    }

    #[test]
    fn omitting_keeps_the_rest() {
        let from = r#"{"a":1,"b":{"c":2,"d":3},"l":[{"id":1,"x":2},{"x":3}]}"#;
        let several = |shape: &mut Shape| ["a", "b.c", "l.*.x"].iter().for_each(|text| shape.omitting(&path(text)));
        check(several, from, r#"{"b":{"d":3},"l":[{"id":1},{}]}"#);
    }

    #[test]
    fn renaming_makes_no_key_stand_twice() {
        let from = r#"{"a":1,"b":{"c":2},"x":3}"#;
        check(|shape| shape.renaming(&path("a"), "n"), from, r#"{"n":1,"b":{"c":2},"x":3}"#);
        check(|shape| shape.renaming(&path("a"), "x"), from, r#"{"x":1,"b":{"c":2}}"#);
        check(|shape| shape.renaming(&path("b.c"), "d"), from, r#"{"a":1,"b":{"d":2},"x":3}"#);
        check(
            |shape| {
                shape.renaming(&path("a"), "x");
                shape.renaming(&path("x"), "a");
            },
            from,
            r#"{"x":1,"b":{"c":2},"a":3}"#,
        );
        check(|shape| shape.renaming(&path("*.k"), "n"), r#"[{"k":1},{"k":2}]"#, r#"[{"n":1},{"n":2}]"#);
    }

    #[test]
    fn unwrapping_comes_first_and_misses_what_is_not_there() {
        let from = r#"{"data": {"id":1,"secret":2,"k":3}}"#;
        let all = |shape: &mut Shape| {
            shape.unwrapping(path("data"));
            shape.omitting(&path("secret"));
            shape.renaming(&path("k"), "n");
        };
        check(all, from, r#"{"id":1,"n":3}"#);
        let mut shape = Shape::default();
        shape.unwrapping(path("none"));
        assert!(shape.apply(&json(from)).is_none());
    }
}
