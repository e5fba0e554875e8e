"""The measures. Each gives rows of the table; each takes what it compares with in the same rounds, so that whatever else
the machine does meets all of them."""

import time
from statistics import median

from . import node
from .machine import Unmeasurable
from .org import Org
from .programs import rate, seconds_of
from .table import Row, percentile

# A floor below this says that the machine is busy or the simulator slow: a ratio to it would say nothing about casewire.
LEAST_FLOOR = 40_000
# Each way, in milliseconds; and what the protocol allows at most: 100 events a round trip.
DELAY = 25
# How late a REST answer comes, in milliseconds.
ANSWER = 30
CEILING = 100 / (2 * DELAY / 1000)
EVENTS_A_SECOND = "events/s"


class Plan:
    """How much of everything."""

    def __init__(self, quick, rounds):
        self.rounds = rounds or (1 if quick else 5)
        self.catch_up = 60_000 if quick else 300_000
        self.line = 4_000 if quick else 20_000
        self.completion = 30_000 if quick else 100_000
        self.snapshot = 20_000 if quick else 200_000
        self.quiet_seconds = 5 if quick else 20
        self.idle_seconds = 5 if quick else 30
        self.sizes = [10_000, 30_000, 100_000] if quick else [10_000, 100_000, 1_000_000]


def warm_up(bench, org, events):
    """The broker's virtual machine compiles what runs often; the first run of all would pay for that."""
    for _ in range(2):
        casewire = bench.start(org)
        casewire.catch_up(events)
        casewire.end()


def catch_up(bench, plan, node_home, say):
    """The floor, casewire, a bare producer of what it wrote, and the Node client, over the same events."""
    events = plan.catch_up
    org = Org(bench.casewire, bench.directory / "catch-up", backlog=events)
    secure = Org(bench.casewire, bench.directory / "catch-up-tls", backlog=events, tls=True) if node_home else None
    trusting = node.trusting(node_home, secure, bench.directory) if node_home else None
    warm_up(bench, org, events)
    runs = {name: [] for name in ("floor", "casewire", "producer", "node", "cpu", "bare cpu", "commits")}
    for at in range(plan.rounds):
        floor = bench.receive(org, events)
        casewire = bench.start(org)
        commits, processor = casewire.catch_up(events)
        casewire.end(forget=False)
        producer = bench.produce(casewire)
        bench.forget(casewire.prefix)
        runs["floor"].append(floor["rate"])
        runs["casewire"].append(rate(commits))
        runs["producer"].append(producer["rate"])
        runs["commits"].append(len(commits))
        runs["cpu"].append(processor / events * 1e6)
        runs["bare cpu"].append((floor["processor_seconds"] / events + producer["processor_seconds"] / producer["records"]) * 1e6)
        if trusting:
            runs["node"].append(node.receive(bench, trusting, secure, events)["rate"])
        say(f"catch-up {at + 1}/{plan.rounds}: " + ", ".join(f"{name} {values[-1]:,.1f}" for name, values in runs.items() if values))
    org.end()
    floor = median(runs["floor"])
    if floor < LEAST_FLOOR:
        raise Unmeasurable(f"the floor is {floor:,.0f} events/s, below {LEAST_FLOOR:,}: the run does not count. Is the machine busy?")
    rows = [
        Row.of("floor: a bare client that counts", runs["floor"], EVENTS_A_SECOND),
        Row.of("bare producer of the same bytes", runs["producer"], "records/s"),
        Row.of(f"catch-up of {events:,} events", runs["casewire"], EVENTS_A_SECOND).at_least(0.50, floor, "the floor"),
        Row.of("the same, beside the bare producer", runs["casewire"], EVENTS_A_SECOND),
    ]
    rows[-1].compare(median(runs["producer"]), "the bare producer")
    if secure:
        secure.end()
        rows.append(Row.of("the Node client (counts only, TLS)", runs["node"], EVENTS_A_SECOND))
        rows[-1].compare(floor, "the floor")
    beside = "bare client + bare producer"
    rows.append(Row.of("processor time of an event in catch-up", runs["cpu"], "µs").at_most(2.0, median(runs["bare cpu"]), beside))
    return rows


def line(bench, plan, node_home, say):
    """Over a line with a delay."""
    events = plan.line
    org = Org(bench.casewire, bench.directory / "line", backlog=events)
    secure = Org(bench.casewire, bench.directory / "line-tls", backlog=events, tls=True) if node_home else None
    trusting = node.trusting(node_home, secure, bench.directory / "line-tls") if node_home else None
    runs = {"floor": [], "casewire": [], "node": []}
    for at in range(plan.rounds):
        pipe, address = bench.line_to(org, DELAY)
        runs["floor"].append(bench.receive(org, events, f"http://{address}")["rate"])
        casewire = bench.start(org, f"http://{address}")
        runs["casewire"].append(rate(casewire.catch_up(events)[0]))
        casewire.end()
        pipe.end()
        if trusting:
            pipe, address = bench.line_to(secure, DELAY)
            runs["node"].append(node.receive(bench, trusting, secure, events, address)["rate"])
            pipe.end()
        say(f"line {at + 1}/{plan.rounds}: " + ", ".join(f"{name} {values[-1]:,.0f}" for name, values in runs.items() if values))
    org.end()
    beside = "100 a round trip"
    rows = [Row.of(f"over a line of {DELAY} ms each way", runs["casewire"], EVENTS_A_SECOND).at_least(0.90, CEILING, beside)]
    others = [("the bare client over that line", runs["floor"])]
    if secure:
        secure.end()
        others.append(("the Node client over that line", runs["node"]))
    for name, figures in others:
        row = Row.of(name, figures, EVENTS_A_SECOND)
        row.compare(CEILING, beside)
        rows.append(row)
    return rows


def quiet(bench, plan, _node_home, say):
    """From an event on the wire until a `read_committed` reader has its record, at 200 events a second. A bare client beside
    casewire says when an event is on the wire: the commit times in events are whole seconds."""
    per_second, settle = 200, 3
    p99, bare = [], []
    for at in range(plan.rounds):
        org = Org(bench.casewire, bench.directory / f"quiet-{at}", rate=per_second)
        sent = bench.receiver(org, per_second * (plan.quiet_seconds + settle + 2), None, "--times")
        casewire = bench.start(org)
        reader = casewire.watch(casewire.records_topic, "--for", plan.quiet_seconds + settle)
        seen = reader.figures()
        casewire.end(forget=False)
        sent = sent.figures()["times"]
        org.end()
        p99.append(percentile(latencies(seen, sent, settle), 0.99))
        bare.append(percentile(bare_loop(bench, casewire, settle), 0.99))
        bench.forget(casewire.prefix)
        say(f"quiet {at + 1}/{plan.rounds}: casewire {p99[-1]:.1f} ms, bare {bare[-1]:.1f} ms")
    row = Row.of(f"p99 from sent to visible at {per_second} events/s", p99, "ms")
    return [row.at_most(3.0, median(bare), "a bare loop of the same transactions")]


def latencies(seen, sent, settle):
    """Milliseconds of each record, those of the first seconds left out: the stream was being started then."""
    begin = seen[0]["at"] + settle * 1e6
    later = [record for record in seen if record["at"] >= begin]
    known = [record for record in later if record["event_id"] in sent]
    if len(known) < 0.8 * len(later):
        raise Unmeasurable(f"the bare client has received {len(known)} of {len(later)} events that casewire has written")
    return [(record["at"] - sent[record["event_id"]]) / 1e3 for record in known]


def bare_loop(bench, casewire, settle):
    """The same transactions at the same times by the bare producer, seen by the same reader."""
    topic = f"{casewire.prefix}.bare.records"
    reader = casewire.watch(topic, "--until-quiet", 3)
    loop = bench.produce(casewire, "--at-their-times")
    seen = reader.figures()
    if len(seen) != loop["records"]:
        raise Unmeasurable(f"the reader has {len(seen)} of the {loop['records']} records of the bare loop")
    begun = [at for at, size in zip(loop["begins"], loop["sizes"]) for _ in range(size)]
    begin = begun[0] + settle * 1e6
    return [(record["at"] - at) / 1e3 for record, at in zip(seen, begun) if at >= begin]


def memory(bench, plan, _node_home, say):
    """A process that has nothing to do."""
    idle = []
    org = Org(bench.casewire, bench.directory / "idle")
    for _ in range(plan.rounds):
        casewire = bench.start(org)
        org.wait_for(lambda stats: stats["open_streams"] > 0)
        time.sleep(plan.idle_seconds)
        idle.append(casewire.process.memory("VmRSS"))
        casewire.end()
        say(f"idle {len(idle)}/{plan.rounds}: {idle[-1]:.1f} MB")
    org.end()
    return [Row.of("memory, idle", idle, "MB").within(40)]


def cost(bench, plan, _node_home, say):
    """Whether an event costs more when there are more of them, and what the largest catch-up takes in memory."""
    orgs = [Org(bench.casewire, bench.directory / f"cost-{size}", backlog=size) for size in plan.sizes]
    rates = {size: [] for size in plan.sizes}
    peaks, growths = [], []
    warm_up(bench, orgs[1], plan.sizes[1])
    for at in range(plan.rounds):
        # The shorter a catch-up, the more of it is chance: those of a tenth of a second are taken more often.
        for org, size in [pair for times, *pair in zip((5, 3, 1), orgs, plan.sizes) for _ in range(times)]:
            resident = []
            casewire = bench.start(org)
            commits, _ = casewire.catch_up(size, look=lambda process: resident.append(process.memory("VmRSS")))
            rates[size].append(rate(commits))
            if size == plan.sizes[-1]:
                peaks.append(casewire.process.memory("VmHWM"))
                half = len(resident) // 2
                growths.append(max(resident[half:]) / max(resident[half // 2:half]))
            casewire.end()
        say(f"cost {at + 1}/{plan.rounds}: " + ", ".join(f"{size:,}: {values[-1]:,.0f}/s" for size, values in rates.items()) + f"; {peaks[-1]:.0f} MB")
    for org in orgs:
        org.end()
    medians = {size: median(values) for size, values in rates.items()}
    rows = [Row.of(f"catch-up of {size:,}", values, EVENTS_A_SECOND) for size, values in rates.items()]
    slowest = Row.of("the slowest of these", [min(medians.values())], EVENTS_A_SECOND).at_least(0.90, max(medians.values()), "the fastest")
    flat = Row.of("the second half's, beside the second quarter's", growths, "×").within(1.10)
    return [*rows, slowest, Row.of(f"memory, peak in catch-up of {plan.sizes[-1]:,}", peaks, "MB").within(100), flat]


def completion(bench, plan, _node_home, say):
    """Catch-up in which every event gets its full record over REST, beside the same without."""
    events = plan.completion
    org = Org(bench.casewire, bench.directory / "completion", backlog=events)
    org.answer_late(ANSWER)
    warm_up(bench, org, events)
    runs = {name: [] for name in ("without", "with", "bare without", "bare with", "calls", "memory")}
    for at in range(plan.rounds):
        for name, record in (("without", "never"), ("with", "always")):
            before = org.api_calls()
            casewire = bench.start(org, record=record)
            runs[name].append(rate(casewire.catch_up(events)[0]))
            if record == "always":
                runs["calls"].append((org.api_calls() - before) / events * 1_000)
                runs["memory"].append(casewire.process.memory("VmHWM"))
            casewire.end(forget=False)
            runs[f"bare {name}"].append(bench.produce(casewire)["rate"])
            bench.forget(casewire.prefix)
        say(f"completion {at + 1}/{plan.rounds}: " + ", ".join(f"{name} {values[-1]:,.1f}" for name, values in runs.items()))
    org.end()
    rows = [
        Row.of(f"catch-up of {events:,} events, each with its full record, answers after {ANSWER} ms", runs["with"], EVENTS_A_SECOND),
        Row.of("bare producer of the same bytes, records included", runs["bare with"], "records/s"),
        Row.of("API calls for 1,000 of them", runs["calls"], "calls").within(10),
        Row.of("memory, peak in that", runs["memory"], "MB").within(100),
    ]
    rows[0].at_least(0.70, median(runs["without"]), "without records")
    rows[1].compare(median(runs["bare without"]), "of those without records")
    return rows


def snapshot(bench, plan, _node_home, say):
    """A whole object into Kafka, beside a bare client that makes the same query job and drops the same pages."""
    org = Org(bench.casewire, bench.directory / "snapshot")
    org.fill(plan.snapshot)
    runs = {name: [] for name in ("bare", "casewire", "calls", "memory", "growth")}
    for at in range(plan.rounds):
        bare = bench.download(org, "Case")
        casewire = bench.start(org, admin=True)
        org.wait_for(lambda stats: stats["open_streams"] > 0)
        org.one_event()
        casewire.wait_for("the first event", lambda status: status["records_committed"] > 0)
        before = org.api_calls()
        ended, resident = casewire.snapshot("Case")
        if ended["rows"] + ended["unread"] < 0.9 * bare["rows"]:
            raise Unmeasurable(f"the snapshot has {ended['rows']:,} rows and the bare client {bare['rows']:,}")
        runs["bare"].append(bare["rate"])
        # The recycle bin comes over the line for both, and is written by nobody.
        runs["casewire"].append(bare["rows"] / seconds_of(ended))
        runs["calls"].append((org.api_calls() - before) / bare["rows"] * 100_000)
        runs["memory"].append(casewire.process.memory("VmHWM"))
        half = len(resident) // 2
        if half >= 2:
            runs["growth"].append(max(resident[half:]) / max(resident[half // 2:half]))
        casewire.end()
        say(f"snapshot {at + 1}/{plan.rounds}: " + ", ".join(f"{name} {values[-1]:,.1f}" for name, values in runs.items() if values))
    org.end()
    rows = [
        Row.of("a bare client that downloads the pages of a Bulk query", runs["bare"], "rows/s"),
        Row.of(f"snapshot of {plan.snapshot:,} cases", runs["casewire"], "rows/s").at_least(0.40, median(runs["bare"]), "the bare client"),
        Row.of("memory, peak in that", runs["memory"], "MB").within(100),
        Row.of("API calls for 100,000 rows", runs["calls"], "calls"),
    ]
    if runs["growth"]:
        rows.append(Row.of("the second half's memory, beside the second quarter's", runs["growth"], "×").within(1.10))
    return rows


ALL = {"catch-up": catch_up, "line": line, "quiet": quiet, "memory": memory, "cost": cost, "completion": completion, "snapshot": snapshot}
