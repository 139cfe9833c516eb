//! JSON as bytes: checked once, then cut and joined. What passes through is never read into values, so numbers, texts and
//! the order of keys stay as they came.

use std::borrow::Cow;

use bytes::Bytes;

/// How deep arrays and objects may lie in each other.
pub const DEPTH_MAX: usize = 64;

/// A JSON document: grammatical, UTF-8, without white space around it, no deeper than [`DEPTH_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(Bytes);

/// Why bytes are no JSON document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They break the grammar (RFC 8259), or are no UTF-8.
    Grammar,
    /// It is deeper than [`DEPTH_MAX`].
    Depth,
}

impl Json {
    /// Checks bytes.
    pub fn check(bytes: Bytes) -> Result<Self, Fault> {
        std::str::from_utf8(&bytes).map_err(|_| Fault::Grammar)?;
        // Senders must not begin with a mark, readers may pass over it (RFC 8259 §8.1).
        let from = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let mut check = Check { bytes: &bytes, at: from };
        check.space();
        let start = check.at;
        check.value(0)?;
        let end = check.at;
        check.space();
        if check.at != bytes.len() {
            return Err(Fault::Grammar);
        }
        Ok(Self(bytes.slice(start..end)))
    }

    /// `null`.
    pub fn null() -> Self {
        Self(Bytes::from_static(b"null"))
    }

    /// What was put together from parts of checked documents.
    pub fn made(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// A value within `whole`, sharing its bytes.
    pub fn within(whole: &Self, view: View<'_>) -> Self {
        Self(whole.0.slice_ref(view.0))
    }

    /// A value of the configuration.
    pub fn of(value: &serde_json::Value) -> Self {
        Self(value.to_string().into())
    }

    /// The document, to look into.
    pub fn view(&self) -> View<'_> {
        View(&self.0)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

// === checking ===

struct Check<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Check<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, text: &[u8]) -> Result<(), Fault> {
        if !self.bytes[self.at..].starts_with(text) {
            return Err(Fault::Grammar);
        }
        self.at += text.len();
        Ok(())
    }

    /// Recursion is as deep as the document, which is bounded.
    fn value(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.text(),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b't') => self.expect(b"true"),
            Some(b'f') => self.expect(b"false"),
            Some(b'n') => self.expect(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(Fault::Grammar),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Depth);
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(Fault::Grammar);
            }
            self.text()?;
            self.space();
            self.expect(b":")?;
            self.space();
            self.value(depth)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(Fault::Grammar),
            }
            self.space();
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Depth);
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(Fault::Grammar),
            }
            self.space();
        }
        self.at += 1;
        Ok(())
    }

    fn text(&mut self) -> Result<(), Fault> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            let digits = self.bytes.get(self.at + 1..self.at + 5).ok_or(Fault::Grammar)?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return Err(Fault::Grammar);
                            }
                            self.at += 5;
                        }
                        _ => return Err(Fault::Grammar),
                    }
                }
                Some(0..=0x1F) | None => return Err(Fault::Grammar),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == from { Err(Fault::Grammar) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }
}

// === looking ===

/// A value within a checked document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View<'a>(&'a [u8]);

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    Text,
    /// A number, `true` or `false`.
    Plain,
    /// `null`
    Null,
}

/// A key within a checked document, quotes and escapes as they came.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a>(&'a [u8]);

impl<'a> Key<'a> {
    /// As it stands in the document.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// What it means.
    pub fn text(self) -> Cow<'a, str> {
        decode(self.0)
    }

    /// Whether it means this.
    pub fn is(self, text: &str) -> bool {
        let inside = &self.0[1..self.0.len() - 1];
        if memchr::memchr(b'\\', inside).is_none() { inside == text.as_bytes() } else { self.text() == text }
    }
}

impl<'a> View<'a> {
    /// What it is.
    pub fn kind(self) -> Kind {
        match self.0.first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::Text,
            Some(b'n') | None => Kind::Null,
            Some(_) => Kind::Plain,
        }
    }

    /// As it stands in the document.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The text of a text, or a number, `true` or `false` as it is written. None for anything else.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self.kind() {
            Kind::Text => Some(decode(self.0)),
            Kind::Plain => Some(String::from_utf8_lossy(self.0)),
            Kind::Object | Kind::Array | Kind::Null => None,
        }
    }

    /// The members of an object, in their order, a repeated key as often as it is there. Of anything else none.
    pub fn members(self) -> Members<'a> {
        Members(Walk { bytes: self.0, at: usize::from(self.kind() == Kind::Object) })
    }

    /// The entries of an array. Of anything else none.
    pub fn items(self) -> Items<'a> {
        Items(Walk { bytes: self.0, at: usize::from(self.kind() == Kind::Array) })
    }

    /// What stands between the brackets of an array.
    pub fn inside(self) -> &'a [u8] {
        match self.kind() {
            Kind::Array => self.0[1..self.0.len() - 1].trim_ascii(),
            _ => &[],
        }
    }

    /// The member of this name of an object, the last one where it stands twice; or the entry at that place of an array.
    pub fn get(self, name: &str) -> Option<View<'a>> {
        match self.kind() {
            Kind::Object => self.members().filter(|(key, _)| key.is(name)).last().map(|(_, value)| value),
            Kind::Array => self.items().nth(index(name)?),
            _ => None,
        }
    }
}

/// An index as JSON Pointer writes it (RFC 6901 §4).
pub fn index(text: &str) -> Option<usize> {
    let is_index = text.bytes().all(|byte| byte.is_ascii_digit()) && (!text.starts_with('0') || text == "0");
    if is_index { text.parse().ok() } else { None }
}

struct Walk<'a> {
    bytes: &'a [u8],
    /// 0: there is nothing to walk.
    at: usize,
}

impl<'a> Walk<'a> {
    /// To the next byte that is neither white space nor one of the signs between values.
    fn next_sign(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b',' | b':') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn take(&mut self) -> &'a [u8] {
        let from = self.at;
        self.at = end_of(self.bytes, from);
        &self.bytes[from..self.at]
    }
}

/// The end of the value that begins here.
fn end_of(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    let mut depth = 0_usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = end_of_text(bytes, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                if depth == 0 {
                    return at;
                }
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

fn end_of_text(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// See [`View::members`].
pub struct Members<'a>(Walk<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (Key<'a>, View<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.at == 0 || self.0.next_sign()? == b'}' {
            return None;
        }
        let key = self.0.take();
        self.0.next_sign()?;
        Some((Key(key), View(self.0.take())))
    }
}

/// See [`View::items`].
pub struct Items<'a>(Walk<'a>);

impl<'a> Iterator for Items<'a> {
    type Item = View<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.at == 0 || self.0.next_sign()? == b']' {
            return None;
        }
        Some(View(self.0.take()))
    }
}

/// A text without its quotes and escapes. Half of a surrogate pair stands for no character, and becomes U+FFFD.
pub(super) fn decode(quoted: &[u8]) -> Cow<'_, str> {
    let inside = &quoted[1..quoted.len() - 1];
    if memchr::memchr(b'\\', inside).is_none() {
        return String::from_utf8_lossy(inside);
    }
    Cow::Owned(serde_json::from_slice(quoted).unwrap_or_else(|_| decode_leniently(inside)))
}

fn decode_leniently(inside: &[u8]) -> String {
    let text = String::from_utf8_lossy(inside);
    let mut out = String::with_capacity(text.len());
    let mut units = Vec::new();
    let mut rest = &*text;
    let flush = |units: &mut Vec<u16>, out: &mut String| {
        out.extend(char::decode_utf16(units.drain(..)).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
    };
    while let Some(at) = rest.find('\\') {
        if at > 0 {
            flush(&mut units, &mut out);
            out.push_str(&rest[..at]);
        }
        let mut chars = rest[at + 1..].chars();
        let sign = chars.next();
        if let (Some('u'), Some(unit)) =
            (sign, rest.get(at + 2..at + 6).and_then(|hex| u16::from_str_radix(hex, 16).ok()))
        {
            units.push(unit);
            rest = &rest[at + 6..];
            continue;
        }
        flush(&mut units, &mut out);
        match sign {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some(other) => out.push(other),
            None => {}
        }
        rest = chars.as_str();
    }
    flush(&mut units, &mut out);
    out.push_str(rest);
    out
}

/// Writes a text with its quotes.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_inside(out, text);
    out.push(b'"');
}

/// Writes a text as it stands between quotes.
pub fn write_inside(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1F => &[],
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        if escape.is_empty() {
            let hex = b"0123456789abcdef";
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex[usize::from(byte >> 4)], hex[usize::from(byte & 15)]]);
        } else {
            out.extend_from_slice(escape);
        }
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Json {
        Json::check(Bytes::copy_from_slice(text.as_bytes())).unwrap_or_else(|fault| panic!("{text}: {fault:?}"))
    }

    #[test]
    fn what_is_json_is_taken_as_it_is() {
        for text in [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "12",
            "-1.5e+30",
            "1E2",
            "\"\"",
            "\"a\\u00e4\\n\\\"\"",
            "[]",
            "{}",
            "[1, 2 ,3]",
            "{\"a\" : {\"b\":[ ]} }",
            "9007199254740993",
            "1.10",
            "\"\\ud800\"",
        ] {
            assert_eq!(json(text).bytes(), text.as_bytes());
            assert_eq!(json(&format!(" \n{text}\t")).bytes(), text.as_bytes());
        }
        assert_eq!(json("\u{feff}[1]").bytes(), &b"[1]"[..]);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "nul",
            "tru e",
            "01",
            "+1",
            "1.",
            ".5",
            "1e",
            "-",
            "\"",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "[1,]",
            "[,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "[1 2]",
            "{} {}",
            "[",
            "{",
            "]",
            "[}",
            "NaN",
            "'a'",
        ] {
            assert_eq!(Json::check(Bytes::copy_from_slice(text.as_bytes())), Err(Fault::Grammar), "{text:?}");
        }
        assert_eq!(Json::check(Bytes::from_static(b"\"\xff\"")), Err(Fault::Grammar));
    }

    #[test]
    fn a_document_may_be_so_deep_and_no_deeper() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        json(&nested(DEPTH_MAX));
        let bytes = Bytes::from(nested(DEPTH_MAX + 1));
        assert_eq!(Json::check(bytes), Err(Fault::Depth));
        assert_eq!(Json::check(Bytes::from("[".repeat(1 << 20))), Err(Fault::Depth), "no stack is spent on it");
    }

    #[test]
    fn members_and_items_are_found_where_they_stand() {
        let document = json(r#" {"a" : [1, {"b]":2} ,"x,y" ], "c\u0041":-1.50, "a":null} "#);
        let members: Vec<_> =
            document.view().members().map(|(key, value)| (key.text().into_owned(), value.bytes())).collect();
        assert_eq!(
            members,
            [
                ("a".to_owned(), &br#"[1, {"b]":2} ,"x,y" ]"#[..]),
                ("cA".to_owned(), &b"-1.50"[..]),
                ("a".to_owned(), &b"null"[..])
            ]
        );
        assert_eq!(document.view().get("cA").map(View::bytes), Some(&b"-1.50"[..]));
        assert_eq!(document.view().get("a").map(View::kind), Some(Kind::Null), "the last one counts");
        let list = json(r#"[ 1 ,"\"", [] ]"#);
        let items: Vec<_> = list.view().items().map(View::bytes).collect();
        assert_eq!(items, [&b"1"[..], &br#""\"""#[..], &b"[]"[..]]);
        assert_eq!(list.view().get("1").and_then(View::text).as_deref(), Some("\""));
        assert_eq!(list.view().get("01"), None);
        assert_eq!(list.view().inside(), br#"1 ,"\"", []"#);
    }

    #[test]
    fn half_a_character_is_told_apart_from_none() {
        assert_eq!(json(r#""a\ud83d\ude00\n""#).view().text().as_deref(), Some("a😀\n"));
        assert_eq!(json(r#""a\ud800\n\u0041""#).view().text().as_deref(), Some("a\u{fffd}\nA"));
    }

    fn any_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(|number| serde_json::json!(number)),
            ".*".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(serde_json::Value::from),
                prop::collection::hash_map(".*", inner, 0..8)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// What it means, by way of views alone.
    fn read(view: View<'_>) -> serde_json::Value {
        match view.kind() {
            Kind::Object => view
                .members()
                .map(|(key, value)| (key.text().into_owned(), read(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Kind::Array => view.items().map(read).collect::<Vec<_>>().into(),
            Kind::Text => view.text().expect("a text").into_owned().into(),
            Kind::Plain => serde_json::from_slice(view.bytes()).expect("a number or a truth"),
            Kind::Null => serde_json::Value::Null,
        }
    }

    proptest! {
        #[test]
        fn views_see_what_another_reader_sees(value in any_value(), is_pretty in any::<bool>()) {
            let text = if is_pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let document = json(&text);
            let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read(document.view()), expected);
        }

        #[test]
        fn what_is_taken_is_taken_by_another_reader_too(text in r#"[\[\]{},:"\\ 0-9a-eEntrufls.\-+]{0,24}"#) {
            let ours = Json::check(Bytes::from(text.clone())).is_ok();
            prop_assert_eq!(ours, serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{}", text);
        }

        #[test]
        fn texts_are_written_so_that_they_are_read_again(text in any::<String>()) {
            let mut out = Vec::new();
            write_text(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
