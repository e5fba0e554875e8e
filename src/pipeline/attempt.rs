//! One attempt of a stream. The order of its steps is the proof of the guarantee:
//!
//! 1. **Fence.** After `init_transactions` nobody older can commit, and the predecessor's open
//!    transaction has ended.
//! 2. **Read** the checkpoint, to the high watermark asked after the fence. Whatever was
//!    committed by anybody older lies below it.
//! 3. **Announce**: commit the same position under this run's name, so that whoever is fenced can see by whom.
//! 4. **Subscribe** after that position, and run.
//!
//! If another instance fences this one anywhere in between, the next transaction fails and
//! nothing that was read is acted upon.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::config::{BufferConfig, CompletionConfig, GapsConfig, MessagesConfig, PagesConfig, PollConfig, RecordMode};
use crate::failure::Failure;
use crate::kafka::{Checkpoint, Connection, KafkaError, KafkaSettings, TopicRole, TransactionalWriter};
use crate::pipeline::beginning::{Beginning, NoBeginning, beginning};
use crate::pipeline::beside::Beside;
use crate::pipeline::completion::{CompletionStation, Wanting};
use crate::pipeline::conclusion::{both, joined};
use crate::pipeline::context::{StreamContext, following};
use crate::pipeline::decode::{DecodeEnd, DecodeStation};
use crate::pipeline::hand_over::PreparedQueue;
use crate::pipeline::jobs::{Desk, JobBatch, Runner, forget_polls, kept_of_polls, open_at_first_run};
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::messages::{MessageInlet, entries_client};
use crate::pipeline::mirror::mirror;
use crate::pipeline::output_topics::OutputTopics;
use crate::pipeline::read_back;
use crate::pipeline::records::RecordWriter;
use crate::pipeline::run_loop::{LoopEnd, RunLoop, SIGN_OF_LIFE};
use crate::pipeline::schemas::SchemaCache;
use crate::position::{Position, ReplayFrom};
use crate::salesforce::buffer::Buffer;
use crate::salesforce::conversation_entries::EntriesClient;
use crate::salesforce::describe::Descriptions;
use crate::salesforce::intake::Intake;
use crate::salesforce::pubsub::PubSub;
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest_client::RestClient;
use crate::salesforce::session::SessionSettings;
use crate::salesforce::subscription::{self, Ended, SubscriptionSettings, SubscriptionState};
use crate::status::StreamState;

/// Batches between two stations, at most. Their events are bounded by the buffer and their
/// records by the budget; this only bounds the empty ones.
const BATCHES: usize = 1024;

/// Rendered records of one stream that wait for their transaction, as a multiple of a full transaction: one in
/// commit and one gathering.
const TRANSACTIONS_IN_MEMORY: usize = 2;

/// And where records are completed, one for which Salesforce is asked.
const TRANSACTIONS_READ: usize = 1;

/// Salesforce's retention in days.
const RETENTION_DAYS: u64 = 3;

/// How an attempt ended.
#[derive(Debug)]
pub enum AttemptEnd {
    /// An orderly end was asked for; all that came is committed.
    Finished,
    /// Something that is mended by beginning again.
    Kafka(KafkaError),
    /// The stream goes on at once from what has just been committed.
    GoOn,
    /// A task beside the events ended by itself; it is logged and shown, and the stream begins again after a while.
    Broken(Failure),
    /// An operator has to look.
    Stopped(Failure),
}

/// What an attempt is made of.
pub struct Attempt {
    /// What all parts know.
    pub context: Arc<StreamContext>,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// Salesforce.
    pub pubsub: PubSub,
    /// The same over REST.
    pub rest: RestClient,
    /// How gaps are healed.
    pub gaps: GapsConfig,
    /// How messages are fetched.
    pub messages: MessagesConfig,
    /// The app that signs in to the Conversation Data API, where they are fetched over that.
    pub data_api: Option<Arc<SessionSettings>>,
    /// Objects of which the stream's first run makes a snapshot.
    pub first_snapshots: Vec<String>,
    /// How the results of Bulk query jobs are fetched.
    pub pages: PagesConfig,
    /// Objects without events that it reads where they changed.
    pub polls: Vec<PollConfig>,
    /// The schemas.
    pub schemas: SchemaCache,
    /// What outlives the attempt.
    pub memory: Arc<StreamMemory>,
    /// The room between the two sides.
    pub buffer: BufferConfig,
    /// How full records are read.
    pub completion: CompletionConfig,
    /// The number of this attempt.
    pub generation: u64,
    /// Where the organisation is reached.
    pub instance_url: String,
    /// How long a silent call is believed.
    pub silence_limit: Duration,
    /// Ends it.
    pub stop: CancellationToken,
}

impl Attempt {
    /// Makes it.
    pub async fn run(self) -> AttemptEnd {
        let org = &self.context.identity.org;
        let entries = match entries_client(&self.rest, self.data_api.as_deref(), &self.instance_url, org) {
            Ok(entries) => entries,
            Err(error) => return AttemptEnd::Stopped(error.failure()),
        };
        // Nothing has been taken from Salesforce yet, so an end that is asked for does not wait for a broker that
        // does not answer. An announcement that is cut off here is what a crash leaves, and the next fence ends it.
        let started = tokio::select! {
            started = self.start() => started,
            () = self.stop.cancelled() => return AttemptEnd::Finished,
        };
        match started {
            Ok((writer, checkpoint, topics, written)) => self.carry(writer, checkpoint, topics, written, entries).await,
            Err(end) => end,
        }
    }

    /// Steps 1 to 3.
    async fn start(
        &self,
    ) -> Result<(TransactionalWriter, Checkpoint, OutputTopics, Option<HashSet<u128>>), AttemptEnd> {
        let context = &self.context;
        let board = &context.board;
        board.starting("looking at the topics");
        // Before the fence: whoever is fenced expects to see a successor's name within seconds.
        let mut topics = OutputTopics::new(self.kafka.clone(), board.clone(), self.memory.clone());
        for (name, role) in
            [(&context.ledger_topic, TopicRole::Gaps), (&context.dead_letters_topic, TopicRole::DeadLetters)]
        {
            topics.ensure(name, role, &self.stop).await.map_err(AttemptEnd::Stopped)?;
        }
        board.starting("fencing a predecessor and reading the checkpoint");
        let (mut writer, stored) = TransactionalWriter::open_after(
            &self.kafka,
            &context.identity,
            &context.run,
            self.memory.written_to.clone(),
        )
        .await
        .map_err(AttemptEnd::Kafka)?;
        board.board().set_kafka(Ok(()));
        context.check_checkpoint(stored.as_ref(), writer.seq()).map_err(AttemptEnd::Stopped)?;
        if let Some(stored) = &stored {
            context.show_position(&stored.checkpoint.position);
        }
        let moved = stored
            .as_ref()
            .is_some_and(|stored| stored.checkpoint.instance_url.as_ref().is_some_and(|url| *url != self.instance_url));
        if moved {
            info!(topic = %context.identity.topic, instance_url = self.instance_url, "the organisation has another instance url");
        }
        let now = self.pubsub.session().salesforce_now();
        let first_run = stored.is_none();
        let Beginning { mut checkpoint, gap } =
            beginning(context, &self.kafka, stored, now).await.map_err(|none| match none {
                NoBeginning::Stop(failure) => AttemptEnd::Stopped(failure),
                NoBeginning::Kafka(error) => AttemptEnd::Kafka(error),
            })?;
        if first_run || checkpoint.position.repeats() {
            self.warn_of_earliest(&checkpoint.position);
        }
        topics.set_carried(checkpoint.event_count);
        board.starting("announcing this run");
        let mut records: Vec<_> = gap.iter().map(|gap| context.gap_record(gap)).collect();
        // The instance of the last position stays in the checkpoint until a message proves the new one,
        // so that a refusal that follows is known for what it is.
        checkpoint.instance_url.get_or_insert_with(|| self.instance_url.clone());
        let mut next = following(&checkpoint, checkpoint.position.clone(), 0);
        if first_run {
            open_at_first_run(&mut next, &self.first_snapshots);
            // A checkpoint that was reset leaves these behind.
            records.extend(forget_polls(&context.identity, &writer.take_kept_under(&kept_of_polls())));
        }
        let announced = writer.commit(records, next).await;
        let committed = announced.map_err(AttemptEnd::Kafka)?;
        if let Some(gap) = gap {
            board.update(|status| {
                status.gaps_opened += 1;
                status.gap_opened(gap.cause.name());
            });
        }
        context.note_committed(&committed);
        let mut checkpoint = committed.checkpoint().clone();
        let written = if checkpoint.position.repeats() {
            board.starting("reading back what the output already holds");
            Some(self.read_back(&mut writer, &mut checkpoint).await.map_err(AttemptEnd::Kafka)?)
        } else {
            None
        };
        Ok((writer, checkpoint, topics, written))
    }

    /// Reads the output back, which can take minutes, and commits a sign of life meanwhile.
    async fn read_back(
        &self,
        writer: &mut TransactionalWriter,
        checkpoint: &mut Checkpoint,
    ) -> Result<HashSet<u128>, KafkaError> {
        let reading = read_back::written_events(&self.context, &self.kafka, Utc::now());
        tokio::pin!(reading);
        loop {
            tokio::select! {
                written = &mut reading => return written,
                () = tokio::time::sleep(SIGN_OF_LIFE) => {
                    let same = following(checkpoint, checkpoint.position.clone(), 0);
                    let committed = writer.commit(Vec::new(), same).await?;
                    self.context.note_committed(&committed);
                    *checkpoint = committed.checkpoint().clone();
                }
            }
        }
    }

    /// A start from the oldest event is delivered, and counted, once more. Nobody tells how many events are
    /// retained; but what was delivered to all subscribers in a day bounds what was published in one, if
    /// somebody subscribed to it all.
    fn warn_of_earliest(&self, position: &Position) {
        let Some(delivered) = self.context.board.board().snapshot().delivered_events else { return };
        let expected = delivered.used().saturating_mul(RETENTION_DAYS);
        if position.replay_from() == ReplayFrom::Earliest && expected > delivered.remaining {
            warn!(
                topic = %self.context.identity.topic,
                left = delivered.remaining,
                maximum = delivered.maximum,
                expected,
                "a start from the oldest event may not fit into the delivered events that are left today"
            );
        }
    }

    /// Step 4.
    async fn carry(
        self,
        mut writer: TransactionalWriter,
        checkpoint: Checkpoint,
        topics: OutputTopics,
        written: Option<HashSet<u128>>,
        entries: EntriesClient,
    ) -> AttemptEnd {
        let context = self.context.clone();
        let position = checkpoint.position.clone();
        // Dropping the guard ends the two other stations on every way out.
        let stations = self.stop.child_token();
        let _guard = stations.clone().drop_guard();
        let (intake_in, intake_out) = mpsc::channel(BATCHES);
        let (prepared_in, prepared_out) = mpsc::channel(BATCHES);
        let mut prepared_out = PreparedQueue::new(prepared_out);
        let (subscription, mirror) = self.subscribe(position.clone(), intake_in, writer.connection(), &stations);
        let (completion, completed) = self.completion(&stations);
        let station = self.station(position, topics, written, completion);
        let decode = tokio::spawn(station.run(intake_out, prepared_in, stations.clone()));

        context.board.set_state(StreamState::Running);
        let memory = self.memory.clone();
        let (desk, slices, jobs) = self.jobs(&mut writer, &checkpoint, &stations);
        let (inlet, messages) = self.messages(&mut writer, entries, &stations);
        let mut beside = Beside { jobs: AbortOnDropHandle::new(jobs), messages };
        let (desk, url) = ((desk, slices), self.instance_url.clone());
        let mut run_loop = RunLoop::new(context.clone(), memory, desk, inlet, writer, checkpoint, url);
        let (end, broken) = {
            // Pinned here: a future of kilobytes would be moved otherwise.
            let carrying = std::pin::pin!(run_loop.run(&mut prepared_out));
            beside.carry(carrying, &stations).await
        };
        beside.end().await;
        if let Some(Failure { what, remedy, .. }) = &broken {
            error!(topic = %context.identity.topic, error = what, remedy, "the stream begins again");
            context.board.error(what.clone(), remedy.clone());
        }
        drop(prepared_out);
        if !matches!(end, LoopEnd::Drained) {
            stations.cancel();
            // Nobody waits for what it reads.
            completed.abort();
        }
        let decoded = both(decode, completed).await;
        if !matches!(decoded, Ok(DecodeEnd::Finished)) {
            stations.cancel();
        }
        let ended = joined(subscription.await);
        let _ = joined(mirror.await);
        context.board.update(|status| (status.call_open_since, status.next_call_at) = (None, None));
        let (writer, checkpoint) = run_loop.into_parts();
        let concluded = self.conclude(end, decoded, ended, writer, checkpoint).await;
        match (concluded, broken) {
            // Its end was asked for because of that.
            (AttemptEnd::Finished, Some(failure)) if !self.stop.is_cancelled() => AttemptEnd::Broken(failure),
            (concluded, _) => concluded,
        }
    }

    /// The call after a position, into `intake`, and what shows how it is doing.
    fn subscribe(
        &self,
        position: Position,
        intake: mpsc::Sender<Intake>,
        connection: Arc<Connection>,
        stations: &CancellationToken,
    ) -> (JoinHandle<Ended>, JoinHandle<()>) {
        let context = self.context.clone();
        let settings = SubscriptionSettings {
            silence_limit: self.silence_limit,
            paused: context.board.requests().paused(),
            ..SubscriptionSettings::new(context.identity.topic.clone(), self.generation)
        };
        let room = Buffer::new(
            u32::try_from(self.buffer.max_events).unwrap_or(u32::MAX),
            u64::try_from(self.buffer.max_bytes).unwrap_or(u64::MAX),
        );
        let (state_in, state_out) = watch::channel(SubscriptionState::default());
        let subscription = tokio::spawn(subscription::run(
            self.pubsub.clone(),
            settings,
            position,
            room.clone(),
            intake,
            state_in,
            stations.clone(),
        ));
        (subscription, tokio::spawn(mirror(context, state_out, room, connection)))
    }

    /// Reads records as the stream's configuration has them.
    fn reader(&self) -> RecordReader {
        let (fields, policies) = (self.context.stream.fields.clone(), self.context.policies.clone());
        let choices = self.polls.iter().map(|poll| (poll.entity.clone(), poll.fields.clone()));
        let descriptions = Descriptions::new(self.rest.clone(), fields, policies).choosing(choices);
        RecordReader::new(self.rest.clone(), descriptions)
    }

    /// The completion station and the way to it; none where nothing is ever completed.
    fn completion(&self, stations: &CancellationToken) -> (Option<mpsc::Sender<Wanting>>, JoinHandle<()>) {
        if self.context.stream.record == RecordMode::Never {
            return (None, tokio::spawn(async {}));
        }
        let reader = self.reader();
        let (wanting_in, wanting_out) = mpsc::channel(BATCHES);
        let station = CompletionStation::new(self.context.clone(), self.memory.clone(), reader, self.completion);
        (Some(wanting_in), tokio::spawn(station.run(wanting_out, stations.clone())))
    }

    /// The jobs that the checkpoint says are under way, those to come, and the polls.
    fn jobs(
        &self,
        writer: &mut TransactionalWriter,
        checkpoint: &Checkpoint,
        stations: &CancellationToken,
    ) -> (Arc<Desk>, mpsc::Receiver<JobBatch>, JoinHandle<()>) {
        let desk = Arc::new(Desk::new(self.context.clone(), self.gaps, checkpoint));
        let reader = self.reader();
        let (slices_in, slices) = mpsc::channel(1);
        let runner = Runner::new(
            self.context.clone(),
            self.memory.clone(),
            self.kafka.clone(),
            (reader, self.schemas.clone()),
            desk.clone(),
            slices_in,
            stations.clone(),
        );
        let runner = runner.fetching(self.pages).polling(&self.polls, &writer.take_kept_under(&kept_of_polls()));
        (desk, slices, tokio::spawn(runner.run()))
    }

    /// What of conversations is to be fetched, and what is known of them.
    fn messages(
        &self,
        writer: &mut TransactionalWriter,
        entries: EntriesClient,
        stations: &CancellationToken,
    ) -> (MessageInlet, Option<AbortOnDropHandle<()>>) {
        let sides = (&self.kafka, &self.rest, entries);
        let (inlet, task) = MessageInlet::begin(&self.context, &self.memory, sides, self.messages, writer, stations);
        let task = AbortOnDropHandle::new(task);
        (inlet, Some(task).filter(|_| self.context.stream.messages))
    }

    fn station(
        &self,
        position: Position,
        topics: OutputTopics,
        written: Option<HashSet<u128>>,
        completion: Option<mpsc::Sender<Wanting>>,
    ) -> DecodeStation {
        let context = self.context.clone();
        let read = if completion.is_some() { TRANSACTIONS_READ } else { 0 };
        let budget = (TRANSACTIONS_IN_MEMORY + read) * context.batch.max_bytes.max(1024 * 1024) / 1024;
        let budget_kib = u32::try_from(budget).unwrap_or(u32::MAX >> 4);
        let identity = &context.identity;
        let writer = RecordWriter::new(
            identity.org.clone(),
            identity.topic.clone(),
            identity.prefix.clone(),
            context.stream.tombstones,
        )
        .limited_to(context.batch.max_event_bytes)
        .completed(context.stream.record);
        DecodeStation {
            schemas: self.schemas.clone(),
            schema: None,
            memory: self.memory.clone(),
            topics,
            writer,
            position,
            written,
            claimed: HashSet::new(),
            kafka: self.kafka.clone(),
            budget: Arc::new(Semaphore::new(budget_kib as usize)),
            budget_kib,
            completion,
            context,
        }
    }
}
