//! A comparison of what Kafka holds of conversations with what the source shows, as it is kept in Kafka: how far it is, what it
//! has found, and for whom.
//!
//! It goes through the conversations by their identifiers, and the last one that it is done with is its position. Which
//! ones there are is found anew after a restart.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::kafka::{KEPT, KafkaError, KafkaSettings, ScanFrom, StreamIdentity, scan};
use crate::pipeline::messages::difference::EntryDifference;
use crate::status::ComparisonStatus;

/// Findings of one comparison that are kept, at most. More are counted.
const MOST_FINDINGS: u64 = 10_000;

/// Findings of one record: some 60 kB.
const TOGETHER: usize = 500;

/// The key of the comparison.
const KEY: &str = "comparison";

/// An entry on which Kafka and the source differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFinding {
    /// How.
    pub finding: EntryDifference,
    /// The conversation's identifier.
    pub conversation: String,
    /// The entry's.
    pub id: String,
    /// When the server had it.
    pub server_time: Option<DateTime<Utc>>,
}

/// A record of findings, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct KeptFindings {
    comparison: String,
    findings: Vec<EntryFinding>,
}

/// How far a comparison is, and what it has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Comparison {
    /// Its name.
    pub id: String,
    /// From when on entries are compared; all without it.
    pub since: Option<DateTime<Utc>>,
    /// Whether what is found is written.
    pub repair: bool,
    /// When it began, by our clock.
    pub opened_at: DateTime<Utc>,
    /// When it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether an operator ended it before that.
    pub cancelled: bool,
    /// The last conversation that it is done with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Conversations that it is done with.
    pub done: u64,
    /// Those among them that were left because a fetch of all of it is to come anyway, …
    pub under_way: u64,
    /// … and those that cannot be read.
    pub unreadable: u64,
    /// Conversations of sessions of which the identifier is hidden, so that they are not even among those.
    pub hidden: u64,
    /// Calls for entries.
    pub calls: u64,
    /// Entries of the source that were judged.
    pub judged: u64,
    /// Entries that were too young.
    pub young: u64,
    /// Entries that differed at first and not any more when they were looked at again.
    pub settled: u64,
    /// Findings by kind, in the order of [`EntryDifference::ALL`].
    pub found: [u64; 3],
    /// Entries that were written for it.
    pub written: u64,
    /// Entries that are left to a fetch, which was ordered with it.
    pub ordered: u64,
    /// Records of findings.
    pub records: u64,
    /// Findings in them.
    pub told: u64,
}

fn findings_prefix() -> String {
    format!("{KEPT}{KEY}/finding/")
}

impl Comparison {
    /// One that begins now.
    pub fn new(since: Option<DateTime<Utc>>, repair: bool) -> Self {
        let id = format!("comparison-{}", uuid::Uuid::new_v4().simple());
        Self { id, since, repair, opened_at: Utc::now(), ..Self::default() }
    }

    /// What a stream keeps of the last one. What cannot be read was written by another version.
    pub fn kept(kept: &BTreeMap<String, Bytes>) -> Option<Self> {
        serde_json::from_slice(kept.get(&format!("{KEPT}{KEY}"))?).ok()
    }

    /// Its record.
    pub fn record(&self) -> (String, Option<Bytes>) {
        // A struct of texts and numbers always has a JSON form.
        (format!("{KEPT}{KEY}"), Some(Bytes::from(serde_json::to_vec(self).unwrap_or_default())))
    }

    /// What is no longer kept once another one begins.
    pub fn forget(&self) -> Vec<(String, Option<Bytes>)> {
        (0..self.records).map(|number| (format!("{}{number}", findings_prefix()), None)).collect()
    }

    /// Whether it goes on.
    pub fn is_open(&self) -> bool {
        self.ended_at.is_none()
    }

    /// From when on entries are compared, in milliseconds.
    pub fn from(&self) -> i64 {
        self.since.map_or(0, |since| since.timestamp_millis())
    }

    /// Counts findings; what is kept of them.
    pub fn tell(&mut self, findings: Vec<EntryFinding>) -> Vec<(String, Option<Bytes>)> {
        for finding in &findings {
            let kinds = EntryDifference::ALL.iter().zip(&mut self.found);
            kinds.filter(|(kind, _)| **kind == finding.finding).for_each(|(_, count)| *count += 1);
        }
        let mut kept = Vec::new();
        for part in findings.chunks(TOGETHER) {
            let left = usize::try_from(MOST_FINDINGS.saturating_sub(self.told)).unwrap_or(usize::MAX);
            let part: Vec<EntryFinding> = part.iter().take(left).cloned().collect();
            if part.is_empty() {
                break;
            }
            self.told += u64::try_from(part.len()).unwrap_or(u64::MAX);
            let value = KeptFindings { comparison: self.id.clone(), findings: part };
            let value = serde_json::to_vec(&value).unwrap_or_default();
            kept.push((format!("{}{}", findings_prefix(), self.records), Some(Bytes::from(value))));
            self.records += 1;
        }
        kept
    }

    /// As operators see it; `conversations` is how many it is of, where that is known, and `an_hour` how many can be looked at in one.
    pub fn status(&self, conversations: Option<u64>, an_hour: u64, waits_for: Option<String>) -> ComparisonStatus {
        let left = conversations.map(|all| all.saturating_sub(self.done).saturating_mul(3600) / an_hour.max(1));
        ComparisonStatus {
            id: self.id.clone(),
            since: self.since,
            repair: self.repair,
            opened_at: self.opened_at,
            ended_at: self.ended_at,
            cancelled: self.cancelled,
            conversations: conversations.or(self.ended_at.map(|_| self.done)),
            conversations_done: self.done,
            conversations_per_hour: an_hour,
            seconds_left: left.filter(|_| self.is_open()),
            conversations_under_way: self.under_way,
            conversations_unreadable: self.unreadable.saturating_add(self.hidden),
            calls: self.calls,
            judged: self.judged,
            young: self.young,
            settled: self.settled,
            findings: EntryDifference::ALL.map(EntryDifference::name).into_iter().zip(self.found).collect(),
            entries_written: self.written,
            entries_ordered: self.ordered,
            waits_for,
        }
    }
}

/// The findings of a comparison, those of the last 10,000 that are kept, by conversation.
///
/// # Errors
/// When the stream's checkpoint topic cannot be read to its end.
pub async fn findings_of(
    kafka: &KafkaSettings,
    identity: &StreamIdentity,
    comparison: &str,
) -> Result<Vec<EntryFinding>, KafkaError> {
    let newest: Arc<Mutex<BTreeMap<String, Option<KeptFindings>>>> = Arc::default();
    let noted = newest.clone();
    scan(kafka, &identity.checkpoint_topic(), ScanFrom::Beginning, move |record| {
        let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        if let Some(key) = key.filter(|key| key.starts_with(&findings_prefix())) {
            let value = record.value.as_deref().and_then(|value| serde_json::from_slice(value).ok());
            noted.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value);
        }
        ControlFlow::Continue(())
    })
    .await?;
    let newest = std::mem::take(&mut *newest.lock().unwrap_or_else(PoisonError::into_inner));
    let own = newest.into_values().flatten().filter(|kept| kept.comparison == comparison);
    let mut findings: Vec<EntryFinding> = own.flat_map(|kept| kept.findings).collect();
    findings.sort_by(|one, other| {
        (&one.conversation, one.server_time, &one.id).cmp(&(&other.conversation, other.server_time, &other.id))
    });
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(number: usize, finding: EntryDifference) -> EntryFinding {
        EntryFinding { finding, conversation: "c".into(), id: number.to_string(), server_time: None }
    }

    #[test]
    fn it_is_found_again_after_a_restart_with_what_it_has_found_of_which_not_all_is_kept() {
        let mut comparison = Comparison::new(DateTime::from_timestamp(1_790_000_000, 0), true);
        assert_eq!((comparison.from(), comparison.is_open()), (1_790_000_000_000, true));
        comparison.after = Some("b".to_owned());
        let mut kept: BTreeMap<String, Bytes> = BTreeMap::new();
        let mut keep = |records: Vec<(String, Option<Bytes>)>| {
            for (key, value) in records {
                match value {
                    Some(value) => drop(kept.insert(key, value)),
                    None => drop(kept.remove(&key)),
                }
            }
            kept.clone()
        };
        let many: Vec<_> = (0..1_200).map(|number| finding(number, EntryDifference::Changed)).collect();
        assert_eq!(keep(comparison.tell(many)).len(), 3, "some hundred a record");
        keep(comparison.tell(vec![finding(0, EntryDifference::Gone)]));
        let many: Vec<_> = (0..20_000).map(|number| finding(number, EntryDifference::Missing)).collect();
        keep(comparison.tell(many));
        assert_eq!((comparison.found, comparison.told), ([20_000, 1_200, 1], MOST_FINDINGS));
        let stored = keep(vec![comparison.record()]);
        assert_eq!(Comparison::kept(&stored).as_ref(), Some(&comparison));
        let status = comparison.status(Some(100), 50, None);
        assert_eq!((status.seconds_left, status.findings["missing"]), (Some(7_200), 20_000));
        (comparison.unreadable, comparison.hidden) = (2, 3);
        let unreadable = comparison.status(None, 50, None).conversations_unreadable;
        assert_eq!(unreadable, 5, "of those that are hidden nothing is known either");
        assert_eq!(keep(comparison.forget()).len(), 1, "nothing but the comparison itself");
    }
}
