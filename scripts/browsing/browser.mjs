// A headless Chromium, and what every check asks of a page in it.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const modules = process.env.NODE_MODULES;
const playwright = await import(pathToFileURL(path.join(modules, 'playwright-core', 'index.mjs')).href);
const axe = fs.readFileSync(path.join(modules, 'axe-core', 'axe.min.js'), 'utf8');

const ARGUMENTS = [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'
];
/** Whatever has not happened by then will not. */
export const PATIENCE = 40_000;

/** What a check found; its message is what is printed. */
export class Finding extends Error {}

export function hold(true_, message) {
    if (!true_) {
        throw new Finding(message);
    }
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Asks again and again until `look` returns something, and returns it. */
export async function until(what, look, patience = PATIENCE) {
    const end = Date.now() + patience;
    let last;
    for (;;) {
        last = await look();
        if (last) {
            return last;
        }
        if (Date.now() > end) {
            throw new Finding(`in vain for ${patience / 1000} s: ${what}`);
        }
        await pause(100);
    }
}

export async function launch() {
    return playwright.chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: ARGUMENTS });
}

/** A page with an ear on everything that should not be heard. */
export async function open(browser, url, { width = 1280, height = 900, scheme = 'light', quiet = [] } = {}) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, locale: 'en-GB', timezoneId: 'UTC' });
    const page = await context.newPage();
    const heard = [];
    const origin = new URL(url).origin;
    page.on('pageerror', (error) => heard.push(`error in the page: ${error.message}`));
    page.on('console', (message) => {
        if (message.type() === 'error' && !quiet.some((known) => message.text().includes(known))) {
            heard.push(`console: ${message.text()}`);
        }
    });
    page.on('request', (request) => {
        if (new URL(request.url()).origin !== origin && !request.url().startsWith('data:')) {
            heard.push(`a request to somewhere else: ${request.url()}`);
        }
    });
    await page.goto(url, { waitUntil: 'domcontentloaded' });
    return { page, context, heard };
}

/** The text of the first element, or nothing where there is none. */
export async function text(page, selector) {
    return page.evaluate((wanted) => document.querySelector(wanted)?.innerText ?? '', selector);
}

/** The card of a stream: its text as it is read. */
export async function card(page, topic) {
    return page.evaluate((wanted) => {
        const title = [...document.querySelectorAll('article h2')].find((one) => one.textContent === wanted);
        return title?.closest('article').innerText ?? '';
    }, topic);
}

/** Nothing is wider than the window. */
export async function fits(page, where) {
    const wide = await page.evaluate(() => {
        const root = document.documentElement;
        const beyond = [...document.body.querySelectorAll('*')].filter((one) => one.getBoundingClientRect().right > root.clientWidth + 1);
        const name = (one) => `${one.tagName.toLowerCase()}.${one.className}`;
        return root.scrollWidth > root.clientWidth ? `${root.scrollWidth} px in ${root.clientWidth} px: ${beyond.slice(0, 3).map(name).join(', ')}` : '';
    });
    hold(!wide, `${where}: the page scrolls sideways, ${wide}`);
}

/** No rule of axe-core is violated, those of best practice among them. */
export async function accessible(page, where) {
    await page.evaluate(axe);
    const found = await page.evaluate(async () => {
        const { violations } = await window.axe.run(document, { resultTypes: ['violations'] });
        return violations.map(({ id, help, nodes }) => `${id} (${help}): ${nodes.slice(0, 3).map((node) => node.html.slice(0, 140)).join(' | ')}`);
    });
    hold(found.length === 0, `${where}: ${found.join('\n      ')}`);
}
