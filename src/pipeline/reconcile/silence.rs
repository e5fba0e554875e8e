//! Whether an object's records change while no events of it come: its tracking was switched off, or the user has lost
//! the right to see it. A channel says nothing of either; the events just stay away.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use crate::kafka::{ScanFrom, ScannedRecord, scan};
use crate::pipeline::context::{dead_letters_topic, ledger_topic};
use crate::pipeline::reconcile::inspection::Inspector;
use crate::pipeline::reconcile::standing::Standing;
use crate::pipeline::reconcile::unable::Unable;
use crate::salesforce::id_listing::ChangedWithin;

/// Within so much time a change has to have been followed by an event.
const WINDOW: TimeDelta = TimeDelta::hours(1);

/// How much earlier than an event its record may be dated: clocks of brokers differ.
const CLOCKS: TimeDelta = TimeDelta::minutes(5);

const PATIENCE: Duration = Duration::from_secs(60);

/// What one look told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing can be said: the stream is behind, or did not listen all the time.
    Unknown,
    /// No record was changed, or an event came.
    Well,
    /// So many records were changed in that time, and no event came since it began.
    Silent {
        /// Records.
        rows: u64,
        /// When that time began.
        since: DateTime<Utc>,
    },
}

/// Looks at one object. `listening_since` is when the process began to carry the stream.
pub(super) async fn look(
    inspector: &Inspector,
    entity: &str,
    standing: &Standing,
    listening_since: DateTime<Utc>,
) -> Result<Heard, Unable> {
    let now = inspector.reader.client().session().salesforce_now();
    let Some(window) = window(standing, now, listening_since) else { return Ok(Heard::Unknown) };
    inspector.within_share()?;
    let rows = inspector.reader.count_changed(entity, window, Instant::now() + PATIENCE).await?;
    if rows == 0 || was_told(inspector, entity, window.from, now).await? {
        return Ok(Heard::Well);
    }
    Ok(Heard::Silent { rows, since: window.from })
}

/// The hour that ends where the stream is surely current; none if it is not, or if nobody listened at its beginning.
fn window(standing: &Standing, now: DateTime<Utc>, listening_since: DateTime<Utc>) -> Option<ChangedWithin> {
    let to = standing.judged_to();
    let from = to.checked_sub_signed(WINDOW)?;
    (standing.behind(now).is_none() && listening_since <= from).then_some(ChangedWithin { from, to })
}

/// Whether anything in Kafka comes from an event of the object that was committed at or after `from`: a record, an entry of the
/// ledger, or a dead letter, of which nobody knows whose it is.
async fn was_told(
    inspector: &Inspector,
    entity: &str,
    from: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<bool, Unable> {
    let prefix = &inspector.identity.prefix;
    // By our own clock, which dates the records; Salesforce's may be another.
    let begin = Utc::now().checked_sub_signed(now - from + CLOCKS).map_or(ScanFrom::Beginning, ScanFrom::Timestamp);
    let records = move |record: &ScannedRecord, _: &str| {
        let committed_at = record.header("committed_at").and_then(|text| std::str::from_utf8(text).ok());
        committed_at.and_then(|text| text.parse::<DateTime<Utc>>().ok()).is_some_and(|at| at >= from)
    };
    let entries = |record: &ScannedRecord, entity: &str| {
        let value = record.value.as_deref().and_then(|value| serde_json::from_slice::<serde_json::Value>(value).ok());
        // What a comparison or an operator wrote tells of no event.
        value.is_some_and(|value| value["entity"] == entity && value["source"].is_object())
    };
    let letters = |_: &ScannedRecord, _: &str| true;
    Ok(any(inspector, format!("{prefix}.{entity}"), begin, entity, records).await?
        || any(inspector, ledger_topic(prefix), begin, entity, entries).await?
        || any(inspector, dead_letters_topic(prefix), begin, entity, letters).await?)
}

/// Whether a record of the organisation is as wanted.
async fn any(
    inspector: &Inspector,
    topic: String,
    begin: ScanFrom,
    entity: &str,
    wanted: impl Fn(&ScannedRecord, &str) -> bool + Send + 'static,
) -> Result<bool, Unable> {
    let (found, org, entity) = (Arc::new(AtomicBool::new(false)), inspector.identity.org.clone(), entity.to_owned());
    let seen = found.clone();
    scan(&inspector.kafka, &topic, begin, move |record| {
        if record.header("org") == Some(org.as_str().as_bytes()) && wanted(record, &entity) {
            seen.store(true, Ordering::Relaxed);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(found.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Writer;

    #[test]
    fn silence_is_judged_only_where_the_stream_is_current_and_was_listened_to() {
        let at = |minutes: i64| DateTime::from_timestamp(1_790_000_000 + minutes * 60, 0).expect("a time");
        let standing = |position| Standing { position, writer: Writer::default(), committed_at: Utc::now() };
        let hour = window(&standing(at(-2)), at(0), at(-200)).expect("a window");
        assert_eq!((hour.from, hour.to), (at(-72), at(-12)));
        assert_eq!(window(&standing(at(-11)), at(0), at(-200)), None, "behind");
        assert_eq!(window(&standing(at(-2)), at(0), at(-71)), None, "began within the hour");
    }
}
