"""A client as a process: orders go in and reports come out, a line of JSON each."""

import contextlib
import json
import subprocess
import threading
import time
from collections import defaultdict


class Silent(Exception):
    """A client did not report what it should have in time, or ended."""


class Client:
    """A running client and everything it has reported. Leave the `with` block to end it."""

    def __init__(self, name, command, environment, directory):
        self.name = name
        self.errors = open(directory / f"{name}.stderr", "w")
        self.recording = open(directory / f"{name}.jsonl", "w", encoding="utf-8")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, env=environment, cwd=directory, text=True, encoding="utf-8")
        self.changed = threading.Condition()
        self.schemas = {}
        # What was reported of a topic in a scenario, by the kind of report and in the order it came.
        self.reports = defaultdict(list)
        self.ended = False
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        self.errors.close()
        self.recording.close()

    def _read(self):
        for line in self.process.stdout:
            self.recording.write(line)
            report = json.loads(line)
            with self.changed:
                self._keep(report)
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _keep(self, report):
        if report["kind"] == "schema":
            self.schemas[report["id"]] = report["json"]
            return
        about = (report["scenario"], report["topic"])
        # Events and what cannot be decoded share a place in the order.
        kind = "event" if report["kind"] == "undecodable" else report["kind"]
        self.reports[(*about, kind)].append(report)

    def order(self, do, scenario, topic, **more):
        try:
            self.process.stdin.write(json.dumps({"do": do, "scenario": scenario, "topic": topic, **more}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Silent(f"{self.name} ended; see {self.errors.name}") from error

    def subscribe(self, scenario, topic, preset, credit=None, replay_id=None, once=False):
        self.order("subscribe", scenario, topic, preset=preset, credit=credit, replay_id=replay_id, once=once)

    def reported(self, scenario, topic, kind):
        with self.changed:
            return list(self.reports[(scenario, topic, kind)])

    def everything(self, kind):
        with self.changed:
            return [report for (_, _, known), reports in self.reports.items() if known == kind for report in reports]

    def wait_for(self, what, reached, seconds=120):
        """Waits until the reports are as they should be."""
        limit = time.monotonic() + seconds
        with self.changed:
            while not reached(self.reports):
                left = limit - time.monotonic()
                if self.ended or left <= 0:
                    reason = "it ended" if self.ended else f"not in {seconds} s"
                    raise Silent(f"{self.name}: {what}: {reason}; see {self.errors.name}")
                self.changed.wait(left)

    def wait_for_reports(self, scenario, topic, kind, count=1):
        self.wait_for(f"{count} × {kind} of {scenario} {topic}", lambda reports: len(reports[(scenario, topic, kind)]) >= count)

    def wait_for_position(self, scenario, topics, tip, seconds=180):
        """Waits until each subscription was told by a keepalive that it stands at the tip: then nothing is under way to it."""
        for topic in topics:
            at_tip = lambda reports, topic=topic: any(position(report) >= tip for report in reports[(scenario, topic, "keepalive")])
            self.wait_for(f"the tip on {scenario} {topic}", at_tip, seconds)


def position(report):
    """The first eight bytes of a replay id as a number, which is all that the Node client tells."""
    told = report["position"]
    return told if isinstance(told, int) else int(told[:16], 16)
