//! The compiled form of a writer schema: for each value, how to read it and how to render it.
//!
//! How a value is rendered is said by the `doc` of its field, which Salesforce writes as
//! `<Role>:<Type>` (`Data:DateTime`, `CreatedDate:DateTime`, `Data:MultiEnum:00N…`), never by its name.
//! Records live in one table and are referred to by index, because a named type may be used
//! many times and may contain itself.

use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, Name, RecordSchema};

use crate::change::error::SchemaError;
use crate::change::json;
use crate::change::render::{self, OutOfRange, Precision, Zone};

/// Where a record stands in the table of its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordIndex(usize);

/// One value.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Null,
    Boolean,
    Integer {
        width: Width,
        form: IntegerForm,
    },
    Float,
    Double,
    Bytes,
    Fixed(usize),
    /// `size` is set for a decimal in a fixed.
    Decimal {
        size: Option<usize>,
        scale: usize,
    },
    Text,
    MultiSelect,
    Enum(Arc<[String]>),
    Array(Box<Node>),
    Map(Box<Node>),
    Union(Box<[Node]>),
    Record(RecordIndex),
}

/// The Avro type behind a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Int,
    Long,
}

/// What a whole number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntegerForm {
    Number,
    DateTime(Precision, Zone),
    /// Milliseconds since 1970 of a midnight in UTC.
    Date,
    /// Days since 1970.
    Day,
    Time(Precision, Zone),
}

impl IntegerForm {
    pub(crate) fn write(self, value: i64, out: &mut String) -> Result<(), OutOfRange> {
        match self {
            Self::Number => {
                render::write_integer(value, out);
                Ok(())
            }
            Self::DateTime(precision, zone) => render::write_timestamp(value, precision, zone, out),
            Self::Date => render::write_date(value, out),
            Self::Day => render::write_day(value, out),
            Self::Time(precision, zone) => render::write_time_of_day(value, precision, zone, out),
        }
    }
}

/// A field of a record.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: Box<str>,
    /// `"name":`
    pub(crate) key: Box<str>,
    pub(crate) node: Node,
    /// The record branch of the field, if it is a compound.
    pub(crate) compound: Option<RecordIndex>,
}

/// A record.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

/// The records of one schema.
#[derive(Debug)]
pub(crate) struct Records(Vec<Record>);

impl Records {
    /// The record at an index that this table's own compilation gave out.
    pub(crate) fn get(&self, index: RecordIndex) -> &Record {
        &self.0[index.0]
    }
}

/// Compiles a schema whose top is a record; that record's index comes with the table.
pub(crate) fn compile(schema: &Schema) -> Result<(Records, RecordIndex), SchemaError> {
    let Schema::Record(top) = schema else {
        return Err(SchemaError::NotARecord);
    };
    let mut compiler = Compiler { records: Vec::new(), names: HashMap::new() };
    let top = compiler.record(top, "")?;
    Ok((Records(compiler.records), top))
}

/// What the `doc` of a field says about its value.
#[derive(Debug, Clone, Copy)]
enum DocumentedType {
    Plain,
    DateTime,
    Date,
    Time,
    MultiSelect,
}

impl DocumentedType {
    fn of(doc: Option<&str>) -> Self {
        match doc.and_then(|doc| doc.split(':').nth(1)) {
            Some("DateTime") => Self::DateTime,
            Some("DateOnly" | "Birthday") => Self::Date,
            Some("TimeOnly") => Self::Time,
            Some("MultiEnum") => Self::MultiSelect,
            _ => Self::Plain,
        }
    }

    fn integer_form(self) -> IntegerForm {
        match self {
            Self::DateTime => IntegerForm::DateTime(Precision::Milliseconds, Zone::Utc),
            Self::Date => IntegerForm::Date,
            Self::Time => IntegerForm::Time(Precision::Milliseconds, Zone::Utc),
            Self::Plain | Self::MultiSelect => IntegerForm::Number,
        }
    }

    fn text(self) -> Node {
        if matches!(self, Self::MultiSelect) { Node::MultiSelect } else { Node::Text }
    }
}

struct Compiler {
    records: Vec<Record>,
    names: HashMap<String, Node>,
}

impl Compiler {
    fn record(&mut self, schema: &RecordSchema, namespace: &str) -> Result<RecordIndex, SchemaError> {
        let name = full_name(&schema.name, namespace);
        let inner = name.rsplit_once('.').map_or("", |(inner, _)| inner).to_owned();
        let index = RecordIndex(self.records.len());
        self.records.push(Record { name: schema.name.name.clone(), fields: Vec::new() });
        self.names.insert(name, Node::Record(index));
        let mut fields = Vec::with_capacity(schema.fields.len());
        for field in &schema.fields {
            let node = self.node(&field.schema, &inner, DocumentedType::of(field.doc.as_deref()))?;
            let compound = match &node {
                Node::Record(index) => Some(*index),
                Node::Union(branches) => branches.iter().find_map(|branch| match branch {
                    Node::Record(index) => Some(*index),
                    _ => None,
                }),
                _ => None,
            };
            fields.push(Field {
                key: json::key_literal(&field.name),
                name: field.name.as_str().into(),
                node,
                compound,
            });
        }
        self.records[index.0].fields = fields;
        Ok(index)
    }

    fn node(&mut self, schema: &Schema, namespace: &str, documented: DocumentedType) -> Result<Node, SchemaError> {
        Ok(match schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Boolean,
            Schema::Int => Node::Integer { width: Width::Int, form: documented.integer_form() },
            Schema::Long => Node::Integer { width: Width::Long, form: documented.integer_form() },
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes => Node::Bytes,
            Schema::String => documented.text(),
            Schema::Array(array) => Node::Array(Box::new(self.node(&array.items, namespace, documented)?)),
            Schema::Map(map) => Node::Map(Box::new(self.node(&map.types, namespace, documented)?)),
            Schema::Union(union) => {
                let branches = union.variants().iter().map(|branch| self.node(branch, namespace, documented));
                Node::Union(branches.collect::<Result<_, _>>()?)
            }
            Schema::Record(record) => Node::Record(self.record(record, namespace)?),
            Schema::Enum(symbols) => {
                let node = Node::Enum(symbols.symbols.as_slice().into());
                self.names.insert(full_name(&symbols.name, namespace), node.clone());
                node
            }
            Schema::Fixed(fixed) => {
                self.names.insert(full_name(&fixed.name, namespace), Node::Fixed(fixed.size));
                Node::Fixed(fixed.size)
            }
            Schema::Decimal(decimal) => self.decimal(decimal, namespace)?,
            Schema::Ref { name } => {
                let name = full_name(name, namespace);
                let known = self.names.get(&name).cloned();
                known.ok_or_else(|| SchemaError::Invalid(format!("the type {name} is used but not defined")))?
            }
            logical => logical_integer(logical)?,
        })
    }

    fn decimal(&mut self, decimal: &DecimalSchema, namespace: &str) -> Result<Node, SchemaError> {
        if decimal.scale > render::MAX_DECIMAL_DIGITS {
            return Err(SchemaError::Unsupported(format!("a decimal with {} digits after the point", decimal.scale)));
        }
        let size = match &*decimal.inner {
            Schema::Fixed(fixed) => Some(fixed.size),
            _ => None,
        };
        let node = Node::Decimal { size, scale: decimal.scale };
        if let Schema::Fixed(fixed) = &*decimal.inner {
            self.names.insert(full_name(&fixed.name, namespace), node.clone());
        }
        Ok(node)
    }
}

/// Salesforce's schemas have no logical types; those of the calendar have an obvious rendering.
fn logical_integer(schema: &Schema) -> Result<Node, SchemaError> {
    let (width, form) = match schema {
        Schema::Date => (Width::Int, IntegerForm::Day),
        Schema::TimeMillis => (Width::Int, IntegerForm::Time(Precision::Milliseconds, Zone::Utc)),
        Schema::TimeMicros => (Width::Long, IntegerForm::Time(Precision::Microseconds, Zone::Utc)),
        Schema::TimestampMillis => (Width::Long, IntegerForm::DateTime(Precision::Milliseconds, Zone::Utc)),
        Schema::TimestampMicros => (Width::Long, IntegerForm::DateTime(Precision::Microseconds, Zone::Utc)),
        Schema::TimestampNanos => (Width::Long, IntegerForm::DateTime(Precision::Nanoseconds, Zone::Utc)),
        Schema::LocalTimestampMillis => (Width::Long, IntegerForm::DateTime(Precision::Milliseconds, Zone::Local)),
        Schema::LocalTimestampMicros => (Width::Long, IntegerForm::DateTime(Precision::Microseconds, Zone::Local)),
        Schema::LocalTimestampNanos => (Width::Long, IntegerForm::DateTime(Precision::Nanoseconds, Zone::Local)),
        other => return Err(SchemaError::Unsupported(format!("{other:?}"))),
    };
    Ok(Node::Integer { width, form })
}

fn full_name(name: &Name, enclosing: &str) -> String {
    match name.namespace.as_deref().unwrap_or(enclosing) {
        "" => name.name.clone(),
        namespace => format!("{namespace}.{}", name.name),
    }
}
