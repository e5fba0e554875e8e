//! Messaging sessions and the conversations that they belong to, by SOQL. `MessagingSession.ConversationId` is the id of
//! a record; the resource of the entries wants that record's `ConversationIdentifier`, so one query asks for both.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use tokio::time::Instant;

use crate::salesforce::query::{Scope, by_ids};
use crate::salesforce::rest::{RestError, read_json};
use crate::salesforce::rest_client::RestClient;

const FIELDS: &str = "Id, Status, CaseId, ConversationId, Conversation.ConversationIdentifier";

/// The statuses of sessions in which something can be said at any moment. In the others (`Paused`, `Inactive`, `Ended`,
/// `Error`) nothing is until the session changes, which an event tells.
const OPEN: [&str; 4] = ["New", "Active", "Waiting", "Consent"];

/// A session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessagingSession {
    /// Its id.
    pub id: String,
    /// Whether something can be said in it at any moment.
    pub open: bool,
    /// The case that it is about.
    pub case: Option<String>,
    /// The identifier of its conversation; none for a session without one.
    pub conversation: Option<String>,
    /// It has one, and the identifier is not there for the user: hidden, or not there yet.
    pub hides_its_conversation: bool,
}

/// The conversations of sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionsConversations {
    /// The identifiers of those that are there for the user.
    pub identifiers: BTreeSet<String>,
    /// How many others there are.
    pub hidden: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    id: String,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    case_id: Option<String>,
    #[serde(default)]
    conversation_id: Option<String>,
    #[serde(default)]
    conversation: Option<Conversation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Conversation {
    #[serde(default)]
    conversation_identifier: Option<String>,
}

impl From<Row> for MessagingSession {
    fn from(row: Row) -> Self {
        let conversation = row.conversation.and_then(|conversation| conversation.conversation_identifier);
        Self {
            hides_its_conversation: row.conversation_id.is_some() && conversation.is_none(),
            open: row.status.is_some_and(|status| OPEN.contains(&status.as_str())),
            id: row.id,
            case: row.case_id,
            conversation,
        }
    }
}

impl RestClient {
    /// Sessions by their ids, those in the recycle bin too. What is not found was purged, or is hidden from the user.
    pub async fn messaging_sessions(
        &self,
        ids: &[&str],
        deadline: Instant,
    ) -> Result<Vec<MessagingSession>, RestError> {
        let mut sessions = Vec::with_capacity(ids.len());
        for soql in by_ids(FIELDS, "MessagingSession", ids)? {
            self.sessions_of(&soql, Scope::All, deadline, &mut sessions).await?;
        }
        Ok(sessions)
    }

    /// All sessions that are open.
    pub async fn open_messaging_sessions(&self, deadline: Instant) -> Result<Vec<MessagingSession>, RestError> {
        let statuses = OPEN.map(|status| format!("'{status}'")).join(",");
        let soql = format!("SELECT {FIELDS} FROM MessagingSession WHERE Status IN ({statuses})");
        let mut sessions = Vec::new();
        self.sessions_of(&soql, Scope::Live, deadline, &mut sessions).await?;
        Ok(sessions)
    }

    /// The conversations of all sessions, or of those in which something can have been said at `since` or later: a session that
    /// has ended since then was changed by that. `patience` is that with one answer.
    pub async fn conversations_since(
        &self,
        since: Option<DateTime<Utc>>,
        patience: Duration,
    ) -> Result<SessionsConversations, RestError> {
        let mut soql = format!("SELECT {FIELDS} FROM MessagingSession");
        if let Some(since) = since {
            let statuses = OPEN.map(|status| format!("'{status}'")).join(",");
            let since = since.to_rfc3339_opts(SecondsFormat::Millis, true);
            soql.push_str(&format!(" WHERE SystemModstamp >= {since} OR Status IN ({statuses})"));
        }
        let mut query = self.query(&soql, Scope::Live)?;
        let (mut identifiers, mut hidden) = (BTreeSet::new(), BTreeSet::new());
        while let Some(page) = query.next_page(Instant::now() + patience).await? {
            for row in page.records {
                let row: Row = read_json("a messaging session", row.get().as_bytes())?;
                let record = row.conversation_id.clone();
                let session = MessagingSession::from(row);
                hidden.extend(record.filter(|_| session.hides_its_conversation));
                identifiers.extend(session.conversation);
            }
        }
        Ok(SessionsConversations { identifiers, hidden: u64::try_from(hidden.len()).unwrap_or(u64::MAX) })
    }

    async fn sessions_of(
        &self,
        soql: &str,
        scope: Scope,
        deadline: Instant,
        sessions: &mut Vec<MessagingSession>,
    ) -> Result<(), RestError> {
        let mut query = self.query(soql, scope)?;
        while let Some(page) = query.next_page(deadline).await? {
            for row in page.records {
                sessions.push(read_json::<Row>("a messaging session", row.get().as_bytes())?.into());
            }
        }
        Ok(())
    }
}
