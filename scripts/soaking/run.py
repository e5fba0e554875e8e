"""A run: from the first event to the judge's verdict."""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from . import plan
from .casewire import PREFIX
from .faults import inflict
from .findings import Outcome
from .follower import GAPS, LETTERS
from .org import OBJECTS, ORG, STREAMS
from .report import progress
from .scene import Scene

SCRIPTS = Path(__file__).resolve().parents[1]
# Now and then everything has to come to rest: a run that is disturbed again before it has recovered shows no hang.
SETTLE_EVERY = 90
TELL_EVERY = 5
# The clock of the organisation is shifted by up to two seconds, and is known to about as much.
CLOCK_TOLERANCE = 4
# Of what casewire logs, the lines that tell of a fault found or mended.
TOLD = {
    "calls opened again": re.compile(r"subscribing again"),
    "producers given up": re.compile(r"the producer is given up"),
    "times standing by": re.compile(r"standing by"),
    "positions refused": re.compile(r"salesforce refused the stored position"),
    "schemas waited for": re.compile(r"the schema of an event cannot be had yet"),
}
REASON = re.compile(r'subscribing again.*\breason="?(\w+)')
STOPPED = re.compile(r"stream stopped.*")


def soak(binary, directory, seed, seconds, rate, only, without):
    """Runs, and returns the outcome. Whatever ends it too early is part of the outcome, too."""
    schedule = plan.schedule(seed, seconds, only, without)
    outcome = Outcome(seed=seed, seconds=seconds, planned=Counter(fault.kind for fault in schedule))
    began = time.monotonic()
    scene = Scene(binary, directory, seed, rate)
    try:
        begin(scene)
        disturb(scene, schedule)
        end(scene, outcome)
        outcome.verdict = judge(scene)
    except KeyboardInterrupt:
        outcome.broken = "it was interrupted"
    except Exception as error:  # noqa: BLE001 - the run has failed, and says with what
        outcome.broken = f"{type(error).__name__}: {error}"
    finally:
        scene.close()
    collect(scene, outcome)
    outcome.lasted = time.monotonic() - began
    return outcome


def begin(scene):
    """Casewire comes up, and has a position on each stream: before that, a refusal could not be one."""
    scene.start()
    with scene.quiet():
        scene.go_on_behind_the_cut()


def disturb(scene, schedule):
    began = scene.began = time.monotonic()
    settled = told = began
    for fault in schedule:
        due = began + fault.at
        while True:
            now = time.monotonic()
            if now - told >= TELL_EVERY:
                told = now
                print(progress(scene), flush=True)
            if now - settled >= SETTLE_EVERY:
                scene.settle()
                settled = time.monotonic()
            if now >= due:
                break
            scene.pass_time(min(due, told + TELL_EVERY))
        inflict(scene, fault.kind)
    scene.settle()
    print(progress(scene), flush=True)


def end(scene, outcome):
    """A last life without faults of the network: what it counts is compared with what it writes."""
    scene.traffic.stop()
    scene.all_committed()
    scene.current.terminate()
    before = scene.follower.opened()
    scene.start()
    last = scene.current
    scene.wait("the last instance to write every stream", lambda: scene.follower.is_written_by(last.run_id))
    scene.org.fault("poison", events=3)
    scene.org.generate(300)
    # Gap events are read at once and leave no entry; an overflow leaves one.
    scene.org.publish("Case", "GAP_OVERFLOW", rows=20)
    scene.org.one_on_each_stream()
    scene.all_committed()

    def written():
        return [now - then for now, then in zip(scene.follower.opened(), before)]

    def counted():
        last.look()
        return [last.counted("gaps_opened"), last.counted("dead_letters")]

    # The status is told a moment after the commit; what it never comes to is a finding, not a hang.
    until = time.monotonic() + 10
    while counted() != written() and time.monotonic() < until:
        time.sleep(0.1)
    outcome.last_life = {"written": written(), "counted": counted()}
    scene.wait("every gap to be healed", lambda: last.look() or last.healed())
    for entity in OBJECTS:
        (scene.directory / f"{entity}.jsonl").write_text(scene.org.records(entity))
    code, outcome.orderly_end = last.terminate()
    if code != 0:
        outcome.broken = f"the last orderly end was {code}"
    # The follower reads a moment behind, and where a topic ends for it no offset tells: the markers of transactions lie beyond.
    counts, since = None, time.monotonic()
    while time.monotonic() - since < 3:
        if counts != (counts := dict(scene.follower.counted)):
            since = time.monotonic()
        time.sleep(0.1)
    outcome.letters, outcome.gaps = counts[LETTERS], counts[GAPS]


def judge(scene):
    """The judge's answer. It is a program of its own and reads with a client of its own."""
    print("soak: asking the judge", flush=True)
    call = [sys.executable, SCRIPTS / "judge", "--json", "--fold", "--prefix", PREFIX, "--org", ORG]
    call += ["--bootstrap", scene.broker.bootstrap, "--ledger", scene.org.ledger, "--clock-tolerance", str(CLOCK_TOLERANCE)]
    cuts = scene.directory / "cuts.jsonl"
    call += ["--cuts", cuts] if cuts.exists() else []
    call += [part for stream in STREAMS for part in ("--stream", stream)]
    call += [part for entity in OBJECTS for part in ("--truth", f"{entity}={scene.directory / entity}.jsonl")]
    done = subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    (scene.directory / "judged.json").write_text(done.stdout)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the judge could not judge ({done.returncode}): {done.stderr.strip()}")
    return json.loads(done.stdout)


def collect(scene, outcome):
    """What the processes left behind: counters, memory, logs."""
    outcome.inflicted, outcome.kills = scene.inflicted, scene.kills
    outcome.lines, outcome.shared = scene.org.read_ledger(), scene.org.shared
    outcome.committed, outcome.commits = sum(scene.follower.events.values()), scene.follower.commits
    outcome.lives = len(scene.lives)
    outcome.peak = max((life.peak for life in scene.lives), default=0)
    outcome.duplicates = sum(life.counted("duplicates_dropped") for life in scene.lives)
    outcome.already = sum(life.counted("events_already_written") for life in scene.lives)
    outcome.longest_pause, outcome.longest_settling = scene.follower.longest_pause, scene.longest_settling
    outcome.usual, outcome.slowed = scene.usual, scene.slowed
    for log in [life.log for life in scene.lives] + [scene.org.log]:
        text = log.read_text(errors="replace")
        outcome.panics += [f"{log.name}: {line}" for line in text.splitlines() if "panicked at" in line]
        outcome.stops += STOPPED.findall(text)
        outcome.reasons.update(REASON.findall(text))
        outcome.told.update({what: len(lines) for what, found in TOLD.items() if (lines := found.findall(text))})
