//! How far snapshots are, as whoever waits for them sees it: bars on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::say;
use crate::cli::service_error::SnapshotError;
use crate::failure::Failure;

/// Between two lines where there is no terminal.
const LINES: Duration = Duration::from_secs(10);

/// So often in a row a snapshot may be neither under way nor ended before it is not waited for any more: a stream that begins
/// again shows nothing for a moment.
const PATIENCE: u32 = 60;

/// A snapshot to wait for.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The object.
    pub entity: String,
    /// The id of its job. One that begins anew has the same beginning.
    pub job: String,
    /// How many records it is of; 0 where nobody knows.
    pub expected: u64,
}

/// What waits for them.
pub struct Progress {
    lines: Vec<Line>,
    terminal: bool,
    said: Option<Instant>,
}

struct Line {
    watched: Watched,
    bar: ProgressBar,
    end: Option<End>,
    unseen: u32,
}

enum End {
    Done { rows: u64, deletes: u64, unread: u64 },
    Lost,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new(watched: Vec<Watched>) -> Self {
        let bars = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>24} {wide_bar} {pos}/{len} {per_sec} {eta_precise} {msg}");
        let line = |watched: Watched| {
            let bar = bars.add(ProgressBar::new(watched.expected));
            if let Ok(style) = &style {
                bar.set_style(style.clone());
            }
            bar.set_prefix(watched.entity.clone());
            Line { watched, bar, end: None, unseen: 0 }
        };
        let lines = watched.into_iter().map(line).collect();
        Self { lines, terminal: std::io::stderr().is_terminal(), said: None }
    }

    /// Shows what `/status` says; true when all have ended.
    pub fn show(&mut self, status: &Value) -> bool {
        let due = !self.terminal && self.said.is_none_or(|said| said.elapsed() >= LINES);
        for line in &mut self.lines {
            line.look(status, due);
        }
        if due {
            self.said = Some(Instant::now());
        }
        self.lines.iter().all(|line| line.end.is_some())
    }

    /// Says how they ended.
    ///
    /// # Errors
    /// When records could not be read, or nobody knows how one ended.
    pub fn outcome(&self) -> Result<(), Failure> {
        let mut worst = Ok(());
        for line in &self.lines {
            let entity = &line.watched.entity;
            match line.end {
                Some(End::Done { rows, deletes, unread }) => {
                    say(format_args!("{entity}: {rows} records read, {deletes} deletes found"));
                    if unread > 0 {
                        worst = Err(SnapshotError::Unread { records: unread, entity: entity.clone() }.into());
                    }
                }
                _ => {
                    worst = Err(SnapshotError::Lost(entity.clone()).into());
                }
            }
        }
        worst
    }
}

impl Line {
    fn look(&mut self, status: &Value, due: bool) {
        if self.end.is_some() {
            return;
        }
        let streams = status.pointer("/process/streams").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let find = |list: &str| {
            let mut all = streams.iter().filter_map(|stream| stream.get(list)?.as_array()).flatten();
            all.rfind(|one| self.is_it(one))
        };
        let number = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64).unwrap_or_default();
        if let Some(job) = find("jobs") {
            self.unseen = 0;
            let (listed, expected) = (number(job, "records_listed"), number(job, "records_expected"));
            let waits = job.get("waits_for").and_then(Value::as_str).unwrap_or_default().to_owned();
            self.bar.set_length(expected.max(self.watched.expected).max(listed));
            self.bar.set_position(listed);
            self.bar.set_message(waits.clone());
            if due {
                let rate = self.bar.per_sec();
                let more = if waits.is_empty() { waits } else { format!("; waits: {waits}") };
                say(format_args!(
                    "{}: {listed} of {} records, {rate:.0}/s, {} s left{more}",
                    self.watched.entity,
                    self.bar.length().unwrap_or_default(),
                    self.bar.eta().as_secs()
                ));
            }
        } else if let Some(ended) = find("snapshots") {
            let (rows, deletes, unread) = (number(ended, "rows"), number(ended, "deletes"), number(ended, "unread"));
            self.end = Some(End::Done { rows, deletes, unread });
            self.bar.finish_with_message("done");
        } else {
            self.unseen += 1;
            if self.unseen >= PATIENCE {
                self.end = Some(End::Lost);
                self.bar.abandon();
            }
        }
    }

    fn is_it(&self, job: &Value) -> bool {
        let id = job.get("job").and_then(Value::as_str).unwrap_or_default();
        id.strip_prefix(self.watched.job.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with("-again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use serde_json::json;

    fn status(jobs: &Value, snapshots: &Value) -> Value {
        json!({"process": {"streams": [{"jobs": [], "snapshots": []}, {"jobs": jobs, "snapshots": snapshots}]}})
    }

    fn progress() -> Progress {
        let watched = Watched { entity: "Case".into(), job: "snapshot-7".into(), expected: 100 };
        Progress::new(vec![watched])
    }

    #[test]
    fn it_is_over_when_the_snapshot_has_ended_also_under_the_name_of_its_successor() {
        let mut progress = progress();
        let under_way = json!([{"job": "snapshot-7", "records_listed": 40, "records_expected": 100}]);
        assert!(!progress.show(&status(&under_way, &json!([]))));
        assert_eq!(progress.lines[0].bar.position(), 40);
        assert!(!progress.show(&status(&json!([]), &json!([{"job": "snapshot-71", "rows": 1}]))), "another one");
        let ended = json!([{"job": "snapshot-7-again1", "rows": 98, "deletes": 2, "unread": 0}]);
        assert!(progress.show(&status(&json!([]), &ended)));
        assert_eq!(progress.outcome(), Ok(()));
    }

    #[test]
    fn records_that_were_not_read_and_an_end_that_nobody_saw_are_failures() {
        let mut unread = progress();
        assert!(unread.show(&status(&json!([]), &json!([{"job": "snapshot-7", "rows": 98, "unread": 2}]))));
        assert!(unread.outcome().expect_err("unread").what.contains("2 records of Case"));
        let mut lost = progress();
        let looks = (0..=PATIENCE).take_while(|_| !lost.show(&status(&json!([]), &json!([])))).count();
        assert_eq!(looks + 1, PATIENCE as usize);
        assert_eq!(lost.outcome().expect_err("lost").exit, Exit::Temporary);
    }
}
