"""The ledger: what was sent, one JSON object a line, and what has to come of it."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal

# The only change types that say what happened to a record, and what casewire calls it.
OPERATIONS = {
    "CREATE": "create",
    "UPDATE": "update",
    "DELETE": "delete",
    "UNDELETE": "undelete",
    "GAP_CREATE": "gap",
    "GAP_UPDATE": "gap",
    "GAP_DELETE": "gap",
    "GAP_UNDELETE": "gap",
}
OVERFLOW_ID = "000000000000000AAA"
REQUIRED = (
    "n topics replay_id event_id schema_id entity change_type record_ids commit_timestamp commit_number transaction_key "
    "sequence_number user origin changed unresolved enriched poison"
).split()


class LedgerError(Exception):
    """The ledger itself cannot be judged by."""


@dataclass(frozen=True)
class Event:
    """One published event and the subscribed topic by which it reaches casewire."""

    line: dict
    stream: str

    @property
    def n(self):
        return self.line["n"]

    @property
    def identity(self):
        return (self.line["replay_id"], self.line["event_id"])

    @property
    def name(self):
        return f"event {self.n} ({self.line['replay_id']}/{self.line['event_id']})"

    @property
    def is_platform_event(self):
        return self.stream.startswith("/event/")

    @property
    def op(self):
        """The `op` of its records, or None where it says nothing about single records."""
        if self.is_platform_event:
            return "event"
        ids = self.line["record_ids"]
        if any(identifier == OVERFLOW_ID or identifier.endswith("*") for identifier in ids):
            return None
        return OPERATIONS.get(self.line["change_type"])

    @property
    def is_poison(self):
        return self.line["poison"]

    @property
    def needs_gap(self):
        """Whether the gap ledger has to have an entry for it."""
        return not self.is_poison and self.op in (None, "gap")

    @property
    def gap_cause(self):
        """The cause that its entry names."""
        if self.op == "gap":
            return "gap_event"
        if any(identifier.endswith("*") for identifier in self.line["record_ids"]):
            return "wildcard"
        if OVERFLOW_ID in self.line["record_ids"] or self.line["change_type"] == "GAP_OVERFLOW":
            return "overflow"
        return "snapshot" if self.line["change_type"] == "SNAPSHOT" else "unknown_change_type"


@dataclass(frozen=True)
class Expected:
    """One record that has to be found, exactly once."""

    event: Event
    index: int
    topic: str
    key: str
    value: dict
    headers: dict = field(default_factory=dict)

    @property
    def identity(self):
        return (*self.event.identity, self.index)


def instant(milliseconds):
    """The one rendering of a time: UTC, milliseconds, Z."""
    moment = datetime.fromtimestamp(milliseconds // 1000, tz=timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def parse(text):
    """JSON with numbers kept exactly: an integer beyond 2^53 and `1.0` for `1` have to be visible."""
    return json.loads(text, parse_float=Decimal)


def read(lines, streams, from_replay=None):
    """The events of the subscribed topics in the order of the bus, those after `from_replay` if it is given."""
    published = [_line(number, text) for number, text in enumerate(lines, 1) if text.strip()]
    if from_replay is not None:
        at = [place for place, line in enumerate(published) if line["replay_id"] == from_replay]
        if not at:
            raise LedgerError(f"The ledger has no event with the replay id {from_replay}.")
        published = published[at[-1] + 1 :]
    events = {}
    for line in published:
        carriers = [stream for stream in streams if stream in line["topics"]]
        if len(carriers) > 1:
            both = " and ".join(carriers)
            raise LedgerError(f"Event {line['n']} reaches casewire by {both}; an entity belongs to one stream.")
        for stream in carriers:
            event = Event(line, stream)
            if event.identity in events:
                raise LedgerError(f"The ledger has {event.name} twice.")
            events[event.identity] = event
    events = list(events.values())
    if any(after.n <= before.n for before, after in zip(events, events[1:])):
        raise LedgerError("The ledger's numbers do not rise.")
    return events


def _line(number, text):
    try:
        line = parse(text)
    except ValueError as error:
        raise LedgerError(f"Line {number} is not JSON: {error}") from error
    absent = [name for name in REQUIRED if name not in line]
    if absent:
        raise LedgerError(f"Line {number} lacks {', '.join(absent)}.")
    return line


def expectations(event, prefix, org):
    """The records of entity topics that one event has to become: one per record id, or none."""
    if event.is_poison or event.op is None:
        return []
    keys = [event.line["event_id"]] if event.is_platform_event else event.line["record_ids"]
    return [_expected(event, index, key, len(keys), prefix, org) for index, key in enumerate(keys)]


def _expected(event, index, key, of, prefix, org):
    line = event.line
    source = {
        "org": org,
        "topic": event.stream,
        "replay_id": line["replay_id"],
        "event_id": line["event_id"],
        "schema_id": line["schema_id"],
        "index": index,
        "of": of,
    }
    headers = {
        "casewire": "1",
        "content-type": "application/json",
        "entity": line["entity"],
        "op": event.op,
        "org": org,
        "event_id": line["event_id"],
        "replay_id": line["replay_id"],
    }
    if not event.is_platform_event:
        headers["committed_at"] = instant(line["commit_timestamp"])
        source |= {
            "committed_at": headers["committed_at"],
            "change_type": line["change_type"],
            "transaction": line["transaction_key"],
            "sequence": line["sequence_number"],
            "commit_number": line["commit_number"],
            "user": line["user"],
            "origin": line["origin"],
        }
    carries_fields = event.op in ("create", "update", "undelete", "event")
    value = {
        "op": event.op,
        "entity": line["entity"],
        "id": key,
        "changed": line["changed"] if carries_fields else {},
        "source": source,
    }
    for name in ("unresolved", "enriched"):
        if line[name]:
            value[name] = line[name]
    return Expected(event, index, f"{prefix}.{line['entity']}", key, value, headers)
