//! The records of conversations and of who takes part in them, for many conversations with two queries. Neither object
//! has change events, and neither has a `SystemModstamp`.

use std::collections::HashMap;

use serde_json::Value;
use tokio::time::Instant;

use crate::change::{Row, RowPlan};
use crate::salesforce::query::{Scope, by_values};
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest::{RestError, RestVerdict};

/// The object of conversations …
pub const CONVERSATION: &str = "Conversation";

/// … and that of whoever takes part in one, with one record for each.
pub const PARTICIPANT: &str = "ConversationParticipant";

/// A record that belongs to a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationRow {
    /// The conversation's identifier.
    pub conversation: String,
    /// [`CONVERSATION`] or [`PARTICIPANT`].
    pub entity: &'static str,
    /// The record.
    pub row: Row,
}

impl RecordReader {
    /// The records of conversations and of their participants, by the conversations' identifiers. What is not there for the
    /// user is left out.
    ///
    /// # Errors
    /// When the deadline passes, or when it is hopeless; nothing is known then.
    pub async fn conversation_records(
        &self,
        conversations: &[&str],
        deadline: Instant,
    ) -> Result<Vec<ConversationRow>, RestError> {
        let mut rows = Vec::new();
        let mut identifiers = HashMap::new();
        for (identifier, row) in self.rows_of(CONVERSATION, "ConversationIdentifier", conversations, deadline).await? {
            identifiers.insert(row.id.clone(), identifier.clone());
            rows.push(ConversationRow { conversation: identifier, entity: CONVERSATION, row });
        }
        let ids: Vec<&str> = identifiers.keys().map(String::as_str).collect();
        for (id, row) in self.rows_of(PARTICIPANT, "ConversationId", &ids, deadline).await? {
            let conversation = identifiers.get(&id).cloned();
            rows.extend(conversation.map(|conversation| ConversationRow { conversation, entity: PARTICIPANT, row }));
        }
        Ok(rows)
    }

    /// The records of which a field has one of some values, each with that value.
    async fn rows_of(
        &self,
        object: &str,
        field: &str,
        values: &[&str],
        deadline: Instant,
    ) -> Result<Vec<(String, Row)>, RestError> {
        let plan = self.descriptions().plan(object, None, deadline).await?;
        match self.select(&plan, field, values, deadline).await {
            Err(error) if error.verdict() == RestVerdict::DescribeAnew => {
                let plan = self.descriptions().replace(&plan, deadline).await?;
                self.select(&plan, field, values, deadline).await
            }
            rows => rows,
        }
    }

    async fn select(
        &self,
        plan: &RowPlan,
        field: &str,
        values: &[&str],
        deadline: Instant,
    ) -> Result<Vec<(String, Row)>, RestError> {
        let mut fields = plan.fields().join(", ");
        if !plan.fields().iter().any(|known| known == field) {
            fields = format!("{fields}, {field}");
        }
        let mut rows = Vec::new();
        for soql in by_values(&fields, plan.object(), field, values)? {
            let mut query = self.client().query(&soql, Scope::Live)?;
            while let Some(page) = query.next_page(deadline).await? {
                for record in page.records {
                    let unexpected = |what: String| RestError::Unexpected(format!("{}: {what}", plan.object()));
                    let row = plan.render(record.get()).map_err(|fault| unexpected(fault.to_string()))?;
                    let value: Option<Value> = serde_json::from_str(record.get()).ok();
                    let value = value.as_ref().and_then(|value| value.get(field)?.as_str());
                    let value = value.ok_or_else(|| unexpected(format!("a row without {field}")))?;
                    rows.push((value.to_owned(), row));
                }
            }
        }
        Ok(rows)
    }
}
