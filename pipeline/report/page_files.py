"""The evidence that lies in trials' curves and files: learning curves, σ histograms, pictures.

Reads files of trials below a working directory; one that is missing is said to be missing. Computes sums and means.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..paths import WorkPaths
from ..records import ENDED, Phase, State, TrialRecord
from ..results import Results
from . import figures
from .page_parts import MISSING, Picture, Pictures, Section, number
from .page_sections import arm_table, charts, name_of
from .panels import level_of, panels

SIGMA_FILE = "sigma_histogram.json"
MOST_PICTURE_BYTES = 1_500_000
"""of all pictures together, before base64 makes four bytes of three"""
CURVE = "val/elbo"


def learning(results: Results) -> Section:
    """Whether the trainings were long enough."""
    comparison, title = results.comparison, "Learning curves"
    curves = {arm.id: _mean_curve([r.outcome.curves.get(CURVE, ()) for r in _converged(results, arm.id) if r.outcome])
              for arm in comparison.arms}  # fmt: skip
    curves = {arm: values for arm, values in curves.items() if len(values) > 1}
    if not curves:
        return Section("learning", title, "No repeat has converged yet.")
    gains = {arm: values[-1] - values[-1 - max(len(values) // 10, 1)] for arm, values in curves.items()}
    rising = [arm for arm, gain in gains.items() if gain > comparison.margin_nats]
    margin = f"{comparison.margin_nats:g} nats"
    reading = (
        f"In {len(rising)} of {len(curves)} arms the last tenth of the epochs still gained more than {margin}: "
        "these are compared before they have converged."
        if rising
        else f"In no arm did the last tenth of the epochs gain more than {margin}: the trainings were long enough."
    )
    label = "Mean validation value of the repeats by epoch"
    drawn = charts(comparison, "learning", label, lambda c: figures.learning_curves(comparison, curves, only=c))
    last = max(map(len, curves.values())) - 1
    places = sorted({round(i * last / 10) for i in range(11)})
    rows = {
        arm: (*(number(values[at]) if at < len(values) else MISSING for at in places), number(gains[arm], signed=True))
        for arm, values in curves.items()
    }
    columns = (*(f"epoch {at + 1}" for at in places), "gain of the last tenth")
    table = arm_table(comparison, "Mean val/elbo of the repeats, nats per image", columns, rows)
    return Section("learning", title, reading, charts=(drawn,), tables=(table,))


def _mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    known = [curve for curve in curves if curve and all(map(math.isfinite, curve))]
    epochs = min(map(len, known), default=0)
    return [math.fsum(curve[i] for curve in known) / len(known) for i in range(epochs)]


def sigmas(results: Results, paths: WorkPaths) -> Section:
    """How wide the posteriors are."""
    comparison, title = results.comparison, "Posterior σ"
    found = {arm.id: _histogram(results, arm.id, paths) for arm in comparison.arms}
    histograms = {arm: histogram for arm, histogram in found.items() if histogram is not None}
    if not histograms:
        return Section("sigma", title, "The repeats have kept no histogram of σ.")
    medians = {arm: _quantiles(*histogram) for arm, histogram in histograms.items()}
    lowest = min(medians, key=lambda arm: medians[arm][2])
    highest = max(medians, key=lambda arm: medians[arm][2])
    reading = (
        f"Median σ goes from {medians[lowest][2]:.2g} ({name_of(comparison, lowest)}) to {medians[highest][2]:.2g} "
        f"({name_of(comparison, highest)}). A peak at σ = 1 is a latent that carries nothing (the prior)."
    )
    label = "Spread of the posterior's σ over test images and latents"
    drawn = charts(comparison, "sigma", label, lambda c: figures.sigma_histograms(comparison, histograms, only=c))
    rows = {arm: tuple(f"{value:.3g}" for value in values) for arm, values in medians.items()}
    table = arm_table(comparison, "Quantiles of σ, to the width of a bin", ("5%", "25%", "median", "75%", "95%"), rows)
    return Section("sigma", title, reading, charts=(drawn,), tables=(table,))


def _histogram(results: Results, arm: str, paths: WorkPaths) -> tuple[list[float], list[float]] | None:
    """(edges of log10 σ, counts) over an arm's converged repeats."""
    edges: list[float] = []
    total: list[float] = []
    for record in _converged(results, arm):
        content = _content(record, SIGMA_FILE, results, paths)
        try:
            plain = json.loads(content) if content else {}
            mine, counts = list(map(float, plain["log10_edges"])), list(map(float, plain["counts"]))
        except (ValueError, KeyError, TypeError):
            continue
        if not edges:
            edges, total = mine, [0.0] * len(counts)
        if mine == edges and len(counts) == len(edges) - 1:
            total = [a + b for a, b in zip(total, counts, strict=True)]
    return (edges, total) if sum(total) else None


def _quantiles(edges: Sequence[float], counts: Sequence[float]) -> tuple[float, ...]:
    """5%, 25%, 50%, 75% and 95% of σ, by the middles of the bins."""
    found, so_far, wanted = [], 0.0, [0.05, 0.25, 0.5, 0.75, 0.95]
    for low, high, amount in zip(edges[:-1], edges[1:], counts, strict=True):
        so_far += amount
        while wanted and so_far >= wanted[0] * sum(counts):
            found.append(10 ** ((low + high) / 2))
            wanted.pop(0)
    return tuple(found)


def pictures(results: Results, paths: WorkPaths) -> Section:
    """Samples of every arm from the same z, then reconstructions and traversals, as far as there is room."""
    comparison = results.comparison
    left = MOST_PICTURE_BYTES
    groups = []
    for title, file, words in (
        ("Samples from the prior", "samples.png", "Grid of samples from the prior"),
        ("Reconstructions: each row of test images above its copies", "reconstructions.png", "Test images and copies"),
        (
            "Traversals: a row for each latent from −3 to 3, all others 0, the highest rate on top",
            "traversals.png",
            "Images while one latent changes",
        ),
    ):
        for panel in panels(comparison):
            row = []
            for arm in panel.arms:
                content, why = _first(results, arm.id, file, paths)
                if content and len(content) > left:
                    content, why = None, "left out: the page would get too large"
                left -= len(content or b"")
                source = f"data:image/png;base64,{base64.b64encode(content).decode()}" if content else ""
                level = level_of(arm, comparison.factors)
                row.append(Picture(level, f"{words}, {name_of(comparison, arm.id)}", source, why))
            groups.append(Pictures(f"{title}, {panel.title}" if panel.title else title, tuple(row)))
    reading = (
        "Every arm's samples are decoded from one bank of z, so that the same place in two pictures of one latent size "
        "is the same z. Of each arm: the first repeat of its first search that converged."
    )
    return Section("samples", "Samples side by side", reading, pictures=tuple(groups))


def _first(results: Results, arm: str, file: str, paths: WorkPaths) -> tuple[bytes | None, str]:
    """The file of the arm's first converged repeat, or why there is none."""
    records = list(_converged(results, arm))
    if not records:
        return None, "no converged repeat"
    content = _content(records[0], file, results, paths)
    return content, "" if content else "the file is missing"


def _converged(results: Results, arm: str) -> Iterator[TrialRecord]:
    lost = {State.DIVERGED, State.FAILED}
    for record in results.records:
        if record.key.arm == arm and record.key.phase is Phase.REPEAT and record.state in ENDED - lost:
            yield record


def _content(record: TrialRecord, file: str, results: Results, paths: WorkPaths) -> bytes | None:
    if file not in record.files:
        return None
    path: Path = paths.trial(results.sweep.name, record.key) / file
    try:
        return path.read_bytes()
    except OSError:
        return None
