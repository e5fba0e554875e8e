// Pages with one fault each. A check that takes one of them for good is worth nothing: --self-test runs them all.

const STATES = 'every state is shown as such, with its reason and what mends it';
const CHANGES = 'what changes is shown without loading the page anew';
const MARKUP = 'texts with markup in them stay text';
const AWAY = 'when the service goes away the page says so with the time, and comes back by itself';
const ACTIONS = 'an action asks for the token, says why it was refused, and sends what is meant';
const EVERYBODY = 'it can be used by everybody, in light and dark, wide and on a phone';

/** What the page does wrong; the check that has to notice, and in which words; what is put in the place of what. */
const BREAKS = [
    ['shows a stalled stream as running', STATES, 'is not called "stalled"', 'case "stalled": return ["stalled", "bad"', 'case "stalled": return ["running", "good"'],
    ['puts the largest time first', STATES, 'the first words', 'left < worst.left', 'left > worst.left'],
    ['leaves out what mends it', STATES, 'does not say "What to do', 'words(stream.what), stream.remedy]', 'words(stream.what)]'],
    ['leaves out what is polled', STATES, 'does not say "CaseComment', 'if (polls.length) parts.push', 'if (polls.length > 9) parts.push'],
    ['leaves out the budget of messages', STATES, 'the budgets do not have "Calls for messages', 'stream.messages?.calls_allowed > 0', 'stream.messages?.calls_allowed < 0'],
    ['shows what is left for what is used', STATES, 'the bar of the calls', '100 * used / Math.max(1, all)', '100 * (all - used) / Math.max(1, all)'],
    ['loads something from elsewhere', STATES, 'Content Security Policy', 'listen();\nrender();', 'fetch("http://127.0.0.1:9/").catch(() => {});\nlisten();\nrender();'],
    ['does not listen to changes', CHANGES, 'the new number', 'on("change"', 'on("changes"'],
    ['keeps what was taken away', CHANGES, 'that it is ready', 'if (change === null) delete result[name]; else', 'if (change !== null)'],
    ['keeps what happened for ever', CHANGES, 'what is left of them', 'if (!there.has(id)) known.journal.delete(id);', ';'],
    ['makes markup of texts', MARKUP, 'became part of the page', 'if (element.textContent !== text) element.textContent = text;', 'element.innerHTML = text;'],
    ['makes markup of options', MARKUP, 'became part of the page', 'if (text !== undefined) made.textContent = text;', 'if (text !== undefined) made.innerHTML = text;'],
    ['does not notice that the service is gone', AWAY, 'does not say that the service is away', 'show(byId("banner"), gone && known.heardAt > 0);', 'show(byId("banner"), false);'],
    ['does not come back', AWAY, 'the news after the restart', 'known.live = false; render(); });', 'known.live = false; source.close(); source = { close() {} }; listenedAt = Infinity; render(); });'],
    ['asks with no token', ACTIONS, 'the end of the question', 'authorization: `Bearer ${shown}`', 'authorization: "Bearer"'],
    ['pauses what was to be resumed', ACTIONS, 'asked: /streams/resume', '`/streams/${what}`', '"/streams/resume"'],
    ['has words too faint to read', EVERYBODY, 'light, 1280 px: color-contrast', '--muted: #565b61', '--muted: #a9adb1'],
    ['has words too faint to read in the dark', EVERYBODY, 'dark, 1280 px: color-contrast', '--muted: #a3aab1', '--muted: #5b6066'],
    ['has a field without a name', EVERYBODY, 'select-name', '<label id="ask-object">Object<select id="ask-object-value"></select></label>', '<div id="ask-object"><select id="ask-object-value"></select></div>'],
    ['is too wide for a phone', EVERYBODY, '360 px: the page scrolls sideways', '.facts { display: grid;', '.facts { min-width: 420px; display: grid;']
];

/** Name, the check that has to notice, its words, and the page. */
export function mutants(source) {
    return BREAKS.map(([name, check, words, from, to]) => {
        if (source.split(from).length !== 2) {
            throw new Error(`the mutant "${name}" does not fit the page any more`);
        }
        return { name, check, words, source: source.replace(from, () => to) };
    });
}
