//! A row as REST answers it, into the JSON of a record: the same bytes as from an event.
//!
//! A [`RowPlan`] is made once from describe. It says which fields to ask for, and renders rows by describe's types
//! with the writers that render events. A compound nests under its own name with the component names of the event;
//! the flat fields that repeat its components (`BillingStreet`) are neither asked for nor shown, except those of a
//! name: a row shows the name itself only as one text.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::change::compound_names::{ADDRESS, LOCATION, NAME};
use crate::change::json::{self, JsonObject, ObjectWriter};
use crate::change::object::{FieldDescription, FieldKind, ObjectDescription};
use crate::change::policy::{EntityPolicy, FieldPolicies, Shape};
use crate::change::row_value::{Form, InvalidValue, read_date_time, read_text};

/// The fields that say up to when a row is current, the best first. All objects that have change events have the first.
const TIMES: [&str; 3] = ["SystemModstamp", "LastModifiedDate", "CreatedDate"];

/// A row that cannot be rendered. The text holds no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// It is not an object with members.
    #[error("The row is not an object")]
    NotAnObject,
    /// A value is not what describe says of its field.
    #[error("The value of {field} is not what describe says: {fault}")]
    Value {
        /// The field.
        field: String,
        /// What is wrong.
        fault: InvalidValue,
    },
    /// A field that every row has is not there.
    #[error("The row has no {0}")]
    Missing(&'static str),
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id, 18 characters.
    pub id: String,
    /// Its fields.
    pub record: JsonObject,
    /// `SystemModstamp`, or the best that the object has.
    pub as_of: DateTime<Utc>,
    /// Whether it lies in the recycle bin. False where the object cannot say.
    pub deleted: bool,
}

/// What to ask for of an object and how to render it.
#[derive(Debug)]
pub struct RowPlan {
    object: String,
    fields: Vec<String>,
    /// Place in `fields` by name.
    places: HashMap<String, usize>,
    members: Vec<Member>,
    /// What the names of the members take in a record.
    names_bytes: usize,
    id: usize,
    as_of: usize,
    deleted: Option<usize>,
    /// The first field that the Bulk API does not bring as REST does.
    not_in_csv: Option<String>,
    /// Members whose values are worked out when they are read.
    calculated: HashSet<String>,
    policies: FieldPolicies,
}

/// One member of the record.
#[derive(Debug)]
pub(super) struct Member {
    /// `"name":`
    pub(super) key: Box<str>,
    /// Place of its value.
    pub(super) place: usize,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Plain(Form),
    /// An object in the row, with the components that describe shows.
    Compound(Vec<Component>),
    /// A text in the row, whose components are fields of their own at these places.
    Name(Vec<(Box<str>, usize)>),
}

/// One component of a compound.
#[derive(Debug)]
pub(super) struct Component {
    /// `postalCode` in the row …
    name: String,
    /// … and `"PostalCode":` in the record.
    pub(super) key: Box<str>,
    pub(super) form: Form,
    /// The field that has it by itself, where describe shows one.
    pub(super) flat: Option<String>,
}

impl ObjectDescription {
    /// The field that says up to when a row is current. Without one nobody can tell what was changed.
    pub fn time_field(&self) -> Option<&'static str> {
        TIMES.into_iter().find(|time| self.shows(time))
    }
}

impl RowPlan {
    /// A plan for the members of which `chosen` holds; it is asked about compounds and not about their components. What a
    /// policy leaves out is not asked for.
    ///
    /// # Errors
    /// When describe shows no `Id` or no time, without which a row cannot be placed.
    pub fn new(
        object: &ObjectDescription,
        policies: &FieldPolicies,
        chosen: impl Fn(&FieldDescription) -> bool,
    ) -> Result<Self, RowFault> {
        let known = |name: &str| object.shows(name);
        let time = object.time_field().ok_or(RowFault::Missing(TIMES[0]))?;
        if !known("Id") {
            return Err(RowFault::Missing("Id"));
        }
        let mut plan = Self {
            object: object.name.clone(),
            fields: Vec::new(),
            places: HashMap::new(),
            members: Vec::new(),
            names_bytes: 2,
            id: 0,
            as_of: 0,
            deleted: None,
            not_in_csv: None,
            calculated: HashSet::new(),
            policies: policies.clone(),
        };
        let left_out = |field: &str| policies.of(&object.name).is_some_and(|policy| policy.leaves_out(field));
        for field in &object.fields {
            // A component is shown within its compound. Describe names compounds only where they can be read.
            let nested =
                field.compound_field_name.as_deref().is_some_and(|compound| compound != field.name && known(compound));
            if !nested && !left_out(&field.name) && chosen(field) {
                plan.add(object, field);
            }
        }
        plan.names_bytes += plan.members.iter().map(|member| member.key.len() + 1).sum::<usize>();
        plan.id = plan.place("Id");
        plan.as_of = plan.place(time);
        plan.deleted = known("IsDeleted").then(|| plan.place("IsDeleted"));
        Ok(plan)
    }

    fn add(&mut self, object: &ObjectDescription, field: &FieldDescription) {
        let components: Vec<&str> = object
            .fields
            .iter()
            .filter(|other| other.compound_field_name.as_ref() == Some(&field.name) && other.name != field.name)
            .map(|other| other.name.as_str())
            .collect();
        let flat = |name: &str| components.iter().find(|component| is_component(component, name));
        let compound = |names: &[&str]| {
            let names = names.iter().filter(|name| components.is_empty() || flat(name).is_some());
            let part = |name: &&str| Component::new(name, flat(name).map(|flat| (*flat).to_owned()));
            Content::Compound(names.map(part).collect())
        };
        let content = match field.kind {
            FieldKind::Address => compound(&ADDRESS),
            FieldKind::Location => compound(&LOCATION),
            _ if !components.is_empty() => {
                let known = NAME.into_iter().filter(|name| components.contains(name));
                let other = components.iter().copied().filter(|name| !NAME.contains(name));
                let names: Vec<&str> = known.chain(other).collect();
                Content::Name(names.into_iter().map(|name| (json::key_literal(name), self.place(name))).collect())
            }
            kind => Content::Plain(Form::of(kind)),
        };
        if field.calculated {
            self.calculated.insert(field.name.clone());
        }
        let alone = matches!(&content, Content::Compound(_)) && components.is_empty();
        if alone || matches!(field.kind, FieldKind::Any | FieldKind::Base64) {
            self.not_in_csv.get_or_insert_with(|| field.name.clone());
        }
        let place = self.place(&field.name);
        self.members.push(Member { key: json::key_literal(&field.name), place, content });
    }

    /// The place of a field, which is asked for from now on.
    fn place(&mut self, field: &str) -> usize {
        if let Some(place) = self.places.get(field) {
            return *place;
        }
        let place = self.fields.len();
        self.fields.push(field.to_owned());
        self.places.insert(field.to_owned(), place);
        place
    }

    /// The object.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The fields to ask for.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Whether the value of a member of the record is worked out when it is read.
    pub fn is_calculated(&self, member: &str) -> bool {
        self.calculated.contains(member)
    }

    /// What is kept from whoever reads its records.
    pub(super) fn policy(&self) -> Option<&EntityPolicy> {
        self.policies.of(&self.object)
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The first field that the Bulk API does not bring as REST does.
    pub(super) fn not_in_csv(&self) -> Option<&str> {
        self.not_in_csv.as_deref()
    }

    pub(super) fn id_field(&self) -> &str {
        self.fields.get(self.id).map_or("Id", String::as_str)
    }

    /// The field that says up to when a row is current.
    pub fn time_field(&self) -> &str {
        self.fields.get(self.as_of).map_or(TIMES[0], String::as_str)
    }

    pub(super) fn deleted_field(&self) -> Option<&str> {
        self.fields.get(self.deleted?).map(String::as_str)
    }

    /// The fields of a row that tell whether a record lies in the recycle bin and since when it is as it is, in SOQL's
    /// form; `None` where the object cannot say.
    pub fn trace_fields(&self) -> Option<String> {
        let name = |place: usize| self.fields.get(place).map(String::as_str);
        Some(format!("{}, {}, {}", name(self.id)?, name(self.deleted?)?, name(self.as_of)?))
    }

    /// The same without what the object cannot say: of an object without `IsDeleted` no record is ever seen deleted.
    pub fn listing_fields(&self) -> String {
        self.trace_fields().unwrap_or_else(|| format!("{}, {}", self.id_field(), self.time_field()))
    }

    /// A plan for the same rows without their members: who they are, since when as they are, and whether deleted. `None` where
    /// the object cannot say that.
    pub fn without_members(&self) -> Option<Self> {
        let names = [self.id_field(), self.time_field(), self.deleted_field()?].map(str::to_owned);
        let places = names.iter().cloned().zip(0..).collect();
        Some(Self {
            object: self.object.clone(),
            fields: names.into(),
            places,
            members: Vec::new(),
            names_bytes: 2,
            id: 0,
            as_of: 1,
            deleted: Some(2),
            not_in_csv: None,
            calculated: HashSet::new(),
            policies: self.policies.clone(),
        })
    }

    /// Renders one row. Fields that are not in it count as empty.
    ///
    /// # Errors
    /// When it is not a row of this object.
    pub fn render(&self, row: &str) -> Result<Row, RowFault> {
        let mut json = serde_json::Deserializer::from_str(row);
        self.deserialize(&mut json).map_err(|_| RowFault::NotAnObject)?
    }

    fn render_values(&self, values: &[Option<&RawValue>]) -> Result<Row, RowFault> {
        let value = |place: usize| values.get(place).copied().flatten();
        let fault = |place: usize, fault| {
            let field = self.fields.get(place).cloned().unwrap_or_default();
            RowFault::Value { field, fault }
        };
        let most: usize = values.iter().flatten().map(|value| value.get().len()).sum();
        let mut writer = ObjectWriter::new(self.policy(), self.names_bytes + most);
        for member in &self.members {
            let name = self.fields.get(member.place).map_or("", String::as_str);
            let written = writer.keyed(name, &member.key, Shape::Whole, |out| {
                match &member.content {
                    Content::Plain(form) => form.write(value(member.place), out).map(drop),
                    Content::Compound(components) => write_compound(components, value(member.place), out),
                    Content::Name(components) => {
                        let parts = components.iter().map(|(key, place)| (key, value(*place)));
                        write_name(parts, value(member.place), out)
                    }
                }
                .map(|()| true)
            });
            written.map_err(|found| fault(member.place, found))?;
        }
        let filled = |place: usize| value(place).filter(|value| value.get() != "null");
        let text = |place: usize| filled(place).map(read_text).transpose().map_err(|found| fault(place, found));
        let id = text(self.id)?.filter(|id| !id.is_empty()).ok_or(RowFault::Missing("Id"))?;
        let as_of = text(self.as_of)?.filter(|time| !time.is_empty()).ok_or(RowFault::Missing("SystemModstamp"))?;
        let deleted = self.deleted.and_then(value).is_some_and(|deleted| deleted.get() == "true");
        Ok(Row {
            id: crate::identity::case_safe_id(&id).into_owned(),
            record: writer.finish(),
            as_of: read_date_time(&as_of).map_err(|found| fault(self.as_of, found))?,
            deleted,
        })
    }
}

/// One row in the midst of others: what is wrong with its values is no fault of theirs.
impl<'de> DeserializeSeed<'de> for &RowPlan {
    type Value = Result<Row, RowFault>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let values = Values { places: &self.places, names: &self.fields }.deserialize(deserializer)?;
        Ok(self.render_values(&values))
    }
}

/// Whether a flat field is the component of this name: `BillingStreet`, `Street`, `Home__Street__s`.
fn is_component(field: &str, name: &str) -> bool {
    field.strip_suffix("__s").unwrap_or(field).ends_with(name)
}

impl Component {
    fn new(name: &str, flat: Option<String>) -> Self {
        let number = matches!(name, "Latitude" | "Longitude");
        let mut in_row = name.to_owned();
        in_row.get_mut(..1).into_iter().for_each(str::make_ascii_lowercase);
        let form = if number { Form::Decimal } else { Form::Text };
        Self { name: in_row, key: json::key_literal(name), form, flat }
    }
}

/// An address or a geolocation; `null` when no component has a value.
fn write_compound(components: &[Component], value: Option<&RawValue>, out: &mut String) -> Result<(), InvalidValue> {
    let Some(value) = value.filter(|value| value.get() != "null") else {
        out.push_str("null");
        return Ok(());
    };
    let parts: HashMap<Cow<'_, str>, &RawValue> =
        serde_json::from_str(value.get()).map_err(|_| InvalidValue::NotACompound)?;
    let before = out.len();
    let mut any = false;
    out.push('{');
    for component in components {
        json::write_key(&component.key, out);
        any |= component.form.write(parts.get(component.name.as_str()).copied(), out)?;
    }
    out.push('}');
    if !any {
        out.truncate(before);
        out.push_str("null");
    }
    Ok(())
}

/// A person's name by its components; where none has a value, the name of something else, a text.
fn write_name<'a>(
    components: impl Iterator<Item = (&'a Box<str>, Option<&'a RawValue>)>,
    value: Option<&RawValue>,
    out: &mut String,
) -> Result<(), InvalidValue> {
    let before = out.len();
    let mut any = false;
    out.push('{');
    for (key, part) in components {
        json::write_key(key, out);
        any |= Form::Text.write(part, out)?;
    }
    out.push('}');
    if !any {
        out.truncate(before);
        Form::Text.write(value, out)?;
    }
    Ok(())
}

/// Sorts the members of one row to their places, without a copy.
struct Values<'p> {
    places: &'p HashMap<String, usize>,
    names: &'p [String],
}

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.names.len()];
        // Salesforce answers in the order it was asked, so the next name is nearly always the next field.
        let mut next = 0;
        while let Some(name) = map.next_key::<&str>()? {
            let value = map.next_value::<&RawValue>()?;
            let expected = self.names.get(next).is_some_and(|expected| expected == name);
            let place = if expected { Some(next) } else { self.places.get(name).copied() };
            if let Some(place) = place {
                next = place + 1;
                if let Some(slot) = values.get_mut(place) {
                    *slot = Some(value);
                }
            }
        }
        Ok(values)
    }
}
