//! Sessions that a snapshot found, of which the messages are fetched when nothing else is to be.
//!
//! They are kept in lists of some hundred, each written once, in the transaction of the rows, and beside each list how
//! many of it are done with: from its newest session on, so a number is enough. In memory a session has thirty bytes;
//! those that are older than `messages.history` are not even listed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::kafka::KEPT;
use crate::pipeline::kept::read_kept;

/// Sessions of one list; its record has some 15 kB.
const LISTED: usize = 500;

/// A session that a snapshot found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    /// The list that it stands in, and where.
    pub place: (Uuid, usize),
    /// Its id.
    pub session: String,
    /// When something can have been said in it last, in seconds since 1970.
    pub last: i64,
    /// When the snapshot found it, by our clock.
    pub found_at: DateTime<Utc>,
}

/// A list as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct KeptList {
    found_at: DateTime<Utc>,
    /// Ids and times, the newest first.
    sessions: Vec<(String, i64)>,
}

/// A list, and how far it is done with.
#[derive(Debug)]
struct List {
    found_at: DateTime<Utc>,
    /// The newest first. Ids are kept as bytes: there can be very many.
    sessions: Vec<([u8; 18], i64)>,
    done: usize,
}

/// All lists of a stream.
#[derive(Debug, Default)]
pub(super) struct History {
    lists: BTreeMap<Uuid, List>,
}

/// Lists that a transaction adds.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<(Uuid, List)>);

fn key(list: Uuid) -> String {
    format!("{KEPT}history/{list}")
}

fn done_key(list: Uuid) -> String {
    format!("{KEPT}history/{list}/done")
}

/// The list of a key, in the one spelling in which keys are written: what stands under another could not be taken away.
fn list_of(id: &str) -> Option<Uuid> {
    id.parse().ok().filter(|list: &Uuid| list.to_string() == id)
}

impl List {
    fn left(&self) -> usize {
        self.sessions.len().saturating_sub(self.done)
    }
}

impl Found {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lists of sessions with their times, and what is kept of them.
    pub fn of(mut sessions: Vec<(String, i64)>, found_at: DateTime<Utc>) -> (Self, Vec<(String, Bytes)>) {
        sessions.sort_unstable_by_key(|(_, last)| Reverse(*last));
        let (mut lists, mut kept) = (Vec::new(), Vec::new());
        for sessions in sessions.chunks(LISTED) {
            let (id, sessions) = (Uuid::new_v4(), sessions.to_vec());
            let listed = KeptList { found_at, sessions };
            // A struct of texts, numbers and a time always has a JSON form.
            kept.push((key(id), Bytes::from(serde_json::to_vec(&listed).unwrap_or_default())));
            lists.push((id, listed.into()));
        }
        (Self(lists), kept)
    }
}

impl From<KeptList> for List {
    fn from(kept: KeptList) -> Self {
        let sessions =
            kept.sessions.into_iter().filter_map(|(id, last)| Some((id.into_bytes().try_into().ok()?, last)));
        Self { found_at: kept.found_at, sessions: sessions.collect(), done: 0 }
    }
}

impl History {
    /// What a stream keeps. What cannot be read was written by another version.
    pub fn kept(kept: &BTreeMap<String, Bytes>) -> Self {
        let prefix = format!("{KEPT}history/");
        let own = || kept.iter().filter_map(|(key, value)| Some((key, key.strip_prefix(&prefix)?, value)));
        let mut lists: BTreeMap<Uuid, List> = own()
            .filter_map(|(key, id, value)| Some((list_of(id)?, read_kept::<KeptList>(key, value)?.into())))
            .collect();
        for (key, id, value) in own().filter_map(|(key, of, value)| Some((key, of.strip_suffix("/done")?, value))) {
            let list = list_of(id).and_then(|id| lists.get_mut(&id));
            if let (Some(list), Some(done)) = (list, read_kept(key, value)) {
                list.done = done;
            }
        }
        Self { lists }
    }

    /// Notes lists whose transaction is committed.
    pub fn add(&mut self, found: Found) {
        self.lists.extend(found.0);
    }

    /// Sessions that are not done with.
    pub fn left(&self) -> usize {
        self.lists.values().map(List::left).sum()
    }

    /// When something can have been said last in the newest session that is left, in seconds since 1970.
    pub fn newest(&self) -> Option<i64> {
        self.lists.values().filter_map(|list| list.sessions.get(list.done)).map(|(_, last)| *last).max()
    }

    /// The newest sessions that are left, at most `most`, in order.
    pub fn next(&self, most: usize) -> Vec<Old> {
        let head = |id: Uuid, at: usize| {
            let list = self.lists.get(&id)?;
            let (session, last) = list.sessions.get(at)?;
            Some((*last, Reverse(id), at, *session, list.found_at))
        };
        let mut heads: BinaryHeap<_> = self.lists.iter().filter_map(|(id, list)| head(*id, list.done)).collect();
        let mut next = Vec::new();
        while let Some((last, Reverse(id), at, session, found_at)) = heads.pop().filter(|_| next.len() < most) {
            heads.extend(head(id, at.saturating_add(1)));
            let session = String::from_utf8_lossy(&session).into_owned();
            next.push(Old { place: (id, at), session, last, found_at });
        }
        next
    }

    /// What is kept once these are done with, in the order in which they were given; `None` is kept no more.
    pub fn after(&self, done: &[(Uuid, usize)]) -> Vec<(String, Option<Bytes>)> {
        let mut reached: BTreeMap<Uuid, usize> = BTreeMap::new();
        for (id, at) in done {
            let end = reached.entry(*id).or_default();
            *end = (*end).max(at.saturating_add(1));
        }
        let mut kept = Vec::new();
        for (id, end) in reached {
            let all = self.lists.get(&id).is_none_or(|list| end >= list.sessions.len());
            let value = (!all).then(|| Bytes::from(end.to_string()));
            kept.push((done_key(id), value));
            if all {
                kept.push((key(id), None));
            }
        }
        kept
    }

    /// Notes that these are done with and committed.
    pub fn done(&mut self, done: &[(Uuid, usize)]) {
        for (id, at) in done {
            if let Some(list) = self.lists.get_mut(id) {
                list.done = list.done.max(at.saturating_add(1));
            }
        }
        self.lists.retain(|_, list| list.left() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: i64) -> String {
        crate::identity::case_safe_id(&format!("0Mw8d00000{number:05}")).into_owned()
    }

    fn read(kept: &BTreeMap<String, Bytes>) -> Vec<i64> {
        History::kept(kept).next(usize::MAX).iter().map(|old| old.last).collect()
    }

    #[test]
    fn the_newest_come_first_from_all_lists_and_what_is_done_stays_done_over_a_restart() {
        let (mut history, mut kept) = (History::default(), BTreeMap::new());
        // Rows come by id, which says nothing of the time.
        for part in [(0..700).collect::<Vec<i64>>(), (700..1_200).rev().collect()] {
            let sessions = part.iter().map(|number| (id(*number), (number * 7_919) % 1_200)).collect();
            let (found, records) = Found::of(sessions, Utc::now());
            history.add(found);
            kept.extend(records);
        }
        assert_eq!((history.left(), kept.len(), history.newest()), (1_200, 3, Some(1_199)));
        assert!(kept.values().all(|value| value.len() < 20_000));
        let next = history.next(3);
        assert_eq!(next.iter().map(|old| old.last).collect::<Vec<_>>(), [1_199, 1_198, 1_197]);
        assert_eq!(next[0].session.len(), 18);
        assert_eq!(read(&kept), (0..1_200).rev().collect::<Vec<_>>());

        while history.left() > 0 {
            let next: Vec<(Uuid, usize)> = history.next(170).into_iter().map(|old| old.place).collect();
            for (key, value) in history.after(&next) {
                match value {
                    Some(value) => drop(kept.insert(key, value)),
                    None => drop(kept.remove(&key)),
                }
            }
            history.done(&next);
            assert_eq!(read(&kept), history.next(usize::MAX).iter().map(|old| old.last).collect::<Vec<_>>());
        }
        assert!(kept.is_empty(), "{:?}", kept.keys());
    }

    #[test]
    fn a_list_that_could_not_be_taken_away_is_none() {
        let (_, listed) = Found::of(vec![(id(1), 7)], Utc::now()).1.remove(0);
        let list = Uuid::from_u128(0xa1);
        let of = |key: String| read(&BTreeMap::from([(key, listed.clone())]));
        assert_eq!(of(key(list)), [7]);
        for spelled in [list.simple().to_string(), list.braced().to_string(), list.to_string().to_uppercase()] {
            assert!(of(format!("{KEPT}history/{spelled}")).is_empty(), "{spelled}");
        }
        let kept = BTreeMap::from([(key(list), listed), (done_key(list), "18446744073709551615".into())]);
        let mut history = History::kept(&kept);
        assert_eq!((history.left(), history.newest()), (0, None), "more than there are is all");
        history.done(&[(list, usize::MAX)]);
    }
}
