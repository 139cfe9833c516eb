//! Durations and sizes: a whole number and a unit.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::super::issue::quote;
use super::super::yaml::with_hint;
use super::Parsed;

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
}
