// A service for the page alone: it serves src/admin/page.html with the policy that casewire gives it, and says what it is told
// to. So the page is seen in every state, with words that nobody should believe, without waiting for them to happen.
import crypto from 'node:crypto';
import http from 'node:http';

const digest = (page, element) => {
    const inside = page.split(`<${element}>`)[1].split(`</${element}>`)[0];
    return `'sha256-${crypto.createHash('sha256').update(inside).digest('base64')}'`;
};

/** As src/admin/page.rs has it; the run against casewire sees the real one. */
const policy = (page) =>
    `default-src 'none'; style-src ${digest(page, 'style')}; script-src ${digest(page, 'script')}; connect-src 'self'; img-src data:; ` +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

export class Stage {
    constructor(page, document, journal = [], { lax = false } = {}) {
        Object.assign(this, { page, document, journal, lax, listeners: new Set(), asked: [], port: 0 });
    }

    async start() {
        this.server = http.createServer((request, response) => this.answer(request, response));
        await new Promise((resolve) => this.server.listen(this.port, '127.0.0.1', resolve));
        this.port = this.server.address().port;
        return `http://127.0.0.1:${this.port}/`;
    }

    async stop() {
        for (const listener of this.listeners) {
            listener.destroy();
        }
        this.server.closeAllConnections();
        await new Promise((resolve) => this.server.close(resolve));
    }

    answer(request, response) {
        if (request.url === '/') {
            // A mutant that makes markup of text would be stopped by the policy; what is looked for is the page's own fault.
            const headers = this.lax ? {} : { 'content-security-policy': policy(this.page) };
            response.writeHead(200, { 'content-type': 'text/html; charset=utf-8', ...headers }).end(this.page);
        } else if (request.url === '/events') {
            response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
            this.listeners.add(response);
            response.on('close', () => this.listeners.delete(response));
            this.send(response, 'snapshot', { document: this.document, journal: this.journal, trend: { every_ms: 2000, streams: trend(this.document) } });
            const tick = setInterval(() => this.send(response, 'sample', { streams: {} }), 1000);
            response.on('close', () => clearInterval(tick));
        } else {
            let body = '';
            request.on('data', (part) => (body += part));
            request.on('end', () => {
                this.asked.push({ path: request.url, body, token: request.headers.authorization });
                const good = request.headers.authorization === 'Bearer sesame';
                const said = good ? {} : { reason: 'the token is not that of admin.token', remedy: 'show the right one' };
                response.writeHead(good ? 200 : 401, { 'content-type': 'application/json' }).end(JSON.stringify(said));
            });
        }
    }

    send(response, event, data) {
        response.write(`event: ${event}\ndata: ${JSON.stringify({ at: new Date().toISOString(), ...data })}\n\n`);
    }

    tell(event, data) {
        for (const listener of this.listeners) {
            this.send(listener, event, data);
        }
    }

    /** A merge patch, which is laid over the document of those who come later too. */
    change(patch) {
        this.document = merged(this.document, patch);
        this.tell('change', { patch });
    }
}

function merged(target, patch) {
    if (patch === null || typeof patch !== 'object' || Array.isArray(patch)) {
        return patch;
    }
    const result = { ...(target ?? {}) };
    for (const [name, change] of Object.entries(patch)) {
        if (change === null) {
            delete result[name];
        } else {
            result[name] = merged(result[name], change);
        }
    }
    return result;
}

function trend(document) {
    const samples = Array.from({ length: 120 }, (_, index) => ({ rate: 6 + 4 * Math.sin(index / 9), lag_ms: index % 3 ? 2400 + 1800 * Math.cos(index / 7) : null }));
    return Object.fromEntries(Object.keys(document.streams).map((topic) => [topic, samples]));
}
