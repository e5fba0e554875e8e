//! A writer schema: parsed once when an event first names it, then an immutable plan for decoding.

use apache_avro::Schema;
use serde_json::Value;

use crate::change::bitmap::BitmapList;
use crate::change::compound_names::component_of;
use crate::change::decode::{self, Change};
use crate::change::error::{DecodeError, SchemaError};
use crate::change::fingerprint;
use crate::change::header::{ChangeType, Header};
use crate::change::plan::{self, IntegerForm, Node, Record, RecordIndex, Records};
use crate::change::policy::FieldPolicies;
use crate::change::render::{Precision, Zone};
use crate::change::schema_json;
use crate::identity::SchemaId;

/// The name of the record that change events carry at position 0, and platform events do not.
const HEADER: &str = "ChangeEventHeader";

/// The schema that an event was written with.
#[derive(Debug)]
pub struct WriterSchema {
    id: SchemaId,
    name: String,
    header: Option<HeaderPlan>,
    records: Records,
    top: RecordIndex,
}

/// The header's fields in the order of the schema.
#[derive(Debug)]
pub(crate) struct HeaderPlan {
    pub(crate) fields: Vec<HeaderField>,
}

/// One field of the header.
#[derive(Debug)]
pub(crate) struct HeaderField {
    pub(crate) name: Box<str>,
    pub(crate) role: HeaderRole,
}

/// What a field of the header is.
#[derive(Debug)]
pub(crate) enum HeaderRole {
    Entity,
    RecordIds,
    /// With the change types in the order of the enum's symbols.
    ChangeType(Vec<ChangeType>),
    ChangeOrigin,
    TransactionKey,
    SequenceNumber,
    CommitTimestamp,
    CommitNumber,
    CommitUser,
    List(BitmapList),
    /// Added by Salesforce since; read over.
    Other(Node),
}

impl WriterSchema {
    /// Compiles the schema that GetSchema returned.
    pub fn parse(schema_json: &str) -> Result<Self, SchemaError> {
        let json: Value = serde_json::from_str(schema_json).map_err(|error| SchemaError::Invalid(error.to_string()))?;
        let id = fingerprint::fingerprint(&json);
        let reduced = schema_json::reduce(&json).map_err(SchemaError::Invalid)?;
        let schema = Schema::parse(&reduced).map_err(|error| SchemaError::Invalid(error.to_string()))?;
        let (records, top) = plan::compile(&schema)?;
        let header = plan_header(&records, records.get(top))?;
        let name = records.get(top).name.clone();
        Ok(Self { id, name, header, records, top })
    }

    /// The id that Salesforce gives this schema, computed from the schema itself.
    pub fn fingerprint(&self) -> &SchemaId {
        &self.id
    }

    /// The record name: `CaseChangeEvent`, `Order__e`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether events have a ChangeEventHeader; platform events have none.
    pub fn carries_header(&self) -> bool {
        self.header.is_some()
    }

    /// The names of the fields that events have, in the order of the schema; the header is not one of them.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.top().fields.iter().map(|field| &*field.name).filter(|name| *name != HEADER)
    }

    /// Whether events have a field of this name: a field, or a component of one as `BillingAddress.Street` or `BillingStreet`.
    pub fn has_field(&self, name: &str) -> bool {
        let component = |compound: &str, part: &str| {
            let field = self.top().fields.iter().find(|field| &*field.name == compound);
            let record = field.and_then(|field| field.compound).map(|index| self.records.get(index));
            record.is_some_and(|record| record.fields.iter().any(|field| &*field.name == part))
        };
        match name.split_once('.') {
            Some((compound, part)) => component(compound, part),
            None => {
                let flat = || component_of(name).is_some_and(|(compound, part)| component(&compound, part));
                self.fields().any(|field| field == name) || flat()
            }
        }
    }

    /// Decodes one event. The payload is the event's bare Avro binary, all of it. What the policy of its object keeps from
    /// readers is not in the change.
    pub fn decode(&self, payload: &[u8], policies: &FieldPolicies) -> Result<Change, DecodeError> {
        decode::decode(self, payload, policies)
    }

    /// Decodes the header of an event and leaves its body alone; `None` for a platform event.
    pub fn decode_header(&self, payload: &[u8]) -> Result<Option<Header>, DecodeError> {
        decode::decode_header(self, payload)
    }

    pub(crate) fn header(&self) -> Option<&HeaderPlan> {
        self.header.as_ref()
    }

    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    pub(crate) fn top(&self) -> &Record {
        self.records.get(self.top)
    }
}

fn plan_header(records: &Records, top: &Record) -> Result<Option<HeaderPlan>, SchemaError> {
    let different = |reason: String| SchemaError::Header { schema: top.name.clone(), reason };
    let is_header = |index: RecordIndex| records.get(index).name == HEADER;
    let at = top.fields.iter().position(|field| field.compound.is_some_and(is_header));
    let Some(first) = at.and_then(|at| top.fields.get(at)) else {
        // A change event without its header would pass for a platform event, and its field lists for data.
        return match top.fields.first() {
            Some(field) if &*field.name == HEADER => {
                Err(different("the first field is not the header record".to_owned()))
            }
            _ => Ok(None),
        };
    };
    let (Some(0), Node::Record(index)) = (at, &first.node) else {
        return Err(different("the header is not the first field, or it is nullable".to_owned()));
    };
    let mut fields = Vec::new();
    for field in &records.get(*index).fields {
        let role =
            header_role(&field.name, &field.node).ok_or_else(|| different(format!("the type of {}", field.name)))?;
        fields.push(HeaderField { name: field.name.clone(), role });
    }
    for required in REQUIRED {
        if !fields.iter().any(|field| &*field.name == required) {
            return Err(different(format!("{required} is missing")));
        }
    }
    Ok(Some(HeaderPlan { fields }))
}

const REQUIRED: [&str; 12] = [
    "entityName",
    "recordIds",
    "changeType",
    "changeOrigin",
    "transactionKey",
    "sequenceNumber",
    "commitTimestamp",
    "commitNumber",
    "commitUser",
    "nulledFields",
    "diffFields",
    "changedFields",
];

/// The role of a header field by its name; `None` if its type is not what the role needs.
fn header_role(name: &str, node: &Node) -> Option<HeaderRole> {
    let text = matches!(node, Node::Text);
    let texts = matches!(node, Node::Array(items) if matches!(**items, Node::Text));
    let number = matches!(node, Node::Integer { form: IntegerForm::Number, .. });
    let instant = IntegerForm::DateTime(Precision::Milliseconds, Zone::Utc);
    let time = number || matches!(node, Node::Integer { form, .. } if *form == instant);
    match name {
        "entityName" => text.then_some(HeaderRole::Entity),
        "recordIds" => texts.then_some(HeaderRole::RecordIds),
        "changeType" => match node {
            Node::Enum(symbols) => {
                Some(HeaderRole::ChangeType(symbols.iter().map(|symbol| ChangeType::from_symbol(symbol)).collect()))
            }
            _ => None,
        },
        "changeOrigin" => text.then_some(HeaderRole::ChangeOrigin),
        "transactionKey" => text.then_some(HeaderRole::TransactionKey),
        "sequenceNumber" => number.then_some(HeaderRole::SequenceNumber),
        "commitTimestamp" => time.then_some(HeaderRole::CommitTimestamp),
        "commitNumber" => number.then_some(HeaderRole::CommitNumber),
        "commitUser" => text.then_some(HeaderRole::CommitUser),
        "nulledFields" => texts.then_some(HeaderRole::List(BitmapList::Nulled)),
        "diffFields" => texts.then_some(HeaderRole::List(BitmapList::Diff)),
        "changedFields" => texts.then_some(HeaderRole::List(BitmapList::Changed)),
        _ => Some(HeaderRole::Other(node.clone())),
    }
}
