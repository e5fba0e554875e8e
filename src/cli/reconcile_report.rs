//! What `casewire reconcile` prints.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::cli::checkpoint_show::time_text;
use crate::cli::error::ReconcileError;
use crate::cli::table;
use crate::failure::Failure;
use crate::identity::TopicName;
use crate::pipeline::reconcile::{Difference, Inspected, Repair, Standing};

/// All that was compared.
pub struct Report {
    /// By stream.
    pub streams: Vec<StreamReport>,
    /// Whether the configuration lets gaps be healed.
    pub heal: bool,
}

/// What was compared of one stream.
pub struct StreamReport {
    /// Its topic.
    pub topic: TopicName,
    /// Where it stands.
    pub standing: Option<Standing>,
    /// Salesforce's time.
    pub now: DateTime<Utc>,
    /// Its objects.
    pub entities: Vec<Inspected>,
    /// Those that could not be compared, and why.
    pub unable: Vec<(String, Failure)>,
    /// What became of the findings, if they were to be repaired.
    pub repaired: Option<Repair>,
}

impl Report {
    /// Everything.
    pub fn as_json(&self) -> Value {
        let findings: usize = self.inspected().map(|one| one.findings.len()).sum();
        let unable: usize = self.streams.iter().map(|stream| stream.unable.len()).sum();
        json!({ "agree": findings == 0 && unable == 0, "findings": findings, "streams": self.streams.iter().map(stream_json).collect::<Vec<_>>() })
    }

    /// For a terminal; at most `show` findings of each object.
    pub fn as_text(&self, show: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for stream in &self.streams {
            if let Some((standing, behind)) =
                stream.standing.as_ref().and_then(|standing| Some((standing, standing.behind(stream.now)?)))
            {
                let minutes = behind.num_minutes();
                lines.push(format!(
                    "{} is {} h {} min behind: what was changed after {} is not judged",
                    stream.topic,
                    minutes / 60,
                    minutes % 60,
                    time_text(standing.judged_to())
                ));
            }
            for inspected in &stream.entities {
                lines.push(head(inspected));
                lines.extend(findings(inspected, show));
            }
            lines.extend(stream.unable.iter().map(|(entity, failure)| format!("{entity}: not compared: {failure}")));
            lines.extend(stream.repaired.as_ref().map(|repaired| self.repaired(stream, repaired)));
        }
        lines
    }

    fn repaired(&self, stream: &StreamReport, repaired: &Repair) -> String {
        let mut text = format!(
            "{}: {} in the gap ledger for {} records",
            stream.topic,
            entries(repaired.entries),
            repaired.records
        );
        if repaired.open_already > 0 {
            text.push_str(&format!("; {} stand there already", repaired.open_already));
        }
        if repaired.left > 0 {
            text.push_str(&format!("; {} that may only be hidden are left as they are", repaired.left));
        }
        if repaired.entries == 0 {
            return text;
        }
        let standing = stream.standing.as_ref();
        let then = match standing {
            _ if !self.heal => "gaps.heal is off in this configuration: they wait until it is on".to_owned(),
            Some(standing) if standing.is_running() => {
                format!(
                    "the service on {} finds them within gaps.look_every and reads the records again",
                    standing.writer.host
                )
            }
            _ => "no service commits to this stream at the moment: they wait in the ledger until one starts".to_owned(),
        };
        format!("{text}; {then}")
    }

    fn inspected(&self) -> impl Iterator<Item = &Inspected> {
        self.streams.iter().flat_map(|stream| &stream.entities)
    }

    /// How the command ends. What could not be compared weighs more than what was found.
    pub fn verdict(&self, repaired: bool) -> Result<(), Failure> {
        if let Some((entity, failure)) = self.streams.iter().flat_map(|stream| &stream.unable).next() {
            return Err(failure.of(entity));
        }
        let count = |kind| self.inspected().map(|one| one.count(kind)).sum::<u64>();
        let counts = Difference::ALL.map(|kind| (kind, count(kind)));
        let told: Vec<String> = counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {}", kind.name()))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        let told = told.join(", ");
        let unseen = count(Difference::Unseen) > 0;
        Err(match (repaired, unseen) {
            (_, true) => ReconcileError::Unseen(told),
            (false, false) => ReconcileError::Differ(told),
            (true, false) => ReconcileError::Repaired(told),
        }
        .into())
    }
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

fn head(inspected: &Inspected) -> String {
    let what = match inspected.from {
        Some(from) => format!("changed from {} to {}", time_text(from), time_text(inspected.to)),
        None => format!("changed before {}", time_text(inspected.to)),
    };
    let outcome = match inspected.findings.len() {
        0 => "agree".to_owned(),
        1 => "1 differs".to_owned(),
        count => format!("{count} differ"),
    };
    format!(
        "{}: {outcome}, of {} records {what}; {} changed later and were not judged",
        inspected.entity, inspected.judged, inspected.young
    )
}

/// The counts, and some of what was found, in the order of the kinds.
fn findings(inspected: &Inspected, show: usize) -> Vec<String> {
    if inspected.findings.is_empty() {
        return Vec::new();
    }
    let mut sorted: Vec<_> = inspected.findings.iter().collect();
    sorted.sort_by_key(|finding| finding.finding);
    let time = |time: Option<DateTime<Utc>>| time.map_or_else(|| "-".to_owned(), time_text);
    let rows: Vec<[String; 4]> = sorted
        .iter()
        .take(show)
        .map(|finding| {
            [finding.finding.name().to_owned(), finding.id.clone(), time(finding.changed_at), time(finding.known_to)]
        })
        .collect();
    let mut lines = table::lines(["finding", "id", "changed in the org", "known to Kafka up to"], &rows);
    let more = sorted.len().saturating_sub(rows.len());
    if more > 0 {
        lines.push(format!("and {more} more; --json has all"));
    }
    for kind in Difference::ALL {
        let count = inspected.count(kind);
        if count > 0 {
            lines.push(format!("{count:>6}  {}", kind.name()));
        }
    }
    lines
}

fn stream_json(stream: &StreamReport) -> Value {
    let standing = stream.standing.as_ref();
    json!({
        "topic": stream.topic,
        "position_time": standing.map(|standing| time_text(standing.position)),
        "seconds_behind": standing.and_then(|standing| standing.behind(stream.now)).map(|behind| behind.num_seconds()),
        "service_runs": standing.map(Standing::is_running),
        "entities": stream.entities.iter().map(entity_json).collect::<Vec<_>>(),
        "unable": stream.unable.iter().map(|(entity, failure)| {
            json!({ "entity": entity, "what": failure.what, "remedy": failure.remedy })
        }).collect::<Vec<_>>(),
        "repair": stream.repaired.as_ref().map(|repaired| json!({
            "entries": repaired.entries, "records": repaired.records,
            "open_already": repaired.open_already, "left": repaired.left,
        })),
    })
}

fn entity_json(inspected: &Inspected) -> Value {
    json!({
        "entity": inspected.entity,
        "full": inspected.full,
        "from": inspected.from.map(time_text),
        "to": time_text(inspected.to),
        "judged": inspected.judged,
        "young": inspected.young,
        "settled": inspected.settled,
        "counts": Difference::ALL.into_iter().map(|kind| (kind.name().to_owned(), json!(inspected.count(kind)))).collect::<serde_json::Map<_, _>>(),
        "findings": inspected.findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use crate::pipeline::reconcile::Finding;

    fn report(kinds: &[Difference]) -> Report {
        let time = |seconds: i64| DateTime::from_timestamp(1_790_000_000 + seconds, 0).expect("a time");
        let finding = |(number, kind): (usize, &Difference)| Finding {
            finding: *kind,
            id: format!("5008d000000{number:04}AAA"),
            changed_at: Some(time(5)),
            known_to: None,
        };
        let entity = Inspected {
            entity: "Case".into(),
            began: time(9),
            full: false,
            from: Some(time(0)),
            to: time(9),
            judged: 12,
            young: 1,
            settled: 0,
            held: 12,
            findings: kinds.iter().enumerate().map(finding).collect(),
        };
        let topic = "/data/CaseChangeEvent".parse().expect("a topic");
        Report {
            streams: vec![StreamReport {
                topic,
                standing: None,
                now: time(9),
                entities: vec![entity],
                unable: Vec::new(),
                repaired: None,
            }],
            heal: true,
        }
    }

    #[test]
    fn findings_are_shown_up_to_a_number_and_counted_by_kind() {
        use Difference::{Missing, Stale};
        let found = report(&[Stale, Missing, Stale]);
        let lines = found.as_text(2);
        assert!(lines[0].starts_with("Case: 3 differ, of 12 records changed from 2026-"), "{lines:?}");
        assert!(lines[2].starts_with("missing") && lines[3].starts_with("stale"), "{lines:?}");
        assert_eq!(lines[4..], ["and 1 more; --json has all", "     1  missing", "     2  stale"]);
        let failure = found.verdict(false).expect_err("they differ");
        assert_eq!(
            (failure.exit, failure.what.as_str()),
            (Exit::Findings, "Kafka and the org differ: 1 missing, 2 stale")
        );
        assert_eq!(found.as_json()["streams"][0]["entities"][0]["counts"]["stale"], 2);
        assert!(report(&[]).verdict(false).is_ok());
        let mut part = report(&[Stale]);
        let failure = Failure::new(Exit::NoPermission, "not for you", "ask for it");
        part.streams[0].unable.push(("User".to_owned(), failure));
        assert_eq!(part.as_text(9).last().map(String::as_str), Some("User: not compared: not for you — ask for it"));
        let failure = part.verdict(false).expect_err("not all was compared");
        assert_eq!((failure.exit, failure.what.as_str()), (Exit::NoPermission, "User: not for you"));
        assert_eq!(report(&[]).as_json()["agree"], true);
    }
}
