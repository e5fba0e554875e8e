//! JSON objects that are text already, so that a value is rendered once and never parsed again
//! on its way to Kafka.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::change::policy::{EntityPolicy, Shape, Treated};
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

/// Writes the fields of one record in order, as the policy of its object has them.
///
/// There is no other way to a [`JsonObject`], and every value of Salesforce that becomes part of a record goes through one.
#[derive(Debug)]
pub struct ObjectWriter<'p> {
    text: String,
    policy: Option<&'p EntityPolicy>,
}

impl<'p> ObjectWriter<'p> {
    /// An object without members; `capacity` is in bytes of text.
    pub fn new(policy: Option<&'p EntityPolicy>, capacity: usize) -> Self {
        let mut text = String::with_capacity(capacity.max(2));
        text.push('{');
        Self { text, policy }
    }

    /// Writes the field `name`, unless its policy leaves it out. `value` appends exactly one JSON value, and says whether the
    /// field is to be there.
    ///
    /// # Errors
    /// That of `value`; the object is of no use then.
    pub fn member<E>(
        &mut self,
        name: &str,
        shape: Shape,
        value: impl FnOnce(&mut String) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.keyed(name, &key_literal(name), shape, value)
    }

    /// The same with a key prepared by [`key_literal`].
    pub(crate) fn keyed<E>(
        &mut self,
        name: &str,
        key: &str,
        shape: Shape,
        value: impl FnOnce(&mut String) -> Result<bool, E>,
    ) -> Result<(), E> {
        let before = write_key(key, &mut self.text);
        let start = self.text.len();
        if !value(&mut self.text)? {
            self.text.truncate(before);
            return Ok(());
        }
        let Some(policy) = self.policy else { return Ok(()) };
        match policy.treat(name, shape, self.text.get(start..).unwrap_or_default()) {
            Treated::AsItIs => {}
            Treated::LeftOut => self.text.truncate(before),
            Treated::Replaced(value) => {
                self.text.truncate(start);
                self.text.push_str(&value);
            }
        }
        Ok(())
    }

    /// Closes the object.
    pub fn finish(mut self) -> JsonObject {
        self.text.push('}');
        JsonObject(self.text)
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
        let mut writer = ObjectWriter::new(None, 0);
        for (name, value, kept) in [
            ("Na\"me", "12345678901234567890", true),
            ("Nested", "{}", true),
            ("Not", "7", false),
            ("Last", "null", true),
        ] {
            let written = writer.member(name, Shape::Whole, |out| {
                out.push_str(value);
                Ok::<_, ()>(kept)
            });
            written.expect("no error");
        }
        let changed = writer.finish();
        assert_eq!(changed.as_str(), r#"{"Na\"me":12345678901234567890,"Nested":{},"Last":null}"#);
        assert!(!changed.is_empty());
        let text = serde_json::to_string(&Record { changed: changed.clone(), enriched: JsonObject::default() });
        assert_eq!(text.expect("json"), format!(r#"{{"changed":{},"enriched":{{}}}}"#, changed.as_str()));
        assert!(ObjectWriter::new(None, 9).finish().is_empty());
    }
}
