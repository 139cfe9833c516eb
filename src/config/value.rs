//! Values that a document writes in a form of its own: durations, sizes, secrets, modes, and settings that can be
//! switched off.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::issue::quote;
use super::yaml::decode::{KEY_HASH, SECRET, SETTING};
use super::yaml::with_hint;

/// A time span: a whole number and a unit, `250ms`, `5s`, `10m` or `24h`. One unit only: `90s`, not `1m30s`.
///
/// `0s` is allowed here; whether it makes sense is for the key to say. At most ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
/// Ten years: what is added to a point in time must not overflow it.
const DURATION_MAX_HOURS: u64 = 87_600;

impl HumanDuration {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// This time span, in whole milliseconds: what is left of one is dropped, but never all that there is.
    pub fn rounded(duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self::millis(if duration.is_zero() { 0 } else { millis.max(1) })
    }

    /// The time span itself.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Reads `250ms`, `5s`, `10m`, `24h`. An error holds a remedy, as [`with_hint`] puts it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split_number(text);
        let exact = DURATION_UNITS.iter().find(|(name, _)| *name == unit);
        let whole = is_whole(number);
        if let (true, Some((_, scale))) = (whole, exact) {
            let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale));
            return match millis {
                Some(millis) if millis <= DURATION_MAX_HOURS * 3_600_000 => Ok(Self::millis(millis)),
                _ => Err(with_hint(
                    format!("{} is too long", quote(text)),
                    format!("the most is `{DURATION_MAX_HOURS}h`, which is ten years"),
                )),
            };
        }
        if number.is_empty() || text.starts_with('-') {
            let hint = "write a whole number and a unit: `250ms`, `5s`, `10m` or `24h`";
            return Err(with_hint(format!("{} is no duration", quote(text)), hint));
        }
        if unit.is_empty() && whole {
            return Err(with_hint(
                format!("{} has no unit", quote(text)),
                format!("write `{number}s` for seconds, or `{number}ms`"),
            ));
        }
        let hint = duration_total(text).map_or_else(
            || "write a whole number and one of the units `ms`, `s`, `m`, `h`".to_owned(),
            |millis| format!("write `{}`", Self::millis(millis)),
        );
        Err(with_hint(format!("{} is no duration", quote(text)), hint))
    }
}

/// What a text such as `1m30s`, `1.5h`, `5 sec` or `007s` probably means, in milliseconds.
fn duration_total(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let tail = tail.trim_start();
        let end = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let scale: u64 = match tail[..end].to_ascii_lowercase().as_str() {
            "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale as f64;
        rest = tail[end..].trim_start();
    }
    let fits = total.fract() == 0.0 && total <= (DURATION_MAX_HOURS * 3_600_000) as f64;
    fits.then_some(total as u64)
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        // In the largest unit that takes it whole; but `60s` and `60m` read better than `1m` and `1h`.
        let whole = |(_, scale): &&(&str, u64)| {
            let scale = u128::from(*scale);
            millis.is_multiple_of(scale) && (scale <= 1_000 || millis >= 2 * scale)
        };
        let (unit, scale) = DURATION_UNITS.iter().rev().find(whole).copied().unwrap_or(("ms", 1));
        write!(f, "{}{unit}", millis / u128::from(scale))
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed { expected: "a duration such as `10s`", parse: Self::parse })
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": "duration",
            "description": "A whole number and a unit: `250ms`, `5s`, `10m`, `24h`.",
            "pattern": "^(0|[1-9][0-9]*)(ms|s|m|h)$",
            "examples": ["250ms", "5s", "10m", "24h"],
        })
    }
}

/// A number of bytes: a whole number and a unit, `512B`, `64KiB`, `10MiB` or `1GiB`. Units are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

impl ByteSize {
    /// So many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1024 bytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// So many times 1024 × 1024 bytes.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Reads `512B`, `64KiB`, `10MiB`, `1GiB`. An error holds a remedy, as [`with_hint`] puts it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split_number(text);
        let whole = is_whole(number);
        if let (true, Some((_, scale))) = (whole, SIZE_UNITS.iter().find(|(name, _)| *name == unit)) {
            return match number.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale)) {
                Some(bytes) if bytes <= 1 << 50 => Ok(Self(bytes)),
                _ => Err(with_hint(format!("{} is too large", quote(text)), "the most is `1048576GiB`")),
            };
        }
        if number.is_empty() || text.starts_with('-') {
            let hint = "write a whole number and a unit: `512B`, `64KiB`, `10MiB` or `1GiB`";
            return Err(with_hint(format!("{} is no size", quote(text)), hint));
        }
        if unit.is_empty() && whole {
            return Err(with_hint(
                format!("{} has no unit", quote(text)),
                format!(
                    "write `{}` for bytes, or another unit: `64KiB`, `10MiB`, `1GiB`",
                    Self(number.parse().unwrap_or(0))
                ),
            ));
        }
        let meant = match unit.trim_start().to_ascii_lowercase().as_str() {
            "b" | "byte" | "bytes" => Some("B"),
            "k" | "kb" | "ki" | "kib" => Some("KiB"),
            "m" | "mb" | "mi" | "mib" => Some("MiB"),
            "g" | "gb" | "gi" | "gib" => Some("GiB"),
            _ => None,
        };
        let hint = match meant {
            Some(unit) if whole => format!("write `{number}{unit}`; units are powers of 1024"),
            Some(_) if number.contains('.') => {
                "write a whole number in a smaller unit: `1536KiB` instead of `1.5MiB`".to_owned()
            }
            _ => "write a whole number and one of the units `B`, `KiB`, `MiB`, `GiB`".to_owned(),
        };
        Err(with_hint(format!("{} is no size", quote(text)), hint))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = SIZE_UNITS
            .iter()
            .rev()
            .find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale))
            .copied()
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed { expected: "a size such as `64KiB`", parse: Self::parse })
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": "size",
            "description": "A whole number and a unit: `512B`, `64KiB`, `10MiB`, `1GiB`. Units are powers of 1024.",
            "pattern": "^(0|[1-9][0-9]*)(B|KiB|MiB|GiB)$",
            "examples": ["512B", "64KiB", "10MiB", "1GiB"],
        })
    }
}

/// Statuses of HTTP: one, `503`, or a range, `502-504`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Statuses {
    /// From `first` to `last`.
    pub const fn range(first: u16, last: u16) -> Self {
        Self { first, last }
    }

    /// The statuses of success.
    pub const SUCCESS: Self = Self::range(200, 299);

    /// This one.
    pub const fn one(status: u16) -> Self {
        Self::range(status, status)
    }

    /// Whether it is among them.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }

    /// Reads `503`, `502-504`. An error holds a remedy, as [`with_hint`] puts it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| text.parse().ok().filter(|status| text.len() == 3 && (200..=599).contains(status));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(with_hint(
                format!("{} is no status", quote(text)),
                "write a status from 200 to 599, such as `503`, or a range: `502-504`",
            )),
        }
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last { serializer.serialize_u16(self.first) } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed { expected: "a status such as `503`", parse: Self::parse })
    }
}

impl JsonSchema for Statuses {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Statuses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "examples": [503, "502-504"] })
    }
}

/// A text that is never shown: not in messages, logs, or the running configuration. Comes from the environment or a
/// file, `${env:NAME}` or `${file:/path}`; in plain text in the configuration it is refused.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The text itself. Whoever asks must not show it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Hidden(&self.0).serialize(serializer)
    }
}

/// A text that is written as `***`, into whatever form. For settings that may hold a credential.
///
/// It makes itself known by a name, so that two configurations can be compared by what is hidden in them.
pub struct Hidden<'t>(pub &'t str);

impl Serialize for Hidden<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(SECRET, &Stars(self.0))
    }
}

/// `***`; in its alternate form the SHA-256 of the text, by which a serializer can tell two of them apart without
/// holding either.
struct Stars<'t>(&'t str);

impl Serialize for Stars<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Stars<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return f.write_str("***");
        }
        Sha256::digest(self.0).iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Within;

        impl<'de> Visitor<'de> for Within {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret such as `${env:NAME}`")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Secret, D::Error> {
                deserializer.deserialize_str(self)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                if text.is_empty() {
                    return Err(E::custom(with_hint("a secret is empty", "see that the variable or file holds it")));
                }
                Ok(Secret(text.to_owned()))
            }
        }

        deserializer.deserialize_newtype_struct(SECRET, Within)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": "secret",
            "description": "A text that is never shown. From the environment or a file; in plain text it is refused.",
            "pattern": "\\$\\{(env|file):[^}]+\\}",
            "examples": ["${env:NAME}", "${file:/run/secrets/name}"],
        })
    }
}

/// The SHA-256 of a key that callers send: `sha256:` and 64 digits. What stands in its place and is none may be a key itself,
/// so that it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash(String);

impl KeyHash {
    /// What it begins with.
    pub const PREFIX: &str = "sha256:";

    /// Takes a text for one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The hash itself. `None`: it is none.
    pub fn digest(&self) -> Option<[u8; 32]> {
        let hex = self.0.strip_prefix(Self::PREFIX)?.as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
        if hex.len() != 64 {
            return None;
        }
        let mut digest = [0; 32];
        for (place, pair) in hex.chunks_exact(2).enumerate() {
            digest[place] = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
        }
        Some(digest)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.digest().is_some() { &self.0 } else { "***" })
    }
}

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.digest() {
            Some(_) => serializer.serialize_str(&self.0),
            None => Hidden(&self.0).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Within;

        impl<'de> Visitor<'de> for Within {
            type Value = KeyHash;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the hash of a key, `sha256:` and 64 digits")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<KeyHash, D::Error> {
                deserializer.deserialize_str(self)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<KeyHash, E> {
                Ok(KeyHash::new(text))
            }
        }

        deserializer.deserialize_newtype_struct(KEY_HASH, Within)
    }
}

impl JsonSchema for KeyHash {
    fn schema_name() -> Cow<'static, str> {
        "KeyHash".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": "hash of a key",
            "description": "`sha256:` and 64 digits, as `armiger token hash` prints it. Never the key itself.",
            "pattern": "^sha256:[0-9a-f]{64}$",
        })
    }
}

/// Whether what a policy says is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is done.
    #[default]
    Enforce,
    /// It is only counted and logged, to see what would happen.
    Shadow,
    /// The policy is not asked at all.
    Off,
}

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

/// Reads a text by a function whose error is a message.
pub(super) struct Parsed<T> {
    pub(super) expected: &'static str,
    pub(super) parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }
}

/// Digits, with or without a fraction, and what follows them.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

fn is_whole(number: &str) -> bool {
    !number.is_empty() && !number.contains('.') && (number == "0" || !number.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(error: String) -> String {
        error.replace("\nhelp: ", " | ")
    }

    #[test]
    fn a_duration_is_a_whole_number_and_one_unit() {
        for (text, millis, back) in [
            ("250ms", 250, "250ms"),
            ("1500ms", 1_500, "1500ms"),
            ("5s", 5_000, "5s"),
            ("1s", 1_000, "1s"),
            ("1000ms", 1_000, "1s"),
            ("60s", 60_000, "60s"),
            ("75s", 75_000, "75s"),
            ("600s", 600_000, "10m"),
            ("1h", 3_600_000, "60m"),
            ("24h", 86_400_000, "24h"),
            ("0s", 0, "0s"),
            ("0ms", 0, "0s"),
        ] {
            let duration = HumanDuration::parse(text).unwrap();
            assert_eq!(duration.get(), Duration::from_millis(millis), "{text}");
            assert_eq!(duration.to_string(), back);
            assert_eq!(HumanDuration::parse(back).unwrap(), duration);
        }
    }

    #[test]
    fn a_wrong_duration_says_what_to_write() {
        for (text, said) in [
            ("10", "`10` has no unit | write `10s` for seconds, or `10ms`"),
            ("5sec", "`5sec` is no duration | write `5s`"),
            ("5 s", "`5 s` is no duration | write `5s`"),
            ("5S", "`5S` is no duration | write `5s`"),
            ("1.5s", "`1.5s` is no duration | write `1500ms`"),
            ("1m30s", "`1m30s` is no duration | write `90s`"),
            ("2d", "`2d` is no duration | write `48h`"),
            ("007s", "`007s` is no duration | write `7s`"),
            ("1_000ms", "`1_000ms` is no duration | write a whole number and one of the units `ms`, `s`, `m`, `h`"),
            ("5us", "`5us` is no duration | write a whole number and one of the units `ms`, `s`, `m`, `h`"),
            ("-5s", "`-5s` is no duration | write a whole number and a unit: `250ms`, `5s`, `10m` or `24h`"),
            ("soon", "`soon` is no duration | write a whole number and a unit: `250ms`, `5s`, `10m` or `24h`"),
            ("", "`` is no duration | write a whole number and a unit: `250ms`, `5s`, `10m` or `24h`"),
            ("99999999h", "`99999999h` is too long | the most is `87600h`, which is ten years"),
            ("99999999999999999999h", "`99999999999999999999h` is too long | the most is `87600h`, which is ten years"),
        ] {
            assert_eq!(flat(HumanDuration::parse(text).unwrap_err()), said);
        }
    }

    #[test]
    fn a_size_is_a_whole_number_and_a_unit_of_1024() {
        for (text, bytes, back) in [
            ("512B", 512, "512B"),
            ("64KiB", 65_536, "64KiB"),
            ("10MiB", 10 << 20, "10MiB"),
            ("1GiB", 1 << 30, "1GiB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("0B", 0, "0B"),
            ("1500B", 1_500, "1500B"),
        ] {
            let size = ByteSize::parse(text).unwrap();
            assert_eq!((size.get(), size.to_string().as_str()), (bytes, back));
        }
        assert_eq!(ByteSize::kib(64).get(), 65_536);
        assert_eq!(ByteSize::mib(1).to_string(), "1MiB");
    }

    #[test]
    fn a_wrong_size_says_what_to_write() {
        for (text, said) in [
            ("1024", "`1024` has no unit | write `1KiB` for bytes, or another unit: `64KiB`, `10MiB`, `1GiB`"),
            ("64KB", "`64KB` is no size | write `64KiB`; units are powers of 1024"),
            ("64k", "`64k` is no size | write `64KiB`; units are powers of 1024"),
            ("10 MiB", "`10 MiB` is no size | write `10MiB`; units are powers of 1024"),
            ("1.5MiB", "`1.5MiB` is no size | write a whole number in a smaller unit: `1536KiB` instead of `1.5MiB`"),
            ("010MiB", "`010MiB` is no size | write a whole number and one of the units `B`, `KiB`, `MiB`, `GiB`"),
            ("big", "`big` is no size | write a whole number and a unit: `512B`, `64KiB`, `10MiB` or `1GiB`"),
            ("99999999999GiB", "`99999999999GiB` is too large | the most is `1048576GiB`"),
        ] {
            assert_eq!(flat(ByteSize::parse(text).unwrap_err()), said);
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(secret.expose(), "hunter2");
    }

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
