"""The simulated organisation that is measured against. Its events are encoded when they are published, before anything is
measured; in a catch-up it only sends them."""

import json
import re
import time
import urllib.parse
import urllib.request

from .machine import Process, Unmeasurable

TOPIC = "/data/CaseChangeEvent"

# One record an event, so that an event and a record are the same thing in every row of the table.
CONFIGURATION = """
ledger = "/dev/null"

[listen]
http = "127.0.0.1:0"
pubsub = "127.0.0.1:0"
control = "127.0.0.1:0"
tls = {tls}

[pubsub]
delivery_allocation = 1000000000000

# Compressing would cost the organisation three times what inflating costs casewire, on the same processors.
[rest]
compress = false

[traffic]
rate = {rate}
backlog = {backlog}
entities = ["Case"]

[traffic.mix]
create = 30
update = 70
merged = 0
double_update = 0
several = 0
geocode = 0
delete = 0
undelete = 0
gap = 0
overflow = 0
wildcard = 0
platform_event = 0
"""


class Org:
    """A running `casewire simulate`."""

    def __init__(self, casewire, directory, backlog=0, rate=0, tls=False):
        directory.mkdir(parents=True)
        file = directory / "simulator.toml"
        file.write_text(CONFIGURATION.format(backlog=backlog, rate=rate, tls=str(tls).lower()))
        self.backlog = backlog
        self.process = Process([casewire, "simulate", "--config", file, "--directory", directory], directory / "log")
        said = ""
        while "Control:" not in said:
            said += self.process.line()
        find = lambda pattern: re.search(pattern, said, re.M).group(1)
        self.id = find(r"up: (\S+)")
        self.login_url = find(r"SALESFORCE_LOGIN_URL=(\S+)")
        self.username = find(r"SALESFORCE_USERNAME=(\S+)")
        self.client_id = find(r"SALESFORCE_CLIENT_ID=(\S+)")
        self.client_secret = find(r"SALESFORCE_CLIENT_SECRET=(\S+)")
        self.key = find(r"SALESFORCE_PRIVATE_KEY_FILE=(\S+)")
        self.endpoint = find(r'endpoint = "(\S+)"')
        self.control = find(r"Control: (\S+)")
        self.ca = directory / "ca.pem" if tls else None

    @property
    def address(self):
        return self.endpoint.split("//")[1]

    def stats(self):
        with urllib.request.urlopen(f"{self.control}/stats", timeout=10) as answer:
            return json.load(answer)

    def wait_for(self, condition, patience=60):
        until = time.monotonic() + patience
        while not condition(self.stats()):
            if time.monotonic() > until:
                raise Unmeasurable(f"the organisation's counters did not come to what was waited for: {self.stats()}")
            time.sleep(0.05)

    def order(self, path, body):
        request = urllib.request.Request(f"{self.control}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120):
            pass

    def answer_late(self, milliseconds):
        """Every REST answer from now on."""
        self.order("faults", {"kind": "delay-http", "path": "/services/data/", "milliseconds": milliseconds, "times": 2**32 - 1})

    def fill(self, rows):
        """Cases that stood there before anybody listened: no event that is retained tells of them."""
        self.order("publish", {"entity": "Case", "change_type": "GAP_OVERFLOW", "rows": rows})
        self.order("faults", {"kind": "expire-retention"})

    def one_event(self):
        """Of a new case: a stream has a position when one has come."""
        self.order("publish", {"entity": "Case", "change_type": "CREATE"})

    def api_calls(self):
        """Calls of the REST API so far."""
        return sum(self.stats()["api_calls"].values())

    def sign_in(self):
        """A token by the client credentials flow: the access token and the instance's URL."""
        form = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": self.client_secret}
        request = urllib.request.Request(f"{self.login_url}/services/oauth2/token", urllib.parse.urlencode(form).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            token = json.load(answer)
        return token["access_token"], token["instance_url"]

    def end(self):
        self.process.end()
