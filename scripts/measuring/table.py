"""The rows of the table, and how they are shown."""

import json
from dataclasses import asdict, dataclass, field
from statistics import median

from .machine import Unmeasurable


def percentile(values, share):
    """The value that this share of all do not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise Unmeasurable("nothing was seen of which a percentile could be taken")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Row:
    """One measure. `runs` are the single figures whose median is the value."""

    measure: str
    value: float
    unit: str
    beside: str = ""
    reference: float | None = None
    ratio: float | None = None
    target: str = ""
    reached: bool | None = None
    runs: list = field(default_factory=list)

    @classmethod
    def of(cls, measure, runs, unit, **more):
        return cls(measure, median(runs), unit, runs=runs, **more)

    def at_least(self, least, reference, beside):
        """Compares with the reference: the ratio is to be at least this."""
        self.compare(reference, beside)
        self.target, self.reached = f"≥ {least:.2f}", self.ratio >= least
        return self

    def at_most(self, most, reference, beside, unit=" ×"):
        self.compare(reference, beside)
        self.target, self.reached = f"≤ {most:.2f}{unit}", self.ratio <= most
        return self

    def within(self, most):
        """Compares the value itself."""
        self.target, self.reached = f"≤ {most:g} {self.unit}", self.value <= most
        return self

    def compare(self, reference, beside):
        """Puts it beside the reference without a target."""
        self.reference, self.beside, self.ratio = reference, beside, self.value / reference
        return self

    def cells(self):
        mark = {True: "yes", False: "**no**", None: ""}[self.reached]
        reference = f"{number(self.reference)} {self.unit}, {self.beside}" if self.reference is not None else self.beside
        ratio = f"{self.ratio:.2f}" if self.ratio is not None else ""
        spread = f"{number(min(self.runs))} to {number(max(self.runs))}" if len(self.runs) > 1 else ""
        return [self.measure, f"{number(self.value)} {self.unit}", spread, reference, ratio, self.target, mark]


HEADINGS = ["measure", "median", "from … to", "beside", "ratio", "target", "reached"]


def number(value):
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def terminal(rows):
    table = [HEADINGS] + [row.cells() for row in rows]
    widths = [max(len(line[at]) for line in table) for at in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]).replace("**", "")


def markdown(rows, about):
    lines = [f"{about}", "", "| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    return "\n".join(lines + ["| " + " | ".join(row.cells()) + " |" for row in rows]) + "\n"


def as_json(rows, about):
    return json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1, ensure_ascii=False)
