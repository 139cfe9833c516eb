//! What stands for a value that a mapping must have and that the file lacks, or has in a form that cannot be read: so much
//! of the type as makes it whole, that the rest of the mapping can be looked at all the same.
//!
//! No document with a stand-in in it ever runs: that the value is missing is a mistake of its own. What a later check says
//! of one is left out of the report, by [`Source`](crate::config::issue::Source).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::decode::{KEY_HASH, SETTING};
use super::error::{Error, Problem};

/// All keys that a mapping may have: they tell one type of mapping from another.
pub(super) type Keys = &'static [&'static str];

/// A text that each type of value can be read from which has words of its own. No file has them as a name.
const TEXTS: [&str; 5] = ["?", "127.0.0.1:0", "1s", "1B", "1/s"];

/// Which keys mappings must have, and which text stands for each.
pub(super) struct StandIns<'r> {
    required: &'r dyn Fn(&[&str]) -> Vec<String>,
    known: RefCell<HashMap<Keys, Rc<[&'static str]>>>,
    /// How many of the texts a key has refused.
    refused: RefCell<HashMap<(Keys, &'static str), usize>>,
}

impl<'r> StandIns<'r> {
    pub(super) fn new(required: &'r dyn Fn(&[&str]) -> Vec<String>) -> Self {
        Self { required, known: RefCell::default(), refused: RefCell::default() }
    }

    /// The keys that a mapping must have which may have these.
    pub(super) fn required(&self, keys: Keys) -> Rc<[&'static str]> {
        if let Some(known) = self.known.borrow().get(keys) {
            return known.clone();
        }
        let required = (self.required)(keys);
        let required: Rc<[&str]> = keys.iter().copied().filter(|key| required.iter().any(|must| must == key)).collect();
        self.known.borrow_mut().insert(keys, required.clone());
        required
    }

    /// What stands for the value of a key.
    pub(super) fn of(&self, keys: Keys, key: &'static str) -> StandIn<'_> {
        let refused = self.refused.borrow().get(&(keys, key)).copied().unwrap_or(0);
        StandIn { all: self, text: TEXTS.get(refused).copied().unwrap_or_default(), key: (keys, key) }
    }

    /// The text for this key does not do. `false`: there is no other.
    pub(super) fn refuse(&self, keys: Keys, key: &'static str) -> bool {
        let mut refused = self.refused.borrow_mut();
        let count = refused.entry((keys, key)).or_default();
        *count += 1;
        *count < TEXTS.len()
    }
}

/// What stands for a value.
#[derive(Clone, Copy)]
pub(super) struct StandIn<'c> {
    all: &'c StandIns<'c>,
    text: &'static str,
    /// The mapping and its key that it stands in for.
    key: (Keys, &'static str),
}

impl StandIn<'_> {
    /// Reads it. An error says whose text it is that does not do.
    pub(super) fn read<'t, S: DeserializeSeed<'t>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self).map_err(|error| match error.problem {
            Problem::Refused { .. } => error,
            _ => Error { problem: Problem::Refused { keys: self.key.0, key: self.key.1 }, node: None },
        })
    }
}

impl<'t> Deserializer<'t> for StandIn<'_> {
    type Error = Error;

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.text)
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_char('?')
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(false)
    }

    fn deserialize_f32<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f32(1.0)
    }

    fn deserialize_f64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f64(1.0)
    }

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_none()
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match name {
            SETTING => visitor.visit_none(),
            KEY_HASH => visitor.visit_newtype_struct(StrDeserializer::new(self.text)),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Nothing)
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
        visitor.visit_map(Nothing)
    }

    fn deserialize_struct<V: Visitor<'t>>(self, _: &'static str, keys: Keys, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Required { all: self.all, keys, left: self.all.required(keys), at: 0 })
    }

    fn deserialize_enum<V: Visitor<'t>>(self, _: &'static str, names: Keys, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_enum(First { name: names.first().copied().unwrap_or_default(), value: self })
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_u64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(1)
    }

    fn deserialize_u8<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u8(1)
    }

    fn deserialize_u16<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u16(1)
    }

    fn deserialize_u32<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u32(1)
    }

    fn deserialize_i8<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i8(1)
    }

    fn deserialize_i16<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i16(1)
    }

    fn deserialize_i32<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i32(1)
    }

    fn deserialize_i64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(1)
    }

    forward_to_deserialize_any! { <W: Visitor<'t>> i128 u128 bytes byte_buf unit unit_struct }
}

/// A list or mapping with nothing in it.
struct Nothing;

impl<'t> SeqAccess<'t> for Nothing {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, _: S) -> Result<Option<S::Value>, Error> {
        Ok(None)
    }
}

impl<'t> MapAccess<'t> for Nothing {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, _: K) -> Result<Option<K::Value>, Error> {
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, _: S) -> Result<S::Value, Error> {
        Err(Error::quiet())
    }
}

/// A mapping with the keys that it must have.
struct Required<'c> {
    all: &'c StandIns<'c>,
    keys: Keys,
    left: Rc<[&'static str]>,
    at: usize,
}

impl<'t> MapAccess<'t> for Required<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(key) = self.left.get(self.at) else { return Ok(None) };
        let key: StrDeserializer<'_, Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some(key) = self.left.get(self.at) else { return Err(Error::quiet()) };
        self.at += 1;
        self.all.of(self.keys, key).read(seed)
    }
}

/// The first of several names.
struct First<'c> {
    name: &'static str,
    value: StandIn<'c>,
}

impl<'t> EnumAccess<'t> for First<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'t> VariantAccess<'t> for First<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.value)
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'t>>(self, keys: Keys, visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_struct("", keys, visitor)
    }
}
