//! The JSON Schema of the configuration, for editors.
//!
//! Nobody writes it: the keys, their forms, limits and defaults are those that the reading of a configuration asks for, and
//! what a key is for says the comment above it in `config/casewire.toml`. So neither can say anything else than the program does.
//! What holds between keys (`private_key` or `client_secret`, not both) is not in it; `casewire config check` tells that.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use toml::Table;

use crate::config::reader::{Findings, Section};
use crate::config::settings::Config;

/// The commented example.
const EXAMPLE: &str = include_str!("../../config/casewire.toml");

/// What editors understand best; later drafts have nothing that is needed here.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// What a key takes.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) enum Form {
    /// A table.
    Section,
    /// An array of tables.
    Sections,
    /// A table of properties with any names.
    Properties,
    /// A text, of whatever shape.
    Text { default: Option<String> },
    /// A list of texts.
    Texts,
    /// A yes or no.
    Flag { default: bool },
    /// A whole number.
    Number { default: u64, least: u64, most: u64 },
    /// A number from 0 to 1.
    Share { default: f64 },
    /// A text such as `"250ms"`.
    Duration { default: String, least: String, most: String },
    /// One of these words.
    Choice { words: Vec<String>, default: Option<String> },
}

/// The keys that were asked for, by their paths; an element of an array by that of the array.
#[derive(Debug, Default)]
pub(in crate::config) struct Asked {
    forms: BTreeMap<String, Form>,
    required: BTreeSet<String>,
}

impl Asked {
    /// A key was asked for. What asked first knows more than what it asked in turn.
    pub(in crate::config) fn note(&mut self, path: &str, form: Form) {
        self.forms.entry(without_index(path)).or_insert(form);
    }

    /// A key must be there.
    pub(in crate::config) fn require(&mut self, path: String) {
        self.required.insert(without_index(&path));
    }

    /// The section at `path` takes properties of any name.
    pub(in crate::config) fn open(&mut self, path: &str) {
        self.forms.insert(without_index(path), Form::Properties);
    }

    /// The schema of the section at `path`; the root's path is empty.
    fn section(&self, path: &str, comments: &BTreeMap<String, String>) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (full, form) in &self.forms {
            let Some((_, key)) = split(full).filter(|(parent, _)| *parent == path) else { continue };
            let mut schema = self.key(full, form, comments);
            if let (Some(comment), Some(schema)) = (comments.get(full), schema.as_object_mut()) {
                schema.insert("description".to_owned(), comment.as_str().into());
            }
            properties.insert(key.to_owned(), schema);
            if self.required.contains(full) {
                required.push(key);
            }
        }
        let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
        if let Some(schema) = schema.as_object_mut().filter(|_| !required.is_empty()) {
            schema.insert("required".to_owned(), required.into());
        }
        schema
    }

    fn key(&self, path: &str, form: &Form, comments: &BTreeMap<String, String>) -> Value {
        match form {
            Form::Section => self.section(path, comments),
            Form::Sections => json!({ "type": "array", "items": self.section(path, comments) }),
            Form::Properties => {
                json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
            }
            Form::Text { default } => with_default(json!({ "type": "string", "minLength": 1 }), default.as_deref()),
            Form::Texts => json!({ "type": "array", "items": { "type": "string", "minLength": 1 } }),
            Form::Flag { default } => json!({ "type": "boolean", "default": default }),
            Form::Number { default, least, most } => {
                json!({ "type": "integer", "minimum": least, "maximum": most, "default": default })
            }
            Form::Share { default } => json!({ "type": "number", "minimum": 0, "maximum": 1, "default": default }),
            Form::Duration { default, least, most } => {
                let title = format!("a duration from {least} to {most}, such as \"250ms\" or \"5min\"");
                json!({ "type": "string", "pattern": "^\\s*[0-9]", "title": title, "default": default })
            }
            Form::Choice { words, default } => with_default(json!({ "enum": words }), default.as_deref()),
        }
    }
}

fn with_default(mut schema: Value, default: Option<&str>) -> Value {
    if let (Some(default), Some(schema)) = (default, schema.as_object_mut()) {
        schema.insert("default".to_owned(), default.into());
    }
    schema
}

/// `stream[0].topic` as `stream.topic`: every element of an array has the same keys.
fn without_index(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let mut inside = false;
    for letter in path.chars() {
        match letter {
            '[' => inside = true,
            ']' => inside = false,
            letter if !inside => text.push(letter),
            _ => {}
        }
    }
    text
}

/// The section of a path and the key in it.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.is_empty() { None } else { Some(path.rsplit_once('.').unwrap_or(("", path))) }
}

impl Config {
    /// The JSON Schema of the file.
    pub fn schema() -> Value {
        // The faults are many, and all keys are asked for: first which tables can come several times, then with one of each.
        let asked = |table: Table| {
            let mut findings = Findings::default();
            let _ = Self::read(Section::new("", table), &mut findings);
            findings.asked
        };
        let arrays = asked(Table::new()).forms.into_iter().filter(|(_, form)| *form == Form::Sections);
        let one = || toml::Value::Array(vec![toml::Value::Table(Table::new())]);
        let asked = asked(arrays.map(|(key, _)| (key, one())).collect());
        let mut schema = asked.section("", &comments(EXAMPLE, &asked));
        if let Some(root) = schema.as_object_mut() {
            root.insert("$schema".to_owned(), DRAFT.into());
            root.insert("title".to_owned(), "The configuration of casewire".into());
        }
        schema
    }
}

/// What the comments of the example say of each section and key: those right above it.
fn comments(example: &str, asked: &Asked) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut section = String::new();
    let mut above: Vec<&str> = Vec::new();
    for line in example.lines() {
        let path = if let Some(header) = header_of(line) {
            section = header.trim_start_matches('[').split(']').next().unwrap_or_default().to_owned();
            Some(section.clone())
        } else {
            key_of(line, &section, asked)
        };
        match (path, line.strip_prefix("# ")) {
            (Some(path), _) => {
                let comment = std::mem::take(&mut above).join(" ");
                if !comment.is_empty() {
                    found.entry(path).or_insert(comment);
                }
            }
            (None, Some(comment)) => above.push(comment.trim()),
            (None, None) => above.clear(),
        }
    }
    found
}

/// What stands behind the first bracket of a section's head, also of one that is commented out.
fn header_of(line: &str) -> Option<&str> {
    let bare = line.strip_prefix("# ").unwrap_or(line);
    bare.strip_prefix('[').filter(|header| header.ends_with(']') && !header.contains(' '))
}

/// The path of the key that a line sets, or would set without the `#` before it.
fn key_of(line: &str, section: &str, asked: &Asked) -> Option<String> {
    let (key, _) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
    let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    asked.forms.contains_key(&path).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example with every key that is commented out in it.
    fn with_every_key() -> Table {
        let bare =
            |key: &str| key.trim_matches('"').bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
        let line = |line: &str| match line.strip_prefix("# ") {
            Some(key) if key.split_once(" = ").is_some_and(|(key, _)| bare(key)) => format!("{key}\n"),
            Some(head) if header_of(line).is_some() => format!("{head}\n"),
            _ => format!("{line}\n"),
        };
        let text: String = EXAMPLE.lines().map(line).collect();
        text.parse().expect("the keys that are commented out are TOML")
    }

    /// The paths in `table` that the schema does not have, or has with another type.
    fn unknown(table: &Table, schema: &Value, path: &str, found: &mut Vec<String>) {
        for (key, value) in table {
            let path = format!("{path}.{key}");
            let own = schema["properties"].get(key);
            let Some(own) = own.or(schema.get("additionalProperties").filter(|others| others.is_object())) else {
                found.push(path);
                continue;
            };
            let is = |name: &str| match &own["type"] {
                Value::Array(types) => types.iter().any(|one| one == name),
                one => *one == name,
            };
            match value {
                toml::Value::Table(table) if is("object") => unknown(table, own, &path, found),
                toml::Value::Array(items) if is("array") => {
                    for table in items.iter().filter_map(toml::Value::as_table) {
                        unknown(table, &own["items"], &path, found);
                    }
                }
                toml::Value::String(text)
                    if is("string")
                        || own["enum"].as_array().is_some_and(|words| words.iter().any(|word| word == text)) => {}
                toml::Value::Integer(_) if is("integer") || is("number") => {}
                toml::Value::Float(_) if is("number") => {}
                toml::Value::Boolean(_) if is("boolean") => {}
                _ => found.push(path),
            }
        }
    }

    #[test]
    fn the_schema_has_every_key_of_the_example_and_none_besides() {
        let schema = Config::schema();
        let check = |table: &Table| {
            let mut found = Vec::new();
            unknown(table, &schema, "", &mut found);
            found
        };
        let mut table = with_every_key();
        assert_eq!(check(&table), Vec::<String>::new());
        let kafka = table["kafka"].as_table_mut().expect("a section");
        kafka.insert("broker".to_owned(), "b:1".into());
        kafka.insert("partitions".to_owned(), "many".into());
        let stream = table["stream"][0].as_table_mut().expect("a section");
        stream.insert("on_gap".to_owned(), "ignore".into());
        assert_eq!(check(&table), [".kafka.broker", ".kafka.partitions", ".stream.on_gap"]);
    }

    #[test]
    fn a_key_has_its_limits_its_default_and_what_the_example_says_of_it() {
        let schema = Config::schema();
        let messages = &schema["properties"]["messages"]["properties"];
        assert_eq!(messages["calls_per_hour"]["minimum"], 4);
        assert_eq!(messages["calls_per_hour"]["default"], 900);
        let said = messages["calls_per_hour"]["description"].as_str().expect("said");
        assert!(said.starts_with("Calls in any hour."), "{said}");
        assert_eq!(messages["reread"]["default"], "1day");
        let stream = &schema["properties"]["stream"]["items"];
        assert_eq!(stream["required"], json!(["start", "topic"]));
        assert_eq!(
            stream["properties"]["on_gap"],
            json!({
                "enum": ["earliest", "stop"],
                "default": "earliest",
                "description": "When Salesforce refuses the stored position: \"earliest\" records a gap and goes on from the oldest \
                                retained event, \"stop\" records it and waits for you.",
            })
        );
        let policy = &schema["properties"]["policy"];
        assert_eq!(
            policy["items"]["required"],
            json!(["entity"]),
            "whatever comes several times has its keys: {policy}"
        );
        let properties = &schema["properties"]["kafka"]["properties"]["properties"];
        assert!(properties["additionalProperties"].is_object() && properties["description"].is_string());
        assert_eq!(schema["properties"]["salesforce"]["properties"]["pubsub"]["type"], "object");
    }
}
