"""A client of the Pub/Sub API on the gRPC stubs that PyPI's sfprotostash publishes, with fastavro for the payloads.

It is told by lines of JSON on standard input what to do, and tells on standard output what it was given. Beside the
events it watches what the service promises about flow control; a broken promise is a line of the kind `violation`.
"""

import asyncio
import io
import json
import os
import ssl
import sys
import time
import urllib.parse
import urllib.request

import fastavro
import grpc
import jwt
from sfprotostash import pubsub_api_pb2 as messages
from sfprotostash import pubsub_api_pb2_grpc as stubs

ENV = os.environ
MOST_CREDIT = 100


def tell(**what):
    sys.stdout.write(json.dumps(what, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def token(host, form):
    """What the org answers to a token request."""
    request = urllib.request.Request(f"{host}/services/oauth2/token", urllib.parse.urlencode(form).encode())
    context = ssl.create_default_context(cafile=ENV["CA_FILE"])
    with urllib.request.urlopen(request, context=context, timeout=30) as answer:
        return json.load(answer)


def sign_in(flow):
    """The metadata of every call, by one of the two flows of a server."""
    claims = {"iss": ENV["CLIENT_ID"], "sub": ENV["USERNAME"], "aud": ENV["LOGIN_URL"], "exp": int(time.time()) + 180}
    assertion = jwt.encode(claims, read(ENV["KEY_FILE"]), algorithm="RS256")
    answer = token(ENV["LOGIN_URL"], {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion})
    if flow == "client_credentials":
        # Only the org's own host takes these; the assertion is how this client learns which it is.
        form = {"grant_type": flow, "client_id": ENV["CLIENT_ID"], "client_secret": ENV["CLIENT_SECRET"]}
        answer = token(answer["instance_url"], form)
    org = answer["id"].split("/")[-2]
    return (("accesstoken", answer["access_token"]), ("instanceurl", answer["instance_url"]), ("tenantid", org))


class Connection:
    """A channel and a sign-in of its own, and the schemas that were asked for on it."""

    def __init__(self, flow):
        self.metadata = sign_in(flow)
        credentials = grpc.ssl_channel_credentials(root_certificates=read(ENV["CA_FILE"]))
        self.channel = grpc.aio.secure_channel(ENV["PUBSUB_ENDPOINT"], credentials)
        self.stub = stubs.PubSubStub(self.channel)
        self.schemas = {}

    async def schema(self, schema_id):
        if schema_id not in self.schemas:
            answer = await self.stub.GetSchema(messages.SchemaRequest(schema_id=schema_id), metadata=self.metadata, timeout=30)
            tell(kind="schema", id=answer.schema_id, json=answer.schema_json)
            self.schemas[schema_id] = fastavro.parse_schema(json.loads(answer.schema_json))
        return self.schemas[schema_id]


class Subscription:
    """One Subscribe call: asks for events as they are used up, and tells what comes."""

    def __init__(self, connection, order):
        self.connection = connection
        self.about = {"scenario": order["scenario"], "topic": order["topic"]}
        self.order = order
        self.credit = order["credit"] or MOST_CREDIT
        self.requests = asyncio.Queue()
        self.asked = self.received = 0

    def ask(self, count, **first):
        self.asked += count
        self.requests.put_nowait(messages.FetchRequest(num_requested=count, **first))

    async def sent(self):
        while True:
            yield await self.requests.get()

    async def run(self):
        first = {"topic_name": self.order["topic"], "replay_preset": messages.ReplayPreset.Value(self.order["preset"])}
        if self.order["preset"] == "CUSTOM":
            first["replay_id"] = bytes.fromhex(self.order["replay_id"])
        self.ask(self.credit, **first)
        stub, metadata = self.connection.stub, self.connection.metadata
        try:
            async for response in stub.Subscribe(self.sent(), metadata=metadata):
                await self.take(response)
            tell(**self.about, kind="end")
            tell(**self.about, kind="status", code=0)
        except grpc.aio.AioRpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            named = {"error_code": trailers.get("error-code"), "type": trailers.get("type")}
            tell(**self.about, kind="error", code=error.code().value[0], text=error.details(), **named)

    async def take(self, response):
        self.received += len(response.events)
        self.watch(response)
        position = response.latest_replay_id.hex()
        if not response.events:
            tell(**self.about, kind="keepalive", position=position)
        for event in response.events:
            await self.take_event(event)
        if self.order["once"]:
            return
        if self.order["credit"]:
            # A careful client: nothing more is asked for before all of it came.
            if response.pending_num_requested == 0:
                self.ask(self.credit)
        elif (outstanding := self.asked - self.received) <= self.credit // 2:
            self.ask(self.credit - outstanding)

    def watch(self, response):
        """What the service promises of each response. Requests under way are not in `pending` yet."""
        outstanding, pending = self.asked - self.received, response.pending_num_requested
        if outstanding < 0:
            tell(**self.about, kind="violation", text=f"{-outstanding} more events than were asked for")
        if not 0 <= pending <= MOST_CREDIT or self.order["credit"] and pending != outstanding:
            tell(**self.about, kind="violation", text=f"pending_num_requested is {pending}, outstanding are {outstanding}")
        if response.events and response.latest_replay_id != response.events[-1].replay_id:
            tell(**self.about, kind="violation", text="latest_replay_id is not the last event's")
        if not response.rpc_id:
            tell(**self.about, kind="violation", text="a response without rpc_id")

    async def take_event(self, event):
        schema = await self.connection.schema(event.event.schema_id)
        named = {"id": event.event.id, "position": event.replay_id.hex()}
        try:
            rest = io.BytesIO(event.event.payload)
            payload = fastavro.schemaless_reader(rest, schema)
            if left := rest.read():
                raise ValueError(f"{len(left)} bytes are left over")
        except Exception as error:  # noqa: BLE001 what a decoder raises on broken bytes is not documented
            tell(**self.about, kind="undecodable", **named, text=repr(error))
            return
        tell(**self.about, kind="event", **named, schema_id=event.event.schema_id, payload=payload)


async def publish(connection, order):
    """All events in one request."""
    request = await publish_request(connection, order["topic"], order["events"])
    answer = await connection.stub.Publish(request, metadata=connection.metadata, timeout=30)
    tell_published(order, answer)


async def publish_stream(connection, order):
    """A request a batch in one call; none waits for the answer to the one before, and only the first names the topic."""
    requests = [await publish_request(connection, order["topic"], events) for events in order["batches"]]
    for later in requests[1:]:
        later.ClearField("topic_name")
    async for answer in connection.stub.PublishStream(iter(requests), metadata=connection.metadata, timeout=30):
        tell_published(order, answer)
    tell(scenario=order["scenario"], topic=order["topic"], kind="end")


async def publish_request(connection, topic, events):
    info = await connection.stub.GetTopic(messages.TopicRequest(topic_name=topic), metadata=connection.metadata, timeout=30)
    schema = await connection.schema(info.schema_id)
    encoded = []
    for event in events:
        values = {name: next(iter(value.values())) if isinstance(value, dict) else value for name, value in event["payload"].items()}
        payload = io.BytesIO()
        fastavro.schemaless_writer(payload, schema, values)
        encoded.append(messages.ProducerEvent(id=event["id"], schema_id=info.schema_id, payload=payload.getvalue()))
    return messages.PublishRequest(topic_name=topic, events=encoded)


def tell_published(order, answer):
    for result in answer.results:
        about = {"scenario": order["scenario"], "topic": order["topic"]}
        if result.HasField("error"):
            tell(**about, kind="failed", text=result.error.msg)
        else:
            tell(**about, kind="published", id=result.correlation_key, position=result.replay_id.hex())


async def describe(connection, order):
    """What GetTopic says of a topic, and the schema it names."""
    answer = await connection.stub.GetTopic(messages.TopicRequest(topic_name=order["topic"]), metadata=connection.metadata, timeout=30)
    if answer.schema_id:
        await connection.schema(answer.schema_id)
    tell(
        scenario=order["scenario"], topic=answer.topic_name, kind="topic", tenant=answer.tenant_guid, schema_id=answer.schema_id,
        can_publish=answer.can_publish, can_subscribe=answer.can_subscribe,
    )  # fmt: skip


async def obey(connections, order):
    scenario = order["scenario"]
    if scenario not in connections:
        # Every other connection signs in by the other flow.
        flow = ("client_credentials", "jwt")[len(connections) % 2]
        connections[scenario] = Connection(flow)
    connection = connections[scenario]
    if order["do"] == "subscribe":
        await Subscription(connection, order).run()
    elif order["do"] == "publish":
        await publish(connection, order)
    elif order["do"] == "publishStream":
        await publish_stream(connection, order)
    else:
        await describe(connection, order)


async def main():
    connections, tasks = {}, set()
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        task = asyncio.create_task(obey(connections, order))
        tasks.add(task)
        task.add_done_callback(lambda task, order=order: failed(task, order))
    for task in tasks:
        task.cancel()
    for connection in connections.values():
        await connection.channel.close()


def failed(task, order):
    if not task.cancelled() and task.exception():
        tell(kind="failed", scenario=order["scenario"], topic=order["topic"], text=repr(task.exception()))


if __name__ == "__main__":
    asyncio.run(main())
