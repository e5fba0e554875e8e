// The public Node client, told by lines of JSON on standard input what to do, and telling on standard output, in lines of
// JSON, what it was given. It adds nothing to what the client makes of the events.
import readline from 'node:readline';
import fs from 'node:fs';
import PubSubApiClient from 'salesforce-pubsub-api-client';

const { LOGIN_URL, CLIENT_ID, USERNAME, KEY_FILE, PUBSUB_ENDPOINT } = process.env;
/** One connection, with a sign-in of its own, for each scenario: the client keeps one subscription a topic. */
const connections = new Map();

function tell(what) {
    const asText = (_, value) => (typeof value === 'bigint' ? value.toString() : value);
    process.stdout.write(JSON.stringify(what, asText) + '\n');
}

function connection(scenario) {
    if (!connections.has(scenario)) {
        connections.set(scenario, connect(scenario));
    }
    return connections.get(scenario);
}

/** The client says only in its log what came in which order: it hands the events of responses on that overtook each other. */
function listener(scenario) {
    const info = (text) => {
        const response = /^(\S+) - Received (\d+) events, latest replay ID: (\d+)$/.exec(text);
        if (response) {
            tell({ scenario, topic: response[1], kind: 'response', count: Number(response[2]), position: Number(response[3]) });
        }
    };
    return { debug() {}, info, warn: console.error, error() {} };
}

async function connect(scenario) {
    const client = new PubSubApiClient(
        {
            authType: 'oauth-jwt-bearer',
            loginUrl: LOGIN_URL,
            clientId: CLIENT_ID,
            username: USERNAME,
            privateKey: fs.readFileSync(KEY_FILE, 'utf8'),
            pubSubEndpoint: PUBSUB_ENDPOINT
        },
        listener(scenario)
    );
    await client.connect();
    return client;
}

/** What the client reports of one subscription, with the names of the kinds that both clients use. */
function report({ scenario, topic, credit, once }, client) {
    const about = { scenario, topic };
    return (info, kind, data) => {
        switch (kind) {
            case 'event':
                return tell({ ...about, kind: 'event', id: data.id, schema_id: data.schemaId, position: data.replayId, payload: data.payload });
            case 'grpcKeepAlive':
                return tell({ ...about, kind: 'keepalive', position: info.lastReplayId });
            case 'lastEvent':
                return once ? undefined : client.requestAdditionalEvents(topic, credit);
            case 'end':
                return tell({ ...about, kind: 'end' });
            case 'grpcStatus':
                return tell({ ...about, kind: 'status', code: data.code });
            case 'error':
                if (data.event) {
                    return tell({ ...about, kind: 'undecodable', id: data.event.event.id, position: data.replayId, text: String(data.cause) });
                }
                return tell({ ...about, kind: 'error', code: data.code, text: data.details, error_code: trailer(data, 'error-code'), type: trailer(data, 'type') });
            default:
                return tell({ ...about, kind: 'unexpected', text: kind });
        }
    };
}

function trailer(error, name) {
    return error.metadata?.get(name)?.[0] ?? null;
}

async function subscribe(order) {
    const client = await connection(order.scenario);
    const callback = report(order, client);
    switch (order.preset) {
        case 'EARLIEST':
            return client.subscribeFromEarliestEvent(order.topic, callback, order.credit);
        case 'CUSTOM':
            return client.subscribeFromReplayId(order.topic, callback, order.credit, Number(BigInt('0x' + order.replay_id.slice(0, 16))));
        default:
            return client.subscribe(order.topic, callback, order.credit);
    }
}

async function publish({ scenario, topic, events }) {
    const client = await connection(scenario);
    for (const { id, payload } of events) {
        const result = await client.publish(topic, payload, id);
        tell({ scenario, topic, kind: 'published', id: result.correlationKey, position: result.replayId });
    }
}

/** By one PublishStream call; no batch waits for the answer to the one before. */
async function publishStream({ scenario, topic, batches }) {
    const client = await connection(scenario);
    const answered = (_, kind, data) => {
        if (kind === 'publishResponse') {
            data.results.forEach((result) => tell({ scenario, topic, kind: 'published', id: result.correlationKey, position: result.replayId }));
        } else {
            tell({ scenario, topic, kind: 'failed', text: `${kind}: ${JSON.stringify(data)}` });
        }
    };
    for (const events of batches) {
        await client.publishBatch(topic, events, answered);
    }
}

const orders = { subscribe, publish, publishStream };

for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    try {
        await orders[order.do](order);
    } catch (error) {
        tell({ scenario: order.scenario, topic: order.topic, kind: 'failed', text: `${error.message}: ${error.cause?.stack ?? error.stack}` });
    }
}
// Nobody has anything to say any more.
for (const client of connections.values()) {
    (await client).close();
}
process.exit(0);
