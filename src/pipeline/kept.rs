//! What a stream keeps in its checkpoint topic beside the checkpoint, read back.
//!
//! What cannot be read was written by another version. It stays where it is, and what stands beside it is gone on from all the
//! same; but the log names it, since something is begun anew without it.

use serde::Deserialize;
use tracing::warn;

use crate::salesforce::rest::without_content;

/// Why the value of a record cannot be read. The text holds nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self(without_content(&error))
    }
}

/// Reads a value.
///
/// # Errors
/// When it is not one of this kind.
pub fn read<'v, T: Deserialize<'v>>(value: &'v [u8]) -> Result<T, Unreadable> {
    Ok(serde_json::from_slice(value)?)
}

/// The same of a record that is passed over if it cannot be read.
pub(super) fn read_kept<'v, T: Deserialize<'v>>(key: &str, value: &'v [u8]) -> Option<T> {
    let tell = |error: &Unreadable| warn!(key, error = %error, "what the stream keeps cannot be read");
    read(value).inspect_err(tell).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};

    #[test]
    fn what_cannot_be_read_says_why_and_nothing_of_what_it_holds() {
        let why = |value: &str| read::<(i64, DateTime<Utc>)>(value.as_bytes()).expect_err(value).to_string();
        assert_eq!(why(r#"["secret", null]"#), "expected i64 at line 1 column 9");
        assert!(why(r#"[1, "secret"]"#).starts_with("a value that is not allowed at line 1"));
        assert!(why("[1").starts_with("EOF while parsing"));
        assert!(why("\u{feff}").starts_with("expected value at line 1"));
        assert_eq!(read_kept::<u64>("kept/x", b"7"), Some(7));
        assert_eq!(read_kept::<u64>("kept/x", b"seven"), None);
    }
}
