"""What a run has to show besides the judge's verdict: that nothing broke by itself, and that what it was told to do was done."""

from collections import Counter
from dataclasses import dataclass, field

MEBIBYTE = 2**20
# One fault may hide another that comes at the same time, but not every time.
OFTEN_ENOUGH = 3
# What has to be seen of a fault in the logs, the counters or the judge's answer; one that never leaves a trace was none.
TRACES = {
    "stream-cut": ("reasons", "reset"),
    "stream-end": ("reasons", "ended"),
    "silence": ("reasons", "silence"),
    "token-revoked": ("reasons", "token"),
    "broker-kill": ("told", "producers given up"),
    "take-over": ("told", "times standing by"),
    "retention-lost": ("told", "positions refused"),
    "org-moved": ("told", "positions refused"),
    "schema-refused": ("told", "schemas waited for"),
}


@dataclass
class Outcome:
    """All that a run came to."""

    seed: int
    seconds: float
    planned: Counter = field(default_factory=Counter)
    inflicted: Counter = field(default_factory=Counter)
    kills: int = 0
    lives: int = 0
    lines: int = 0
    shared: int = 0
    committed: int = 0
    commits: int = 0
    duplicates: int = 0
    already: int = 0
    peak: int = 0
    letters: int = 0
    gaps: int = 0
    longest_pause: float = 0.0
    longest_settling: float = 0.0
    orderly_end: float = 0.0
    lasted: float = 0.0
    usual: list = field(default_factory=list)
    slowed: list = field(default_factory=list)
    panics: list = field(default_factory=list)
    stops: list = field(default_factory=list)
    reasons: Counter = field(default_factory=Counter)
    told: Counter = field(default_factory=Counter)
    last_life: dict = field(default_factory=dict)
    broken: str | None = None
    verdict: dict | None = None

    @property
    def seen(self):
        """What the judge counted."""
        return (self.verdict or {}).get("seen", {})


def findings(outcome, memory_limit):
    """Everything that makes the run a failed one, a sentence each. `memory_limit` is in bytes."""
    found = []
    if outcome.broken:
        found.append(f"The run did not come to its end: {outcome.broken}")
    if outcome.verdict is None:
        found.append("The judge has not judged")
    elif outcome.verdict["verdict"] != "clean":
        kinds = ", ".join(f"{kind}: {faults['count']}" for kind, faults in outcome.verdict["faults"].items())
        found.append(f"The judge found faults ({kinds})")
    found += [f"A process panicked: {panic}" for panic in outcome.panics]
    found += [f"A stream stopped that nothing should stop: {stop}" for stop in outcome.stops if not _permission(outcome, stop)]
    if outcome.peak > memory_limit:
        found.append(f"casewire used {outcome.peak / MEBIBYTE:.0f} MiB of memory, and {memory_limit / MEBIBYTE:.0f} MiB are allowed")
    if not outcome.peak:
        found.append("The memory of casewire was never seen")
    if not outcome.broken:
        found += _untested(outcome)
    return found


def _permission(outcome, stop):
    """A stream stops for want of a permission where one was taken away, and only there."""
    return outcome.planned["permission-lost"] > 0 and "permission" in stop.lower()


def _untested(outcome):
    """Where a run was told to do something and shows nothing of it."""
    found = []
    for kind, count in outcome.planned.items():
        if outcome.inflicted[kind] != count:
            found.append(f"{kind} was inflicted {outcome.inflicted[kind]} times instead of {count}")
    for kind, (where, what) in TRACES.items():
        if outcome.inflicted[kind] >= OFTEN_ENOUGH and not getattr(outcome, where)[what]:
            found.append(f"{kind} was inflicted {outcome.inflicted[kind]} times and left no trace ({what})")
    if outcome.inflicted["redelivery"] >= OFTEN_ENOUGH and not outcome.duplicates:
        found.append("Events were delivered again, and no duplicate was dropped")
    if outcome.kills >= 5 and not outcome.seen.get("records of aborted transactions, not visible"):
        found.append("No kill came inside a transaction, so nothing was put to the test")
    if outcome.inflicted["retention-lost"] >= OFTEN_ENOUGH and not outcome.seen.get("events lost to retention, owned up to by the gap ledger"):
        found.append("Retention was lost, and no event with it")
    found += [f"A disk that was to be slower by {delay:.3f} s took {took:.3f} s" for delay, took in outcome.slowed if took < delay]
    if outcome.inflicted["slow-disk"] and not outcome.slowed:
        found.append("The slow disk was never measured")
    told, written = outcome.last_life.get("counted"), outcome.last_life.get("written")
    if told is None or told != written:
        found.append(f"The last process says it wrote {told} gap entries and dead letters, and {written} stand there")
    if written and 0 in written:
        found.append(f"The last process had {written} gap entries and dead letters to write: too little to compare")
    counted = (outcome.seen.get("gap entries"), outcome.seen.get("dead letters"))
    if outcome.verdict is not None and counted != (outcome.gaps, outcome.letters):
        found.append(f"The judge saw {counted} gap entries and dead letters, the follower {(outcome.gaps, outcome.letters)}")
    return found
