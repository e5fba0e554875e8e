//! Which records of a whole object are to be read, page by page of its listing.

use std::collections::BTreeMap;
use std::ops::Bound;

use chrono::{DateTime, Utc};

use crate::pipeline::jobs::touched::{Copy, Known, RecordKey};
use crate::salesforce::id_listing::IdPage;

/// What Kafka holds, and what of it is asked about.
pub(super) struct Held<'a, N> {
    /// What the topic held when the job began.
    pub copy: &'a Copy,
    /// What is known beyond that.
    pub newer: N,
    /// Whether what is held and not listed is read: of a listing of all records.
    pub between: bool,
    /// Whether what lies in the recycle bin is read although nothing is held of it.
    pub bin: bool,
}

/// The ids to be read for one page, in their order: what has changed since `since`, what was deleted and Kafka does not
/// know, and what Kafka holds between `after` and the page's end that the page does not list.
pub(super) fn candidates<N: Fn(RecordKey) -> Option<Known>>(
    page: &IdPage,
    after: Option<&str>,
    since: Option<DateTime<Utc>>,
    held: &Held<'_, N>,
) -> Vec<String> {
    let Held { copy, newer, between, bin } = held;
    let known = |key: RecordKey, copied: Option<&Known>| newer(key).or(copied.copied());
    let alive = |key: RecordKey, copied: Option<&Known>| known(key, copied).is_some_and(|known| known.alive);
    let key = |id: &str| RecordKey::of(id.as_bytes());
    let end = match page.records.last().and_then(|last| key(&last.id)).filter(|_| !page.last) {
        Some(last) => Bound::Included(last),
        None => Bound::Unbounded,
    };
    let begin = after.and_then(key).map_or(Bound::Unbounded, Bound::Excluded);
    // A page behind the last id that is known has nothing in between.
    let unlisted = match (begin, end) {
        (Bound::Excluded(begin), Bound::Included(end)) if end <= begin => None,
        range => between.then(|| copy.range(range)),
    };
    // Held and not listed, unless the listing says otherwise below.
    let held = unlisted.into_iter().flatten().filter(|(key, known)| alive(**key, Some(known)));
    let mut wanted: BTreeMap<RecordKey, bool> = held.map(|(key, _)| (*key, true)).collect();
    for record in &page.records {
        let Some(key) = key(&record.id) else { continue };
        let changed = since.is_none_or(|since| record.as_of >= since);
        let read = if record.deleted { known(key, copy.get(&key)).map_or(*bin, |known| known.alive) } else { changed };
        wanted.insert(key, read);
    }
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(key, _)| key.id()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salesforce::id_listing::ListedRecord;

    const ALIVE: Known = Known { as_of: 1, alive: true };

    fn id(number: usize) -> String {
        crate::identity::case_safe_id(&format!("5008d0000{number:06}")).into_owned()
    }

    fn key(number: usize) -> RecordKey {
        RecordKey::of(id(number).as_bytes()).expect("an id")
    }

    fn page(records: &[(usize, i64, bool)], last: bool) -> IdPage {
        let listed = |(number, at, deleted): &(usize, i64, bool)| ListedRecord {
            id: id(*number),
            as_of: DateTime::from_timestamp(*at, 0).expect("a time"),
            deleted: *deleted,
        };
        IdPage { records: records.iter().map(listed).collect(), last }
    }

    #[test]
    fn what_changed_was_deleted_or_is_gone_is_read_and_nothing_else() {
        let copy: Copy = [1, 2, 3, 4, 5, 9].into_iter().map(|number| (key(number), ALIVE)).collect();
        let listing = page(&[(2, 50, false), (3, 150, false), (4, 150, true), (6, 150, true), (7, 150, false)], false);
        let since = DateTime::from_timestamp(100, 0);
        let found = |page: &IdPage, after: Option<&str>, since, newer: &dyn Fn(RecordKey) -> Option<Known>| {
            candidates(page, after, since, &Held { copy: &copy, newer, between: true, bin: false })
        };
        let none = |_| None;
        assert_eq!(
            found(&listing, None, since, &none),
            [id(1), id(3), id(4), id(5), id(7)],
            "2 is old, 6 was never held"
        );
        assert_eq!(found(&listing, None, None, &none), [id(1), id(2), id(3), id(4), id(5), id(7)]);
        assert_eq!(found(&listing, Some(&id(1)), since, &none), [id(3), id(4), id(5), id(7)]);
        let gone = |_| Some(Known { as_of: 2, alive: false });
        assert_eq!(found(&listing, None, since, &gone), [id(3), id(7)], "kafka knows of the deletes meanwhile");
        assert_eq!(found(&page(&[(7, 1, false)], true), Some(&id(5)), since, &none), [id(9)], "behind the last page");
        assert_eq!(found(&page(&[], true), Some(&id(5)), since, &none), [id(9)]);
        assert!(found(&page(&[(2, 1, false)], false), Some(&id(2)), since, &none).is_empty());
        let part = |newer: &dyn Fn(RecordKey) -> Option<Known>| {
            candidates(&listing, None, since, &Held { copy: &copy, newer, between: false, bin: true })
        };
        let bin = page(&[(4, 150, true), (6, 150, true)], true);
        let with_bin = |newer: &dyn Fn(RecordKey) -> Option<Known>| {
            candidates(&bin, None, None, &Held { copy: &copy, newer, between: false, bin: true })
        };
        assert_eq!(part(&none), [id(3), id(4), id(6), id(7)], "of a part nothing follows for the rest");
        assert_eq!(with_bin(&none), [id(4), id(6)], "6 was never held, and is wanted all the same");
        assert!(with_bin(&gone).is_empty(), "kafka knows of the deletes");
    }
}
