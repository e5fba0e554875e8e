//! All streams of one process, from start to orderly end.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::change::FieldPolicies;
use crate::config::{Config, StreamConfig, polls_of, stream_of};
use crate::failure::Failure;
use crate::identity::{OrgId, TopicName};
use crate::kafka::{KafkaSettings, RunIdentity, StreamIdentity, checkpoints_of_topic, read_checkpoint};
use crate::pipeline::claims::EntityClaims;
use crate::pipeline::context::{StreamContext, dead_letters_topic, ledger_topic, position_time};
use crate::pipeline::policy_check;
use crate::pipeline::reconcile::{Reconciliation, Subject};
use crate::pipeline::schemas::SchemaCache;
use crate::pipeline::settings;
use crate::pipeline::sign_in::sign_in;
use crate::pipeline::stop::StreamError;
use crate::pipeline::stream::Stream;
use crate::salesforce::pubsub::PubSub;
use crate::salesforce::rest_client::RestClient;
use crate::status::{Allowance, Board, Metrics, StreamBoard};
use crate::telemetry::{Exporter, Tracer};

/// How often the allowances are asked for; Salesforce's figures are that old anyway.
const ALLOWANCE_INTERVAL: Duration = Duration::from_secs(300);

/// How long the first answer may hold the start up.
const FIRST_ALLOWANCES: Duration = Duration::from_secs(10);

/// How long the end waits for Bulk query jobs to be given back that nobody finds again. Nothing depends on it.
const GIVEN_BACK: Duration = Duration::from_secs(5);

/// Everything a running process consists of, before it runs.
pub struct Process {
    config: Config,
    pubsub: PubSub,
    rest: RestClient,
    kafka: KafkaSettings,
    policies: FieldPolicies,
    board: Board,
    metrics: Metrics,
    traces: Option<(Box<Exporter>, Tracer)>,
}

impl Process {
    /// Checks all that can be checked without a connection.
    ///
    /// # Errors
    /// When a key, a certificate or a property cannot be used.
    pub fn new(config: Config) -> Result<Self, Failure> {
        let board = Board::new();
        let pubsub = settings::salesforce(&config)?;
        Ok(Self {
            rest: RestClient::new(pubsub.session().clone()),
            pubsub,
            kafka: settings::kafka(&config.kafka)?,
            policies: settings::policies(&config.policies),
            metrics: Metrics::new(board.clone()),
            traces: settings::traces(&config, &board)?.map(|(exporter, tracer)| (Box::new(exporter), tracer)),
            board,
            config,
        })
    }

    /// The status board.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs all streams until `stop`, then ends them in order: no more is asked for, what came
    /// is committed, the producers are closed.
    ///
    /// # Errors
    /// A failure that does not mend itself before anything is anchored, or an end that takes too long.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        let (exporter, tracer) = self.traces.take().unzip();
        let exporting = exporter.map(|exporter| exporter.begin());
        let mut end = None;
        // A future of kilobytes would be moved with this one otherwise.
        let outcome = Box::pin(self.until_stopped(tracer, stop, &mut end)).await;
        if let Some(exporting) = exporting {
            let left = |end: Instant| end.saturating_duration_since(Instant::now());
            exporting.end(end.map_or(self.config.shutdown_timeout, left)).await;
        }
        outcome
    }

    /// The same without the traces. Leaves in `end` by when an end that was asked for has to come.
    async fn until_stopped(
        &self,
        tracer: Option<Tracer>,
        stop: CancellationToken,
        end: &mut Option<Instant>,
    ) -> Result<(), Failure> {
        let boards: Vec<StreamBoard> =
            self.config.streams.iter().map(|stream| self.board.stream(stream.topic.clone())).collect();
        let ended = CancellationToken::new();
        let _guard = ended.clone().drop_guard();
        let outcome = self.until_the_end(Box::pin(self.carry(boards, tracer, stop.clone())), &stop, end).await;
        self.rest.all_given_back(GIVEN_BACK).await;
        outcome
    }

    /// Waits for the streams; once the end is asked for, only so long.
    async fn until_the_end(
        &self,
        mut running: Pin<Box<impl Future<Output = Result<(), Failure>>>>,
        stop: &CancellationToken,
        end: &mut Option<Instant>,
    ) -> Result<(), Failure> {
        tokio::select! {
            outcome = &mut running => return outcome,
            () = stop.cancelled() => {}
        }
        self.board.set_stopping();
        info!("stopping: committing what was received");
        let end = *end.insert(Instant::now() + self.config.shutdown_timeout);
        match tokio::time::timeout_at(end, running).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StreamError::EndTooLong(self.config.shutdown_timeout).into()),
        }
    }

    async fn carry(
        &self,
        boards: Vec<StreamBoard>,
        tracer: Option<Tracer>,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        let ran_before = tokio::select! {
            ran_before = self.show_stored_positions(&boards) => ran_before,
            () = stop.cancelled() => return Ok(()),
        };
        let org = self.sign_in(&boards, !ran_before.is_empty(), &stop).await?;
        let Some(org) = org else { return Ok(()) };
        if !policy_check::hold(&self.policies, &self.pubsub, &boards, &stop).await? {
            return Ok(());
        }
        // Before the streams start, so that one that begins at the oldest event can say whether that fits.
        let _ = tokio::time::timeout(FIRST_ALLOWANCES, self.look_at_allowances()).await;
        let topics = self.config.streams.iter().map(|stream| &stream.topic);
        let claims = EntityClaims::of(topics);
        for poll in &self.config.polls {
            if let Some(topic) = stream_of(&self.config.streams, &poll.entity) {
                claims.poll(&poll.entity, topic).inspect_err(|failure| warn!(error = failure.what, "not polled"))?;
            }
        }
        let anchored = Arc::new(AtomicBool::new(ran_before.contains(&org)));
        let schemas = SchemaCache::new(self.pubsub.clone());
        let rest = self.rest.clone();
        let run = RunIdentity { run_id: self.board.run_id().to_owned(), ..RunIdentity::of_this_process() };
        let all = stop.child_token();
        let mut tasks = JoinSet::new();
        // Dropped on every way out, which ends it.
        let mut beside = JoinSet::new();
        beside.spawn(self.reconciliation(&org, &boards, &rest).run(all.clone()));
        for (stream, board) in self.config.streams.iter().zip(boards) {
            let identity = StreamIdentity {
                prefix: self.kafka.topic_prefix.clone(),
                org: org.clone(),
                topic: stream.topic.clone(),
            };
            let prefix = &self.kafka.topic_prefix;
            let pulse = board.pulse().clone();
            let context = StreamContext {
                stream: stream.clone(),
                identity,
                run: run.clone(),
                board,
                metrics: self.metrics.clone(),
                tracer: tracer.as_ref().map(|tracer| tracer.of_stream(&stream.topic, &org)),
                claims: claims.clone(),
                policies: self.policies.clone(),
                batch: self.config.batch,
                ledger_topic: ledger_topic(prefix).into(),
                dead_letters_topic: dead_letters_topic(prefix).into(),
                anchored: anchored.clone(),
                last_commit: Mutex::default(),
            };
            let stream = Stream {
                context: Arc::new(context),
                kafka: self.kafka.clone(),
                takeover_after: self.config.kafka.takeover_after,
                pubsub: self.pubsub.clone(),
                rest: rest.clone(),
                gaps: self.config.gaps,
                messages: self.config.messages,
                data_api: settings::data_api(&self.config).map(Arc::new),
                first_snapshots: self.first_snapshots(&stream.topic),
                pages: self.config.snapshot.pages,
                polls: polls_of(&self.config.polls, &self.config.streams, &stream.topic),
                schemas: schemas.clone(),
                completion: self.config.completion,
                buffer: self.config.buffer,
                silence_limit: self.config.salesforce.pubsub.silence_limit,
            };
            let stop = all.clone();
            tasks.spawn(async move { pulse.of(Box::pin(stream.run(stop))).await });
        }
        let outcome = self.until_all_have_ended(tasks, &all).await;
        beside.shutdown().await;
        outcome
    }

    /// Waits for the streams. The first that fails ends the others, in order.
    async fn until_all_have_ended(
        &self,
        mut tasks: JoinSet<Result<(), Failure>>,
        all: &CancellationToken,
    ) -> Result<(), Failure> {
        let watched = self.watch_allowances(all);
        tokio::pin!(watched);
        loop {
            let joined = tokio::select! {
                joined = tasks.join_next() => joined,
                () = &mut watched, if !all.is_cancelled() => continue,
            };
            match joined {
                None => return Ok(()),
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(failure))) => {
                    all.cancel();
                    while tasks.join_next().await.is_some() {}
                    return Err(failure);
                }
                Some(Err(error)) => {
                    all.cancel();
                    while tasks.join_next().await.is_some() {}
                    return Err(StreamError::StreamEnded(error.to_string()).into());
                }
            }
        }
    }

    /// The objects of which a stream makes a snapshot at its first run.
    fn first_snapshots(&self, topic: &TopicName) -> Vec<String> {
        if !self.config.snapshot.on_first_run {
            return Vec::new();
        }
        let objects = self.config.snapshot.objects(&self.config.streams);
        objects.into_iter().filter(|(_, owner)| owner == topic).map(|(entity, _)| entity).collect()
    }

    /// Comparisons with the org on a schedule.
    fn reconciliation(&self, org: &OrgId, boards: &[StreamBoard], rest: &RestClient) -> Reconciliation {
        let subject = |(stream, board): (&StreamConfig, &StreamBoard)| {
            let (prefix, org, topic) = (self.kafka.topic_prefix.clone(), org.clone(), stream.topic.clone());
            let identity = StreamIdentity { prefix, org, topic };
            let polls = polls_of(&self.config.polls, &self.config.streams, &stream.topic);
            Subject { identity, fields: stream.fields.clone(), polls, board: board.clone() }
        };
        Reconciliation {
            config: self.config.reconcile,
            gaps: self.config.gaps,
            kafka: self.kafka.clone(),
            rest: rest.clone(),
            policies: self.policies.clone(),
            subjects: self.config.streams.iter().zip(boards).map(subject).collect(),
            run_id: self.board.run_id().to_owned(),
            listening_since: Utc::now(),
        }
    }

    /// Signs in once for all. `None` when the end was asked for meanwhile.
    ///
    /// A login server that cannot be reached, or has a disturbance, is waited for: a machine that boots before its
    /// network does should not need a second start. If the streams ran before, a hopeless answer does not end the process: their countdown is
    /// on the board, and an operator who mends it should not have to restart anything.
    async fn sign_in(
        &self,
        boards: &[StreamBoard],
        ran_before: bool,
        stop: &CancellationToken,
    ) -> Result<Option<OrgId>, Failure> {
        const AGAIN: Duration = Duration::from_secs(300);
        loop {
            let failure = match sign_in(self.pubsub.session(), boards, stop).await {
                Ok(None) => return Ok(None),
                Ok(Some(token)) => {
                    self.board.set_org(token.org_id());
                    info!(org = %token.org_id(), instance_url = token.instance_origin(), "signed in");
                    return Ok(Some(token.org_id().clone()));
                }
                Err(failure) => failure,
            };
            if !ran_before {
                return Err(failure);
            }
            warn!(
                error = failure.what,
                remedy = failure.remedy,
                "signing in was refused; trying again in five minutes"
            );
            for board in boards {
                board.stopped(&failure);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// The countdown to data loss runs from the start of the process, not from the first success: if a
    /// checkpoint can be read before signing in, its age is on the board at once.
    ///
    /// Returns the organisations of which a stream ran before: then a hopeless error is one stream's and not
    /// the process's.
    async fn show_stored_positions(&self, boards: &[StreamBoard]) -> HashSet<OrgId> {
        const PATIENCE: Duration = Duration::from_secs(10);
        // Shorter, so that what ends the wait is an error that says why the brokers do not answer.
        const CALL: Duration = Duration::from_secs(8);
        let kafka = KafkaSettings { call_timeout: self.kafka.call_timeout.min(CALL), ..self.kafka.clone() };
        let ran_before = Mutex::new(HashSet::new());
        let look = async {
            for (stream, board) in self.config.streams.iter().zip(boards) {
                let prefix = &self.kafka.topic_prefix;
                let wanted = self.config.salesforce.org_id.as_ref();
                let orgs = checkpoints_of_topic(&kafka, prefix, &stream.topic).await?;
                let mut times = Vec::new();
                for org in orgs.into_iter().filter(|org| wanted.is_none_or(|wanted| wanted == org)) {
                    let identity = StreamIdentity { prefix: prefix.clone(), org, topic: stream.topic.clone() };
                    if let Some(stored) = read_checkpoint(&kafka, &identity).await? {
                        if stored.checkpoint.position.is_anchored() {
                            ran_before.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.org.clone());
                        }
                        times.push(position_time(&stored.checkpoint.position));
                    }
                }
                // Two organisations: which one is meant is known only after signing in.
                if let [time] = times[..] {
                    board.update(|status| status.position_time = time);
                }
            }
            Ok::<(), crate::kafka::KafkaError>(())
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(Ok(())) => self.board.set_kafka(Ok(())),
            Ok(Err(error)) => self.board.set_kafka(Err(error.to_string())),
            Err(_) => self.board.set_kafka(Err("the broker did not answer within 10 s".to_owned())),
        }
        ran_before.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the allowances now and then.
    async fn watch_allowances(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ALLOWANCE_INTERVAL) => {}
            }
            self.look_at_allowances().await;
        }
    }

    async fn look_at_allowances(&self) {
        match self.pubsub.session().limits().await {
            Ok(limits) => {
                let delivered = limits.delivered_events.and_then(allowance);
                self.board.set_allowances(delivered, limits.api_requests.and_then(allowance));
                self.board.set_salesforce_now(self.pubsub.session().salesforce_now());
            }
            // The figures are a comfort, not a condition: what they warn of is handled where it happens.
            Err(error) => debug!(%error, "the allowances cannot be had"),
        }
    }
}

fn allowance(allowance: crate::salesforce::rest::Allowance) -> Option<Allowance> {
    let maximum = u64::try_from(allowance.max).ok()?;
    Some(Allowance { maximum, remaining: u64::try_from(allowance.remaining).unwrap_or(0) })
}
