//! Rate and lag of the last minutes, for small charts.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::status::snapshot::Snapshot;

/// Between two samples.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// Samples that are kept: ten minutes.
const KEPT: usize = 300;

/// One stream at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// Records a second that were committed since the sample before.
    pub rate: f64,
    /// Milliseconds from an event's commit at Salesforce to its commit in Kafka, of the newest event; absent where none
    /// was committed since the sample before.
    pub lag_ms: Option<u64>,
}

/// What a stream had counted at the sample before.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    records: u64,
    newest: Option<DateTime<Utc>>,
}

/// The samples of all streams, by topic.
#[derive(Debug, Default)]
pub struct Trend {
    at: Option<DateTime<Utc>>,
    streams: BTreeMap<String, (Counted, VecDeque<Sample>)>,
}

impl Trend {
    /// Takes a sample of each stream, and returns them.
    pub fn sample(&mut self, now: DateTime<Utc>, snapshot: &Snapshot) -> BTreeMap<String, Sample> {
        let since = self.at.replace(now);
        let mut taken = BTreeMap::new();
        for stream in &snapshot.streams {
            let counted = Counted { records: stream.records_committed, newest: stream.last_transaction_at };
            let (before, samples) = self.streams.entry(stream.topic.to_string()).or_default();
            let grown = counted.records.saturating_sub(before.records);
            // Without a sample before there is no time to divide by.
            let seconds = since.map(|since| (now - since).as_seconds_f64()).filter(|seconds| *seconds > 0.0);
            #[allow(clippy::cast_precision_loss, reason = "records of two seconds are far fewer than 2^53")]
            let rate = seconds.map_or(0.0, |seconds| grown as f64 / seconds);
            let lag_ms = stream.last_event_lag_ms.filter(|_| grown > 0 && counted.newest != before.newest);
            let sample = Sample { rate, lag_ms };
            *before = counted;
            samples.push_back(sample);
            if samples.len() > KEPT {
                samples.pop_front();
            }
            taken.insert(stream.topic.to_string(), sample);
        }
        taken
    }

    /// All samples, the oldest first.
    pub fn all(&self) -> BTreeMap<&str, Vec<Sample>> {
        self.streams.iter().map(|(topic, (_, samples))| (topic.as_str(), samples.iter().copied().collect())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Board;

    #[test]
    fn a_sample_is_what_was_committed_since_the_one_before_and_there_are_so_many_of_them() {
        let board = Board::new();
        let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
        let (mut trend, at) = (Trend::default(), |second: i64| DateTime::from_timestamp(1_790_000_000 + second, 0));
        let mut sample = |second: i64, board: &Board| {
            let taken = trend.sample(at(second).expect("in range"), &board.snapshot());
            taken["/data/CaseChangeEvent"]
        };
        stream.update(|status| status.records_committed = 500);
        assert_eq!(sample(0, &board), Sample { rate: 0.0, lag_ms: None }, "what came before is no rate");
        stream.update(|status| {
            status.records_committed = 530;
            (status.last_event_lag_ms, status.last_transaction_at) = (Some(90), Some(Utc::now()));
        });
        assert_eq!(sample(2, &board), Sample { rate: 15.0, lag_ms: Some(90) });
        assert_eq!(sample(4, &board), Sample { rate: 0.0, lag_ms: None }, "an old lag is not told again");
        for second in 5..1_000 {
            sample(second, &board);
        }
        assert_eq!(trend.all()["/data/CaseChangeEvent"].len(), KEPT);
    }
}
