//! The parser's complaints, in words for the person who edits the file.

use serde_saphyr::granit_parser::{ErrorKind, ScanError};

use super::super::issue::{Issue, KeyPath};
use super::super::lookalike::is_odd_blank;
use super::tree::DEPTH_MAX;

/// One issue for what stopped the parser, at the character that did. `path`: which key a place belongs to.
pub(crate) fn explain(text: &str, error: &ScanError, path: &dyn Fn(usize) -> KeyPath) -> Issue {
    let at = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let tab = tab_to_blame(text, at, error.kind());
    let at = match error.kind() {
        // Within a text, the parser marks where the text begins.
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => {
            text[at..].find(*character).map_or(at, |further| at + further)
        }
        _ => tab.unwrap_or(at),
    };
    let rest = &text[at..];
    // Before a template, everything else the parser says is noise.
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or("");
    let (message, hint) = if line.contains("{{") && line.contains("}}") {
        (
            "this looks like a template that was not filled in".to_owned(),
            "render the template first; a text that really has `{{` in it needs quotes".to_owned(),
        )
    } else if rest.starts_with("{env:") || rest.starts_with("{file:") {
        ("a `${…}` within `{ }` or `[ ]` needs quotes".to_owned(), format!("write `\"${}\"`", shown(rest)))
    } else if tab.is_some() {
        words(&ErrorKind::TabInIndentation, rest)
    } else if let Some(blank) = line.chars().find(|c| is_odd_blank(*c)) {
        (
            format!("a blank in this line is none for YAML (U+{:04X}, a no-break space or the like)", u32::from(blank)),
            "write plain spaces".to_owned(),
        )
    } else if let Some((message, hint)) = slip(text, line_start, line, rest, error.kind()) {
        (message.to_owned(), hint.to_owned())
    } else {
        words(error.kind(), rest)
    };
    let length = rest.chars().next().filter(|c| *c != '\n' && *c != '\r').map_or(0, char::len_utf8);
    Issue::new(path(at), message).span(at..at + length).hint(hint)
}

/// A reference as it may be shown, without the `$`: where it is not as it should be, what stands in it may be a secret.
fn shown(reference: &str) -> String {
    // Without its end nobody knows what belongs to it.
    let inner = match reference.split_once('}') {
        Some((inner, _)) => inner,
        None if reference.starts_with("{file:") => "{file:",
        None => "",
    };
    let is_name_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match inner.strip_prefix("{file:") {
        Some(path) if !path.is_empty() && !path.contains([':', '$', ' ']) => format!("{inner}}}"),
        Some(_) => "{file:/path}".to_owned(),
        None => match inner.strip_prefix("{env:") {
            Some(name) if !name.is_empty() && name.chars().all(is_name_part) => format!("{inner}}}"),
            Some(text)
                if text
                    .split_once(":-")
                    .is_some_and(|(name, _)| !name.is_empty() && name.chars().all(is_name_part)) =>
            {
                format!("{{env:{}:-…}}", text.split(":-").next().unwrap_or_default())
            }
            _ => "{env:NAME}".to_owned(),
        },
    }
}

/// What small slip is behind an error, for which the parser's own word says little.
fn slip(
    text: &str,
    line_start: usize,
    line: &str,
    rest: &str,
    kind: &ErrorKind,
) -> Option<(&'static str, &'static str)> {
    let is_layout = matches!(
        kind,
        ErrorKind::MappingValueNotAllowed
            | ErrorKind::ExpectedBlockMappingKey
            | ErrorKind::ExpectedBlockSequenceEntry
            | ErrorKind::SimpleKeyExpected
            | ErrorKind::InvalidSimpleKey
            | ErrorKind::ExpectedDocumentStart
    );
    let is_key = |key: &str| {
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let unspaced = |line: &str| {
        line.trim_start().strip_prefix('-').is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_alphabetic())
                && rest.split_once(':').is_some_and(|(key, _)| is_key(key))
        })
    };
    let before = text[..line_start].lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if is_layout && (unspaced(line) || unspaced(before)) {
        return Some(("an entry of a list has no space after its `-`", "write `- name: …`, with a space"));
    }
    let inner = line.trim_start().trim_start_matches("- ");
    let (key, value) = inner.split_once(':').unwrap_or_default();
    if is_layout && is_key(key) && value.starts_with(|c: char| !c.is_whitespace()) {
        return Some(("a `:` has no space after it", "put a space between the `:` and the value"));
    }
    if is_layout && inner.split_once('=').is_some_and(|(key, _)| is_key(key.trim())) {
        return Some(("this line is no YAML, and looks like another format", "write `key: value`, with a colon"));
    }
    let is_flow = matches!(
        kind,
        ErrorKind::UnexpectedEofFlowMapping
            | ErrorKind::UnexpectedEofFlowSequence
            | ErrorKind::UnexpectedEofImplicitFlowMapping
    );
    if is_flow && rest.starts_with(',') {
        return Some(("a `,` with nothing before it", "remove one of the two"));
    }
    if *kind == ErrorKind::UnknownAnchor && line.contains("<<") {
        return Some((
            "an alias (`*name`) whose `&name` is nowhere above",
            "write `&name` behind the key of the mapping that is meant, above this line and in this file",
        ));
    }
    None
}

/// The tab that is behind an error: the parser may notice it a line too early, or take it for something else.
fn tab_to_blame(text: &str, at: usize, kind: &ErrorKind) -> Option<usize> {
    let is_tab = matches!(
        kind,
        ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabAtBlockScalarStart
            | ErrorKind::TabInPlainScalar
    );
    let is_layout = matches!(
        kind,
        ErrorKind::MappingValueNotAllowed
            | ErrorKind::ExpectedBlockMappingKey
            | ErrorKind::ExpectedBlockSequenceEntry
            | ErrorKind::SimpleKeyExpected
            | ErrorKind::InvalidSimpleKey
            | ErrorKind::InvalidIndentation
            | ErrorKind::ExpectedDocumentStart
    );
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    let indentation = |from: usize| {
        let line = text[from..].lines().next().unwrap_or("");
        line[..line.len() - line.trim_start_matches([' ', '\t']).len()].find('\t').map(|tab| from + tab)
    };
    if is_tab || is_layout {
        // Blank lines between have no indentation that matters.
        let next = text[end..].find(|c: char| !c.is_whitespace()).map(|more| end + more);
        let next =
            next.map(|next| text[..next].rfind('\n').map_or(0, |newline| newline + 1)).filter(|from| *from > start);
        if let Some(tab) = indentation(start).or_else(|| next.and_then(indentation)) {
            return Some(tab);
        }
    }
    let line = &text[start..end];
    let after = || text[at..end].find('\t').map(|tab| at + tab);
    is_tab.then(|| after().or_else(|| line.rfind('\t').map(|tab| start + tab))).flatten()
}

fn words(kind: &ErrorKind, rest: &str) -> (String, String) {
    let (message, hint) = match kind {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => ("a tab where YAML allows spaces only", "indent with spaces"),
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            return (
                format!("this `{open}` is closed by `{close}`"),
                format!("close it with `{}`, or look for a bracket too many before it", closing(*open)),
            );
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            return (format!("this `{open}` is never closed"), format!("add the `{}`", closing(*open)));
        }
        ErrorKind::UnexpectedEofFlowSequence => ("a list that begins with `[` is never closed", "add the `]`"),
        ErrorKind::UnexpectedEofFlowMapping | ErrorKind::UnexpectedEofImplicitFlowMapping => {
            ("a mapping that begins with `{` is never closed", "add the `}`")
        }
        ErrorKind::MisplacedFlowCollectionEnd => {
            ("a bracket is closed that was never opened", "remove it, or add the one that opens")
        }
        ErrorKind::ExpectedFlowSequenceSeparator => {
            ("a list in `[ ]` has a `,` or its `]` missing here", "put a `,` between two values, a `]` at the end")
        }
        ErrorKind::ExpectedFlowMappingSeparator => (
            "a mapping in `{ }` has a `,` or its `}` missing here",
            "put a `,` between two entries, a `}` at the end, and quotes around a value with `{`, `}`, `[`, `]` or `,`",
        ),
        ErrorKind::InvalidColonPlacement => (
            "a `:` here fits nothing before it",
            "look for a `[` or `{` above that is never closed, or put quotes around the text",
        ),
        ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar => {
            ("a quote that begins here is never closed", "add the closing quote")
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            ("text after the closing quote", "put the whole value in quotes; write `''` for a `'` within `'…'`")
        }
        ErrorKind::UnknownQuotedScalarEscape => (
            "an unknown `\\` escape in this text",
            "write `\\\\` for a `\\`, or use single quotes, which know no escapes",
        ),
        ErrorKind::InvalidQuotedScalarHexEscape
        | ErrorKind::InvalidLowSurrogateHexEscape
        | ErrorKind::InvalidLowSurrogate
        | ErrorKind::MissingLowSurrogate
        | ErrorKind::UnpairedLowSurrogate
        | ErrorKind::InvalidUnicodeEscape => {
            ("a `\\x` or `\\u` escape in this text names no character", "write the character itself")
        }
        ErrorKind::MappingValueNotAllowed => (
            "a second `: ` in one line, or a key that is indented too deep",
            "put quotes around a text with `: ` in it; else align the key with those of its block",
        ),
        ErrorKind::ExpectedBlockMappingKey => (
            "this is indented differently from the block that it is in",
            "align it with the keys above; a text that goes on after a `]`, `}` or quote needs quotes around the whole",
        ),
        ErrorKind::ExpectedBlockSequenceEntry => (
            "a list goes on without a `-`",
            "begin an entry with `- `; indent what belongs to the entry before deeper than its `-`",
        ),
        ErrorKind::BlockSequenceEntryNotAllowed => {
            ("a list begins in the middle of a line", "begin it on a line of its own, or write `[a, b]`")
        }
        ErrorKind::BlockEntryInFlowCollection => {
            ("a `- ` within `[ ]` or `{ }`", "separate with `,`, or write the list one entry per line")
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => (
            "a line that is neither `key: value` nor a list entry",
            "add the `:` and a space after the key; a text over several lines needs `|` or quotes",
        ),
        ErrorKind::InvalidIndentation
        | ErrorKind::InvalidQuotedScalarIndent
        | ErrorKind::InvalidFlowScalarIndent
        | ErrorKind::InvalidBlockScalarIndent => {
            ("this is indented too little", "indent it deeper than the key that it belongs to")
        }
        ErrorKind::UnknownAnchor => (
            "an alias (`*name`) whose `&name` is nowhere above",
            "put quotes around a text that begins with `*`, such as `\"*.example.com\"`",
        ),
        ErrorKind::MissingAnchorOrAliasName => {
            ("a `*` or `&` without a name", "put quotes around a text that begins with `*` or `&`")
        }
        ErrorKind::UnexpectedCharacter { character: '\0' } => {
            return (
                "a NUL character stands here".to_owned(),
                "remove it; in a text in double quotes, `\\0` stands for it".to_owned(),
            );
        }
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => {
            return (
                format!("the control character `{}` stands here", character.escape_default()),
                format!("remove it; in a text in double quotes, `\\x{:02x}` stands for it", u32::from(*character)),
            );
        }
        ErrorKind::UnexpectedCharacter { character } => {
            return (
                format!("a text cannot begin with `{}`", character.escape_debug()),
                "put quotes around the text".to_owned(),
            );
        }
        ErrorKind::DirectiveDisallowed => ("a `%` directive", "remove the line"),
        ErrorKind::RecursionLimitExceeded => {
            return (
                "lists and mappings nest too deep here".to_owned(),
                format!("no setting is deeper than a few levels; the most is {DEPTH_MAX}"),
            );
        }
        ErrorKind::CommentNotSeparated => ("a `#` right after a value", "put a space before the comment"),
        ErrorKind::CommentInterceptedScalar => {
            ("a comment within a text over several lines", "move the comment, or put quotes around the text")
        }
        ErrorKind::InvalidMappingValueWhitespace | ErrorKind::InvalidBlockEntryWhitespace => {
            ("white space that YAML does not know", "use a plain space")
        }
        ErrorKind::InvalidDocumentEnd => ("text after the end of the document (`...`)", "remove it"),
        ErrorKind::ExpectedDocumentStart => {
            ("text after the end of the document", "look at the indentation of this line: it fits no block above")
        }
        ErrorKind::UndeclaredTagHandle | ErrorKind::InvalidTagTerminator | ErrorKind::InvalidGlobalTagCharacter => {
            ("a tag (`!…`)", "remove it; put quotes around a text that begins with `!`")
        }
        _ if rest.is_empty() => ("the file ends in the middle of a value", "complete it"),
        other => {
            return (
                format!("this is not valid YAML: {other}"),
                "look at indentation, quotes and brackets just before".to_owned(),
            );
        }
    };
    (message.to_owned(), hint.to_owned())
}

fn closing(open: char) -> char {
    if open == '[' { ']' } else { '}' }
}
