//! What the user may subscribe to and read.

use tokio::time::Instant;

use crate::change::{EntityPolicy, ObjectDescription, WriterSchema};
use crate::config::{Config, PollConfig, StreamConfig};
use crate::doctor::fault::CheckError;
use crate::doctor::finding::{Area, Outcome, Report};
use crate::doctor::{ANSWER, channel, soon};
use crate::failure::Failure;
use crate::identity::{SchemaId, TopicKind, TopicName};
use crate::pipeline::messages::reach;
use crate::pipeline::{policy_check, settings};
use crate::salesforce::call_fault::CallFault;
use crate::salesforce::pubsub::PubSub;
use crate::salesforce::rest::RestError;
use crate::salesforce::rest_client::RestClient;

const AREA: Area = Area::Streams;

const MESSAGES: &str = "messages";

/// How many fields a line names.
const NAMED: usize = 12;

/// Looks at each stream of the configuration.
pub async fn examine(config: &Config, pubsub: &PubSub, pubsub_reachable: bool, report: &mut Report<'_>) {
    for stream in &config.streams {
        let schema = if pubsub_reachable {
            topic(pubsub, &stream.topic, report).await
        } else {
            report.skip(AREA, [topic_check(stream)], "the Pub/Sub API cannot be reached");
            None
        };
        match stream.topic.kind() {
            TopicKind::Entity(object) => records(pubsub, stream, &object, schema, report).await,
            TopicKind::ChangeChannel => {
                report.add(AREA, members_check(stream), channel::members(pubsub, &stream.topic).await);
                report.skip(
                    AREA,
                    [format!("records of {}", stream.topic)],
                    "a channel of several objects leaves out in silence what the user may not see: a stream for each object tells",
                );
            }
            TopicKind::PlatformChannel => {
                report.add(AREA, members_check(stream), channel::members(pubsub, &stream.topic).await);
            }
            TopicKind::PlatformEvent(_) => {}
        }
        if stream.messages {
            report.add(AREA, MESSAGES, messages(pubsub).await);
        }
    }
    for poll in &config.polls {
        polled(pubsub, poll, report).await;
    }
    for policy in settings::policies(&config.policies).all() {
        report.add(AREA, format!("policy of {}", policy.entity()), policy_outcome(policy, pubsub).await);
    }
}

/// The words are those with which a start is refused.
async fn policy_outcome(policy: &EntityPolicy, pubsub: &PubSub) -> Outcome {
    match soon("Salesforce", policy_check::check_one(policy, pubsub)).await {
        Ok(Ok(())) => Outcome::Ok(policy_check::in_words(policy)),
        Ok(Err(error)) => Outcome::Failed(error.failure()),
        Err(failure) => Outcome::Failed(failure),
    }
}

async fn messages(pubsub: &PubSub) -> Outcome {
    let rest = RestClient::new(pubsub.session().clone());
    match reach(&rest, Instant::now() + ANSWER).await {
        Ok(()) => Outcome::Ok("sessions and conversations may be asked for; a conversation that is none was asked for, so none was marked active".to_owned()),
        Err(failure) => Outcome::Failed(failure),
    }
}

/// The rows of streams that nobody can ask about.
pub fn skip(config: &Config, report: &mut Report<'_>, because: &str) {
    report.skip(AREA, config.policies.policies.iter().map(|policy| format!("policy of {}", policy.entity)), because);
    for stream in &config.streams {
        report.skip(AREA, [topic_check(stream)], because);
        if let TopicKind::Entity(object) = stream.topic.kind() {
            report.skip(AREA, [records_check(&object), fields_check(&object)], because);
        }
        if matches!(stream.topic.kind(), TopicKind::ChangeChannel | TopicKind::PlatformChannel) {
            report.skip(AREA, [members_check(stream)], because);
        }
        if stream.messages {
            report.skip(AREA, [MESSAGES], because);
        }
    }
    for poll in &config.polls {
        report.skip(AREA, [records_check(&poll.entity)], because);
    }
}

fn members_check(stream: &StreamConfig) -> String {
    format!("members of {}", stream.topic)
}

fn topic_check(stream: &StreamConfig) -> String {
    format!("topic {}", stream.topic)
}

fn records_check(object: &str) -> String {
    format!("records of {object}")
}

fn fields_check(object: &str) -> String {
    format!("fields of {object}")
}

/// Whether the topic is there and the user may subscribe to it, which for one object means that change data capture is on
/// and that the user may see all of its records. Gives the newest schema.
async fn topic(pubsub: &PubSub, name: &TopicName, report: &mut Report<'_>) -> Option<SchemaId> {
    let check = format!("topic {name}");
    let failure = match soon("The Pub/Sub API", pubsub.topic(name)).await {
        Ok(Ok(info)) if info.can_subscribe => {
            report.add(AREA, check, Outcome::Ok("is there, and the user may subscribe".to_owned()));
            return Some(SchemaId::from(info.schema_id.as_str())).filter(|id| !id.as_str().is_empty());
        }
        Ok(Ok(_)) => CallFault::MayNotSubscribe(name.clone()).failure(),
        Ok(Err(error)) => error.failure(),
        Err(failure) => failure,
    };
    report.add(AREA, check, Outcome::Failed(failure));
    None
}

/// Whether records of the object can be read, and which of the fields that its events have are hidden.
async fn records(
    pubsub: &PubSub,
    stream: &StreamConfig,
    object: &str,
    schema: Option<SchemaId>,
    report: &mut Report<'_>,
) {
    let session = pubsub.session();
    let path = format!("/services/data/v{}/sobjects/{object}/describe", session.api_version());
    let described = match soon("The instance", session.get_json::<ObjectDescription>(&path)).await {
        Ok(Ok(described)) => described,
        Ok(Err(error)) => {
            report.add(AREA, records_check(object), Outcome::Failed(unreadable(object, &error)));
            report.skip(AREA, [fields_check(object)], "the object cannot be described");
            return;
        }
        Err(failure) => {
            report.add(AREA, records_check(object), Outcome::Failed(failure));
            report.skip(AREA, [fields_check(object)], "the object cannot be described");
            return;
        }
    };
    let sight = RestClient::new(session.clone()).sees_all_records(object, Instant::now() + ANSWER).await;
    report.add(AREA, records_check(object), Outcome::Ok(readable(described.fields.len(), sight.unwrap_or(false))));
    let outcome = match schema {
        None => Outcome::Skipped("the topic told no schema to compare with".to_owned()),
        Some(id) => match event_fields(pubsub, &id).await {
            Ok(fields) => hidden(object, &described, &fields, stream.fields.names()),
            Err(failure) => Outcome::Failed(failure),
        },
    };
    report.add(AREA, fields_check(object), outcome);
}

/// Whether records of a polled object can be read, and whether they say when they were changed.
async fn polled(pubsub: &PubSub, poll: &PollConfig, report: &mut Report<'_>) {
    let (session, object) = (pubsub.session(), &poll.entity);
    let path = format!("/services/data/v{}/sobjects/{object}/describe", session.api_version());
    let outcome = match soon("The instance", session.get_json::<ObjectDescription>(&path)).await {
        Ok(Ok(described)) => {
            let sight = RestClient::new(session.clone()).sees_all_records(object, Instant::now() + ANSWER).await;
            pollable(poll, &described, sight.unwrap_or(false))
        }
        Ok(Err(error)) => Outcome::Failed(unreadable(object, &error)),
        Err(failure) => Outcome::Failed(failure),
    };
    report.add(AREA, records_check(object), outcome);
}

fn pollable(poll: &PollConfig, described: &ObjectDescription, sees_all: bool) -> Outcome {
    let object = &poll.entity;
    if described.time_field().is_none() {
        return Outcome::failed(CheckError::NotPollable(object.clone()));
    }
    let lacking: Vec<&str> =
        poll.fields.names().iter().filter(|name| !described.shows(name)).map(String::as_str).collect();
    if !lacking.is_empty() {
        return Outcome::warning(
            format!(
                "{} of {object} are none of the object's, or hidden from the user: {}",
                fields(lacking.len()),
                lacking.join(", ")
            ),
            format!("Correct fields or exclude_fields of the [[poll]] of {object}, or grant Read Access to them."),
        );
    }
    if !described.shows("IsDeleted") {
        return Outcome::warning(
            format!("{object} does not say what was deleted, so polls bring no deletes of it"),
            format!("`casewire reconcile --entity {object} --full` finds what is gone."),
        );
    }
    Outcome::Ok(format!("polled; {}", readable(described.fields.len(), sees_all)))
}

/// That the user sees every record is known only where it may ask for its own permissions.
fn readable(fields: usize, all: bool) -> String {
    let sight = if all {
        "all of them"
    } else {
        "whether all of them is not told to this user (only `casewire reconcile --full` needs to know; it takes \"View Setup and \
         Configuration\")"
    };
    format!("can be read, {sight}, with {fields} fields")
}

/// An object that is hidden is answered like one that does not exist.
fn unreadable(object: &str, error: &RestError) -> Failure {
    match error {
        RestError::Refused { status: 404, .. } => {
            CheckError::Unreadable { object: object.to_owned(), error: error.clone() }.failure()
        }
        other => other.failure(),
    }
}

/// The fields that events of a schema have. GetSchema tells all of them, whatever the user may see.
async fn event_fields(pubsub: &PubSub, id: &SchemaId) -> Result<Vec<String>, Failure> {
    let answer = soon("The Pub/Sub API", pubsub.schema(id)).await?.map_err(|error| error.failure())?;
    let schema = WriterSchema::parse(&answer.schema_json)
        .map_err(|error| CheckError::Schema { id: id.to_string(), reason: error.to_string() })?;
    Ok(schema.fields().map(str::to_owned).collect())
}

/// Describe leaves out what field-level security hides from the user; a hidden field is null in every event.
fn hidden(object: &str, described: &ObjectDescription, events: &[String], chosen: &[String]) -> Outcome {
    let lacking =
        |names: &[String]| -> Vec<String> { names.iter().filter(|name| !described.shows(name)).cloned().collect() };
    let mut missing = lacking(events);
    missing.extend(lacking(chosen).into_iter().filter(|name| !events.contains(name)));
    if missing.is_empty() {
        return Outcome::Ok(format!("all {} that events have can be read", events.len()));
    }
    let more = missing.len().saturating_sub(NAMED);
    let mut named = missing.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        named.push_str(&format!(" and {more} more"));
    }
    Outcome::warning(
        format!(
            "{} of {object} are hidden from the user, and empty in events and records: {named}",
            fields(missing.len())
        ),
        format!(
            "Setup > Permission Sets > the integration user's set > Object Settings > {object} > Field Permissions: grant Read Access, \
             unless they are hidden on purpose. A field of the configuration that is none of the object's is named too."
        ),
    )
}

fn fields(count: usize) -> String {
    if count == 1 { "1 field".to_owned() } else { format!("{count} fields") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FieldChoice;

    #[test]
    fn a_polled_object_has_to_say_when_it_was_changed_and_should_say_what_was_deleted() {
        let poll = |fields: FieldChoice| PollConfig {
            entity: "CaseComment".to_owned(),
            every: ANSWER,
            look_back: ANSWER,
            since: None,
            fields,
        };
        let described = |names: &[&str]| {
            let field = |name: &&str| serde_json::json!({"name": name, "type": "string"});
            let fields: Vec<_> = names.iter().map(field).collect();
            let answer = serde_json::json!({"name": "CaseComment", "fields": fields});
            ObjectDescription::parse(answer.to_string().as_bytes()).expect("described")
        };
        let all = ["Id", "IsDeleted", "SystemModstamp", "CommentBody"];
        let outcome = |fields, names: &[&str]| pollable(&poll(fields), &described(names), true);
        assert_eq!(outcome(FieldChoice::All, &all).word(), "ok");
        let misspelt = outcome(FieldChoice::Only(vec!["Coment".to_owned()]), &all);
        assert!(misspelt.word() == "warning" && misspelt.what().ends_with(": Coment"), "{}", misspelt.what());
        assert!(outcome(FieldChoice::All, &["Id", "SystemModstamp"]).what().contains("no deletes"));
        let timeless = outcome(FieldChoice::All, &["Id", "IsDeleted"]);
        assert!(timeless.word() == "failed" && timeless.what().contains("SystemModstamp"), "{}", timeless.what());
    }

    #[test]
    fn hidden_fields_are_named_up_to_a_bound_and_a_misspelt_choice_with_them() {
        let answer = serde_json::json!({"name": "Case", "fields": [
            {"name": "Id", "type": "id", "compoundFieldName": null},
            {"name": "Subject", "type": "string", "compoundFieldName": null},
        ]});
        let described = ObjectDescription::parse(answer.to_string().as_bytes()).expect("described");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let outcome = |events: &[&str], chosen: &[&str]| hidden("Case", &described, &names(events), &names(chosen));
        assert_eq!(outcome(&["Subject"], &["Subject"]).word(), "ok");
        let one = outcome(&["Subject", "SuppliedEmail"], &["SuppliedEmail", "Statsu"]);
        assert!(
            one.what().starts_with("2 fields of Case are hidden") && one.what().ends_with(": SuppliedEmail, Statsu")
        );
        let many: Vec<String> = (0..15).map(|number| format!("F{number}__c")).collect();
        assert!(hidden("Case", &described, &many, &[]).what().ends_with("F11__c and 3 more"));
    }
}
