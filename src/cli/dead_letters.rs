//! `casewire dead-letters`: the events that could not be decoded, read from Kafka.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::change::Header;
use crate::cli::checkpoint_show::reachable_kafka;
use crate::cli::error::DeadLettersError;
use crate::cli::redrive::{self, RedriveArguments, Redriven, redriven};
use crate::cli::stored_records::{header, key, newest_by_key};
use crate::cli::{ConfigFile, say, table};
use crate::config::Config;
use crate::failure::Failure;
use crate::identity::SchemaId;
use crate::kafka::{KafkaSettings, ScannedRecord};
use crate::pipeline::context::dead_letters_topic;
use crate::pipeline::dead_letter::Withheld;
use crate::pipeline::schemas::{NoSchema, SchemaCache};
use crate::pipeline::settings;

/// How long the sign-in and the schema are waited for. Without them a letter is shown raw.
const PATIENCE: Duration = Duration::from_secs(20);

/// List, show or redrive the events that could not be decoded.
///
/// A letter stays where it is whatever is done, and so does the position of its stream.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  casewire dead-letters list --config casewire.toml")]
pub struct DeadLettersArguments {
    #[command(subcommand)]
    command: LetterCommand,
}

#[derive(Debug, Subcommand)]
enum LetterCommand {
    /// List the letters, the oldest first, and how many there are of each cause.
    #[command(after_help = "Example:\n  casewire dead-letters list --config casewire.toml --json | jq .summary")]
    List(ListArguments),
    /// Show one letter: its headers, the event's own header where it can be decoded, and its bytes.
    ///
    /// To decode the header, casewire signs in and asks Salesforce for the schema. Where that does not work the letter is
    /// shown all the same, and why its header is not.
    #[command(
        after_help = "Example:\n  casewire dead-letters show 00000000001790560000-366d9355-f1bc-4650-b321-6d45e77180b5 \
                            --config casewire.toml --raw event.avro"
    )]
    Show(ShowArguments),
    /// Have the running service bring what letters hold.
    ///
    /// For a change event the records that it names are read anew and written as `refresh`, or as `delete`: never what stands
    /// in the letter over what came since. A platform event is written as it was. All of that is done by the service, from an
    /// entry that this puts into the gap ledger. A letter that is under way or done is left alone.
    #[command(after_help = "Examples:\n  casewire dead-letters redrive --all --dry-run --config casewire.toml\n  \
                            casewire dead-letters redrive --id 00000000001790560000-366d9355-f1bc-4650-b321-6d45e77180b5 \
                            --config casewire.toml")]
    Redrive(RedriveArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// As JSON: `topic`, `summary` and `letters`.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The letter's id, as `list` prints it.
    id: String,
    /// As JSON, with the bytes in hexadecimal.
    #[arg(long)]
    json: bool,
    /// Write the bytes to this file, which must not exist, instead of printing them.
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
}

/// Runs a `dead-letters` command.
///
/// # Errors
/// When the letters cannot be read, there is none of that id, or some cannot be redriven.
pub async fn run(arguments: DeadLettersArguments) -> Result<(), Failure> {
    match arguments.command {
        LetterCommand::List(arguments) => list(&arguments).await,
        LetterCommand::Show(arguments) => show(&arguments).await,
        LetterCommand::Redrive(arguments) => redrive::run(&arguments).await,
    }
}

/// The topic's name and its letters, the oldest first.
///
/// # Errors
/// When they cannot be read.
pub async fn letters(config: &Config) -> Result<(KafkaSettings, String, Vec<ScannedRecord>), Failure> {
    let kafka = reachable_kafka(config).await?;
    let topic = dead_letters_topic(&kafka.topic_prefix);
    let mut letters = newest_by_key(&kafka, &topic).await?;
    letters.sort_by_cached_key(|letter| (letter.timestamp, key(letter)));
    Ok((kafka, topic, letters))
}

async fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let (kafka, topic, letters) = letters(&arguments.file.load()?).await?;
    let redriven = redriven(&kafka).await?;
    let mut summary: BTreeMap<(String, String), usize> = BTreeMap::new();
    for letter in &letters {
        *summary.entry((header(letter, "topic"), header(letter, "reason"))).or_default() += 1;
    }
    if arguments.json {
        let count = |((topic, reason), count): (&(String, String), &usize)| json!({ "topic": topic, "reason": reason, "count": count });
        let summary: Vec<Value> = summary.iter().map(count).collect();
        let letters: Vec<Value> = letters.iter().map(|letter| listed(letter, &redriven)).collect();
        say(format_args!("{:#}", json!({ "topic": topic, "summary": summary, "letters": letters })));
        return Ok(());
    }
    if letters.is_empty() {
        say(format_args!("{topic}: no dead letter"));
        return Ok(());
    }
    let rows: Vec<_> = letters.iter().map(|letter| row(letter, &redriven)).collect();
    for line in table::lines(["id", "written", "stream", "bytes", "redriven", "reason"], &rows) {
        say(line);
    }
    say("");
    for ((topic, reason), count) in &summary {
        say(format_args!("{count:>6}  {topic}: {reason}"));
    }
    Ok(())
}

fn listed(letter: &ScannedRecord, redriven: &HashMap<String, Redriven>) -> Value {
    let mut shown = as_json(letter);
    if let (Value::Object(members), Some(redriven)) = (&mut shown, redriven.get(&key(letter))) {
        members.insert("redriven".to_owned(), json!({ "state": redriven.state, "at": redriven.at }));
    }
    shown
}

fn row(letter: &ScannedRecord, redriven: &HashMap<String, Redriven>) -> [String; 6] {
    [
        key(letter),
        letter.timestamp.map_or_else(|| "-".to_owned(), time_text),
        header(letter, "topic"),
        payload(letter).len().to_string(),
        redriven.get(&key(letter)).map_or_else(|| "-".to_owned(), |redriven| redriven.state.clone()),
        header(letter, "reason"),
    ]
}

/// The event's bytes.
pub fn payload(letter: &ScannedRecord) -> &[u8] {
    letter.value.as_deref().unwrap_or_default()
}

fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn as_json(letter: &ScannedRecord) -> Value {
    let headers: Map<String, Value> =
        letter.headers.iter().map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into())).collect();
    json!({
        "id": key(letter),
        "written_at": letter.timestamp.map(time_text),
        "bytes": payload(letter).len(),
        "partition": letter.partition,
        "offset": letter.offset,
        "headers": headers,
    })
}

async fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let config = arguments.file.load()?;
    let (_, topic, letters) = letters(&config).await?;
    let Some(letter) = letters.iter().find(|letter| key(letter) == arguments.id) else {
        return Err(DeadLettersError::NoLetter { id: arguments.id.clone(), topic }.into());
    };
    if let Some(file) = &arguments.raw {
        write_new(file, payload(letter))?;
    }
    let opened = open(&config, letter).await;
    if arguments.json {
        say(format_args!("{:#}", shown_as_json(letter, &opened, arguments.raw.is_none())));
    } else {
        shown_as_text(letter, &opened, arguments.raw.as_ref());
    }
    Ok(())
}

/// What a look into a letter's bytes finds now.
struct Opened {
    /// The event's own header; of a platform event, which has none, nothing.
    header: Option<Header>,
    /// Why there is no more than that, or that there is.
    finding: String,
}

/// Decodes a letter as far as it goes.
async fn open(config: &Config, letter: &ScannedRecord) -> Opened {
    let not = |finding: String| Opened { header: None, finding };
    if let Some(withheld) = Withheld::of_letter(letter) {
        let names = withheld.entity.unwrap_or_else(|| "an object that is not known".to_owned());
        return not(format!(
            "no event: the field policy kept the bytes back, and the letter names {names} and its records"
        ));
    }
    let schema_id: SchemaId = header(letter, "schema_id").as_str().into();
    let schemas = match settings::salesforce(config) {
        Ok(pubsub) => SchemaCache::new(pubsub),
        Err(failure) => return not(format!("not decoded: {}", failure.what)),
    };
    let cancel = CancellationToken::new();
    let asked = tokio::time::timeout(PATIENCE, schemas.get(&schema_id, &cancel, |_, _| {})).await;
    let schema = match asked {
        Ok(Ok(schema)) => schema,
        Ok(Err(NoSchema::Undecodable(reason))) => return not(format!("not decoded: {reason}")),
        Ok(Err(NoSchema::Stop(failure))) => return not(format!("not decoded: {}", failure.what)),
        Ok(Err(NoSchema::Cancelled)) | Err(_) => {
            return not(format!("not decoded: Salesforce gave no schema within {} s", PATIENCE.as_secs()));
        }
    };
    let finding = match schema.decode(payload(letter), &settings::policies(&config.policies)) {
        Ok(_) => format!("this casewire decodes the whole event, as a {}", schema.name()),
        Err(error) => format!("as a {}: {error}", schema.name()),
    };
    Opened { header: schema.decode_header(payload(letter)).ok().flatten(), finding }
}

fn header_members(header: &Header) -> [(&'static str, String); 9] {
    [
        ("entity", header.entity.clone()),
        ("record_ids", header.record_ids.join(" ")),
        ("change_type", header.change_type.as_str().to_owned()),
        ("committed_at", header.committed_at().map(time_text).unwrap_or_default()),
        ("commit_number", header.commit_number.to_string()),
        ("transaction", header.transaction_key.clone()),
        ("sequence", header.sequence_number.to_string()),
        ("user", header.commit_user.clone()),
        ("origin", header.change_origin.clone()),
    ]
}

fn shown_as_json(letter: &ScannedRecord, opened: &Opened, with_bytes: bool) -> Value {
    let mut shown = as_json(letter);
    if let Value::Object(shown) = &mut shown {
        let header = opened.header.as_ref().map(|header| {
            let mut members: Map<String, Value> =
                header_members(header).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            members.insert("record_ids".to_owned(), json!(header.record_ids));
            members
        });
        shown.insert("event_header".to_owned(), json!(header));
        shown.insert("finding".to_owned(), json!(opened.finding));
        if with_bytes {
            let hex = payload(letter).iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            shown.insert("payload".to_owned(), json!(hex));
        }
    }
    shown
}

fn shown_as_text(letter: &ScannedRecord, opened: &Opened, raw: Option<&PathBuf>) {
    let section = |name: &str, members: Vec<(String, String)>| {
        say(name);
        let width = members.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in members {
            say(format!("  {name:width$}  {value}").trim_end());
        }
    };
    say(format_args!("{} at offset {} of {}-{}", key(letter), letter.offset, letter.topic, letter.partition));
    let headers =
        letter.headers.iter().map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()));
    let written = letter.timestamp.map(|time| ("written".to_owned(), time_text(time)));
    section("headers", written.into_iter().chain(headers).collect());
    say("event");
    say(format_args!("  {}", opened.finding));
    if let Some(header) = &opened.header {
        let members = header_members(header).into_iter().map(|(name, value)| (name.to_owned(), value));
        section("event header", members.collect());
    }
    match raw {
        Some(file) => say(format_args!("{} bytes, written to {}", payload(letter).len(), file.display())),
        None => {
            say(format_args!("{} bytes", payload(letter).len()));
            for line in hex_dump(payload(letter)) {
                say(line);
            }
        }
    }
}

/// Sixteen bytes a line: where they stand, in hexadecimal, and as ASCII.
fn hex_dump(bytes: &[u8]) -> impl Iterator<Item = String> {
    const WIDTH: usize = 16;
    bytes.chunks(WIDTH).enumerate().map(|(line, chunk)| {
        let hex = chunk.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let printable = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        let ascii: String = chunk.iter().map(printable).collect();
        format!("  {:06x}  {hex:47}  {ascii}", line.saturating_mul(WIDTH))
    })
}

/// Never over something that is there: it may be what somebody saved before.
fn write_new(file: &PathBuf, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(file);
    let written = made.and_then(|mut made| made.write_all(bytes));
    written.map_err(|error| DeadLettersError::NotWritten { file: file.clone(), error }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_dumped_as_every_hex_dump_shows_them() {
        let lines: Vec<String> = hex_dump(b"\x00Case \xff0123456789").collect();
        assert_eq!(lines[0], "  000000  00 43 61 73 65 20 ff 30 31 32 33 34 35 36 37 38  .Case .012345678");
        assert_eq!(lines[1], format!("  000010  {:47}  9", "39"));
    }
}
