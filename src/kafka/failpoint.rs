//! Named places in a transaction at which the crash test ends the process.
//!
//! `CASEWIRE_FAILPOINT=after_records:3` aborts the process when it comes to `after_records` for the
//! third time, `CASEWIRE_FAILPOINT=after_choosing_job:1:panic` lets the task panic that comes there. Without the cargo
//! feature `failpoints` a place compiles to nothing.

/// The places, in the order in which a transaction passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The transaction is open and empty.
    Begin,
    /// All records are handed over, the checkpoint is not.
    Records,
    /// The brokers have acknowledged everything, the checkpoint too, and the transaction is open.
    Checkpoint,
    /// The transaction is committed and nobody knows it yet.
    Commit,
    /// The same of a transaction that opens a gap, and the job that is to heal it.
    Opening,
    /// Rows that a job has read are ready, and their transaction has not begun.
    Read,
    /// The transaction with them is committed.
    Slice,
    /// A transaction that closes a gap is committed.
    Closing,
    /// Entries of a conversation are ready, and their transaction has not begun.
    Fetched,
    /// The transaction with them is committed.
    Said,
    /// A job is to take its next step.
    ChoosingJob,
    /// A conversation is to be fetched.
    ChoosingConversation,
}

/// Ends the process if this is the place and the time.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn pass(_place: After) {}

/// Ends the process if this is the place and the time.
#[cfg(feature = "failpoints")]
pub(crate) fn pass(place: After) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(After, u64, bool)>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    let armed = ARMED.get_or_init(|| std::env::var("CASEWIRE_FAILPOINT").ok().map(|text| parse(&text)));
    if let Some((armed, at, panics)) = armed
        && *armed == place
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *at
    {
        assert!(!panics, "the failpoint {place:?} was reached");
        // abort, not exit: nothing may be flushed, as after SIGKILL.
        std::process::abort();
    }
}

/// Reads `name:hit` or `name:hit:panic`. A failpoint that would never be reached makes a test pass that proves nothing,
/// so a wrong one ends the process too.
#[cfg(feature = "failpoints")]
fn parse(text: &str) -> (After, u64, bool) {
    let (place, panics) = text.strip_suffix(":panic").map_or((text, false), |place| (place, true));
    let (name, hit) = place.split_once(':').unwrap_or((place, "1"));
    let place = match name {
        "after_begin" => After::Begin,
        "after_records" => After::Records,
        "after_checkpoint" => After::Checkpoint,
        "after_commit" => After::Commit,
        "after_opening" => After::Opening,
        "after_read" => After::Read,
        "after_slice" => After::Slice,
        "after_closing" => After::Closing,
        "after_fetched" => After::Fetched,
        "after_said" => After::Said,
        "after_choosing_job" => After::ChoosingJob,
        "after_choosing_conversation" => After::ChoosingConversation,
        _ => panic!("CASEWIRE_FAILPOINT names no place: {text}"),
    };
    let hit = hit.parse().unwrap_or_else(|_| panic!("CASEWIRE_FAILPOINT has no number after the colon: {text}"));
    (place, hit, panics)
}
