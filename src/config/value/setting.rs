//! Settings that can be switched off.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::super::yaml::decode::SETTING;

/// A block that a route can leave out, switch off, or give.
///
/// In YAML: no key; `off` or `false`; or the block itself. A key with nothing after it is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Setting<T> {
    /// As in the defaults.
    #[default]
    Inherit,
    /// Off, whatever the defaults say.
    Off,
    /// This, whatever the defaults say.
    On(T),
}

impl<T> Setting<T> {
    /// This setting where it says something, else the default's. Blocks are never mixed.
    #[must_use]
    pub fn or(&self, default: &Setting<T>) -> Setting<T>
    where
        T: Clone,
    {
        match self {
            Setting::Inherit => default.clone(),
            said => said.clone(),
        }
    }

    /// Whether it is switched off. What only inherits is not.
    pub fn is_off(&self) -> bool {
        matches!(self, Setting::Off)
    }

    /// Whether it says nothing. For `skip_serializing_if`.
    pub fn is_inherit(&self) -> bool {
        matches!(self, Setting::Inherit)
    }

    /// The block, if it is given.
    pub fn on(&self) -> Option<&T> {
        match self {
            Setting::On(block) => Some(block),
            _ => None,
        }
    }
}

impl<T: Serialize> Serialize for Setting<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Setting::Inherit => serializer.serialize_none(),
            Setting::Off => serializer.serialize_str("off"),
            Setting::On(block) => block.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(SETTING, SettingVisitor(PhantomData))
    }
}

struct SettingVisitor<T>(PhantomData<T>);

/// armiger's own decoder calls `visit_none` or `visit_some`, which keep places. Other formats hand over a newtype,
/// which says what it holds only when asked for anything.
impl<'de, T: Deserialize<'de>> Visitor<'de> for SettingVisitor<T> {
    type Value = Setting<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings or `off`")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Setting::Off)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        T::deserialize(deserializer).map(Setting::On)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(AnySetting(PhantomData))
    }
}

struct AnySetting<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AnySetting<T> {
    type Value = Setting<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings or `off`")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        // As it is serialized.
        Ok(Setting::Inherit)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        if value { T::deserialize(value.into_deserializer()).map(Setting::On) } else { Ok(Setting::Off) }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(Setting::On)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(Setting::On)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(Setting::On)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        if value == "off" { Ok(Setting::Off) } else { T::deserialize(value.into_deserializer()).map(Setting::On) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        T::deserialize(SeqAccessDeserializer::new(items)).map(Setting::On)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries)).map(Setting::On)
    }
}

impl<T: JsonSchema> JsonSchema for Setting<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Setting_{}", T::schema_name()).into()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("{}::Setting<{}>", module_path!(), T::schema_id()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let block = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "enum": ["off", false] }, block] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_a_route_stands_whole_or_takes_the_default() {
        use Setting::{Inherit, Off, On};
        for (route, default, result) in [
            (Inherit, Inherit, Inherit),
            (Inherit, Off, Off),
            (Inherit, On(1), On(1)),
            (Off, On(1), Off),
            (On(2), On(1), On(2)),
            (On(2), Off, On(2)),
        ] {
            assert_eq!(route.or(&default), result);
        }
        assert!(Setting::<u8>::Off.is_off() && !Setting::<u8>::Inherit.is_off());
    }

    #[test]
    fn a_setting_survives_json() {
        #[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
        struct Block {
            rate: u32,
        }
        for (setting, json) in
            [(Setting::Inherit, "null"), (Setting::Off, "\"off\""), (Setting::On(Block { rate: 1 }), "{\"rate\":1}")]
        {
            assert_eq!(serde_json::to_string(&setting).unwrap(), json);
            assert_eq!(serde_json::from_str::<Setting<Block>>(json).unwrap(), setting);
        }
        assert_eq!(serde_json::from_str::<Setting<Block>>("false").unwrap(), Setting::Off);
        assert_eq!(serde_json::from_str::<Setting<Vec<u8>>>("[1]").unwrap(), Setting::On(vec![1]));
    }
}
