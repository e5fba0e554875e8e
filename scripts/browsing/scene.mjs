// The processes of the run against casewire: a broker, a simulated org, and casewire between them.
import { execFile, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { until } from './browser.mjs';

const run = promisify(execFile);
export const TOKEN = 'a-token-for-the-tests-of-the-page';
export const TOPICS = ['/data/CaseChangeEvent', '/data/MessagingSessionChangeEvent'];

async function freePort() {
    const server = net.createServer();
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address();
    await new Promise((resolve) => server.close(resolve));
    return port;
}

export class Scene {
    constructor({ binary, root, directory }) {
        Object.assign(this, { binary, root, directory, kafka: path.join(directory, 'kafka'), processes: [] });
    }

    async start() {
        const [brokers, org] = await Promise.all([this.startBroker(), this.startOrg()]);
        this.port = await freePort();
        this.url = `http://127.0.0.1:${this.port}/`;
        fs.writeFileSync(path.join(this.directory, 'token'), `${TOKEN}\n`);
        const [cases, sessions] = TOPICS.map((topic) => `[[stream]]\ntopic = "${topic}"\nstart = "earliest"\n`);
        const streams = `${cases}${sessions}messages = true\n[[poll]]\nentity = "CaseComment"\nevery = "2s"\n`;
        fs.writeFileSync(path.join(this.directory, 'casewire.toml'),
            `${org}\n${streams}[kafka]\nbrokers = "${brokers}"\ncall_timeout = "2s"\ntransaction_timeout = "10s"\n` +
            `[admin]\nlisten = "127.0.0.1:${this.port}"\ntoken_file = "${path.join(this.directory, 'token')}"\n`);
        await this.startCasewire();
    }

    async startBroker() {
        const start = ['start', '--directory', this.kafka, '--owner', String(process.pid)];
        const started = await run(path.join(this.root, 'scripts/kafka'), start).catch((error) => {
            throw Object.assign(new Error(`no Kafka broker could be started: ${error.stderr}`), { missing: true });
        });
        return /^KAFKA_BOOTSTRAP=(.*)$/m.exec(started.stdout)[1];
    }

    /** The section of a configuration that signs in to it. */
    async startOrg() {
        const settings = path.join(this.directory, 'org.toml');
        fs.writeFileSync(settings,
            '[listen]\nhttp = "127.0.0.1:0"\npubsub = "127.0.0.1:0"\ncontrol = "127.0.0.1:0"\n[traffic]\nrate = 6.0\nbacklog = 300\n' +
            'entities = ["Case", "MessagingSession"]\n[rest]\nbulk_job_time = "2s"\n');
        const org = this.spawn('org', ['simulate', '--config', settings, '--directory', path.join(this.directory, 'org')]);
        await until('the simulated org', () => org.out.includes('/faults'));
        this.control = /^Control: (\S+)$/m.exec(org.out)[1];
        return org.out.slice(org.out.indexOf('[salesforce]'), org.out.indexOf('[[stream]]'));
    }

    async startCasewire() {
        this.casewire = this.spawn('casewire', ['run', '--config', path.join(this.directory, 'casewire.toml')]);
        await until('the admin port', async () => this.casewire.process.exitCode === null ? fetch(`${this.url}live`).then(() => true, () => false)
            : Promise.reject(new Error(`casewire ended: ${this.casewire.err.slice(-2000)}`)));
    }

    async stopCasewire() {
        const { process } = this.casewire;
        const ended = new Promise((resolve) => process.once('exit', resolve));
        process.kill('SIGTERM');
        await ended;
    }

    spawn(name, words) {
        const spawned = { process: spawn(this.binary, words, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, RUST_LOG: '' } }), out: '', err: '' };
        spawned.process.stdout.on('data', (part) => (spawned.out += part));
        const log = fs.createWriteStream(path.join(this.directory, `${name}.log`), { flags: 'a' });
        spawned.process.stderr.on('data', (part) => { spawned.err = (spawned.err + part).slice(-20_000); log.write(part); });
        this.processes.push(spawned.process);
        return spawned;
    }

    /** An order to the simulated org. */
    async order(where, body) {
        const answer = await fetch(`${this.control}/${where}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
        if (!answer.ok) {
            throw new Error(`the simulated org refused ${where}: ${await answer.text()}`);
        }
    }

    fault(kind, more = {}) {
        return this.order('faults', { kind, ...more });
    }

    broker(command) {
        return run(path.join(this.root, 'scripts/kafka'), [command, '--directory', this.kafka]);
    }

    async status() {
        return (await fetch(`${this.url}status`)).json();
    }

    async stop() {
        for (const process of this.processes) {
            if (process.exitCode === null) {
                process.kill('SIGKILL');
            }
        }
        await this.broker('thaw').catch(() => {});
        await this.broker('stop').catch(() => {});
    }
}
