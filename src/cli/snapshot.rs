//! `casewire snapshot`: whole objects read into Kafka, by the running service or by itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use futures_util::future::join_all;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;
use url::Url;

use crate::admin::{self, SnapshotDoor, Wanted};
use crate::cli::checkpoint_show::reachable_kafka;
use crate::cli::error::SnapshotError;
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

/// How long the service may take for an answer; it counts the records of each object first.
const ANSWER: Duration = Duration::from_secs(600);

/// How long the name of a service is looked up.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Instances behind one name that are asked, at most.
const MOST_INSTANCES: usize = 16;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);

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
    let address = match (&arguments.service, config.admin.listen) {
        (Some(url), _) => Some(url.trim_end_matches('/').to_owned()),
        (None, listen) => listen.map(local),
    };
    if let Some(address) = address {
        let mut topics: Vec<String> = objects.iter().map(|(_, topic)| topic.to_string()).collect();
        topics.dedup();
        match Service::find(&address, &topics).await {
            Some((service, _)) => return service.ask_and_watch(&config, &wanted, &topics, stop).await,
            None if arguments.service.is_some() => return Err(SnapshotError::NoService(address).into()),
            None => {}
        }
    }
    if !arguments.take_over {
        refuse_beside_another(&config, &objects).await?;
    }
    run_by_itself(config, wanted, objects, stop).await
}

/// The address at which a service of this machine is reached that listens there.
fn local(listen: SocketAddr) -> String {
    let ip = if listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// The running service.
struct Service {
    http: reqwest::Client,
    address: String,
}

impl Service {
    /// The instance at `address` that carries most of the streams of `topics`, with what it says of itself; the first of
    /// those that carry none, and `None` where nobody answers. One name may stand for an active instance and its standbys, as
    /// that of a headless service of Kubernetes does, and only the active one opens snapshots.
    async fn find(address: &str, topics: &[String]) -> Option<(Self, Value)> {
        let known = async {
            let url = Url::parse(address).ok()?;
            let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
            let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let found: Vec<SocketAddr> = lookup_host((bare, port)).await.ok()?.take(MOST_INSTANCES).collect();
            Some((host, found))
        };
        let found = timeout(LOOK_UP, known).await.ok().flatten();
        // A name that only a proxy resolves is left to it.
        let (host, addresses) = found.unwrap_or_default();
        Self::among(address, &host, &addresses, topics).await
    }

    async fn among(address: &str, host: &str, addresses: &[SocketAddr], topics: &[String]) -> Option<(Self, Value)> {
        let client = |at: Option<&SocketAddr>| {
            let builder = reqwest::Client::builder();
            let http = at.map_or_else(reqwest::Client::builder, |at| builder.resolve(host, *at)).build().ok()?;
            Some(Self { http, address: address.to_owned() })
        };
        let instances: Vec<Self> = match addresses {
            [] | [_] => client(None).into_iter().collect(),
            several => several.iter().filter_map(|at| client(Some(at))).collect(),
        };
        let asked = instances.into_iter().map(async |instance| {
            let status = instance.status().await?;
            Some((instance, status))
        });
        let answered = join_all(asked).await.into_iter().flatten();
        // Of equals the first.
        answered.rev().max_by_key(|(_, status)| carried(status, topics))
    }

    /// What it says of itself; `None` where nobody answers as casewire does.
    async fn status(&self) -> Option<Value> {
        let asked = self.http.get(format!("{}/status", self.address)).timeout(Duration::from_secs(5)).send().await;
        let status: Value = asked.ok()?.json().await.ok()?;
        status.get("process")?.get("streams")?.is_array().then_some(status)
    }

    async fn ask_and_watch(
        self,
        config: &Config,
        wanted: &Wanted,
        topics: &[String],
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        let mut progress = Progress::new(self.ask(config, wanted).await?);
        let mut service = self;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    say("the service goes on with it; `jobs` and `snapshots` in its /status show how far it is");
                    return Ok(());
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let mut status = service.status().await;
            // A service that restarts goes on with the snapshot and is back in seconds, and so does one that has taken over.
            if status.as_ref().is_none_or(|status| carried(status, topics) == 0)
                && let Some((other, told)) = Self::find(&service.address, topics).await
            {
                (service, status) = (other, Some(told));
            }
            if let Some(status) = status
                && progress.show(&status)
            {
                return progress.outcome();
            }
        }
    }

    /// Asks for the snapshots; what was opened.
    async fn ask(&self, config: &Config, wanted: &Wanted) -> Result<Vec<Watched>, Failure> {
        let token = config.admin.token.as_ref().ok_or_else(|| SnapshotError::NoToken(self.address.clone()))?;
        let asked = self.http.post(format!("{}/snapshots", self.address)).bearer_auth(token.expose_secret().trim());
        let unreachable = |error: reqwest::Error| SnapshotError::NoAnswer {
            address: self.address.clone(),
            reason: error.without_url().to_string(),
        };
        let answer = asked.json(wanted).timeout(ANSWER).send().await.map_err(unreachable)?;
        let status = answer.status();
        let answer: Value = answer.json().await.map_err(unreachable)?;
        let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let refused = list("refused");
        if let Some(first) = refused.first().or_else(|| (!status.is_success()).then_some(&answer)) {
            for opened in list("opened") {
                say(format_args!("{}: opened, as {}", text(&opened, "entity"), text(&opened, "job")));
            }
            let (reason, remedy) = (text(first, "reason"), text(first, "remedy"));
            if matches!(status.as_u16(), 401 | 403) {
                return Err(SnapshotError::Forbidden { reason, remedy }.into());
            }
            let all: Vec<String> = refused.iter().map(|one| text(one, "reason")).collect();
            let reasons = if all.is_empty() { reason } else { all.join("; ") };
            let not_now = status == reqwest::StatusCode::SERVICE_UNAVAILABLE;
            return Err(if not_now {
                SnapshotError::NotNow { reasons, remedy }
            } else {
                SnapshotError::Refused { reasons, remedy }
            }
            .into());
        }
        let watched = |opened: &Value| Watched {
            entity: text(opened, "entity"),
            job: text(opened, "job"),
            expected: opened.get("records").and_then(Value::as_u64).unwrap_or_default(),
        };
        Ok(list("opened").iter().map(watched).collect())
    }
}

/// How many of the streams of `topics` an instance carries, by its /status.
fn carried(status: &Value, topics: &[String]) -> usize {
    let streams = status.pointer("/process/streams").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |stream: &Value, name: &str| stream.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let running = |stream: &&Value| text(stream, "state") == "running" && topics.contains(&text(stream, "topic"));
    streams.iter().filter(running).count()
}

/// Two that write the same streams would fence each other; the one that runs elsewhere has to be asked, not replaced.
async fn refuse_beside_another(config: &Config, objects: &[(String, TopicName)]) -> Result<(), Failure> {
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
                return Err(SnapshotError::Beside { host, run_id, topic, seconds, objects }.into());
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
    let ends = stop.child_token();
    let running = tokio::spawn(run::carry(process, ends.clone()));
    tokio::pin!(running);
    let watch = watch(&board, &wanted, &objects);
    tokio::pin!(watch);
    let outcome = tokio::select! {
        ended = &mut running => return ended.map_err(|error| lost(&error))?,
        () = stop.cancelled() => {
            say("ending; the snapshot goes on where it is with the next start");
            Ok(())
        }
        outcome = &mut watch => outcome,
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
async fn running(board: &Board, topic: &TopicName) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, routing::get};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn of_several_instances_behind_one_name_the_one_is_asked_that_carries_the_streams() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let topics = ["/data/CaseChangeEvent".to_owned(), "/data/AccountChangeEvent".to_owned()];
        let status = |states: [&str; 2]| {
            let stream = |(topic, state): (&String, &str)| json!({ "topic": topic, "state": state });
            json!({ "process": { "streams": topics.iter().zip(states).map(stream).collect::<Vec<_>>() } })
        };
        let first = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = first.local_addr().expect("an address").port();
        let second = TcpListener::bind(("127.0.0.2", port)).await.expect("the same port of another address");
        let addresses = [&first, &second].map(|listener| listener.local_addr().expect("an address"));
        let states = [["standby", "standby"], ["running", "paused"]];
        for (listener, states) in [first, second].into_iter().zip(states) {
            let status = status(states);
            let router = Router::new().route("/status", get(async move || Json(status)));
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        let url = format!("http://casewire.test:{port}");
        let state = async |addresses: &[SocketAddr], topics: &[String]| {
            let (_, status) = Service::among(&url, "casewire.test", addresses, topics).await?;
            status.pointer("/process/streams/0/state").and_then(Value::as_str).map(str::to_owned)
        };
        let [standby, active] = addresses;
        assert_eq!(state(&[standby, active], &topics).await.as_deref(), Some("running"));
        assert_eq!(state(&[active, standby], &topics).await.as_deref(), Some("running"));
        assert_eq!(
            state(&[standby, active], &topics[1..]).await.as_deref(),
            Some("standby"),
            "none carries it: the first"
        );
        let nobody = SocketAddr::from(([127, 0, 0, 3], port));
        assert_eq!(
            state(&[nobody, active], &topics).await.as_deref(),
            Some("running"),
            "one that is away is passed over"
        );
        assert_eq!(state(&[nobody, nobody], &topics).await, None);
    }
}
