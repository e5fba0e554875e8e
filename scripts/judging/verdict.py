"""The comparison of ledger and topics. Pure: lists in, faults out."""

import re
from collections import Counter, defaultdict

from . import checkpoints, ledger, messages, retention
from .jobs import CLOSED, Jobs, close, compared
from .redriven import CAUSE, Redriven

SHOWN = 20
RECORD_FIELDS = ("op", "entity", "id", "changed", "unresolved", "enriched", "record", "record_as_of", "record_from", "source")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Report:
    """Faults by kind, and what was looked at."""

    def __init__(self):
        self.faults = defaultdict(list)
        self.seen = Counter()
        self.writers = {}
        self.written = {}  # entry of a conversation -> the contents that were written of it
        self.states = {}  # (topic, key) -> what the fold of the page makes of it

    def fault(self, kind, message):
        self.faults[kind].append(message)

    @property
    def clean(self):
        return not self.faults

    def as_json(self):
        return {
            "verdict": "clean" if self.clean else "faulty",
            "seen": dict(self.seen),
            "writers": self.writers,
            "faults": {kind: {"count": len(all_), "first": all_[:SHOWN]} for kind, all_ in sorted(self.faults.items())},
        }

    def as_text(self):
        lines = ["Judged: " + ", ".join(f"{count} {what}" for what, count in self.seen.items()) + "."]
        lines += [f"Writers of {topic}: {len(runs)}." for topic, runs in self.writers.items()]
        for kind, messages in sorted(self.faults.items()):
            lines.append(f"\n{kind.upper()}: {len(messages)}")
            lines += [f"  {message}" for message in messages[:SHOWN]]
            if len(messages) > SHOWN:
                lines.append(f"  … and {len(messages) - SHOWN} more")
        lines.append("\nCLEAN: every event exactly once." if self.clean else "\nFAULTY.")
        return "\n".join(lines)


def judge(events, records, prefix, org, streams, tombstones=False, cuts=(), tolerance=0):
    """Compares; `records` are all of the prefix, ordered by topic, partition and offset. `cuts` say what could no longer
    be read from when on, `tolerance` how many seconds off the org's clock, and so the times of the entries about that, may be.

    Returns the report, and the events that were owed: those that `cuts` and the gap ledger account for are not."""
    report = Report()
    report.seen["events"] = len(events)
    by_identity = {event.identity: event for event in events}
    gaps, letters, said, positions, data = [], [], [], defaultdict(list), []
    checkpoint_topics = {f"{prefix}.checkpoints.{org}.{stream.strip('/').replace('/', '.')}": stream for stream in streams}
    for record in records:
        if record.topic == f"{prefix}.gaps":
            gaps.append(record)
        elif record.topic == f"{prefix}.dead-letters":
            letters.append(record)
        elif record.topic == f"{prefix}.ConversationEntry":
            said.append(record)
        elif record.topic in checkpoint_topics:
            positions[record.topic].append(record)
        else:
            data.append(record)
    refused = _refused(report, gaps, cuts, retention.Bus(events), org)
    events = retention.settle(report, events, _traces(data, gaps, letters), refused, tolerance)
    redriven = Redriven(report, gaps, letters, by_identity, org)
    jobs = Jobs(report, prefix, org, streams, redriven, tolerance)
    left = _entity_topics(report, events, data, prefix, org, tombstones, jobs)
    jobs.account(_gaps(report, events, by_identity, gaps, org, left, redriven))
    report.states = jobs.states
    _letters(report, events, by_identity, letters, org, redriven)
    if said:
        report.written = messages.examine(report, said, org)
    for topic, stream in checkpoint_topics.items():
        own = [event for event in events if event.stream == stream]
        begun_anew = sorted(gap.after for gap in refused if gap.stream == stream)
        checkpoints.examine(report, topic, own, positions[topic], begun_anew)
    return report, events


def _traces(data, gaps, letters):
    """The events of which anything at all stands in Kafka. What is not JSON is found elsewhere, and tells of no event."""
    traced = {(record.headers.get("replay_id"), record.headers.get("event_id")) for record in letters}
    for record in (*data, *gaps):
        try:
            value = ledger.parse(record.value or b"null")
        except ValueError:
            continue
        if isinstance(value, dict):
            traced.add(_identity(value)[:2])
    return traced


# --- entity topics ---------------------------------------------------------------------------------


def _entity_topics(report, events, records, prefix, org, tombstones, jobs):
    wanted = {}
    for event in events:
        for expected in jobs.redriven.expectations(event, ledger.expectations(event, prefix, org)):
            wanted[expected.identity] = expected
    found = defaultdict(list)
    newest = {}  # (topic, key) -> the last record seen of it and its place in the ledger
    partition_of = {}
    deletes = {}  # (topic, key) -> the delete whose tombstone has to come next
    left = defaultdict(list)  # event -> the ids of which it only says that something happened
    for record in records:
        report.seen["records"] += 1
        if record.value is None:
            _tombstone(report, record, deletes)
            continue
        value = _object(report, record)
        if value is None:
            continue
        identity = _identity(value)
        if jobs.take(record, value):
            spot = (record.topic, record.key)
            _tombstone_missed(report, deletes.pop(spot, None))
            home = partition_of.setdefault(spot, record.partition)
            if home != record.partition:
                report.fault("split key", f"{record.place}: key {record.key} also stands in partition {home}")
            if value.get("op") == "delete" and tombstones:
                deletes[spot] = record
            continue
        expected = wanted.get(identity)
        if expected is None or record.topic != expected.topic:
            report.fault("stray record", f"{record.place}, key {record.key}: {_brief(value)} is not owed there")
            continue
        found[identity].append(record)
        _values(report, record, value, _completed(value, expected))
        if value.get("op") == "gap":
            left[expected.event.identity].append(expected.key)
        spot = (record.topic, record.key)
        _tombstone_missed(report, deletes.pop(spot, None))
        home = partition_of.setdefault(spot, record.partition)
        if home != record.partition:
            report.fault("split key", f"{record.place}: key {record.key} also stands in partition {home}")
        order = (expected.event.n, expected.index)
        before = newest.get(spot)
        if before is not None and order < before[0]:
            text = f"{record.place}, key {record.key}: event {order[0]} stands behind event {before[0][0]} ({before[1]})"
            report.fault("wrong order", text)
        newest[spot] = (order, record.place)
        if value.get("op") == "delete" and tombstones:
            deletes[spot] = record
    for identity, expected in wanted.items():
        places = found.get(identity, [])
        if not places:
            text = f"{expected.event.name} is not in {expected.topic} for {expected.key} ({expected.event.op})"
            report.fault("missing record", text)
        elif len(places) > 1:
            text = f"{expected.event.name}, {expected.key}: {', '.join(record.place for record in places)}"
            report.fault("doubled record", text)
    for delete in deletes.values():
        _tombstone_missed(report, delete)
    return left


def _completed(value, expected):
    """What is owed where the record was read over REST: a gap may have become what was found, a text diff its text."""
    owed, headers = dict(expected.value), dict(expected.headers)
    if expected.event.op == "gap":
        says_deleted = expected.event.line["change_type"] == "GAP_DELETE" or value.get("record_from") == "rest"
        refreshed = value.get("op") == "refresh" and isinstance(value.get("record"), dict)
        if refreshed or (value.get("op") == "delete" and says_deleted):
            owed["op"] = headers["op"] = value["op"]
    resolved = [name for name in owed.get("unresolved", []) if name not in value.get("unresolved", [])]
    changed = value.get("changed")
    if resolved and isinstance(changed, dict) and all(isinstance(changed.get(name), str) for name in resolved):
        # The digest in the diff has proven the text; the ledger does not have it.
        owed["changed"] = owed["changed"] | {name: changed[name] for name in resolved}
        owed["unresolved"] = [name for name in owed["unresolved"] if name not in resolved]
        if not owed["unresolved"]:
            del owed["unresolved"]
    return ledger.Expected(expected.event, expected.index, expected.topic, expected.key, owed, headers)


def _tombstone_missed(report, delete):
    if delete is not None:
        report.fault("missing tombstone", f"{delete.place}: no tombstone follows the delete of {delete.key}")


def _tombstone(report, record, deletes):
    delete = deletes.pop((record.topic, record.key), None)
    if delete is not None:
        _same(report, record.place, "headers of the tombstone", record.headers, delete.headers)
    else:
        report.fault("stray record", f"{record.place}: a null value that follows no delete of {record.key}")


def _object(report, record):
    try:
        value = ledger.parse(record.value)
    except ValueError as error:
        report.fault("not JSON", f"{record.place}: {error}")
        return None
    if not isinstance(value, dict):
        report.fault("not JSON", f"{record.place}: not an object")
        return None
    return value


def _identity(value):
    source = value.get("source")
    source = source if isinstance(source, dict) else {}
    return (source.get("replay_id"), source.get("event_id"), source.get("index"))


def _brief(value):
    replay_id, event_id, index = _identity(value)
    return f"{value.get('op')} of {value.get('entity')} {value.get('id')} from {replay_id}/{event_id}, index {index},"


def _values(report, record, value, expected):
    where = f"{record.place}, {expected.event.name}"
    for name in sorted((set(value) | set(expected.value)) - {"record", "record_as_of", "record_from", "source"}):
        _same(report, where, name, value.get(name, Absent), expected.value.get(name, Absent))
    source = value["source"]
    for name in sorted(set(source) | set(expected.value["source"])):
        _same(report, where, f"source.{name}", source.get(name, Absent), expected.value["source"].get(name, Absent))
    for name in sorted(set(record.headers) | set(expected.headers)):
        _same(report, where, f"header {name}", record.headers.get(name, Absent), expected.headers.get(name, Absent))
    for name in record.repeated_headers:
        report.fault("wrong value", f"{where}: header {name} stands there twice")
    if record.key != expected.key:
        report.fault("wrong value", f"{where}: key is {record.key}, owed {expected.key}")
    _full_record(report, where, value)


def _full_record(report, where, value):
    """The full record was read at a time the ledger cannot know: its form is checked, not its content."""
    full, as_of, origin = value.get("record"), value.get("record_as_of"), value.get("record_from")
    committed_at = value["source"].get("committed_at", "")
    if isinstance(as_of, str) and as_of < committed_at:
        report.fault("wrong value", f"{where}: record_as_of {as_of} is older than its event, {committed_at}")
    if full is None:
        found = isinstance(as_of, str) and INSTANT.fullmatch(as_of) and origin == "rest"
        by_reading = value.get("op") == "delete" and value["source"].get("change_type") != "DELETE"
        if (as_of, origin) != (None, None) and not (by_reading and found):
            report.fault("wrong value", f"{where}: record_as_of or record_from without a record")
        return
    sound = isinstance(full, dict) and full.get("Id") == value.get("id") and "attributes" not in full
    if not sound:
        report.fault("wrong value", f"{where}: record is not the record {value.get('id')}")
    if not (isinstance(as_of, str) and INSTANT.fullmatch(as_of)) or origin not in ("event", "rest", "bulk"):
        report.fault("wrong value", f"{where}: record_as_of {as_of}, record_from {origin}")


class Absent:
    """Stands where a name is not there at all, which is not the same as null."""


def identical(left, right):
    """Equal including the type: `1`, `1.0`, `true` and `"1"` are four things."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(identical(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(identical, left, right))
    return type(left) is type(right) and left == right


def _same(report, where, name, found, owed):
    if not identical(found, owed):
        report.fault("wrong value", f"{where}: {name} is {_show(found)}, owed {_show(owed)}")


def _show(value):
    return "absent" if value is Absent else repr(value)[:200]


# --- the gap ledger and the dead letters -----------------------------------------------------------


def _refused(report, records, cuts, bus, org):
    """The entries about refused positions, each of them once and only where a cut made the position invalid."""
    refused, keys = [], set()
    for record in records:
        value = _range_entry(record)
        if value is None or (record.key in keys and "rows_reread" in value):  # read in part; other jobs read the rest
            continue
        found = retention.gap(value, cuts, bus, record.place)
        if found is None:
            report.fault("stray gap", f"{record.place}, key {record.key}: {value['cause']}, but the position was good")
            continue
        if record.key in keys:
            report.fault("doubled gap entry", f"{record.place}: {record.key} stands there before")
        keys.add(record.key)
        gap, causes = found
        if value["cause"] not in causes:
            report.fault("wrong value", f"{record.place}: gap cause is {value['cause']}, owed {' or '.join(causes)}")
        for name, owed in {"id": record.key, "org": org, "entity": None, "records": []}.items():
            _same(report, record.place, f"gap {name}", value.get(name, Absent), owed)
        report.seen["entries about refused positions"] += 1
        refused.append(gap)
    return refused


def _range_entry(record):
    """The value of an open entry that speaks of a range; None for one about a single event, or none at all."""
    try:
        value = ledger.parse(record.value or b"null")
    except ValueError:
        return None
    is_range = isinstance(value, dict) and value.get("source") is None and value.get("cause") in retention.RANGES
    return value if is_range and value.get("state") == "open" else None


def _gaps(report, events, by_identity, records, org, left, redriven):
    """Each overflow, wildcard and unknown event has opened exactly one entry, and each gap event for the records that
    were not read; what else was not read is named, and each letter that was redriven. Nothing else has. Returns what was
    opened."""
    opened, told, states, closed = defaultdict(list), defaultdict(list), {}, set()
    keys = {(event.line["entity"], key) for event in events for key in event.line["record_ids"]}
    for record in records:
        report.seen["gap entries"] += 1
        value = _object(report, record) if record.value is not None else None
        if value is None:
            report.fault("stray gap", f"{record.place}: no entry")
            continue
        if value.get("state") in CLOSED:
            close(report, record, value, states)
            closed.add(record.key)
            continue
        if value.get("state") != "open":
            report.fault("stray gap", f"{record.place}, key {record.key}: the state {value.get('state')!r} is none")
            continue
        if "rows_reread" in value and record.key in states:  # read in part; other jobs read the rest
            continue
        states[record.key] = value
        closed.discard(record.key)
        if value.get("cause") == "reconciled":
            compared(report, record, value, org)
            continue
        if _range_entry(record) is not None or value.get("cause") == CAUSE:
            continue
        identity = _identity(value)[:2]
        event = by_identity.get(identity)
        cause = value.get("cause")
        if event is None and cause in ("unread", "hidden"):
            # A snapshot also reads records of which no event ever came.
            snapshot = str(record.key).startswith("snapshot-")
            # Of messages it names a session or a conversation; what was said in them is judged by itself.
            of_messages = value["entity"] == "ConversationEntry" and str(record.key).startswith("messages-")
            strangers = [key for key in value["records"] if not snapshot and not of_messages and (value["entity"], key) not in keys]
            if strangers or not value["records"] or not value["detail"]:
                report.fault("stray gap", f"{record.place}, key {record.key}: {cause} of {strangers}")
            continue
        if event is not None and event.op == "gap" and not event.is_poison and cause in ("gap_event", "hidden"):
            _told(report, record, value, event, org, told[identity])
            continue
        if event is None or not event.needs_gap:
            report.fault("stray gap", f"{record.place}, key {record.key}: {value.get('cause')} from {identity[0]}/{identity[1]}")
            continue
        opened[identity].append(record)
        line = event.line
        owed = {"id": record.key, "cause": event.gap_cause, "org": org, "topic": event.stream}
        owed |= {"entity": line["entity"], "records": line["record_ids"]}
        for name, of_event in owed.items():
            _same(report, f"{record.place}, {event.name}", f"gap {name}", value.get(name, Absent), of_event)
    owed = (event for event in events if event.needs_gap and event.op is None and redriven.letter_of(event) is None)
    _once(report, "gap entry", owed, opened)
    for identity in set(left) | set(told):
        name = by_identity[identity].name
        if set(left[identity]) != set(told[identity]):
            text = f"{name} left {sorted(left[identity])}, the ledger has {sorted(told[identity])}"
            report.fault("missing gap entry", text)
        elif len(told[identity]) > len(set(told[identity])):
            report.fault("doubled gap entry", f"{name}: {sorted(told[identity])}")
    report.seen["gaps open"] = len(states.keys() - closed)
    return states.values()


def _told(report, record, value, event, org, told):
    """The entry of a gap event: it names the records that stand as gaps."""
    where = f"{record.place}, {event.name}"
    owed = {"id": record.key, "org": org, "topic": event.stream, "entity": event.line["entity"]}
    for name, of_event in owed.items():
        _same(report, where, f"gap {name}", value.get(name, Absent), of_event)
    named = value.get("records")
    if isinstance(named, list) and named and set(named) <= set(event.line["record_ids"]):
        told += named
    else:
        report.fault("wrong value", f"{where}: gap records is {_show(named)}")


def _letters(report, events, by_identity, records, org, redriven):
    """Each event whose payload cannot be decoded is exactly one dead letter, and so is each that was redriven."""
    found = defaultdict(list)
    for record in records:
        report.seen["dead letters"] += 1
        identity = (record.headers.get("replay_id"), record.headers.get("event_id"))
        event = by_identity.get(identity)
        if event is None or not (event.is_poison or redriven.letter_of(event)):
            text = f"{record.place}, key {record.key}: {identity[0]}/{identity[1]}, {record.headers.get('reason', 'no reason')}"
            report.fault("stray letter", text)
            continue
        found[identity].append(record)
        owed = {"casewire": "1", "org": org, "topic": event.stream, "schema_id": event.line["schema_id"]}
        for name, of_event in owed.items():
            _same(report, f"{record.place}, {event.name}", f"header {name}", record.headers.get(name, Absent), of_event)
        if not record.value or not record.headers.get("reason"):
            report.fault("wrong value", f"{record.place}, {event.name}: a letter without its payload or its reason")
    _once(report, "letter", (event for event in events if event.is_poison or redriven.letter_of(event)), found)


def _once(report, what, owed, found):
    for event in owed:
        places = found.get(event.identity, [])
        if not places:
            report.fault(f"missing {what}", f"{event.name}, {event.line['change_type']} of {event.line['entity']}")
        elif len(places) > 1:
            report.fault(f"doubled {what}", f"{event.name}: {', '.join(record.place for record in places)}")
