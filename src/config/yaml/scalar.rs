//! Numbers and booleans from text, with a remedy for each of the ways to get them wrong.

use super::error::Error;
use super::tree::{Node, Scalar, Style, found};

/// A whole number between two bounds.
pub(crate) fn integer(node: &Node, min: i128, max: i128) -> Result<i128, Error> {
    let wrong = |hint: Option<String>| Err(Error::new(format!("expected a whole number, found {}", found(node)), hint));
    let Some(scalar) = node.scalar() else { return wrong(None) };
    if let Some(hint) = not_bare(scalar, |text| decimal(text).is_some()) {
        return wrong(Some(hint));
    }
    let Some(value) = decimal(&scalar.text) else {
        let digits = || "write digits only, such as `10`".to_owned();
        return wrong(integer_hint(scalar).or_else(|| (!scalar.is_outside()).then(digits)));
    };
    if value < min && min == 0 {
        return Err(Error::new(
            format!("{} is negative", found(node)),
            Some("write a number that is not negative".to_owned()),
        ));
    }
    if value < min {
        return Err(Error::new(format!("{} is too small", found(node)), Some(format!("the least is {min}"))));
    }
    if value > max {
        return Err(Error::new(format!("{} is too large", found(node)), Some(format!("the most is {max}"))));
    }
    Ok(value)
}

/// A number with or without a fraction.
pub(crate) fn number(node: &Node) -> Result<f64, Error> {
    let wrong = |hint: Option<String>| Err(Error::new(format!("expected a number, found {}", found(node)), hint));
    let Some(scalar) = node.scalar() else { return wrong(None) };
    if let Some(hint) = not_bare(scalar, |text| fraction(text).is_some()) {
        return wrong(Some(hint));
    }
    match fraction(&scalar.text) {
        Some(value) => Ok(value),
        None if scalar.is_outside() => wrong(None),
        None => {
            let percent = scalar.text.strip_suffix('%').and_then(|text| fraction(text.trim_end()));
            wrong(match percent {
                Some(percent) => Some(format!("write a share of 1: `{}`", percent / 100.0)),
                None if scalar.text.contains(',') => Some(format!("write `{}`", scalar.text.replace(',', "."))),
                None => Some(integer_hint(scalar).unwrap_or_else(|| "write digits, such as `10` or `0.5`".to_owned())),
            })
        }
    }
}

/// `true` or `false`.
pub(crate) fn boolean(node: &Node) -> Result<bool, Error> {
    let wrong =
        |hint: Option<String>| Err(Error::new(format!("expected `true` or `false`, found {}", found(node)), hint));
    let Some(scalar) = node.scalar() else { return wrong(None) };
    if let Some(hint) = not_bare(scalar, |text| matches!(text, "true" | "false")) {
        return wrong(Some(hint));
    }
    match scalar.text.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ if scalar.is_outside() => wrong(None),
        other => wrong(match other.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" | "1" => Some("write `true`".to_owned()),
            "false" | "no" | "n" | "off" | "0" => Some("write `false`".to_owned()),
            _ => Some("write one of the two, without quotes".to_owned()),
        }),
    }
}

/// A remedy for nothing at all, and for quotes around what would fit without.
fn not_bare(scalar: &Scalar, fits: impl Fn(&str) -> bool) -> Option<String> {
    if scalar.is_null() {
        return Some("write a value after the colon, or remove the key".to_owned());
    }
    if scalar.style == Style::Quoted && !scalar.is_outside() {
        return Some(if fits(&scalar.text) {
            "remove the quotes".to_owned()
        } else {
            "a text in quotes is never a number or a boolean".to_owned()
        });
    }
    None
}

/// Digits without a leading zero, with an optional `-`.
pub(crate) fn decimal(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty()
        && digits.len() <= 30
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Digits, with or without a fraction and an exponent. No infinity, no NaN.
pub(crate) fn fraction(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let whole: &str = unsigned.split(['.', 'e', 'E']).next().unwrap_or("");
    let rest = &unsigned[whole.len()..];
    decimal(whole)?;
    if whole.starts_with('-') || rest == "." || rest.starts_with(".e") || rest.starts_with(".E") {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

fn integer_hint(scalar: &Scalar) -> Option<String> {
    if scalar.is_outside() {
        return None;
    }
    let text = scalar.text.strip_prefix('+').unwrap_or(&scalar.text);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(value) = lower.strip_prefix(prefix).and_then(|digits| u64::from_str_radix(digits, radix).ok()) {
            return Some(format!("numbers are decimal: write `{sign}{value}`"));
        }
    }
    if digits.is_empty() {
        return None;
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let trimmed = digits.trim_start_matches('0');
        let trimmed = if trimmed.is_empty() { "0" } else { trimmed };
        return Some(match u64::from_str_radix(digits, 8) {
            Ok(octal) if digits.starts_with('0') => {
                format!(
                    "numbers are decimal and have no leading zero: write `{sign}{trimmed}`, or `{sign}{octal}` if octal was meant"
                )
            }
            _ => format!("write `{sign}{trimmed}`"),
        });
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'_' | b',' | b'\'' | b' ')) {
        let joined: String = digits.chars().filter(char::is_ascii_digit).collect();
        return Some(format!("numbers have no separators: write `{sign}{joined}`"));
    }
    if let Some(whole) = fraction(text).filter(|value| value.fract() == 0.0 && value.abs() < 1e15) {
        return Some(format!("write `{whole}`"));
    }
    let digit = |c: char| match c {
        'O' | 'o' => '0',
        'l' | 'I' => '1',
        _ => c,
    };
    let meant: String = digits.chars().map(digit).collect();
    if meant.starts_with(|c: char| c != '0') && meant.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!("a letter stands among the digits: write `{sign}{meant}`"));
    }
    let number: String = digits.chars().take_while(char::is_ascii_digit).collect();
    if !number.is_empty() && digits[number.len()..].trim_start().chars().all(char::is_alphabetic) {
        return Some("this number has no unit".to_owned());
    }
    None
}
