// jsforce against the simulated org: describes objects, queries, retrieves and runs a Bulk API 2.0 query, and writes what it
// was given into a file, as it was given.
import crypto from 'node:crypto';
import fs from 'node:fs';
import jsforce from 'jsforce';

const { LOGIN_URL, CLIENT_ID, USERNAME, KEY_FILE } = process.env;
const [, , output, retrieved, ...objects] = process.argv;

/** The assertion of the JWT bearer flow; jsforce leaves it to its caller. */
function assertion() {
    const part = (json) => Buffer.from(JSON.stringify(json)).toString('base64url');
    const claims = { iss: CLIENT_ID, sub: USERNAME, aud: LOGIN_URL, exp: Math.floor(Date.now() / 1000) + 180 };
    const text = `${part({ alg: 'RS256' })}.${part(claims)}`;
    return `${text}.${crypto.sign('RSA-SHA256', Buffer.from(text), fs.readFileSync(KEY_FILE)).toString('base64url')}`;
}

async function read(connection, name) {
    const object = connection.sobject(name);
    const { fields } = await object.describe();
    const names = fields.map((field) => field.name);
    const soql = (chosen) => `SELECT ${chosen.join(', ')} FROM ${name}`;
    const all = { autoFetch: true, maxFetch: 10_000_000 };
    const query = (await connection.query(soql(names), all)).records;
    const queryAll = (await connection.query(soql(names), { ...all, scanAll: true })).records;
    const ids = queryAll.slice(0, Number(retrieved)).map((record) => record.Id);
    const flat = fields.filter((field) => !['address', 'location'].includes(field.type)).map((field) => field.name);
    const result = await connection.bulk2.query(soql(flat), { pollInterval: 100, pollTimeout: 120_000, scanAll: true });
    const described = fields.map(({ name, type, compoundFieldName }) => ({ name, type, compoundFieldName }));
    return { describe: described, query, queryAll, ids, retrieve: await object.retrieve(ids), bulk: await result.toArray() };
}

const connection = new jsforce.Connection({ version: '66.0', oauth2: { loginUrl: LOGIN_URL } });
await connection.authorize({ grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', assertion: assertion() });
const read_of = {};
for (const name of objects) {
    read_of[name] = await read(connection, name);
}
fs.writeFileSync(output, JSON.stringify(read_of));
