// Checks the status page in a headless Chromium; scripts/page says how.
import fs from 'node:fs';
import path from 'node:path';
import { Finding, launch } from './browser.mjs';
import { liveChecks } from './live_checks.mjs';
import { mutants } from './mutants.mjs';
import { Scene } from './scene.mjs';
import { STAGE_CHECKS } from './stage_checks.mjs';

const { ROOT: root, PICTURES: pictures, DIRECTORY: directory, BINARY: binary } = process.env;
const what = process.argv[2];
const source = fs.readFileSync(path.join(root, 'src/admin/page.html'), 'utf8');
const say = (line) => console.log(`page: ${line}`);

async function onStage(browser) {
    for (const [name, check] of Object.entries(STAGE_CHECKS)) {
        await check(browser, source).catch((error) => { error.message = `${name}: ${error.message}`; throw error; });
        say(`ok    ${name}`);
    }
}

/** Each mutant has to be noticed by the check that is there for it. */
async function selfTest(browser) {
    await onStage(browser);
    const left = mutants(source);
    const one = async () => {
        for (let mutant = left.shift(); mutant; mutant = left.shift()) {
            const { name, check, words, source: broken } = mutant;
            const options = { lax: name.includes('markup'), patience: 8_000 };
            const found = await STAGE_CHECKS[check](browser, broken, options).then(() => null, (error) => error);
            if (!found) {
                throw new Finding(`a page that ${name} is taken for good`);
            }
            if (!found.message.includes(words)) {
                throw new Finding(`a page that ${name} is noticed for another reason: ${found.message}`);
            }
            say(`noticed: a page that ${name} (${found.message.split('\n')[0].slice(0, 140)})`);
        }
    };
    // They wait most of the time.
    await Promise.all([one(), one(), one()]);
}

async function live(browser) {
    const scene = new Scene({ binary, root, directory });
    const end = () => scene.stop().finally(() => process.exit(130));
    process.once('SIGINT', end);
    process.once('SIGTERM', end);
    try {
        await scene.start();
        await liveChecks(browser, scene, pictures, (name) => say(`ok    ${name}`));
    } finally {
        await scene.stop();
    }
}

const browser = await launch();
try {
    await (what === 'self-test' ? selfTest(browser) : live(browser));
} catch (error) {
    say(error.missing ? error.message : `FAILED ${error instanceof Finding ? error.message : error.stack}`);
    // sysexits: something that is needed is not there.
    process.exitCode = error.missing ? 69 : 1;
} finally {
    await browser.close();
}
