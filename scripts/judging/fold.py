"""The fold of docs/records.md, taken out of the page and run: what a consumer believes against what was sent."""

import re
from collections import Counter, defaultdict, deque
from pathlib import Path

from . import ledger
from .verdict import identical

PAGE = Path(__file__).resolve().parents[2] / "docs" / "records.md"
NOT_DELIVERED = object()


def from_the_page():
    """The names that the page's code defines: `fold`, `State` and `UNKNOWN`."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    code = [block for block in blocks if "def fold(" in block]
    if len(code) != 1:
        raise SystemExit(f"{PAGE} has to hold the fold in exactly one Python block; it has {len(code)}.")
    names = {}
    exec(compile(code[0], str(PAGE), "exec"), names)
    return names


class Model:
    """One record as the organisation has it, as far as its events said so."""

    def __init__(self):
        self.exists, self.said, self.rest = None, {}, NOT_DELIVERED

    def take(self, op, line):
        if op == "delete":
            self.exists, self.said, self.rest = False, {}, NOT_DELIVERED
        elif op == "gap":
            self.exists, self.said, self.rest = None, {}, NOT_DELIVERED
        else:
            if op in ("create", "undelete"):
                self.said, self.rest = {}, None
            self.exists = True
            for name, value in line["changed"].items():
                self._say((name,), value)
            for name in line["unresolved"]:
                self._say(tuple(name.split(".")), NOT_DELIVERED)

    def resolve(self, name, value):
        self._say((name,), value)

    def _say(self, path, value):
        if isinstance(value, dict):
            self.said.pop(path, None)
            for component, part in value.items():
                self._say((*path, component), part)
            return
        for known in [known for known in self.said if known[: len(path)] == path]:
            del self.said[known]
        self.said[path] = value


def examine(report, events, records, prefix):
    """Folds every record and compares with the model at every step: a field that is old without saying so is a fault."""
    page = from_the_page()
    spots = _spots(events, prefix)
    event_of = {event.identity: event for event in events}
    compared = Counter()
    # What these events changed stands in no event, and a record that was read shows it all the same.
    untold = {f"{prefix}.{event.line['entity']}" for event in events if event.op is None and not event.is_poison}
    for record in records:
        spot = spots.get((record.topic, record.key))
        if spot is None:
            continue
        try:
            change = None if record.value is None else ledger.parse(record.value)
            before = spot.state.read_as_of if spot.state else ""
            spot.state = page["fold"](spot.state or page["State"](), change)
            if spot.state.as_of < before:
                report.fault("fold", f"{record.place}: goes back in time, from {before} to {spot.state.as_of}")
            spot.read = spot.read or bool(change and change.get("record_as_of"))
            source = change["source"] if change else {}
            event = event_of.get((source.get("replay_id"), source.get("event_id")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            report.fault("fold", f"{record.place}: the fold cannot read it: {error!r}")
            continue
        spot.advance(event.n if event else 0)
        if change and event:
            spot.resolve(event.line["unresolved"], change["changed"])
        if not spot.read:
            _compare(report, page["UNKNOWN"], record.place, spot, compared)
    for (topic, key), spot in spots.items():
        spot.advance(float("inf"))
        if spot.read and topic in untold:
            continue
        _compare(report, page["UNKNOWN"], f"{topic}, {key}, at the end", spot, compared)
    report.seen["folded records"] = len(spots)
    report.seen["compared fields"] = compared["known"]


class Spot:
    """One key of one topic: the events still to come, the model and the folded state."""

    def __init__(self):
        self.coming, self.model, self.state = deque(), Model(), None
        self.read = False  # whether a full record was read: it may be ahead of the events

    def advance(self, number):
        while self.coming and self.coming[0].n <= number:
            event = self.coming.popleft()
            self.model.take(event.op, event.line)

    def resolve(self, names, changed):
        """Text diffs whose texts were found: what the ledger does not have is taken from there."""
        for name in names:
            if name in changed:
                self.model.resolve(name, changed[name])


def _spots(events, prefix):
    spots = defaultdict(Spot)
    for event in events:
        if event.op not in (None, "event") and not event.is_poison:
            for identifier in event.line["record_ids"]:
                spots[f"{prefix}.{event.line['entity']}", identifier].coming.append(event)
    return dict(spots)


def _compare(report, unknown, where, spot, compared):
    state, model = spot.state, spot.model
    if spot.read and model.exists is None:
        return
    if state is None or state.exists != model.exists:
        report.fault("fold", f"{where}: folds to exists={state and state.exists}, the ledger says {model.exists}")
        return
    if model.exists is False:
        return
    for path, value in model.said.items():
        believed = state.value(".".join(path))
        owed = unknown if value is NOT_DELIVERED else value
        if spot.read and owed is unknown:
            continue
        compared["unknown" if owed is unknown else "known"] += 1
        if believed is not owed and not identical(believed, owed):
            report.fault("fold", f"{where}: {'.'.join(path)} folds to {believed!r}, the ledger says {owed!r}")
    for path in () if spot.read else state.fields:
        if tuple(path.split(".")) not in model.said:
            report.fault("fold", f"{where}: {path} is {state.fields[path]!r}, which the ledger never said")
    never_said = state.value("NoSuchField")
    if not spot.read and (never_said is unknown) != (model.rest is NOT_DELIVERED):
        report.fault("fold", f"{where}: fields nobody spoke of are {'unknown' if never_said is unknown else 'null'}")
