"""How often the intervals of `compare` hold: writes pipeline/comparison/coverage_table.py.

    python -m benchmarks.coverage            about 3 minutes on one core
    python -m benchmarks.coverage --draws 2000

For each distribution and number of values: the share of 95% intervals that hold the true mean, and the skewness that
nine of ten samples stay below. Intervals are those of pipeline/comparison/intervals.py.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.coverage import skewness
from pipeline.comparison.intervals import BOOTSTRAP_COUNT, Sample, sample
from pipeline.records import derive_seed

COUNTS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
ALPHA = 0.05
RESAMPLES = 999
"""fewer than `compare` takes: what that adds to one interval cancels out over many"""
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def _lognormal(sigma: float) -> tuple[Draw, float]:
    return lambda rng, n: rng.lognormal(0.0, sigma, n), math.exp(sigma * sigma / 2)


DISTRIBUTIONS: Mapping[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "t3": (lambda rng, n: rng.standard_t(3, size=n), 0.0),
    "lognormal 0.25": _lognormal(0.25),
    "lognormal 0.5": _lognormal(0.5),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "lognormal 0.75": _lognormal(0.75),
    "lognormal 1": _lognormal(1.0),
}
"""name -> (draw, true mean)"""
SKEWED = tuple(name for name in DISTRIBUTIONS if name != "t3")
"""by rising skewness: 0, 0.8, 1.8, 2, 3.3, 6.2"""

HEAD = '''"""Measured coverage of 95% intervals and skewness of samples; written by benchmarks/coverage.py, not by hand.

{draws} samples each, a fifth of them for the bootstrap: standard errors of at most {error:.1%}. A figure belongs to the
number of values at its place in COUNTS. `lognormal s`: exp(s z), z standard normal.
"""

from __future__ import annotations

from collections.abc import Mapping

'''


def share(found: Sequence[Sample | None], truth: float) -> float:
    """Share of the samples whose interval, given or not, holds the true mean; NaN without samples."""
    held = [abs(one.mean - truth) <= one.quantile(ALPHA) * one.error for one in found if one is not None]
    return sum(held) / len(held) if held else math.nan


def measure(name: str, count: int, draws: int, seed: int = 0) -> tuple[float, float, float]:
    """Coverage of t intervals, of bootstrap intervals (NaN below their least count), and the skewness of samples."""
    draw, truth = DISTRIBUTIONS[name]
    rng = np.random.default_rng(derive_seed("coverage", name, count, seed))
    samples = [[float(value) for value in draw(rng, count)] for _ in range(draws)]
    fewer = samples[: draws // 5 if count >= BOOTSTRAP_COUNT else 0]
    student = [sample(values) for values in samples]
    bootstrap = [sample(values, number, RESAMPLES) for number, values in enumerate(fewer)]
    below = float(np.quantile([skewness(values) for values in samples], 0.9))
    return share(student, truth), share(bootstrap, truth), below


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("pipeline/comparison/coverage_table.py"))
    arguments = parser.parse_args()
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for name in DISTRIBUTIONS:
        rows[name] = [measure(name, count, arguments.draws) for count in COUNTS]
        print(
            name,
            *(f"{n}: {t:.3f} {b:.3f} {s:.2f}" for n, (t, b, s) in zip(COUNTS, rows[name], strict=True)),
            flush=True,
        )
    error = math.sqrt(0.1 * 0.9 / (arguments.draws // 5))
    text = HEAD.format(draws=f"{arguments.draws:,}", error=error)
    text += f"COUNTS = {COUNTS}\nSKEWED = (\n" + "".join(f'    "{name}",\n' for name in SKEWED) + ")\n"
    text += '"""distributions by rising skewness"""\n\n'
    for place, (table, what) in enumerate(
        (
            ("STUDENT", "coverage of t intervals"),
            ("BOOTSTRAP", f"coverage of bootstrap intervals; of t intervals below {BOOTSTRAP_COUNT} values"),
            ("SKEWNESS", "nine of ten samples look less skewed than this"),
        )
    ):
        text += f"{table}: Mapping[str, tuple[float, ...]] = {{\n"
        for name, cells in rows.items():
            shown = [cell[0] if place == 1 and math.isnan(cell[1]) else cell[place] for cell in cells]
            text += f'    "{name}": ({", ".join(f"{value:.3f}" for value in shown)}),\n'
        text += f'}}\n"""{what}"""\n'
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
