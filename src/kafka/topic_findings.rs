//! What is wrong with a topic that exists, as far as its settings tell.

use std::collections::HashMap;

use crate::kafka::topics::{Layout, TopicRole};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Data may be lost some day, or the operator may not have meant it.
    Warning,
    /// Not to be written to.
    Refusal,
}

/// Something about a topic that its operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is the matter, in a sentence with the topic's name.
    pub what: String,
    /// What mends it.
    pub remedy: String,
}

/// A topic as its settings show it.
struct Inspection<'a> {
    name: &'a str,
    layout: &'a Layout,
    config: &'a HashMap<String, String>,
    found: Vec<Finding>,
}

/// What is the matter with a topic. A setting that is not known is not judged.
pub(crate) fn findings(
    name: &str,
    role: TopicRole,
    layout: &Layout,
    config: &HashMap<String, String>,
    batch_limit: usize,
) -> Vec<Finding> {
    let mut inspection = Inspection { name, layout, config, found: Vec::new() };
    if role == TopicRole::Checkpoints {
        inspection.checkpoints();
    } else {
        inspection.retention(role);
    }
    inspection.copies();
    inspection.sizes(batch_limit);
    inspection.found
}

/// Of a topic whose settings are kept from casewire.
pub(crate) fn unreadable(name: &str, reason: &str) -> Finding {
    Finding {
        severity: Severity::Warning,
        what: format!("The settings of topic `{name}` cannot be read: {reason}"),
        remedy: "Grant DescribeConfigs on the topic, so that settings that lose data are noticed.".to_owned(),
    }
}

/// Each of them once, for the page of errors.
#[cfg(test)]
pub(crate) fn one_of_each() -> Vec<Finding> {
    let config = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let layout = |partitions, replication| Layout { partitions, replication, brokers: 3, led: true };
    let short = [
        ("max.message.bytes", "100000"),
        ("min.insync.replicas", "1"),
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "604800000"),
    ];
    let mut found =
        findings("TOPIC", TopicRole::Checkpoints, &layout(6, 3), &config(&[("cleanup.policy", "delete")]), 500_000);
    found.extend(findings("TOPIC", TopicRole::Entity, &layout(6, 3), &config(&short), 500_000));
    found.extend(findings(
        "TOPIC",
        TopicRole::Entity,
        &layout(6, 1),
        &config(&[("min.insync.replicas", "2")]),
        500_000,
    ));
    found.push(unreadable("TOPIC", "REASON"));
    found
}

impl Inspection<'_> {
    fn find(&mut self, severity: Severity, what: &str, remedy: &str) {
        let what = format!("Topic `{}` {what}", self.name);
        self.found.push(Finding { severity, what, remedy: remedy.to_owned() });
    }

    fn get(&self, key: &str) -> &str {
        self.config.get(key).map_or("", String::as_str)
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.get(key).parse().ok()
    }

    /// A stream's place is one record that has to outlive any silence, in one order.
    fn checkpoints(&mut self) {
        let partitions = self.layout.partitions;
        if partitions != 1 {
            self.find(
                Severity::Refusal,
                &format!("has {partitions} partitions: the order of checkpoints needs exactly one"),
                "Delete it while casewire is stopped and let casewire make it, or make it with one partition.",
            );
        }
        let policy = self.get("cleanup.policy");
        if !policy.is_empty() && policy != "compact" {
            let what = format!("has cleanup.policy={policy}: a stream that is quiet for long would lose its place");
            self.find(Severity::Refusal, &what, "Set cleanup.policy=compact on it.");
        }
    }

    fn retention(&mut self, role: TopicRole) {
        let policy = self.get("cleanup.policy");
        let (compacts, deletes) = (policy.contains("compact"), policy.contains("delete"));
        if compacts && role.keeps_every_record() {
            let what = format!(
                "is compacted (cleanup.policy={policy}): an update holds the changed fields only, so what older records \
                 of the same key say is lost"
            );
            self.find(
                Severity::Refusal,
                &what,
                "Set cleanup.policy=delete on it, or give casewire another topic prefix.",
            );
        }
        let finite = |key| self.number(key).is_some_and(|limit| limit >= 0);
        if deletes && (finite("retention.ms") || finite("retention.bytes")) {
            let what = format!(
                "deletes records (retention.ms={}, retention.bytes={}): whoever reads it later than that misses them",
                self.get("retention.ms"),
                self.get("retention.bytes")
            );
            let remedy = "Set retention.ms=-1 and retention.bytes=-1 on it, or accept that it is no full history.";
            self.find(Severity::Warning, &what, remedy);
        }
    }

    fn copies(&mut self) {
        let Layout { replication, brokers, .. } = *self.layout;
        if replication == 1 && brokers > 1 {
            self.find(
                Severity::Warning,
                &format!("has one copy on a cluster of {brokers} brokers: it is lost with its broker"),
                "Raise its replication factor to 3 with kafka-reassign-partitions.sh, and set kafka.replication_factor.",
            );
        }
        let Some(needed) = self.number("min.insync.replicas").and_then(|needed| usize::try_from(needed).ok()) else {
            return;
        };
        if replication > 1 && needed == 1 {
            let what = "has min.insync.replicas=1: a record that only one broker has counts as written";
            self.find(Severity::Warning, what, "Set min.insync.replicas=2 on it.");
        }
        if needed > replication {
            let what = format!("needs {needed} in-sync replicas and has {replication}: nothing can be written to it");
            self.find(Severity::Refusal, &what, "Lower its min.insync.replicas, or raise its replication factor.");
        }
    }

    /// Brokers hold max.message.bytes against a batch, not against a record.
    fn sizes(&mut self, batch_limit: usize) {
        let limit = self.number("max.message.bytes").and_then(|limit| usize::try_from(limit).ok());
        if let Some(limit) = limit.filter(|limit| *limit < batch_limit) {
            self.find(
                Severity::Refusal,
                &format!("takes batches of {limit} bytes, casewire sends up to {batch_limit}"),
                "Raise its max.message.bytes, or set `batch.size` in [kafka.properties] below it.",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::settings::TopicDefaults;

    /// Role, layout, settings; what is found, and a word of it.
    type Row<'a> = (TopicRole, Layout, &'a [(&'a str, &'a str)], &'a [Severity], &'a str);

    const ONE: Layout = Layout { partitions: 1, replication: 1, brokers: 1, led: true };

    #[test]
    fn settings_that_lose_data_are_found() {
        let three = Layout { replication: 3, brokers: 3, ..ONE };
        let copies = |replication| Layout { replication, ..three };
        use Severity::{Refusal, Warning};
        use TopicRole::{Checkpoints, DeadLetters, Entity};
        let table: &[Row] = &[
            (Entity, ONE, &[("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")], &[], ""),
            (Entity, ONE, &[("cleanup.policy", "delete"), ("retention.ms", "604800000")], &[Warning], "604800000"),
            (
                Entity,
                ONE,
                &[("cleanup.policy", "delete"), ("retention.bytes", "1000")],
                &[Warning],
                "retention.bytes=1000",
            ),
            (Entity, ONE, &[("cleanup.policy", "compact")], &[Refusal], "compacted"),
            (DeadLetters, ONE, &[("cleanup.policy", "compact"), ("retention.ms", "604800000")], &[], ""),
            (Entity, copies(1), &[], &[Warning], "one copy"),
            (Entity, three, &[("min.insync.replicas", "1")], &[Warning], "min.insync.replicas"),
            (Entity, three, &[("min.insync.replicas", "2")], &[], ""),
            (Entity, copies(2), &[("min.insync.replicas", "3")], &[Refusal], "nothing can be written"),
            (Entity, ONE, &[("max.message.bytes", "1000")], &[Refusal], "1000"),
            (Checkpoints, ONE, &[("cleanup.policy", "compact"), ("retention.ms", "1")], &[], ""),
            (Checkpoints, ONE, &[("cleanup.policy", "delete")], &[Refusal], "lose its place"),
            (Checkpoints, ONE, &[("cleanup.policy", "compact,delete")], &[Refusal], "lose its place"),
            (Checkpoints, Layout { partitions: 3, ..ONE }, &[("cleanup.policy", "compact")], &[Refusal], "exactly one"),
        ];
        for (role, layout, config, severities, words) in table {
            let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let found = findings("t", *role, layout, &config, 500_000);
            assert_eq!(found.iter().map(|finding| finding.severity).collect::<Vec<_>>(), *severities, "{found:?}");
            assert!(
                found.iter().all(|finding| finding.what.contains(words) && !finding.remedy.is_empty()),
                "{found:?}"
            );
        }
    }

    #[test]
    fn there_is_a_sample_of_each_for_the_page_of_errors() {
        let source = include_str!("topic_findings.rs");
        let code = source.split("mod tests").next().expect("the code");
        let samples: std::collections::HashSet<String> =
            one_of_each().into_iter().map(|finding| finding.remedy).collect();
        assert_eq!(
            samples.len(),
            code.matches("self.find(").count() + 1,
            "and the one of settings that cannot be read"
        );
    }

    #[test]
    fn a_topic_made_by_its_own_rule_has_no_findings() {
        let defaults = TopicDefaults { create: true, check: true, partitions: 6, replication: -1 };
        use TopicRole::{Checkpoints, Conversation, DeadLetters, Entity, Gaps};
        for role in [Entity, Conversation, DeadLetters, Gaps, Checkpoints] {
            let spec = role.spec(&defaults);
            let config = spec.config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let layout = Layout { partitions: usize::try_from(spec.partitions).expect("positive"), ..ONE };
            assert_eq!(findings("t", role, &layout, &config, 500_000), [], "{role:?}");
        }
    }
}
