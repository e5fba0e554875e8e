//! `casewire checkpoint show`, `set` and `reset`.
//!
//! Moving a position is the one thing an operator can do that loses or repeats events, so it is
//! shown first, asked for, made through the same fence as everything else, and left in the ledger.

use std::io::{IsTerminal, Write};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::cli::ConfigFile;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::identity::{OrgId, ReplayId, TopicName};
use crate::kafka::{
    Checkpoint, KafkaError, KafkaSettings, RunIdentity, StoredCheckpoint, StreamIdentity, TopicRole,
    TransactionalWriter, checkpoints_of_topic, ensure_topic, read_checkpoint,
};
use crate::pipeline::context::{ledger_topic, position_time};
use crate::pipeline::ledger::{GapCause, GapEnd, OpenGap};
use crate::pipeline::{read_back, settings};
use crate::position::{Anchor, Position};

/// An instance that committed this recently is taken to be running; a live one commits every two minutes.
const RUNNING: chrono::TimeDelta = chrono::TimeDelta::minutes(3);

/// Show or move the position of a stream.
#[derive(Debug, Args)]
pub struct CheckpointArguments {
    #[command(subcommand)]
    command: CheckpointCommand,
}

#[derive(Debug, Subcommand)]
enum CheckpointCommand {
    /// Show where each stream stands. Nothing is changed and nobody is fenced.
    #[command(after_help = "Example:\n  casewire checkpoint show --config casewire.toml --json | jq .")]
    Show(ShowArguments),
    /// Move a stream to another position. A running instance is fenced: it stands by, and takes
    /// over again from the new position when restarted, or after kafka.takeover_after.
    #[command(
        after_help = "Examples:\n  casewire checkpoint set --config casewire.toml --topic /data/CaseChangeEvent --at 2026-11-22T09:00:00Z\n  \
                            casewire checkpoint set --config casewire.toml --topic /data/CaseChangeEvent --start earliest --dry-run"
    )]
    Set(SetArguments),
    /// Forget a stream's position: the next start is a first run, with the stream's `start`. It is refused
    /// while the output topics still hold records of the stream, so delete them too for a new beginning.
    #[command(
        after_help = "Example:\n  casewire checkpoint reset --config casewire.toml --topic /data/CaseChangeEvent"
    )]
    Reset(MoveArguments),
}

#[derive(Debug, Args)]
struct ShowArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this topic; all streams of the configuration otherwise.
    #[arg(long)]
    topic: Option<TopicName>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct MoveArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The stream's topic.
    #[arg(long)]
    topic: TopicName,
    /// The organisation; found by signing in otherwise.
    #[arg(long, value_name = "ORG-ID")]
    org: Option<OrgId>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct SetArguments {
    #[command(flatten)]
    common: MoveArguments,
    #[command(flatten)]
    to: Target,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Go on after this replay id, in hexadecimal.
    #[arg(long, value_name = "REPLAY-ID")]
    replay_id: Option<ReplayId>,
    /// Go on after the last event committed in Salesforce at or before this time, as the output topics show it.
    /// What came after is written again.
    #[arg(long, value_name = "TIME")]
    at: Option<DateTime<Utc>>,
    /// Begin at an end of what Salesforce retains: `earliest` drops what the output already holds.
    #[arg(long, value_enum)]
    start: Option<StartArgument>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StartArgument {
    Earliest,
    Latest,
}

/// Runs it.
///
/// # Errors
/// When Kafka or Salesforce cannot be asked, or the answer to the question is no.
pub async fn run(arguments: CheckpointArguments) -> Result<(), Failure> {
    match arguments.command {
        CheckpointCommand::Show(arguments) => show(&arguments).await,
        CheckpointCommand::Set(arguments) => set(arguments).await,
        CheckpointCommand::Reset(arguments) => reset(&arguments).await,
    }
}

async fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let config = arguments.file.load()?;
    let kafka = settings::kafka(&config.kafka)?;
    let topics = match &arguments.topic {
        Some(topic) => vec![topic.clone()],
        None => config.streams.iter().map(|stream| stream.topic.clone()).collect(),
    };
    let mut found = Vec::new();
    for topic in topics {
        let orgs = checkpoints_of_topic(&kafka, &kafka.topic_prefix, &topic).await.map_err(failed)?;
        if orgs.is_empty() && !arguments.json {
            println!("{topic}: no checkpoint");
        }
        for org in orgs {
            let identity = StreamIdentity { prefix: kafka.topic_prefix.clone(), org, topic: topic.clone() };
            let stored = read_checkpoint(&kafka, &identity).await.map_err(failed)?;
            match stored {
                Some(stored) if arguments.json => found.push(as_json(&identity, &stored)),
                Some(stored) => println!("{}", as_text(&identity, &stored)),
                None if arguments.json => {}
                None => println!("{topic} of {}: no checkpoint", identity.org),
            }
        }
    }
    if arguments.json {
        println!("{:#}", json!(found));
    }
    Ok(())
}

fn as_json(identity: &StreamIdentity, stored: &StoredCheckpoint) -> serde_json::Value {
    json!({
        "org": identity.org,
        "topic": identity.topic,
        "checkpoint_topic": identity.checkpoint_topic(),
        "transactional_id": identity.transactional_id(),
        "offset": stored.offset,
        "checkpoint": stored.checkpoint,
    })
}

fn as_text(identity: &StreamIdentity, stored: &StoredCheckpoint) -> String {
    let checkpoint = &stored.checkpoint;
    let left = position_time(&checkpoint.position).map_or_else(
        || "unknown".to_owned(),
        |time| {
            let left = crate::status::RETENTION - (Utc::now() - time);
            match left.to_std() {
                Ok(left) => format!("{} h {} min", left.as_secs() / 3600, left.as_secs() % 3600 / 60),
                Err(_) => "none: Salesforce no longer has what follows".to_owned(),
            }
        },
    );
    format!(
        "{} of {}\n  position      {}\n  until loss    {left}\n  transactions  {}\n  events        {}\n  \
         committed     {} by {} (run {}, casewire {})\n  stored in     {} at offset {}",
        identity.topic,
        identity.org,
        position_text(&checkpoint.position),
        checkpoint.seq,
        checkpoint.event_count,
        checkpoint.committed_at.format("%Y-%m-%d %H:%M:%S UTC"),
        checkpoint.writer.host,
        checkpoint.writer.run_id,
        checkpoint.writer.version,
        identity.checkpoint_topic(),
        stored.offset,
    )
}

fn position_text(position: &Position) -> String {
    let anchor = match position.anchor() {
        Anchor::After(id) => format!("after replay id {id}"),
        Anchor::Earliest { since } => format!("from the oldest retained event, decided {since}"),
        Anchor::Latest { since } => format!("from the tip, decided {since}"),
    };
    let time = position.time().map(|time| format!(", as of {time}")).unwrap_or_default();
    match position.already().len() {
        0 => format!("{anchor}{time}"),
        taken => format!("{anchor}, {taken} events beyond it taken{time}"),
    }
}

async fn set(arguments: SetArguments) -> Result<(), Failure> {
    let common = &arguments.common;
    let config = common.file.load()?;
    let kafka = settings::kafka(&config.kafka)?;
    let identity = identify(&config, &kafka, common).await?;
    let now = Utc::now();
    let (position, meaning) = match (&arguments.to.replay_id, arguments.to.at, arguments.to.start) {
        (Some(id), _, _) => {
            (Position::starting(Anchor::After(id.clone())), "records of events after it are written again".to_owned())
        }
        (None, Some(at), _) => {
            let found = read_back::position_at(&kafka, &identity, at).await.map_err(failed)?;
            let Some((id, committed_at)) = found else {
                let what = format!("The output topics hold no event of {} within 72 h before {at}", identity.topic);
                return Err(Failure::new(Exit::Usage, what, "take a later time, or --start earliest"));
            };
            let mut position = Position::starting(Anchor::After(id));
            position.set_time(committed_at);
            (
                position,
                format!(
                    "the last event committed at or before {at} is of {committed_at}; later ones are written again"
                ),
            )
        }
        (None, None, Some(StartArgument::Latest)) => {
            let position = Position::starting(Anchor::Latest { since: now });
            (position, "events between the old position and the next start are NOT delivered".to_owned())
        }
        (None, None, _) => (
            Position::starting_over(now),
            "all retained events are gone through; those that the output holds are dropped".to_owned(),
        ),
    };
    let stored = read_checkpoint(&kafka, &identity).await.map_err(failed)?;
    announce(
        &identity,
        stored.as_ref(),
        &format!("{} ({meaning})", position_text(&position)),
        "it stands by, so restart it",
    );
    if !confirmed(common)? {
        return Ok(());
    }
    let gap = moved(stored.as_ref(), &position, &meaning);
    let mut mover = Mover::open(&kafka, &identity).await?;
    let mut checkpoint =
        mover.stored.as_ref().map_or_else(|| Checkpoint::at(position.clone()), |stored| stored.checkpoint.clone());
    checkpoint.position = position;
    let record = mover.record(&gap);
    let committed = mover.writer.commit(vec![record], checkpoint).await.map_err(failed)?;
    println!("done: transaction {} holds the new position; the ledger entry is {}", committed.seq(), gap.id);
    mover.close().await
}

async fn reset(arguments: &MoveArguments) -> Result<(), Failure> {
    let config = arguments.file.load()?;
    let kafka = settings::kafka(&config.kafka)?;
    let identity = identify(&config, &kafka, arguments).await?;
    let stored = read_checkpoint(&kafka, &identity).await.map_err(failed)?;
    if stored.is_none() {
        println!("{} of {} has no checkpoint", identity.topic, identity.org);
        return Ok(());
    }
    announce(
        &identity,
        stored.as_ref(),
        "none: the next start is a first run",
        "it begins anew at once, as a first run",
    );
    if !confirmed(arguments)? {
        return Ok(());
    }
    let detail = "the position was removed; the next start is a first run";
    let from = end_of(stored.as_ref());
    let gap = OpenGap::of_range(GapCause::PositionMoved, from, GapEnd::default(), detail.to_owned());
    let mut mover = Mover::open(&kafka, &identity).await?;
    let record = mover.record(&gap);
    mover.writer.erase(vec![record]).await.map_err(failed)?;
    println!("done: the position is forgotten; the ledger entry is {}", gap.id);
    mover.close().await
}

/// A writer that has fenced whoever ran, for one transaction.
struct Mover {
    writer: TransactionalWriter,
    stored: Option<StoredCheckpoint>,
    identity: StreamIdentity,
    run: RunIdentity,
}

impl Mover {
    async fn open(kafka: &KafkaSettings, identity: &StreamIdentity) -> Result<Self, Failure> {
        let run = RunIdentity::of_this_process();
        ensure_topic(kafka, &ledger_topic(&identity.prefix), TopicRole::Gaps).await.map_err(failed)?;
        let (writer, stored) = TransactionalWriter::open(kafka, identity, &run).await.map_err(failed)?;
        Ok(Self { writer, stored, identity: identity.clone(), run })
    }

    fn record(&self, gap: &OpenGap) -> crate::kafka::OutputRecord {
        let ledger = ledger_topic(&self.identity.prefix).into();
        gap.record(&ledger, &self.identity.org, &self.identity.topic, &self.run.run_id)
    }

    async fn close(self) -> Result<(), Failure> {
        self.writer.close().await.map_err(failed)
    }
}

/// The stream that is meant. Signing in is the only proof of which organisation the configuration reaches.
async fn identify(
    config: &Config,
    kafka: &KafkaSettings,
    arguments: &MoveArguments,
) -> Result<StreamIdentity, Failure> {
    let org = match (&arguments.org, &config.salesforce.org_id) {
        (Some(org), _) | (None, Some(org)) => org.clone(),
        (None, None) => {
            let pubsub = settings::salesforce(config)?;
            pubsub.session().token().await.map_err(|error| error.failure())?.org_id().clone()
        }
    };
    Ok(StreamIdentity { prefix: kafka.topic_prefix.clone(), org, topic: arguments.topic.clone() })
}

fn announce(identity: &StreamIdentity, stored: Option<&StoredCheckpoint>, to: &str, then: &str) {
    println!("{} of {}", identity.topic, identity.org);
    println!(
        "  from  {}",
        stored.map_or_else(|| "no position".to_owned(), |stored| position_text(&stored.checkpoint.position))
    );
    println!("  to    {to}");
    if let Some(stored) = stored
        && Utc::now() - stored.checkpoint.committed_at < RUNNING
    {
        let writer = &stored.checkpoint.writer;
        println!(
            "  The instance on {} (run {}) committed {} s ago. If it still runs it is fenced: {then}.",
            writer.host,
            writer.run_id,
            (Utc::now() - stored.checkpoint.committed_at).num_seconds().max(0)
        );
    }
}

/// Whether to go on.
fn confirmed(arguments: &MoveArguments) -> Result<bool, Failure> {
    if arguments.dry_run {
        println!("nothing was changed (--dry-run)");
        return Ok(false);
    }
    if arguments.yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "Nobody can be asked: this is not a terminal",
            "add --yes, or --dry-run",
        ));
    }
    print!("Do it? Type yes: ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    if std::io::stdin().read_line(&mut answer).is_ok() && answer.trim() == "yes" {
        return Ok(true);
    }
    println!("nothing was changed");
    Ok(false)
}

fn moved(stored: Option<&StoredCheckpoint>, to: &Position, meaning: &str) -> OpenGap {
    let replay_id = match to.anchor() {
        Anchor::After(id) => Some(id.clone()),
        Anchor::Earliest { .. } | Anchor::Latest { .. } => None,
    };
    let to = GapEnd { replay_id, time: to.time() };
    OpenGap::of_range(GapCause::PositionMoved, end_of(stored), to, format!("the position was moved by hand: {meaning}"))
}

fn end_of(stored: Option<&StoredCheckpoint>) -> GapEnd {
    let Some(stored) = stored else { return GapEnd::default() };
    let position = &stored.checkpoint.position;
    let replay_id = match position.anchor() {
        Anchor::After(id) => Some(id.clone()),
        Anchor::Earliest { .. } | Anchor::Latest { .. } => None,
    };
    GapEnd { replay_id, time: position.time() }
}

fn failed(error: KafkaError) -> Failure {
    error.failure()
}
