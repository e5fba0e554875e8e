//! The task that decides what is fetched next, one page at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::{FieldChoice, MessagesConfig};
use crate::kafka::failpoint::{self, After};
use crate::kafka::{KafkaSettings, TopicRole};
use crate::pipeline::context::StreamContext;
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::messages::budget::Budget;
use crate::pipeline::messages::catching_up::Ahead;
use crate::pipeline::messages::comparing::{Comparing, Step};
use crate::pipeline::messages::comparison::Comparison;
use crate::pipeline::messages::conversation::{self, Conversation, Reason};
use crate::pipeline::messages::desk::{MessageDesk, Trigger};
use crate::pipeline::messages::doubt::Doubt;
use crate::pipeline::messages::fetching::Underway;
use crate::pipeline::messages::participants::Beside;
use crate::pipeline::messages::seam::MessageBatch;
use crate::pipeline::messages::sessions::{LISTING, Sessions};
use crate::pipeline::messages::setback::{LIMITS, Setback};
use crate::pipeline::notice::Notice;
use crate::pipeline::output_topics::OutputTopics;
use crate::salesforce::api_usage::ApiUsage;
use crate::salesforce::backoff::Backoff;
use crate::salesforce::conversation_entries::EntriesClient;
use crate::salesforce::describe::Descriptions;
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest_client::RestClient;

/// The entity of what is written, for claims and topics.
const ENTITY: &str = "ConversationEntry";

/// Looks at what is to be done are at least so far apart: events can come by the thousand.
const BREATH: Duration = Duration::from_millis(50);

/// How often the board is brought up to date although nothing happens.
const LOOK: Duration = Duration::from_secs(5);

/// How often conversations are looked through for those that are over, and how many are forgotten at once.
const FORGETTING: Duration = Duration::from_secs(3600);
const FORGOTTEN: usize = 1_000;

/// What a runner works with.
type Parts = (Arc<StreamContext>, Arc<StreamMemory>, KafkaSettings, (RestClient, EntriesClient), Arc<MessageDesk>);

/// The runner of one attempt.
pub(in crate::pipeline) struct MessageRunner {
    pub(super) context: Arc<StreamContext>,
    pub(super) kafka: KafkaSettings,
    pub(super) memory: Arc<StreamMemory>,
    pub(super) config: MessagesConfig,
    pub(super) rest: RestClient,
    pub(super) entries: EntriesClient,
    pub(super) desk: Arc<MessageDesk>,
    pub(super) out: mpsc::Sender<MessageBatch>,
    /// `<prefix>.ConversationEntry`
    pub(super) topic: Arc<str>,
    pub(super) topics: OutputTopics,
    pub(super) cancel: CancellationToken,
    pub(super) reader: RecordReader,
    pub(super) beside: Beside,
    /// What is known of each, as the run loop has committed it; sessions may have been heeded since.
    pub(super) conversations: BTreeMap<String, Conversation>,
    pub(super) sessions: Sessions,
    /// Fetches that have begun.
    pub(super) underway: HashMap<String, Underway>,
    /// The sessions of snapshots that are next, the newest first.
    pub(super) ahead: VecDeque<Ahead>,
    pub(super) budget: Budget,
    /// What is compared with what Kafka holds of it, when nothing else is to be fetched.
    pub(super) comparing: Comparing,
    /// Conversations and sessions that wait alone, each with the number of the event that it waits since.
    pub(super) waits: HashMap<String, (Instant, u64)>,
    /// Whose fault it is that entries could not be read.
    pub(super) doubt: Doubt,
    backoff: Backoff,
    listing_backoff: Backoff,
    list_at: Instant,
    forget_at: Instant,
}

/// What comes next.
enum Next {
    Resolve(Vec<(String, Trigger)>),
    List,
    Forget,
    LookAhead,
    PassOver,
    Records(String),
    PrepareComparison,
    Compare(String),
    Fetch(String, Reason),
    Wait(Instant),
}

impl MessageRunner {
    /// A runner that goes on from what the stream keeps, and hands what it reads to `out`.
    pub fn new(
        (context, memory, kafka, (rest, entries), desk): Parts,
        config: MessagesConfig,
        kept: &BTreeMap<String, Bytes>,
        out: mpsc::Sender<MessageBatch>,
        cancel: CancellationToken,
    ) -> Self {
        let conversations = conversation::kept(kept);
        let now = rest.session().salesforce_now().timestamp_millis();
        let active = conversations.iter().filter_map(|(id, conversation)| {
            let ago = u64::try_from(now.saturating_sub(conversation.active_at()?)).unwrap_or(0);
            Some((id.clone(), Duration::from_millis(ago)))
        });
        Self {
            budget: Budget::new(&config, active),
            topic: format!("{}.{ENTITY}", context.identity.prefix).into(),
            topics: OutputTopics::new(kafka.clone(), context.board.clone(), memory.clone()),
            comparing: Comparing::new(Comparison::kept(kept)),
            kafka,
            reader: RecordReader::new(
                rest.clone(),
                Descriptions::new(rest.clone(), FieldChoice::All, context.policies.clone()),
            ),
            beside: Beside::default(),
            context,
            memory,
            config,
            rest,
            entries,
            desk,
            out,
            cancel,
            conversations,
            sessions: Sessions::default(),
            underway: HashMap::new(),
            ahead: VecDeque::new(),
            waits: HashMap::new(),
            doubt: Doubt::new(),
            backoff: Backoff::new(LIMITS),
            listing_backoff: Backoff::new(LIMITS),
            list_at: Instant::now(),
            forget_at: Instant::now() + FORGETTING,
        }
    }

    /// Salesforce's time in milliseconds.
    pub(super) fn now(&self) -> i64 {
        self.rest.session().salesforce_now().timestamp_millis()
    }

    /// Runs until nobody takes what it reads.
    pub async fn run(mut self) {
        loop {
            let outcome = self.turn().await;
            let Err(setback) = outcome else { continue };
            if matches!(setback, Setback::Gone) {
                return;
            }
            let wait = setback.wait(&mut self.backoff);
            self.say(&setback, wait);
            if self.pause(wait).await.is_err() {
                return;
            }
        }
    }

    /// Lets all messages wait; whoever asks for a comparison, or for its end, is answered meanwhile.
    async fn pause(&mut self, wait: Duration) -> Result<(), Setback> {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                () = self.context.board.requests().comparison_come() => {}
            }
            self.answer_comparisons().await?;
            self.show();
        }
    }

    /// One thing that is to be done, or the wait for the next.
    async fn turn(&mut self) -> Result<(), Setback> {
        self.ready().await?;
        self.answer_comparisons().await?;
        let triggers = self.desk.triggers();
        let next = self.next(&triggers);
        self.show();
        match next {
            Next::Resolve(triggers) => {
                self.within_share()?;
                self.resolve(triggers).await?;
            }
            Next::List => {
                self.within_share()?;
                match self.list_open().await {
                    Ok(()) => self.list_at = Instant::now() + LISTING,
                    Err(Setback::Gone) => return Err(Setback::Gone),
                    // What events told of can be fetched without the list.
                    Err(setback) => {
                        let wait = setback.wait(&mut self.listing_backoff);
                        self.list_at = Instant::now() + wait;
                        self.say(&setback, wait);
                        return Ok(());
                    }
                }
                self.listing_backoff.reset();
            }
            Next::Forget => self.forget_old().await?,
            Next::LookAhead => {
                self.within_share()?;
                self.look_ahead().await?;
            }
            Next::PassOver => self.pass_over().await?,
            Next::PrepareComparison => self.prepare_comparison().await?,
            Next::Records(id) => {
                self.within_share()?;
                if !self.fetch_records(&id).await? {
                    return Ok(());
                }
            }
            Next::Compare(id) => {
                self.within_share()?;
                if !self.compare(&id).await? {
                    return Ok(());
                }
            }
            Next::Fetch(id, reason) => {
                failpoint::pass(After::ChoosingConversation);
                self.within_share()?;
                if !self.fetch_or_wait(&id, reason).await? {
                    return Ok(());
                }
            }
            Next::Wait(until) => {
                self.rest_until(until).await;
                return Ok(());
            }
        }
        self.backoff.reset();
        if !self.doubt.is_open() {
            self.all_is_well();
        }
        Ok(())
    }

    /// Waits until something is to be done.
    async fn rest_until(&self, until: Instant) {
        sleep(BREATH).await;
        tokio::select! {
            () = self.desk.changed.notified() => {}
            () = self.context.board.requests().comparison_come() => {}
            () = sleep_until(until.min(Instant::now() + LOOK)) => {}
        }
    }

    /// Makes sure of the topic, and that no other stream writes to it.
    async fn ready(&mut self) -> Result<(), Setback> {
        self.context.claims.claim(ENTITY, &self.context.identity.topic).map_err(Setback::Stopped)?;
        self.topics.ensure(&self.topic, TopicRole::Conversation, &self.cancel).await.map_err(Setback::Stopped)
    }

    /// Leaves the rest of the org's API requests to others.
    pub(super) fn within_share(&self) -> Result<(), Setback> {
        let Some(usage) = self.rest.usage().filter(ApiUsage::is_fresh) else { return Ok(()) };
        let used = usage.used.saturating_mul(100).checked_div(usage.maximum).unwrap_or(100);
        if used >= self.config.api_share { Err(Setback::Share { used }) } else { Ok(()) }
    }

    /// What comes next that costs no call for entries.
    fn next_without_call(&self, triggers: &BTreeMap<String, Trigger>, now: Instant) -> Option<Next> {
        let unresolved = self.unresolved(triggers);
        if !unresolved.is_empty() {
            return Some(Next::Resolve(unresolved));
        }
        if self.list_at <= now {
            return Some(Next::List);
        }
        (self.forget_at <= now).then_some(Next::Forget)
    }

    /// What comes next: what costs no call for entries first, then the most urgent conversation that may be asked for.
    fn next(&mut self, triggers: &BTreeMap<String, Trigger>) -> Next {
        let (now, wall) = (Instant::now(), self.now());
        if let Some(next) = self.next_without_call(triggers, now) {
            return next;
        }
        let call_at = self.budget.next_call(now).max(self.doubt.not_before());
        let mut first: Option<(Reason, i64, &str)> = None;
        // Nothing is later than the end of a wait, whatever it is for.
        let mut wake = self.list_at.min(self.forget_at);
        wake = self.waits.values().map(|(until, _)| *until).filter(|until| *until > now).fold(wake, Instant::min);
        let told = triggers.iter().filter_map(|(session, trigger)| {
            let (number, id) = self.sessions.resolved.get(session)?;
            // Its time is our clock's, and only says which is the oldest.
            let due = trigger.since.timestamp_millis().min(wall);
            (*number == trigger.number).then_some((Reason::Event, due, id.as_str()))
        });
        let watched = self.conversations.iter().filter_map(|(id, conversation)| {
            let (due, reason) = conversation.due(&self.config)?;
            Some((reason, due, id.as_str()))
        });
        let held = self.underway.iter().find(|(id, underway)| underway.holds() && self.budget.admits(id));
        if let Some((id, _)) = held {
            let id = id.clone();
            return if call_at <= now { Next::Fetch(id, Reason::Event) } else { Next::Wait(call_at) };
        }
        let mut full = false;
        for (reason, due, id) in told.chain(watched) {
            // A fetch that has begun goes on behind those that came meanwhile, unless it holds what it read in memory.
            let due = self.underway.get(id).map_or(due, |underway| underway.since);
            if due > wall {
                let left = Duration::from_millis(u64::try_from(due - wall).unwrap_or(0));
                wake = wake.min(now + left);
            } else if self.is_waiting(id, 0) {
                // Its end is among those above.
            } else if !self.budget.admits(id) {
                full = true;
            } else if first.is_none_or(|first| self.doubt.prefers((reason, due, id), first)) {
                first = Some((reason, due, id));
            }
        }
        if let Some((reason, _, id)) = first.filter(|_| call_at <= now) {
            return Next::Fetch(id.to_owned(), reason);
        }
        let later = first.is_some();
        // What was said goes first.
        if let Some(id) = self.next_without_records() {
            return Next::Records(id.to_owned());
        }
        if later {
            return Next::Wait(call_at);
        }
        let wake = self.settled_at(triggers, now).map_or(wake, |at| at.min(wake));
        let inactive_at = self.budget.next_inactive().filter(|_| full);
        self.past(now, inactive_at.map_or(wake, |at| at.min(wake)))
    }

    /// What comes next when nothing urgent is to be done: what snapshots found, as far as it leaves calls to what comes.
    fn past(&mut self, now: Instant, wake: Instant) -> Next {
        if self.has_nothing_to_ask() {
            return Next::PassOver;
        }
        if self.ahead.is_empty() && !self.has_unknown_old() {
            return self.compared(now, wake);
        }
        let call_at = self.budget.next_spare_call(now).max(self.doubt.spare_not_before());
        if call_at > now {
            return Next::Wait(wake.min(call_at));
        }
        if self.has_unknown_old() {
            return Next::LookAhead;
        }
        match self.next_past().map(str::to_owned) {
            Some(id) if self.budget.admits_spare(&id) => Next::Fetch(id, Reason::History),
            Some(_) => Next::Wait(self.budget.next_inactive().map_or(wake, |at| at.min(wake))),
            None => self.compared(now, wake),
        }
    }

    /// What comes next when nothing else is to be done: a comparison, which leaves as much to what comes.
    fn compared(&mut self, now: Instant, wake: Instant) -> Next {
        match self.comparing.step(now) {
            Step::Wait(until) => Next::Wait(until.map_or(wake, |until| until.min(wake))),
            Step::Prepare => Next::PrepareComparison,
            Step::Ask(id) => match self.budget.next_spare_call(now).max(self.doubt.spare_not_before()) {
                at if at > now => Next::Wait(wake.min(at)),
                _ if self.budget.admits_spare(&id) => Next::Compare(id),
                _ => Next::Wait(self.budget.next_inactive().map_or(wake, |at| at.min(wake))),
            },
        }
    }

    /// When the next trigger is old enough.
    fn settled_at(&self, triggers: &BTreeMap<String, Trigger>, now: Instant) -> Option<Instant> {
        let settle = TimeDelta::from_std(self.config.settle).unwrap_or_default();
        let left = |trigger: &Trigger| (trigger.renewed_at + settle - Utc::now()).to_std().ok();
        triggers.values().filter_map(left).min().map(|left| now + left)
    }

    /// Forgets conversations in which nothing happens any more.
    async fn forget_old(&mut self) -> Result<(), Setback> {
        let now = self.now();
        let waited_for: Vec<&str> = self.sessions.resolved.values().map(|(_, id)| id.as_str()).collect();
        let over = self
            .conversations
            .iter()
            .filter(|(id, conversation)| conversation.is_over(now, &self.config) && !waited_for.contains(&id.as_str()));
        let over: Vec<String> = over.map(|(id, _)| id.clone()).take(FORGOTTEN).collect();
        self.waits.retain(|_, (until, _)| until.elapsed() < FORGETTING);
        if over.len() < FORGOTTEN {
            self.forget_at = Instant::now() + FORGETTING;
        }
        if over.is_empty() {
            return Ok(());
        }
        let without =
            |id: &&String| self.conversations.get(*id).is_some_and(|one| one.records_owed) && self.config.records;
        let without = over.iter().filter(without).count();
        if without > 0 {
            let notice = Notice::RecordsNeverRead { conversations: without };
            warn!(topic = %self.context.identity.topic, "{notice}");
            self.context.board.error(notice.to_string(), notice.remedy());
        }
        debug!(conversations = over.len(), "conversations forgotten");
        self.forget(over).await
    }

    /// Shows why nothing is fetched.
    pub(super) fn say(&self, setback: &Setback, wait: Duration) {
        let failure = setback.failure();
        warn!(topic = %self.context.identity.topic, error = failure.what, remedy = failure.remedy, wait_s = wait.as_secs(), "messages wait");
        let at = Utc::now() + TimeDelta::from_std(wait).unwrap_or_default();
        self.context.board.update(|status| {
            let messages = status.messages.get_or_insert_default();
            messages.waits_for = Some(failure.what);
            messages.remedy = Some(failure.remedy).filter(|remedy| !remedy.is_empty());
            messages.next_attempt_at = Some(at);
        });
    }

    fn all_is_well(&self) {
        self.context.board.update(|status| {
            let messages = status.messages.get_or_insert_default();
            (messages.waits_for, messages.remedy, messages.next_attempt_at) = (None, None, None);
        });
    }

    /// Brings the board up to date.
    fn show(&mut self) {
        let now = Instant::now();
        let usage = self.budget.usage(now);
        let wait = self.budget.next_call(now).saturating_duration_since(now);
        let next_call_at = (!wait.is_zero()).then(|| Utc::now() + TimeDelta::from_std(wait).unwrap_or_default());
        let comparison = self.comparison_status();
        let open = self.conversations.values().filter(|conversation| !conversation.open.is_empty()).count();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let known = count(self.conversations.len());
        self.context.board.update(|status| {
            let messages = status.messages.get_or_insert_default();
            messages.conversations_open = count(open);
            messages.conversations_known = known;
            messages.calls_left = usage.calls_left;
            messages.calls_used = usage.calls_used;
            messages.calls_allowed = usage.calls_allowed;
            messages.calls_window_seconds = usage.window.as_secs();
            messages.conversations_active = usage.active;
            messages.conversations_allowed = usage.active_allowed;
            messages.next_call_at = next_call_at;
            messages.comparison = comparison;
        });
    }
}
