//! A rate: so many per second, minute or hour.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::issue::quote;
use super::value::Parsed;
use super::yaml::with_hint;

/// So many per second, minute or hour: `100/s`, `1000/m`, `1/h`. A whole number, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HumanRate {
    count: u64,
    unit: &'static str,
}

const UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];

/// No limit that somebody means is higher.
const COUNT_MAX: u64 = 1_000_000_000;

impl HumanRate {
    /// So many of them.
    pub const fn count(self) -> u64 {
        self.count
    }

    /// In this time.
    pub fn period(self) -> Duration {
        let seconds = UNITS.iter().find(|(unit, _)| *unit == self.unit).map_or(1, |(_, seconds)| *seconds);
        Duration::from_secs(seconds)
    }

    /// How many in a second.
    pub fn per_second(self) -> f64 {
        self.count as f64 / self.period().as_secs_f64()
    }

    /// Reads `100/s`, `1000/m`, `1/h`. An error holds a remedy, as [`with_hint`] puts it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |hint: String| Err(with_hint(format!("{} is no rate", quote(text)), hint));
        let example = || "write a whole number and a unit of time: `100/s`, `1000/m` or `1/h`".to_owned();
        // `100rps`, `100r/s`, `100 per second`.
        let count: String = text.chars().take_while(char::is_ascii_digit).collect();
        let rest = text[count.len()..].trim().to_ascii_lowercase();
        let said = [("s", "second"), ("m", "minute"), ("h", "hour")].into_iter().find(|(unit, word)| {
            let shapes = [
                format!("rp{unit}"),
                format!("r/{unit}"),
                format!("req/{unit}"),
                format!("per {word}"),
                format!("p{unit}"),
            ];
            shapes.contains(&rest) || rest == format!("/ {unit}") || rest == format!("/ {word}")
        });
        if let Some((unit, _)) = said.filter(|_| !count.is_empty()) {
            return wrong(format!("write `{count}/{unit}`"));
        }
        let Some((number, unit)) = text.split_once('/') else {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            return wrong(if is_number {
                format!("say in what time: `{text}/s`, `{text}/m` or `{text}/h`")
            } else {
                example()
            });
        };
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "s" => "s",
            "m" => "m",
            "h" => "h",
            "sec" | "second" | "1s" => return wrong(format!("write `{}/s`", number.trim())),
            "min" | "minute" | "1m" => return wrong(format!("write `{}/m`", number.trim())),
            "hour" | "1h" => return wrong(format!("write `{}/h`", number.trim())),
            _ => return wrong(example()),
        };
        match number.parse::<u64>() {
            Ok(count @ 1..=COUNT_MAX) if !number.starts_with('+') && !number.starts_with('0') => {
                Ok(Self { count, unit })
            }
            Ok(0) => wrong("the least is `1/h`; to refuse everybody use `ip_filter` or leave the route out".into()),
            Ok(count) if count > COUNT_MAX => wrong(format!("the most is `{COUNT_MAX}/s`")),
            _ if number.contains('.') => {
                wrong("write a whole number in a longer time: `30/m` instead of `0.5/s`".into())
            }
            _ => wrong(example()),
        }
    }
}

impl fmt::Display for HumanRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit)
    }
}

impl Serialize for HumanRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed { expected: "a rate such as `100/s`", parse: Self::parse })
    }
}

impl JsonSchema for HumanRate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": "rate",
            "description": "So many per second, minute or hour: `100/s`, `1000/m`, `1/h`.",
            "pattern": "^[1-9][0-9]*/(s|m|h)$",
            "examples": ["100/s", "1000/m", "1/h"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_whole_number_in_a_unit_of_time() {
        for (text, count, seconds) in [("100/s", 100, 1), ("1000/m", 1000, 60), ("1/h", 1, 3600)] {
            let rate = HumanRate::parse(text).unwrap();
            assert_eq!((rate.count(), rate.period().as_secs(), rate.to_string().as_str()), (count, seconds, text));
        }
        for (text, hint) in [
            ("100", "`100/s`"),
            ("0/s", "the least"),
            ("0.5/s", "`30/m`"),
            ("5/min", "`5/m`"),
            ("5/d", "a whole number"),
            ("/s", "a whole number"),
            ("+5/s", "a whole number"),
            ("05/s", "a whole number"),
            ("-5/s", "a whole number"),
            ("99999999999/s", "the most"),
            ("99999999999999999999999/s", "a whole number"),
            ("", "a whole number"),
        ] {
            let error = HumanRate::parse(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
