//! One node as the type at its place asks for it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;

use serde::de::value::StrDeserializer;
use serde::de::{Deserializer, Expected, Visitor};
use serde::forward_to_deserialize_any;

use super::super::super::foreign;
use super::super::super::issue::{Segment, quote, suggest};
use super::super::super::value::KeyHash;
use super::super::error::{Error, Problem, known_names, list, words};
use super::super::scalar;
use super::super::stand_in::Keys;
use super::super::tree::{Content, Entry, Node, Scalar, Style, found};
use super::hide::holds_secrets;
use super::inside::{Choice, Entries, Items, Probe};
use super::{Context, KEY_HASH, OUTSIDE, SECRET, SETTING};

/// A node to be read.
#[derive(Clone, Copy)]
pub(super) struct Value<'t, 'c> {
    pub(super) node: &'t Node,
    pub(super) context: &'c Context<'t>,
}

impl<'t> Value<'t, '_> {
    /// Says where, of an error that does not know.
    pub(super) fn here<T>(self, result: Result<T, Error>) -> Result<T, Error> {
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
                _ => self.wrong(&expected, Some(self.whole().to_owned())),
            },
            Content::Mapping(entries) => {
                // `path: {id}` was meant as text.
                let unquoted = matches!(entries.as_slice(), [only]
                    if only.value.scalar().is_some_and(|scalar| scalar.style == Style::Absent));
                let hint = if unquoted { "put quotes around a text that begins with `{`" } else { self.whole() };
                self.wrong(&expected, Some(hint.to_owned()))
            }
        }
    }

    /// What to do about a list or mapping where the nearest key takes a single value.
    fn whole(self) -> &'static str {
        self.context.name(self.node).and_then(|key| foreign::whole(&key)).unwrap_or("write a single value")
    }

    /// Of a list whose entries have names, where a mapping by name is asked for: what to do.
    fn as_names(self) -> Option<String> {
        let Content::List(items) = &self.node.content else { return None };
        let name = items.first()?.entry("name")?.value.scalar().filter(|name| !name.is_outside())?;
        Some(format!("write the names as keys: `{}: …` instead of `- name: {0}`", name.text.escape_debug()))
    }

    /// Of something that stands where a mapping with these keys is asked for, under a name that is one of them: what to do.
    fn as_key_of_one(self, known: &[&str]) -> Option<String> {
        let name = self.context.name(self.node).filter(|name| known.contains(&name.as_str()))?;
        Some(format!("`{name}` is a key of such a mapping: indent it deeper, below the name that it belongs to"))
    }

    /// Whether a mapping has a mapping for each key, as one by name does.
    fn are_names(self) -> bool {
        let Content::Mapping(entries) = &self.node.content else { return false };
        !entries.is_empty() && entries.iter().all(|entry| matches!(entry.value.content, Content::Mapping(_)))
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
            (SECRET, _) => {
                self.context.default_of(self.node);
                self.here(visitor.visit_newtype_struct(self))
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
                    Ok(_) => {
                        let parts: Vec<String> =
                            scalar.text.split(',').map(|part| foreign::quoted(part.trim())).collect();
                        format!("write `[{}]`", parts.join(", "))
                    }
                    Err(Problem::Said { message, hint: Some(hint) }) if message.starts_with("expected a mapping") => {
                        let is_list = hint.starts_with("write `[");
                        if is_list { hint } else { format!("begin each entry with `- `; {hint}") }
                    }
                    Err(_) => "begin each entry with `- `".to_owned(),
                };
                self.wrong("a list", Some(hint))
            }
            Content::Mapping(_) => {
                if Probe::takes_secrets(visitor) {
                    self.context.conceal(self.node);
                }
                let hint = if self.context.is_flow(self.node) {
                    "put `[ ]` around it"
                } else if self.are_names() {
                    "begin each entry with `- ` and write its name in it: `- name: …`"
                } else {
                    "begin each entry with `- `"
                };
                self.wrong("a list", Some(hint.to_owned()))
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
                self.wrong(
                    "a mapping",
                    Some(self.as_names().unwrap_or_else(|| format!("write `name: …` instead of {sign}"))),
                )
            }
            Content::Scalar(scalar) => {
                let key = self.context.name(self.node).filter(|_| !scalar.is_outside());
                let hint = key.and_then(|key| foreign::by_name(&key, &scalar.text));
                self.wrong("a mapping", Some(hint.unwrap_or_else(|| "write `name: …` below the key".to_owned())))
            }
        }
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // One that has a secret in it may stand here as if it were that alone. An address or a port is none.
        let may_be_secret = match &self.node.content {
            Content::Mapping(_) => false,
            Content::Scalar(scalar) => {
                scalar.text.parse::<SocketAddr>().is_err() && scalar.text.parse::<u16>().is_err()
            }
            Content::List(_) => true,
        };
        if may_be_secret && holds_secrets(known) {
            self.context.conceal(self.node);
        }
        let entries: &[Entry] = match &self.node.content {
            Content::Mapping(entries) => entries,
            // A key with everything under it commented out.
            Content::Scalar(scalar) if scalar.style == Style::Absent => &[],
            Content::Scalar(scalar) => {
                let is_unspaced = scalar
                    .text
                    .split_once(':')
                    .is_some_and(|(key, value)| known.contains(&key) && !value.starts_with("//"));
                let alone = || foreign::alone(&scalar.text, known).filter(|_| !scalar.is_outside());
                let hint = if is_unspaced && scalar.is_bare() {
                    "put a space after the `:`".to_owned()
                } else if let Some(hint) = self.as_key_of_one(known) {
                    hint
                } else if self.node.id == self.context.tree.root.id {
                    "write `listeners: […]`, `upstreams: {…}` and `routes: […]`; this looks like another format than YAML"
                        .to_owned()
                } else {
                    alone().unwrap_or_else(|| known_names("key", known))
                };
                return self.wrong("a mapping", Some(hint));
            }
            Content::List(items) => {
                let sign = if self.context.is_flow(self.node) { "[ ]" } else { "-" };
                let listed = foreign::listed(known).filter(|_| !items.iter().any(|item| item.scalar().is_none()));
                let hint = match (self.as_key_of_one(known), listed) {
                    (Some(hint), _) => hint,
                    (None, Some(key)) => format!("put the list under a key: `{key}: […]`"),
                    (None, None) => format!("remove the `{sign}`; {}", known_names("key", known)),
                };
                return self.wrong("a mapping", Some(hint));
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
        let is_known = self.node.scalar().is_some_and(|scalar| known.contains(&scalar.text.as_str()));
        if !is_known && self.context.is_about_secret(self.node) {
            self.context.conceal(self.node);
        }
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
            let foreign = foreign::value(name.text(), known).filter(|_| !outside);
            let hint = match suggest(name.text(), known.iter().copied()) {
                _ if foreign.is_some() => foreign.unwrap_or_default(),
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
            Some(port) if text.len() == port.len() + 1 || text.starts_with("*:") => {
                format!("write `0.0.0.0:{port}`, or `127.0.0.1:{port}` for this machine alone")
            }
            Some(_) => {
                "write `IP:port`; names are not looked up here, and IPv6 needs brackets: `[::1]:8080`".to_owned()
            }
            None if text.parse::<u16>().is_ok() => {
                format!("write `0.0.0.0:{text}`, or `127.0.0.1:{text}` for this machine alone")
            }
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
