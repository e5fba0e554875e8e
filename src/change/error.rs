//! What can be wrong with a schema or an event.
//!
//! Neither text holds any value of the payload: errors are logged, payloads are not.

use crate::change::bitmap::{BitmapFault, BitmapList};
use crate::change::render::{DecimalTooLong, OutOfRange};
use crate::failure::{Exit, Failure};

/// A schema that no event can be decoded with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// It is no JSON, or no Avro schema.
    #[error("The event schema cannot be parsed: {0}")]
    Invalid(String),
    /// It is an Avro schema, but of something else than a record.
    #[error("The event schema is not a record.")]
    NotARecord,
    /// The ChangeEventHeader is not as Salesforce documents it.
    #[error("The ChangeEventHeader of schema {schema} is not as expected: {reason}.")]
    Header {
        /// The record name of the schema.
        schema: String,
        /// What is different.
        reason: String,
    },
    /// It uses a type that has no rendering.
    #[error("The event schema has a type that cannot be rendered: {0}.")]
    Unsupported(String),
}

impl SchemaError {
    /// What an operator has to know.
    pub fn failure(&self) -> Failure {
        Failure::new(
            Exit::Software,
            self.to_string(),
            "Salesforce has changed the form of its event schemas, or something else answered in its place. \
             Check `[salesforce.pubsub] endpoint`; if it is Salesforce's, this version of casewire has to be upgraded",
        )
    }
}

/// An event that cannot be decoded with the schema it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The event cannot be decoded at byte {offset}{}: {fault}", in_field(.field))]
pub struct DecodeError {
    /// What is wrong.
    pub fault: DecodeFault,
    /// The field of the event in which it was found; a header field by its own name. `None`: between fields.
    pub field: Option<String>,
    /// How many bytes of the payload had been read.
    pub offset: usize,
}

fn in_field(field: &Option<String>) -> String {
    field.as_ref().map(|field| format!(" in {field}")).unwrap_or_default()
}

impl DecodeError {
    /// What an operator has to know when such an event stops a stream.
    pub fn failure(&self) -> Failure {
        Failure::new(
            Exit::Software,
            self.to_string(),
            "The position stays before this event, so nothing is lost. Let undecodable events become dead letters to go on, \
             and report the schema id and this message",
        )
    }
}

/// What is wrong with a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    /// The payload ends within a value.
    #[error("The payload ends within a value.")]
    EndOfPayload,
    /// Bytes are left after the last field.
    #[error("{0} bytes are left after the last field.")]
    TrailingBytes(usize),
    /// A variable-length integer does not end within 64 bits.
    #[error("An integer is longer than 64 bits.")]
    OverlongInteger,
    /// A value of type `int` does not fit into 32 bits.
    #[error("An int does not fit into 32 bits.")]
    IntOutOfRange,
    /// A length or a block size is negative or larger than what is left of the payload.
    #[error("A length is negative or larger than the rest of the payload.")]
    Length,
    /// A boolean is neither 0 nor 1.
    #[error("A boolean is neither 0 nor 1.")]
    Boolean,
    /// A string is not UTF-8.
    #[error("A string is not UTF-8.")]
    InvalidUtf8,
    /// A union has no such branch.
    #[error("A union has no branch {0}.")]
    UnionBranch(i64),
    /// An enum has no such symbol.
    #[error("An enum has no symbol {0}.")]
    EnumSymbol(i64),
    /// Values are nested deeper than any event needs.
    #[error("Values are nested too deeply.")]
    TooDeep,
    /// More values than the length of the payload allows: items that take no bytes.
    #[error("The payload holds more values than its length allows.")]
    TooManyValues,
    /// The rendered text grows beyond any event.
    #[error("The rendered event is too large.")]
    TooLarge,
    /// A map has the same key twice.
    #[error("A map has the same key twice.")]
    DuplicateKey,
    /// A date or time cannot be rendered.
    #[error(transparent)]
    Time(#[from] OutOfRange),
    /// A decimal cannot be rendered.
    #[error(transparent)]
    Decimal(#[from] DecimalTooLong),
    /// The header names no record, so that the change would reach nobody.
    #[error("The header names no record.")]
    NoRecordIds,
    /// A field list of the header does not fit the schema.
    #[error("{list} does not fit the schema: {fault}")]
    Bitmap {
        /// Which of the three.
        list: BitmapList,
        /// What is wrong with it.
        fault: BitmapFault,
    },
    /// A field that diffFields names holds something else than text.
    #[error("diffFields names a field that is not a text.")]
    DiffOfNonText,
}
