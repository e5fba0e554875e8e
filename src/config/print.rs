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
        sorted.sort_by_key(|effective| split(&effective.path).0.to_owned());
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
            let key = if key.contains('.') { format!("\"{key}\"") } else { key.to_owned() };
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

/// Section and key of a path; a librdkafka property has dots of its own.
fn split(path: &str) -> (&str, &str) {
    const PROPERTIES: &str = "kafka.properties";
    if let Some(key) = path.strip_prefix(PROPERTIES).and_then(|rest| rest.strip_prefix('.')) {
        return (PROPERTIES, key);
    }
    path.rsplit_once('.').unwrap_or(("", path))
}
