//! The effective configuration as text: every key with its value and who set it.

use std::fmt::Write as _;

use crate::config::reader::{Effective, Origin};
use crate::config::settings::Config;

impl Config {
    /// The configuration in effect, as TOML with a comment where a value was not set in the file.
    /// Secrets never appear: they are replaced where they are read.
    pub fn printed(&self) -> String {
        let mut text = String::new();
        let mut section = None;
        let mut sorted: Vec<&Effective> = self.effective.iter().collect();
        // Keys of the root must stand before the first section header.
        sorted.sort_by_key(|effective| place(split(&effective.path).0));
        for effective in sorted {
            let (path, key) = split(&effective.path);
            if section != Some(path) {
                let header = match path.split_once('[') {
                    _ if path.is_empty() => String::new(),
                    Some((array, _)) => format!("\n[[{array}]]\n"),
                    None => format!("\n[{path}]\n"),
                };
                text.push_str(&header);
                section = Some(path);
            }
            let key = written(key);
            let origin = match effective.origin {
                Origin::File => "",
                Origin::Environment => "  # from the environment",
                Origin::Default => "  # default",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{key} = {}{origin}", effective.value);
        }
        text.trim_start().to_owned()
    }
}

/// The place of a section in the file: by its name, and tables of an array in their order.
fn place(section: &str) -> (&str, usize) {
    let (name, index) = section.split_once('[').unwrap_or((section, ""));
    (name, index.trim_end_matches(']').parse().unwrap_or(0))
}

/// A key as TOML has it; the name of a property can be anything.
fn written(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !key.is_empty() && key.bytes().all(bare) {
        return key.to_owned();
    }
    let mut quoted = String::from("\"");
    for char in key.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// Section and key of a path; a librdkafka property has dots of its own.
fn split(path: &str) -> (&str, &str) {
    const PROPERTIES: &str = "kafka.properties";
    if let Some(key) = path.strip_prefix(PROPERTIES).and_then(|rest| rest.strip_prefix('.')) {
        return (PROPERTIES, key);
    }
    path.rsplit_once('.').unwrap_or(("", path))
}
