//! Keeps values from outside the file out of what is said about it: [`Mask`].

use std::collections::HashSet;

use super::super::yaml::secrecy::without_defaults;
use super::super::yaml::tree::Scalar;
use super::shown;

/// A value shorter than this is replaced only where it stands alone: it is part of too many words.
const ANYWHERE_MIN: usize = 4;
/// A value with fewer letters and digits is replaced only where no word goes on beside it, unless it was put together with
/// what stands in the file.
const IN_WORDS_MIN: usize = 8;
/// A part of a value that a message quotes is hidden from this length on.
const PART_MIN: usize = 6;
/// The same where the message is about that value.
const OWN_PART_MIN: usize = 2;
/// Parts that any value may have, and that messages quote of themselves.
const COMMON: [&str; 2] = ["http://", "https://"];

/// Texts that came from the environment or a file, and what is shown in their place.
///
/// Every check words its own messages, and knows nothing of where a value came from.
#[derive(Debug, Default)]
pub(crate) struct Mask {
    /// What is looked for, longest first, and what is put there.
    patterns: Vec<(String, String)>,
    /// Which of them are replaced only as words of their own.
    words: HashSet<String>,
    /// The values, for parts of them.
    values: Vec<String>,
}

impl Mask {
    /// From pairs of a text and what stands for it in the file.
    pub(crate) fn new<'p>(outside: impl IntoIterator<Item = &'p (String, String)>) -> Self {
        let mut mask = Self::default();
        for (value, reference) in outside {
            mask.add(value, reference);
            // Where a message shows the reference, what is like a value in it is none.
            mask.patterns.push((shown(reference), shown(reference)));
            // Of a certificate, say, a message may show a line.
            if value.contains('\n') {
                value.lines().filter(|line| line.len() >= PART_MIN).for_each(|line| mask.add(line, reference));
            }
            mask.values.push(value.clone());
        }
        // Ties are broken by the text, so that the choice among equal values is the same each time.
        mask.patterns.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        mask.patterns.dedup_by(|a, b| a.0 == b.0);
        mask
    }

    fn add(&mut self, value: &str, reference: &str) {
        let escaped = shown(value);
        for text in [value, escaped.strip_suffix('…').unwrap_or(&escaped)] {
            match text.chars().count() {
                0 => {}
                1..ANYWHERE_MIN => {
                    for quote in ['`', '"'] {
                        self.patterns
                            .push((format!("{quote}{text}{quote}"), format!("{quote}{}{quote}", shown(reference))));
                    }
                }
                _ => {
                    if is_whole(reference) && text.chars().filter(|c| c.is_alphanumeric()).count() < IN_WORDS_MIN {
                        self.words.insert(text.to_owned());
                    }
                    self.patterns.push((text.to_owned(), shown(reference)));
                }
            }
        }
    }

    /// A text without what it shows of the values. `about`: what the text is about, if it is a single value. `file`: what
    /// stands there is known to whoever reads the message.
    pub(crate) fn apply(&self, text: String, about: Option<&Scalar>, file: &str) -> String {
        if self.values.is_empty() {
            return text;
        }
        // What is put in is not searched again: a value may be like the name of another.
        let mut pieces = vec![(text, false)];
        // A short value may be like what stands in the file itself.
        let own = about.filter(|scalar| !scalar.is_outside()).map(|scalar| scalar.text.as_str());
        let is_own = |pattern: &str| {
            let bare = pattern.trim_matches(['`', '"']);
            bare.chars().count() < ANYWHERE_MIN && own == Some(bare)
        };
        for (pattern, reference) in self.patterns.iter().filter(|(pattern, _)| !is_own(pattern)) {
            if !pieces.iter().any(|(piece, done)| !done && find(piece, pattern).is_some()) {
                continue;
            }
            let is_word = self.words.contains(pattern);
            let mut next = Vec::with_capacity(pieces.len() + 2);
            for (piece, done) in pieces {
                // From where nothing is put in, and from where it is searched.
                let (mut from, mut at) = (0, 0);
                while let Some(found) = (!done).then(|| find(&piece[at..], pattern)).flatten() {
                    let (start, end) = (at + found, at + found + pattern.len());
                    at = end;
                    if is_word && is_in_word(&piece, start, end) {
                        at = start + width(&piece, start);
                        continue;
                    }
                    next.push((piece[from..start].to_owned(), false));
                    next.push((reference.clone(), true));
                    from = end;
                }
                next.push((piece[from..].to_owned(), done));
            }
            pieces = next;
        }
        let joined: String = pieces
            .into_iter()
            .map(|(piece, done)| if done { piece } else { self.without_beginnings(&piece) })
            .collect();
        self.without_parts(&joined, about, file)
    }

    /// Takes out what stands before a `…` and begins a value: a message shortens what is long.
    fn without_beginnings(&self, text: &str) -> String {
        let mut out = String::new();
        for (position, piece) in text.split('…').enumerate() {
            if position > 0 {
                let begun = self.patterns.iter().filter_map(|(pattern, reference)| {
                    let ends = pattern.char_indices().map(|(at, c)| at + c.len_utf8()).skip(ANYWHERE_MIN - 1).take(600);
                    let longest = ends
                        .filter(|end| !COMMON.contains(&&pattern[..*end]) && ends_with(&out, &pattern[..*end]))
                        .max()?;
                    Some((longest, reference))
                });
                if let Some((length, reference)) = begun.max_by_key(|(length, _)| *length) {
                    out.truncate(out.len() - length);
                    out.push_str(reference);
                }
                out.push('…');
            }
            out.push_str(piece);
        }
        out
    }

    /// Takes out what is quoted and is a part of a value, unless it stands in the file as well.
    fn without_parts(&self, text: &str, about: Option<&Scalar>, file: &str) -> String {
        let is_secret = |part: &str| !COMMON.contains(&part) && !file.contains(part);
        let is_part = |part: &str| {
            part.chars().count() >= PART_MIN
                && self.values.iter().any(|value| find(value, part).is_some())
                && is_secret(part)
        };
        let own = about.and_then(|scalar| Some((scalar.text.as_str(), scalar.reference.as_deref()?)));
        let mut out = String::with_capacity(text.len());
        for (at, part) in text.split('`').enumerate() {
            if at > 0 {
                out.push('`');
            }
            match own {
                _ if at % 2 == 0 => out.push_str(part),
                Some((value, reference))
                    if part.chars().count() >= OWN_PART_MIN && find(value, part).is_some() && is_secret(part) =>
                {
                    // What the file does not show of it, this does not either.
                    let reference = match file.contains(reference) {
                        true => shown(reference),
                        false => shown(&without_defaults(reference)),
                    };
                    out.push_str(&format!("***` in `{reference}"));
                }
                _ if is_part(part) => out.push_str("***"),
                _ => out.push_str(part),
            }
        }
        out
    }
}

/// Where a text has another, in capitals or not: a host name may be shown in lower case.
fn find(text: &str, pattern: &str) -> Option<usize> {
    if pattern.is_empty() {
        return None;
    }
    text.as_bytes().windows(pattern.len()).position(|window| window.eq_ignore_ascii_case(pattern.as_bytes()))
}

/// Whether a reference is all that stands in the file.
fn is_whole(reference: &str) -> bool {
    reference.starts_with("${") && reference.find('}').is_none_or(|end| end + 1 == reference.len())
}

/// Whether the word that stands in a range goes on before or behind it.
fn is_in_word(text: &str, start: usize, end: usize) -> bool {
    let goes_on = |one: Option<char>, next: Option<char>| {
        one.zip(next).is_some_and(|(one, next)| one.is_alphanumeric() && next.is_alphanumeric())
    };
    let (found, before, behind) = (&text[start..end], &text[..start], &text[end..]);
    goes_on(before.chars().next_back(), found.chars().next())
        || goes_on(found.chars().next_back(), behind.chars().next())
}

/// How many bytes the character at a place has.
fn width(text: &str, at: usize) -> usize {
    text[at..].chars().next().map_or(1, char::len_utf8)
}

fn ends_with(text: &str, end: &str) -> bool {
    let from = text.len().checked_sub(end.len());
    from.is_some_and(|from| text.as_bytes()[from..].eq_ignore_ascii_case(end.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::super::super::yaml::tree::Style;
    use super::*;

    #[test]
    fn a_value_is_shown_as_its_reference() {
        let long = "s".repeat(30) + &"t".repeat(50);
        let outside = [
            ("hunter2secret".to_owned(), "${env:S}".to_owned()),
            ("http://hunter2secret:80".to_owned(), "http://${env:S}:80".to_owned()),
            ("80".to_owned(), "${env:P}".to_owned()),
            ("a\nbcd".to_owned(), "${file:/x}".to_owned()),
            (long.clone(), "${env:LONG}".to_owned()),
            (String::new(), "${env:EMPTY}".to_owned()),
        ];
        let mask = Mask::new(&outside);
        for (text, expected) in [
            ("`hunter2secret` is no endpoint", "`${env:S}` is no endpoint"),
            ("`HUNTER2SECRET`, hunter2secret", "`${env:S}`, ${env:S}"),
            ("`http://hunter2secret:80` is no endpoint", "`http://${env:S}:80` is no endpoint"),
            ("`80` is not 80", "`${env:P}` is not 80"),
            ("`a\\nbcd`", "`${file:/x}`"),
            ("`a\nbcd`", "`${file:/x}`"),
            (&format!("`{long}`"), "`${env:LONG}`"),
            (&super::super::quote(&long), "`${env:LONG}…`"),
            (&super::super::quote(&format!("key: {long}")), "`key: ${env:LONG}…`"),
            ("no host in `secret:80`", "no host in `***`"),
            ("write `http://…`", "write `http://…`"),
            ("the key `nter2sec` is in the file", "the key `nter2sec` is in the file"),
            ("nothing of it", "nothing of it"),
            ("é`hunter2secret`é", "é`${env:S}`é"),
        ] {
            assert_eq!(mask.apply(text.to_owned(), None, "nter2sec: 1"), expected, "{text}");
        }
        assert_eq!(Mask::default().apply("`x`".to_owned(), None, ""), "`x`");
        let about = |text: &str, reference: Option<&str>| Scalar {
            text: text.to_owned(),
            style: Style::Plain,
            reference: reference.map(Into::into),
        };
        let told = |text: &str, about: &Scalar| mask.apply(text.to_owned(), Some(about), "f(x)");
        assert_eq!(told("`80` is no name", &about("80", None)), "`80` is no name", "it stands there");
        let own = about("hunter2secret", None);
        assert_eq!(told("`hunter2secret` is no name", &own), "`${env:S}` is no name", "it must not be told");
        let own = about("f(hunter2secret)", Some("f(${env:S})"));
        assert_eq!(told("`hunt` is no `f` of `xy`", &own), "`***` in `f(${env:S})` is no `f` of `xy`");
    }

    #[test]
    fn a_reference_stays_as_it_is_though_a_value_is_like_a_part_of_it() {
        let outside = [("soonish".to_owned(), "${env:A:-soonish}".to_owned()), ("80".to_owned(), "${env:80}".into())];
        let mask = Mask::new(&outside);
        for text in ["`${env:A:-soonish}` is no duration", "`${env:80}` is no size"] {
            assert_eq!(mask.apply(text.to_owned(), None, ""), text);
        }
    }

    #[test]
    fn a_short_value_is_no_part_of_a_word() {
        let outside = [
            ("dura".to_owned(), "${env:D}".to_owned()),
            ("a.dura".to_owned(), "a.${env:D}".to_owned()),
            ("longsecret".to_owned(), "${env:L}".to_owned()),
        ];
        let mask = Mask::new(&outside);
        for (text, expected) in [
            ("`soon` is no duration", "`soon` is no duration"),
            ("procedura, endura_x", "procedura, endura_x"),
            ("dura is no `dura`", "${env:D} is no `${env:D}`"),
            ("duration of dura: x-Dura.", "duration of ${env:D}: x-${env:D}."),
            ("x`a.durable`", "x`a.${env:D}ble`"),
            ("mylongsecrets", "my${env:L}s"),
        ] {
            assert_eq!(mask.apply(text.to_owned(), None, ""), expected, "{text}");
        }
    }

    #[test]
    fn what_is_put_in_is_not_searched_again() {
        let outside =
            [("TOKEN".to_owned(), "${env:A}".to_owned()), ("longer secret".to_owned(), "${env:TOKEN}".into())];
        assert_eq!(Mask::new(&outside).apply("`longer secret` TOKEN".into(), None, ""), "`${env:TOKEN}` ${env:A}");
    }
}
