//! What people say in the sessions that are open, at a rate: most of it is told by an event of the session and some is
//! not, texts are redacted, sessions end and their conversations go on in new ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::simulator::control::{Control, ControlError, EventOrder};
use crate::simulator::conversations::MessageOrder;
use crate::simulator::dice::Dice;
use crate::simulator::faults::Fault;
use crate::simulator::org::Org;
use crate::simulator::record_id::record_id;
use crate::simulator::value::Value;

/// Sessions that are kept open, so that there is somewhere to say something.
const OPEN_SESSIONS: usize = 20;

const OPEN: [&str; 4] = ["New", "Active", "Waiting", "Consent"];
const SAYINGS: [&str; 6] = [
    "Hello, my router is down.",
    "Have you tried turning it off and on again?",
    "Yes, twice. The light stays red.",
    "My card number is 4111 1111 1111 1111.",
    "I am sending you a technician.",
    "Thank you \u{1F44B}, that helps.",
];

/// A session in which something can be said.
struct Session {
    id: String,
    conversation: String,
}

/// Lets people talk at the configured rate until told to stop.
pub(crate) async fn talk(org: Arc<Org>, control: Control, shutdown: CancellationToken) {
    let rate = org.settings.traffic.messages;
    if rate <= 0.0 {
        return;
    }
    let mut dice = Dice::stream(org.settings.seed, "chatter");
    let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let paused = org.paused.subscribe();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if *paused.borrow() {
            continue;
        }
        match act(&org, &control, &mut dice).await {
            Ok(()) => {}
            Err(ControlError::Gone) => return,
            // A session can end between the look at it and the message.
            Err(error) => tracing::debug!(%error, "nothing was said"),
        }
    }
}

/// One thing that happens.
async fn act(org: &Org, control: &Control, dice: &mut Dice) -> Result<(), ControlError> {
    let open = open_sessions(org);
    if open.len() < OPEN_SESSIONS {
        // One in three goes on in a conversation that there is.
        let earlier = control.messages();
        let known = if dice.percent(33) && !earlier.is_empty() { Some(dice.pick(&earlier)) } else { None };
        let known = known.map(|entry| entry.conversation_id.clone());
        // Beyond those that the records of other traffic refer to.
        let fresh = record_id("0dw", 1_000_000 + dice.below(1_000_000) as u64);
        let conversation = known.unwrap_or(fresh);
        let session = EventOrder::new("MessagingSession", "CREATE").with("ConversationId", conversation);
        control.publish(session.with("Status", "Active")).await?;
        return Ok(());
    }
    let session = dice.pick(&open);
    match dice.below(100) {
        0..8 => {
            let status = *dice.pick(&["Ended", "Paused", "Inactive"]);
            let end = EventOrder::new("MessagingSession", "UPDATE").on([session.id.as_str()]).with("Status", status);
            control.publish(end).await?;
        }
        8..12 => {
            let conversation = session.conversation.clone();
            let said = control.messages();
            let texts: Vec<_> =
                said.iter().filter(|entry| entry.conversation_id == conversation && entry.text.is_some()).collect();
            if !texts.is_empty() {
                let entry = *dice.pick(&texts);
                let (conversation, entry) = (entry.conversation.clone(), entry.identifier.clone());
                control.inflict(Fault::Redact { conversation, entry, text: "********".to_owned() }).await?;
            }
        }
        _ => {
            let role = (*dice.pick(&["EndUser", "EndUser", "Agent", "Chatbot", "System"])).to_owned();
            let text = (role != "System").then(|| format!("{} #{}", dice.pick(&SAYINGS), dice.below(100_000)));
            let tell = dice.percent(60);
            control.say(MessageOrder { session: session.id.clone(), text, role, tell }).await?;
        }
    }
    Ok(())
}

/// The sessions that are open and have a conversation.
fn open_sessions(org: &Org) -> Vec<Session> {
    let found = org.records.find_object("MessagingSession").and_then(|(at, _)| org.records.snapshot(at));
    let Some(found) = found else { return Vec::new() };
    let (status, conversation) = (found.object.position("Status"), found.object.position("ConversationId"));
    let (Some(status), Some(conversation)) = (status, conversation) else { return Vec::new() };
    let session = |values: Vec<Option<Value>>, id: String| match (values.get(status)?, values.get(conversation)?) {
        (Some(Value::Text(status)), Some(Value::Text(conversation))) if OPEN.contains(&status.as_str()) => {
            Some(Session { id, conversation: conversation.clone() })
        }
        _ => None,
    };
    let rows = found.rows.iter().filter(|(_, row)| !row.deleted);
    rows.filter_map(|(key, row)| session(row.values(&found.object), key.id())).collect()
}
