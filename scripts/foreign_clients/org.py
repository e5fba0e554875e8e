"""The simulated org as a process: `casewire simulate` on free ports, TLS everywhere, and its control port."""

import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

# Durations that would only make a run longer are short, and what is rare in life is not.
CONFIGURATION = """\
seed = {seed}
[listen]
http = "127.0.0.1:0"
instance = "127.0.0.1:0"
pubsub = "127.0.0.1:0"
control = "127.0.0.1:0"
tls = true
http_tls = true
[pubsub]
keepalive = "1s"
idle_close = "20s"
delivery_allocation = 100000000
[traffic]
rate = 0.0
backlog = 0
most_merged = 60
[traffic.mix]
create = 1500
update = 4500
merged = 700
double_update = 400
several = 400
geocode = 500
delete = 300
undelete = 150
gap = 150
overflow = 20
wildcard = 20
snapshot = 10
platform_event = 900
[[channels]]
name = "{support}"
entities = ["Case", "MessagingSession", "Installation__c"]
enriched = ["Case.Subject", "Case.ContactId", "Installation__c.Site_Address__c", "Installation__c.Monthly_Fee__c"]
[[channels]]
name = "{escalations}"
entities = ["Case_Escalation__e"]
"""
SUPPORT, ESCALATIONS = "Support__chn", "Escalations__chn"
ORG_ID = "00D8d00000AbCdEEAV"
PLATFORM_EVENT = "/event/Case_Escalation__e"
TOPICS = [
    "/data/CaseChangeEvent",
    "/data/MessagingSessionChangeEvent",
    "/data/MessagingEndUserChangeEvent",
    "/data/Installation__ChangeEvent",
    "/data/ChangeEvents",
    f"/data/{SUPPORT}",
    PLATFORM_EVENT,
    f"/event/{ESCALATIONS}",
]


class OrgError(Exception):
    """The simulator did not start, or refused an order."""


class Org:
    """A running simulator. Leave the `with` block to end it."""

    def __init__(self, binary, directory, seed):
        self.directory = directory
        self.ledger_file = directory / "ledger.jsonl"
        configuration = directory / "simulator.toml"
        configuration.write_text(CONFIGURATION.format(seed=seed, support=SUPPORT, escalations=ESCALATIONS))
        command = [binary, "simulate", "--config", configuration, "--directory", directory / "org", "--ledger", self.ledger_file]
        self.log = open(directory / "simulator.log", "w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.settings = self._connection()
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def _connection(self):
        """Reads how to connect, as it is printed for people."""
        settings = {}
        for line in self.process.stdout:
            if exported := re.fullmatch(r"export (\w+)=(.*)\n", line):
                settings[exported[1]] = exported[2]
            if control := re.fullmatch(r"Control: (\S+)\n", line):
                settings["CONTROL"] = control[1]
                return settings
        raise OrgError(f"The simulator did not start; see {self.log.name}")

    def _control(self, method, path, body=None):
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        url = f"{self.settings['CONTROL']}{path}"
        request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise OrgError(f"{method} {path} {str(body)[:200]}: {error.read().decode()}") from error
        except OSError as error:
            raise OrgError(f"{method} {path}: {error}; see {self.log.name}") from error
        return json.loads(text) if text else None

    def generate(self, count):
        return self._control("POST", "/generate", {"count": count})

    def publish(self, **event):
        return self._control("POST", "/publish", event)

    def inflict(self, kind, **more):
        return self._control("POST", "/faults", {"kind": kind, **more})

    def records(self, entity):
        """Every record of an object as it truly is."""
        url = f"{self.settings['CONTROL']}/records/{entity}"
        with urllib.request.urlopen(url, timeout=120) as answer:
            # Not by splitlines(): a text may have other characters in it that end a line.
            return [json.loads(line) for line in answer.read().decode().split("\n") if line]

    def stats(self):
        return self._control("GET", "/stats")

    def wait_for(self, what, reached, seconds=60):
        """Waits until the counters are as they should be."""
        limit = time.monotonic() + seconds
        while not reached(stats := self.stats()):
            if time.monotonic() > limit:
                raise OrgError(f"{what} did not happen in {seconds} s; the counters are {stats}")
            time.sleep(0.1)

    def ledger(self):
        with open(self.ledger_file, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
