//! `casewire checkpoint set` and `reset`.
//!
//! Moving a position is the one thing an operator can do that loses or repeats events, so it is
//! shown first, asked for, made through the same fence as everything else, and left in the ledger.

use std::io::{IsTerminal, Write};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::checkpoint_show::{ShowArguments, failed, position_text, reachable_kafka, show, time_text};
use crate::cli::error::CheckpointError;
use crate::cli::{ConfigFile, say};
use crate::config::Config;
use crate::failure::Failure;
use crate::identity::{OrgId, ReplayId, TopicName};
use crate::kafka::{
    Checkpoint, KafkaSettings, RunIdentity, StoredCheckpoint, StreamIdentity, TopicRole, TransactionalWriter,
    ensure_topic, read_checkpoint,
};
use crate::pipeline::context::ledger_topic;
use crate::pipeline::ledger::{GapCause, GapEnd, OpenGap};
use crate::pipeline::{read_back, settings};
use crate::position::{Anchor, Position};

/// An instance that committed this recently is taken to be running; a live one commits every two minutes.
const RUNNING: chrono::TimeDelta = chrono::TimeDelta::minutes(3);

/// Stands behind the host of a checkpoint that was written by hand.
const MOVED_BY: &str = " (casewire checkpoint)";

/// Show or move the position of a stream.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  casewire checkpoint show --config casewire.toml\n  \
                        casewire checkpoint set --config casewire.toml --topic /data/CaseChangeEvent --at 2026-11-22T09:00:00Z --dry-run")]
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
    #[arg(long, value_name = "TIME", value_parser = instant)]
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

async fn set(arguments: SetArguments) -> Result<(), Failure> {
    let common = &arguments.common;
    let (config, kafka) = prepared(common).await?;
    let identity = identify(&config, &kafka, common).await?;
    let (position, meaning) = target(&arguments.to, &kafka, &identity).await?;
    let stored = read_checkpoint(&kafka, &identity).await.map_err(failed)?;
    let to = format!("{} ({meaning})", position_text(&position));
    announce(&identity, stored.as_ref(), &to, "it is fenced and stands by: restart it afterwards");
    if !confirmed(common) {
        return Ok(());
    }
    let mut mover = Mover::open(&kafka, &identity).await?;
    // What was shown may be older: until the fence, an instance that ran went on.
    let from = end_of(mover.stored.as_ref());
    let to = GapEnd { replay_id: replay_id_of(&position), time: position.time() };
    let gap =
        OpenGap::of_range(GapCause::PositionMoved, from, to, format!("the position was moved by hand: {meaning}"));
    let mut checkpoint =
        mover.stored.as_ref().map_or_else(|| Checkpoint::at(position.clone()), |stored| stored.checkpoint.clone());
    checkpoint.position = position;
    let record = mover.record(&gap);
    let committed = mover.writer.commit(vec![record], checkpoint).await.map_err(failed)?;
    say(format_args!("done: transaction {} holds the new position; the ledger entry is {}", committed.seq(), gap.id));
    mover.close().await
}

/// The position that is asked for, and what it means for the output.
async fn target(to: &Target, kafka: &KafkaSettings, identity: &StreamIdentity) -> Result<(Position, String), Failure> {
    let since = Utc::now();
    match (&to.replay_id, to.at, to.start) {
        (Some(id), _, _) => {
            let meaning = "records of events after it are written again".to_owned();
            Ok((Position::starting(Anchor::After(id.clone())), meaning))
        }
        (None, Some(at), _) => {
            let found = read_back::position_at(kafka, identity, at).await.map_err(failed)?;
            let Some((id, committed_at)) = found else {
                return Err(CheckpointError::NoEventBefore { topic: identity.topic.clone(), before: at }.into());
            };
            let mut position = Position::starting(Anchor::After(id));
            position.set_time(committed_at);
            let meaning = format!(
                "the last event committed at or before {} is of {}; later ones are written again",
                time_text(at),
                time_text(committed_at)
            );
            Ok((position, meaning))
        }
        (None, None, Some(StartArgument::Latest)) => {
            let meaning = "events between the old position and the next start are NOT delivered".to_owned();
            Ok((Position::starting(Anchor::Latest { since }), meaning))
        }
        (None, None, _) => {
            let meaning = "all retained events are gone through; those that the output holds are dropped".to_owned();
            Ok((Position::starting_over(since, None), meaning))
        }
    }
}

async fn reset(arguments: &MoveArguments) -> Result<(), Failure> {
    let (config, kafka) = prepared(arguments).await?;
    let identity = identify(&config, &kafka, arguments).await?;
    let stored = read_checkpoint(&kafka, &identity).await.map_err(failed)?;
    if stored.is_none() {
        say(format_args!("{} of {} has no checkpoint", identity.topic, identity.org));
        return Ok(());
    }
    let to = "none: the next start is a first run, refused while the output topics hold records of the stream";
    announce(&identity, stored.as_ref(), to, "it is fenced, and its next attempt is that first run");
    if !confirmed(arguments) {
        return Ok(());
    }
    let detail = "the position was removed; the next start is a first run";
    let mut mover = Mover::open(&kafka, &identity).await?;
    let from = end_of(mover.stored.as_ref());
    let gap = OpenGap::of_range(GapCause::PositionMoved, from, GapEnd::default(), detail.to_owned());
    let record = mover.record(&gap);
    mover.writer.erase(vec![record]).await.map_err(failed)?;
    say(format_args!("done: the position is forgotten; the ledger entry is {}", gap.id));
    mover.close().await
}

/// Everything that can be refused before anybody is asked: a misspelt topic would get a checkpoint of its own, and
/// a question that nobody can answer should not be found out after a minute of reading.
async fn prepared(arguments: &MoveArguments) -> Result<(Config, KafkaSettings), Failure> {
    let config = arguments.file.load()?;
    if !config.streams.iter().any(|stream| stream.topic == arguments.topic) {
        let known: Vec<&str> = config.streams.iter().map(|stream| stream.topic.as_str()).collect();
        return Err(CheckpointError::NoStream { topic: arguments.topic.clone(), known: known.join(", ") }.into());
    }
    if !arguments.yes && !arguments.dry_run && !std::io::stdin().is_terminal() {
        return Err(CheckpointError::NobodyAsked.into());
    }
    let kafka = reachable_kafka(&config).await?;
    Ok((config, kafka))
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
        let mut run = RunIdentity::of_this_process();
        // Whoever is fenced says by whom; it should not sound like another instance.
        run.host.push_str(MOVED_BY);
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
    say(format_args!("{} of {}", identity.topic, identity.org));
    let from = stored.map_or_else(|| "no position".to_owned(), |stored| position_text(&stored.checkpoint.position));
    say(format_args!("  from  {from}\n  to    {to}"));
    let Some(Checkpoint { writer, committed_at, .. }) = stored.map(|stored| &stored.checkpoint) else { return };
    let ago = Utc::now() - *committed_at;
    if ago < RUNNING && !writer.host.ends_with(MOVED_BY) {
        say(format_args!(
            "  The instance on {} (run {}) committed {} s ago. If it still runs, {then}.",
            writer.host,
            writer.run_id,
            ago.num_seconds().max(0)
        ));
    }
}

/// Whether to go on.
fn confirmed(arguments: &MoveArguments) -> bool {
    if arguments.dry_run {
        say("nothing was changed (--dry-run)");
        return false;
    }
    if arguments.yes {
        return true;
    }
    let mut stdout = std::io::stdout();
    let asked = write!(stdout, "Do it? Type yes: ").and_then(|()| stdout.flush());
    let mut answer = String::new();
    let yes = asked.is_ok() && std::io::stdin().read_line(&mut answer).is_ok() && answer.trim() == "yes";
    if !yes {
        say("nothing was changed");
    }
    yes
}

fn end_of(stored: Option<&StoredCheckpoint>) -> GapEnd {
    let Some(stored) = stored else { return GapEnd::default() };
    let position = &stored.checkpoint.position;
    GapEnd { replay_id: replay_id_of(position), time: position.time() }
}

fn replay_id_of(position: &Position) -> Option<ReplayId> {
    match position.anchor() {
        Anchor::After(id) => Some(id.clone()),
        Anchor::Earliest { .. } | Anchor::Latest { .. } => None,
    }
}

fn instant(text: &str) -> Result<DateTime<Utc>, &'static str> {
    text.parse()
        .map_err(|_| "a time with its zone is expected, such as 2026-11-22T09:00:00Z or 2026-11-22T10:00:00+01:00")
}
