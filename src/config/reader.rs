//! Typed look-ups in a TOML table that collect every fault with the key's path,
//! the value found and what is allowed, so that one run shows all there is to mend.
//!
//! `serde` stops at the first fault; somebody who sets this up at night wants them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use toml::{Table, Value};

use crate::config::schema::{Asked, Form};

/// One thing that is wrong in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: `salesforce.pubsub.endpoint`, `stream[0].topic`.
    pub path: String,
    /// What was found and what is allowed.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.problem)
    }
}

/// A file that holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// The key that names it: `salesforce.private_key_file`.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Where an effective value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File,
    /// A `CASEWIRE__…` variable.
    Environment,
    /// Nobody set it.
    Default,
}

/// One effective value, as `config print` shows it.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The key's path.
    pub path: String,
    /// The value as TOML; secrets are already replaced.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

/// What all sections share while they are read.
#[derive(Debug, Default)]
pub struct Findings {
    pub faults: Vec<Fault>,
    pub effective: Vec<Effective>,
    pub secret_files: Vec<SecretFile>,
    /// Paths whose value came from the environment and is therefore text, whatever its type should be.
    pub from_environment: BTreeSet<String>,
    /// Every key that was asked for; the schema is made of them.
    pub asked: Asked,
}

impl Findings {
    /// Notes a fault that only shows when several values are seen together.
    pub fn fault(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.faults.push(Fault { path: path.into(), problem: problem.into() });
    }
}

/// One table of the file while it is read. What is left at the end is unknown.
pub struct Section {
    path: String,
    table: Table,
}

impl Section {
    /// A section at `path`; the root's path is empty.
    pub fn new(path: impl Into<String>, table: Table) -> Self {
        Self { path: path.into(), table }
    }

    /// The full path of a key of this section.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Takes a sub-table; an absent one reads as empty, so that its defaults apply.
    pub fn section(&mut self, key: &str, findings: &mut Findings) -> Self {
        let path = self.path_of(key);
        findings.asked.note(&path, Form::Section);
        let table = match self.table.remove(key) {
            Some(Value::Table(table)) => table,
            Some(other) => {
                findings.fault(&path, format!("is {}, but a section [{path}] is expected", shown(&other)));
                Table::new()
            }
            None => Table::new(),
        };
        Self::new(path, table)
    }

    /// Takes an array of tables, such as `[[stream]]`.
    pub fn sections(&mut self, key: &str, findings: &mut Findings) -> Vec<Self> {
        let path = self.path_of(key);
        findings.asked.note(&path, Form::Sections);
        match self.table.remove(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let mut sections = Vec::new();
                for (index, item) in items.into_iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    match item {
                        Value::Table(table) => sections.push(Self::new(path, table)),
                        other => {
                            findings.fault(path, format!("is {}, but a [[{key}]] table is expected", shown(&other)))
                        }
                    }
                }
                sections
            }
            Some(other) => {
                findings.fault(&path, format!("is {}, but [[{key}]] tables are expected", shown(&other)));
                Vec::new()
            }
        }
    }

    /// A text that may be absent.
    pub fn text(&mut self, key: &str, findings: &mut Findings) -> Option<String> {
        findings.asked.note(&self.path_of(key), Form::Text { default: None });
        let (value, origin) = self.take(key, findings)?;
        match value {
            Value::String(text) if !text.trim().is_empty() => {
                self.note(key, &Value::String(text.clone()), origin, findings);
                Some(text)
            }
            other => {
                findings.fault(
                    self.path_of(key),
                    format!("is {}, but a text that is not empty is expected", shown(&other)),
                );
                None
            }
        }
    }

    /// A text with a default.
    pub fn text_or(&mut self, key: &str, default: &str, findings: &mut Findings) -> String {
        findings.asked.note(&self.path_of(key), Form::Text { default: Some(default.to_owned()) });
        if self.table.contains_key(key) {
            return self.text(key, findings).unwrap_or_else(|| default.to_owned());
        }
        self.note(key, &Value::String(default.to_owned()), Origin::Default, findings);
        default.to_owned()
    }

    /// A text that must be there.
    pub fn required(&mut self, key: &str, meaning: &str, findings: &mut Findings) -> Option<String> {
        findings.asked.require(self.path_of(key));
        if !self.table.contains_key(key) {
            findings.fault(self.path_of(key), format!("is missing: {meaning}"));
        }
        self.text(key, findings)
    }

    /// A secret, given inline (`key`) or as the path of a file (`key_file`), never both.
    pub fn secret(&mut self, key: &str, findings: &mut Findings) -> Option<SecretString> {
        let file_key = format!("{key}_file");
        findings.asked.note(&self.path_of(key), Form::Text { default: None });
        let inline = self.take(key, findings);
        let file = self.text(&file_key, findings);
        match (inline, file) {
            (Some(_), Some(_)) => {
                findings.fault(self.path_of(key), format!("is set, and so is {file_key}: keep one of the two"));
                None
            }
            (Some((Value::String(text), origin)), None) if !text.trim().is_empty() => {
                self.note(key, &Value::String("(secret)".into()), origin, findings);
                Some(text.into())
            }
            (Some(_), None) => {
                findings.fault(self.path_of(key), "is not a text (its value is not shown, since it may be a secret)");
                None
            }
            (None, Some(path)) => {
                findings.secret_files.push(SecretFile { key: self.path_of(&file_key), path: PathBuf::from(&path) });
                self.file(&file_key, &path, findings).map(SecretString::from)
            }
            (None, None) => None,
        }
    }

    /// The content of a text file named by a key.
    pub fn file(&self, key: &str, path: &str, findings: &mut Findings) -> Option<String> {
        match std::fs::read_to_string(path) {
            Ok(content) if content.trim().is_empty() => {
                findings.fault(self.path_of(key), format!("names {path}, which is empty"));
                None
            }
            Ok(content) => Some(content),
            Err(error) => {
                findings.fault(self.path_of(key), format!("names {path}, which cannot be read: {error}"));
                None
            }
        }
    }

    /// A value that has a text form, with what to expect in words.
    pub fn parsed<T>(&mut self, key: &str, findings: &mut Findings) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let text = self.text(key, findings)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                findings.fault(self.path_of(key), format!("is \"{text}\": {error}"));
                None
            }
        }
    }

    /// A value with a text form that must be there.
    pub fn required_parsed<T>(&mut self, key: &str, meaning: &str, findings: &mut Findings) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        findings.asked.require(self.path_of(key));
        if !self.table.contains_key(key) {
            findings.fault(self.path_of(key), format!("is missing: {meaning}"));
        }
        self.parsed(key, findings)
    }

    /// One of a closed set of words.
    pub fn choice<T: Copy>(
        &mut self,
        key: &str,
        choices: &[(&str, T)],
        default: Option<&str>,
        findings: &mut Findings,
    ) -> Option<T> {
        let words = choices.iter().map(|(word, _)| (*word).to_owned()).collect();
        findings.asked.note(&self.path_of(key), Form::Choice { words, default: default.map(str::to_owned) });
        if default.is_none() {
            findings.asked.require(self.path_of(key));
        }
        let allowed = || choices.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        if !self.table.contains_key(key) {
            let found = default.and_then(|word| choices.iter().find(|choice| choice.0 == word));
            match found {
                Some((word, _)) => self.note(key, &Value::String((*word).to_owned()), Origin::Default, findings),
                None => findings.fault(self.path_of(key), format!("is missing: {}, there is no default", allowed())),
            }
            return found.map(|choice| choice.1);
        }
        let text = self.text(key, findings)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|choice| choice.1);
        if found.is_none() {
            findings.fault(self.path_of(key), format!("is \"{text}\", but {} is allowed", allowed()));
        }
        found
    }

    /// A list of texts; empty when absent. From the environment it comes with commas between.
    pub fn texts(
        &mut self,
        key: &str,
        allowed: impl Fn(&str) -> bool,
        expected: &str,
        findings: &mut Findings,
    ) -> Vec<String> {
        findings.asked.note(&self.path_of(key), Form::Texts);
        let Some((value, origin)) = self.take(key, findings) else {
            self.note(key, &Value::Array(Vec::new()), Origin::Default, findings);
            return Vec::new();
        };
        let texts: Option<Vec<String>> = match (&value, origin) {
            (Value::Array(items), _) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            (Value::String(text), Origin::Environment) => {
                Some(text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect())
            }
            _ => None,
        };
        match texts.filter(|texts| texts.iter().all(|text| !text.is_empty() && allowed(text))) {
            Some(texts) => {
                self.note(key, &value, origin, findings);
                texts
            }
            None => {
                findings.fault(self.path_of(key), format!("is {}, but {expected} are expected", shown(&value)));
                Vec::new()
            }
        }
    }

    /// A yes or no.
    pub fn flag(&mut self, key: &str, default: bool, findings: &mut Findings) -> bool {
        findings.asked.note(&self.path_of(key), Form::Flag { default });
        let Some((value, origin)) = self.take(key, findings) else {
            self.note(key, &Value::Boolean(default), Origin::Default, findings);
            return default;
        };
        let flag = match (&value, origin) {
            (Value::Boolean(flag), _) => Some(*flag),
            (Value::String(text), Origin::Environment) => text.parse().ok(),
            _ => None,
        };
        if let Some(flag) = flag {
            self.note(key, &Value::Boolean(flag), origin, findings);
            return flag;
        }
        findings.fault(self.path_of(key), format!("is {}, but true or false is expected", shown(&value)));
        default
    }

    /// A whole number within limits.
    pub fn number(&mut self, key: &str, default: u64, limits: (u64, u64), findings: &mut Findings) -> u64 {
        findings.asked.note(&self.path_of(key), Form::Number { default, least: limits.0, most: limits.1 });
        let Some((value, origin)) = self.take(key, findings) else {
            self.note(key, &Value::Integer(i64::try_from(default).unwrap_or(i64::MAX)), Origin::Default, findings);
            return default;
        };
        let number = match (&value, origin) {
            (Value::Integer(number), _) => u64::try_from(*number).ok(),
            (Value::String(text), Origin::Environment) => text.parse().ok(),
            _ => None,
        };
        let (least, most) = limits;
        if let Some(number) = number.filter(|number| (least..=most).contains(number)) {
            self.note(key, &Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)), origin, findings);
            return number;
        }
        let problem = format!("is {}, but a whole number from {least} to {most} is expected", shown(&value));
        findings.fault(self.path_of(key), problem);
        default
    }

    /// A share from 0 to 1, such as `0.01`.
    pub fn share(&mut self, key: &str, default: f64, findings: &mut Findings) -> f64 {
        findings.asked.note(&self.path_of(key), Form::Share { default });
        let Some((value, origin)) = self.take(key, findings) else {
            self.note(key, &Value::Float(default), Origin::Default, findings);
            return default;
        };
        let share = match (&value, origin) {
            (Value::Float(share), _) => Some(*share),
            (Value::Integer(0), _) => Some(0.0),
            (Value::Integer(1), _) => Some(1.0),
            (Value::String(text), Origin::Environment) => text.parse().ok(),
            _ => None,
        };
        if let Some(share) = share.filter(|share| (0.0..=1.0).contains(share)) {
            self.note(key, &Value::Float(share), origin, findings);
            return share;
        }
        let problem = format!("is {}, but a number from 0 to 1 is expected, such as {default}", shown(&value));
        findings.fault(self.path_of(key), problem);
        default
    }

    /// A duration such as `"250ms"` within limits.
    pub fn duration(
        &mut self,
        key: &str,
        default: Duration,
        limits: (Duration, Duration),
        findings: &mut Findings,
    ) -> Duration {
        let text = |duration: Duration| humantime::format_duration(duration).to_string();
        let (least, most) = limits;
        let form = Form::Duration { default: text(default), least: text(least), most: text(most) };
        findings.asked.note(&self.path_of(key), form);
        if !self.table.contains_key(key) {
            self.note(key, &Value::String(text(default)), Origin::Default, findings);
            return default;
        }
        let Some(given) = self.text(key, findings) else { return default };
        match humantime::parse_duration(&given) {
            Ok(duration) if (least..=most).contains(&duration) => duration,
            _ => {
                let problem = format!(
                    "is \"{given}\", but a duration from \"{}\" to \"{}\" is expected, such as \"250ms\" or \"5min\"",
                    text(least),
                    text(most)
                );
                findings.fault(self.path_of(key), problem);
                default
            }
        }
    }

    /// Every remaining key of the section with a value that can be written as text.
    /// A key ending in `_file` stands for the content of the file it names.
    pub fn properties(mut self, findings: &mut Findings) -> BTreeMap<String, String> {
        findings.asked.open(&self.path);
        let keys: Vec<String> = self.table.keys().cloned().collect();
        let mut properties = BTreeMap::new();
        for key in keys {
            let Some((value, origin)) = self.take(&key, findings) else { continue };
            let text = match value {
                Value::String(text) => text,
                Value::Integer(number) => number.to_string(),
                Value::Boolean(flag) => flag.to_string(),
                Value::Float(number) => number.to_string(),
                other => {
                    let problem = format!("is {}, but a text, number or flag is expected", shown(&other));
                    findings.fault(self.path_of(&key), problem);
                    continue;
                }
            };
            // librdkafka's own name for the file of a client's private key.
            if key.ends_with("_file") || key == "ssl.key.location" {
                findings.secret_files.push(SecretFile { key: self.path_of(&key), path: PathBuf::from(&text) });
            }
            if let Some(name) = key.strip_suffix("_file") {
                self.note(&key, &Value::String(text.clone()), origin, findings);
                if let Some(content) = self.file(&key, &text, findings) {
                    properties.insert(name.to_owned(), content.trim_end().to_owned());
                }
                continue;
            }
            let secret = ["password", "secret", "key.pem", "jaas", "token"].iter().any(|word| key.contains(word));
            let shown = if secret { "(secret)".to_owned() } else { text.clone() };
            self.note(&key, &Value::String(shown), origin, findings);
            properties.insert(key, text);
        }
        properties
    }

    /// Every remaining key of the section with its value, which is a secret: inline (`key`) or in a file (`key_file`).
    pub fn secrets(mut self, findings: &mut Findings) -> BTreeMap<String, SecretString> {
        findings.asked.open(&self.path);
        let keys: BTreeSet<String> =
            self.table.keys().map(|key| key.strip_suffix("_file").unwrap_or(key).to_owned()).collect();
        keys.into_iter().filter_map(|key| self.secret(&key, findings).map(|secret| (key, secret))).collect()
    }

    /// Ends the section: whatever was not asked for is unknown.
    pub fn finish(self, findings: &mut Findings) {
        for key in self.table.keys() {
            // TOML allows a key without a name.
            let key = if key.is_empty() { "\"\"" } else { key };
            findings
                .fault(self.path_of(key), "is not a key that casewire knows; `config/casewire.toml` lists them all");
        }
    }

    fn take(&mut self, key: &str, findings: &Findings) -> Option<(Value, Origin)> {
        let value = self.table.remove(key)?;
        let environment = findings.from_environment.contains(&self.path_of(key));
        Some((value, if environment { Origin::Environment } else { Origin::File }))
    }

    fn note(&self, key: &str, value: &Value, origin: Origin, findings: &mut Findings) {
        findings.effective.push(Effective { path: self.path_of(key), value: value.to_string(), origin });
    }
}

/// A wrong value as the message shows it, shortened: somebody may have put a key where a path belongs.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    format!("{}…", text.chars().take(40).collect::<String>())
}
