//! What looks like something else: the remedy for a value is then another one than its type would say.

/// Signs that open and close quotations in print.
const QUOTES: [char; 12] = ['“', '”', '„', '‟', '‘', '’', '‚', '‛', '«', '»', '‹', '›'];

/// What to do about a text that is not what it seems to whoever reads it.
pub(crate) fn remedy(text: &str) -> Option<String> {
    if let Some(sign) = text.chars().find(|sign| is_odd_blank(*sign)) {
        return Some(format!(
            "a blank in it is none for YAML (U+{:04X}, a no-break space or the like): write a plain space, or none",
            u32::from(sign)
        ));
    }
    if let Some(sign) = text.chars().find(|sign| is_invisible(*sign)) {
        return Some(format!("a character in it cannot be seen (U+{:04X}): remove it", u32::from(sign)));
    }
    if text.starts_with(QUOTES) {
        return Some("quotes as they are printed (`“`, `’`) are letters for YAML: write `\"` or `'`".to_owned());
    }
    is_variable(text).then(|| "what comes from the environment is written `${env:NAME}`".to_owned())
}

/// Blanks that YAML takes for letters.
pub(crate) fn is_odd_blank(sign: char) -> bool {
    matches!(sign, '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

fn is_invisible(sign: char) -> bool {
    matches!(sign, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}')
}

/// Whether a text is a variable as shells, templates and other proxies write one.
fn is_variable(text: &str) -> bool {
    let between = |open: &str, close: &str| text.strip_prefix(open).and_then(|text| text.strip_suffix(close));
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
            && name.starts_with(|c: char| !c.is_ascii_digit())
    };
    text.strip_prefix('$').is_some_and(is_name)
        || between("$(", ")").is_some_and(is_name)
        || between("%", "%").is_some_and(is_name)
        || between("${env.", "}").is_some_and(is_name)
        || between("{{", "}}").is_some_and(|inner| !inner.trim().is_empty())
        || between("{$", "}").is_some_and(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_what_it_seems_has_a_remedy_of_its_own() {
        for (text, part) in [
            ("5s\u{a0}", "U+00A0"),
            ("app\u{200b}", "U+200B"),
            ("“5s”", "printed"),
            ("$APP_URL", "${env:NAME}"),
            ("$(APP_URL)", "${env:NAME}"),
            ("%APP%", "${env:NAME}"),
            ("${env.APP}", "${env:NAME}"),
            ("{{ .Values.url }}", "${env:NAME}"),
        ] {
            assert!(remedy(text).is_some_and(|hint| hint.contains(part)), "{text}");
        }
        for plain in ["5s", "$1", "100%", "%41", "$", "it’s", "a $B", "{x}", "é", "$$A"] {
            assert_eq!(remedy(plain), None, "{plain}");
        }
    }
}
