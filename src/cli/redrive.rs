//! `casewire dead-letters redrive`: has the running service bring what dead letters hold.
//!
//! The command writes no record of an object. It puts an entry for each letter into the gap ledger, and the service heals
//! it like any other gap: it reads the records anew, or writes the platform event, in its own transactions.
//!
//! Why a letter is redriven once: the entry's key is made of the letter's key, so the ledger's newest record of it says
//! whether the letter is under way or done, and then nothing is appended. Two commands at the same moment append the same
//! key twice; the service takes that for one gap, or heals it once more when the first is closed: it reads the records
//! anew once more, and writes a platform event only if its topic does not hold it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::change::{ChangeType, Header, RecordIdKind, WriterSchema};
use crate::cli::dead_letters::{letters, payload};
use crate::cli::error::{DeadLettersError, LeftLetter};
use crate::cli::stored_records::{header, key, newest_by_key};
use crate::cli::{ConfigFile, say, table};
use crate::config::Config;
use crate::failure::Failure;
use crate::identity::{OrgId, SchemaId, TopicKind, TopicName};
use crate::kafka::{KafkaSettings, RunIdentity, ScannedRecord};
use crate::pipeline::context::ledger_topic;
use crate::pipeline::dead_letter::Withheld;
use crate::pipeline::ledger::{GapEnd, OpenGap};
use crate::pipeline::ledger_entries::append_entries;
use crate::pipeline::records::check_entity;
use crate::pipeline::schemas::{NoSchema, SchemaCache};
use crate::pipeline::settings;

/// How long the schema of a letter is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct RedriveArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The letter's id, as `list` prints it; may be repeated.
    #[arg(long, value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    id: Vec<String>,
    /// All letters.
    #[arg(long)]
    all: bool,
    /// For a change event that cannot be decoded even now: read all records of its topic's object.
    #[arg(long)]
    whole: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// As JSON: `letters`, with what becomes of each.
    #[arg(long)]
    json: bool,
}

/// What has become of a letter, by the newest entry of the ledger.
pub struct Redriven {
    /// `open`, `healed` or `given_up`.
    pub state: String,
    /// Since when.
    pub at: String,
}

/// The letters that were redriven, by their keys.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn redriven(kafka: &KafkaSettings) -> Result<HashMap<String, Redriven>, Failure> {
    let stored = newest_by_key(kafka, &ledger_topic(&kafka.topic_prefix)).await?;
    let of = |record: &ScannedRecord| {
        let entry: Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
        let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
        let at = text("closed_at").or_else(|| text("opened_at")).unwrap_or_default();
        Some((text("letter")?, Redriven { state: text("state")?, at }))
    };
    Ok(stored.iter().filter_map(of).collect())
}

/// What becomes of a letter.
enum Outcome {
    /// Its gap is put into the ledger.
    Opened(Box<OpenGap>, TopicName),
    /// It is there already.
    Already(String),
    /// Nothing can be done, and why.
    Left(LeftLetter),
}

/// Redrives letters.
///
/// # Errors
/// When they cannot be read, Salesforce or Kafka does not answer, or some had to be left.
pub async fn run(arguments: &RedriveArguments) -> Result<(), Failure> {
    let config = arguments.file.load()?;
    let (kafka, topic, letters) = letters(&config).await?;
    let chosen = chosen(arguments, &topic, &letters)?;
    let redriven = redriven(&kafka).await?;
    let mut outcomes: Vec<(String, Outcome)> = Vec::with_capacity(chosen.len());
    let mut opener = None;
    for letter in chosen {
        let outcome = match redriven.get(&key(letter)) {
            Some(Redriven { state, at }) if state != "given_up" => Outcome::Already(format!("{state} since {at}")),
            _ => {
                let opener = match &mut opener {
                    Some(opener) => opener,
                    none => none.insert(Opener::new(&config, arguments.whole, &letters).await?),
                };
                opener.open(letter).await?
            }
        };
        outcomes.push((key(letter), outcome));
    }
    if let (Some(opener), false) = (opener, arguments.dry_run) {
        opener.append(&kafka, &outcomes).await?;
    }
    show(arguments, &outcomes);
    if !config.gaps.heal && !arguments.json {
        say("gaps.heal is false: nothing is read or written for the letters until it is true");
    }
    let left = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Left(_))).count();
    if left == 0 {
        return Ok(());
    }
    Err(DeadLettersError::Left { left, all: outcomes.len() }.into())
}

fn chosen<'l>(
    arguments: &RedriveArguments,
    topic: &str,
    letters: &'l [ScannedRecord],
) -> Result<Vec<&'l ScannedRecord>, Failure> {
    let absent = arguments.id.iter().find(|id| !letters.iter().any(|letter| key(letter) == **id));
    if let Some(absent) = absent {
        return Err(DeadLettersError::NoLetter { id: absent.clone(), topic: topic.to_owned() }.into());
    }
    let wanted = |letter: &&ScannedRecord| arguments.all || arguments.id.contains(&key(letter));
    Ok(letters.iter().filter(wanted).collect())
}

/// Finds out what a letter is about.
struct Opener<'a> {
    config: &'a Config,
    whole: bool,
    org: OrgId,
    schemas: SchemaCache,
    /// All letters there are.
    letters: &'a [ScannedRecord],
    /// What the last of them tells of each record; empty until a deletion is among those that are opened.
    last_words: HashMap<String, Word>,
}

/// What a letter of a change event says, with its bytes or without them.
struct Told {
    entity: String,
    records: Vec<String>,
    word: Word,
}

/// What a letter tells of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    /// When it was committed.
    at: Option<DateTime<Utc>>,
    /// Its place among what was committed then: the commit and the number within it. A letter without bytes does not say.
    place: Option<(i64, i64)>,
    deleted: bool,
}

impl Told {
    fn of_header(header: Header) -> Self {
        let deleted = matches!(header.change_type, ChangeType::Delete | ChangeType::GapDelete);
        let place = Some((header.commit_number, header.sequence_number));
        let word = Word { at: header.committed_at(), place, deleted };
        Self { entity: header.entity, records: header.record_ids, word }
    }

    fn of_withheld(withheld: &Withheld) -> Option<Self> {
        let change_type = withheld.change_type.as_deref().map(ChangeType::from_symbol);
        let deleted = matches!(change_type, Some(ChangeType::Delete | ChangeType::GapDelete));
        let word = Word { at: withheld.committed_at, place: None, deleted };
        Some(Self { entity: withheld.entity.clone()?, records: withheld.records.clone(), word })
    }
}

impl Word {
    /// The later of two; that a record is there, where nobody can say which of them is.
    fn then(self, other: Self) -> Self {
        let later = match (self.at, other.at) {
            (Some(own), Some(others)) if own != others => own > others,
            (Some(_), Some(_)) => match (self.place, other.place) {
                (Some(own), Some(others)) if own != others => own > others,
                _ => !self.deleted,
            },
            _ => !self.deleted,
        };
        if later { self } else { other }
    }
}

impl<'a> Opener<'a> {
    /// Signs in: only Salesforce has the schemas, and only the sign-in proves which organisation is meant.
    async fn new(config: &'a Config, whole: bool, letters: &'a [ScannedRecord]) -> Result<Self, Failure> {
        let pubsub = settings::salesforce(config)?;
        let org = pubsub.session().token().await.map_err(|error| error.failure())?.org_id().clone();
        Ok(Self { config, whole, org, schemas: SchemaCache::new(pubsub), letters, last_words: HashMap::new() })
    }

    async fn open(&mut self, letter: &ScannedRecord) -> Result<Outcome, Failure> {
        let (org, name) = (header(letter, "org"), header(letter, "topic"));
        if org != self.org.as_str() {
            return Ok(Outcome::Left(LeftLetter::OtherOrg { of: org, this: self.org.to_string() }));
        }
        let Some(stream) = self.config.streams.iter().find(|stream| stream.topic.as_str() == name) else {
            return Ok(Outcome::Left(LeftLetter::NoStream(name)));
        };
        let topic = stream.topic.clone();
        if let Some(withheld) = Withheld::of_letter(letter) {
            let deleted = match Told::of_withheld(&withheld) {
                Some(told) => self.deleted(&told).await?,
                None => Vec::new(),
            };
            return Ok(self.open_withheld(letter, &topic, withheld, deleted));
        }
        let kind = topic.kind();
        let gap = if let TopicKind::PlatformEvent(_) | TopicKind::PlatformChannel = kind {
            let policies = settings::policies(&self.config.policies);
            let opened = self.schema(letter).await?.and_then(|schema| {
                schema.decode(payload(letter), &policies).map_err(|error| error.to_string())?;
                Ok(self.gap(letter, schema.name(), Vec::new(), None))
            });
            opened.map_err(LeftLetter::PlatformEvent)
        } else {
            match (self.told(letter).await?, kind) {
                (Ok(told), _) => {
                    let deleted = self.deleted(&told).await?;
                    Ok(OpenGap { deleted, ..self.gap(letter, &told.entity, told.records, told.word.at) })
                }
                (Err(_), TopicKind::Entity(object)) if self.whole => Ok(self.gap(letter, &object, Vec::new(), None)),
                (Err(reason), TopicKind::Entity(object)) => Err(LeftLetter::ChangeEvent { reason, object }),
                (Err(reason), _) => Err(LeftLetter::OnChannel(reason)),
            }
        };
        Ok(match gap {
            Ok(gap) => Outcome::Opened(Box::new(gap), topic),
            Err(left) => Outcome::Left(left),
        })
    }

    /// The schema of a letter, or why it cannot be had.
    async fn schema(&self, letter: &ScannedRecord) -> Result<Result<Arc<WriterSchema>, String>, Failure> {
        let id: SchemaId = header(letter, "schema_id").as_str().into();
        match timeout(PATIENCE, self.schemas.get(&id, &CancellationToken::new(), |_, _| {})).await {
            Ok(Ok(schema)) => Ok(Ok(schema)),
            Ok(Err(NoSchema::Undecodable(reason))) => Ok(Err(reason)),
            Ok(Err(NoSchema::Stop(failure))) => Err(failure),
            Ok(Err(NoSchema::Cancelled)) | Err(_) => Err(DeadLettersError::NoSchema(PATIENCE.as_secs()).into()),
        }
    }

    /// What the header of a letter's change event says, or why there is none that can be used.
    async fn told(&self, letter: &ScannedRecord) -> Result<Result<Told, String>, Failure> {
        if let Some(withheld) = Withheld::of_letter(letter) {
            return Ok(Told::of_withheld(&withheld).ok_or_else(|| "its header could not be decoded".to_owned()));
        }
        let told = self.schema(letter).await?.and_then(|schema| {
            let told = schema.decode_header(payload(letter)).map_err(|error| error.to_string())?;
            usable(told.ok_or_else(|| "it has no header".to_owned())?).map(Told::of_header)
        });
        Ok(told)
    }

    /// Those of a deletion's records of which no letter tells anything later. If such a record is not found any more, its
    /// job may take it for deleted (`pipeline::jobs`); one that has come back since, as another letter tells, it may not.
    async fn deleted(&mut self, told: &Told) -> Result<Vec<String>, Failure> {
        if !told.word.deleted {
            return Ok(Vec::new());
        }
        if self.last_words.is_empty() {
            let letters = self.letters;
            for letter in letters.iter().filter(|letter| header(letter, "org") == self.org.as_str()) {
                let Ok(told) = self.told(letter).await? else { continue };
                for id in told.records {
                    let word = told.word;
                    self.last_words.entry(id).and_modify(|last| *last = last.then(word)).or_insert(word);
                }
            }
        }
        let last = |id: &&String| self.last_words.get(*id).is_none_or(|last| last.deleted);
        Ok(told.records.iter().filter(last).cloned().collect())
    }

    /// A letter without bytes names the records to be read.
    fn open_withheld(
        &self,
        letter: &ScannedRecord,
        topic: &TopicName,
        withheld: Withheld,
        deleted: Vec<String>,
    ) -> Outcome {
        let Withheld { entity, records, committed_at, .. } = withheld;
        match (topic.kind(), entity) {
            (TopicKind::PlatformEvent(_) | TopicKind::PlatformChannel, _) => {
                Outcome::Left(LeftLetter::WithheldEvent { replay_id: header(letter, "replay_id") })
            }
            (_, Some(entity)) if !records.is_empty() => {
                let gap = OpenGap { deleted, ..self.gap(letter, &entity, records, committed_at) };
                Outcome::Opened(Box::new(gap), topic.clone())
            }
            (TopicKind::Entity(object), _) if self.whole => {
                Outcome::Opened(Box::new(self.gap(letter, &object, Vec::new(), None)), topic.clone())
            }
            (TopicKind::Entity(object), _) => Outcome::Left(LeftLetter::WithheldRecords(object)),
            _ => Outcome::Left(LeftLetter::WithheldObject),
        }
    }

    fn gap(
        &self,
        letter: &ScannedRecord,
        entity: &str,
        records: Vec<String>,
        committed_at: Option<DateTime<Utc>>,
    ) -> OpenGap {
        let to = GapEnd { replay_id: header(letter, "replay_id").parse().ok(), time: committed_at };
        let detail = format!("a dead letter was redriven; it became one because: {}", header(letter, "reason"));
        OpenGap::of_letter(&key(letter), Some(entity.to_owned()), records, to, detail)
    }

    async fn append(&self, kafka: &KafkaSettings, outcomes: &[(String, Outcome)]) -> Result<(), Failure> {
        let mut of_streams: BTreeMap<&TopicName, Vec<OpenGap>> = BTreeMap::new();
        for (_, outcome) in outcomes {
            if let Outcome::Opened(gap, topic) = outcome {
                of_streams.entry(topic).or_default().push(OpenGap::clone(gap));
            }
        }
        let run = RunIdentity::of_this_process();
        for (topic, gaps) in of_streams {
            let appended = append_entries(kafka, (&self.org, topic), &run.run_id, &gaps).await;
            appended.map_err(|error| error.failure())?;
        }
        Ok(())
    }
}

/// A header that says which records are meant.
fn usable(header: Header) -> Result<Header, String> {
    check_entity(&header.entity).map_err(|error| error.to_string())?;
    if header.record_ids.is_empty() { Err("it names no record".to_owned()) } else { Ok(header) }
}

impl Outcome {
    /// One word, and the facts.
    fn told(&self, dry_run: bool) -> (&'static str, String) {
        match self {
            Self::Opened(gap, topic) => {
                let entity = gap.entity.as_deref().unwrap_or_default();
                let platform = matches!(topic.kind(), TopicKind::PlatformEvent(_) | TopicKind::PlatformChannel);
                let what = match gap.records.as_slice() {
                    _ if platform => format!("the {entity} event, as it was"),
                    records
                        if !records.is_empty()
                            && records.iter().all(|id| RecordIdKind::of(id) == RecordIdKind::Record) =>
                    {
                        format!("{entity} {}, read anew", shown(records))
                    }
                    _ => format!("all records of {entity} are read anew"),
                };
                (if dry_run { "would be opened" } else { "opened" }, what)
            }
            Self::Already(since) => ("already", since.clone()),
            Self::Left(why) => ("left", why.failure().to_string()),
        }
    }
}

/// The first ids of many.
fn shown(ids: &[String]) -> String {
    const SHOWN: usize = 3;
    let first: Vec<&str> = ids.iter().take(SHOWN).map(String::as_str).collect();
    let more = ids.len().saturating_sub(SHOWN);
    if more == 0 { first.join(" ") } else { format!("{} and {more} more", first.join(" ")) }
}

fn show(arguments: &RedriveArguments, outcomes: &[(String, Outcome)]) {
    if arguments.json {
        let letter = |(id, outcome): &(String, Outcome)| {
            let (became, what) = outcome.told(arguments.dry_run);
            let gap = match outcome {
                Outcome::Opened(gap, _) => json!(gap.id),
                _ => Value::Null,
            };
            json!({ "id": id, "outcome": became, "what": what, "gap": gap })
        };
        say(format_args!("{:#}", json!({ "letters": outcomes.iter().map(letter).collect::<Vec<_>>() })));
        return;
    }
    if outcomes.is_empty() {
        say("no dead letter");
        return;
    }
    let row = |(id, outcome): &(String, Outcome)| {
        let (became, what) = outcome.told(arguments.dry_run);
        [id.clone(), became.to_owned(), what]
    };
    let rows: Vec<_> = outcomes.iter().map(row).collect();
    for line in table::lines(["id", "outcome", "what"], &rows) {
        say(line);
    }
    if outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Opened(..))) && !arguments.dry_run {
        say("");
        say("The running service does it within gaps.look_every, or at its next start; `dead-letters list` shows it.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_deleted_only_by_the_last_word_of_all_letters() {
        let at = |second: i64| DateTime::from_timestamp(second, 0);
        let word = |second, place, deleted| Word { at: at(second), place, deleted };
        let (deleted, back) = (word(7, Some((3, 2)), true), word(8, Some((4, 1)), false));
        assert_eq!((deleted.then(back), back.then(deleted)), (back, back), "whatever is read first");
        assert!(word(7, Some((3, 1)), false).then(deleted).deleted, "changed and deleted in one transaction");
        let unplaced = word(7, None, false);
        assert!(
            !deleted.then(unplaced).deleted && !unplaced.then(deleted).deleted,
            "nobody knows which is the later one"
        );
        let undated = Word { at: None, ..back };
        assert!(!deleted.then(undated).deleted && !undated.then(deleted).deleted);
        assert!(word(6, None, false).then(word(7, None, true)).deleted);
    }

    #[test]
    fn a_few_ids_stand_for_many() {
        let ids: Vec<String> = ["1", "2", "3", "4", "5"].map(str::to_owned).to_vec();
        assert_eq!((shown(&ids[..2]), shown(&ids)), ("1 2".to_owned(), "1 2 3 and 2 more".to_owned()));
    }
}
