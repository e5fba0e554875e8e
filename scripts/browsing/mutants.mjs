// Pages with one fault each. A check that takes one of them for good is worth nothing: --self-test runs them all.

const BREAKS = {
    'shows a stalled stream as running': ['every state is shown as such, with its reason and what mends it', 'case "stalled": return ["stalled", "bad"', 'case "stalled": return ["running", "good"'],
    'puts the largest time first': ['every state is shown as such, with its reason and what mends it', 'left < worst.left', 'left > worst.left'],
    'leaves out what mends it': ['every state is shown as such, with its reason and what mends it', 'words(stream.what), stream.remedy]', 'words(stream.what)]'],
    'does not listen to changes': ['what changes is shown without loading the page anew', 'on("change"', 'on("changes"'],
    'keeps what was taken away': ['what changes is shown without loading the page anew', 'if (change === null) delete result[name]; else', 'if (change !== null)'],
    'makes markup of texts': ['texts with markup in them stay text', 'if (element.textContent !== text) element.textContent = text;', 'element.innerHTML = text;'],
    'makes markup of options': ['texts with markup in them stay text', 'if (text !== undefined) made.textContent = text;', 'if (text !== undefined) made.innerHTML = text;'],
    'does not notice that the service is gone': ['when the service goes away the page says so with the time, and comes back by itself', 'show(byId("banner"), gone && known.heardAt > 0);', 'show(byId("banner"), false);'],
    'does not come back': ['when the service goes away the page says so with the time, and comes back by itself', 'known.live = false; render(); });', 'known.live = false; source.close(); source = { close() {} }; listenedAt = Infinity; render(); });'],
    'asks with no token': ['an action asks for the token, says why it was refused, and sends what is meant', 'authorization: `Bearer ${shown}`', 'authorization: "Bearer"'],
    'pauses what was to be resumed': ['an action asks for the token, says why it was refused, and sends what is meant', '`/streams/${what}`', '"/streams/resume"'],
    'has words too faint to read': ['it can be used by everybody, in light and dark, wide and on a phone', '--muted: #565b61', '--muted: #a9adb1'],
    'has words too faint to read in the dark': ['it can be used by everybody, in light and dark, wide and on a phone', '--muted: #a3aab1', '--muted: #5b6066'],
    'has a field without a name': ['it can be used by everybody, in light and dark, wide and on a phone', '<label id="ask-object">Object<select id="ask-object-value"></select></label>', '<div id="ask-object"><select id="ask-object-value"></select></div>'],
    'is too wide for a phone': ['it can be used by everybody, in light and dark, wide and on a phone', '.facts { display: grid;', '.facts { min-width: 420px; display: grid;'],
    'loads something from elsewhere': ['every state is shown as such, with its reason and what mends it', 'listen();\nrender();', 'fetch("http://127.0.0.1:9/").catch(() => {});\nlisten();\nrender();']
};

/** Name, the check that has to notice, and the page. */
export function mutants(source) {
    return Object.entries(BREAKS).map(([name, [check, from, to]]) => {
        if (source.split(from).length !== 2) {
            throw new Error(`the mutant "${name}" does not fit the page any more`);
        }
        return { name, check, source: source.replace(from, () => to) };
    });
}
