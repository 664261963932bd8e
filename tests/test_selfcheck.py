"""selfcheck: all oracles hold, each of them can fail, and the verb says what failed."""

from __future__ import annotations

import json
import math
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from pipeline.paths import WorkPaths
from pipeline.report.page import report_page
from pipeline.selfcheck import ORACLES, Line, Oracle, examine
from pipeline.selfcheck import linear as linear_vae
from pipeline.vae import aggregate, likelihoods, objectives, posterior
from pipeline.vae.scales import SCALES, Scale

from .sweeps import run_here, study_file, vae_sweep_here

SHORT: dict[str, Any] = {
    "train": {"epochs": 1},
    "search": {"trials": 1, "startup": 1, "replicates": 1},
    "confirm": {"candidates": 1, "candidate_seeds": 1, "repeats": 1},
}


def failing(name: str) -> list[str]:
    (found,) = examine({name: ORACLES[name]})
    assert found.error == ""
    return [line.what for line in found.lines if not line.holds]


@pytest.mark.parametrize("name", ORACLES)
def test_holds(name: str) -> None:
    assert failing(name) == []
    assert len(ORACLES[name].claim.splitlines()) == 1 and ORACLES[name].claim.endswith(".")


def test_they_are_all_of_them() -> None:
    assert list(ORACLES) == [f"O{number}" for number in range(1, 26)]


def scale(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    monkeypatch.setitem(cast(MutableMapping[str, Scale], SCALES), name, replace(SCALES[name], **changes))


def wrong_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch, "log_variance", jacobian=lambda a: torch.full_like(a, 0.5001))


def wrong_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch, "log_precision", jacobian=lambda a: torch.full_like(a, -0.5001))


def wrong_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    def kl(self: posterior.Diagonal) -> Tensor:
        return 0.5 * (self.mean**2 + self.sigma**2 - 1) - 0.999 * self.log_sigma

    monkeypatch.setattr(posterior.Diagonal, "kl", kl)


def wrong_density(monkeypatch: pytest.MonkeyPatch) -> None:
    def log_q(self: posterior.Diagonal, z: Tensor) -> Tensor:
        return ((z - self.mean) / self.sigma) ** 2 * -0.49 - self.log_sigma - posterior.HALF_LOG_2PI

    monkeypatch.setattr(posterior.Diagonal, "log_q", log_q)


def naive_softplus(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(a: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.nn.functional.softplus(a)
        return sigma, sigma.log()

    scale(monkeypatch, "softplus_std", forward=forward)


def wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(x: Tensor, output: Tensor, std: Tensor, log_std: Tensor) -> Tensor:
        return (((x - output) / std) ** 2 * -0.5 - 1.001 * log_std).sum(-1)

    monkeypatch.setattr(likelihoods, "_gaussian_kernel", kernel)


def wrong_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = objectives.OBJECTIVES["beta"]
    changed = replace(entry, loss=lambda draws, n: draws.distortion() + draws.rate().sum(-1) * n["beta"] ** 2)
    monkeypatch.setitem(cast(MutableMapping[str, Any], objectives.OBJECTIVES), "beta", changed)


def attached_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "detached", lambda q: q)


def coarse_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihoods, "SERIES_BELOW", 3.0)


def closed_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = likelihoods.DiscretizedLogistic.log_kernel

    def kernel(self: likelihoods.DiscretizedLogistic, x: Tensor, output: Tensor, hyper: Any) -> Tensor:
        return plain(self, x.clamp(0.1, self.levels - 0.1), output, hyper)

    monkeypatch.setattr(likelihoods.DiscretizedLogistic, "log_kernel", kernel)


def few_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = aggregate.code_information
    monkeypatch.setattr(aggregate, "code_information", lambda c, f, s: plain(c, f.clamp_max(19), [20] * len(s)))


def unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_vae, "STEPS", 50)


def wrong_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihoods.Binomial, "log_base", lambda self, x: x.sum(-1) * 0)


def other_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    linear_vae._digits.cache_clear()
    monkeypatch.setattr("pipeline.selfcheck.linear.load_named", lambda name: _noisy())


def _noisy() -> Any:
    from pipeline.data.loaders import load_named

    raw = load_named("digits")
    return replace(raw, parts=(raw.parts[0][::2] * 1.01,))


def wrong_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math, "lgamma", lambda x: 0.0)


def wrong_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch, "log_variance", forward=lambda a: ((a * 0.5000001).exp(), a * 0.5000001))


def unweighted_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(posterior.POSTERIORS["natural"], posterior=posterior.diagonal)
    monkeypatch.setitem(cast(MutableMapping[str, Any], posterior.POSTERIORS), "natural", entry)


def wrong_correlation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cov", lambda codes: codes @ codes.T + torch.eye(len(codes), dtype=codes.dtype))


CAN_FAIL = {
    "O1": wrong_slope, "O2": wrong_slope, "O3": wrong_sign, "O4": other_spectrum, "O5": wrong_kl, "O6": wrong_kl,
    "O7": wrong_kl, "O8": unfinished, "O9": wrong_weight, "O10": attached_score, "O11": wrong_density,
    "O12": wrong_density, "O13": coarse_series, "O14": closed_bins, "O15": wrong_kernel, "O16": wrong_kl,
    "O17": wrong_density, "O18": wrong_slope, "O19": wrong_correlation, "O20": unweighted_mean, "O21": wrong_constant,
    "O22": naive_softplus, "O23": few_bins, "O24": wrong_base, "O25": wrong_scale,
}  # fmt: skip
"""a mistake for each, which it must see"""
LONG = {"O1", "O2", "O3", "O8"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in ORACLES]
)
def test_can_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    CAN_FAIL[name](monkeypatch)
    try:
        assert failing(name) != []
    finally:
        linear_vae._digits.cache_clear()


def test_lines_say_how_far_off_they_are() -> None:
    assert Line("", 1.0, 1.1, 0.2).holds and not Line("", 1.0, 1.3, 0.2).holds
    assert Line("", 1.0, -5.0, 0.0, "at most").holds and not Line("", 1.0, 1.5, 0.1, "at most").holds
    assert Line("", 1.0, 5.0, 0.0, "at least").holds and not Line("", 1.0, 0.5, 0.1, "at least").holds
    assert not Line("", 0.0, math.nan, 1e9).holds and not Line("", 0.0, math.inf, 1e9).holds
    assert Line("", 0.0, 0.0, 0.0).holds


def test_what_raises_does_not_hold() -> None:
    def broken() -> list[Line]:
        raise RuntimeError("no such kernel")

    (found,) = examine({"X": Oracle("It works.", broken)})
    assert not found.holds and found.error == "RuntimeError: no such kernel" and found.shown is None


def test_the_verb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # What fails here is noted in the cache; the other tests' reports must not warn of it.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, _ = vae_sweep_here("selfcheck", "--only", "O16", "--only", "O20")
    assert code == 0 and "2 of 2 oracles hold" in out and "O16" in out and "O20" in out
    code, out, _ = vae_sweep_here("selfcheck", "--only", "O16", "--json")
    (facts,) = json.loads(out)
    assert code == 0 and facts["holds"] and len(facts["lines"]) == 4 * len(SCALES)
    wrong_kl(monkeypatch)
    code, out, _ = vae_sweep_here("selfcheck", "--only", "O16", "--all")
    assert code == 1 and "FAILS" in out and "0 of 1 oracles hold" in out
    code, _, err = vae_sweep_here("selfcheck", "--only", "O26")
    assert code == 2 and "O26" in err


def test_a_failed_oracle_is_a_warning_on_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = run_here(study_file(tmp_path, **SHORT), tmp_path / "work")
    assert results.sweep.fingerprint is not None, "the banner asks for the numerics that trained the sweep"

    def page() -> str:
        return report_page(results, WorkPaths.at(tmp_path / "work"))

    sound = page()
    with monkeypatch.context() as broken:
        wrong_kl(broken)
        assert vae_sweep_here("selfcheck", "--only", "O16", "--only", "O20")[0] == 1
    warned = page()
    assert "Selfcheck failed" not in sound and "Selfcheck failed" in warned and "O16 failed" in warned
    assert vae_sweep_here("selfcheck", "--only", "O20")[0] == 0
    assert page() == warned, "another oracle says nothing of it"
    other = replace(results, sweep=replace(results.sweep, fingerprint={"torch": "another"}))
    assert "Selfcheck failed" not in report_page(other, WorkPaths.at(tmp_path / "work"))
    assert vae_sweep_here("selfcheck", "--only", "O16")[0] == 0
    assert page() == sound
