//! `casewire snapshot`: whole objects read into Kafka, by the running service or by itself.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin::{self, SnapshotDoor, Wanted};
use crate::cli::checkpoint_show::reachable_kafka;
use crate::cli::service::Service;
use crate::cli::service_error::{ServiceError, SnapshotError};
use crate::cli::snapshot_progress::{Progress, Watched};
use crate::cli::{ConfigFile, run, say};
use crate::config::Config;
use crate::failure::Failure;
use crate::identity::TopicName;
use crate::kafka::{KafkaError, StreamIdentity, checkpoints_of_topic, read_checkpoint};
use crate::pipeline::process::Process;
use crate::status::{Board, RefusedSnapshot, StreamState};

/// A writer that lives commits at least every two minutes.
const SILENCE: TimeDelta = TimeDelta::minutes(4);

/// Between two looks at how far it is.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// Read whole objects into Kafka, each record once with all its fields, while the events go on.
///
/// If the service of this configuration runs, it is asked to do it (POST /snapshots on its admin port, with admin.token) and
/// this command only watches: ended, it leaves the service at it. Otherwise this command is the service until the
/// snapshots are done. A snapshot that was ended in the middle goes on where it was, with the next start of either.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  casewire snapshot --config casewire.toml\n  \
                        casewire snapshot --config casewire.toml --entity Case --since 2026-01-01T00:00:00Z\n  \
                        casewire snapshot --config casewire.toml --entity Case --where \"IsClosed = false\"\n  \
                        casewire snapshot --config casewire.toml --entity Case --include-deleted\n  \
                        casewire snapshot --config casewire.toml --entity Case --service http://casewire:8686")]
pub struct SnapshotArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// An object; several times for several. Without it, each that has a stream and those under snapshot.entities.
    #[arg(long, value_name = "OBJECT")]
    entity: Vec<String>,
    /// Only records that were changed since then.
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Only records of which this holds: what stands behind WHERE in SOQL.
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Also tell of what lies in the recycle bin, as deletes without a record.
    #[arg(long)]
    include_deleted: bool,
    /// Where the service is, such as http://10.0.0.7:8686; admin.listen of the configuration otherwise. Of a name with several
    /// addresses, the instance that carries the streams is asked.
    #[arg(long, value_name = "URL")]
    service: Option<String>,
    /// Take the streams over although another instance wrote to them a moment ago.
    #[arg(long)]
    take_over: bool,
}

impl SnapshotArguments {
    /// The configuration.
    ///
    /// # Errors
    /// When it is not valid.
    pub fn load(&self) -> Result<Config, Failure> {
        self.file.load()
    }
}

/// Runs it to the end of the snapshots, or until `stop`.
///
/// # Errors
/// Why there is no snapshot, or not all of one.
pub async fn execute(arguments: SnapshotArguments, config: Config, stop: CancellationToken) -> Result<(), Failure> {
    let door = SnapshotDoor::of(&config);
    let wanted = Wanted {
        entities: arguments.entity,
        since: arguments.since,
        condition: arguments.condition,
        include_deleted: arguments.include_deleted,
    };
    let objects = door.objects(&wanted)?;
    let mut topics: Vec<String> = objects.iter().map(|(_, topic)| topic.to_string()).collect();
    topics.dedup();
    if let Some(service) = Service::find(arguments.service.as_deref(), &config, &topics).await? {
        return ask_and_watch(service, &config, &wanted, &topics, stop).await;
    }
    if !arguments.take_over {
        refuse_beside_another(&config, &objects).await?;
    }
    run_by_itself(config, wanted, objects, stop).await
}

/// Asks the service, and watches until the snapshots have ended.
async fn ask_and_watch(
    mut service: Service,
    config: &Config,
    wanted: &Wanted,
    topics: &[String],
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut progress = Progress::new(ask(&service, config, wanted).await?);
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                say("the service goes on with it; `jobs` and `snapshots` in its /status show how far it is");
                return Ok(());
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Some(status) = service.follow(topics).await
            && progress.show(&status)
        {
            return progress.outcome();
        }
    }
}

/// Asks for the snapshots; what was opened.
async fn ask(service: &Service, config: &Config, wanted: &Wanted) -> Result<Vec<Watched>, Failure> {
    let (status, answer) = service.ask(config, "/snapshots", wanted).await?;
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let refused = list("refused");
    if let Some(first) = refused.first().or_else(|| (!status.is_success()).then_some(&answer)) {
        for opened in list("opened") {
            say(format_args!("{}: opened, as {}", text(&opened, "entity"), text(&opened, "job")));
        }
        let (reason, remedy) = (text(first, "reason"), text(first, "remedy"));
        let all: Vec<String> = refused.iter().map(|one| text(one, "reason")).collect();
        let reasons = if all.is_empty() { reason } else { all.join("; ") };
        return Err(ServiceError::refused(status, reasons, remedy).into());
    }
    let watched = |opened: &Value| Watched {
        entity: text(opened, "entity"),
        job: text(opened, "job"),
        expected: opened.get("records").and_then(Value::as_u64).unwrap_or_default(),
    };
    Ok(list("opened").iter().map(watched).collect())
}

/// Refuses where another instance has written lately: two that write the same streams would fence each other; the one that runs
/// elsewhere has to be asked, not replaced.
pub(super) async fn refuse_beside_another(config: &Config, objects: &[(String, TopicName)]) -> Result<(), Failure> {
    let failed = |error: KafkaError| error.failure();
    let kafka = reachable_kafka(config).await?;
    for stream in &config.streams {
        let (prefix, topic) = (&kafka.topic_prefix, &stream.topic);
        for org in checkpoints_of_topic(&kafka, prefix, topic).await.map_err(failed)? {
            let identity = StreamIdentity { prefix: prefix.clone(), org, topic: topic.clone() };
            let Some(stored) = read_checkpoint(&kafka, &identity).await.map_err(failed)? else { continue };
            let age = Utc::now() - stored.checkpoint.committed_at;
            if age < SILENCE {
                let writer = stored.checkpoint.writer;
                let objects: Vec<&str> = objects.iter().map(|(entity, _)| entity.as_str()).collect();
                let (host, run_id, topic) = (writer.host, writer.run_id, topic.clone());
                let (seconds, objects) = (age.num_seconds().max(0), objects.join(", "));
                return Err(ServiceError::Beside { host, run_id, topic, seconds, objects }.into());
            }
        }
    }
    Ok(())
}

/// Runs the streams until the snapshots are done.
async fn run_by_itself(
    config: Config,
    wanted: Wanted,
    objects: Vec<(String, TopicName)>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let process = Process::new(config)?;
    let board = process.board().clone();
    let watched = run_until(process, watch(&board, &wanted, &objects), stop).await?;
    if watched.is_none() {
        say("ending; the snapshot goes on where it is with the next start");
    }
    Ok(())
}

/// Runs the streams until `watch` has come to its end, which it returns, or until `stop`: then it is none.
///
/// # Errors
/// Why the streams ended, or what `watch` says.
pub(super) async fn run_until<T>(
    process: Process,
    watch: impl Future<Output = Result<T, Failure>>,
    stop: CancellationToken,
) -> Result<Option<T>, Failure> {
    let ends = stop.child_token();
    let running = tokio::spawn(run::carry(process, ends.clone()));
    tokio::pin!(running);
    tokio::pin!(watch);
    let outcome = tokio::select! {
        ended = &mut running => return ended.map_err(|error| lost(&error))?.map(|()| None),
        () = stop.cancelled() => Ok(None),
        outcome = &mut watch => outcome.map(Some),
    };
    ends.cancel();
    running.await.map_err(|error| lost(&error))?.and(outcome)
}

fn lost(error: &tokio::task::JoinError) -> Failure {
    SnapshotError::Ended(error.to_string()).into()
}

/// Asks the streams of this process, and returns when all snapshots have ended.
async fn watch(board: &Board, wanted: &Wanted, objects: &[(String, TopicName)]) -> Result<(), Failure> {
    let mut watched = Vec::new();
    for (entity, topic) in objects {
        running(board, topic).await;
        let opened = match admin::ask(board, entity, topic, wanted).await {
            Ok(opened) => (opened.job, opened.records),
            // Of an earlier run that was ended in the middle; this one goes on with it.
            Err(RefusedSnapshot::UnderWay(job)) => {
                info!(entity, job, "going on with the snapshot that is under way");
                say(format_args!(
                    "{entity}: going on with the snapshot that is under way; what is asked for now is not asked again"
                ));
                (job, 0)
            }
            Err(refused) => return Err(refused.failure(entity)),
        };
        watched.push(Watched { entity: entity.clone(), job: opened.0, expected: opened.1 });
    }
    let mut progress = Progress::new(watched);
    loop {
        if progress.show(&json!({ "process": board.snapshot() })) {
            return progress.outcome();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a stream runs. If it never does, the process says why and ends.
pub(super) async fn running(board: &Board, topic: &TopicName) {
    let mut changes = board.changes();
    loop {
        let snapshot = board.snapshot();
        if snapshot.streams.iter().any(|stream| stream.topic == *topic && stream.state == StreamState::Running) {
            return;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
