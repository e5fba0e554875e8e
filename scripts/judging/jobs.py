"""What jobs wrote: records that were read again or by a snapshot, without an event, and the ends of gaps."""

import re
from datetime import datetime

from . import fold, ledger

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
CLOSED = ("healed", "given_up")
# What stands in `source.job` of the records that are read beside messages, and their objects.
BESIDE_MESSAGES = "messages"
CONVERSATIONS = ("Conversation", "ConversationParticipant")
# A record by its id; what events have for "any record" (500*, 000000000000000AAA) is none.
RECORD = re.compile(r"(?!0{15})[0-9A-Za-z]{18}")


# When somebody last changed a record, by the org's clock.
MODIFIED = "LastModifiedDate"


def _seconds(instant):
    return datetime.fromisoformat(instant).timestamp()


def job_of(value):
    """The job that wrote a record, or None where an event told."""
    source = value.get("source")
    return source.get("job") if isinstance(source, dict) else None


class Jobs:
    """Takes the records of jobs one by one, in the order of each partition, among those of events."""

    def __init__(self, report, prefix, org, streams, redriven, tolerance=0):
        self.report, self.prefix, self.org, self.streams, self.redriven = report, prefix, org, streams, redriven
        self.tolerance = tolerance
        self.written, self.states, self.entities = {}, {}, {}
        # Snapshots are nobody's repair: they need no gap.
        self.snapshots = {}
        self.beside = {}
        self.page = fold.from_the_page()

    def take(self, record, value):
        """Checks a record if a job wrote it, and keeps the state of every key."""
        job = job_of(value)
        spot = (record.topic, record.key)
        state = self.states.get(spot) or self.page["State"]()
        if job is not None:
            self._form(record, value, job)
            self._time(record, value, state)
            if job == BESIDE_MESSAGES:
                self._beside(record, value)
            else:
                self._once(record, job)
            if job == BESIDE_MESSAGES:
                self.report.seen["records beside messages"] += 1
            elif str(job).startswith("snapshot-"):
                self.snapshots.setdefault((record.topic, job), set()).add(record.key)
            else:
                self.entities.setdefault(value.get("entity"), record.place)
        read_as_of, modified = state.read_as_of, state.value(MODIFIED)
        taken = isinstance(value.get("record"), dict) and str(value.get("record_as_of"))[:19] >= state.as_of
        try:
            self.states[spot] = self.page["fold"](state, value)
            self._forward(record, self.states[spot], read_as_of, modified if taken else None)
        except (KeyError, TypeError, AttributeError) as error:
            self.report.fault("fold", f"{record.place}: the fold cannot read it: {error!r}")
        return job is not None

    def _form(self, record, value, job):
        op, source = value.get("op"), dict(value["source"])
        wrong = lambda what: self.report.fault("wrong job record", f"{record.place}, {job}: {what}")  # noqa: E731
        snapshot = str(job).startswith("snapshot-")
        if op not in ("read" if snapshot else "refresh", "delete"):
            return wrong(f"op is {op!r}")
        if source != {"org": self.org, "topic": source.get("topic"), "job": job} or source["topic"] not in self.streams:
            wrong(f"source is {value['source']!r}")
        if record.topic != f"{self.prefix}.{value.get('entity')}" or value.get("id") != record.key or value.get("changed") != {}:
            wrong(f"{value.get('entity')} {value.get('id')} in {record.topic}, key {record.key}, changed {value.get('changed')!r}")
        owed = {"casewire": "1", "content-type": "application/json", "entity": value.get("entity"), "op": op, "org": self.org}
        letter = record.headers.get("redriven_from")
        if letter is not None:
            owed["redriven_from"] = letter
            self.redriven.row(record.place, letter, value.get("entity"))
        if record.headers != owed or record.repeated_headers:
            wrong(f"headers are {record.headers!r}, owed {owed!r}")
        full, as_of = value.get("record"), value.get("record_as_of")
        sound = full is None if op == "delete" else isinstance(full, dict) and full.get("Id") == record.key and "attributes" not in full
        if not sound or not INSTANT.fullmatch(str(as_of)) or value.get("record_from") not in ("rest", "bulk"):
            wrong(f"record of {full.get('Id') if isinstance(full, dict) else full!r}, as of {as_of!r}, from {value.get('record_from')!r}")
        return None

    def _time(self, record, value, state):
        """Never over newer state: the fold would drop what is older than what stands before it."""
        at = value.get("record_as_of") or ""
        if str(at)[:19] < state.as_of:
            self.report.fault("late job record", f"{record.place}, key {record.key}: as of {at}, behind a state of {state.as_of}")

    def _forward(self, record, state, read_as_of, modified):
        """No state ever becomes older than what was read into it, nor a full record than what stood before it by the
        org's own stamp: a row that was read before an event and written behind it would undo the event."""
        if state.as_of < read_as_of:
            self.report.fault("back in time", f"{record.place}, key {record.key}: from {read_as_of} to {state.as_of}")
        now = state.value(MODIFIED)
        if isinstance(modified, str) and isinstance(now, str) and _seconds(now) < _seconds(modified) - self.tolerance:
            self.report.fault("back in time", f"{record.place}, key {record.key}: modified at {modified}, then at {now}")

    def _beside(self, record, value):
        """No event and no gap tells of them: they stand there because they changed since they were written last. An abrupt end
        loses nothing of what was written, so that holds over it too."""
        where, content = (record.topic, record.key), value.get("record")
        if value.get("entity") not in CONVERSATIONS:
            self.report.fault("stray job record", f"{record.place}: {BESIDE_MESSAGES} wrote a {value.get('entity')}")
        if self.beside.get(where) == content:
            self.report.fault("doubled job record", f"{record.place}, key {record.key}: nothing of it changed")
        self.beside[where] = content

    def _once(self, record, job):
        before = self.written.setdefault((job, record.topic, record.key), record.place)
        if before != record.place:
            self.report.fault("doubled job record", f"{record.place}, key {record.key}: {job} wrote it at {before} already")

    def account(self, entries):
        """Each object that a job read has to have had a gap, and each record one that may concern it."""
        told, named = set(), {}
        for entry in entries:
            told.add(entry.get("entity"))
            records = entry.get("records") or []
            single = entry.get("entity") and records and all(RECORD.fullmatch(str(record)) for record in records)
            named.setdefault(entry.get("entity"), []).append(set(records) if single else None)
        for entity, place in self.entities.items():
            if entity not in told and None not in told:
                self.report.fault("stray job record", f"{place}: no gap of {entity} was ever opened")
        for (job, topic, key), place in self.written.items():
            of_entity = named.get(topic.removeprefix(f"{self.prefix}."), [])
            if None not in told and None not in of_entity and of_entity and not any(key in records for records in of_entity):
                self.report.fault("stray job record", f"{place}, key {key}: {job} wrote it, and no gap names it")
        self.report.seen["records of jobs"] = len(self.written)
        self.report.seen["records of snapshots"] = sum(len(keys) for keys in self.snapshots.values())


def compared(report, record, value, org):
    """An entry by which a comparison with the org, a command's or one on a schedule, asks for records to be read again.
    No event told of it, so the ledger of the org cannot say whether it is right: what it asks for has to be well formed."""
    records, absent, known, held = (value.get(name) for name in ("records", "absent", "known", "held"))
    wrong = lambda what: report.fault("wrong value", f"{record.place}, key {record.key}: reconciled, and {what}")  # noqa: E731
    if value.get("id") != record.key or value.get("org") != org or value.get("source") is not None:
        wrong(f"id is {value.get('id')!r}, org {value.get('org')!r}, source {value.get('source')!r}")
    times = [str(value.get(name)) for name in ("compared_at", "opened_at")]
    if not value.get("entity") or not value.get("detail") or not all(map(INSTANT.fullmatch, times)) or times != sorted(times):
        wrong(f"without an entity, a detail or times in their order, which are {times}")
    if not isinstance(records, list) or len(set(records)) != len(records) or not all(RECORD.fullmatch(str(one)) for one in records):
        return wrong(f"records is {records!r}"[:300])
    if not isinstance(absent, list) or not set(absent) <= set(records):
        wrong(f"absent is {absent!r}"[:300])
    elif not isinstance(known, dict) or not set(absent) <= set(known) <= set(records) or not all(INSTANT.fullmatch(str(at)) for at in known.values()):
        wrong(f"known is {known!r}"[:300])
    elif not isinstance(held, int) or held < len(absent):
        wrong(f"held is {held!r} with {len(absent)} absent")
    report.seen["entries of comparisons"] += 1
    return None


def close(report, record, value, opened):
    """An entry that is closed: it was open before, says the same, and how it ended."""
    before = opened.get(record.key)
    if before is None:
        report.fault("stray gap", f"{record.place}, key {record.key}: {value.get('state')} and never opened")
        return
    report.seen[f"gaps {value['state']}"] += 1
    kept = {name: value.get(name) for name in before if name not in ("state", "rows_reread", "deletes_found")}
    if kept != {name: before[name] for name in kept}:
        report.fault("wrong value", f"{record.place}, key {record.key}: the closed entry differs from the one that was opened")
    counts = all(isinstance(value.get(name), int) and value[name] >= 0 for name in ("rows_reread", "deletes_found"))
    ended = INSTANT.fullmatch(str(value.get("closed_at"))) and value.get("closed_by")
    unread = value.get("unread")
    if not counts or not ended or not isinstance(unread, list) or bool(unread) != (value["state"] == "given_up"):
        report.fault("wrong value", f"{record.place}, key {record.key}: {value['state']} without counts, time, run or the right unread")


def truth(report, states, lines, prefix, entity, undecodable=()):
    """The folded state of an object against its records as they truly are, as the simulator's control port tells them.

    Of the records in `undecodable` an event lies in the dead letters, so that nobody can know them."""
    truly = {line["id"]: line for line in map(ledger.parse, lines) if line and line["id"] not in undecodable}
    believed = {key: state for (topic, key), state in states.items() if topic == f"{prefix}.{entity}" and key not in undecodable}
    for key, state in believed.items():
        if key not in truly and state.exists is not False:
            report.fault("not the truth", f"{entity} {key} is gone, and folds to exists={state.exists}")
    for key, line in truly.items():
        state = believed.get(key)
        if state is None and line["deleted"]:
            continue
        if state is None or state.exists is not (not line["deleted"]):
            report.fault("not the truth", f"{entity} {key}: exists={state and state.exists}, deleted={line['deleted']}")
        elif state.exists:
            _fields(report, f"{entity} {key}", state, dict(_paths(line["fields"])))
    report.seen["true records"] += len(truly)


def _paths(fields, within=""):
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{within}{name}.")
        else:
            yield within + name, value


def _fields(report, where, state, owed):
    rows_only = ("Id", "IsDeleted", "SystemModstamp")
    known = {path: value for path, value in state.fields.items() if value is not None and path not in rows_only}
    for path in sorted(known.keys() | {path for path, value in owed.items() if value is not None}):
        if known.get(path) != owed.get(path) or path in state.unknown:
            report.fault("not the truth", f"{where}: {path} folds to {known.get(path)!r}, truly {owed.get(path)!r}")
    for path in sorted(state.unknown):
        report.fault("not the truth", f"{where}: {path} is unknown")
