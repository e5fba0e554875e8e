// The npm client at work: it counts events and nothing else, and prints when the first and the last came.
import { pathToFileURL } from 'node:url';

const dist = `${process.env.NODE_CLIENT_HOME}/node_modules/salesforce-pubsub-api-client/dist/client.js`;
const { default: PubSubApiClient } = await import(pathToFileURL(dist));
const { LOGIN_URL, CLIENT_ID, CLIENT_SECRET, PUB_SUB_ENDPOINT, TOPIC, EVENTS } = process.env;
const silent = { debug() {}, info() {}, warn: console.error, error: console.error };
const client = new PubSubApiClient(
    {
        authType: 'oauth-client-credentials', loginUrl: LOGIN_URL, clientId: CLIENT_ID, clientSecret: CLIENT_SECRET,
        pubSubEndpoint: PUB_SUB_ENDPOINT,
    },
    silent,
);
await client.connect();

const wanted = Number(EVENTS);
let events = 0;
let firstAt = 0;
client.subscribeFromEarliestEvent(TOPIC, (_subscription, kind, data) => {
    if (kind === 'error') {
        console.error(data);
        process.exit(1);
    }
    if (kind !== 'event') return;
    events += 1;
    if (events === 1) firstAt = performance.now();
    if (events === wanted) {
        const seconds = (performance.now() - firstAt) / 1000;
        const { user, system } = process.cpuUsage();
        console.log(JSON.stringify({ events, seconds, rate: (events - 1) / seconds, processor_seconds: (user + system) / 1e6 }));
        process.exit(0);
    }
});
