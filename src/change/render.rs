//! The one rendering of values: the same JSON for the same value, whether an event, a REST answer
//! or a Bulk row brought it.
//!
//! Every function appends exactly one JSON value to `out`, or nothing when it returns an error.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{Datelike, NaiveDate};

const MILLISECONDS_A_DAY: i64 = 86_400_000;
const SECONDS_A_DAY: i64 = 86_400;

/// A point in time that has no place in the rendering: outside the years 0000 to 9999, or a time
/// of day outside a day.
///
/// Salesforce keeps dates between 1700 and 4000, so such a value was not written as what its
/// schema says it is. It is an error rather than a bare number, because a consumer that parses
/// dates must not meet anything else in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The date or time is outside of what its type can hold.")]
pub struct OutOfRange;

/// A decimal of more than 38 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The decimal number has more digits than its type can hold.")]
pub struct DecimalTooLong;

/// The digits after the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Three digits: everything Salesforce itself sends.
    Milliseconds,
    /// Six digits.
    Microseconds,
    /// Nine digits.
    Nanoseconds,
}

impl Precision {
    fn ticks_a_second(self) -> i64 {
        match self {
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1_000_000,
            Self::Nanoseconds => 1_000_000_000,
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Milliseconds => 3,
            Self::Microseconds => 6,
            Self::Nanoseconds => 9,
        }
    }
}

/// Whether a time names an instant (`Z` at its end) or a reading of some local clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Coordinated Universal Time.
    Utc,
    /// No zone is known.
    Local,
}

/// A date-time from milliseconds since 1970 UTC: `"2026-02-17T04:03:15.000Z"`.
pub fn write_date_time(milliseconds: i64, out: &mut String) -> Result<(), OutOfRange> {
    write_timestamp(milliseconds, Precision::Milliseconds, Zone::Utc, out)
}

/// A date-time from ticks of `precision` since 1970.
pub fn write_timestamp(ticks: i64, precision: Precision, zone: Zone, out: &mut String) -> Result<(), OutOfRange> {
    let second = ticks.div_euclid(precision.ticks_a_second());
    let date = date_of_day(second.div_euclid(SECONDS_A_DAY))?;
    out.push('"');
    push_date(date, out);
    out.push('T');
    push_time(second.rem_euclid(SECONDS_A_DAY), ticks.rem_euclid(precision.ticks_a_second()), precision, out);
    out.push_str(if zone == Zone::Utc { "Z\"" } else { "\"" });
    Ok(())
}

/// A date from milliseconds since 1970 UTC: `"2026-02-17"`. Salesforce sends UTC midnight.
pub fn write_date(milliseconds: i64, out: &mut String) -> Result<(), OutOfRange> {
    write_day(milliseconds.div_euclid(MILLISECONDS_A_DAY), out)
}

/// A date from days since 1970-01-01.
pub fn write_day(days: i64, out: &mut String) -> Result<(), OutOfRange> {
    let date = date_of_day(days)?;
    out.push('"');
    push_date(date, out);
    out.push('"');
    Ok(())
}

/// A time of day from milliseconds since midnight: `"04:03:15.000Z"`.
pub fn write_time(milliseconds: i64, out: &mut String) -> Result<(), OutOfRange> {
    write_time_of_day(milliseconds, Precision::Milliseconds, Zone::Utc, out)
}

/// A time of day from ticks of `precision` since midnight.
pub fn write_time_of_day(ticks: i64, precision: Precision, zone: Zone, out: &mut String) -> Result<(), OutOfRange> {
    let second = ticks.div_euclid(precision.ticks_a_second());
    if !(0..SECONDS_A_DAY).contains(&second) {
        return Err(OutOfRange);
    }
    out.push('"');
    push_time(second, ticks.rem_euclid(precision.ticks_a_second()), precision, out);
    out.push_str(if zone == Zone::Utc { "Z\"" } else { "\"" });
    Ok(())
}

fn date_of_day(days: i64) -> Result<NaiveDate, OutOfRange> {
    i32::try_from(days)
        .ok()
        .and_then(NaiveDate::from_epoch_days)
        .filter(|date| (0..=9999).contains(&date.year()))
        .ok_or(OutOfRange)
}

fn push_date(date: NaiveDate, out: &mut String) {
    push_digits(i64::from(date.year()), 4, out);
    out.push('-');
    push_digits(i64::from(date.month()), 2, out);
    out.push('-');
    push_digits(i64::from(date.day()), 2, out);
}

fn push_time(second_of_day: i64, fraction: i64, precision: Precision, out: &mut String) {
    push_digits(second_of_day / 3600, 2, out);
    out.push(':');
    push_digits(second_of_day / 60 % 60, 2, out);
    out.push(':');
    push_digits(second_of_day % 60, 2, out);
    out.push('.');
    push_digits(fraction, precision.digits(), out);
}

/// The last `width` decimal digits of a number that is not negative.
fn push_digits(number: i64, width: usize, out: &mut String) {
    let mut digits = [b'0'; 9];
    let mut rest = number;
    for digit in digits.iter_mut().rev().take(width) {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    let written = digits.get(digits.len().saturating_sub(width)..).unwrap_or_default();
    out.push_str(std::str::from_utf8(written).unwrap_or_default());
}

/// A text; the empty one is `null`, as Salesforce does not tell the two apart. Returns whether it was a value.
pub fn write_text(text: &str, out: &mut String) -> bool {
    if text.is_empty() {
        out.push_str("null");
        return false;
    }
    write_quoted(text, out);
    true
}

/// A JSON string, also when it is empty.
pub fn write_quoted(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    let mut rest = text;
    while let Some(at) = first_special(rest) {
        // The byte found is ASCII, so both cuts are at character boundaries.
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        let byte = special.bytes().next().unwrap_or(b'?');
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => {
                out.push_str("\\u00");
                out.push(char::from(HEX[usize::from(control >> 4)]));
                out.push(char::from(HEX[usize::from(control & 15)]));
            }
        }
        rest = special.get(1..).unwrap_or_default();
    }
    out.push_str(rest);
    out.push('"');
}

/// Where the first byte stands that a JSON string cannot have as it is.
fn first_special(text: &str) -> Option<usize> {
    let special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    // Sixteen at a time, without an end in their middle: that is a few vector instructions.
    let (chunks, _) = text.as_bytes().as_chunks::<16>();
    let any = |chunk: &&[u8; 16]| chunk.iter().fold(false, |any, byte| any | special(*byte));
    let before = 16 * chunks.iter().take_while(|chunk| !any(chunk)).count();
    let at = text.as_bytes().get(before..)?.iter().position(|byte| special(*byte))?;
    Some(before + at)
}

/// A multi-select picklist, whose values Salesforce joins with `;`: an array, or `null` when none is
/// selected. Returns whether it was a value.
pub fn write_multi_select(joined: &str, out: &mut String) -> bool {
    let mut values = joined.split(';').filter(|value| !value.is_empty()).peekable();
    if values.peek().is_none() {
        out.push_str("null");
        return false;
    }
    out.push('[');
    while let Some(value) = values.next() {
        write_quoted(value, out);
        if values.peek().is_some() {
            out.push(',');
        }
    }
    out.push(']');
    true
}

/// A whole number, exact beyond 2^53 too.
pub fn write_integer(number: i64, out: &mut String) {
    out.push_str(itoa::Buffer::new().format(number));
}

/// A checkbox.
pub fn write_boolean(value: bool, out: &mut String) {
    out.push_str(if value { "true" } else { "false" });
}

/// A number: without a fraction where it has none; `"NaN"`, `"Infinity"` and `"-Infinity"` as strings,
/// because JSON has no such numbers; else the shortest digits that read back as the same value.
pub fn write_double(number: f64, out: &mut String) {
    if !write_special(number, out) {
        out.push_str(ryu::Buffer::new().format_finite(number));
    }
}

/// As [`write_double`], with the shortest digits for a 32-bit float.
pub fn write_float(number: f32, out: &mut String) {
    if !write_special(f64::from(number), out) {
        out.push_str(ryu::Buffer::new().format_finite(number));
    }
}

/// Writes what is no finite number with a fraction; returns whether it was such.
fn write_special(number: f64, out: &mut String) -> bool {
    /// Every whole double of smaller magnitude is an `i64` too.
    const INTEGER_BOUND: f64 = 9_223_372_036_854_775_808.0;
    if number.is_nan() {
        out.push_str("\"NaN\"");
    } else if number.is_infinite() {
        out.push_str(if number > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else if number.fract() == 0.0 && number.abs() < INTEGER_BOUND {
        write_integer(number as i64, out);
    } else {
        return false;
    }
    true
}

/// Bytes in base64 with padding.
pub fn write_bytes(bytes: &[u8], out: &mut String) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

/// The digits that a decimal of 16 bytes can hold.
pub const MAX_DECIMAL_DIGITS: usize = 38;

/// A decimal from its unscaled value in big-endian two's complement, with `scale` digits after the point; exact,
/// and without a fraction where it has none.
pub fn write_decimal(unscaled: &[u8], scale: usize, out: &mut String) -> Result<(), DecimalTooLong> {
    const WIDTH: usize = size_of::<i128>();
    if scale > MAX_DECIMAL_DIGITS {
        return Err(DecimalTooLong);
    }
    let negative = unscaled.first().is_some_and(|first| first & 0x80 != 0);
    let filler = if negative { 0xff } else { 0 };
    let surplus = unscaled.len().saturating_sub(WIDTH);
    let (beyond, kept) = unscaled.split_at(surplus);
    let mut wide = [filler; WIDTH];
    for (to, from) in wide.iter_mut().rev().zip(kept.iter().rev()) {
        *to = *from;
    }
    let value = i128::from_be_bytes(wide);
    if beyond.iter().any(|byte| *byte != filler) || (value < 0) != negative {
        return Err(DecimalTooLong);
    }
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if value < 0 {
        out.push('-');
    }
    out.push_str(whole);
    if fraction.bytes().any(|digit| digit != b'0') {
        out.push('.');
        out.push_str(fraction);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(write: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        write(&mut out);
        serde_json::from_str::<serde_json::Value>(&out).unwrap_or_else(|error| panic!("{out}: {error}"));
        out
    }

    fn timed(write: fn(i64, &mut String) -> Result<(), OutOfRange>, value: i64) -> Result<String, OutOfRange> {
        let mut out = String::new();
        let result = write(value, &mut out);
        assert!(result.is_ok() || out.is_empty(), "an error leaves nothing behind");
        result.map(|()| out)
    }

    #[test]
    fn dates_and_times_have_one_form_and_refuse_what_it_cannot_hold() {
        assert_eq!(timed(write_date_time, 1_771_300_995_000).as_deref(), Ok("\"2026-02-17T04:03:15.000Z\""));
        assert_eq!(timed(write_date_time, -1).as_deref(), Ok("\"1969-12-31T23:59:59.999Z\""));
        assert_eq!(timed(write_date, 1_653_955_200_000).as_deref(), Ok("\"2022-05-31\""));
        assert_eq!(timed(write_date, -1).as_deref(), Ok("\"1969-12-31\""));
        assert_eq!(timed(write_time, 14_595_000).as_deref(), Ok("\"04:03:15.000Z\""));
        for year_zero in [-62_167_219_200_000, 253_402_300_799_999] {
            assert!(timed(write_date_time, year_zero).is_ok());
        }
        for outside in [-62_167_219_200_001, 253_402_300_800_000, i64::MIN, i64::MAX] {
            assert_eq!(timed(write_date_time, outside), Err(OutOfRange));
            assert_eq!(timed(write_date, outside), Err(OutOfRange));
            assert_eq!(timed(write_time, outside), Err(OutOfRange));
        }
        assert_eq!(timed(write_time, MILLISECONDS_A_DAY), Err(OutOfRange));
        let nanoseconds = rendered(|out| {
            write_timestamp(1_000_000_001, Precision::Nanoseconds, Zone::Local, out).expect("in range");
        });
        assert_eq!(nanoseconds, "\"1970-01-01T00:00:01.000000001\"");
    }

    #[test]
    fn every_instant_reads_back_through_another_implementation() {
        for step in -4000_i64..4000 {
            let milliseconds = step * 7_654_321_098 + step;
            let text = timed(write_date_time, milliseconds).expect("in range");
            let read = chrono::DateTime::parse_from_rfc3339(text.trim_matches('"')).expect("RFC 3339");
            assert_eq!(read.timestamp_millis(), milliseconds);
        }
    }

    #[test]
    fn numbers_keep_their_value_and_lose_an_empty_fraction() {
        for (number, text) in [
            (3233.0, "3233"),
            (-0.0, "0"),
            (37.793113, "37.793113"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (-9_223_372_036_854_775_808.0, "-9223372036854775808.0"),
            (f64::NAN, "\"NaN\""),
            (f64::INFINITY, "\"Infinity\""),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ] {
            let out = rendered(|out| write_double(number, out));
            if text.ends_with(".0") {
                assert_eq!(out.parse::<f64>(), Ok(number), "beyond i64 the value still holds");
            } else {
                assert_eq!(out, text);
            }
        }
        assert_eq!(rendered(|out| write_float(0.1, out)), "0.1");
        assert_eq!(rendered(|out| write_integer(i64::MIN, out)), "-9223372036854775808");
        assert_eq!(rendered(|out| write_integer(9_007_199_254_740_993, out)), "9007199254740993");
    }

    proptest::proptest! {
        #[test]
        fn the_digits_of_every_number_read_back_as_that_number(bits: u64) {
            let (double, float) = (f64::from_bits(bits), f32::from_bits(u32::try_from(bits >> 32).expect("32 bits")));
            if double.is_finite() {
                proptest::prop_assert_eq!(rendered(|out| write_double(double, out)).parse::<f64>(), Ok(double));
            }
            if float.is_finite() {
                proptest::prop_assert_eq!(rendered(|out| write_float(float, out)).parse::<f32>(), Ok(float));
            }
        }
    }

    #[test]
    fn texts_survive_and_the_empty_one_is_null() {
        for text in [
            "plain",
            "sixteen and sixteen and some \" more",
            "a whole chunk it",
            "Zürich 東京 \u{1F600}",
            "\"\\\u{8}\u{c}\n\r\t\0\u{1f}\u{7f}",
            "\\",
            "a\"",
            "\u{2028}",
        ] {
            let out = rendered(|out| assert!(write_text(text, out)));
            assert_eq!(serde_json::from_str::<String>(&out).expect("json"), text);
        }
        assert_eq!(rendered(|out| assert!(!write_text("", out))), "null");
        assert_eq!(rendered(|out| assert!(write_multi_select("A;B C;;D\"", out))), r#"["A","B C","D\""]"#);
        assert_eq!(rendered(|out| assert!(!write_multi_select(";", out))), "null");
        assert_eq!(rendered(|out| write_bytes(&[0, 255, 16], out)), "\"AP8Q\"");
    }

    #[test]
    fn decimals_are_exact() {
        let decimal = |bytes: &[u8], scale| {
            let mut out = String::new();
            write_decimal(bytes, scale, &mut out).map(|()| out)
        };
        assert_eq!(decimal(&[0x04, 0xd2], 2).as_deref(), Ok("12.34"));
        assert_eq!(decimal(&[0xff, 0xfb], 3).as_deref(), Ok("-0.005"));
        assert_eq!(decimal(&[0x04, 0xb0], 2).as_deref(), Ok("12"));
        assert_eq!(decimal(&[], 2).as_deref(), Ok("0"));
        assert_eq!(decimal(&[[0xff; 20].as_slice(), &[0x80; 1]].concat(), 0).as_deref(), Ok("-128"));
        let most = i128::MAX.to_be_bytes();
        assert_eq!(decimal(&most, 0), Ok(i128::MAX.to_string()));
        assert_eq!(decimal(&[&[1], most.as_slice()].concat(), 0), Err(DecimalTooLong));
        assert_eq!(decimal(&[&[0], [0xff_u8; 16].as_slice()].concat(), 0), Err(DecimalTooLong));
    }
}
