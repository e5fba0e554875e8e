//! The part of SOQL that the org understands, read strictly.
//!
//! `SELECT` fields or `COUNT()`, `FROM` one object, `WHERE` with comparisons, `IN`, `NOT IN`,
//! `AND`, `OR` and parentheses, `ORDER BY`, `LIMIT`. Everything else of the language is
//! `MALFORMED_QUERY` here, so that a client that uses it is noticed.
//!
//! | file | holds |
//! |---|---|
//! | `tokens` | text to tokens |
//! | `parser` | tokens to a statement of names and literals |
//! | `resolve` | the statement against an object's fields and the user's rights |
//! | `filter` | which rows it finds, in which order |

mod filter;
pub(crate) mod parser;
mod resolve;
mod tokens;

#[cfg(test)]
mod tests;

pub(crate) use resolve::{Query, Selected, resolve, unsupported};

/// The longest statement, in characters.
const LONGEST: usize = 100_000;

/// A statement that cannot be run, as Salesforce says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueryError {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl QueryError {
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self { code: "MALFORMED_QUERY", message: message.into() }
    }

    /// An error with the place it was found at (characters from 0) pointed out.
    pub(crate) fn at(soql: &str, place: usize, code: &'static str, message: &str) -> Self {
        let before: Vec<char> = soql.chars().take(place).collect();
        let row = before.iter().filter(|character| **character == '\n').count() + 1;
        let column = before.iter().rev().take_while(|character| **character != '\n').count() + 1;
        let line = soql.lines().nth(row - 1).unwrap_or_default();
        let pointer = " ".repeat(column - 1);
        Self { code, message: format!("\n{line}\n{pointer}^\nERROR at Row:{row}:Column:{column}\n{message}") }
    }
}

/// Reads a statement without looking at what it names.
pub(crate) fn parse(soql: &str) -> Result<parser::Statement, QueryError> {
    if soql.chars().count() > LONGEST {
        return Err(QueryError::malformed(format!("SOQL statements cannot be longer than {LONGEST} characters.")));
    }
    parser::parse(soql, &tokens::read(soql)?)
}
