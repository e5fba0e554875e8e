//! What Kafka holds of the records that a poll's window has, as the object's topic tells, and as jobs of the object change it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use tokio::time::Instant;
use tracing::debug;

use crate::change::RowPlan;
use crate::kafka::{ScanFrom, scan};
use crate::pipeline::jobs::polled::{Held, Window};
use crate::pipeline::jobs::polling::Poll;
use crate::pipeline::jobs::reading::PATIENCE;
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::seam::JobRow;
use crate::pipeline::jobs::setback::Setback;
use crate::pipeline::jobs::touched::{CLOCKS, RecordKey, told};

/// What Kafka holds of records of a polled object once a job has written them; none of those that fall out of the window.
pub(super) struct Rewritten {
    poll: usize,
    states: Vec<(String, RecordKey, Option<Held>)>,
}

impl Runner {
    /// Reads what Kafka holds of the window.
    pub(super) async fn learn_window(&mut self, number: usize, entity: &str, topic: &Arc<str>) -> Result<(), Setback> {
        let Some(from) = self.polls.get(number).and_then(|poll| poll.from) else { return Ok(()) };
        let plan = self.plan_of(entity).await?;
        let found: Arc<Mutex<Window>> = Arc::default();
        let (collected, org) = (found.clone(), self.context.identity.org.clone());
        let begin_of_window = from.timestamp();
        // Records of the topic are dated by our clock.
        let ago = self.reader.client().session().salesforce_now() - from + CLOCKS;
        let begin = Utc::now().checked_sub_signed(ago).map_or(ScanFrom::Beginning, ScanFrom::Timestamp);
        scan(&self.kafka, topic, begin, move |record| {
            let value = record.value.as_deref();
            if record.header("org") == Some(org.as_str().as_bytes())
                && let Some(known) = record.header("op").and_then(|op| told(op, record.header("committed_at"), value))
                // A snapshot that has just ended may have brought millions that are older.
                && known.as_of >= begin_of_window
                && let Some(key) = record.key.as_deref().and_then(RecordKey::of)
            {
                let held = Held::told(known, value, &plan);
                let mut found = collected.lock().unwrap_or_else(PoisonError::into_inner);
                // The newest record of a key is the last, and what Kafka holds goes never back.
                let as_of = found.get(&key).map_or(held.as_of, |before| before.as_of.max(held.as_of));
                found.insert(key, Held { as_of, ..held });
            }
            ControlFlow::Continue(())
        })
        .await?;
        let window = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        debug!(entity, records = window.len(), %from, "poll knows what the topic holds");
        if let Some(poll) = self.polls.get_mut(number) {
            poll.window = Some(window);
        }
        Ok(())
    }

    pub(super) async fn plan_of(&self, entity: &str) -> Result<Arc<RowPlan>, Setback> {
        Ok(self.reader.descriptions().plan(entity, None, Instant::now() + PATIENCE).await?)
    }

    /// What becomes of a poll's window when a job has written these rows; nothing where the object is not polled, or its
    /// window is to be read from the topic anyway.
    pub(super) async fn rewritten(&mut self, entity: Option<&str>, rows: &[JobRow]) -> Option<Rewritten> {
        let entity = entity.filter(|_| !rows.is_empty())?;
        let of = |poll: &Poll| poll.config.entity == entity && poll.window.is_some();
        let poll = self.polls.iter().position(of)?;
        let from = self.polls.get(poll)?.from?.timestamp();
        let Ok(plan) = self.plan_of(entity).await else {
            // The topic tells then.
            self.polls.get_mut(poll)?.window = None;
            return None;
        };
        let state = |row: &JobRow| {
            let value = row.records.first().and_then(|record| record.value.as_deref());
            let held = (row.becomes.as_of >= from).then(|| Held::told(row.becomes, value, &plan));
            (row.id.clone(), row.key, held)
        };
        Some(Rewritten { poll, states: rows.iter().map(state).collect() })
    }

    /// Notes what a job has written, but for the records that went back to it.
    pub(super) fn note_rewritten(&mut self, rewritten: Rewritten, back: &BTreeSet<String>) {
        let poll = self.polls.get_mut(rewritten.poll);
        let Some(window) = poll.and_then(|poll| poll.window.as_mut()) else { return };
        for (_, key, held) in rewritten.states.into_iter().filter(|(id, ..)| !back.contains(id)) {
            match held {
                Some(held) => drop(window.insert(key, held)),
                None => drop(window.remove(&key)),
            }
        }
    }
}
