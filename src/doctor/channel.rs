//! The objects of a channel, as the Tooling API lists them to whoever may view the setup.

use serde::Deserialize;

use crate::doctor::finding::Outcome;
use crate::doctor::soon;
use crate::identity::TopicName;
use crate::salesforce::pubsub::PubSub;
use crate::salesforce::rest::RestError;

/// The standard channel as its members name it; `/data/ChangeEvents` for subscribers.
const STANDARD: &str = "ChangeEvents";

/// How many members a line names.
const NAMED: usize = 12;

#[derive(Debug, Deserialize)]
struct Answer {
    records: Vec<Member>,
}

/// What is selected on a channel (Tooling API guide, "PlatformEventChannelMember").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Member {
    #[serde(default)]
    developer_name: Option<String>,
    #[serde(default)]
    event_channel: Option<String>,
    #[serde(default)]
    selected_entity: Option<String>,
}

/// Which objects or events are selected on a channel.
pub async fn members(pubsub: &PubSub, topic: &TopicName) -> Outcome {
    let session = pubsub.session();
    let soql = "SELECT+DeveloperName,EventChannel,SelectedEntity+FROM+PlatformEventChannelMember";
    let path = format!("/services/data/v{}/tooling/query?q={soql}", session.api_version());
    match soon("The instance", session.get_json::<Answer>(&path)).await {
        Ok(Ok(answer)) => judge(topic, &answer.records),
        Ok(Err(RestError::Refused { code, .. })) => Outcome::Skipped(format!(
            "the user may not view the setup ({code}), which takes \"View Setup and Configuration\" and is needed for nothing else here"
        )),
        Ok(Err(error)) => Outcome::Skipped(format!("the Tooling API does not tell: {error}")),
        Err(failure) => Outcome::Skipped(failure.what),
    }
}

fn judge(topic: &TopicName, members: &[Member]) -> Outcome {
    let channel = topic.as_str().rsplit('/').next().unwrap_or_default();
    // The name of a member begins with its channel's, one underscore for two, unless somebody gave it another.
    let prefix = format!("{}_", channel.replace("__", "_"));
    let own = |member: &&Member| {
        let named = |name: &Option<String>, holds: &dyn Fn(&str) -> bool| name.as_deref().is_some_and(holds);
        named(&member.event_channel, &|name| name == channel)
            || named(&member.developer_name, &|name| name.starts_with(&prefix))
    };
    let mut selected: Vec<&str> =
        members.iter().filter(own).filter_map(|member| member.selected_entity.as_deref()).collect();
    selected.sort_unstable();
    selected.dedup();
    if selected.is_empty() {
        let page = if channel == STANDARD {
            "Setup > Integrations > Change Data Capture: select the objects."
        } else {
            "Make a PlatformEventChannelMember for each object over the Metadata or Tooling API (docs/salesforce-setup.md, step 5)."
        };
        return Outcome::warning(
            format!("No object is selected on {channel}, as far as the Tooling API tells: nothing will come"),
            page,
        );
    }
    let more = selected.len().saturating_sub(NAMED);
    let mut named = selected.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if more > 0 {
        named.push_str(&format!(" and {more} more"));
    }
    Outcome::Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_those_of_the_channel_by_either_of_its_names() {
        let member = |name: &str, channel: &str, event: &str| Member {
            developer_name: Some(name.to_owned()),
            event_channel: Some(channel.to_owned()),
            selected_entity: Some(event.to_owned()),
        };
        let members = [
            member("ChangeEvents_AccountChangeEvent", "ChangeEvents", "AccountChangeEvent"),
            member("Support_chn_CaseChangeEvent", "0YLRM0000000CdZ4AU", "CaseChangeEvent"),
            member("own_name", "Support__chn", "MessagingSessionChangeEvent"),
            member("SupportEU_chn_CaseChangeEvent", "SupportEU__chn", "LeadChangeEvent"),
        ];
        let of = |topic: &str| judge(&topic.parse().expect("a topic"), &members);
        assert_eq!(of("/data/Support__chn").what(), "CaseChangeEvent, MessagingSessionChangeEvent");
        assert_eq!(of("/data/ChangeEvents").what(), "AccountChangeEvent");
        assert_eq!(of("/data/Empty__chn").word(), "warning");
    }
}
