"""What a run tells: a line now and then, a report at the end, a section of Markdown for the documents."""

import statistics
import time

from . import plan
from .findings import MEBIBYTE


def clock(seconds):
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def progress(scene):
    """One line: how long, how many, what went wrong, what lasts."""
    lines, committed = scene.org.read_ledger(), sum(scene.follower.events.values())
    others = sum(count for kind, count in scene.inflicted.items() if not plan.BY_NAME[kind].kills)
    kinds = " ".join(f"{kind}={count}" for kind, count in sorted(scene.inflicted.items()))
    lasting = f" | now: {', '.join(scene.lasting)}" if scene.lasting else ""
    memory = max((life.peak for life in scene.lives), default=0) / MEBIBYTE
    elapsed = clock(time.monotonic() - scene.began)
    return f"{elapsed}  {lines} lines, {committed} committed, {scene.kills} kills, {others} other faults, {memory:.0f} MiB{lasting} | {kinds}"


def others(outcome):
    """The faults that are no kills."""
    return sum(count for kind, count in outcome.inflicted.items() if not plan.BY_NAME[kind].kills)


def figures(outcome):
    """The numbers of a run by what they are."""
    seen = outcome.seen
    table = {
        "seed": outcome.seed,
        "time": clock(outcome.lasted),
        "SIGKILLs": outcome.kills,
        "other faults": others(outcome),
        "lives of casewire": outcome.lives,
        "events published on the streams": seen.get("events", "–"),
        "events that shared their replay id with the one before": outcome.shared,
        "records, each read once by a `read_committed` consumer": seen.get("records", "–"),
        "records of aborted transactions, hidden from it": seen.get("records of aborted transactions, not visible", "–"),
        "fields compared after folding": seen.get("compared fields", "–"),
        "records that equal the org's own, field by field": seen.get("true records", "–"),
        "records that jobs read again to heal gaps": seen.get("records of jobs", 0),
        "gap entries": seen.get("gap entries", "–"),
        "of these about refused positions": seen.get("entries about refused positions", 0),
        "events that left retention unread, all within those": seen.get("events lost to retention, owned up to by the gap ledger", 0),
        "dead letters": seen.get("dead letters", "–"),
        "events delivered again and dropped, at least": outcome.duplicates,
        "events that the output held already after a refused position, at least": outcome.already,
        "transactions": outcome.commits,
    }
    table |= {what: count for what, count in sorted(outcome.told.items())}
    table |= {"of the calls opened again, by reason": ", ".join(f"{reason} {count}" for reason, count in outcome.reasons.most_common())}
    table |= {
        "longest time without a commit": f"{outcome.longest_pause:.1f} s",
        "longest time until all was committed, once the faults ended": f"{outcome.longest_settling:.1f} s",
        "peak memory of any life (VmHWM)": f"{outcome.peak / MEBIBYTE:.0f} MiB",
    }
    if outcome.usual and outcome.slowed:
        delay = statistics.median(delay for delay, _ in outcome.slowed)
        took = statistics.median(took for _, took in outcome.slowed)
        usual = statistics.median(outcome.usual)
        table["one produced record, median"] = f"{usual * 1000:.0f} ms; {took * 1000:.0f} ms with the disk slowed by {delay * 1000:.0f} ms"
    return table


def as_json(outcome, found):
    return {
        "result": "failed" if found else "passed",
        "findings": found,
        "figures": figures(outcome),
        "inflicted": dict(outcome.inflicted),
        "planned": dict(outcome.planned),
        "judge": outcome.verdict,
    }


def as_text(outcome, found):
    lines = ["", "fault                 times"]
    lines += [f"  {kind.name:<18}{outcome.inflicted[kind.name]:>7}" for kind in plan.KINDS if outcome.planned[kind.name]]
    lines.append("")
    lines += [f"{what}: {value}" for what, value in figures(outcome).items()]
    for kind, faults in (outcome.verdict or {}).get("faults", {}).items():
        lines.append(f"\n{kind.upper()}: {faults['count']}")
        lines += [f"  {first}" for first in faults["first"][:5]]
    lines.append("")
    lines += [f"FAILED: {finding}." for finding in found]
    if not found:
        lines.append("PASSED: every event exactly once, or within a gap that the ledger tells.")
    return "\n".join(lines)


def as_markdown(outcome, found, version):
    result = "**Passed.**" if not found else "**Failed.** " + " ".join(f"{finding}." for finding in found)
    lines = [f"`{version}`, {time.strftime('%Y-%m-%d')}, `scripts/soak --for {outcome.seconds / 60:.0f}m --seed {outcome.seed}`. {result}", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {what} | {value} |" for what, value in figures(outcome).items()]
    lines += ["", "| fault | times | what happened |", "|---|---|---|"]
    lines += [f"| `{kind.name}` | {outcome.inflicted[kind.name]} | {kind.does} |" for kind in plan.KINDS if outcome.planned[kind.name]]
    return "\n".join(lines) + "\n"


# In a page of the documents, what follows this line is the result.
MARK = "<!-- written by scripts/soak --report -->\n"


def write(path, text):
    """Writes a section of Markdown: behind the mark of a page that has one, or as a file of its own."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    head = page.partition(MARK)[0] + MARK + "\n" if MARK in page else ""
    path.write_text(head + text, encoding="utf-8")
