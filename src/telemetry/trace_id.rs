//! The id of an event's trace, whether it is sampled, and the header that tells consumers of both.

use std::fmt;
use std::num::NonZeroU64;

use bytes::Bytes;
use uuid::{Uuid, Variant};

use crate::position::EventKey;

/// The name of the header (W3C Trace Context).
pub const TRACEPARENT: &str = "traceparent";

/// Samplers look at the last 56 bits of a trace id: of these alone the W3C says that they are random.
const RANDOM_BITS: u32 = 56;

/// The id of a trace: the same whenever, and by whomever, the event is handled.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// That of an event: its UUID, so that whoever has the one finds the other. Anything else that a publisher chose as an
    /// id, such as a UUID that counts upwards or ends in the address of a machine, says nothing at random; half a SHA-256 of
    /// the event's key stands in for it.
    pub fn of(event: &EventKey) -> Self {
        let random = |id: &Uuid| id.get_version_num() == 4 && id.get_variant() == Variant::RFC4122;
        match Uuid::try_parse(event.event_id()).ok().filter(random) {
            Some(id) => Self(id.into_bytes()),
            None => Self(event.fingerprint().to_be_bytes()),
        }
    }

    /// As OTLP has it.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The bits that a sampler may take for random.
    fn random(&self) -> u64 {
        let [.., a, b, c, d, e, f, g] = self.0;
        u64::from_be_bytes([0, a, b, c, d, e, f, g])
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The id of a span: another one each time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

impl SpanId {
    /// Drawn at random.
    pub fn drawn() -> Self {
        Self(rand::random())
    }

    /// As OTLP has it.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Which traces are taken: decided by the id alone, as samplers of OpenTelemetry decide, so that an event is sampled
/// always or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sampler {
    /// What the random bits have to reach.
    threshold: u64,
}

impl Sampler {
    /// Takes this share of all traces; below 0 is none, above 1 is all.
    pub(super) fn of(share: f64) -> Self {
        let all = 1_u64 << RANDOM_BITS;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "between 0 and 2^56, and nobody notices the last digits of a share"
        )]
        let taken = (share.clamp(0.0, 1.0) * all as f64).round() as u64;
        Self { threshold: all.saturating_sub(taken) }
    }

    /// Whether it takes this one.
    pub(super) fn takes(self, trace: TraceId) -> bool {
        trace.random() >= self.threshold
    }
}

/// The value of a `traceparent` header that names a sampled span: version 00 of W3C Trace Context.
pub(super) fn traceparent(trace: TraceId, span: SpanId) -> Bytes {
    Bytes::from(format!("00-{trace}-{span}-01").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_id: &str) -> EventKey {
        EventKey::new(Bytes::from_static(&[0, 7]).into(), event_id, b"payload")
    }

    #[test]
    fn the_trace_of_an_event_is_its_uuid_and_of_an_event_without_a_random_one_a_digest_of_its_key() {
        let uuid = "366d9355-f1bc-4650-b321-6d45e77180b5";
        assert_eq!(TraceId::of(&event(uuid)).to_string(), uuid.replace('-', ""));
        assert_eq!(TraceId::of(&event(&uuid.to_uppercase())), TraceId::of(&event(uuid)));
        // One of version 1 ends in the publisher's network address: all would be sampled, or none.
        for other in ["c232ab00-9414-11ec-b3c8-9f6bdeced846", "", "order 17", "00000000-0000-4000-0000-000000000000"] {
            let trace = TraceId::of(&event(other));
            assert_eq!(trace.as_bytes(), &event(other).fingerprint().to_be_bytes(), "{other}");
            assert_eq!(trace, TraceId::of(&event(other)), "{other}");
        }
        assert_ne!(TraceId::of(&event("order 17")), TraceId::of(&event("order 18")));
    }

    #[test]
    fn the_header_is_that_of_the_w3c() {
        let trace = TraceId::of(&event("366d9355-f1bc-4650-b321-6d45e77180b5"));
        let span = SpanId(NonZeroU64::new(0xab).expect("not zero"));
        assert_eq!(traceparent(trace, span), "00-366d9355f1bc4650b3216d45e77180b5-00000000000000ab-01");
        assert_eq!(span.to_bytes(), [0, 0, 0, 0, 0, 0, 0, 0xab]);
        assert_ne!(SpanId::drawn(), SpanId::drawn());
    }

    #[test]
    fn a_sampler_takes_its_share_and_a_larger_share_what_a_smaller_one_takes() {
        let trace = |bits: u64| {
            let mut id = [0xff; 16];
            id[9..].copy_from_slice(&bits.to_be_bytes()[1..]);
            TraceId(id)
        };
        let last = (1_u64 << RANDOM_BITS) - 1;
        for (share, least) in [(1.0, Some(0)), (0.5, Some(1 << 55)), (0.25, Some(3 << 54)), (0.0, None), (7.0, Some(0))]
        {
            let sampler = Sampler::of(share);
            assert_eq!(sampler.takes(trace(last)), least.is_some(), "{share}");
            if let Some(least) = least {
                assert!(sampler.takes(trace(least)), "{share}");
                assert!(least == 0 || !sampler.takes(trace(least - 1)), "{share}");
            }
        }
        let traces: Vec<TraceId> = (0..10_000).map(|_| TraceId(Uuid::new_v4().into_bytes())).collect();
        let taken = |share| traces.iter().filter(|trace| Sampler::of(share).takes(**trace)).count();
        // Ten standard deviations on either side.
        assert!((70..=330).contains(&taken(0.02)), "{}", taken(0.02));
        assert!(traces.iter().all(|trace| !Sampler::of(0.02).takes(*trace) || Sampler::of(0.3).takes(*trace)));
    }
}
