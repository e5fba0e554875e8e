//! The single pass over a payload: header, then every field of the body straight into the JSON text of the
//! part of the change that it belongs to.

use std::convert::Infallible;

use crate::change::bitmap::{BitmapList, FieldBitmap};
use crate::change::error::{DecodeError, DecodeFault};
use crate::change::field_lists::{Fate, FieldLists};
use crate::change::header::{ChangeType, Header};
use crate::change::json::{JsonObject, ObjectWriter};
use crate::change::plan::{Field, Node, Record, Records};
use crate::change::policy::{EntityPolicy, FieldPolicies, Shape};
use crate::change::schema::{HeaderPlan, HeaderRole, WriterSchema};
use crate::change::value::{Empty, ValueReader};

/// What one event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The header; `None` for a platform event.
    pub header: Option<Header>,
    /// For an update exactly the fields that changed: a value is set, `null` is cleared. A compound of which only
    /// some components changed has just those; one that changed as a whole has all, the empty ones as `null`: so
    /// merging component by component is right for both. For create and undelete every field, and every component,
    /// that is not empty. For a platform event every field. Empty for delete and the gap types.
    pub changed: JsonObject,
    /// Fields that carry a value although the header does not name them as changed: added by the channel's enrichment.
    pub enriched: JsonObject,
    /// Fields that changed and whose new value the event does not tell.
    pub unresolved: Vec<TextDiff>,
}

/// A field that changed to a value which is not in the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextDiff {
    /// The field; a component as `Compound.Component`.
    pub field: String,
    /// The difference to the old value, for [`text_diff::apply`](crate::change::text_diff::apply). `None` where the
    /// event names the field but contradicts itself about the value, or leaves it out.
    pub diff: Option<String>,
}

/// Decodes one event with its schema; its fields are treated as the policy of its object says.
pub(crate) fn decode(schema: &WriterSchema, payload: &[u8], policies: &FieldPolicies) -> Result<Change, DecodeError> {
    let records = schema.records();
    let mut decoder = Decoder { values: ValueReader::new(payload, records), records };
    let (header, lists) = match schema.header() {
        Some(plan) => decoder.header(plan, schema.top()).map(|(header, lists)| (Some(header), lists))?,
        None => (None, FieldLists::default()),
    };
    let policy = policies.of(header.as_ref().map_or(schema.name(), |header| header.entity.as_str()));
    let body = Body::new(header.as_ref(), lists, policy, payload.len());
    let (changed, enriched, unresolved) = decoder.body(body, schema.top(), header.is_some())?;
    match decoder.values.encoded.left() {
        0 => Ok(Change { header, changed, enriched, unresolved }),
        left => Err(decoder.error(DecodeFault::TrailingBytes(left), None)),
    }
}

/// Decodes the header alone, for events whose body cannot be decoded; `None` for a platform event.
pub(crate) fn decode_header(schema: &WriterSchema, payload: &[u8]) -> Result<Option<Header>, DecodeError> {
    let records = schema.records();
    let mut decoder = Decoder { values: ValueReader::new(payload, records), records };
    schema.header().map(|plan| decoder.header(plan, schema.top()).map(|(header, _)| header)).transpose()
}

/// Where a value that the lists do not name goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unnamed {
    Changed,
    Enriched,
}

/// The parts of the change while they are written.
struct Body<'p> {
    policy: Option<&'p EntityPolicy>,
    lists: FieldLists,
    unnamed: Unnamed,
    /// Platform events have no lists: every field counts, the empty ones too.
    whole: bool,
    changed: ObjectWriter<'p>,
    enriched: ObjectWriter<'p>,
    unresolved: Vec<TextDiff>,
}

impl<'p> Body<'p> {
    fn new(
        header: Option<&Header>,
        lists: FieldLists,
        policy: Option<&'p EntityPolicy>,
        payload_length: usize,
    ) -> Self {
        let change_type = header.map(|header| &header.change_type);
        let whole_record = change_type.is_some_and(ChangeType::carries_whole_record);
        // Nothing of a delete or a gap is a change of a field; their lists are empty.
        let fieldless =
            change_type.is_some_and(|change_type| change_type.is_gap() || *change_type == ChangeType::Delete);
        Self {
            policy,
            lists: if fieldless { FieldLists::default() } else { lists },
            unnamed: if whole_record { Unnamed::Changed } else { Unnamed::Enriched },
            whole: header.is_none(),
            changed: ObjectWriter::new(policy, payload_length.saturating_mul(2)),
            enriched: ObjectWriter::new(policy, 0),
            unresolved: Vec::new(),
        }
    }

    /// Where the values go that the lists do not name.
    fn unnamed(&mut self) -> &mut ObjectWriter<'p> {
        match self.unnamed {
            Unnamed::Changed => &mut self.changed,
            Unnamed::Enriched => &mut self.enriched,
        }
    }
}

struct Decoder<'p> {
    values: ValueReader<'p>,
    records: &'p Records,
}

impl<'p> Decoder<'p> {
    fn error(&self, fault: DecodeFault, field: Option<&str>) -> DecodeError {
        DecodeError { fault, field: field.map(str::to_owned), offset: self.values.encoded.offset() }
    }

    fn header(&mut self, plan: &'p HeaderPlan, top: &Record) -> Result<(Header, FieldLists), DecodeError> {
        let mut header = Header {
            entity: String::new(),
            record_ids: Vec::new(),
            change_type: ChangeType::Unknown(String::new()),
            change_origin: String::new(),
            transaction_key: String::new(),
            sequence_number: 0,
            commit_timestamp: 0,
            commit_number: 0,
            commit_user: String::new(),
        };
        let mut lists = FieldLists::default();
        for field in &plan.fields {
            let read = self.header_field(&field.role, top, &mut header, &mut lists);
            read.map_err(|fault| self.error(fault, Some(&field.name)))?;
        }
        if header.record_ids.is_empty() || header.record_ids.iter().any(String::is_empty) {
            return Err(self.error(DecodeFault::NoRecordIds, Some("recordIds")));
        }
        Ok((header, lists))
    }

    fn header_field(
        &mut self,
        role: &'p HeaderRole,
        top: &Record,
        header: &mut Header,
        lists: &mut FieldLists,
    ) -> Result<(), DecodeFault> {
        match role {
            HeaderRole::Entity => header.entity = self.values.encoded.text()?.to_owned(),
            HeaderRole::RecordIds => header.record_ids = self.texts()?.into_iter().map(str::to_owned).collect(),
            HeaderRole::ChangeType(types) => {
                let index = self.values.encoded.int()?;
                let known = usize::try_from(index).ok().and_then(|index| types.get(index));
                header.change_type = known.ok_or(DecodeFault::EnumSymbol(index))?.clone();
            }
            HeaderRole::ChangeOrigin => header.change_origin = self.values.encoded.text()?.to_owned(),
            HeaderRole::TransactionKey => header.transaction_key = self.values.encoded.text()?.to_owned(),
            HeaderRole::SequenceNumber => header.sequence_number = self.values.encoded.long()?,
            HeaderRole::CommitTimestamp => header.commit_timestamp = self.values.encoded.long()?,
            HeaderRole::CommitNumber => header.commit_number = self.values.encoded.long()?,
            HeaderRole::CommitUser => header.commit_user = self.values.encoded.text()?.to_owned(),
            HeaderRole::List(list) => {
                let bitmap = self.list(*list, top)?;
                match list {
                    BitmapList::Changed => lists.changed = bitmap,
                    BitmapList::Nulled => lists.nulled = bitmap,
                    BitmapList::Diff => lists.diff = bitmap,
                }
            }
            HeaderRole::Other(node) => {
                self.values.value(node, &mut String::new())?;
            }
        }
        Ok(())
    }

    fn list(&mut self, list: BitmapList, top: &Record) -> Result<FieldBitmap, DecodeFault> {
        let elements = self.texts()?;
        let components = |position: usize| {
            let compound = top.fields.get(position).and_then(|field| field.compound);
            compound.map(|index| self.records.get(index).fields.len())
        };
        FieldBitmap::parse(&elements, top.fields.len(), components).map_err(|fault| DecodeFault::Bitmap { list, fault })
    }

    fn texts(&mut self) -> Result<Vec<&'p str>, DecodeFault> {
        let mut texts = Vec::new();
        loop {
            let count = self.values.encoded.block()?;
            if count == 0 {
                return Ok(texts);
            }
            for _ in 0..count {
                texts.push(self.values.encoded.text()?);
            }
        }
    }

    fn body(
        &mut self,
        mut body: Body<'_>,
        top: &'p Record,
        header: bool,
    ) -> Result<(JsonObject, JsonObject, Vec<TextDiff>), DecodeError> {
        for (position, field) in top.fields.iter().enumerate().skip(usize::from(header)) {
            let read = self.field(position, field, &mut body);
            read.map_err(|fault| self.error(fault, Some(&field.name)))?;
        }
        let unresolved = match body.policy {
            Some(policy) => body.unresolved.into_iter().filter_map(|diff| policy.unresolved(diff)).collect(),
            None => body.unresolved,
        };
        Ok((body.changed.finish(), body.enriched.finish(), unresolved))
    }

    fn field(&mut self, position: usize, field: &'p Field, body: &mut Body<'_>) -> Result<(), DecodeFault> {
        let components = field.compound.map_or(0, |index| self.records.get(index).fields.len());
        let fate = if body.whole { Fate::Changed } else { body.lists.fate(position, components) };
        let node = self.values.branch(&field.node)?;
        match (fate, node) {
            (Fate::Parts, Node::Record(_) | Node::Null) => self.parts(position, field, node, body),
            // The other branch of a three-way union is the whole value.
            (Fate::Parts, _) => self.place(Fate::Changed, None, field, node, body),
            (fate, node) => self.place(fate, None, field, node, body),
        }
    }

    /// Reads a value and puts it where its fate says.
    fn place(
        &mut self,
        fate: Fate,
        parent: Option<&Field>,
        field: &'p Field,
        node: &'p Node,
        body: &mut Body<'_>,
    ) -> Result<(), DecodeFault> {
        let unresolved = |diff| TextDiff {
            field: parent.map_or_else(|| field.name.to_string(), |parent| format!("{}.{}", parent.name, field.name)),
            diff,
        };
        match fate {
            Fate::Unnamed if matches!(node, Node::Null) => {}
            Fate::Unnamed => body.unnamed().keyed(&field.name, &field.key, Shape::NotEmpty, |out| {
                self.values.compound_or_value(node, Empty::LeftOut, out)
            })?,
            Fate::Changed | Fate::Parts => body.changed.keyed(&field.name, &field.key, Shape::Whole, |out| {
                self.values.compound_or_value(node, Empty::Shown, out).map(|_| true)
            })?,
            Fate::Cleared => {
                let mut filled = false;
                body.changed.keyed(&field.name, &field.key, Shape::Whole, |out| {
                    filled = self.values.compound_or_value(node, Empty::Shown, out)?;
                    Ok::<_, DecodeFault>(!filled)
                })?;
                if filled {
                    body.unresolved.push(unresolved(None));
                }
            }
            Fate::Diff => body.unresolved.push(unresolved(self.diff(node)?)),
            Fate::Doubtful => {
                self.values.value(node, &mut String::new())?;
                body.unresolved.push(unresolved(None));
            }
        }
        Ok(())
    }

    fn diff(&mut self, node: &Node) -> Result<Option<String>, DecodeFault> {
        match node {
            Node::Text => Ok(Some(self.values.encoded.text()?.to_owned()).filter(|diff| !diff.is_empty())),
            Node::Null => Ok(None),
            _ => Err(DecodeFault::DiffOfNonText),
        }
    }

    /// A compound of which some components changed: those nest under its name in `changed`; others that carry a
    /// value nest under the same name where unnamed values go. If the compound is null, so is each component.
    fn parts(
        &mut self,
        position: usize,
        field: &'p Field,
        node: &'p Node,
        body: &mut Body<'_>,
    ) -> Result<(), DecodeFault> {
        let components = field.compound.map(|index| self.records.get(index).fields.as_slice()).unwrap_or_default();
        let mut inner = Body::nested_in(body);
        for (at, component) in components.iter().enumerate() {
            let fate = body.lists.component_fate(position, at);
            let node = if matches!(node, Node::Null) { node } else { self.values.branch(&component.node)? };
            self.place(fate, Some(field), component, node, &mut inner)?;
        }
        body.take(field, inner);
        Ok(())
    }
}

impl Body<'_> {
    /// The parts of a compound while they are written. They are treated when they are nested, under the compound's name.
    fn nested_in(outer: &Self) -> Self {
        Self {
            policy: None,
            lists: FieldLists::default(),
            unnamed: outer.unnamed,
            whole: false,
            changed: ObjectWriter::new(None, 0),
            enriched: ObjectWriter::new(None, 0),
            unresolved: Vec::new(),
        }
    }

    /// Nests the parts of a compound under its name.
    fn take(&mut self, field: &Field, inner: Self) {
        for (outer, inner) in [(&mut self.changed, inner.changed), (&mut self.enriched, inner.enriched)] {
            let inner = inner.finish();
            let nested = |out: &mut String| {
                out.push_str(inner.as_str());
                Ok::<_, Infallible>(!inner.is_empty())
            };
            let Ok(()) = outer.keyed(&field.name, &field.key, Shape::Parts, nested);
        }
        self.unresolved.extend(inner.unresolved);
    }
}
