"""Damaged checkpoints: none is ever taken for what it is not; training then starts from the beginning."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from pipeline.checkpoints import Checkpoints
from pipeline.packed.trainer import Trainer
from pipeline.paths import WorkPaths
from pipeline.records import EpochReport, Phase, TrialKey, TrialTask

from ..kit import drive, numbers, task, tiny_dataset
from .cases import fuzz, sizes
from .values import damaged_trees

EPOCHS = 4
DATA = tiny_dataset(train=20, val=7, test=5, image_shape=(2, 3))


def _trial(number: int, **changes: Any) -> TrialTask:
    return task(number, **{"epochs": EPOCHS, "hidden": (5,), "latent_dim": 2, "batch_size": 11, **changes})


def _trainer() -> Trainer:
    return Trainer(DATA, slots=1, bank_seed=0)


@cache
def _content(number: int, epochs: int) -> bytes:
    """The checkpoint of a trial after some epochs."""
    trainer = _trainer()
    trainer.submit([_trial(number)])
    for _ in range(epochs):
        trainer.advance(0.0)
    (found,) = trainer.checkpoints()
    return found.content


@cache
def _whole(number: int) -> Any:
    """What the trial ends in when nothing happens to it."""
    trainer = _trainer()
    trainer.submit([_trial(number)])
    return numbers(drive(trainer)[0][_trial(number).key])


Draw = Callable[[st.SearchStrategy[Any]], Any]


def _cut(draw: Draw, content: bytes) -> bytes:
    return content[: draw(st.integers(0, len(content) - 1))]


def _flipped(draw: Draw, content: bytes) -> bytes:
    """Any bit of the file."""
    at = draw(st.integers(0, len(content) - 1))
    return content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]


def _spliced(draw: Draw, content: bytes) -> bytes:
    """Other bytes in the middle, as many, fewer or more."""
    at: int = draw(st.integers(0, len(content)))
    piece: bytes = draw(st.binary(min_size=1, max_size=40))
    left_out: int = draw(st.integers(0, 60))
    return content[:at] + piece + content[at + left_out :]


def _header(draw: Draw, content: bytes) -> bytes:
    """Another header of safetensors, or of ours in it: other shapes, types, places and values."""
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    if draw(st.booleans()):
        head = draw(damaged_trees(st.just(head), most=2))
    else:
        ours = draw(damaged_trees(st.just(json.loads(head["__metadata__"]["vae_sweep"])), most=2))
        head["__metadata__"]["vae_sweep"] = json.dumps(ours)
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _other(draw: Draw, content: bytes) -> bytes:
    """Another trial's, whole."""
    return _content(draw(st.sampled_from([1, 2])), draw(st.integers(1, EPOCHS - 1)))


def _junk(draw: Draw, content: bytes) -> bytes:
    return bytes(draw(st.binary()))


DAMAGES = (_cut, _flipped, _spliced, _header, _other, _junk)


@sizes(few=20, many=80)
def test_a_file_of_other_bytes_is_not_used(count: int, tmp_path: Path) -> None:
    """What is on the disk: the newest whole one is used, the trial's own, or none."""
    said: list[str] = []
    kept = Checkpoints(WorkPaths.at(tmp_path), "small", said.append)
    key = TrialKey("arm", 0, Phase.SEARCH, 3)
    folder = WorkPaths.at(tmp_path).trial("small", key)

    def check(data: st.DataObject, damaged_files: int) -> None:
        kept.clear(key)
        said.clear()
        contents = [_content(0, epochs) for epochs in (1, 2)]
        for epoch, content in enumerate(contents, start=1):
            kept.keep(key, epoch, content)
        newest_first = sorted(folder.iterdir(), reverse=True)
        bad = 0
        for file in newest_first[:damaged_files]:
            before = file.read_bytes()
            after = data.draw(st.sampled_from(DAMAGES))(data.draw, before)
            file.write_bytes(after)
            bad += bad == newest_first.index(file) and after != before
        assert kept.latest(key) == (contents[1 - bad] if bad < 2 else None)
        assert len(said) == bad

    fuzz(count, check, data=st.data(), damaged_files=st.integers(1, 2))


@sizes(few=10, many=50)
def test_bytes_of_another_training_are_never_gone_on_from(count: int) -> None:
    """What a worker is handed: whatever it is, the trial ends, and with the numbers of an undisturbed one.

    Damage to the tensors' own values is what the file's hash is for: here only what is around them is damaged.
    """

    def check(data: st.DataObject, damage: Callable[[Draw, bytes], bytes], epochs: int) -> None:
        content = _content(0, epochs)
        broken = damage(data.draw, content)
        length = int.from_bytes(content[:8], "little")
        if broken[: 8 + length] == content[: 8 + length] and len(broken) == len(content):
            return
        trainer = _trainer()
        trainer.submit([replace(_trial(0), checkpoint=broken)])
        outcomes, reports, _ = drive(trainer)
        first = min(report.epoch for report in reports if isinstance(report, EpochReport))
        assert first in (1, epochs + 1)
        if first == 1 or broken == content:
            assert numbers(outcomes[_trial(0).key]) == _whole(0)

    fuzz(
        count,
        check,
        data=st.data(),
        damage=st.sampled_from([_cut, _spliced, _header, _other, _junk]),
        epochs=st.integers(1, EPOCHS - 1),
    )
