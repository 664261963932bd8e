"""One sweep against another: what is matched, what is paired, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.comparison import Against, Comparison, Side, Verdict, compare_sweeps, to_json
from pipeline.config import load_study, resolved
from pipeline.errors import UserError
from pipeline.report.comparison import against_table
from pipeline.report.tables import render_text
from pipeline.report.verdicts import against_sentences, verdict_text

from .sweeps import run_here, study_file, vae_sweep_here
from .test_calibration import FACTS, simulated


def side(folder: Path, name: str = "new", *, shift: float = 0.0, sha: str = "ab" * 32, **changes: Any) -> Side:
    """A made-up sweep of two scales, of which `shift` nats were gained by whatever `changes` say."""
    merged: dict[str, Any] = {
        "name": name,
        "scientific": {"scale": ["log_std", "log_variance"], "momentum": [0.0], "latent_dim": [2]},
        "search": {"trials": 5, "startup": 3, "lag": 2, "replicates": 5},
        "compare": {"baseline": {"scale": "log_std"}},
    }
    for section, values in changes.items():
        both = isinstance(values, dict) and section != "scientific" and section in merged
        merged[section] = {**merged[section], **values} if both else values
    path = folder / name
    path.mkdir(exist_ok=True)
    file = study_file(path, **merged)
    if "scientific" in changes:
        written = yaml.safe_load(file.read_text()) | {"scientific": changes["scientific"]}
        file.write_text(
            yaml.safe_dump({key: value for key, value in written.items() if key != "compare"}, sort_keys=False)
        )
    study = load_study(file)
    plain = resolved(study, data_sha256=sha, data_id="digits", **FACTS)
    return Side(name, plain, simulated(study, study.seed, lambda _: shift))


def words(found: Against) -> str:
    return " ".join(against_sentences(found))


class TestMatchedAndPaired:
    def test_same_seed_and_common_streams_are_paired(self, tmp_path: Path) -> None:
        found = compare_sweeps(side(tmp_path, shift=1.0, train={"epochs": 9}), side(tmp_path, "old"))
        assert found.paired and [pair.verdict for pair in found.pairs] == [Verdict.BETTER] * 2
        assert found.differences == ("train.epochs: 4 -> 9",) and not found.unmatched
        for pair in found.pairs:
            assert pair.arm == pair.baseline and pair.difference is not None and pair.difference.method == "t"
            assert pair.difference.mean == pytest.approx(1.0) and pair.probability is not None
            assert pair.probability.value == 1.0 and pair.level == {} and pair.context["momentum"] == 0.0
        assert "new minus old" in words(found) and "paired: both sweeps drew the same random numbers" in words(found)
        assert "better than old by 1.00 nats" in words(found)

    def test_a_sweep_against_itself_is_identical(self, tmp_path: Path) -> None:
        one = side(tmp_path)
        found = compare_sweeps(one, one)
        assert {pair.verdict for pair in found.pairs} == {Verdict.IDENTICAL} and not found.differences

    @pytest.mark.parametrize(
        "changes", [{"seed": 1, "data": {"split_seed": 0}}, {"search": {"streams": "independent"}}]
    )
    def test_other_random_numbers_are_not_paired(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        old = side(tmp_path, "old", data={"name": "digits", "split": [150, 70, 50], "split_seed": 0})
        found = compare_sweeps(side(tmp_path, shift=9.0, **changes), old)
        assert not found.paired and "Welch" in words(found)
        assert ("measured with other noise" in words(found)) == ("seed" in changes)
        for pair in found.pairs:
            assert pair.difference is not None and pair.difference.method == "welch" and pair.probability is not None
            assert pair.probability.count == 5 and pair.more_replicates is None
            if not pair.difference.hidden:
                assert pair.verdict is Verdict.BETTER

    def test_more_replicates_there_than_here(self, tmp_path: Path) -> None:
        old = side(tmp_path, "old", search={"replicates": 7})
        found = compare_sweeps(side(tmp_path), old)
        assert found.paired and {pair.verdict for pair in found.pairs} == {Verdict.IDENTICAL}
        assert "search.replicates: 7 -> 5" in found.differences

    def test_a_value_that_is_a_factor_there_and_fixed_here(self, tmp_path: Path) -> None:
        """Arms agree in all factors of either sweep; the rest has no match."""
        there = {"scale": ["log_std"], "momentum": [0.0], "latent_dim": [2]}
        here = {"scale": ["log_std", "raw_std"], "momentum": [0.0]}
        new = side(tmp_path, scientific=here, model={"hidden": [21], "latent_dim": 2})
        found = compare_sweeps(new, side(tmp_path, "old", scientific=there))
        assert len(found.pairs) == 1 and len(found.unmatched) == 1 and "raw_std" in found.unmatched[0]
        text = render_text(against_table(found))
        assert "without a match: new: scale=raw_std" in text and "there scale=log_std" in " ".join(text.split())

    def test_other_numerics_are_named(self, tmp_path: Path) -> None:
        old = replace(side(tmp_path, "old"), fingerprint={"torch": "2.12", "device": "cpu"})
        new = replace(side(tmp_path), fingerprint={"torch": "2.13", "device": "cpu"})
        assert compare_sweeps(new, old).differences == ("numerics.torch: 2.12 -> 2.13",)

    def test_lost_repeats_come_first_and_provisional_is_said(self, tmp_path: Path) -> None:
        new, old = side(tmp_path), side(tmp_path, "old")
        comparison = replace(old.comparison, missing_repeats=3)
        found = compare_sweeps(new, replace(old, comparison=comparison))
        assert against_sentences(found)[1].startswith("Provisional: 3 repeats")
        assert verdict_text(found).plain == "\n".join(against_sentences(found))


class TestRefused:
    def test_other_data(self, tmp_path: Path) -> None:
        new = side(tmp_path, sha="cd" * 32, data={"name": "digits", "form": "binarised", "split": [150, 70, 50]})
        with pytest.raises(UserError, match=r"same test images.*data.form counts -> binarised.*again"):
            compare_sweeps(new, side(tmp_path, "old"))
        with pytest.raises(UserError, match="the pixels themselves"):
            compare_sweeps(side(tmp_path, sha="ef" * 32), side(tmp_path, "old"))

    def test_other_densities(self, tmp_path: Path) -> None:
        sides = [side(tmp_path, name, shift=i) for i, name in enumerate(("new", "old"))]
        for one, name in zip(sides, ("gaussian", "gaussian_learned"), strict=True):
            arms = tuple(replace(arm, likelihoods=(name,)) for arm in one.comparison.arms)
            object.__setattr__(one, "comparison", replace(one.comparison, arms=arms))
            assert isinstance(one.study, dict)
            one.study["data"]["kind"] = "real"
        with pytest.raises(UserError, match=r"gaussian and gaussian_learned.*same model.likelihood"):
            compare_sweeps(*sides)

    def test_densities_of_dequantised_counts_can_be_compared(self, tmp_path: Path) -> None:
        sides = [side(tmp_path, name, shift=i) for i, name in enumerate(("new", "old"))]
        for one, name in zip(sides, ("gaussian", "continuous_bernoulli"), strict=True):
            arms = tuple(replace(arm, likelihoods=(name,)) for arm in one.comparison.arms)
            object.__setattr__(one, "comparison", replace(one.comparison, arms=arms))
            assert isinstance(one.study, dict)
            one.study["data"] |= {"kind": "real", "bins": 17}
        assert {pair.verdict for pair in compare_sweeps(*sides).pairs} <= {Verdict.BETTER, Verdict.WORSE}

    def test_no_common_arm(self, tmp_path: Path) -> None:
        old = side(tmp_path, "old", scientific={"scale": ["raw_std"], "momentum": [0.0], "latent_dim": [2]})
        with pytest.raises(UserError, match="no arm of new has the values of one of old"):
            compare_sweeps(side(tmp_path), old)


class TestShown:
    @pytest.mark.parametrize("width", [80, 100, 120])
    def test_table_fits(self, tmp_path: Path, width: int) -> None:
        found = compare_sweeps(side(tmp_path, shift=0.3, train={"epochs": 9}), side(tmp_path, "old"))
        lines = render_text(against_table(found, width), width).splitlines()
        assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
        assert lines[0] == "differs (old -> new):" and lines[1] == "  train.epochs: 4 -> 9"

    def test_json(self, tmp_path: Path) -> None:
        found = compare_sweeps(side(tmp_path), side(tmp_path, "old"))
        content = json.loads(to_json(found))
        assert content["version"] == 2 and content["against"] == "old" and len(content["pairs"]) == 2
        assert to_json(found) == to_json(compare_sweeps(side(tmp_path), side(tmp_path, "old")))


def test_the_verb(tmp_path: Path) -> None:
    """Two real sweeps of one working directory."""
    small: dict[str, Any] = {
        "scientific": {"scale": ["log_std", "log_variance"], "latent_dim": [2]},
        "search": {"trials": 2, "startup": 2, "lag": 1, "replicates": 2},
        "confirm": {"candidates": 1, "repeats": 1},
    }
    work = tmp_path / "work"
    comparisons: list[Comparison] = []
    for name, batch in (("one", 50), ("two", 75)):
        (tmp_path / name).mkdir()
        file = study_file(tmp_path / name, name=name, train={"epochs": 1, "batch_size": batch}, **small)
        comparisons.append(run_here(file, work, slots=8).comparison)
    code, out, _ = vae_sweep_here("compare", "one", "--against", "two", "--workdir", work)
    assert code == 0 and "train.batch_size: 75 -> 50" in out and "one minus two" in " ".join(out.split())
    code, out, _ = vae_sweep_here("compare", "one", "--against", "two", "--json", "--workdir", work)
    assert code == 0 and json.loads(out)["paired"] and json.loads(out)["differences"] == ["train.batch_size: 75 -> 50"]
    code, out, _ = vae_sweep_here("compare", "one", "--all-pairs", "--workdir", work)
    assert code == 0 and "All pairs" in out
    code, out, _ = vae_sweep_here("compare", "one", "--all-pairs", "--json", "--workdir", work)
    assert code == 0 and len(json.loads(out)["all_pairs"]) == 1
    code, _, error = vae_sweep_here("compare", "one", "--against", "three", "--workdir", work)
    assert code == 2 and "'three'" in error and "one, two" in error
    code, _, error = vae_sweep_here("compare", "one", "--against", "two", "--all-pairs", "--workdir", work)
    assert code == 2 and "without --all-pairs" in error
