"""What both clients are made to do while the org publishes, and what they have to have been given in the end."""

import uuid
from dataclasses import dataclass

import traffic
from conversation import position
from org import ORG_ID, PLATFORM_EVENT, TOPICS

CASES, ALL = "/data/CaseChangeEvent", "/data/ChangeEvents"
# How many events a client asks for that asks for the next ones when it has them all.
STEP = 37
# What a client asks for that then asks no more.
ONCE = 5
FULL = ("earliest", "step", "custom", "latest")


@dataclass
class Expected:
    """The lines of a topic that a subscription had to receive."""

    scenario: str
    topic: str
    lines: list


class Run:
    """One run: publishes, subscribes, waits until everything is delivered."""

    def __init__(self, org, clients, events):
        self.org, self.clients, self.events = org, clients, events
        self.latest_from = self.middle = None
        # What the clients publish themselves: the values by event id.
        self.sent = {}

    def play(self):
        first = self.events // 2
        traffic.publish(self.org, first, 1)
        self._cut_and_resume()
        self._subscribe("earliest", "EARLIEST")
        for client in self.clients:
            client.subscribe("once", CASES, "EARLIEST", credit=ONCE, once=True)
            client.subscribe("unknown topic", "/data/NoSuchThing__ChangeEvent", "EARLIEST")
            client.subscribe("expired position", CASES, "CUSTOM", replay_id="00000000000000010000")
        calls = len(self.clients) * len(TOPICS)
        self.org.wait_for("EARLIEST", lambda stats: stats["subscribes_earliest"] == calls + 2 * len(self.clients))
        self._subscribe("latest", "LATEST")
        self.org.wait_for("LATEST", lambda stats: stats["subscribes_latest"] == calls)
        self.latest_from = self._tip()
        # Open calls live on; what is asked from now on comes on another connection.
        self.org.inflict("go-away")
        traffic.publish(self.org, self.events - first, 2)
        for client in self.clients:
            self._let_publish(client)
        self.middle = self._middle()
        self._subscribe("custom", "CUSTOM", replay_id=self.middle)
        self._subscribe("step", "EARLIEST", credit=STEP)
        for client in self.clients:
            for scenario in FULL:
                client.wait_for_position(scenario, TOPICS, int(self._tip()[:16], 16))
            client.wait_for_position("resumed", [ALL], int(self._tip()[:16], 16))
            client.wait_for_reports("once", CASES, "status")
            client.wait_for_reports("unknown topic", "/data/NoSuchThing__ChangeEvent", "error")
            client.wait_for_reports("expired position", CASES, "error")
        for topic in TOPICS:
            self.clients[-1].order("describe", "description", topic)
            self.clients[-1].wait_for_reports("description", topic, "topic")

    def _cut_and_resume(self):
        """Calls are reset in the midst of the events, and the clients go on behind the last one that they have."""
        for client in self.clients:
            client.subscribe("cut", ALL, "EARLIEST", credit=STEP, once=True)
        for client in self.clients:
            client.wait_for_reports("cut", ALL, "event", STEP)
        self.org.inflict("cut-streams")
        for client in self.clients:
            client.wait_for_reports("cut", ALL, "error")
            last = max(map(position, client.reported("cut", ALL, "event")))
            client.subscribe("resumed", ALL, "CUSTOM", replay_id=f"{last:016x}0000")

    def _subscribe(self, scenario, preset, **more):
        for client in self.clients:
            for topic in TOPICS:
                client.subscribe(scenario, topic, preset, **more)

    def _tip(self):
        return self.org.stats()["last_published"]

    def _middle(self):
        """A position that several events share, from the middle of what was published."""
        lines = self.org.ledger()
        shared = {line["replay_id"] for line, after in zip(lines, lines[1:]) if line["replay_id"] == after["replay_id"]}
        behind = [line["replay_id"] for line in lines[len(lines) // 2 :] if line["replay_id"] in shared]
        return behind[0]

    def _let_publish(self, client):
        """One by one, and in a stream."""
        single, streamed = ([self._own_event(number) for number in range(12)] for _ in range(2))
        client.order("publish", "publish", PLATFORM_EVENT, events=single)
        client.order("publishStream", "publish", PLATFORM_EVENT, batches=[streamed[:5], streamed[5:6], streamed[6:]])
        self.sent[client.name] = {event["id"]: event["payload"] for event in single + streamed}
        client.wait_for_reports("publish", PLATFORM_EVENT, "published", len(single + streamed))

    @staticmethod
    def _own_event(number):
        """In the JSON encoding of Avro, which says the branch of a union beside its value."""
        payload = {
            "CreatedDate": 1_771_300_000_123 + number,
            "CreatedById": "0058d000000047SAAQ",
            "Case_Id__c": {"string": f"5008d00000{number:05}AAA"},
            "Priority__c": None,
            "Reason__c": {"string": "“" * number},
            "Score__c": {"double": number / 8},
            "Requires_Callback__c": {"boolean": number % 2 == 0},
            "Due__c": {"long": -number},
            "Channel_1__c": {"string": "mail"},
            "Channel_2__c": None,
        }
        return {"id": str(uuid.uuid4()), "payload": payload}

    def expectations(self, ledger):
        for topic in TOPICS:
            lines = [line for line in ledger if topic in line["topics"]]
            yield Expected("earliest", topic, lines)
            yield Expected("step", topic, lines)
            yield Expected("custom", topic, [line for line in lines if line["replay_id"] > self.middle])
            yield Expected("latest", topic, [line for line in lines if line["replay_id"] > self.latest_from])
            if topic == CASES:
                yield Expected("once", topic, lines[:ONCE])
            if topic == ALL:
                yield Expected("cut", topic, lines[:STEP])
                yield Expected("resumed", topic, lines[STEP:])

    def findings(self, ledger):
        """Everything that is wrong and is not the value of an event."""
        by_id = {line["event_id"]: line for line in ledger}
        for client in self.clients:
            for kind in ("violation", "failed", "unexpected"):
                yield from (f"{client.name}: {report}" for report in client.everything(kind))
            yield from self._ends(client)
            yield from self._own_events(client, by_id)
        yield from self._descriptions(ledger)

    def _ends(self, client):
        expected = {
            ("cut", 13, None),
            ("unknown topic", 5, "sfdc.platform.eventbus.grpc.topic.not.found"),
            ("expired position", 3, "sfdc.platform.eventbus.grpc.subscription.fetch.replayid.corrupted"),
        }
        errors = [(report["scenario"], report["code"], report["error_code"]) for report in client.everything("error")]
        types = {report["type"] for report in client.everything("error") if report["error_code"]}
        if set(errors) != expected or len(errors) != len(expected) or types != {"Subscribe"}:
            yield f"{client.name}: the errors are {client.everything('error')}"
        for scenario in (*FULL, "once", "resumed"):
            ends = [report for report in client.everything("end") if report["scenario"] == scenario]
            if len(ends) != (scenario == "once"):
                yield f"{client.name}: {scenario}: the service ended {len(ends)} calls"
        status = client.reported("once", CASES, "status")
        if [report["code"] for report in status] != [0]:
            yield f"{client.name}: a call without credit ended with {status}"

    def _own_events(self, client, by_id):
        """What a client published stands in the ledger where it was told, with its values."""
        published = {report["id"]: report for report in client.reported("publish", PLATFORM_EVENT, "published")}
        for event_id, payload in self.sent[client.name].items():
            line, report = by_id.get(event_id), published.get(event_id)
            if line is None or report is None:
                yield f"{client.name}: the event {event_id} that it published is not in the ledger or was not answered"
                continue
            if int(line["replay_id"][:16], 16) != position(report):
                yield f"{client.name}: {event_id} was told to be at {report['position']} and is at {line['replay_id']}"
            values = {name: next(iter(value.values())) if isinstance(value, dict) else value for name, value in payload.items()}
            told = ("Case_Id__c", "Priority__c", "Score__c", "Requires_Callback__c", "Channel_1__c", "Channel_2__c", "CreatedById")
            sent, kept = [values[name] for name in told], [line["changed"][name] for name in told]
            if sent != kept or line["changed"]["Reason__c"] != (values["Reason__c"] or None):
                yield f"{client.name}: published {values}, the ledger has {line['changed']}"

    def _descriptions(self, ledger):
        reader = self.clients[-1]
        for topic in TOPICS:
            report = reader.reported("description", topic, "topic")[0]
            entities = {line["entity"]: line["schema_id"] for line in ledger if topic in line["topics"]}
            channel = topic.endswith(("__chn", "/ChangeEvents"))
            wanted = {
                "tenant": ORG_ID,
                "schema_id": "" if channel else next(iter(entities.values())),
                "can_publish": topic == PLATFORM_EVENT,
                "can_subscribe": True,
            }
            wrong = {name: report[name] for name, value in wanted.items() if report[name] != value}
            if wrong:
                yield f"GetTopic of {topic} says {wrong}, and should {wanted}"
