//! The header that every change event begins with: which records, what happened, when, by whom.

use chrono::{DateTime, Utc};

/// The record id of an overflow event: all records of the entity are meant, none by name.
pub const OVERFLOW_RECORD_ID: &str = "000000000000000AAA";

/// What happened to the records of an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChangeType {
    /// Created; the event carries the whole record.
    Create,
    /// Changed; the event carries the changed fields.
    Update,
    /// Deleted into the recycle bin.
    Delete,
    /// Restored; the event carries the whole record.
    Undelete,
    /// Created, but the event could not be made; the record has to be read.
    GapCreate,
    /// Changed, but the event could not be made; the record has to be read.
    GapUpdate,
    /// Deleted, outside of what makes ordinary events.
    GapDelete,
    /// Restored, but the event could not be made; the record has to be read.
    GapUndelete,
    /// One transaction changed more than the bus carries; all records of the entity have to be read.
    GapOverflow,
    /// In newer schemas only; "reserved for future use".
    Snapshot,
    /// A symbol of the writer's schema that this version does not know.
    Unknown(String),
}

impl ChangeType {
    /// The type that an enum symbol names.
    pub fn from_symbol(symbol: &str) -> Self {
        match symbol {
            "CREATE" => Self::Create,
            "UPDATE" => Self::Update,
            "DELETE" => Self::Delete,
            "UNDELETE" => Self::Undelete,
            "GAP_CREATE" => Self::GapCreate,
            "GAP_UPDATE" => Self::GapUpdate,
            "GAP_DELETE" => Self::GapDelete,
            "GAP_UNDELETE" => Self::GapUndelete,
            "GAP_OVERFLOW" => Self::GapOverflow,
            "SNAPSHOT" => Self::Snapshot,
            other => Self::Unknown(other.to_owned()),
        }
    }

    /// The symbol as Salesforce writes it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Undelete => "UNDELETE",
            Self::GapCreate => "GAP_CREATE",
            Self::GapUpdate => "GAP_UPDATE",
            Self::GapDelete => "GAP_DELETE",
            Self::GapUndelete => "GAP_UNDELETE",
            Self::GapOverflow => "GAP_OVERFLOW",
            Self::Snapshot => "SNAPSHOT",
            Self::Unknown(symbol) => symbol,
        }
    }

    /// Whether the event carries the whole record: what it leaves out is empty, not unchanged.
    pub fn carries_whole_record(&self) -> bool {
        matches!(self, Self::Create | Self::Undelete)
    }

    /// Whether the event only says that something happened, and no value of it.
    pub fn is_gap(&self) -> bool {
        matches!(self, Self::GapCreate | Self::GapUpdate | Self::GapDelete | Self::GapUndelete | Self::GapOverflow)
    }
}

impl std::fmt::Display for ChangeType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What an entry of `recordIds` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordIdKind {
    /// One record.
    Record,
    /// All records of the entity with this key prefix (`500*`): a field's type was converted with loss.
    Wildcard,
    /// All records of the entity: [`OVERFLOW_RECORD_ID`].
    Overflow,
}

impl RecordIdKind {
    /// The kind of one entry.
    pub fn of(record_id: &str) -> Self {
        if record_id == OVERFLOW_RECORD_ID {
            Self::Overflow
        } else if record_id.ends_with('*') {
            Self::Wildcard
        } else {
            Self::Record
        }
    }
}

/// The header of a change event. Its three field lists are not here: they are what tells the
/// members of a [`Change`](crate::change::Change) apart, and say nothing beyond that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The API name of the object: `Case`, `Invoice__c`.
    pub entity: String,
    /// Whom the change concerns, 18 characters each; several when equal changes were merged into one event. Never empty.
    pub record_ids: Vec<String>,
    /// What happened.
    pub change_type: ChangeType,
    /// The API and client that made the change; empty when it was none of them.
    pub change_origin: String,
    /// The transaction that the change was made in.
    pub transaction_key: String,
    /// The place within the transaction, from 1; with holes where objects are not selected.
    pub sequence_number: i64,
    /// When the transaction was committed, in milliseconds since 1970 UTC.
    pub commit_timestamp: i64,
    /// The database's system change number. Beyond 2^31; not unique across instance moves.
    pub commit_number: i64,
    /// The user that made the change, 18 characters.
    pub commit_user: String,
}

impl Header {
    /// When the transaction was committed; `None` for a number beyond chrono's calendar.
    pub fn committed_at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_millis(self.commit_timestamp)
    }

    /// Whether the event means all records with a key prefix.
    pub fn is_wildcard(&self) -> bool {
        self.record_ids.iter().any(|id| RecordIdKind::of(id) == RecordIdKind::Wildcard)
    }

    /// Whether the event means all records of its entity, by type or by record id.
    pub fn is_overflow(&self) -> bool {
        self.change_type == ChangeType::GapOverflow
            || self.record_ids.iter().any(|id| RecordIdKind::of(id) == RecordIdKind::Overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_reads_back_and_a_new_one_is_kept() {
        let known = "CREATE UPDATE DELETE UNDELETE GAP_CREATE GAP_UPDATE GAP_DELETE GAP_UNDELETE GAP_OVERFLOW SNAPSHOT";
        for symbol in known.split(' ') {
            let change_type = ChangeType::from_symbol(symbol);
            assert!(!matches!(change_type, ChangeType::Unknown(_)), "{symbol}");
            assert_eq!(change_type.as_str(), symbol);
            assert_eq!(change_type.is_gap(), symbol.starts_with("GAP_"));
        }
        assert_eq!(ChangeType::from_symbol("ARCHIVE"), ChangeType::Unknown("ARCHIVE".into()));
        assert_eq!(ChangeType::from_symbol("ARCHIVE").to_string(), "ARCHIVE");
    }

    #[test]
    fn ids_that_mean_many_records_are_told_from_ordinary_ones() {
        assert_eq!(RecordIdKind::of("5008d000000047SAAQ"), RecordIdKind::Record);
        assert_eq!(RecordIdKind::of("500*"), RecordIdKind::Wildcard);
        assert_eq!(RecordIdKind::of("000000000000000AAA"), RecordIdKind::Overflow);
    }
}
