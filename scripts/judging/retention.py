"""What left Salesforce's retention before it was read, and the ledger entries that have to own up to it.

A cut is a moment from which nothing that had been published could be read any more: retention ran out, or the
organisation moved. Whoever ordered it says so, one JSON object a line: `{"lines": 4711, "at": "…Z", "moved": false}`,
`lines` being how many lines the ledger had. An event may be missing only if a cut made it unreadable and an open
entry of its stream, opened after that cut, reaches over it.
"""

import json
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta

from .ledger import LedgerError, instant

# The causes of entries that speak of a range of the bus and not of one event.
RANGES = ("expired", "moved", "refused")


@dataclass(frozen=True)
class Cut:
    """A moment from which the first `lines` lines of the ledger could not be read any more."""

    lines: int
    at: datetime
    moved: bool


@dataclass(frozen=True)
class Gap:
    """A stretch of the ledger that an entry declares unreadable for one stream: behind event `after`, up to event `until`."""

    stream: str
    after: int
    until: int
    begins: datetime | None
    ends: datetime | None
    place: str


def moment(text):
    """A time as casewire writes it; None where there is none."""
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def read(lines):
    """The cuts, in the order in which they were made."""
    try:
        cuts = [json.loads(line) for line in lines if line.strip()]
        cuts = [Cut(cut["lines"], moment(cut["at"]), cut["moved"]) for cut in cuts]
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"The list of cuts cannot be read: {error!r}") from error
    if any(after.at < before.at or after.lines < before.lines for before, after in zip(cuts, cuts[1:])):
        raise LedgerError("The cuts are not in order.")
    return cuts


class Bus:
    """Replay ids as places in the ledger. The counter falls when the organisation moves; in between it only rises."""

    def __init__(self, events):
        self.eras = []
        for event in events:
            number = _number(event.line["replay_id"])
            if not self.eras or number < self.eras[-1][0][-1]:
                self.eras.append(([], []))
            self.eras[-1][0].append(number)
            self.eras[-1][1].append(event.n)

    def last_before(self, replay_id):
        """The number of the last event at or before a position, which may be that of a keepalive and no event's own."""
        number = _number(replay_id)
        if not self.eras:
            return 0
        numbers, places = min(self.eras, key=lambda era: _distance(era[0], number))
        at = bisect_right(numbers, number)
        return places[at - 1] if at else places[0] - 1


def _number(replay_id):
    return int(replay_id[:16], 16)


def _distance(numbers, number):
    at = bisect_right(numbers, number)
    return min(abs(number - near) for near in numbers[max(at - 1, 0) : at + 1])


def gap(value, cuts, bus, place):
    """The stretch that an entry of the ledger declares, and the causes it may name; None if no cut made its position invalid."""
    opened, begin, end = moment(value.get("opened_at")), value.get("from"), value.get("to")
    if opened is None or not isinstance(begin, dict) or not isinstance(end, dict) or value.get("cause") not in RANGES:
        return None
    try:
        after = bus.last_before(begin["replay_id"])
    except (KeyError, TypeError, ValueError):
        return None
    before = [cut for cut in cuts if cut.at <= opened and cut.lines >= after]
    if not before:
        return None
    stretch = Gap(value.get("topic"), after, before[-1].lines, moment(begin.get("time")), moment(end.get("time")), place)
    return stretch, ("moved",) if any(cut.moved for cut in before) else ("refused", "expired")


def settle(report, events, traced, gaps, tolerance):
    """The events that casewire still owes: all but those that left no trace and that an entry owns up to.

    `traced` are the identities of which anything at all stands in Kafka. Times are compared with a tolerance in
    seconds, since an entry's times are Salesforce's as casewire knows them, by a header of whole seconds."""
    owed, slack = [], timedelta(seconds=tolerance)
    for event in events:
        covering = [] if event.identity in traced else _covering(event, gaps)
        if not covering:
            owed.append(event)
            continue
        report.seen["events lost to retention, owned up to by the gap ledger"] += 1
        published = datetime.fromisoformat(instant(event.line["commit_timestamp"]))
        told = [each for each in covering if (each.begins is None or each.begins - slack <= published) and (each.ends is None or published <= each.ends + slack)]
        if not told:
            ranges = ", ".join(f"{each.place} from {each.begins} to {each.ends}" for each in covering)
            report.fault("gap range", f"{event.name} of {published} was lost, and is not within {ranges}")
    return owed


def _covering(event, gaps):
    return [each for each in gaps if each.stream == event.stream and each.after < event.n <= each.until]
