//! One value of a row: from the form in which REST and Bulk answer it to the one rendering.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveTime, Timelike, Utc};
use serde_json::value::RawValue;

use crate::change::object::FieldKind;
use crate::change::render::{self, OutOfRange};
use crate::identity::case_safe_id;

/// A value that its field cannot have. The text does not hold the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Neither `true` nor `false`.
    #[error("It is no boolean.")]
    Boolean,
    /// No whole number within 64 bits.
    #[error("It is no whole number.")]
    Integer,
    /// No number.
    #[error("It is no number.")]
    Number,
    /// No date, time or date-time in Salesforce's form.
    #[error("It is no date or time.")]
    Time,
    /// A date or time that has no rendering.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// Not an object of components.
    #[error("It is no compound.")]
    NotACompound,
    /// A JSON string that is none.
    #[error("It is no text.")]
    Text,
}

/// How the values of a field are rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Id,
    MultiSelect,
    Boolean,
    Integer,
    Decimal,
    DateTime,
    Date,
    Time,
    /// As the value says itself.
    Any,
}

impl Form {
    pub(crate) fn of(kind: FieldKind) -> Self {
        match kind {
            FieldKind::Id => Self::Id,
            FieldKind::String | FieldKind::Base64 => Self::Text,
            FieldKind::MultiPicklist => Self::MultiSelect,
            FieldKind::Boolean => Self::Boolean,
            FieldKind::Int => Self::Integer,
            FieldKind::Double => Self::Decimal,
            FieldKind::Date => Self::Date,
            FieldKind::DateTime => Self::DateTime,
            FieldKind::Time => Self::Time,
            FieldKind::Address | FieldKind::Location | FieldKind::Any => Self::Any,
        }
    }

    /// Writes a JSON value of a row; returns whether it is something else than `null`.
    pub(crate) fn write(self, value: Option<&RawValue>, out: &mut String) -> Result<bool, InvalidValue> {
        match value.map_or("null", RawValue::get) {
            "null" => {
                out.push_str("null");
                Ok(false)
            }
            // What has an inner structure is shown with it, whatever describe calls it.
            nested if nested.starts_with(['{', '[']) => write_nested(nested, out).map(|()| true),
            number if self == Self::Any && !number.starts_with('"') => write_scalar(number, out).map(|()| true),
            // Without a backslash it stands in the answer as it is rendered.
            text if matches!(self, Self::Text | Self::Any) && text.starts_with('"') && !text.contains('\\') => {
                let filled = text != "\"\"";
                out.push_str(if filled { text } else { "null" });
                Ok(filled)
            }
            _ => match value {
                Some(value) => self.write_text(&read_text(value)?, out),
                None => Ok(false),
            },
        }
    }

    /// Writes a value from its text, as numbers, dates and Bulk rows have it; the empty one is `null`.
    pub(crate) fn write_text(self, text: &str, out: &mut String) -> Result<bool, InvalidValue> {
        if text.is_empty() {
            out.push_str("null");
            return Ok(false);
        }
        match self {
            Self::Text | Self::Any => return Ok(render::write_text(text, out)),
            Self::MultiSelect => return Ok(render::write_multi_select(text, out)),
            Self::Id => render::write_quoted(&case_safe_id(text), out),
            Self::Boolean => render::write_boolean(text.parse().map_err(|_| InvalidValue::Boolean)?, out),
            Self::Integer => render::write_integer(read_integer(text)?, out),
            Self::Decimal => render::write_double(read_number(text)?, out),
            Self::DateTime => render::write_date_time(read_date_time(text)?.timestamp_millis(), out)?,
            Self::Date => {
                let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| InvalidValue::Time)?;
                render::write_day(i64::from(date.to_epoch_days()), out)?;
            }
            Self::Time => render::write_time(read_time(text)?, out)?,
        }
        Ok(true)
    }
}

/// The text of a JSON string without its quotes, or of anything else as it stands.
pub(crate) fn read_text(value: &RawValue) -> Result<Cow<'_, str>, InvalidValue> {
    let text = value.get();
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        None => Ok(Cow::Borrowed(text)),
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str(text).map(Cow::Owned).map_err(|_| InvalidValue::Text),
    }
}

/// A whole number, also one that is written with an empty fraction or an exponent.
fn read_integer(text: &str) -> Result<i64, InvalidValue> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    /// Every whole double of smaller magnitude is an `i64` too.
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    let number = read_number(text)?;
    if number.fract() == 0.0 && number.abs() < BOUND { Ok(number as i64) } else { Err(InvalidValue::Integer) }
}

fn read_number(text: &str) -> Result<f64, InvalidValue> {
    text.parse().map_err(|_| InvalidValue::Number)
}

/// A date-time as REST writes it (`2026-02-17T04:03:15.000+0000`), as SOQL and Bulk do (`….000Z`), or in
/// milliseconds since 1970.
pub(crate) fn read_date_time(text: &str) -> Result<DateTime<Utc>, InvalidValue> {
    if let Some(time) = read_utc(text) {
        return Ok(time);
    }
    if let Ok(milliseconds) = text.parse() {
        return DateTime::from_timestamp_millis(milliseconds).ok_or(InvalidValue::OutOfRange(OutOfRange));
    }
    let read = DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%#z");
    read.map(|time| time.to_utc()).map_err(|_| InvalidValue::Time)
}

/// A date-time with three digits behind the second and no offset: all that Salesforce itself writes. Rows have half a dozen, and
/// a parser for any form takes several times as long.
fn read_utc(text: &str) -> Option<DateTime<Utc>> {
    const MARKS: [(usize, u8); 6] = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.')];
    let bytes = text.as_bytes();
    let zone = bytes.get(23..)?;
    if !matches!(zone, b"+0000" | b"Z") || MARKS.iter().any(|(at, mark)| bytes.get(*at) != Some(mark)) {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = bytes.get(from..to)?.iter();
        digits.copied().try_fold(0_u32, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u32::from(digit.wrapping_sub(b'0')))
        })
    };
    let date = NaiveDate::from_ymd_opt(i32::try_from(number(0, 4)?).ok()?, number(5, 7)?, number(8, 10)?)?;
    let time = date.and_hms_milli_opt(number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?)?;
    Some(time.and_utc())
}

/// Milliseconds since midnight of `04:03:15.000Z`.
fn read_time(text: &str) -> Result<i64, InvalidValue> {
    let local = text.strip_suffix('Z').unwrap_or(text);
    let time = NaiveTime::parse_from_str(local, "%H:%M:%S%.f").map_err(|_| InvalidValue::Time)?;
    Ok(i64::from(time.num_seconds_from_midnight()) * 1000 + i64::from(time.nanosecond() / 1_000_000).min(999))
}

/// A number or a boolean that no description explains.
fn write_scalar(text: &str, out: &mut String) -> Result<(), InvalidValue> {
    match text {
        "true" | "false" => out.push_str(text),
        number => match number.parse() {
            Ok(whole) => render::write_integer(whole, out),
            Err(_) => render::write_double(read_number(number)?, out),
        },
    }
    Ok(())
}

/// An object or an array: compact, its members sorted, so that the same content has the same bytes.
fn write_nested(text: &str, out: &mut String) -> Result<(), InvalidValue> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| InvalidValue::Text)?;
    out.push_str(&value.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_the_form_of_salesforce_is_read_as_by_a_parser_for_all_forms() {
        let general =
            |text: &str| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%#z").map(|time| time.to_utc()).ok();
        for text in ["2026-02-17T04:03:15.123+0000", "1700-01-01T00:00:00.000Z", "2024-02-29T23:59:59.999+0000"] {
            assert_eq!(read_utc(text), general(text), "{text}");
            assert!(read_utc(text).is_some(), "{text}");
        }
        for other in [
            "2026-02-30T04:03:15.000Z",
            "2026-02-17T04:03:15.000+0100",
            "2026-02-17T04:03:15Z",
            "2026-02-17 04:03:15.000Z",
            "2026-02-17T04:03:60.000Z",
            "20x6-02-17T04:03:15.000Z",
            "2026-02-17T04:03:15.000é",
            "",
        ] {
            assert_eq!(read_utc(other), None, "{other}");
        }
        assert_eq!(
            read_date_time("2026-02-17T04:03:15.000+0100"),
            Ok(general("2026-02-17T03:03:15.000Z").expect("a time"))
        );
    }

    #[test]
    fn a_text_without_escapes_is_written_as_any_other() {
        for json in [r#""plain""#, r#""""#, r#""Zürich 東京""#, r#""a \"quoted\" word""#, r#""\u0041\/""#] {
            let value: &RawValue = serde_json::from_str(json).expect("JSON");
            let text: String = serde_json::from_str(json).expect("a text");
            for form in [Form::Text, Form::Any] {
                let (mut out, mut expected) = (String::new(), String::new());
                assert_eq!(form.write(Some(value), &mut out), form.write_text(&text, &mut expected));
                assert_eq!(out, expected, "{json}");
            }
        }
    }
}
