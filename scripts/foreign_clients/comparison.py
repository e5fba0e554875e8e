"""Compares what a client received of one topic with what the ledger says was sent on it, event by event, by values."""

import json
from dataclasses import dataclass, field

import known_fault
from conversation import position
from rendering import HEADER, Contradiction, told
from schema import BadBitmap

# Members of the ledger and the header fields that hold them.
MEMBERS = {
    "entity": "entityName",
    "record_ids": "recordIds",
    "change_type": "changeType",
    "origin": "changeOrigin",
    "transaction_key": "transactionKey",
    "sequence_number": "sequenceNumber",
    "commit_timestamp": "commitTimestamp",
    "commit_number": "commitNumber",
    "user": "commitUser",
}


@dataclass
class Outcome:
    """What came of comparing one topic."""

    published: int = 0
    received: int = 0
    missing: list = field(default_factory=list)
    extra: list = field(default_factory=list)
    # What is wrong with each event that is not as it was sent, by its key.
    differing: dict = field(default_factory=dict)
    disorder: list = field(default_factory=list)
    # Header lists that the client is known to lose, and lost, by the key of the event.
    excused: dict = field(default_factory=dict)
    # Events that overtook others inside the client, as it is known to let them.
    overtaken: list = field(default_factory=list)

    @property
    def clean(self):
        return not (self.missing or self.extra or self.differing or self.disorder)

    def faults(self):
        yield from (f"missing: {key}" for key in self.missing)
        yield from (f"extra: {key}" for key in self.extra)
        yield from (f"out of order: {key}" for key in self.disorder)
        yield from (f"{key}: {difference}" for key, found in self.differing.items() for difference in found)


def key_of_line(line):
    return (int(line["replay_id"][:16], 16), line["event_id"])


def key_of_report(report):
    return (position(report), report["id"])


class Bytes:
    """The header lists as they came over the wire, from the client that tells them raw, by event."""

    def __init__(self, reports):
        self.bitmaps = {key_of_report(report): _lists(report) for report in reports if report["kind"] == "event"}

    def of(self, key):
        return self.bitmaps.get(key)


def _lists(report):
    header = report["payload"].get(HEADER, {})
    return {kind: header.get(name, []) for kind, name in known_fault.LISTS.items()}


def compare(lines, reports, schemas, raw=None, responses=None):
    """`schemas` by id. With `raw`, the client tells names instead of bitmaps, and its names are held against these bytes.

    With `responses`, it may have handed events on in another order than they came in, if these explain it.
    """
    outcome = Outcome(published=len(lines), received=len(reports))
    wanted = {key_of_line(line): line for line in lines}
    seen = set()
    for report in reports:
        key = key_of_report(report)
        if key in seen or key not in wanted:
            outcome.extra.append(key)
            continue
        seen.add(key)
        found, excused = differences(wanted[key], report, schemas, raw)
        if found:
            outcome.differing[key] = found
        if excused:
            outcome.excused[key] = excused
    outcome.missing = [key for key in wanted if key not in seen]
    here = [key for key in wanted if key in seen]
    came = [key for key in dict.fromkeys(map(key_of_report, reports)) if key in seen]
    if responses is None:
        outcome.disorder = [key for key, expected in zip(came, here) if key != expected]
    elif not (outcome.missing or outcome.extra):
        outcome.disorder, outcome.overtaken = known_fault.overtaking(came, responses, here)
    return outcome


def differences(line, report, schemas, raw):
    """What differs between a line and the event that came for it, and the lists that the known fault explains."""
    if line["poison"] or report["kind"] == "undecodable":
        same = line["poison"] and report["kind"] == "undecodable"
        return ([] if same else [f"poison: sent {line['poison']}, received as {report['kind']}: {report.get('text')}"]), set()
    found = []
    if isinstance(report["position"], str):
        found += _differ("replay_id", line["replay_id"], report["position"])
    found += _differ("schema_id", line["schema_id"], report["schema_id"])
    schema = schemas.get(report["schema_id"])
    if schema is None:
        return [*found, f"the schema {report['schema_id']} is not known"], set()
    found += _differ("the id that its own schema has", report["schema_id"], schema.fingerprint)
    found += list(_header(line, report["payload"]))
    try:
        names, wrong, excused = _names(report, schema, raw)
        changed, unresolved, others = told(report["payload"], schema, names)
    except (Contradiction, BadBitmap, KeyError, IndexError, ValueError) as error:
        return [*found, f"{type(error).__name__}: {error}"], set()
    found += wrong
    found += _differ("changed", line["changed"], changed)
    found += _differ("unresolved", sorted(line["unresolved"]), unresolved)
    found += _differ("enriched", line["enriched"], others)
    hit, left_open = known_fault.lists_hit_by_ledger(line)
    if raw is not None and (excused ^ hit) - left_open:
        found.append(f"the ledger has the known fault on {hit}, the bytes on {excused}")
    return found, excused


def _header(line, payload):
    header = payload.get(HEADER)
    if header is None:
        if line["change_type"] is not None:
            yield "a change event without header"
        yield from _differ("user", line["user"], payload.get("CreatedById"))
        yield from _differ("commit_timestamp", line["commit_timestamp"], payload.get("CreatedDate"))
        return
    for member, name in MEMBERS.items():
        value = str(header[name]) if member == "commit_number" else header[name]
        yield from _differ(member, line[member], value)


def _names(report, schema, raw):
    """The right names of the three lists, what is wrong with those the client gave, and what of that is known."""
    lists = _lists(report)
    if raw is None:
        return {kind: schema.names(elements) for kind, elements in lists.items()}, [], set()
    bitmaps = raw.of(key_of_report(report))
    if bitmaps is None:
        return lists, ["its bytes are not known"], set()
    right = {kind: schema.names(elements) for kind, elements in bitmaps.items()}
    hit = known_fault.lists_hit(bitmaps)
    wrong, excused = [], set()
    for kind, names in lists.items():
        if kind not in hit:
            wrong += _differ(f"{kind} names", right[kind], names)
        elif names == []:
            excused.add(kind)
        else:
            wrong.append(f"{kind} names: the known fault would lose {right[kind]}, but there are {names}; is it mended?")
    return right, wrong, excused


def _differ(what, sent, received):
    if _canonical(sent) == _canonical(received):
        return []
    return [f"{what}: sent {json.dumps(sent, ensure_ascii=False)}, received {json.dumps(received, ensure_ascii=False)}"]


def _canonical(value):
    """A text that is equal for equal values: 3.0 is 3, but `true` is not 1."""
    return json.dumps(_whole_numbers(value), sort_keys=True, ensure_ascii=False)


def _whole_numbers(value):
    if isinstance(value, dict):
        return {name: _whole_numbers(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(child) for child in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
