//! `[[policy]]`: fields that are kept from whoever reads Kafka, one table for each object.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret, SecretString};

use crate::config::reader::{Findings, Section};

/// The object under whose name the messages of conversations are kept.
pub const CONVERSATION_ENTRY: &str = "ConversationEntry";

/// The members of a message that a policy can name.
const ENTRY_MEMBERS: [&str; 9] =
    ["text", "payload", "type", "sender", "sender.role", "sender.app_type", "sender.subject", "session", "case"];

/// What every record says under other names too: its key, `record_as_of`, `committed_at` and `op`.
const SAID_OTHERWISE: [&str; 5] = ["Id", "SystemModstamp", "LastModifiedDate", "CreatedDate", "IsDeleted"];

/// A key of fewer bytes could be guessed.
const LEAST_KEY: usize = 32;

/// One `[[policy]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyConfig {
    /// The object's or platform event's API name, or `ConversationEntry`.
    pub entity: String,
    /// Fields that are left out.
    pub drop: Vec<String>,
    /// Fields of which a keyed hash is written.
    pub hash: Vec<String>,
    /// Fields of which `***` is written.
    pub mask: Vec<String>,
    /// How many of the last characters of a masked text are left to read.
    pub keep_last: usize,
}

/// What is kept from readers, and the key of the hashes.
#[derive(Debug, Default)]
pub struct PoliciesConfig {
    /// One for each object.
    pub policies: Vec<PolicyConfig>,
    /// There whenever something is hashed.
    pub key: Option<SecretString>,
}

impl PoliciesConfig {
    /// Reads every `[[policy]]` and the key.
    pub(in crate::config) fn read(root: &mut Section, findings: &mut Findings) -> Self {
        // An editor leaves a line break at the end of a file; it is not part of the key.
        let key = root.secret("policy_key", findings);
        let key = key.map(|key| SecretString::from(key.expose_secret().trim_end_matches(['\r', '\n'])));
        let sections = root.sections("policy", findings);
        let policies: Vec<PolicyConfig> =
            sections.into_iter().filter_map(|section| PolicyConfig::read(section, findings)).collect();
        for (index, policy) in policies.iter().enumerate() {
            if policies.iter().take(index).any(|other| other.entity == policy.entity) {
                let problem = format!("is \"{}\", which another [[policy]] has: one object, one policy", policy.entity);
                findings.fault(format!("policy[{index}].entity"), problem);
            }
        }
        let hashes = policies.iter().any(|policy| !policy.hash.is_empty());
        match &key {
            None if hashes && !findings.faults.iter().any(|fault| fault.path.starts_with("policy_key")) => {
                let problem =
                    "is missing: a [[policy]] has `hash`, which needs a key. `openssl rand -hex 32` makes one";
                findings.fault("policy_key_file", problem);
            }
            Some(key) if key.expose_secret().len() < LEAST_KEY => {
                let problem = format!("has fewer than {LEAST_KEY} bytes. `openssl rand -hex 32` makes a key");
                findings.fault("policy_key", problem);
            }
            _ => {}
        }
        Self { policies, key }
    }
}

impl PolicyConfig {
    fn read(mut section: Section, findings: &mut Findings) -> Option<Self> {
        let entity = section.required("entity", "the object's API name, such as \"Case\"", findings);
        let expected = "API names of fields, such as [\"Description\", \"BillingStreet\"]";
        let mut fields = |key: &str, findings: &mut Findings| section.texts(key, is_field, expected, findings);
        let (drop, hash, mask) = (fields("drop", findings), fields("hash", findings), fields("mask", findings));
        let keep_last = section.number("keep_last", 0, (0, 8), findings);
        if let Some(entity) = entity.as_deref().filter(|entity| !is_api_name(entity)) {
            findings.fault(section.path_of("entity"), format!("is \"{entity}\", but an API name is expected"));
        }
        let mut seen = BTreeSet::new();
        let mut none = true;
        for (key, fields) in [("drop", &drop), ("hash", &hash), ("mask", &mask)] {
            for field in fields {
                none = false;
                if let Some(problem) = refused(entity.as_deref().unwrap_or_default(), field) {
                    findings.fault(section.path_of(key), problem);
                } else if !seen.insert(field.clone()) {
                    findings.fault(section.path_of(key), format!("names \"{field}\", which is named already"));
                }
            }
        }
        if none && !findings.faults.iter().any(|fault| fault.path.starts_with(&section.path_of(""))) {
            findings
                .fault(section.path_of("drop"), "is empty, and so are hash and mask: the policy would keep nothing");
        }
        section.finish(findings);
        Some(Self { entity: entity?, drop, hash, mask, keep_last: usize::try_from(keep_last).unwrap_or_default() })
    }
}

fn is_api_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `Description`, or a component as `BillingAddress.Street`.
fn is_field(name: &str) -> bool {
    match name.split_once('.') {
        Some((compound, part)) => is_api_name(compound) && is_api_name(part),
        None => is_api_name(name),
    }
}

/// Why a field cannot be kept from readers.
fn refused(entity: &str, field: &str) -> Option<String> {
    if entity == CONVERSATION_ENTRY {
        let known = ENTRY_MEMBERS.contains(&field);
        return (!known)
            .then(|| format!("names \"{field}\"; of messages a policy can name {}", ENTRY_MEMBERS.join(", ")));
    }
    let said = SAID_OTHERWISE.contains(&field);
    said.then(|| format!("names \"{field}\", which every record tells: as its key, record_as_of, committed_at or op"))
}
