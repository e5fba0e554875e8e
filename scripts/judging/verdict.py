"""The comparison of ledger and topics. Pure: lists in, faults out."""

import re
from collections import Counter, defaultdict

from . import checkpoints, ledger
from .jobs import CLOSED, Jobs, close

SHOWN = 20
RECORD_FIELDS = ("op", "entity", "id", "changed", "unresolved", "enriched", "record", "record_as_of", "record_from", "source")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Report:
    """Faults by kind, and what was looked at."""

    def __init__(self):
        self.faults = defaultdict(list)
        self.seen = Counter()
        self.writers = {}
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


def judge(events, records, prefix, org, streams, tombstones=False):
    """Compares; `records` are all of the prefix, ordered by topic, partition and offset."""
    report = Report()
    report.seen["events"] = len(events)
    by_identity = {event.identity: event for event in events}
    gaps, letters, positions, data = [], [], defaultdict(list), []
    checkpoint_topics = {f"{prefix}.checkpoints.{org}.{stream.strip('/').replace('/', '.')}": stream for stream in streams}
    for record in records:
        if record.topic == f"{prefix}.gaps":
            gaps.append(record)
        elif record.topic == f"{prefix}.dead-letters":
            letters.append(record)
        elif record.topic in checkpoint_topics:
            positions[record.topic].append(record)
        else:
            data.append(record)
    jobs = Jobs(report, prefix, org, streams)
    _entity_topics(report, events, data, prefix, org, tombstones, jobs)
    jobs.account(_gaps(report, events, by_identity, gaps, org))
    report.states = jobs.states
    _letters(report, events, by_identity, letters, org)
    for topic, stream in checkpoint_topics.items():
        own = [event for event in events if event.stream == stream]
        checkpoints.examine(report, topic, own, positions[topic])
    return report


# --- entity topics ---------------------------------------------------------------------------------


def _entity_topics(report, events, records, prefix, org, tombstones, jobs):
    wanted = {}
    for event in events:
        for expected in ledger.expectations(event, prefix, org):
            wanted[expected.identity] = expected
    found = defaultdict(list)
    newest = {}  # (topic, key) -> the last record seen of it and its place in the ledger
    partition_of = {}
    deletes = {}  # (topic, key) -> the delete whose tombstone has to come next
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
        _values(report, record, value, expected)
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
        if expected.event.op == "delete" and tombstones:
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
    if full is None:
        if as_of is not None or origin is not None:
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


def _gaps(report, events, by_identity, records, org):
    """Each gap, overflow, wildcard and unknown event has opened exactly one entry; nothing else has. Returns what was opened."""
    opened, states = defaultdict(list), {}
    for record in records:
        report.seen["gap entries"] += 1
        value = _object(report, record) if record.value is not None else None
        if value is None:
            report.fault("stray gap", f"{record.place}: no entry")
            continue
        if value.get("state") in CLOSED:
            close(report, record, value, states)
            continue
        if value.get("state") != "open":
            report.fault("stray gap", f"{record.place}, key {record.key}: the state {value.get('state')!r} is none")
            continue
        if "rows_reread" in value and record.key in states:  # read in part; other jobs read the rest
            continue
        states[record.key] = value
        identity = _identity(value)[:2]
        event = by_identity.get(identity)
        if event is None or not event.needs_gap:
            report.fault("stray gap", f"{record.place}, key {record.key}: {value.get('cause')} from {identity[0]}/{identity[1]}")
            continue
        opened[identity].append(record)
        line = event.line
        owed = {"id": record.key, "cause": event.gap_cause, "org": org, "topic": event.stream}
        owed |= {"entity": line["entity"], "records": line["record_ids"]}
        for name, of_event in owed.items():
            _same(report, f"{record.place}, {event.name}", f"gap {name}", value.get(name, Absent), of_event)
    _once(report, "gap entry", (event for event in events if event.needs_gap), opened)
    return states.values()


def _letters(report, events, by_identity, records, org):
    """Each event whose payload cannot be decoded is exactly one dead letter."""
    found = defaultdict(list)
    for record in records:
        report.seen["dead letters"] += 1
        identity = (record.headers.get("replay_id"), record.headers.get("event_id"))
        event = by_identity.get(identity)
        if event is None or not event.is_poison:
            text = f"{record.place}, key {record.key}: {identity[0]}/{identity[1]}, {record.headers.get('reason', 'no reason')}"
            report.fault("stray letter", text)
            continue
        found[identity].append(record)
        owed = {"casewire": "1", "org": org, "topic": event.stream, "schema_id": event.line["schema_id"]}
        for name, of_event in owed.items():
            _same(report, f"{record.place}, {event.name}", f"header {name}", record.headers.get(name, Absent), of_event)
        if not record.value or not record.headers.get("reason"):
            report.fault("wrong value", f"{record.place}, {event.name}: a letter without its payload or its reason")
    _once(report, "letter", (event for event in events if event.is_poison), found)


def _once(report, what, owed, found):
    for event in owed:
        places = found.get(event.identity, [])
        if not places:
            report.fault(f"missing {what}", f"{event.name}, {event.line['change_type']} of {event.line['entity']}")
        elif len(places) > 1:
            report.fault(f"doubled {what}", f"{event.name}: {', '.join(record.place for record in places)}")
