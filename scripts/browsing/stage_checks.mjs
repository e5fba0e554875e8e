// The page before the stage: each state shown as such, nothing taken for markup, and what it does when the service goes away.
import { Stage } from './stage.mjs';
import { PATIENCE, accessible, card, fits, hold, open, text, until } from './browser.mjs';
import { MARKUP, documentOf, journal, states, stream, withMarkup } from './states.mjs';

/** What a browser writes into its console when the service is away. */
const AWAY = ['ERR_CONNECTION_REFUSED', 'ERR_INCOMPLETE_CHUNKED_ENCODING', 'ERR_CONNECTION_RESET', 'ERR_EMPTY_RESPONSE', '401'];
const CASES = '/data/CaseChangeEvent';
/** A fault that is known to be there is not waited for as long as a machine that is busy. */
const soon = (options) => options?.patience ?? PATIENCE;

async function staged(browser, source, stage, options, checks) {
    const url = await stage.start();
    const { page, context, heard } = await open(browser, url, { quiet: AWAY, ...options });
    try {
        await until('the first words of the service', async () => (await text(page, '#link')) === 'live');
        await checks(page);
        hold(heard.length === 0, heard.join('; '));
    } finally {
        await context.close();
        await stage.stop();
    }
}

const everyState = (source, options) => new Stage(source, documentOf(states().map(([one]) => one)), journal(), options);

export const STAGE_CHECKS = {
    'every state is shown as such, with its reason and what mends it': (browser, source, options) =>
        staged(browser, source, everyState(source, options), {}, async (page) => {
            for (const [one, badge, expected] of states()) {
                const shown = await card(page, one.topic);
                const lines = shown.split('\n').map((line) => line.trim());
                hold(lines.includes(badge), `${one.topic} is not called "${badge}": ${lines.slice(0, 3).join(' / ')}`);
                for (const words of expected) {
                    hold(shown.replace(/\s+/g, ' ').includes(words), `${one.topic} does not say "${words}": ${shown.replace(/\s+/g, ' ')}`);
                }
            }
            const first = (await text(page, '.first')).replace(/\s+/g, ' ');
            hold(/^No time left until data loss/.test(first) && first.includes('soonest on /data/StoppedChangeEvent'), `the first words: ${first}`);
            hold(first.includes('7 of 9 streams not ready'), `the first words: ${first}`);
            const org = (await text(page, '#org')).replace(/\s+/g, ' ');
            for (const words of ['Delivered events, 24 h 6,880 of 50,000 used', 'Calls for messages, 1 h 312 of 900 used', 'Active conversations, 30 min 9 of 500 active']) {
                hold(org.includes(words), `the budgets do not have "${words}": ${org}`);
            }
            hold(await page.getByRole('meter', { name: 'Calls for messages, 1 h' }).getAttribute('aria-valuenow') === '35', 'the bar of the calls is not at a third');
            const log = await text(page, '#log');
            hold(log.includes('entry opened in the gap ledger (gap_event)'), `what happened: ${log}`);
            hold(log.includes('(14 times since') && log.indexOf('stopped:') < log.indexOf('running'), `what happened: ${log}`);
        }),

    'what changes is shown without loading the page anew': (browser, source, options) => {
        const stage = new Stage(source, documentOf([stream(0, CASES)]), [], options);
        return staged(browser, source, stage, {}, async (page) => {
            const loaded = await page.evaluate(() => performance.timeOrigin);
            hold((await card(page, CASES)).includes('1,310'), 'the first number is not there');
            stage.change({ streams: { [CASES]: { records_committed: 1311, state: 'stalled', call: 'commit', since: new Date().toISOString(), not_ready: 'stalled' } } });
            await until('the new number', async () => (await card(page, CASES)).includes('1,311'), soon(options));
            await until('the new state', async () => (await card(page, CASES)).includes('Nothing moves'), soon(options));
            stage.change({ streams: { [CASES]: { state: 'running', call: null, since: null, not_ready: null }, '/data/NewChangeEvent': stream(1, '/data/NewChangeEvent') } });
            await until('the other state', async () => !(await card(page, CASES)).includes('Nothing moves'), soon(options));
            await until('that it is ready', async () => !(await text(page, '.first')).includes('not ready'), soon(options));
            await until('another stream', async () => (await card(page, '/data/NewChangeEvent')) !== '', soon(options));
            const entry = (id, what) => ({ ...journal()[0], id, number: id, what });
            stage.tell('journal', { entries: [entry(8, 'a thing'), entry(9, 'another thing')], ids: [8, 9] });
            await until('the new entries', async () => (await text(page, '#log')).includes('another thing'), soon(options));
            stage.tell('journal', { entries: [entry(10, 'a third')], ids: [9, 10] });
            const told = async () => (await page.locator('#log .mark').allInnerTexts()).join();
            await until('what is left of them', async () => (await told()) === 'a third,another thing', soon(options));
            hold((await page.evaluate(() => performance.timeOrigin)) === loaded, 'the page was loaded anew');
        });
    },

    'texts with markup in them stay text': (browser, source, options) => {
        const document = withMarkup(documentOf(states().map(([one]) => one), { kafka: { reachable: false, last_error: 'no broker' } }));
        document.acts = true;
        return staged(browser, source, new Stage(source, document, withMarkup(journal()), options), {}, async (page) => {
            // A picture that cannot be had takes a moment to say so.
            const broken = () => page.evaluate(() => ({ ran: window.broken, made: document.querySelectorAll('img, article b b, #log b').length, scripts: document.scripts.length }));
            await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
            await page.locator('article button', { hasText: 'Snapshot' }).first().click();
            const { ran, made, scripts } = await broken();
            hold(!ran && made === 0 && scripts === 1, `markup in a text became part of the page: ran ${ran}, elements ${made}, scripts ${scripts}`);
            const shown = await page.evaluate(() => document.body.textContent);
            hold(shown.split(MARKUP).length > 40, 'the texts are not there as they are');
        });
    },

    'when the service goes away the page says so with the time, and comes back by itself': async (browser, source, options) => {
        const stage = new Stage(source, documentOf([stream(0, CASES)]), [], options);
        await staged(browser, source, stage, {}, async (page) => {
            hold(!(await page.locator('#banner').isVisible()), 'it says that the service is away, and it is not');
            await stage.stop();
            await until('"no news since"', async () => /^no news since \d\d:\d\d:\d\d$/.test(await text(page, '#link')), 15_000);
            hold(await page.locator('#banner').isVisible(), 'it does not say that the service is away');
            hold(/does not answer.*of \d\d:\d\d:\d\d/.test(await text(page, '#banner')), `the banner: ${await text(page, '#banner')}`);
            hold((await card(page, CASES)).includes('1,310'), 'what was known last is gone');
            stage.document.streams[CASES].records_committed = 2222;
            await stage.start();
            await until('the news after the restart', async () => (await card(page, CASES)).includes('2,222') && (await text(page, '#link')) === 'live', soon(options));
            hold(!(await page.locator('#banner').isVisible()), 'the banner stays');
        });
    },

    'an action asks for the token, says why it was refused, and sends what is meant': async (browser, source, options) => {
        const stage = new Stage(source, documentOf([stream(0, CASES, { objects: ['Case', 'User'] })]), [], options);
        await staged(browser, source, stage, {}, async (page) => {
            await page.getByRole('button', { name: 'Pause…' }).click();
            const dialog = page.getByRole('dialog');
            hold(/are left until data loss/.test(await dialog.innerText()), 'the question does not say how long there is');
            await dialog.getByLabel('Token').fill('wrong');
            await dialog.getByRole('button', { name: 'Pause' }).click();
            await until('the refusal', async () => (await dialog.getByRole('alert').innerText().catch(() => '')).includes('not that of admin.token'), soon(options));
            await dialog.getByLabel('Token').fill('sesame');
            await dialog.getByRole('button', { name: 'Pause' }).click();
            await until('the end of the question', async () => !(await dialog.isVisible()), soon(options));
            await page.getByRole('button', { name: 'Snapshot…' }).click();
            hold(!(await dialog.getByLabel('Token').isVisible()), 'the token is asked for again');
            await dialog.getByLabel('Object').selectOption('User');
            await dialog.getByLabel(/Only records/).fill('IsActive = true');
            await dialog.getByRole('button', { name: 'Start' }).click();
            await until('the end of the question', async () => !(await dialog.isVisible()), soon(options));
            const asked = stage.asked.map(({ path, body, token }) => `${path} ${body} ${token}`);
            hold(asked[1] === `/streams/pause {"topic":"${CASES}"} Bearer sesame`, `asked: ${asked[1]}`);
            hold(asked[2] === '/snapshots {"entities":["User"],"where":"IsActive = true"} Bearer sesame', `asked: ${asked[2]}`);
            stage.change({ acts: false });
            await until('that actions are off', async () => !(await page.getByRole('button', { name: 'Pause…' }).isVisible()), soon(options));
            hold((await text(page, '#foot')).includes('admin.token_file'), 'it does not say which key to set');
        });
    },

    'it can be used by everybody, in light and dark, wide and on a phone': async (browser, source, options) => {
        const long = stream(9, `/data/${'AVeryLongNameOfAnObjectWithoutAnyBreak'.repeat(3)}__ChangeEvent`, { last_error: { at: new Date().toISOString(), what: 'x'.repeat(400), remedy: 'y'.repeat(300) } });
        const all = () => new Stage(source, documentOf([...states().map(([one]) => one), long], { kafka: { reachable: false, last_error: 'no broker' } }), journal(), options);
        for (const scheme of ['light', 'dark']) {
            for (const width of [1280, 360]) {
                await staged(browser, source, all(), { scheme, width, height: 800 }, async (page) => {
                    await fits(page, `${scheme}, ${width} px`);
                    await accessible(page, `${scheme}, ${width} px`);
                    await page.getByRole('button', { name: 'Snapshot…' }).first().click();
                    await accessible(page, `${scheme}, ${width} px, a question open`);
                    await fits(page, `${scheme}, ${width} px, a question open`);
                });
            }
        }
    }
};
