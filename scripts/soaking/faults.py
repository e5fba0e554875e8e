"""What each fault of the plan does. Most only begin something and leave it to casewire; what needs a known state settles first."""

import time

from .casewire import SILENCE_LIMIT

OBJECTS = ("Case", "MessagingSession", "MessagingEndUser", "Installation__c")


def inflict(scene, kind):
    """Inflicts a fault of the plan, and counts it."""
    ACTIONS[kind](scene)
    scene.inflicted[kind] += 1


# --- processes -------------------------------------------------------------------------------------


def process_kill(scene):
    scene.delivered_some(20, 200, 1.5)
    scene.forget("process")
    scene.kill(scene.current)
    if scene.dice.random() < 0.3:
        scene.pass_time(time.monotonic() + scene.dice.uniform(0.0, 2.0))
    scene.start()


def process_freeze(scene):
    scene.end("process")
    scene.delivered_some(20, 200, 1.0)
    frozen = scene.current
    frozen.freeze()
    scene.last("process", scene.dice.uniform(1.0, 15.0), frozen.thaw)


def orderly_restart(scene):
    scene.end("process")
    scene.delivered_some(20, 200, 1.0)
    scene.current.terminate()
    scene.start()


def take_over(scene):
    scene.settle()
    first = scene.current
    scene.delivered_some(50, 200, 2.0)
    first.freeze()
    scene.start()
    second = scene.current
    scene.wait("the second instance to write every stream", lambda: scene.follower.is_written_by(second.run_id))
    scene.org.generate(scene.dice.randint(20, 100))
    first.thaw()

    def stands_by():
        # What it is sent it tries to commit, and that is how it notices.
        scene.org.one_on_each_stream()
        time.sleep(0.3)
        return first.streams() and all(stream["state"] == "standby" for stream in first.streams())

    scene.wait("the first instance to stand by", stands_by)
    scene.kill(first)
    if scene.dice.random() < 0.5:
        scene.delivered_some(20, 100, 2.0)
        scene.kill(second)
        scene.start()


# --- the broker ------------------------------------------------------------------------------------


def broker_kill(scene):
    scene.broker_up()
    scene.delivered_some(20, 200, 1.5)
    scene.broker.crash()
    scene.kills += 1
    scene.last("broker", scene.dice.uniform(0.0, 3.0), scene.restart_broker)


def broker_freeze(scene):
    scene.broker_up()
    scene.delivered_some(20, 200, 1.0)
    scene.broker.freeze()
    scene.last("broker", scene.dice.uniform(1.0, 14.0), scene.broker.thaw)


def slow_disk(scene):
    scene.broker_up()
    scene.measure(scene.usual, 5)
    delay = scene.dice.uniform(0.02, 0.4)
    scene.broker.slow_disk(delay)
    took = []
    scene.measure(took, 30)
    scene.slowed += [(delay, seconds) for seconds in took]
    scene.last("broker", scene.dice.uniform(4.0, 15.0), lambda: scene.broker.slow_disk(0))


# --- the network and the organisation --------------------------------------------------------------


def simply(kind):
    def action(scene):
        scene.delivered_some(1, 100, 0.5)
        scene.org.fault(kind)

    return action


def stream_error(scene):
    scene.org.fault("fail-streams", status=13, error_code="service.unavailable", message="The service is unavailable. Try again later.")


def silence(scene):
    scene.org.fault("silence")
    scene.last("silence", SILENCE_LIMIT + scene.dice.uniform(1.0, 3.0), lambda: scene.org.fault("speak"))


def unreachable(scene):
    scene.org.fault("unreachable")
    scene.last("unreachable", scene.dice.uniform(1.0, 6.0), lambda: scene.org.fault("reachable"))


def need_a_token(scene):
    scene.org.fault("revoke-tokens")
    scene.org.fault("end-streams")


def http_5xx(scene):
    scene.org.fault("fail-http", status=scene.dice.choice((500, 503)), times=scene.dice.randint(1, 3))
    need_a_token(scene)


def sign_in_refused(scene):
    scene.org.fault("refuse-sign-in", error="server_error", description="try again", status=500, times=scene.dice.randint(1, 2))
    need_a_token(scene)


def add_field(scene):
    scene.added += 1
    entity = scene.dice.choice(OBJECTS)
    scene.org.fault("add-field", entity=entity, field=f"Added_{scene.added}__c")
    scene.org.publish(entity, "CREATE")


def schema_refused(scene):
    scene.org.fault("fail-get-schema", status=14, error_code="schema.api.unavailable", times=scene.dice.randint(1, 3))
    add_field(scene)


def schema_change(scene):
    if scene.dice.random() < 0.8:
        add_field(scene)
        return
    scene.added += 1
    entity = scene.dice.choice(OBJECTS)
    scene.org.fault("add-change-type", entity=entity, symbol=f"ADDED_{scene.added}")
    scene.org.publish(entity, "CREATE")


def poison(scene):
    events = scene.dice.randint(1, 3)
    scene.org.fault("poison", events=events)
    scene.org.generate(events + scene.dice.randint(0, 20))


def redelivery(scene):
    scene.delivered_some(10, 100, 1.0)
    scene.org.fault("redeliver", events=scene.dice.randint(1, 60))
    scene.org.fault(scene.dice.choice(("cut-streams", "end-streams")))


def shared_ids(scene):
    created = [scene.org.publish("MessagingEndUser", "CREATE") for _ in range(scene.dice.randint(10, 60))]
    ids = [identifier for lines in created for identifier in lines[0]["record_ids"]]
    before = scene.org.stats()["events_sent"]
    scene.org.publish("MessagingEndUser", "UPDATE", record_ids=ids, fields={"Name": f"shared {len(ids)}"})
    until = time.monotonic() + 0.3
    wanted = before + scene.dice.randint(1, len(ids))
    while scene.org.stats()["events_sent"] < wanted and time.monotonic() < until:
        time.sleep(0.001)
    scene.org.fault("cut-streams")


def permission_lost(scene):
    scene.settle()
    topic = "/data/CaseChangeEvent"
    casewire = scene.current
    scene.org.fault("deny", entity="Case")
    stopped = lambda: any(stream["topic"] == topic and stream["state"] == "stopped" for stream in casewire.streams())  # noqa: E731
    scene.wait("the stream to stop for want of a permission", stopped)
    scene.org.fault("allow", entity="Case")
    casewire.terminate()
    scene.start()


# --- what leaves retention -------------------------------------------------------------------------


def retention_lost(scene):
    scene.settle()
    how = scene.dice.choice(("killed", "unreachable", "all read"))
    with scene.quiet():
        if how == "all read":
            scene.cut(moved=False)
            scene.org.fault("cut-streams")
        else:
            away(scene, how)
            scene.org.generate(scene.dice.randint(5, 200))
            scene.cut(moved=False)
            back(scene, how)
        scene.go_on_behind_the_cut()


def away(scene, how):
    """Ends every call, and lets none be made: a call that is open when its events leave retention is told of none."""
    if how == "killed":
        scene.kill(scene.current)
    else:
        scene.org.fault("unreachable")
    scene.wait("every call to have ended", lambda: scene.org.stats()["open_streams"] == 0)


def back(scene, how):
    if how == "killed":
        scene.start()
    else:
        scene.org.fault("reachable")


def org_moved(scene):
    scene.settle()
    killed = scene.dice.random() < 0.5
    with scene.quiet():
        if killed:
            scene.kill(scene.current)
        scene.org.generate(scene.dice.randint(5, 200))
        scene.cut(moved=True)
        if killed:
            scene.start()
        scene.go_on_behind_the_cut()


def clock_shift(scene):
    scene.end("clock")
    seconds = scene.dice.choice((-2, -1, 1, 2))
    scene.org.fault("shift-clock", seconds=seconds)
    scene.last("clock", scene.dice.uniform(5.0, 20.0), lambda: scene.org.fault("shift-clock", seconds=-seconds))


ACTIONS = {
    "process-kill": process_kill,
    "broker-kill": broker_kill,
    "take-over": take_over,
    "process-freeze": process_freeze,
    "orderly-restart": orderly_restart,
    "broker-freeze": broker_freeze,
    "slow-disk": slow_disk,
    "stream-cut": simply("cut-streams"),
    "stream-end": simply("end-streams"),
    "stream-error": stream_error,
    "connection-drop": simply("drop-connections"),
    "go-away": simply("go-away"),
    "black-hole": simply("black-hole"),
    "silence": silence,
    "unreachable": unreachable,
    "token-revoked": need_a_token,
    "http-5xx": http_5xx,
    "sign-in-refused": sign_in_refused,
    "schema-refused": schema_refused,
    "schema-change": schema_change,
    "poison": poison,
    "redelivery": redelivery,
    "shared-ids": shared_ids,
    "permission-lost": permission_lost,
    "retention-lost": retention_lost,
    "org-moved": org_moved,
    "clock-shift": clock_shift,
}
