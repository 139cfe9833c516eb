//! The reference of the file's keys, made from the types that read it: [`schema`] for editors, [`markdown`] for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Document;

/// What a value from outside looks like.
const OUTSIDE: &str = "\\$\\{(env|file):[^}]+\\}";

/// The JSON Schema (draft 2020-12) of a configuration file, with doc comments and defaults.
///
/// Beside what the types say it lets `${env:…}` and `${file:…}` stand for any single value, and keys that begin with
/// `x-` at the top.
pub fn schema<P: Default + Serialize + JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12();
    let mut schema = settings.into_generator().into_root_schema_for::<Document<P>>().to_value();
    tidy(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("patternProperties".into(), json!({ "^x-": true }));
    }
    schema
}

/// The keys that a mapping must have which may have just these.
pub(super) fn required(schema: &Value, known: &[&str]) -> Vec<String> {
    fn collect<'s>(schema: &'s Value, found: &mut Vec<&'s serde_json::Map<String, Value>>) {
        match schema {
            Value::Object(map) => {
                if map.get("properties").is_some_and(Value::is_object) {
                    found.push(map);
                }
                map.values().for_each(|value| collect(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut mappings = Vec::new();
    collect(schema, &mut mappings);
    let has_them = |map: &&serde_json::Map<String, Value>| {
        map.get("properties").and_then(Value::as_object).is_some_and(|properties| {
            properties.len() == known.len() && known.iter().all(|key| properties.contains_key(*key))
        })
    };
    let must = |map: &serde_json::Map<String, Value>, key: &str| {
        let required = map.get("required").and_then(Value::as_array);
        required.is_some_and(|required| required.iter().any(|name| name == key))
    };
    let mappings: Vec<_> = mappings.into_iter().filter(has_them).collect();
    // Of two types with the same keys, what both say.
    let in_all = |key: &&&str| !mappings.is_empty() && mappings.iter().all(|map| must(map, key));
    known.iter().filter(in_all).map(|key| (*key).to_owned()).collect()
}

fn tidy(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if let Some(Value::String(text)) = map.get_mut("description") {
        *text = unwrap(text);
    }
    if map.get("format").and_then(Value::as_str).is_some_and(|format| {
        format.starts_with("uint") || format.starts_with("int") || matches!(format, "double" | "float")
    }) {
        map.remove("format");
    }
    match map.get_mut("default") {
        Some(Value::Null) => drop(map.remove("default")),
        Some(default) => strip_nulls(default),
        None => {}
    }
    allow_outside(map);
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "$defs" | "patternProperties", Value::Object(map)) => map.values_mut().for_each(tidy),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(list)) => list.iter_mut().for_each(tidy),
            ("items" | "additionalProperties" | "not", value) => tidy(value),
            _ => {}
        }
    }
}

/// Joins the lines of a paragraph, but not those of an example.
fn unwrap(text: &str) -> String {
    let mut out = String::new();
    let mut example = false;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        let is_text = !example && !fence && !line.is_empty();
        let starts = out.is_empty() || out.ends_with('\n') || line.trim_start().starts_with("- ");
        if is_text && !starts {
            out.push(' ');
        } else if !out.is_empty() {
            out.push('\n');
        }
        if line.is_empty() && !example {
            out.push('\n');
        } else {
            out.push_str(line);
        }
        if fence {
            example = !example;
        }
    }
    // A blank line is written as the two ends around it.
    while out.contains("\n\n\n") {
        out = out.replace("\n\n\n", "\n\n");
    }
    out.trim_end().to_owned()
}

fn strip_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(strip_nulls);
    }
}

fn allow_outside(map: &mut Map<String, Value>) {
    let types: Vec<String> = match map.get("type") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    if types.iter().any(|name| matches!(name.as_str(), "integer" | "number" | "boolean")) {
        let mut types = types;
        types.push("string".into());
        map.insert("type".into(), types.into());
        // A pattern asks nothing of a number.
        map.insert("pattern".into(), OUTSIDE.into());
    } else if let Some(Value::String(pattern)) = map.get_mut("pattern")
        && !pattern.contains("(env|file)")
    {
        *pattern = format!("({pattern})|({OUTSIDE})");
    }
    if let Some(Value::Array(choices)) = map.get_mut("oneOf")
        && choices.iter().any(|choice| choice.get("const").is_some_and(Value::is_string))
    {
        choices.push(json!({ "type": "string", "pattern": OUTSIDE }));
    }
    if let Some(Value::Array(names)) = map.get("enum").cloned()
        && map.get("type").and_then(Value::as_str) == Some("string")
    {
        map.remove("enum");
        map.remove("type");
        map.insert("anyOf".into(), json!([{ "enum": names }, { "type": "string", "pattern": OUTSIDE }]));
    }
}

/// The reference as a page: what each key is for, what it takes, and its default.
///
/// The same schema always gives the same page.
pub fn markdown(schema: &Value) -> String {
    let mut page = Page { schema, sections: Vec::new(), known: BTreeMap::new(), values: BTreeSet::new() };
    page.collect("", schema, 0);
    let mut out = String::from(
        "# Configuration reference\n\n\
         <!-- Made from the doc comments in the source: edit those. -->\n\n",
    );
    out.push_str(text_of(schema));
    out.push_str("\n\n");
    out.push_str(FORMS);
    out.push_str("## Contents\n\n");
    for section in page.sections.iter().filter(|section| section.depth > 0) {
        let indent = "  ".repeat(section.depth - 1);
        let _ = writeln!(out, "{indent}- [`{}`](#{})", section.path, anchor(&section.path));
    }
    out.push('\n');
    for section in &page.sections {
        page.section(&mut out, section);
    }
    let mut out = out.trim_end().to_owned();
    out.push('\n');
    out
}

const FORMS: &str = "\
## Forms of values

| form | written |
| --- | --- |
| <a id=\"form-text\"></a>text | as it is; in quotes where YAML would read something else, such as `\"{id}\"` or `\"*.example.com\"` |
| <a id=\"form-number\"></a>number | decimal: `10`, `0.5`. No `0144`, `0x14`, `1_000` |
| <a id=\"form-boolean\"></a>boolean | `true` or `false`. No `yes`, `no`, `on` |
| <a id=\"form-duration\"></a>duration | a whole number and one unit: `250ms`, `5s`, `10m`, `24h` |
| <a id=\"form-size\"></a>size | a whole number and a unit of 1024: `512B`, `64KiB`, `10MiB`, `1GiB` |
| <a id=\"form-secret\"></a>secret | `${env:NAME}` or `${file:/path}`; in plain text it is refused. Shows as `***` everywhere. A default, `${env:NAME:-default}`, is for trying things out: it stands in the file, and whenever it is in force the log and `armiger check` warn of it |
| list | `[a, b]`, or an entry per line after `- ` |
| mapping | `{a: 1, b: 2}`, or an entry per line |

Any single value may come from outside the file:

| written | is |
| --- | --- |
| `${env:NAME}` | an environment variable. It must be set |
| `${env:NAME:-default}` | the same, or the default where it is not set or empty |
| `${file:/path}` | what a file holds, without the line break at its end. A relative path starts at the configuration |
| `$${env:NAME}` | the text `${env:NAME}` |

Within `{ }` and `[ ]` these need quotes. A value from outside cannot change the structure of the file, and never
shows in a message. What has no prefix, such as `${path.id}`, is filled in per request by the policies that know it.

YAML anchors, aliases and merge keys (`<<`) work. Keys at the top that begin with `x-` are ignored: a place for
anchors. Unknown keys, repeated keys and unknown names are errors.

";

struct Section {
    path: String,
    depth: usize,
    schema: Value,
}

struct Page<'s> {
    schema: &'s Value,
    sections: Vec<Section>,
    /// Types that have a section, and its path.
    known: BTreeMap<String, String>,
    /// Types being followed, so that one within itself ends.
    values: BTreeSet<String>,
}

impl Page<'_> {
    fn resolve<'v>(&'v self, schema: &'v Value) -> (Option<&'v str>, &'v Value) {
        let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
        match name.and_then(|name| Some((name, self.schema.get("$defs")?.get(name)?))) {
            Some((name, found)) => (Some(name), found),
            None => (None, schema),
        }
    }

    /// Finds every mapping with keys of its own, outermost first, each once.
    fn collect(&mut self, path: &str, schema: &Value, depth: usize) {
        let (name, found) = self.resolve(schema);
        let (name, found) = (name.map(str::to_owned), found.clone());
        if let Some(name) = &name
            && (self.known.contains_key(name) || !self.values.insert(name.clone()))
        {
            return;
        }
        if let Some(Value::Object(properties)) = found.get("properties") {
            if let Some(name) = &name {
                self.known.insert(name.clone(), path.to_owned());
            }
            self.sections.push(Section { path: path.to_owned(), depth, schema: found.clone() });
            for (key, property) in properties {
                self.collect(&join(path, key), property, depth + 1);
            }
        }
        if let Some(items) = found.get("items") {
            self.collect(&format!("{path}[]"), items, depth);
        }
        if let Some(values @ Value::Object(_)) = found.get("additionalProperties") {
            self.collect(&join(path, "<name>"), values, depth);
        }
        for choice in choices(&found) {
            // A name with a value: what the value is, not a mapping of its own.
            match choice.get("properties") {
                Some(Value::Object(properties)) if name.is_some() => {
                    for (key, property) in properties {
                        self.collect(&join(path, key), property, depth + 1);
                    }
                }
                _ => self.collect(path, choice, depth),
            }
        }
        if let Some(name) = &name {
            self.values.remove(name);
        }
    }

    fn section(&self, out: &mut String, section: &Section) {
        if section.depth == 0 {
            out.push_str("## The top of the file\n\n");
        } else {
            let level = "#".repeat((section.depth + 1).min(4));
            let _ = write!(out, "<a id=\"{}\"></a>\n\n{level} `{}`\n\n", anchor(&section.path), section.path);
            let text = text_of(&section.schema);
            if !text.is_empty() {
                let _ = write!(out, "{text}\n\n");
            }
        }
        let required: Vec<&str> = section
            .schema
            .get("required")
            .and_then(Value::as_array)
            .map(|keys| keys.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let Some(Value::Object(properties)) = section.schema.get("properties") else { return };
        for (key, property) in properties {
            let mut facts = vec![self.words(property)];
            if required.contains(&key.as_str()) {
                facts.push("**required**".into());
            } else if let Some(default) = property.get("default").and_then(|default| self.default(property, default)) {
                facts.push(format!("default {default}"));
            }
            let _ = writeln!(out, "- **`{key}`**: {}", facts.join(", "));
            let (_, found) = self.resolve(property);
            let own = property.get("description").and_then(Value::as_str);
            if let Some(text) = own.or_else(|| found.get("description").and_then(Value::as_str)) {
                let _ = write!(out, "\n{}\n", indent(text, "  "));
            }
            let values = self.values(property);
            if !values.is_empty() {
                out.push('\n');
            }
            for (value, text) in values {
                let _ = match text {
                    Some(text) => writeln!(out, "  - {value}: {}", indent(&text, "    ").trim_start()),
                    None => writeln!(out, "  - {value}"),
                };
            }
            out.push('\n');
        }
    }

    /// What a key takes, in words.
    fn words(&self, schema: &Value) -> String {
        let (name, found) = self.resolve(schema);
        if let Some(path) = name.and_then(|name| self.known.get(name)) {
            return if path.is_empty() { "mapping".into() } else { format!("[`{path}`](#{})", anchor(path)) };
        }
        if let Some(title @ ("duration" | "size" | "secret")) = found.get("title").and_then(Value::as_str) {
            return format!("[{title}](#form-{title})");
        }
        let all = choices(found);
        if !all.is_empty() {
            let switch = all.iter().any(|choice| is_switch(choice));
            let rest: Vec<&Value> = all
                .into_iter()
                .filter(|choice| !is_switch(choice) && !is_null(choice) && !is_outside(choice))
                .collect();
            let named = rest.iter().all(|choice| named(choice).is_some());
            let mut words = if named && !rest.is_empty() {
                "one of the names below".to_owned()
            } else {
                let words: Vec<String> = rest.iter().map(|choice| self.words(choice)).collect();
                words.join(" or ")
            };
            if switch {
                words.push_str(", or `off`");
            }
            return words;
        }
        let kind = match found.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(Value::Array(kinds)) => {
                kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("")
            }
            _ => "",
        };
        match kind {
            "string" => "[text](#form-text)".into(),
            "boolean" => "[`true` or `false`](#form-boolean)".into(),
            "integer" => {
                // What fits in the type is no bound that anyone chose; the description has the one that counts.
                let is_own = |most: &Value| {
                    [u64::from(u8::MAX), u64::from(u16::MAX), u64::from(u32::MAX)].contains(&most.as_u64().unwrap_or(0))
                };
                let range = match (found.get("minimum"), found.get("maximum")) {
                    (Some(least), Some(most)) if least == &json!(0) && is_own(most) => String::new(),
                    (Some(least), Some(most)) => format!(" from {least} to {most}"),
                    (Some(least), None) if least != &json!(0) => format!(", at least {least}"),
                    _ => String::new(),
                };
                format!("whole [number](#form-number){range}")
            }
            "number" => "[number](#form-number)".into(),
            "array" => match found.get("items") {
                Some(items) => format!("list of {}", self.plural(items)),
                None => "list".into(),
            },
            "object" => match found.get("additionalProperties") {
                Some(values @ Value::Object(_)) => format!("mapping of names to {}", self.plural(values)),
                _ => "mapping".into(),
            },
            _ => "any value".into(),
        }
    }

    fn plural(&self, schema: &Value) -> String {
        match self.words(schema).as_str() {
            "[text](#form-text)" => "[texts](#form-text)".into(),
            "[duration](#form-duration)" => "[durations](#form-duration)".into(),
            "[size](#form-size)" => "[sizes](#form-size)".into(),
            "[secret](#form-secret)" => "[secrets](#form-secret)".into(),
            "one of the names below" => "the names below".into(),
            other if other.starts_with("whole [number]") => other.replacen("[number]", "[numbers]", 1),
            other => other.to_owned(),
        }
    }

    /// The names that a key takes, each with what it means.
    fn values(&self, schema: &Value) -> Vec<(String, Option<String>)> {
        let (name, found) = self.resolve(schema);
        if name.is_some_and(|name| self.known.contains_key(name)) {
            return Vec::new();
        }
        if let Some(items) = found.get("items") {
            return self.values(items);
        }
        let mut out = Vec::new();
        for choice in choices(found).into_iter().filter(|choice| !is_switch(choice)) {
            let text = choice.get("description").and_then(Value::as_str).map(str::to_owned);
            match named(choice) {
                Some(Named::Alone(names)) => {
                    out.extend(names.into_iter().map(|name| (format!("`{name}`"), text.clone())))
                }
                Some(Named::With(key, value)) => out.push((format!("`{key}: …`, {}", self.words(value)), text)),
                None => out.extend(self.values(choice)),
            }
        }
        out
    }

    /// A default worth telling: not that of a mapping, whose keys have their own.
    fn default(&self, schema: &Value, default: &Value) -> Option<String> {
        let (name, found) = self.resolve(schema);
        let own_keys = name.is_some_and(|name| self.known.contains_key(name)) || found.get("properties").is_some();
        match default {
            Value::Null => None,
            Value::Array(list) if list.is_empty() => Some("none".into()),
            Value::Object(map) if map.is_empty() => (!own_keys).then(|| "none".into()),
            Value::Object(_) if own_keys => None,
            Value::String(text) if text.is_empty() => Some("empty".into()),
            other => Some(format!("`{}`", flow(other))),
        }
    }
}

/// A choice by name.
enum Named<'v> {
    Alone(Vec<&'v str>),
    With(&'v str, &'v Value),
}

fn named(choice: &Value) -> Option<Named<'_>> {
    if let Some(name) = choice.get("const").and_then(Value::as_str) {
        return Some(Named::Alone(vec![name]));
    }
    if let Some(names) = choice.get("enum").and_then(Value::as_array) {
        return Some(Named::Alone(names.iter().filter_map(Value::as_str).collect()));
    }
    let properties = choice.get("properties")?.as_object()?;
    let (key, value) = properties.iter().next()?;
    (properties.len() == 1 && choice.get("required").is_some()).then_some(Named::With(key, value))
}

fn choices(schema: &Value) -> Vec<&Value> {
    ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten().collect()
}

fn is_switch(choice: &Value) -> bool {
    choice.get("enum").is_some_and(|names| names == &json!(["off", false]))
}

fn is_null(choice: &Value) -> bool {
    choice.get("type").and_then(Value::as_str) == Some("null")
}

fn is_outside(choice: &Value) -> bool {
    choice.get("pattern").and_then(Value::as_str) == Some(OUTSIDE)
}

fn text_of(schema: &Value) -> &str {
    schema.get("description").and_then(Value::as_str).unwrap_or("")
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn anchor(path: &str) -> String {
    let plain: String = path.chars().map(|c| if c.is_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let parts: Vec<&str> = plain.split('-').filter(|part| !part.is_empty()).collect();
    parts.join("-")
}

fn indent(text: &str, by: &str) -> String {
    let lines: Vec<String> =
        text.lines().map(|line| if line.is_empty() { String::new() } else { format!("{by}{line}") }).collect();
    lines.join("\n")
}

/// A value on one line, as one would write it in YAML.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let plain = !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '.' | ':' | ';' | '=' | ' '))
                && text.starts_with(|c: char| c.is_alphanumeric() || c == '/')
                && !text.contains(": ")
                && !text.ends_with([' ', ':']);
            if plain { text.clone() } else { format!("{text:?}") }
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        // `1.0` is how people write a share.
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::{Mode, Secret, Setting};

    /// Policies.
    #[derive(Clone, Debug, Default, Serialize, serde::Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Blocks {
        /// How many requests a caller may make.
        rate_limit: Setting<Vec<Rate>>,
        /// Which roles a caller needs.
        roles: Setting<Roles>,
    }

    /// A rate.
    ///
    /// ```yaml
    /// rate_limit:
    ///   - {rate: 5}
    /// ```
    #[derive(Clone, Debug, Default, Serialize, serde::Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Rate {
        /// How many.
        rate: u32,
        /// What is never shown.
        key: Option<Secret>,
        /// Whether it is done.
        mode: Mode,
    }

    /// A role.
    #[derive(Clone, Debug, Default, Serialize, serde::Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Roles {
        /// One of these.
        any: Vec<String>,
    }

    #[test]
    fn the_schema_allows_what_the_decoder_does() {
        let schema = schema::<Blocks>();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["title"], "armiger configuration");
        assert_eq!(schema["patternProperties"]["^x-"], true);
        let rate = &schema["$defs"]["Rate"]["properties"]["rate"];
        assert_eq!(rate["type"], json!(["integer", "string"]));
        assert_eq!(rate["pattern"], OUTSIDE);
        assert_eq!(rate["default"], 0);
        assert!(schema["$defs"]["Route"]["properties"]["timeout"].get("default").is_none(), "null is no default");
    }

    #[test]
    fn every_key_is_in_the_reference_and_every_link_leads_somewhere() {
        let schema = schema::<Blocks>();
        let page = markdown(&schema);
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            for key in definition.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
                let literal = name == "Host" || page.contains(&format!("- **`{key}`**: "));
                assert!(literal, "{name}.{key} is missing");
            }
        }
        for link in page.match_indices("](#").map(|(at, _)| &page[at + 3..]) {
            let target = &link[..link.find(')').unwrap()];
            assert!(page.contains(&format!("<a id=\"{target}\">")), "{target} is missing");
        }
        assert_eq!(page, markdown(&schema), "the same each time");
    }

    #[test]
    fn the_bounds_of_a_type_are_no_bounds_of_a_key() {
        let page = markdown(&schema::<Blocks>());
        assert!(page.contains("- **`headers_max`**: whole [number](#form-number), default `100`"), "{page}");
        for most in ["255", "65535", "4294967295"] {
            assert!(!page.contains(&format!("from 0 to {most}")), "{most}");
        }
    }

    #[test]
    fn keys_that_are_looked_for_a_level_too_high_are_those_of_the_type() {
        let schema = schema::<Blocks>();
        let keys = |name: &str| -> BTreeSet<&str> {
            schema["$defs"][name]["properties"].as_object().unwrap().keys().map(String::as_str).collect()
        };
        let [(.., of_match), (.., of_keys)] = crate::config::yaml::decode::INSIDE;
        assert_eq!(keys("Match"), of_match.iter().copied().collect());
        assert!(of_keys.iter().all(|key| keys("Keys").contains(key)));
    }

    #[test]
    fn a_key_shows_what_it_takes_and_its_default() {
        let page = markdown(&schema::<Blocks>());
        for line in [
            "- **`rate_limit`**: list of [`defaults.policies.rate_limit[]`](#defaults-policies-rate_limit), or `off`",
            "- **`first_byte`**: [duration](#form-duration), default `15s`",
            "- **`header_bytes_max`**: [size](#form-size), default `64KiB`",
            "- **`upstreams`**: mapping of names to [`upstreams.<name>`](#upstreams-name)",
            "- **`sample`**: [number](#form-number), default `1.0`",
            "- **`endpoints`**: list of [texts](#form-text), **required**",
            "- **`format`**: one of the names below, default `json`",
            "  - `json`: A JSON object per line.",
            "- **`key`**: [secret](#form-secret)",
            "  - `literal: …`, [text](#form-text): This one.",
        ] {
            assert!(
                page.contains(&format!("{line}\n")) || page.contains(&format!("{line},")),
                "no {line:?} in:\n{page}"
            );
        }
    }
}
