//! Findings as entries of the gap ledger, from which the stream's own jobs heal them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};

use crate::kafka::{KafkaSettings, ScanFrom, ScannedRecord, StreamIdentity, scan};
use crate::pipeline::context::ledger_topic;
use crate::pipeline::jobs::stored::{Job, LedgerEntry, ledger_entry};
use crate::pipeline::ledger::{Compared, GapEnd, OpenGap};
use crate::pipeline::ledger_entries::append_entries;
use crate::pipeline::reconcile::comparison::{Difference, Finding};
use crate::pipeline::reconcile::inspection::Inspected;
use crate::pipeline::reconcile::unable::Unable;

/// Ids in one entry: a job of as many takes a third of what a checkpoint may hold of jobs.
const MOST_IDS: usize = 1_000;

/// With more findings all records that were changed in that time are read instead.
const MOST_FINDINGS: usize = 100_000;

/// What became of the findings of one object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repair {
    /// Entries put into the ledger.
    pub entries: u64,
    /// Records that they concern.
    pub records: u64,
    /// Records that an open entry concerned already.
    pub open_already: u64,
    /// Records that reading cannot mend.
    pub left: u64,
}

/// What is read for the open entries of a stream's ledger.
#[derive(Debug, Default)]
pub struct OpenEntries {
    /// Objects that are gone through, and since when what was changed is read; all of it where there is no time. None stands for
    /// every object.
    whole: BTreeMap<Option<String>, Option<DateTime<Utc>>>,
    records: HashSet<String>,
    /// Of them, those that may be taken for deleted.
    absent: HashSet<String>,
}

impl OpenEntries {
    /// Reads the ledger.
    ///
    /// # Errors
    /// When it cannot be read to its end.
    pub async fn read(kafka: &KafkaSettings, identity: &StreamIdentity) -> Result<Self, Unable> {
        let newest: Arc<Mutex<HashMap<String, LedgerEntry>>> = Arc::default();
        let (found, org, topic) = (newest.clone(), identity.org.clone(), identity.topic.clone());
        let own = move |record: &ScannedRecord| {
            let own = record.header("org") == Some(org.as_str().as_bytes());
            ledger_entry(record.value.as_deref().filter(|_| own)?, &topic)
        };
        scan(kafka, &ledger_topic(&identity.prefix), ScanFrom::Beginning, move |record| {
            if let Some((id, entry)) = own(record) {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                match entry {
                    Some(entry) => drop(found.insert(id, entry)),
                    None => drop(found.remove(&id)),
                }
            }
            ControlFlow::Continue(())
        })
        .await?;
        let newest = std::mem::take(&mut *newest.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(newest.into_values().filter_map(|entry| entry.job(&identity.topic)).collect())
    }

    /// Whether what is found will be mended anyway. Ids tell objects apart.
    fn concern(&self, entity: &str, finding: &Finding) -> bool {
        let of = |entity: Option<&str>| self.whole.get(&entity.map(str::to_owned));
        let whole = of(None).into_iter().chain(of(Some(entity))).any(|since| is_read(*since, finding));
        let named = if finding.finding == Difference::Extra { &self.absent } else { &self.records };
        whole || named.contains(&finding.id)
    }
}

/// Of what the jobs of the entries read.
impl FromIterator<Job> for OpenEntries {
    fn from_iter<T: IntoIterator<Item = Job>>(jobs: T) -> Self {
        let mut open = Self::default();
        for job in jobs {
            if let Some(listing) = job.listing {
                // No time is the earliest.
                open.whole.entry(job.entity).and_modify(|own| *own = listing.since.min(*own)).or_insert(listing.since);
            }
            open.records.extend(job.ids);
            open.absent.extend(job.gone);
        }
        open
    }
}

/// Whether a job that goes through the whole object, and reads what was changed since a time, mends a finding. What is deleted or
/// gone it finds by all ids; of the other records it reads those that are stamped since then.
fn is_read(since: Option<DateTime<Utc>>, finding: &Finding) -> bool {
    match finding.finding {
        Difference::Deleted | Difference::Extra => true,
        Difference::Missing | Difference::Stale => {
            since.is_none_or(|since| finding.changed_at.is_some_and(|at| at >= since))
        }
        // Nothing that a job reads mends it.
        Difference::Unseen => false,
    }
}

/// Puts what a comparison found into the ledger, but for what is there already and what reading cannot mend. `by` is the run.
///
/// # Errors
/// When the ledger cannot be written; some of the entries may stand there all the same.
pub async fn repair(
    kafka: &KafkaSettings,
    identity: &StreamIdentity,
    by: &str,
    inspected: &Inspected,
    open: &OpenEntries,
) -> Result<Repair, Unable> {
    let (mendable, left): (Vec<&Finding>, Vec<_>) =
        inspected.findings.iter().partition(|finding| finding.finding.is_mendable());
    let (known, new): (Vec<_>, Vec<&Finding>) =
        mendable.into_iter().partition(|finding| open.concern(&inspected.entity, finding));
    let entries = entries(inspected, &new);
    if !entries.is_empty() {
        append_entries(kafka, (&identity.org, &identity.topic), by, &entries).await?;
    }
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    Ok(Repair {
        entries: count(entries.len()),
        records: count(new.len()),
        open_already: count(known.len()),
        left: count(left.len()),
    })
}

/// The entries that concern these findings.
fn entries(inspected: &Inspected, findings: &[&Finding]) -> Vec<OpenGap> {
    let from = GapEnd { replay_id: None, time: inspected.from };
    let entry = |records: Vec<String>, compared: Compared, of: &[&Finding]| {
        OpenGap::reconciled(&inspected.entity, records, compared, from.clone(), detail(inspected, of))
    };
    if findings.len() > MOST_FINDINGS {
        let compared =
            Compared { absent: Vec::new(), known: BTreeMap::new(), held: inspected.held, at: inspected.began };
        return vec![entry(Vec::new(), compared, findings)];
    }
    let part = |findings: &[&Finding]| {
        let absent = findings.iter().filter(|finding| finding.finding == Difference::Extra);
        let compared = Compared {
            absent: absent.map(|finding| finding.id.clone()).collect(),
            known: findings.iter().filter_map(|finding| Some((finding.id.clone(), ahead(finding)?))).collect(),
            held: inspected.held,
            at: inspected.began,
        };
        entry(findings.iter().map(|finding| finding.id.clone()).collect(), compared, findings)
    };
    findings.chunks(MOST_IDS).map(part).collect()
}

/// Up to when Kafka knew a record, where what is written for it would be older by the record's own stamp.
fn ahead(finding: &Finding) -> Option<DateTime<Utc>> {
    finding.known_to.filter(|known| finding.changed_at.is_none_or(|changed| changed <= *known))
}

/// The facts in a sentence.
fn detail(inspected: &Inspected, findings: &[&Finding]) -> String {
    let mut counts: BTreeMap<Difference, usize> = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.finding).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
    let what = match inspected.from {
        Some(from) => format!("what was changed since {}", from.to_rfc3339_opts(SecondsFormat::Secs, true)),
        None => "all ids".to_owned(),
    };
    format!("{what} compared with the org: {} {} records", counts.join(", "), inspected.entity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::TopicName;
    use crate::pipeline::reconcile::comparison::time;

    fn finding(number: usize, kind: Difference, changed: Option<i64>, known: Option<i64>) -> Finding {
        let id = crate::identity::case_safe_id(&format!("5008d0000{number:06}")).into_owned();
        Finding { finding: kind, id, changed_at: changed.map(time), known_to: known.map(time) }
    }

    fn inspected(findings: Vec<Finding>) -> Inspected {
        Inspected {
            entity: "Case".into(),
            began: time(2_100),
            full: false,
            from: Some(time(1_000)),
            to: time(2_000),
            judged: 9,
            young: 0,
            settled: 0,
            held: 5_000,
            findings,
        }
    }

    #[test]
    fn an_entry_names_the_records_and_says_of_which_a_job_may_believe_that_they_are_gone() {
        let found = inspected(vec![
            finding(1, Difference::Stale, Some(1_500), Some(1_400)),
            finding(2, Difference::Missing, Some(1_500), Some(1_600)),
            finding(3, Difference::Extra, None, Some(1_300)),
        ]);
        let all: Vec<&Finding> = found.findings.iter().collect();
        let made = entries(&found, &all);
        assert_eq!(made.len(), 1);
        let (entry, id) = (&made[0], |at: usize| found.findings[at].id.clone());
        assert_eq!(entry.records, [id(0), id(1), id(2)]);
        let compared = entry.compared.as_ref().expect("what was compared");
        assert_eq!((&compared.absent, compared.held, compared.at), (&vec![id(2)], 5_000, time(2_100)));
        assert_eq!(
            compared.known,
            [(id(1), time(1_600)), (id(2), time(1_300))].into(),
            "the stamp of the first is later"
        );
        let expected = "what was changed since 1970-01-01T00:16:40Z compared with the org: 1 missing, 1 stale, 1 extra Case records";
        assert_eq!(entry.detail, expected);
    }

    #[test]
    fn many_findings_are_several_entries_and_too_many_are_all_records_of_the_time() {
        let many = |count: usize| {
            let found =
                inspected((0..count).map(|number| finding(number, Difference::Missing, Some(1_500), None)).collect());
            entries(&found, &found.findings.iter().collect::<Vec<_>>())
        };
        let parts = many(MOST_IDS * 2 + 1);
        assert_eq!(parts.iter().map(|entry| entry.records.len()).collect::<Vec<_>>(), [MOST_IDS, MOST_IDS, 1]);
        let whole = many(MOST_FINDINGS + 1);
        assert_eq!((whole.len(), whole[0].records.len(), whole[0].from.time), (1, 0, Some(time(1_000))));
        assert!(many(0).is_empty());
    }

    #[test]
    fn what_an_open_entry_concerns_already_is_not_told_twice() {
        let mut open = OpenEntries::default();
        let (stale, extra) =
            (finding(1, Difference::Stale, Some(1), Some(0)), finding(2, Difference::Extra, None, Some(0)));
        assert!(!open.concern("Case", &stale));
        open.records.extend([stale.id.clone(), extra.id.clone()]);
        assert!(open.concern("Case", &stale));
        assert!(!open.concern("Case", &extra), "that entry does not let anybody take it for deleted");
        open.absent.insert(extra.id.clone());
        assert!(open.concern("Case", &extra));
        let whole = OpenEntries { whole: [(Some("Case".to_owned()), None)].into(), ..OpenEntries::default() };
        assert!(whole.concern("Case", &extra) && !whole.concern("Contact", &extra));
    }

    #[test]
    fn a_gap_of_a_range_of_time_concerns_what_its_job_reads_and_no_more() {
        const HOUR: i64 = 3_600;
        let (cases, all): (TopicName, TopicName) =
            ("/data/CaseChangeEvent".parse().expect("a topic"), "/data/ChangeEvents".parse().expect("a topic"));
        let job = |topic: &TopicName, cause: &str, members: &[(&str, serde_json::Value)]| {
            let mut value = serde_json::json!({"id": "gap", "state": "open", "cause": cause, "topic": topic,
                "entity": null, "records": [], "to": {"time": time(11 * HOUR)}, "source": null});
            for (name, member) in members {
                value[name] = member.clone();
            }
            let entry = ledger_entry(value.to_string().as_bytes(), topic).expect("own").1.expect("open");
            entry.job(topic).expect("a job")
        };
        let open = |topic: &TopicName, cause: &str, members: &[(&str, serde_json::Value)]| {
            OpenEntries::from_iter([job(topic, cause, members)])
        };
        let from = |hours: i64| ("from", serde_json::json!({"time": time(hours * HOUR)}));
        let of = |entity: &str| ("entity", serde_json::json!(entity));
        let stale = |at: i64| finding(1, Difference::Stale, Some(at), Some(0));
        let missing = |at: i64| finding(1, Difference::Missing, Some(at), None);
        let deleted = finding(1, Difference::Deleted, Some(1), Some(0));
        let extra = finding(1, Difference::Extra, None, Some(0));

        let refused = open(&cases, "refused", &[from(10)]);
        for one in [stale, missing] {
            assert!(refused.concern("Case", &one(9 * HOUR)), "an hour before it is read too");
            assert!(!refused.concern("Case", &one(9 * HOUR - 1)), "stamped before all that is read");
        }
        assert!(refused.concern("Case", &deleted) && refused.concern("Case", &extra), "all ids are looked at");
        assert!(!refused.concern("CaseComment", &stale(10 * HOUR)), "a polled object of a stream of cases");
        let two = ["refused", "expired"].into_iter().zip([from(10), from(5)]);
        let two: OpenEntries = two.map(|(cause, from)| job(&cases, cause, &[from])).collect();
        assert!(two.concern("Case", &stale(4 * HOUR)) && !two.concern("Case", &stale(4 * HOUR - 1)));
        assert!(open(&cases, "refused", &[]).concern("Case", &stale(1)), "without a beginning all is read");
        assert!(open(&cases, "overflow", &[from(10), of("Case")]).concern("Case", &stale(1)), "and for an object");
        let compared = open(&cases, "reconciled", &[from(10), of("Case")]);
        assert!(compared.concern("Case", &stale(9 * HOUR)) && !compared.concern("Case", &stale(1)));
        let channel = open(&all, "moved", &[from(10)]);
        assert!(channel.concern("CaseComment", &stale(9 * HOUR)) && !channel.concern("Case", &stale(1)));
        let wildcard = open(&cases, "wildcard", &[of("Case"), ("records", serde_json::json!(["500*"]))]);
        assert!(wildcard.concern("Case", &stale(1)), "its records cannot be told, so all are read");
    }
}
