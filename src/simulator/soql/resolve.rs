//! A statement against an object: names become fields that the user may see, literals
//! must be of their types.

use super::QueryError;
use super::parser::{self, Constant, Literal, Name, Operator, Statement};
use crate::simulator::columns::{Column, Source};
use crate::simulator::objects::{Avro, Kind, Object};
use crate::simulator::record_store::RecordKey;

/// What a query answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selected {
    Count,
    /// Indexes into the columns.
    Columns(Vec<usize>),
}

/// A value to compare with. Texts are in lower case, because SOQL compares without regard to it.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub(crate) enum Comparand {
    Null,
    Flag(bool),
    Number(f64),
    Long(i64),
    Text(String),
    Key(RecordKey),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Compare { column: usize, operator: Operator, comparands: Vec<Comparand> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) column: usize,
    pub(crate) descending: bool,
    pub(crate) nulls_last: bool,
}

/// A query that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// Every field that the user may see.
    pub(crate) columns: Vec<Column>,
    pub(crate) selected: Selected,
    pub(crate) condition: Option<Condition>,
    pub(crate) order: Vec<Order>,
    pub(crate) limit: Option<usize>,
}

const USE_CUSTOM_FIELD: &str = "If you are attempting to use a custom field, be sure to append the '__c' after the custom field name. \
     Please reference your WSDL or the describe call for the appropriate names.";

/// The refusal of an object that is not there for the user.
pub(crate) fn unsupported(soql: &str, object: &Name) -> QueryError {
    let message = format!(
        "sObject type '{}' is not supported. If you are attempting to use a custom object, be sure to append the '__c' \
         after the entity name. Please reference your WSDL or the describe call for the appropriate names.",
        object.text
    );
    QueryError::at(soql, object.at, "INVALID_TYPE", &message)
}

/// Finds every name of the statement among the columns that the user may see.
pub(crate) fn resolve(
    soql: &str,
    statement: &Statement,
    object: &Object,
    columns: Vec<Column>,
) -> Result<Query, QueryError> {
    let scope = Scope { soql, object, columns: &columns };
    let selected = match &statement.fields {
        None => Selected::Count,
        Some(names) => {
            let mut selected = Vec::with_capacity(names.len());
            for name in names {
                let column = scope.column(name)?;
                if selected.contains(&column) {
                    let message = format!("duplicate field selected: {}", columns[column].name);
                    return Err(QueryError::at(soql, name.at, "MALFORMED_QUERY", &message));
                }
                selected.push(column);
            }
            Selected::Columns(selected)
        }
    };
    let condition = statement.condition.as_ref().map(|condition| scope.condition(condition)).transpose()?;
    let order = statement.order.iter().map(|order| scope.order(order)).collect::<Result<_, _>>()?;
    Ok(Query { selected, condition, order, limit: statement.limit, columns })
}

struct Scope<'a> {
    soql: &'a str,
    object: &'a Object,
    columns: &'a [Column],
}

impl Scope<'_> {
    fn column(&self, name: &Name) -> Result<usize, QueryError> {
        let found = self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(&name.text));
        if let Some((relationship, _)) = name.text.split_once('.').filter(|_| found.is_none()) {
            let message = format!(
                "Didn't understand relationship '{relationship}' in field path. If you are attempting to use a custom \
                 relationship, be sure to append the '__r' after the custom relationship name. Please reference your WSDL \
                 or the describe call for the appropriate names."
            );
            return Err(QueryError::at(self.soql, name.at, "INVALID_FIELD", &message));
        }
        found.ok_or_else(|| {
            let message =
                format!("No such column '{}' on entity '{}'. {USE_CUSTOM_FIELD}", name.text, self.object.name);
            QueryError::at(self.soql, name.at, "INVALID_FIELD", &message)
        })
    }

    fn condition(&self, condition: &parser::Condition) -> Result<Condition, QueryError> {
        let all = |inner: &[parser::Condition]| inner.iter().map(|one| self.condition(one)).collect::<Result<_, _>>();
        Ok(match condition {
            parser::Condition::All(inner) => Condition::All(all(inner)?),
            parser::Condition::Any(inner) => Condition::Any(all(inner)?),
            parser::Condition::Compare { field, operator, literals } => {
                let at = self.column(field)?;
                let column = &self.columns[at];
                if !column.is_filterable() {
                    let message = format!("field '{}' can not be filtered in a query call", column.name);
                    return Err(QueryError::at(self.soql, field.at, "INVALID_FIELD", &message));
                }
                let comparands = literals.iter().map(|literal| self.comparand(column, literal));
                let comparands = comparands.collect::<Result<_, _>>()?;
                Condition::Compare { column: at, operator: *operator, comparands }
            }
        })
    }

    fn order(&self, order: &parser::Order) -> Result<Order, QueryError> {
        let column = self.column(&order.field)?;
        if !self.columns[column].is_filterable() {
            let message = format!("field '{}' can not be sorted in a query call", self.columns[column].name);
            return Err(QueryError::at(self.soql, order.field.at, "MALFORMED_QUERY", &message));
        }
        Ok(Order { column, descending: order.descending, nulls_last: order.nulls_last })
    }

    fn comparand(&self, column: &Column, literal: &Literal) -> Result<Comparand, QueryError> {
        let reference = matches!(column.kind, Kind::Reference(_)) || column.source == Source::Id;
        Ok(match (&literal.value, column.kind.avro(), column.kind) {
            (Constant::Null, ..) => Comparand::Null,
            (Constant::Text(text), Avro::String, _) if reference => {
                // An empty text stands for no record.
                let key =
                    if text.is_empty() { Some(Comparand::Null) } else { RecordKey::parse(text).map(Comparand::Key) };
                key.ok_or_else(|| {
                    let message = format!("invalid ID field: {text}");
                    QueryError::at(self.soql, literal.at, "INVALID_QUERY_FILTER_OPERATOR", &message)
                })?
            }
            (Constant::Text(text), Avro::String, _) if text.is_empty() => Comparand::Null,
            (Constant::Text(text), Avro::String, _) => Comparand::Text(text.to_lowercase()),
            (Constant::Flag(flag), Avro::Boolean, _) => Comparand::Flag(*flag),
            (Constant::Number(number), Avro::Int | Avro::Double, _) => Comparand::Number(*number),
            (Constant::DateTime(millis), _, Kind::DateTime | Kind::CreatedDate) => Comparand::Long(*millis),
            (Constant::Date(millis), _, Kind::Date) => Comparand::Long(*millis),
            (value, ..) => {
                let quotes = match (value, column.kind.avro()) {
                    (Constant::Text(_), _) => " and should not be enclosed in quotes",
                    (_, Avro::String) => " and should be enclosed in quotes",
                    _ => "",
                };
                let wanted = soap_name(column);
                let message =
                    format!("value of filter criterion for field '{}' must be of type {wanted}{quotes}", column.name);
                return Err(QueryError::at(self.soql, literal.at, "INVALID_FIELD", &message));
            }
        })
    }
}

/// The type as error messages call it.
fn soap_name(column: &Column) -> &'static str {
    match (column.kind.avro(), column.kind) {
        (_, Kind::DateTime | Kind::CreatedDate) => "dateTime",
        (_, Kind::Date) => "date",
        (_, Kind::Time) => "time",
        (Avro::Boolean, _) => "boolean",
        (Avro::Int, _) => "int",
        (Avro::Double, _) => "double",
        _ => "string",
    }
}
