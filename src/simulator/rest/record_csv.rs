//! Records as the Bulk API writes them in CSV: every value in quotes, null as nothing.

use crate::simulator::bulk_jobs::Dialect;
use crate::simulator::columns::{Cells, Column};
use crate::simulator::objects::{Kind, Object};
use crate::simulator::record_store::{RecordKey, Row};
use crate::simulator::settings::BulkDateTime;
use crate::simulator::value::Value;

use super::record_json;

/// The header row and the records; the header alone when there are none.
pub(super) fn page(
    object: &Object,
    columns: &[&Column],
    rows: &[(RecordKey, Row)],
    dialect: Dialect,
    date_time: BulkDateTime,
) -> Result<Vec<u8>, csv::Error> {
    let terminator = if dialect.carriage_return { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
    let mut builder = csv::WriterBuilder::new();
    builder.quote_style(csv::QuoteStyle::Always).delimiter(dialect.delimiter).terminator(terminator);
    let mut writer = builder.from_writer(Vec::new());
    writer.write_record(columns.iter().map(|column| column.name.as_str()))?;
    for (key, row) in rows {
        let cells = Cells::new(object, key, row);
        for column in columns {
            let value = cells.get(column);
            writer.write_field(value.map_or_else(String::new, |value| text(column.kind, &value, date_time)))?;
        }
        writer.write_record(None::<&[u8]>)?;
    }
    writer.into_inner().map_err(|error| error.into_error().into())
}

fn text(kind: Kind, value: &Value, date_time: BulkDateTime) -> String {
    let text = match value {
        Value::Flag(flag) => Some(flag.to_string()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Number(number) => record_json::double(*number),
        value => record_json::text(kind, value),
    };
    let text = text.unwrap_or_default();
    match (kind, date_time) {
        (Kind::DateTime | Kind::CreatedDate, BulkDateTime::Zulu) => text.replace("+0000", "Z"),
        _ => text,
    }
}
