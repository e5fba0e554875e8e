//! Which stream writes which entity. An entity topic has one writer, or the order of a
//! record's changes would be that of two producers (and a transaction of one would not
//! cover the other).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::failure::Failure;
use crate::identity::{TopicKind, TopicName};
use crate::pipeline::stop::StreamError;

/// The claims of all streams of the process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct EntityClaims {
    claims: Arc<Mutex<HashMap<String, TopicName>>>,
    configured: Arc<HashSet<TopicName>>,
    /// Entities that are read by polls, and may not come by events beside.
    polled: Arc<Mutex<HashSet<String>>>,
}

impl EntityClaims {
    /// Claims what the names of the topics tell, before any event comes: a channel that
    /// delivers the same object later is then the one that stops, whoever is faster.
    pub fn of<'a>(topics: impl IntoIterator<Item = &'a TopicName>) -> Self {
        let topics: Vec<_> = topics.into_iter().collect();
        let configured = Arc::new(topics.iter().map(|topic| (*topic).clone()).collect());
        let claims = Self { configured, ..Self::default() };
        for topic in topics {
            if let TopicKind::Entity(entity) | TopicKind::PlatformEvent(entity) = topic.kind() {
                // Two streams of one topic are refused by the configuration, so nothing is claimed twice here.
                let _ = claims.claim(&entity, topic);
            }
        }
        claims
    }

    /// Claims `entity` for `topic`, whose stream polls it. No event may bring it from then on: a change would be written by
    /// both, in an order that nobody knows.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn poll(&self, entity: &str, topic: &TopicName) -> Result<(), Failure> {
        self.claim(entity, topic)?;
        self.polled.lock().unwrap_or_else(PoisonError::into_inner).insert(entity.to_owned());
        Ok(())
    }

    /// The same as [`claim`](Self::claim) for what an event of `topic` brings.
    ///
    /// # Errors
    /// When another stream has it, or it is polled.
    pub fn claim_delivered(&self, entity: &str, topic: &TopicName) -> Result<(), Failure> {
        if !self.polled.lock().unwrap_or_else(PoisonError::into_inner).contains(entity) {
            return self.claim(entity, topic);
        }
        Err(StreamError::Polled { topic: topic.clone(), entity: entity.to_owned() }.into())
    }

    /// Whether the process has a stream of `topic`.
    pub fn is_configured(&self, topic: &TopicName) -> bool {
        self.configured.contains(topic)
    }

    /// Claims `entity` for `topic`, or confirms the claim.
    ///
    /// # Errors
    /// When another stream has it; both are named.
    pub fn claim(&self, entity: &str, topic: &TopicName) -> Result<(), Failure> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = claims.entry(entity.to_owned()).or_insert_with(|| topic.clone());
        if owner == topic {
            return Ok(());
        }
        let (topic, entity, owner) = (topic.clone(), entity.to_owned(), owner.clone());
        Err(StreamError::Claimed { topic, entity, owner }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_delivers_a_claimed_entity_is_stopped_naming_both() {
        let cases: TopicName = "/data/CaseChangeEvent".parse().expect("a topic");
        let channel: TopicName = "/data/Support__chn".parse().expect("a topic");
        let claims = EntityClaims::of([&channel, &cases]);
        assert!(claims.claim("Case", &cases).is_ok());
        assert!(claims.claim("Contact", &channel).is_ok());
        let failure = claims.claim("Case", &channel).expect_err("claimed");
        assert!(failure.what.contains("/data/Support__chn") && failure.what.contains("/data/CaseChangeEvent"));

        assert!(claims.poll("CaseComment", &channel).is_ok());
        assert!(claims.claim("CaseComment", &channel).is_ok(), "by a snapshot");
        let failure = claims.claim_delivered("CaseComment", &channel).expect_err("polled");
        assert!(failure.remedy.contains("[[poll]] of CaseComment"), "{failure:?}");
        assert!(claims.claim_delivered("Contact", &channel).is_ok());
    }
}
