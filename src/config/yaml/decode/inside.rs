//! What stands within a node: the entries of a mapping, the items of a list, the value of a choice.

use std::cell::Cell;
use std::rc::Rc;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::super::error::Error;
use super::super::stand_in::Keys;
use super::super::tree::{Entry, Node};
use super::hide::holds_secrets;
use super::value::Value;
use super::{Context, KEY_HASH, SECRET};

/// The entries of a mapping, in the order of the file, and then what stands in for those that it lacks.
pub(super) struct Entries<'t, 'c> {
    pub(super) entries: std::vec::IntoIter<&'t Entry>,
    pub(super) value: Option<&'t Node>,
    pub(super) known: Keys,
    pub(super) lacking: Rc<[&'static str]>,
    /// How many of them were visited.
    pub(super) stood_in: usize,
    pub(super) context: &'c Context<'t>,
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
pub(super) struct Items<'t, 'c> {
    pub(super) items: std::slice::Iter<'t, Node>,
    pub(super) context: &'c Context<'t>,
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
pub(super) struct Probe<'p>(&'p Cell<bool>);

impl Probe<'_> {
    /// Whether they are secrets, or there for what is secret in them.
    pub(super) fn takes_secrets<'t, V: Visitor<'t>>(visitor: V) -> bool {
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
pub(super) struct Choice<'t, 'c> {
    pub(super) name: &'t Node,
    pub(super) value: Option<&'t Node>,
    pub(super) context: &'c Context<'t>,
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
