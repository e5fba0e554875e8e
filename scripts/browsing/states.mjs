// What a service can say of itself: a stream in each of its states, and everything a card can have.

const ago = (seconds) => new Date(Date.now() - 1000 * seconds).toISOString();
const ahead = (seconds) => ago(-seconds);
/** Nobody's markup: each text that comes from outside is tried with it. */
export const MARKUP = '<img src=x onerror="window.broken=1"><b>bold</b><script>window.broken=2</script>';

export function stream(place, topic, more = {}) {
    return {
        place, topic, state: 'running', objects: ['Case'], checkpoint_committed: true, call_open_since: ago(600), call_had_message: true,
        last_message_at: ago(1), last_event_committed_at: ago(2), last_event_lag_ms: 184, last_transaction_at: ago(1), position_time: ago(3),
        events_received: 1204, duplicates_dropped: 3, events_already_written: 0, keepalives_received: 12, records_committed: 1310,
        batches_committed: 640, transactions_committed: 655, gaps_opened: 0, gaps_open: {}, gaps_healed: 0, gaps_given_up: 0, jobs: [],
        snapshots: [], snapshot_rows: 0, reconcile: { runs: 0, failures: 0, entities: {}, silence: {}, silence_failures: 0 }, dead_letters: 0,
        reconnects: {}, fenced: 0, events_in_flight: 4, ...more
    };
}

export function documentOf(streams, more = {}) {
    return {
        version: '0.0.0', run_id: '3f1c2ab0-0000-4000-8000-000000000000', started_at: ago(7300), org: '00D8d00000AbCdEEAV', kafka: { reachable: true },
        delivered_events: { maximum: 50000, remaining: 43120 }, api_requests: { maximum: 100000, remaining: 87000 }, stopping: false,
        retention_seconds: 259200, clock_offset_ms: 240, acts: true, not_ready: {},
        streams: Object.fromEntries(streams.map((one) => [one.topic, one])), ...more
    };
}

const job = (more) => ({
    job: 'snapshot-1', entity: 'Case', heals: 0, opened_at: ago(60), whole: true, snapshot: true, over_bulk: true, records_expected: 20000,
    records_listed: 7400, records_left: 0, rows_reread: 7400, deletes_found: 0, ...more
});

/** One stream for each state, and what the badge and the card have to say. */
export function states() {
    const remedy = 'Setup > Permission Sets: grant "View All Records" on Case';
    return [
        [stream(0, '/data/RunningChangeEvent'), 'running', ['1,310']],
        [stream(1, '/data/StartingChangeEvent', { state: 'starting', step: 'reading the checkpoint', not_ready: 'starting: reading the checkpoint' }), 'starting', ['reading the checkpoint']],
        [stream(2, '/data/WaitingChangeEvent', { not_ready: `no call is open; the next is made at ${ahead(30)}: the server is away`, position_time: ago(30 * 3600) }), 'running, not ready', ['no call is open', '41 h 59 min']],
        [stream(3, '/data/PausedChangeEvent', { state: 'paused', since: ago(90), paused_since: ago(90), not_ready: 'paused' }), 'paused', ['An operator paused it 1 min', 'Resume']],
        [stream(4, '/data/RecoveringChangeEvent', { state: 'recovering', what: 'Kafka did not answer in time', next_attempt_at: ahead(12), not_ready: 'recovering', last_error: { at: ago(3), what: 'Kafka did not answer in time', remedy: 'look after the brokers' } }), 'recovering', ['Kafka did not answer in time', 'look after the brokers']],
        [stream(5, '/data/StandbyChangeEvent', { state: 'standby', by: 'other-host (run 7)', since: ago(400), not_ready: 'standby' }), 'standby', ['other-host (run 7) writes this stream']],
        [stream(6, '/data/StalledChangeEvent', { state: 'stalled', call: 'commit', since: ago(200), not_ready: 'stalled', position_time: ago(50 * 3600) }), 'stalled', ['Nothing moves', '"commit"', '3 min', '21 h 59 min']],
        [stream(7, '/data/StoppedChangeEvent', { state: 'stopped', what: 'The user may not read the topic', remedy, since: ago(900), not_ready: 'stopped', position_time: ago(80 * 3600) }), 'stopped', ['may not read the topic', `What to do: ${remedy}`, 'now']],
        [stream(8, '/data/EverythingChangeEvent', {
            jobs: [job({}), job({ job: 'gap-1', snapshot: false, whole: false, entity: 'Contact', rows_reread: 3, records_expected: undefined, waits_for: 'API requests are used up', remedy: 'wait' })],
            snapshots: [{ job: 'snapshot-0', entity: 'User', opened_at: ago(300), finished_at: ago(240), rows: 512, deletes: 0, unread: 2 }],
            completion: { level: 'slowed', records_completed: 900, records_unread: 100, reads: 40, steps_down: 1 },
            messages: { sessions_waiting: 3, oldest_trigger_at: ago(75), conversations_open: 12, conversations_known: 40, conversations_active: 9, conversations_allowed: 500, calls_left: 120, calls_used: 312, calls_allowed: 900, calls_window_seconds: 3600, fetches: 300, entries_written: 4100, redactions_written: 1, sessions_given_up: 0, waits_for: 'The calls for messages of this hour are used up', remedy: 'it is tried again' },
            polls: [
                { entity: 'CaseComment', from: ago(960), read_to: ago(30), rounds: 41, rows: 1210, deletes: 3 },
                { entity: 'Holiday', rounds: 0, rows: 0, deletes: 0, waits_for: 'The user may not read Holiday', remedy: 'grant Read on it' }
            ],
            gaps_open: { gap_event: 2, overflow: 1 }, gaps_opened: 9, gaps_healed: 5, gaps_given_up: 1, dead_letters: 4, reconnects: { silence: 2, ended: 5 }, fenced: 1,
            reconcile: { runs: 3, failures: 1, last_run_at: ago(4000), last_error: { at: ago(10), what: 'REST does not answer', remedy: 'look at the network' }, entities: { Case: { judged: 5100, findings: { missing: 2, stale: 0 } } }, silence: { Case: { silent: true, rows_changed: 44, remedy: 'Setup > Change Data Capture' } } },
            last_error: { at: ago(100), what: 'A conversation is not there for the user', remedy: 'nothing' }
        }), 'running', ['7,400 of 20,000', 'User: 512 records', 'fewer calls', '2 gap_event, 1 overflow', '4 dead letters', '2 missing', '44 records changed', 'waits: API requests are used up', '2 silence, 5 ended', 'A conversation is not there',
            'CaseComment: all that was changed up to', '1,210 records, 3 deletes in 41 looks', 'Holiday: not looked at yet', 'Waits: The user may not read Holiday What to do: grant Read on it']]
    ];
}

export function journal() {
    const entry = (id, weight, what, more = {}) => ({ id, number: id, since: ago(900 - id), at: ago(600 - id), times: 1, part: '/data/CaseChangeEvent', kind: 'state', weight, what, remedy: '', ...more });
    return [
        entry(1, 'good', 'running'), entry(2, 'note', 'call ended (silence)', { times: 14 }), entry(3, 'warning', 'entry opened in the gap ledger (gap_event)', { remedy: 'casewire gaps --open lists them' }),
        entry(4, 'bad', 'stopped: The user may not read the topic', { remedy: 'Setup > Permission Sets' })
    ];
}

/** Every text of a value with markup in it, except those that the page goes by. */
export function withMarkup(value, name = '') {
    const plain = ['state', 'topic', 'level', 'weight', 'kind', 'run_id'];
    if (typeof value === 'string') {
        return plain.includes(name) || /^\d{4}-\d\d-\d\dT/.test(value) ? value : `${value} ${MARKUP}`;
    }
    if (Array.isArray(value)) {
        return value.map((one) => withMarkup(one, name));
    }
    if (value && typeof value === 'object') {
        const open = ['gaps_open', 'entities', 'silence', 'reconnects', 'findings'].includes(name);
        return Object.fromEntries(Object.entries(value).map(([key, one]) => [open ? `${key} ${MARKUP}` : key, withMarkup(one, key)]));
    }
    return value;
}
