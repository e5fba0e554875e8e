//! A row as the Bulk API writes it in CSV, into the same JSON as from an event and from REST.
//!
//! Bulk takes no compounds, so their flat fields are asked for and put together here. An empty cell is `null`: CSV does not
//! tell it from an empty text, and neither does the one rendering. What a cell cannot say is not read over Bulk at all:
//! values that say themselves what they are (`anyType`), and files.

use std::sync::Arc;

use crate::change::json::{self, ObjectWriter};
use crate::change::policy::Shape;
use crate::change::row::{Content, Row, RowFault, RowPlan};
use crate::change::row_value::{Form, InvalidValue, read_date_time};

/// What to ask Bulk for of an object, and how to render the rows of its CSV.
#[derive(Debug)]
pub struct CsvPlan {
    plan: Arc<RowPlan>,
    columns: Vec<String>,
    members: Vec<Cells>,
    id: usize,
    as_of: usize,
    deleted: Option<usize>,
}

/// The cells of one member of the record; numbers are places in `columns`.
#[derive(Debug)]
enum Cells {
    Plain(Form, usize),
    Compound(Vec<(Form, usize)>),
    Name(Vec<usize>, usize),
}

impl CsvPlan {
    /// A plan for the same members as `plan`.
    ///
    /// # Errors
    /// The name of the first field that CSV cannot bring as REST would.
    pub fn new(plan: Arc<RowPlan>) -> Result<Self, String> {
        if let Some(field) = plan.not_in_csv() {
            return Err(field.to_owned());
        }
        let mut columns: Vec<String> = Vec::new();
        let mut column = |name: &str| {
            columns.iter().position(|known| known == name).unwrap_or_else(|| {
                columns.push(name.to_owned());
                columns.len() - 1
            })
        };
        let field = |place: usize| plan.fields().get(place).cloned().unwrap_or_default();
        let mut members = Vec::new();
        for member in plan.members() {
            members.push(match &member.content {
                Content::Plain(form) => Cells::Plain(*form, column(&field(member.place))),
                Content::Compound(components) => {
                    let flat =
                        components.iter().map(|part| (part.form, column(part.flat.as_deref().unwrap_or_default())));
                    Cells::Compound(flat.collect())
                }
                Content::Name(components) => {
                    let parts = components.iter().map(|(_, place)| column(&field(*place))).collect();
                    Cells::Name(parts, column(&field(member.place)))
                }
            });
        }
        let [id, as_of] = [plan.id_field(), plan.time_field()].map(&mut column);
        let deleted = plan.deleted_field().map(&mut column);
        Ok(Self { columns, members, id, as_of, deleted, plan })
    }

    /// The fields to select, in this order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The object.
    pub fn object(&self) -> &str {
        self.plan.object()
    }

    /// The field that says up to when a row is current.
    pub fn time_field(&self) -> &str {
        self.plan.time_field()
    }

    /// The id in a row, for one that cannot be rendered.
    pub fn id<'r>(&self, cell: impl Fn(usize) -> &'r str) -> String {
        crate::identity::case_safe_id(cell(self.id)).into_owned()
    }

    /// Renders one row; `cell` gives the text at a place of [`columns`](Self::columns).
    ///
    /// # Errors
    /// When it is not a row of this object.
    pub fn render<'r>(&self, cell: impl Fn(usize) -> &'r str) -> Result<Row, RowFault> {
        // Quotes, what is escaped, and names of components; most rows need less, and none is copied as it grows.
        let values: usize = (0..self.columns.len()).map(|column| cell(column).len()).sum();
        let names: usize = self.columns.iter().map(|name| name.len() + 6).sum();
        let mut writer = ObjectWriter::new(self.plan.policy(), names + values + values / 16);
        for (member, cells) in self.plan.members().iter().zip(&self.members) {
            let field = self.plan.fields().get(member.place).map_or("", String::as_str);
            let written = writer.keyed(field, &member.key, Shape::Whole, |out| {
                match (&member.content, cells) {
                    (Content::Compound(components), Cells::Compound(parts)) => {
                        let keys = components.iter().map(|part| &part.key);
                        let parts = keys.zip(parts).map(|(key, (form, place))| (key, *form, cell(*place)));
                        write_parts(parts, out).map(drop)
                    }
                    (Content::Name(components), Cells::Name(parts, whole)) => {
                        let keys = components.iter().map(|(key, _)| key);
                        let parts = keys.zip(parts).map(|(key, place)| (key, Form::Text, cell(*place)));
                        write_name(parts, cell(*whole), out)
                    }
                    (_, Cells::Plain(form, place)) => form.write_text(cell(*place), out).map(drop),
                    _ => Err(InvalidValue::NotACompound),
                }
                .map(|()| true)
            });
            written.map_err(|fault| RowFault::Value { field: field.to_owned(), fault })?;
        }
        let filled =
            |place: usize, name| Some(cell(place)).filter(|text| !text.is_empty()).ok_or(RowFault::Missing(name));
        let as_of = filled(self.as_of, "SystemModstamp")?;
        let time = |fault| RowFault::Value { field: self.time_field().to_owned(), fault };
        Ok(Row {
            id: crate::identity::case_safe_id(filled(self.id, "Id")?).into_owned(),
            record: writer.finish(),
            as_of: read_date_time(as_of).map_err(time)?,
            deleted: self.deleted.is_some_and(|place| cell(place) == "true"),
        })
    }
}

/// The components of a compound; `null` when none has a value. Returns whether one has.
fn write_parts<'a>(
    parts: impl Iterator<Item = (&'a Box<str>, Form, &'a str)>,
    out: &mut String,
) -> Result<bool, InvalidValue> {
    let before = out.len();
    let mut any = false;
    out.push('{');
    for (key, form, text) in parts {
        json::write_key(key, out);
        any |= form.write_text(text, out)?;
    }
    out.push('}');
    if !any {
        out.truncate(before);
        out.push_str("null");
    }
    Ok(any)
}

/// A person's name by its components; where none has a value, the name of something else, a text.
fn write_name<'a>(
    parts: impl Iterator<Item = (&'a Box<str>, Form, &'a str)>,
    whole: &str,
    out: &mut String,
) -> Result<(), InvalidValue> {
    let before = out.len();
    if !write_parts(parts, out)? {
        out.truncate(before);
        Form::Text.write_text(whole, out)?;
    }
    Ok(())
}
