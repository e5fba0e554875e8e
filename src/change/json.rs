//! JSON objects that are text already, so that a value is rendered once and never parsed again
//! on its way to Kafka.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::change::render;

/// A JSON object as text, braces included; `{}` when it has no members.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonObject(String);

impl JsonObject {
    /// The text, from `{` to `}`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the object has no members.
    pub fn is_empty(&self) -> bool {
        self.0.len() == 2
    }

    /// The text, without a copy.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Default for JsonObject {
    fn default() -> Self {
        Self("{}".to_owned())
    }
}

impl Serialize for JsonObject {
    /// Embeds the text as it is. Only `serde_json` can do that; other formats show a map of its own.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = serde_json::Deserializer::from_str(&self.0);
        let raw = <&RawValue>::deserialize(&mut text).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Writes the members of one [`JsonObject`] in order.
#[derive(Debug)]
pub struct ObjectWriter {
    text: String,
}

impl ObjectWriter {
    /// An object without members; `capacity` is in bytes of text.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut text = String::with_capacity(capacity.max(2));
        text.push('{');
        Self { text }
    }

    /// Begins the member `name`. Exactly one JSON value has to be written to what is returned.
    pub fn member(&mut self, name: &str) -> &mut String {
        separate(&mut self.text);
        render::write_quoted(name, &mut self.text);
        self.text.push(':');
        &mut self.text
    }

    /// Closes the object.
    pub fn finish(mut self) -> JsonObject {
        self.text.push('}');
        JsonObject(self.text)
    }

    /// The open object, for writers that place keys prepared by [`key_literal`].
    pub(crate) fn text(&mut self) -> &mut String {
        &mut self.text
    }
}

/// The text `"name":` of a key, for [`write_key`].
pub(crate) fn key_literal(name: &str) -> Box<str> {
    let mut literal = String::with_capacity(name.len() + 3);
    render::write_quoted(name, &mut literal);
    literal.push(':');
    literal.into()
}

/// Begins a member of the innermost open object, and returns where the text stood before it,
/// so that `truncate` can take the member back.
pub(crate) fn write_key(literal: &str, out: &mut String) -> usize {
    let before = out.len();
    separate(out);
    out.push_str(literal);
    before
}

/// A comma, unless the innermost object is still empty. A complete value never ends in `{`.
fn separate(out: &mut String) {
    if !out.ends_with('{') {
        out.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_embedded_as_it_was_written() {
        #[derive(Serialize)]
        struct Record {
            changed: JsonObject,
            enriched: JsonObject,
        }
        let mut writer = ObjectWriter::with_capacity(0);
        writer.member("Na\"me").push_str("12345678901234567890");
        writer.member("Nested").push_str("{}");
        writer.member("Last").push_str("null");
        let changed = writer.finish();
        assert_eq!(changed.as_str(), r#"{"Na\"me":12345678901234567890,"Nested":{},"Last":null}"#);
        assert!(!changed.is_empty());
        let text = serde_json::to_string(&Record { changed: changed.clone(), enriched: JsonObject::default() });
        assert_eq!(text.expect("json"), format!(r#"{{"changed":{},"enriched":{{}}}}"#, changed.as_str()));
        assert!(ObjectWriter::with_capacity(9).finish().is_empty());
    }
}
