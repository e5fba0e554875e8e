//! SOQL as tokens.

use chrono::{DateTime, NaiveDate, NaiveTime};

use super::QueryError;

/// A token and where it begins, in characters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) at: usize,
    /// As written.
    pub(crate) text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// A keyword or a name, with its dots.
    Word,
    /// A quoted text, without quotes and escapes.
    Text(String),
    Number(f64),
    /// Milliseconds of the epoch.
    DateTime(i64),
    /// Milliseconds of the epoch at midnight UTC.
    Date(i64),
    /// `(`, `)`, `,`, or a comparison.
    Symbol,
    End,
}

pub(crate) fn read(soql: &str) -> Result<Vec<Token>, QueryError> {
    let characters: Vec<char> = soql.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = characters.get(at).copied() {
        if first.is_whitespace() {
            at += 1;
            continue;
        }
        let (kind, length) = match first {
            '\'' => quoted(soql, &characters, at)?,
            '(' | ')' | ',' | '=' => (Kind::Symbol, 1),
            '!' | '<' | '>' => comparison(soql, &characters, at)?,
            _ if first.is_ascii_alphabetic() => {
                (Kind::Word, run(&characters, at, |one| one.is_ascii_alphanumeric() || matches!(one, '_' | '.')))
            }
            _ if first.is_ascii_digit() || matches!(first, '-' | '+') => literal(soql, &characters, at)?,
            _ => return Err(unexpected(soql, at, &first.to_string())),
        };
        let text = characters.iter().skip(at).take(length).collect();
        tokens.push(Token { kind, at, text });
        at += length;
    }
    tokens.push(Token { kind: Kind::End, at, text: "<EOF>".to_owned() });
    Ok(tokens)
}

/// The words in which Salesforce refuses a token.
pub(crate) fn unexpected(soql: &str, at: usize, token: &str) -> QueryError {
    QueryError::at(soql, at, "MALFORMED_QUERY", &format!("unexpected token: '{token}'"))
}

fn run(characters: &[char], from: usize, belongs: impl Fn(char) -> bool) -> usize {
    characters.iter().skip(from).take_while(|one| belongs(**one)).count()
}

fn comparison(soql: &str, characters: &[char], at: usize) -> Result<(Kind, usize), QueryError> {
    let (first, second) = (characters.get(at), characters.get(at + 1));
    match (first, second) {
        (Some('!' | '<' | '>'), Some('=')) | (Some('<'), Some('>')) => Ok((Kind::Symbol, 2)),
        (Some('<' | '>'), _) => Ok((Kind::Symbol, 1)),
        _ => Err(unexpected(soql, at, "!")),
    }
}

fn quoted(soql: &str, characters: &[char], from: usize) -> Result<(Kind, usize), QueryError> {
    let mut text = String::new();
    let mut at = from + 1;
    while let Some(character) = characters.get(at).copied() {
        at += 1;
        match character {
            '\'' => return Ok((Kind::Text(text), at - from)),
            '\\' => {
                let escaped = characters.get(at).copied();
                at += 1;
                text.push(match escaped {
                    Some('n' | 'N') => '\n',
                    Some('r' | 'R') => '\r',
                    Some('t' | 'T') => '\t',
                    Some('b' | 'B') => '\u{8}',
                    Some('f' | 'F') => '\u{c}',
                    Some(one @ ('\'' | '"' | '\\' | '_' | '%')) => one,
                    _ => {
                        let message = "Illegal string literal. Invalid string escape";
                        return Err(QueryError::at(soql, from, "MALFORMED_QUERY", message));
                    }
                });
            }
            '\n' | '\r' => break,
            character => text.push(character),
        }
    }
    Err(QueryError::at(
        soql,
        from,
        "MALFORMED_QUERY",
        "Illegal string literal. Line breaks are not allowed in string literals",
    ))
}

/// A number, a date or a date-time.
fn literal(soql: &str, characters: &[char], at: usize) -> Result<(Kind, usize), QueryError> {
    let length = 1 + run(characters, at + 1, |one| one.is_ascii_alphanumeric() || matches!(one, ':' | '.' | '-' | '+'));
    let text: String = characters.iter().skip(at).take(length).collect();
    let kind = if let Ok(number) = text.parse::<f64>() {
        text.ends_with(|last: char| last.is_ascii_digit()).then_some(Kind::Number(number))
    } else if text.contains('T') {
        DateTime::parse_from_rfc3339(&text).ok().map(|instant| Kind::DateTime(instant.timestamp_millis()))
    } else {
        let date = NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok();
        date.map(|date| Kind::Date(date.and_time(NaiveTime::MIN).and_utc().timestamp_millis()))
    };
    kind.map(|kind| (kind, length)).ok_or_else(|| unexpected(soql, at, &text))
}
