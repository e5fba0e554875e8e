//! What the subscription and the producer's connection say of themselves, carried to the status board.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::watch;

use crate::kafka::Connection;
use crate::pipeline::context::StreamContext;
use crate::salesforce::buffer::Buffer;
use crate::salesforce::subscription::SubscriptionState;
use crate::status::{LastError, StreamStatus};

/// How old what changes without a word from the subscription may be on the board.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// Copies what the subscription reports to the board; its counts are those of one attempt. And what the
/// producer's connection reports: on a quiet topic minutes pass before a transaction would notice an outage.
pub async fn mirror(
    context: Arc<StreamContext>,
    mut state: watch::Receiver<SubscriptionState>,
    room: Buffer,
    connection: Arc<Connection>,
) {
    let Some(before) = context.board.status() else { return };
    let mut reachable = true;
    loop {
        if std::mem::replace(&mut reachable, connection.is_reachable()) != reachable {
            let words = || connection.last_error().unwrap_or_else(|| "no broker is connected".to_owned());
            context.board.board().set_kafka(if reachable { Ok(()) } else { Err(words()) });
        }
        let now = state.borrow_and_update().clone();
        let (in_flight, _) = room.used();
        context.board.update(|status| show(status, &before, &now, in_flight));
        // What is in flight falls, and brokers come and go, without a message.
        match tokio::time::timeout(SHOWN_EVERY, state.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => return context.board.update(|status| status.events_in_flight = 0),
        }
    }
}

fn show(status: &mut StreamStatus, before: &StreamStatus, now: &SubscriptionState, in_flight: u32) {
    status.call_open_since = now.opened_at.filter(|_| now.connected);
    status.next_call_at = now.next_attempt_at;
    status.call_had_message = now.connected && now.last_message_at >= now.opened_at;
    status.last_message_at = now.last_message_at.or(before.last_message_at);
    status.events_received = before.events_received + now.events + now.duplicates;
    status.duplicates_dropped = before.duplicates_dropped + now.duplicates;
    status.keepalives_received = before.keepalives_received + now.keepalives;
    status.events_in_flight = u64::from(in_flight);
    if let Some(what) = &now.last_error
        && status.last_error.as_ref().is_none_or(|last| last.what != *what)
    {
        let remedy = now.remedy.clone().unwrap_or_default();
        status.last_error = Some(LastError { at: Utc::now(), what: what.clone(), remedy });
    }
    status.reconnects.clone_from(&before.reconnects);
    for (reason, count) in &now.reconnects {
        *status.reconnects.entry(reason).or_default() += count;
    }
}
