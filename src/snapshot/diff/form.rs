//! A part of a document in the form in which two are compared: what is shown as `***` is in it as a digest.

use std::borrow::Cow;
use std::fmt::{self, Display};

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use crate::config::yaml::decode::SECRET;

/// A value of a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// A key that is left out and has no default.
    Nothing,
    /// A number, `true` or `false`.
    Plain(String),
    /// A text.
    Text(String),
    /// The SHA-256 of what is never shown. It is compared, and goes nowhere.
    Hidden(String),
    /// A list.
    List(Vec<Form>),
    /// A mapping, in the order in which it is declared.
    Map(Vec<(Key, Form)>),
}

pub(super) type Key = Cow<'static, str>;

impl Form {
    /// The form of a value. What cannot be serialized, and of a document all can, is [`Form::Nothing`].
    pub(super) fn of(value: &(impl Serialize + ?Sized)) -> Self {
        value.serialize(Shaper { is_hidden: false }).unwrap_or(Self::Nothing)
    }

    /// The value of a key. Nothing where there is none, or this is no mapping.
    pub(super) fn get(&self, key: &str) -> &Form {
        let found = self.entries().iter().find(|(known, _)| known == key);
        found.map_or(&Self::Nothing, |(_, form)| form)
    }

    /// The value at a path of keys, `request.remove`.
    pub(super) fn at(&self, path: &str) -> &Form {
        path.split('.').filter(|key| !key.is_empty()).fold(self, Form::get)
    }

    /// The entries of a mapping; none of anything else.
    pub(super) fn entries(&self) -> &[(Key, Form)] {
        if let Self::Map(entries) = self { entries } else { &[] }
    }

    /// The items of a list; none of anything else.
    pub(super) fn items(&self) -> &[Form] {
        if let Self::List(items) = self { items } else { &[] }
    }

    /// The text of a single value; that of nothing, and of what is more than one, is empty.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Text(text) => text,
            Self::Nothing | Self::Hidden(_) | Self::List(_) | Self::Map(_) => "",
        }
    }

    pub(super) fn is_single(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Map(_))
    }
}

// === serde ===

/// Makes a [`Form`] of whatever is serialized.
#[derive(Clone, Copy)]
struct Shaper {
    /// Within what makes itself known as hidden.
    is_hidden: bool,
}

impl Shaper {
    fn plain(value: impl Display) -> Result<Form, fmt::Error> {
        Ok(Form::Plain(value.to_string()))
    }

    fn variant(name: &'static str, form: Form) -> Form {
        Form::Map(vec![(name.into(), form)])
    }
}

impl Serializer for Shaper {
    type Ok = Form;
    type Error = fmt::Error;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Entries;
    type SerializeStruct = Entries;
    type SerializeStructVariant = Entries;

    fn serialize_bool(self, value: bool) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_i8(self, value: i8) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_i16(self, value: i16) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_i32(self, value: i32) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_i64(self, value: i64) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_u8(self, value: u8) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_u16(self, value: u16) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_u32(self, value: u32) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_u64(self, value: u64) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_f32(self, value: f32) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_f64(self, value: f64) -> Result<Form, fmt::Error> {
        Self::plain(value)
    }

    fn serialize_char(self, value: char) -> Result<Form, fmt::Error> {
        self.collect_str(&value)
    }

    fn serialize_str(self, text: &str) -> Result<Form, fmt::Error> {
        Ok(if self.is_hidden { Form::Hidden(text.to_owned()) } else { Form::Text(text.to_owned()) })
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Form, fmt::Error> {
        Ok(Form::List(bytes.iter().map(|byte| Form::Plain(byte.to_string())).collect()))
    }

    /// The alternate form of what is hidden is a digest.
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<Form, fmt::Error> {
        Ok(if self.is_hidden { Form::Hidden(format!("{value:#}")) } else { Form::Text(value.to_string()) })
    }

    fn serialize_none(self) -> Result<Form, fmt::Error> {
        Ok(Form::Nothing)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Form, fmt::Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Form, fmt::Error> {
        Ok(Form::Nothing)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Form, fmt::Error> {
        Ok(Form::Nothing)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Form, fmt::Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Form, fmt::Error> {
        value.serialize(Self { is_hidden: self.is_hidden || name == SECRET })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Form, fmt::Error> {
        Ok(Self::variant(variant, value.serialize(self)?))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Items, fmt::Error> {
        Ok(Items { variant: None, items: Vec::with_capacity(length.unwrap_or(0)) })
    }

    fn serialize_tuple(self, length: usize) -> Result<Items, fmt::Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Items, fmt::Error> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Items, fmt::Error> {
        Ok(Items { variant: Some(variant), items: Vec::with_capacity(length) })
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Entries, fmt::Error> {
        Ok(Entries { variant: None, entries: Vec::with_capacity(length.unwrap_or(0)), key: None })
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Entries, fmt::Error> {
        self.serialize_map(Some(length))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Entries, fmt::Error> {
        Ok(Entries { variant: Some(variant), entries: Vec::with_capacity(length), key: None })
    }
}

struct Items {
    variant: Option<&'static str>,
    items: Vec<Form>,
}

impl Items {
    fn push(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), fmt::Error> {
        self.items.push(value.serialize(Shaper { is_hidden: false })?);
        Ok(())
    }

    fn form(self) -> Result<Form, fmt::Error> {
        let list = Form::List(self.items);
        Ok(match self.variant {
            Some(variant) => Shaper::variant(variant, list),
            None => list,
        })
    }
}

struct Entries {
    variant: Option<&'static str>,
    entries: Vec<(Key, Form)>,
    key: Option<String>,
}

impl Entries {
    fn push(&mut self, key: Key, value: &(impl Serialize + ?Sized)) -> Result<(), fmt::Error> {
        self.entries.push((key, value.serialize(Shaper { is_hidden: false })?));
        Ok(())
    }

    fn form(self) -> Result<Form, fmt::Error> {
        let map = Form::Map(self.entries);
        Ok(match self.variant {
            Some(variant) => Shaper::variant(variant, map),
            None => map,
        })
    }
}

/// Items come under one name or another.
macro_rules! items {
    ($($Trait:ident $method:ident,)+) => { $(
        impl $Trait for Items {
            type Ok = Form;
            type Error = fmt::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
                self.push(value)
            }

            fn end(self) -> Result<Form, fmt::Error> {
                self.form()
            }
        }
    )+ };
}

items! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

impl SerializeMap for Entries {
    type Ok = Form;
    type Error = fmt::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), fmt::Error> {
        self.key = Some(Form::of(key).text().to_owned());
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        let key = self.key.take().unwrap_or_default();
        self.push(key.into(), value)
    }

    fn end(self) -> Result<Form, fmt::Error> {
        self.form()
    }
}

impl SerializeStruct for Entries {
    type Ok = Form;
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), fmt::Error> {
        self.push(key.into(), value)
    }

    fn end(self) -> Result<Form, fmt::Error> {
        self.form()
    }
}

impl SerializeStructVariant for Entries {
    type Ok = Form;
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), fmt::Error> {
        self.push(key.into(), value)
    }

    fn end(self) -> Result<Form, fmt::Error> {
        self.form()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use super::*;
    use crate::config::value::{Hidden, HumanDuration, Secret, Setting};

    #[derive(Serialize)]
    enum Kind {
        One,
        Other(u8),
        Pair(u8, u8),
        Named { a: bool },
    }

    #[derive(Serialize)]
    struct Block {
        name: &'static str,
        age: Option<u8>,
        wait: HumanDuration,
        kinds: Vec<Kind>,
        by_status: BTreeMap<u16, f64>,
        off: Setting<u8>,
    }

    fn text(text: &str) -> Form {
        Form::Text(text.into())
    }

    fn plain(text: &str) -> Form {
        Form::Plain(text.into())
    }

    #[test]
    fn every_kind_of_value_has_its_form() {
        let block = Block {
            name: "a",
            age: None,
            wait: HumanDuration::seconds(5),
            kinds: vec![Kind::One, Kind::Other(1), Kind::Pair(1, 2), Kind::Named { a: true }],
            by_status: [(404, 0.5)].into(),
            off: Setting::Off,
        };
        let map = |key: &'static str, form| Form::Map(vec![(key.into(), form)]);
        let form = Form::of(&block);
        for (path, expected) in [
            ("name", text("a")),
            ("age", Form::Nothing),
            ("wait", text("5s")),
            (
                "kinds",
                Form::List(vec![
                    text("One"),
                    map("Other", plain("1")),
                    map("Pair", Form::List(vec![plain("1"), plain("2")])),
                    map("Named", map("a", plain("true"))),
                ]),
            ),
            ("by_status.404", plain("0.5")),
            ("off", text("off")),
            ("name.x", Form::Nothing),
        ] {
            assert_eq!(*form.at(path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_hidden_is_told_apart_and_not_held() {
        let of = |secret: &str| Form::of(&[Some(Secret::new(secret))]);
        assert_eq!(of("hunter2"), of("hunter2"));
        assert_ne!(of("hunter2"), of("hunter3"));
        assert!(matches!(&of("hunter2").items()[0], Form::Hidden(digest) if digest.len() == 64));
        let shown = format!("{:?} {:?}", of("hunter2"), Form::of(&Hidden("hunter2")));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(Form::of(&Secret::new("a")), Form::of(&Hidden("a")));
    }
}
