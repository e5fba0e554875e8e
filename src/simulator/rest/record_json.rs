//! A record as REST writes it in JSON.

use chrono::{Datelike, Timelike};
use serde::ser::{SerializeMap, Serializer};
use serde::{Serialize, ser};
use serde_json::value::RawValue;

use crate::simulator::columns::{Cells, Column, Source};
use crate::simulator::objects::Kind;
use crate::simulator::value::{self, Value};

/// One record with some of its fields, `attributes` first and the fields in the order they were asked for.
pub(super) struct RecordJson<'a> {
    pub(super) cells: Cells<'a>,
    pub(super) entity: &'a str,
    /// `v66.0`.
    pub(super) version: &'a str,
    pub(super) columns: &'a [&'a Column],
}

#[derive(Serialize)]
struct Attributes<'a> {
    #[serde(rename = "type")]
    entity: &'a str,
    url: String,
}

impl Serialize for RecordJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len() + 1))?;
        let id = self.cells.key.id();
        let url = format!("/services/data/{}/sobjects/{}/{id}", self.version, self.entity);
        map.serialize_entry("attributes", &Attributes { entity: self.entity, url })?;
        for column in self.columns {
            let value = self.cells.get(column);
            if let (Source::Conversation(at), Some((relationship, field))) =
                (column.source, column.name.split_once('.'))
            {
                let looked_up = self.cells.looked_up(at).map(|key| {
                    let url = format!("/services/data/{}/sobjects/{relationship}/{}", self.version, key.id());
                    LookedUp {
                        attributes: Attributes { entity: relationship, url },
                        field,
                        cell: Cell { kind: column.kind, value: value.as_deref() },
                    }
                });
                map.serialize_entry(relationship, &looked_up)?;
                continue;
            }
            map.serialize_entry(&column.name, &Cell { kind: column.kind, value: value.as_deref() })?;
        }
        map.end()
    }
}

/// One field of a record that a lookup names.
struct LookedUp<'a> {
    attributes: Attributes<'a>,
    field: &'a str,
    cell: Cell<'a>,
}

impl Serialize for LookedUp<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("attributes", &self.attributes)?;
        map.serialize_entry(self.field, &self.cell)?;
        map.end()
    }
}

struct Cell<'a> {
    kind: Kind,
    value: Option<&'a Value>,
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            None => serializer.serialize_none(),
            Some(Value::Flag(flag)) => serializer.serialize_bool(*flag),
            Some(Value::Integer(number)) => serializer.serialize_i32(*number),
            // What serde writes there is what Java writes.
            Some(Value::Number(number)) if is_plain(*number) => serializer.serialize_f64(*number),
            Some(Value::Number(number)) => match double(*number) {
                Some(text) => RawValue::from_string(text).map_err(ser::Error::custom)?.serialize(serializer),
                None => serializer.serialize_none(),
            },
            Some(Value::Compound(components)) => compound(self.kind, components, serializer),
            Some(Value::Text(text)) => serializer.serialize_str(text),
            Some(Value::Long(_)) => match self.value.and_then(|value| text(self.kind, value)) {
                Some(text) => serializer.serialize_str(&text),
                None => serializer.serialize_none(),
            },
        }
    }
}

/// An address or a place: the components by the alphabet, in lower camel case, null ones too. Null when all are.
fn compound<S: Serializer>(kind: Kind, components: &[Option<Value>], serializer: S) -> Result<S::Ok, S::Error> {
    if components.iter().all(Option::is_none) {
        return serializer.serialize_none();
    }
    let mut named: Vec<(String, &Option<Value>)> =
        value::component_names(kind).into_iter().map(lower_camel).zip(components).collect();
    named.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut map = serializer.serialize_map(Some(named.len()))?;
    for (name, component) in named {
        map.serialize_entry(&name, &Cell { kind: Kind::Text, value: component.as_ref() })?;
    }
    map.end()
}

fn lower_camel(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// The text of a value that is a JSON string: dates as `YYYY-MM-DD`, times as `HH:MM:SS.mmmZ`, date-times with `+0000`.
pub(super) fn text(kind: Kind, value: &Value) -> Option<String> {
    match (kind, value) {
        (_, Value::Text(text)) => Some(text.clone()),
        (Kind::DateTime | Kind::CreatedDate, Value::Long(millis)) => date_time(*millis),
        (Kind::Date | Kind::Time, value @ Value::Long(_)) => value::render(kind, value).as_str().map(str::to_owned),
        _ => None,
    }
}

/// `2019-01-05T03:41:05.000+0000`.
pub(super) fn date_time(millis: i64) -> Option<String> {
    let at = chrono::DateTime::from_timestamp_millis(millis)?;
    let (year, month, day) = (at.year(), at.month(), at.day());
    let (hour, minute, second, millis) = (at.hour(), at.minute(), at.second(), at.timestamp_subsec_millis());
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}+0000"))
}

/// A double as Java writes it: always with a fraction, with an exponent from 10^7 and below 10^-3.
/// `None` for what JSON has no number for.
pub(super) fn double(number: f64) -> Option<String> {
    if !number.is_finite() {
        return None;
    }
    if is_plain(number) {
        return Some(format!("{number:?}"));
    }
    let text = format!("{number:E}");
    let (digits, exponent) = text.split_once('E')?;
    let fraction = if digits.contains('.') { "" } else { ".0" };
    Some(format!("{digits}{fraction}E{exponent}"))
}

/// Whether a double is written without an exponent.
fn is_plain(number: f64) -> bool {
    let size = number.abs();
    size == 0.0 || (1e-3..1e7).contains(&size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_java_writes_them() {
        let cases = [
            (3.0, "3.0"),
            (-2.5, "-2.5"),
            (0.0, "0.0"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (356_000_000.5, "3.560000005E8"),
            (0.001, "0.001"),
            (0.00025, "2.5E-4"),
        ];
        for (number, text) in cases {
            assert_eq!(double(number).as_deref(), Some(text));
            let cell = Cell { kind: Kind::Number, value: Some(&Value::Number(number)) };
            assert_eq!(serde_json::to_string(&cell).expect("JSON"), text);
        }
        assert_eq!(date_time(1_546_659_665_007).as_deref(), Some("2019-01-05T03:41:05.007+0000"));
        assert_eq!(double(f64::NAN), None);
    }
}
