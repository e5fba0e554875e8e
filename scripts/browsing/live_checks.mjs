// The page of a real casewire between the simulated org and a real broker, from its first words to its restart.
import path from 'node:path';
import { accessible, card, fits, hold, open, text, until } from './browser.mjs';
import { MARKUP } from './states.mjs';
import { TOKEN, TOPICS } from './scene.mjs';

const [CASES, SESSIONS] = TOPICS;
// What a browser says of a service that is away, and of a token that is refused.
const AWAY = ['ERR_CONNECTION_REFUSED', 'ERR_INCOMPLETE_CHUNKED_ENCODING', 'ERR_CONNECTION_RESET', 'ERR_EMPTY_RESPONSE', '401 (Unauthorized)'];

/** What a fact of a card says. */
async function fact(page, topic, name) {
    return page.evaluate(([wanted, label]) => {
        const title = [...document.querySelectorAll('article h2')].find((one) => one.textContent === wanted);
        const term = [...(title?.closest('article').querySelectorAll('dt') ?? [])].find((one) => one.textContent === label);
        return term?.nextElementSibling.textContent ?? '';
    }, [topic, name]);
}
const written = async (page) => Number((await fact(page, CASES, 'Records written')).replace(/\D/g, ''));
const badge = (page, topic) => page.evaluate((wanted) => [...document.querySelectorAll('article h2')].find((one) => one.textContent === wanted)?.nextElementSibling.textContent, topic);

async function answer(page, button, { token } = {}) {
    const dialog = page.getByRole('dialog');
    if (token) {
        await dialog.getByLabel('Token').fill(token);
    }
    await dialog.getByRole('button', { name: button }).click();
    await until(`the end of the question (${button})`, async () => !(await dialog.isVisible()), 20_000);
}

/** Runs them in order; `told` is called with the name of each that holds. */
export async function liveChecks(browser, scene, pictures, told) {
    const { page, heard } = await open(browser, scene.url, { quiet: AWAY, height: 1000 });
    const check = async (name, steps) => {
        try {
            await steps();
        } catch (error) {
            error.message = `${name}: ${error.message}`;
            await page.screenshot({ path: path.join(pictures, 'failed.png'), fullPage: true }).catch(() => {});
            throw error;
        }
        told(name);
    };
    const ready = () => until('both streams ready', async () => (await text(page, '.first')).includes('both streams are ready'), 60_000);

    await check('the page loads with a policy that lets nothing else in, and shows every stream', async () => {
        const headers = (await fetch(scene.url)).headers;
        const policy = headers.get('content-security-policy') ?? '';
        hold(policy.includes("default-src 'none'") && policy.includes('sha256-') && !policy.includes('unsafe'), `the policy: ${policy}`);
        await ready();
        for (const topic of TOPICS) {
            hold((await badge(page, topic)) === 'running', `${topic}: ${await badge(page, topic)}`);
        }
        const first = (await text(page, '.first')).replace(/\s+/g, ' ');
        hold(/^71 h 5\d min until data loss/.test(first), `the first words: ${first}`);
    });

    await check('numbers move as events come, and are those of /status', async () => {
        const before = await written(page);
        await scene.order('generate', { count: 200 });
        await until('the records', async () => (await written(page)) >= before + 100);
        await scene.fault('pause-traffic');
        await until('the same numbers on both sides', async () => {
            const stream = (await scene.status()).process.streams.find((one) => one.topic === CASES);
            return (await written(page)) === stream.records_committed;
        });
        await scene.fault('resume-traffic');
        await until('a rate', async () => /^(?!0\.0).* \/s$/.test(await fact(page, CASES, 'Rate')));
        // That of what was there at the start is hours.
        await until('the lag of what comes now', async () => /^(under 1|\d+\.\d) s$/.test(await fact(page, CASES, 'Lag')));
    });

    await check('the budget of messages and what is polled are shown as /status has them', async () => {
        await until('the same budget on both sides, and a look', async () => {
            const { streams } = (await scene.status()).process;
            const { messages } = streams.find((one) => one.topic === SESSIONS), [poll] = streams.find((one) => one.topic === CASES).polls;
            const org = (await text(page, '#org')).replace(/\s+/g, ' '), shown = await card(page, CASES);
            return messages?.calls_allowed === 900 && org.includes(`Calls for messages, 1 h ${messages.calls_used} of 900 used`)
                && org.includes(`Active conversations, 30 min ${messages.conversations_active} of 500 active`)
                && poll?.read_to && shown.includes('CaseComment: all that was changed up to') && shown.includes(`in ${poll.rounds} look`);
        }, 60_000);
    });

    await check('a stream is paused and resumed with the token, and not without', async () => {
        const card_ = page.getByRole('article', { name: `Stream ${CASES}` });
        await card_.getByRole('button', { name: 'Pause…' }).click();
        const dialog = page.getByRole('dialog');
        await dialog.getByLabel('Token').fill('a-wrong-token');
        await dialog.getByRole('button', { name: 'Pause' }).click();
        await until('the refusal', async () => (await dialog.innerText()).includes('not that of admin.token'), 10_000);
        await answer(page, 'Pause', { token: TOKEN });
        await until('the pause', async () => (await badge(page, CASES)) === 'paused', 10_000);
        hold((await text(page, '.first')).includes('1 of 2 streams not ready'), 'a paused stream counts as ready');
        const { process, not_ready: why } = await scene.status();
        const stream = process.streams.find((one) => one.topic === CASES);
        hold(stream.state === 'paused' && why.some((one) => one.reason.includes('paused by an operator')), JSON.stringify(why));
        await until('the end of the call', async () => !(await scene.status()).process.streams.find((one) => one.topic === CASES).call_open_since, 15_000);
        await until('the last of what was under way', async () => (await scene.status()).process.streams.find((one) => one.topic === CASES).events_in_flight === 0, 15_000);
        const before = (await scene.status()).process.streams.find((one) => one.topic === CASES).events_received;
        const sessions = (await scene.status()).process.streams.find((one) => one.topic === SESSIONS).events_received;
        await scene.order('generate', { count: 60 });
        await until('the other stream goes on', async () => (await scene.status()).process.streams.find((one) => one.topic === SESSIONS).events_received > sessions + 5);
        const during = (await scene.status()).process.streams.find((one) => one.topic === CASES).events_received;
        hold(during === before, `${during - before} events came while it was paused`);
        await card_.getByRole('button', { name: 'Resume' }).click();
        await answer(page, 'Resume');
        await until('what came meanwhile', async () => (await scene.status()).process.streams.find((one) => one.topic === CASES).events_received > before + 20);
        await ready();
    });

    await check('a snapshot is started from the page', async () => {
        const card_ = page.getByRole('article', { name: `Stream ${CASES}` });
        await card_.getByRole('button', { name: 'Snapshot…' }).click();
        await answer(page, 'Start');
        await until('its end', async () => /Case: \d+ records? in/.test(await card(page, CASES)), 60_000);
        hold((await text(page, '#log')).includes('snapshot of Case finished'), 'what happened does not tell it');
    });

    await check('an error with markup in it is shown as text', async () => {
        await scene.fault('fail-streams', { status: 14, error_code: 'sfdc.platform.eventbus.grpc.service.unavailable', message: `away ${MARKUP}` });
        await until('the error', async () => (await page.evaluate(() => document.body.textContent)).includes('<img src=x onerror='), 30_000);
        const { ran, made } = await page.evaluate(() => ({ ran: window.broken, made: document.querySelectorAll('img').length }));
        hold(!ran && made === 0, `it became part of the page: ran ${ran}, pictures ${made}`);
        await ready();
    });

    await check('it can be used by everybody while it works, in light and dark, wide and on a phone', async () => {
        // Enough of a curve for a picture.
        await until('some samples', async () => (await page.evaluate(() => known.trend[Object.keys(known.trend)[0]].length)) >= 20);
        for (const scheme of ['light', 'dark']) {
            for (const width of [1280, 360]) {
                const other = await open(browser, scene.url, { scheme, width, height: width > 400 ? 900 : 800 });
                await until('the first words', async () => (await text(other.page, '#link')) === 'live');
                await fits(other.page, `${scheme}, ${width} px`);
                await accessible(other.page, `${scheme}, ${width} px`);
                await other.page.screenshot({ path: path.join(pictures, `${scheme}-${width}.png`), fullPage: width < 400 });
                hold(other.heard.length === 0, other.heard.join('; '));
                await other.context.close();
            }
        }
    });

    await check('a stream that stands still because no broker answers is shown as such', async () => {
        await scene.broker('freeze');
        await scene.order('generate', { count: 50 });
        await until('the state', async () => /recovering|stalled/.test(await badge(page, CASES)), 60_000);
        hold((await text(page, '.first')).includes('not ready'), 'the first words do not say so');
        await scene.broker('thaw');
        await ready();
        const log = await text(page, '#log');
        hold(/recovering|stalled|not reachable/.test(log), `what happened does not tell it: ${log}`);
    });

    await check('the page survives the restart of the service', async () => {
        const { run_id: first } = (await scene.status()).process;
        await scene.stopCasewire();
        await until('"no news since"', async () => /^no news since \d\d:\d\d:\d\d$/.test(await text(page, '#link')), 20_000);
        await scene.startCasewire();
        await until('the new run', async () => (await text(page, '#link')) === 'live' && !(await text(page, '#foot')).includes(first), 30_000);
        await ready();
        hold(heard.length === 0, heard.join('; '));
    });
}
