"""What a group of phases consists of, and how it is run."""

import statistics
import sys
from dataclasses import dataclass, field

from .commands import Failure


@dataclass(frozen=True)
class Phase:
    """One line of the table."""

    key: str
    title: str
    unit: str
    decimals: int = 2
    # How many times better than the best peer tresor is meant to be; None: just shown.
    ratio: float | None = None
    # What the figure itself must not exceed, whatever the peers do.
    limit: float | None = None
    # How many times better than the program `floor` it is meant to be besides: 1 for no slower.
    floor: float | None = None
    more_is_better: bool = False


@dataclass(frozen=True)
class Step:
    """Figures that are taken together, such as a cold and a warm run on one drive.

    `measure(program)` returns a figure for the key of each of the step's phases, and may
    return some for others, which then count with the largest. A program that can't do it
    returns none. `before()` is called once a round, before the first program.
    """

    name: str
    keys: tuple
    measure: object
    before: object = None


@dataclass
class Results:
    """Figures by program and phase, one for each round, and what went wrong."""

    figures: dict = field(default_factory=dict)
    failures: dict = field(default_factory=dict)
    interrupted: bool = False

    def add(self, program, key, figure):
        self.figures.setdefault(program, {}).setdefault(key, []).append(figure)

    def fail(self, program, keys, why):
        for key in keys:
            self.failures.setdefault(program, {})[key] = why

    def failure(self, program, key):
        return self.failures.get(program, {}).get(key)

    def runs(self, program, key):
        return self.figures.get(program, {}).get(key, [])

    def median(self, program, key):
        """None if the phase was not run, or failed in any round."""
        runs = self.runs(program, key)
        return statistics.median(runs) if runs and not self.failure(program, key) else None

    def spread(self, program, key):
        """How far the runs lie apart, in halves of the median; None for one run."""
        runs, median = self.runs(program, key), self.median(program, key)
        return (max(runs) - min(runs)) / 2 / median if median and len(runs) > 1 else None


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def brief(figures):
    return "  ".join(f"{key} {figure:.4g}" for key, figure in figures.items())


def run_rounds(steps, programs, rounds, results):
    """Each step for all programs before the next one, so that a disturbance of the machine
    meets all of them. A step that has failed is not tried again."""
    for number in range(1, rounds + 1):
        for step in steps:
            if step.before:
                step.before()
            for program in programs:
                if any(results.failure(program.name, key) for key in step.keys):
                    continue
                try:
                    figures = step.measure(program)
                except (Failure, OSError) as failure:
                    results.fail(program.name, step.keys, str(failure))
                    say(f"round {number}  {step.name:<18} {program.name:<12} FAILED: {failure}")
                    continue
                if figures:
                    say(f"round {number}  {step.name:<18} {program.name:<12} {brief(figures)}")
                _keep(results, program.name, step, figures, number)


def _keep(results, program, step, figures, number):
    for key, figure in figures.items():
        runs = results.runs(program, key)
        if key in step.keys or len(runs) < number:
            results.add(program, key, figure)
        else:
            runs[-1] = max(runs[-1], figure)
