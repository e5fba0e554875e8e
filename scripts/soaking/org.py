"""The simulated organisation: `casewire simulate` as a process of its own, ordered about over its control port."""

import json
import subprocess
import time
import urllib.error
import urllib.request

ORG = "00D8d00000AbCdEEAV"
CHANNEL = "/data/Field__chn"
# The streams and, of each, an entity that reaches casewire by it.
STREAMS = {
    "/data/CaseChangeEvent": "Case",
    "/data/MessagingSessionChangeEvent": "MessagingSession",
    "/event/Case_Escalation__e": "Case_Escalation__e",
    CHANNEL: "Installation__c",
}
# The objects that casewire carries by them.
OBJECTS = ("Case", "MessagingSession", "MessagingEndUser", "Installation__c")
PATIENCE = 60
# The counter of replay ids halves when the organisation moves, and must not come by the ids of before again.
FIRST_REPLAY_ID = 2**52


class OrgError(Exception):
    """The simulated organisation did not do as it was told."""


class Org:
    """The simulator. Its ledger is read along as it grows."""

    def __init__(self, binary, directory, seed, ports):
        self.directory, self.ports = directory, dict(zip(("http", "pubsub", "control"), ports))
        self.ledger, self.log = directory / "ledger.jsonl", directory / "simulator.log"
        self.key = directory / "org" / "key.pem"
        config = directory / "simulator.toml"
        config.write_text(self._config(seed))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([binary, "simulate", "--config", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._offset, self.lines, self.last, self.shared = 0, 0, {}, 0
        self._group = (None, None)
        self._wait_until_up()

    def _config(self, seed):
        listen = "\n".join(f'{name} = "127.0.0.1:{port}"' for name, port in self.ports.items())
        entities = json.dumps([*STREAMS.values(), "MessagingEndUser"])
        return f"""seed = {seed & 0xFFFF_FFFF}
org_id = "{ORG}"
ledger = "{self.ledger}"
directory = "{self.directory / "org"}"
[listen]
{listen}
[pubsub]
keepalive = "2s"
delivery_allocation = 100000000
bad_token_delay = "100ms"
[traffic]
rate = 0.0
backlog = 0
first_replay_id = {FIRST_REPLAY_ID}
entities = {entities}
most_merged = 30
[traffic.mix]
snapshot = 10
future_change_type = 10
[[channels]]
name = "Field__chn"
entities = ["MessagingEndUser", "Installation__c"]
enriched = ["MessagingEndUser.Name", "MessagingEndUser.MessageType"]
"""

    def _wait_until_up(self):
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.stats()
                return
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise OrgError(f"the simulator does not open its control port; see {self.log}") from None
                time.sleep(0.05)

    def _call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['control']}{path}", data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise OrgError(f"{path} {body}: {error.code} {error.read().decode(errors='replace')}") from error
        return json.loads(text) if text else None

    def stats(self):
        return self._call("/stats")

    def generate(self, count):
        self._call("/generate", {"count": count})

    def publish(self, entity, change_type="", **more):
        return self._call("/publish", {"entity": entity, "change_type": change_type} | more)

    def records(self, entity):
        """The records of an object as they are, a JSON object a line."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['control']}/records/{entity}", timeout=PATIENCE) as answer:
            return answer.read().decode()

    def fault(self, kind, **fields):
        self._call("/faults", {"kind": kind} | fields)

    def one_on_each_stream(self):
        """Publishes one event on each stream, so that each has something after whatever came before."""
        for entity in STREAMS.values():
            self.publish(entity, "" if entity.endswith("__e") else "CREATE")

    def read_ledger(self):
        """Reads what the ledger has got since: how many lines there are, and the newest event of each stream."""
        with open(self.ledger, "rb") as ledger:
            ledger.seek(self._offset)
            for line in ledger:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self.lines += 1
                event = json.loads(line)
                for stream in event["topics"]:
                    if stream in STREAMS:
                        self.last[stream] = f"{event['replay_id']}/{event['event_id']}"
                        self._count_shared(stream, event["replay_id"])
        return self.lines

    def _count_shared(self, stream, replay_id):
        if self._group == (stream, replay_id):
            self.shared += 1
        self._group = (stream, replay_id)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
