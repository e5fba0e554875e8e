//! What Kafka holds of each record: the time up to which it is current, and whether it is there.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use crate::identity::OrgId;
use crate::kafka::{KafkaError, KafkaSettings, OutputRecord, ScanFrom, ScannedRecord, scan};

/// How much earlier than a job its records may have been produced: clocks of brokers differ.
pub(super) const CLOCKS: TimeDelta = TimeDelta::minutes(5);

/// The first fifteen characters of a record id, which tell records apart; the other three are a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::pipeline) struct RecordKey([u8; 15]);

impl RecordKey {
    /// Of a record id, or of a record's Kafka key.
    pub fn of(id: &[u8]) -> Option<Self> {
        id.first_chunk::<15>().filter(|key| key.iter().all(u8::is_ascii_alphanumeric)).copied().map(Self)
    }

    /// The three characters that all records of an object begin with.
    pub fn object(&self) -> [u8; 3] {
        [self.0[0], self.0[1], self.0[2]]
    }

    /// The id with its eighteen characters.
    pub fn id(&self) -> String {
        let text = std::str::from_utf8(&self.0).unwrap_or_default();
        crate::identity::case_safe_id(text).into_owned()
    }
}

/// What is known of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) struct Known {
    /// Up to when what Kafka holds is current, in seconds since 1970: to the second is how the fold compares.
    pub as_of: i64,
    /// Whether the newest that Kafka holds is not a delete.
    pub alive: bool,
}

impl Known {
    /// What follows when a record is written after this one. Where the times disagree with the order, a record counts as
    /// alive: one more delete does no harm.
    pub fn then(self, next: Self) -> Self {
        let alive = next.alive || (self.alive && next.as_of < self.as_of);
        Self { as_of: self.as_of.max(next.as_of), alive }
    }
}

/// What one written record says. Ledger entries, letters and tombstones say nothing.
pub(super) fn told(op: &[u8], committed_at: Option<&[u8]>, value: Option<&[u8]>) -> Option<Known> {
    let value = value?;
    let committed = committed_at.and_then(|text| seconds(std::str::from_utf8(text).ok()?));
    let as_of = committed.max(record_as_of(value))?;
    Some(Known { as_of, alive: op != b"delete" })
}

/// The `record_as_of` of a change record, without reading the record before it. Within a text each quote has a
/// backslash, so the name with its bare quotes can only be a member; no field of Salesforce has that name.
fn record_as_of(value: &[u8]) -> Option<i64> {
    const MEMBER: &str = "\"record_as_of\":\"";
    let text = std::str::from_utf8(value).ok()?;
    let (_, rest) = text.rsplit_once(MEMBER)?;
    seconds(rest.split_once('"')?.0)
}

fn seconds(text: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp())
}

/// What a record that is about to be written says, and of whom.
pub(super) fn of_output(record: &OutputRecord) -> Option<(RecordKey, Known)> {
    let header = |name: &str| record.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_ref());
    let known = told(header("op")?, header("committed_at"), record.value.as_deref())?;
    Some((RecordKey::of(&record.key)?, known))
}

/// What an entity's topic holds of each record of an organisation.
///
/// About 50 bytes a record.
pub(in crate::pipeline) type Copy = BTreeMap<RecordKey, Known>;

/// Reads an entity's topic from `from` to its end.
///
/// # Errors
/// When it cannot be read to its end.
pub(in crate::pipeline) async fn copy(
    settings: &KafkaSettings,
    topic: &str,
    org: &OrgId,
    from: ScanFrom,
) -> Result<Copy, KafkaError> {
    copy_beside(settings, topic, org, from, |_, _, _| {}).await
}

/// The same, and shows each record of the organisation to `also`.
///
/// # Errors
/// As [`copy`].
pub(super) async fn copy_beside(
    settings: &KafkaSettings,
    topic: &str,
    org: &OrgId,
    from: ScanFrom,
    mut also: impl FnMut(RecordKey, Known, &ScannedRecord) + Send + 'static,
) -> Result<Copy, KafkaError> {
    let collected: Arc<Mutex<Copy>> = Arc::default();
    let (org, copy) = (org.clone(), collected.clone());
    scan(settings, topic, from, move |record| {
        if record.header("org") == Some(org.as_str().as_bytes())
            && let Some(op) = record.header("op")
            && let Some(known) = told(op, record.header("committed_at"), record.value.as_deref())
            && let Some(key) = record.key.as_deref().and_then(RecordKey::of)
        {
            also(key, known, record);
            let mut copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
            copy.entry(key).and_modify(|before| *before = before.then(known)).or_insert(known);
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(std::mem::take(&mut *collected.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// What a topic was told since a Bulk query job was created.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WrittenSince {
    /// Records that the job has dealt with.
    pub by_job: HashSet<RecordKey>,
    /// What else was written.
    pub by_others: Vec<(RecordKey, Known)>,
}

impl WrittenSince {
    /// Takes note of a record that was produced at `at`, for a job that was created at `created`, by another clock perhaps.
    ///
    /// Ids of jobs come again where a stream's checkpoint was made anew and its topics were not: what was written under one of them
    /// before `created` was another job's. It may have been the job's own by a clock that is behind; to take it for written by
    /// others costs one more read, and to take what is another's for its own would leave a record out.
    pub fn note(
        &mut self,
        (key, known): (RecordKey, Known),
        at: Option<DateTime<Utc>>,
        by_job: bool,
        created: DateTime<Utc>,
    ) {
        let since = |time: DateTime<Utc>| at.is_none_or(|at| at >= time);
        if by_job && since(created) {
            self.by_job.insert(key);
        } else if since(created.checked_sub_signed(CLOCKS).unwrap_or(created)) {
            self.by_others.push((key, known));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_a_bulk_query_job_was_created_is_not_its_own_whatever_its_id_says() {
        let (key, known) = (RecordKey::of(b"5008d000000047SAAQ").expect("an id"), Known { as_of: 1, alive: true });
        let created = DateTime::from_timestamp(1_771_300_995, 0).expect("a time");
        let noted = |at: Option<DateTime<Utc>>, by_job| {
            let mut written = WrittenSince::default();
            written.note((key, known), at, by_job, created);
            written
        };
        let before = |length: TimeDelta| created.checked_sub_signed(length);
        let millisecond = TimeDelta::milliseconds(1);
        let nothing = WrittenSince::default();
        let own = WrittenSince { by_job: HashSet::from([key]), by_others: Vec::new() };
        let others = WrittenSince { by_job: HashSet::new(), by_others: vec![(key, known)] };
        for (at, of_its_id, of_another) in [
            (before(CLOCKS + millisecond), &nothing, &nothing),
            (before(CLOCKS), &others, &others),
            (before(millisecond), &others, &others),
            (Some(created), &own, &others),
            (None, &own, &others),
        ] {
            assert_eq!((&noted(at, true), &noted(at, false)), (of_its_id, of_another), "{at:?}");
        }
    }

    #[test]
    fn a_record_is_current_since_its_event_or_its_full_record_whichever_is_later() {
        let at = Some(&b"2026-11-22T10:00:05.000Z"[..]);
        let as_of = |op: &[u8], at, value: &str| told(op, at, Some(value.as_bytes()));
        let second = |text| seconds(text).expect("a time");
        let event = as_of(b"update", at, r#"{"record":null}"#).expect("known");
        assert_eq!((event.as_of, event.alive), (second("2026-11-22T10:00:05Z"), true));
        let full = r#"{"record":{"Subject":"\"record_as_of\":\"2030"},"record_as_of":"2026-11-22T10:00:09.500Z"}"#;
        assert_eq!(as_of(b"update", at, full).expect("known").as_of, second("2026-11-22T10:00:09Z"));
        assert_eq!(as_of(b"refresh", None, full).expect("known").as_of, second("2026-11-22T10:00:09Z"));
        assert!(!as_of(b"delete", at, "{}").expect("known").alive);
        assert_eq!(as_of(b"event", None, "{}"), None);
        assert_eq!(told(b"delete", at, None), None, "a tombstone");
        let (deleted, alive) = (Known { as_of: 9, alive: false }, Known { as_of: 9, alive: true });
        assert_eq!(alive.then(deleted), deleted, "equal seconds apply");
        assert_eq!(deleted.then(alive), alive);
        assert_eq!(alive.then(Known { as_of: 8, alive: false }), alive, "the order or the time is wrong");
        assert_eq!(deleted.then(Known { as_of: 8, alive: true }), alive);
    }

    #[test]
    fn a_key_is_an_id_without_its_checksum() {
        let key = RecordKey::of(b"5008d000000047SAAQ").expect("an id");
        assert_eq!(key.id(), "5008d000000047SAAQ");
        assert_eq!(RecordKey::of(b"5008d000000047S"), Some(key));
        assert_eq!(RecordKey::of(b"366d9355-f1bc-4650"), None);
        assert_eq!(RecordKey::of(b"500*"), None);
    }
}
