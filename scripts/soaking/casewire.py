"""One process of casewire."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

from .org import ORG, STREAMS

PREFIX = "soak"
TRANSACTION_TIMEOUT = 10
SILENCE_LIMIT = 5
END = 90


def checkpoint_topic(stream):
    return f"{PREFIX}.checkpoints.{ORG}.{stream.strip('/').replace('/', '.')}"


class CasewireError(Exception):
    """casewire did what it must not do."""


def configuration(org, bootstrap, admin):
    """Small transactions, so that a fault meets one under way; times short enough for faults to be found within the run."""
    streams = "".join(f'[[stream]]\ntopic = "{stream}"\nstart = "earliest"\n' for stream in STREAMS)
    return f"""[salesforce]
client_id = "3MVG9casewireSimulator"
username = "integration@example.com"
private_key_file = "{org.key}"
login_url = "http://127.0.0.1:{org.ports["http"]}"
[salesforce.pubsub]
endpoint = "http://127.0.0.1:{org.ports["pubsub"]}"
ping_interval = "2s"
ping_timeout = "2s"
connect_timeout = "3s"
call_timeout = "5s"
silence_limit = "{SILENCE_LIMIT}s"
[kafka]
brokers = "{bootstrap}"
topic_prefix = "{PREFIX}"
partitions = 3
replication_factor = 1
transaction_timeout = "{TRANSACTION_TIMEOUT}s"
call_timeout = "15s"
takeover_after = "3min"
[batch]
max_records = 40
[admin]
listen = "127.0.0.1:{admin}"
{streams}"""


class Casewire:
    """`casewire run`. Its log and its configuration stay in the directory."""

    def __init__(self, binary, directory, number, config, admin):
        self.name, self.admin = f"casewire-{number:03}", admin
        self.log, path = directory / f"{self.name}.log", directory / f"{self.name}.toml"
        path.write_text(config)
        self.frozen, self.status, self.peak, self.ended = False, None, 0, None
        environment = os.environ | {"CASEWIRE__LOG__FORMAT": "text", "RUST_BACKTRACE": "1", "NO_COLOR": "1"}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([binary, "run", "--config", path], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def look(self):
        """Notes the newest counters and the peak of memory. A process that cannot answer keeps what was seen last."""
        self._look_at_memory()
        if self.frozen:
            return
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/status", timeout=1) as answer:
                self.status = json.load(answer)["process"]
        except (OSError, ValueError, KeyError):
            pass

    def _look_at_memory(self):
        try:
            with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
                found = re.search(r"^VmHWM:\s*(\d+) kB", status.read(), re.MULTILINE)
        except OSError:
            return
        if found:
            self.peak = max(self.peak, int(found[1]) * 1024)

    def streams(self):
        return (self.status or {}).get("streams", [])

    def healed(self):
        """Whether no gap is open, but those of platform events: nobody can read these again."""
        return all(not stream["jobs"] and not stream["gaps_open"] for stream in self.streams() if stream["topic"].startswith("/data/"))

    def counted(self, name):
        """The sum of a counter over the streams, as it was seen last."""
        return sum(stream[name] for stream in self.streams())

    @property
    def run_id(self):
        return (self.status or {}).get("run_id")

    def check(self):
        """A process that ends by itself is a fault."""
        code = self.process.poll()
        if code is not None and self.ended is None:
            raise CasewireError(f"{self.name} ended by itself with {code}; see {self.log}")

    def freeze(self):
        self.check()
        os.kill(self.process.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        if self.ended is None:
            os.kill(self.process.pid, signal.SIGCONT)
        self.frozen = False

    def kill(self):
        """SIGKILL, at whatever it is doing."""
        self.check()
        self.look()
        self.ended = "killed"
        self.process.kill()
        self.process.wait()

    def terminate(self):
        """SIGTERM, and waits for the orderly end that has to follow."""
        self.check()
        self.look()
        self.ended = "ended"
        self.process.terminate()
        began = time.monotonic()
        try:
            code = self.process.wait(END)
        except subprocess.TimeoutExpired:
            raise CasewireError(f"{self.name} does not end within {END} s of SIGTERM; see {self.log}") from None
        if code not in (0, 75):
            raise CasewireError(f"{self.name} ended with {code} on SIGTERM; see {self.log}")
        return code, time.monotonic() - began

    def abandon(self):
        """Leaves nothing running, whatever state it is in."""
        if self.process.poll() is None:
            self.ended = self.ended or "abandoned"
            self.process.kill()
            self.process.wait()
