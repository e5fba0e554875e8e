"""The soak's own judgement judged: the plan is that of its seed, and each thing that must fail a run does."""

import tempfile
import unittest
from collections import Counter
from pathlib import Path

from . import findings, plan, report
from .faults import ACTIONS

LIMIT = 150 * findings.MEBIBYTE


class ThePlan(unittest.TestCase):
    def test_a_seed_draws_the_same_faults_at_the_same_times(self):
        self.assertEqual(plan.schedule(7, 600), plan.schedule(7, 600))
        self.assertNotEqual(plan.schedule(7, 600), plan.schedule(8, 600))

    def test_an_hour_has_a_hundred_kills_and_three_hundred_other_faults(self):
        drawn = Counter(plan.BY_NAME[fault.kind].kills for fault in plan.schedule(1, 3600))
        self.assertGreaterEqual(drawn[True], 100)
        self.assertGreaterEqual(drawn[False], 300)

    def test_every_kind_comes_at_least_once_in_its_time_and_can_be_done(self):
        drawn = plan.schedule(3, 120)
        self.assertEqual({fault.kind for fault in drawn}, set(ACTIONS))
        self.assertEqual(set(ACTIONS), set(plan.BY_NAME))
        self.assertTrue(all(0 < fault.at < 120 for fault in drawn))
        self.assertEqual([fault.at for fault in drawn], sorted(fault.at for fault in drawn))

    def test_kinds_can_be_chosen_and_left_out(self):
        only = {fault.kind for fault in plan.schedule(3, 600, only=["poison", "silence"], without=["silence"])}
        self.assertEqual(only, {"poison"})


def passed():
    """A run in which all was well."""
    kinds = Counter(dict.fromkeys(plan.BY_NAME, 5))
    seen = {"records of aborted transactions, not visible": 9, "gap entries": 4, "dead letters": 6}
    seen["events lost to retention, owned up to by the gap ledger"] = 3
    return findings.Outcome(
        seed=1,
        seconds=60,
        planned=kinds,
        inflicted=Counter(kinds),
        kills=17,
        peak=50 * findings.MEBIBYTE,
        duplicates=1,
        gaps=4,
        letters=6,
        slowed=[(0.1, 0.12)],
        usual=[0.002],
        stops=["stream stopped error=The permission is missing"],
        reasons=Counter({what: 1 for where, what in findings.TRACES.values() if where == "reasons"}),
        told=Counter({what: 1 for where, what in findings.TRACES.values() if where == "told"}),
        last_life={"written": [2, 3], "counted": [2, 3]},
        verdict={"verdict": "clean", "seen": seen, "faults": {}},
    )


class EachFindingIsOne(unittest.TestCase):
    def red(self, text, **changes):
        outcome = passed()
        for name, value in changes.items():
            setattr(outcome, name, value)
        found = findings.findings(outcome, LIMIT)
        self.assertTrue(any(text in finding for finding in found), found)
        self.assertIn("FAILED", report.as_text(outcome, found))
        self.assertIn("**Failed.**", report.as_markdown(outcome, found, "casewire"))
        self.assertEqual(report.as_json(outcome, found)["result"], "failed")

    def test_a_run_in_which_all_was_well_passes(self):
        outcome = passed()
        self.assertEqual(findings.findings(outcome, LIMIT), [])
        self.assertIn("PASSED", report.as_text(outcome, []))
        self.assertIn("**Passed.**", report.as_markdown(outcome, [], "casewire"))

    def test_what_the_judge_says_counts(self):
        seen = passed().seen
        faults = {"missing record": {"count": 2, "first": ["event 3"]}}
        self.red("missing record: 2", verdict={"verdict": "faulty", "seen": seen, "faults": faults})
        self.red("not judged", verdict=None)
        self.red("The judge saw", verdict={"verdict": "clean", "seen": seen | {"dead letters": 7}, "faults": {}})

    def test_what_breaks_by_itself_counts(self):
        self.red("did not come to its end: Hang", broken="Hang: waited in vain")
        self.red("panicked", panics=["casewire-001.log: thread 'main' panicked at src/main.rs:1"])
        self.red("should stop", stops=["stream stopped error=The checkpoint is lost"])
        self.red("150 MiB are allowed", peak=LIMIT + 1)
        self.red("never seen", peak=0)

    def test_a_permission_is_missed_only_where_one_was_taken_away(self):
        self.red("should stop", planned=Counter({"poison": 5}))

    def test_what_was_not_put_to_the_test_counts(self):
        self.red("poison was inflicted 0 times", inflicted=passed().inflicted - Counter({"poison": 5}))
        self.red("silence was inflicted 5 times and left no trace", reasons=Counter())
        self.red("org-moved was inflicted 5 times and left no trace", told=Counter())
        self.red("no duplicate was dropped", duplicates=0)
        for what, text in {
            "records of aborted transactions, not visible": "inside a transaction",
            "events lost to retention, owned up to by the gap ledger": "no event with it",
        }.items():
            self.red(text, verdict={"verdict": "clean", "seen": passed().seen | {what: 0}, "faults": {}})
        self.red("took 0.050 s", slowed=[(0.1, 0.05)])
        self.red("never measured", slowed=[])

    def test_the_counters_of_casewire_have_to_agree_with_what_it_wrote(self):
        self.red("stand there", last_life={"written": [2, 3], "counted": [2, 2]})
        self.red("stand there", last_life={})
        self.red("too little to compare", last_life={"written": [2, 0], "counted": [2, 0]})


class TheReport(unittest.TestCase):
    def test_a_result_takes_the_place_of_the_one_before(self):
        with tempfile.TemporaryDirectory() as directory:
            page = Path(directory) / "soak.md"
            page.write_text(f"# Soak\n\n{report.MARK}\nof before\n")
            report.write(page, "of now\n")
            self.assertEqual(page.read_text(), f"# Soak\n\n{report.MARK}\nof now\n")
            other = Path(directory) / "other.md"
            report.write(other, "alone\n")
            self.assertEqual(other.read_text(), "alone\n")
