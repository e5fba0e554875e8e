"""What is measured: casewire, the bare clients, the Node client."""

import json
import socket
import time
import urllib.request
from datetime import datetime

from .machine import Process, Unmeasurable
from .org import TOPIC

CASEWIRE = """
[salesforce]
username = "{org.username}"
client_id = "{org.client_id}"
private_key_file = "{org.key}"
login_url = "{org.login_url}"

[salesforce.pubsub]
endpoint = "{endpoint}"

[[stream]]
topic = "{topic}"
start = "earliest"
record = "{record}"

[kafka]
brokers = "{bootstrap}"
topic_prefix = "{prefix}"
partitions = 1
{admin}"""

ADMIN = """
[admin]
listen = "127.0.0.1:{port}"
token = "measured"
"""


class Bench:
    """Where the programs and their files are."""

    def __init__(self, root, binaries, directory, bootstrap):
        self.root, self.directory, self.bootstrap = root, directory, bootstrap
        self.casewire, self.whole_path = binaries / "casewire", binaries / "whole-path"
        self.runs = 0

    def program(self, name, *arguments, environment=None):
        return Process([self.whole_path, name, *arguments], self.directory / f"{name}.log", environment)

    def receive(self, org, events, endpoint=None):
        """The floor."""
        return self.receiver(org, events, endpoint).figures()

    def receiver(self, org, events, endpoint=None, *arguments):
        """The bare client, while it runs."""
        token, instance = org.sign_in()
        return self.program(
            "receive", "--endpoint", endpoint or org.endpoint, "--instance-url", instance, "--org", org.id, "--topic", TOPIC,
            "--events", events, *arguments, environment={"ACCESS_TOKEN": token})

    def produce(self, casewire, *arguments):
        """The bare producer of what a casewire has written."""
        return self.program(
            "produce", "--bootstrap", self.bootstrap, "--records", casewire.records_topic, "--checkpoints",
            casewire.checkpoints_topic, "--prefix", f"{casewire.prefix}.bare", *arguments).figures()

    def line_to(self, org, delay):
        """A slow line to the org's Pub/Sub port: the process, and the address to connect to."""
        pipe = self.program("pipe", "--to", org.address, "--delay", delay)
        return pipe, json.loads(pipe.line())["listens"]

    def forget(self, prefix):
        return self.program("forget", "--bootstrap", self.bootstrap, "--prefix", f"{prefix}.").figures()

    def download(self, org, entity):
        """The bare client that only downloads an object."""
        token, instance = org.sign_in()
        return self.program("download", "--instance-url", instance, "--object", entity, environment={"ACCESS_TOKEN": token}).figures()

    def start(self, org, endpoint=None, record="never", admin=False):
        return Casewire(self, org, endpoint, record, admin)


class Casewire:
    """A running casewire, under a topic prefix of its own: a first run, as far as it knows."""

    def __init__(self, bench, org, endpoint=None, record="never", admin=False):
        self.bench, self.org = bench, org
        bench.runs += 1
        self.prefix = f"run{bench.runs}"
        self.records_topic = f"{self.prefix}.Case"
        self.checkpoints_topic = f"{self.prefix}.checkpoints.{org.id}.data.CaseChangeEvent"
        self.port = free_port() if admin else None
        file = bench.directory / f"{self.prefix}.toml"
        file.write_text(CASEWIRE.format(
            org=org, endpoint=endpoint or org.endpoint, topic=TOPIC, record=record, bootstrap=bench.bootstrap, prefix=self.prefix,
            admin=ADMIN.format(port=self.port) if admin else ""))
        self.process = Process([bench.casewire, "run", "--config", file], bench.directory / f"{self.prefix}.log")

    def watch(self, topic, *arguments):
        """A reader of one of its topics."""
        return self.bench.program("watch", "--bootstrap", self.bench.bootstrap, "--topic", topic, *arguments)

    def catch_up(self, events, look=None):
        """Waits until so many events are committed; gives the commits as the reader saw them.

        The processor time is looked at as soon as the last one is seen: behind it casewire has nothing left to do."""
        reader = self.watch(self.checkpoints_topic, "--events", events)
        reader.line()
        while look and reader.child.poll() is None:
            look(self.process)
            time.sleep(0.1)
        commits = reader.figures()
        return [commit for commit in commits if commit["events"] > 0], self.process.processor_seconds()

    def status(self):
        """The stream as `/status` has it; None before the port is open."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=10) as answer:
                return json.load(answer)["process"]["streams"][0]
        except OSError:
            return None

    def wait_for(self, what, condition, patience=600, look=lambda: None, every=0.1):
        """Waits until the stream is as wanted; gives it as it was then."""
        until = time.monotonic() + patience
        while not ((status := self.status()) and condition(status)):
            if time.monotonic() > until or self.process.child.poll() is not None:
                raise Unmeasurable(f"{what} did not come: {self.process.last_words()}")
            look()
            time.sleep(every)
        return status

    def snapshot(self, entity):
        """Has an object read. Gives the snapshot as it ended, and the resident memory meanwhile."""
        resident = []
        headers = {"Authorization": "Bearer measured", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/snapshots", json.dumps({"entities": [entity]}).encode(), headers)
        with urllib.request.urlopen(request, timeout=180):
            pass

        def ended(status):
            # From the first row on: while Salesforce prepares the result there is nothing to hold.
            if any(job["rows_reread"] for job in status["jobs"]):
                resident.append(self.process.memory("VmRSS"))
            return status["snapshots"]

        return self.wait_for("the end of the snapshot", ended)["snapshots"][0], resident

    def end(self, forget=True):
        code = self.process.end()
        if code != 0:
            raise Unmeasurable(f"casewire ended with {code}: {self.process.last_words()}")
        if forget:
            self.bench.forget(self.prefix)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def seconds_of(snapshot):
    """From its opening to its end."""
    return (datetime.fromisoformat(snapshot["finished_at"]) - datetime.fromisoformat(snapshot["opened_at"])).total_seconds()


def rate(commits):
    """Events a second from the first commit on: what is before it, start and sign-in, is no part of it, as the time before
    the first response is none of the bare client's."""
    first, last = commits[0], commits[-1]
    seconds = (last["at"] - first["at"]) / 1e6
    if seconds <= 0:
        raise Unmeasurable("there is but one commit; take more events")
    return (last["events"] - first["events"]) / seconds
