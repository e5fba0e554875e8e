//! The values of the simulated org's records: held, encoded as Avro, and rendered for
//! the ledger as a consumer must see them.

use chrono::{DateTime, NaiveTime, SecondsFormat, Utc};
use serde_json::{Map, Number, Value as Json, json};

use crate::simulator::avro;
use crate::simulator::objects::{Avro, Kind};

/// A value that is not null. Null is the absence of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Integer(i32),
    /// Milliseconds, of the epoch or of the day.
    Long(i64),
    Number(f64),
    Flag(bool),
    /// The components in the order of the compound's schema.
    Compound(Vec<Option<Value>>),
}

/// Writes the value, without the union branch in front of it.
pub(crate) fn encode(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(text) => avro::string(out, text),
        Value::Integer(number) => avro::long(out, i64::from(*number)),
        Value::Long(number) => avro::long(out, *number),
        Value::Number(number) => avro::double(out, *number),
        Value::Flag(flag) => avro::boolean(out, *flag),
        Value::Compound(components) => components.iter().for_each(|component| encode_nullable(out, component.as_ref())),
    }
}

/// Writes the value of a nullable field.
pub(crate) fn encode_nullable(out: &mut Vec<u8>, value: Option<&Value>) {
    match value {
        None => avro::branch(out, 0),
        Some(value) => {
            avro::branch(out, 1);
            encode(out, value);
        }
    }
}

/// Renders a value as the contract for consumers has it.
pub(crate) fn render(kind: Kind, value: &Value) -> Json {
    match (kind, value) {
        (Kind::DateTime | Kind::CreatedDate, Value::Long(millis)) => date_time(*millis),
        (Kind::Date, Value::Long(millis)) => DateTime::<Utc>::from_timestamp_millis(*millis)
            .map_or(Json::Null, |date| json!(date.format("%Y-%m-%d").to_string())),
        (Kind::Time, Value::Long(millis)) => time_of_day(*millis),
        (Kind::MultiPicklist(_), Value::Text(text)) => json!(text.split(';').collect::<Vec<_>>()),
        (_, Value::Compound(components)) => {
            let names = component_names(kind);
            let set =
                names.into_iter().zip(components).filter_map(|(name, component)| Some((name, component.as_ref()?)));
            Json::Object(set.map(|(name, component)| (name.to_owned(), plain(component))).collect())
        }
        (_, value) => plain(value),
    }
}

/// The names of a compound's components, in schema order; none for another kind.
pub(crate) fn component_names(kind: Kind) -> Vec<&'static str> {
    match kind.avro() {
        Avro::Record(_, components) => components.iter().map(|component| component.name).collect(),
        _ => Vec::new(),
    }
}

/// Renders a value whose kind adds nothing.
pub(crate) fn plain(value: &Value) -> Json {
    match value {
        Value::Text(text) if text.is_empty() => Json::Null,
        Value::Text(text) => json!(text),
        Value::Integer(number) => json!(number),
        Value::Long(number) => json!(number),
        Value::Number(number) => number_json(*number),
        Value::Flag(flag) => json!(flag),
        Value::Compound(_) => Json::Null,
    }
}

fn number_json(number: f64) -> Json {
    // Below 2^53 every whole double is an exact integer.
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        return json!(number as i64);
    }
    match Number::from_f64(number) {
        Some(number) => Json::Number(number),
        None if number.is_nan() => json!("NaN"),
        None if number > 0.0 => json!("Infinity"),
        None => json!("-Infinity"),
    }
}

pub(crate) fn date_time(millis: i64) -> Json {
    DateTime::<Utc>::from_timestamp_millis(millis)
        .map_or(Json::Null, |instant| json!(instant.to_rfc3339_opts(SecondsFormat::Millis, true)))
}

fn time_of_day(millis: i64) -> Json {
    let seconds = u32::try_from(millis.div_euclid(1000)).ok();
    let nanos = u32::try_from(millis.rem_euclid(1000) * 1_000_000).ok();
    seconds
        .zip(nanos)
        .and_then(|(seconds, nanos)| NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos))
        .map_or(Json::Null, |time| json!(time.format("%H:%M:%S%.3fZ").to_string()))
}

/// Reads a value that somebody gave in JSON, in the form in which [`render`] would show it.
/// `Ok(None)` is an explicit null.
pub(crate) fn parse(kind: Kind, json: &Json) -> Result<Option<Value>, String> {
    let wrong = || format!("`{json}` is not a value of a {} field", kind.doc());
    let value = match (kind.avro(), json) {
        (_, Json::Null) => return Ok(None),
        (Avro::String, Json::String(text)) => Value::Text(text.clone()),
        (Avro::String, Json::Array(values)) => {
            let texts: Option<Vec<&str>> = values.iter().map(Json::as_str).collect();
            Value::Text(texts.ok_or_else(wrong)?.join(";"))
        }
        (Avro::Boolean, Json::Bool(flag)) => Value::Flag(*flag),
        (Avro::Int, Json::Number(number)) => {
            let number = number.as_i64().and_then(|number| i32::try_from(number).ok());
            Value::Integer(number.ok_or_else(wrong)?)
        }
        (Avro::Double, Json::Number(number)) => Value::Number(number.as_f64().ok_or_else(wrong)?),
        (Avro::Long, Json::Number(number)) => Value::Long(number.as_i64().ok_or_else(wrong)?),
        (Avro::Long, Json::String(text)) => Value::Long(parse_instant(kind, text).ok_or_else(wrong)?),
        (Avro::Record(_, components), Json::Object(given)) => {
            let mut values = Vec::with_capacity(components.len());
            for component in components {
                let kind = if component.number { Kind::Number } else { Kind::Text };
                values.push(given.get(component.name).map_or(Ok(None), |json| parse(kind, json))?);
            }
            Value::Compound(values)
        }
        _ => return Err(wrong()),
    };
    Ok(Some(value))
}

fn parse_instant(kind: Kind, text: &str) -> Option<i64> {
    match kind {
        Kind::Date => {
            let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            Some(date.and_time(NaiveTime::MIN).and_utc().timestamp_millis())
        }
        Kind::Time => {
            let time = NaiveTime::parse_from_str(text.trim_end_matches('Z'), "%H:%M:%S%.f").ok()?;
            Some(time.signed_duration_since(NaiveTime::MIN).num_milliseconds())
        }
        _ => Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis()),
    }
}

/// Reads the flat record that a client publishes as a platform event; `None` when it is not one of the schema.
/// By `apache-avro`: only clients of the simulator make these payloads.
pub(crate) fn read_datum(schema: &str, mut payload: &[u8]) -> Option<Vec<Option<Value>>> {
    let schema = apache_avro::Schema::parse_str(schema).ok()?;
    let datum = apache_avro::from_avro_datum(&schema, &mut payload, None).ok()?;
    let apache_avro::types::Value::Record(fields) = datum else { return None };
    if !payload.is_empty() {
        return None;
    }
    fields.into_iter().map(|(_, value)| from_datum(value)).collect()
}

fn from_datum(value: apache_avro::types::Value) -> Option<Option<Value>> {
    use apache_avro::types::Value as Datum;
    Some(Some(match value {
        Datum::Null => return Some(None),
        Datum::Union(_, inner) => return from_datum(*inner),
        Datum::String(text) => Value::Text(text),
        Datum::Int(number) => Value::Integer(number),
        Datum::Long(number) => Value::Long(number),
        Datum::Double(number) => Value::Number(number),
        Datum::Boolean(flag) => Value::Flag(flag),
        _ => return None,
    }))
}

/// The rendering of some components of a compound, null where one was cleared.
pub(crate) fn render_components(kind: Kind, components: &[(usize, Option<Value>)]) -> Json {
    let names = component_names(kind);
    let mut rendered = Map::new();
    for (at, component) in components {
        if let Some(name) = names.get(*at) {
            rendered.insert((*name).to_owned(), component.as_ref().map_or(Json::Null, plain));
        }
    }
    Json::Object(rendered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_rendered_once_and_for_all() {
        let rendered = [
            (Kind::DateTime, Value::Long(1_771_300_995_000), json!("2026-02-17T04:03:15.000Z")),
            (Kind::Date, Value::Long(1_653_955_200_000), json!("2022-05-31")),
            (Kind::Time, Value::Long(14_595_000), json!("04:03:15.000Z")),
            (Kind::MultiPicklist(&[]), Value::Text("a;b".to_owned()), json!(["a", "b"])),
            (Kind::Number, Value::Number(3.0), json!(3)),
            (Kind::Number, Value::Number(2.5), json!(2.5)),
            (Kind::Location, Value::Compound(vec![None, Some(Value::Number(1.5))]), json!({ "Longitude": 1.5 })),
        ];
        for (kind, value, json) in rendered {
            assert_eq!(render(kind, &value), json);
            assert_eq!(parse(kind, &json), Ok(Some(value)), "{json} can be given back");
        }
    }
}
