//! What a change event means; no I/O.
//!
//! An event arrives as bare Avro bytes and the id of the schema they were written with. A
//! [`WriterSchema`] turns them into a [`Change`] in one pass, straight into JSON text.
//!
//! | file | holds |
//! |---|---|
//! | `schema` | the writer schema: parsed once, then an immutable decode plan |
//! | `schema_json` | the JSON of a schema, reduced to what decoding needs |
//! | `fingerprint` | Parsing Canonical Form and the id that Salesforce derives from it |
//! | `plan` | the compiled form of an Avro type: what to read and how to render it |
//! | `avro_binary` | Avro's binary encoding, read within bounds |
//! | `decode` | the single pass over a payload, header then body, and the change that comes out |
//! | `value` | one value: from its Avro bytes to its JSON text |
//! | `field_lists` | which part of a change a field's value belongs to |
//! | `header` | the ChangeEventHeader: change types, record ids |
//! | `bitmap` | changedFields, nulledFields and diffFields |
//! | `render` | the one rendering of values, whatever brought them |
//! | `object` | what describe says of an object and its fields |
//! | `row` | a row as REST answers it, into the same JSON as from an event |
//! | `csv_row` | the same of a row of the Bulk API's CSV |
//! | `row_value` | one value of a row |
//! | `json` | objects that are JSON text already |
//! | `policy` | what is kept from readers: dropped, hashed or masked fields |
//! | `compound_names` | the flat fields that repeat the components of compounds |
//! | `text_diff` | the unified diff that stands for a long text |
//! | `error` | what can be wrong with a schema or an event, and what mends it |

mod avro_binary;
mod bitmap;
mod compound_names;
mod csv_row;
mod decode;
mod error;
mod field_lists;
mod fingerprint;
mod header;
mod json;
mod object;
mod plan;
mod policy;
pub mod render;
mod row;
mod row_value;
mod schema;
mod schema_json;
#[cfg(test)]
mod tests;
pub mod text_diff;
mod value;

pub use bitmap::{BitmapFault, BitmapList};
pub use csv_row::CsvPlan;
pub use decode::{Change, TextDiff};
pub use error::{DecodeError, DecodeFault, SchemaError};
pub use header::{ChangeType, Header, OVERFLOW_RECORD_ID, RecordIdKind};
pub use json::{JsonObject, ObjectWriter};
pub use object::{FieldDescription, FieldKind, ObjectDescription};
pub use policy::{EntityPolicy, FieldPolicies, HashKey, Shape, Treatment};
pub use row::{Row, RowFault, RowPlan};
pub use row_value::InvalidValue;
pub use schema::WriterSchema;
