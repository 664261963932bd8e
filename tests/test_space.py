"""Arms, hyperparameters, seeds and counts of a study, and what makes two studies one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import HYPERPARAMETERS, DataSection, ModelSection, Study, TrainSection, load_study, resolved
from pipeline.packed.structure import STRUCTURAL, Structure, structure_of
from pipeline.records import Phase, Value
from pipeline.space import (
    Arm,
    TrialCounts,
    arms,
    baseline_arm,
    hyperparameters,
    in_flight_limit,
    search_count,
    trial_counts,
    trial_seed,
)
from pipeline.study_file.identity import study_differences, study_hash

HEAD = "version: 1\nname: s\ndata: {name: digits}\n"


def study(folder: Path, text: str, *sets: str) -> Study:
    file = folder / "study.yaml"
    file.write_text(HEAD + text)
    return load_study(file, sets)


@pytest.fixture
def two_factors(tmp_path: Path) -> Study:
    return study(
        tmp_path,
        "scientific: {scale: [log_variance, log_std], latent_dim: [2, 8]}\n"
        "nuisance: {learning_rate: {low: 1e-4, high: 1e-2, log: true}}\n",
    )


def test_arms_come_in_file_order_with_readable_labels(two_factors: Study) -> None:
    assert [arm.label for arm in arms(two_factors)] == [
        "scale=log_variance latent_dim=2",
        "scale=log_variance latent_dim=8",
        "scale=log_std latent_dim=2",
        "scale=log_std latent_dim=8",
    ]


def test_an_arms_identity_is_its_values_not_its_place(two_factors: Study, tmp_path: Path) -> None:
    turned = study(tmp_path, "scientific: {latent_dim: [8, 4, 2], scale: [log_std, log_variance]}\n")
    ids = {arm.id for arm in arms(two_factors)}
    assert len(ids) == 4
    assert ids < {arm.id for arm in arms(turned)}


def test_a_study_without_factors_has_one_arm(tmp_path: Path) -> None:
    (arm,) = arms(study(tmp_path, "nuisance: {epochs: {low: 1, high: 5}}\n"))
    assert (arm.values, arm.label) == ({}, "(one arm)")


def test_layer_widths_make_readable_arms(tmp_path: Path) -> None:
    labels = [arm.label for arm in arms(study(tmp_path, "scientific: {hidden: [[64, 32], []]}\n"))]
    assert labels == ["hidden=64-32", "hidden=none"]


def test_the_baseline_keeps_the_other_factors(two_factors: Study) -> None:
    by_label = {arm.label: arm for arm in arms(two_factors)}
    baseline = baseline_arm(two_factors, by_label["scale=log_std latent_dim=8"])
    assert baseline == by_label["scale=log_variance latent_dim=8"]
    assert baseline_arm(two_factors, baseline) == baseline


def test_hyperparameters_are_complete_and_the_trial_has_the_last_word(two_factors: Study) -> None:
    values = hyperparameters(two_factors, arms(two_factors)[3], {"learning_rate": 0.005})
    assert set(values) == set(HYPERPARAMETERS)
    declared = {*ModelSection.model_fields, *TrainSection.model_fields}
    assert declared - set(values) == {"seed"}
    assert (values["scale"], values["latent_dim"], values["learning_rate"]) == ("log_std", 8, 0.005)
    assert (values["likelihood"], values["epochs"]) == ("binomial", 50)


def test_structure_is_what_a_pack_must_share(two_factors: Study) -> None:
    first, second, third, _ = arms(two_factors)

    def of(arm: Arm, **params: Value) -> Structure:
        return structure_of(hyperparameters(two_factors, arm, params))

    assert of(first) == of(first, learning_rate=0.1, beta=2.0, epochs=7)
    assert of(first) == of(third)  # another scale shares a pack
    assert of(first) != of(second)  # another latent size does not
    assert {name for name, row in HYPERPARAMETERS.items() if row.structural} == set(STRUCTURAL)


def test_seeds_differ_by_all_but_the_arm(two_factors: Study, tmp_path: Path) -> None:
    keys = [(phase, replicate, index) for phase in Phase for replicate in range(3) for index in range(4)]
    seeds = {trial_seed(two_factors, *key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    other = two_factors.model_copy(update={"seed": 1})
    assert trial_seed(other, Phase.SEARCH, 0, 0) != trial_seed(two_factors, Phase.SEARCH, 0, 0)
    single = study(tmp_path, "train: {seed: 11}\n")
    assert trial_seed(single, Phase.REPEAT, 0, 5) == 11


def test_counts_of_a_whole_sweep(two_factors: Study, tmp_path: Path) -> None:
    assert search_count(two_factors) == 4 * 3
    assert trial_counts(two_factors) == TrialCounts(search=12 * 16, shortlist=12 * 3 * 2, repeat=12 * 3)
    assert trial_counts(two_factors).total == 12 * (16 + 6 + 3)
    nothing_tuned = study(tmp_path, "scientific: {latent_dim: [2, 8]}\n")
    assert trial_counts(nothing_tuned) == TrialCounts(search=6, shortlist=0, repeat=18)
    nuisance = "nuisance: {epochs: {low: 1, high: 50}}\nconfirm: {candidates: 1}\n"
    assert trial_counts(study(tmp_path, nuisance)) == TrialCounts(search=48, shortlist=0, repeat=9)


@pytest.mark.parametrize(
    ("search", "per_search"),
    [
        ("sampler: tpe, trials: 16, startup: 6, lag: 4", 6),
        ("sampler: tpe, trials: 16, startup: 2, lag: 4", 4),
        ("sampler: tpe, trials: 5, startup: 6, lag: 9", 5),
        ("sampler: random, trials: 16", 16),
        ("sampler: qmc, trials: 16", 16),
        ("sampler: random, trials: 16, startup: 3, lag: 5, pruner: median", 5),
        ("sampler: random, trials: 16, startup: 3, lag: 5, pruner: patient", 16),
        ("sampler: gp, trials: 16, startup: 6, lag: 4, pruner: patient", 6),
        ("sampler: cmaes, trials: 16, startup: 3, lag: 4", 4),
        ("sampler: grid", 50),
    ],
)
def test_in_flight_limit_counts_all_searches(search: str, per_search: int, tmp_path: Path) -> None:
    text = f"nuisance: {{epochs: {{low: 1, high: 50}}}}\nsearch: {{replicates: 2, {search}}}\n"
    if "pruner" in search:
        text = text.replace("epochs", "beta_warmup_epochs")
    limit = in_flight_limit(study(tmp_path, text + "confirm: {candidates: 1}\n"))
    assert limit == 2 * per_search


def test_a_study_built_by_hand_needs_no_file() -> None:
    made = Study(version=1, name="m", data=DataSection(name="digits"), scientific={"latent_dim": (2, 4)})
    assert [arm.values for arm in arms(made)] == [{"latent_dim": 2}, {"latent_dim": 4}]
    assert trial_counts(made).search == 2 * 3


def hashed(asked: Study, sha: str = "ab") -> str:
    return study_hash(resolved(asked, data_sha256=sha, data_id="digits:ab"))


SCALES = "scientific: {scale: [log_variance, log_std]}\nnuisance: {momentum: {low: 0, high: 0.9}}\n"


@pytest.mark.parametrize(
    "assignment", ["name=other", "question=why", "compare.baseline.scale=log_variance", "search.trials=16"]
)
def test_equal_questions_have_equal_hashes(assignment: str, tmp_path: Path) -> None:
    assert hashed(study(tmp_path, SCALES)) == hashed(study(tmp_path, SCALES, assignment))


def test_the_order_of_factors_is_no_part_of_the_question(tmp_path: Path) -> None:
    tail = "compare: {baseline: {scale: log_std}}\n"
    one = study(tmp_path, "scientific: {scale: [log_std, raw_std], latent_dim: [2, 8]}\n" + tail)
    other = study(tmp_path, "scientific: {latent_dim: [2, 8], scale: [log_std, raw_std]}\n" + tail)
    assert list(one.scientific) != list(other.scientific)
    assert hashed(one) == hashed(other)


@pytest.mark.parametrize(
    "assignment",
    ["seed=1", "train.epochs=51", "search.lag=3", "nuisance.momentum.high=0.8", "scientific.scale=[log_std]"],
)
def test_other_questions_have_other_hashes_and_say_how(assignment: str, tmp_path: Path) -> None:
    old, new = study(tmp_path, SCALES), study(tmp_path, SCALES, assignment)
    assert hashed(old) != hashed(new)
    before, after = (resolved(asked, data_sha256="ab", data_id="i") for asked in (old, new))
    path = assignment.partition("=")[0]
    assert any(line.startswith(f"{path}: ") and " -> " in line for line in study_differences(before, after))
    assert study_differences(before, before) == []


def test_other_data_are_another_question(tmp_path: Path) -> None:
    asked = study(tmp_path, SCALES)
    assert hashed(asked, "ab") != hashed(asked, "cd")
    before, after = (resolved(asked, data_sha256=sha, data_id="i") for sha in ("ab", "cd"))
    assert json.loads(json.dumps(before)) == before
    assert study_differences(before, after) == ["data.sha256: 'ab' -> 'cd'"]
