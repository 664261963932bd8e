"""Data sets: forms, division, hashes, and what is said about files that cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data import FORMS, LOADERS, DataSet, load_data
from pipeline.data.dataset import divide
from pipeline.data.loaders import DOWNLOADED
from pipeline.errors import DataError

AWKWARD = 'it\'s a "test"\n of names'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / AWKWARD
    path.mkdir()
    return path


def images(count: int = 40, shape: tuple[int, ...] = (4, 4), dtype: str = "uint8", top: int = 9) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, top + 1, size=(count, *shape)).astype(dtype)


def saved(folder: Path, array: NDArray[Any], name: str = "mine.npy") -> Path:
    np.save(folder / name, array)
    return folder / name


def zipped(path: Path, **arrays: NDArray[Any]) -> Path:
    np.savez(path, allow_pickle=True, **arrays)
    return path


def pixels(data: DataSet) -> list[NDArray[np.float32]]:
    return [data.train, data.val, data.test]


def rows(array: NDArray[Any]) -> list[bytes]:
    return sorted(row.astype("float32").tobytes() for row in array)


HERE = [name for name in LOADERS if name not in DOWNLOADED]
REAL = ("linear_gaussian", "curve")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name in HERE if name not in REAL])
def test_every_bundled_data_set_of_counts_has_every_form(name: str, form: str) -> None:
    data = load_data(name=name, form=form, take=900, split_seed=3)
    assert (data.name, data.form, data.kind) == (name, form, FORMS[form].kind)
    assert int(np.prod(data.image_shape)) == data.pixels
    for part in pixels(data):
        assert part.dtype == np.float32 and part.flags.c_contiguous and part.shape[1] == data.pixels
    together = np.concatenate(pixels(data))
    top = data.levels if form == "counts" else 1
    assert top is not None and (together.min(), together.max()) == pytest.approx((0, top), abs=0.01)
    if form == "counts":
        assert (together == np.round(together)).all()
    if data.kind == "binary":
        assert set(np.unique(together)) == {0.0, 1.0}
    again = load_data(name=name, form=form, take=900, split_seed=3)
    assert again.id == data.id and all(map(np.array_equal, pixels(again), pixels(data)))
    assert load_data(name=name, form=form, take=900, split_seed=4).sha256 != data.sha256


@pytest.mark.parametrize("name", REAL)
def test_real_numbers_have_one_form(name: str) -> None:
    data = load_data(name=name, form="grey", split_seed=3)
    assert data.kind == "real" and data.pixels == 16 and data.log_likelihood is not None
    for form in FORMS.keys() - {"grey"}:
        refused("whole numbers|0 or 1|probabilities", name=name, form=form)


def test_digits() -> None:
    data = load_data(name="digits")
    assert (data.levels, data.image_shape, data.pixels) == (16, (8, 8), 64)
    assert data.id == f"digits:counts:1257/270/270:{data.sha256[:8]}"
    assert data.sha256.startswith("05dab731"), "the bundled digits, or how they are divided, changed"
    white = load_data(name="digits", form="binarised")
    assert np.array_equal(white.train, data.train >= 8) and white.levels is None
    assert np.array_equal(load_data(name="digits", form="grey").train, data.train / 16)
    assert len({load_data(name="digits", form=form).sha256 for form in FORMS}) == len(FORMS)


class TestFiles:
    @pytest.mark.parametrize(
        ("shape", "seen"),
        [((4, 6), (4, 6)), ((4, 4, 3), (4, 4, 3)), ((16,), (4, 4)), ((15,), (1, 15)), ((1,), (1, 1))],
    )
    def test_shapes(self, folder: Path, shape: tuple[int, ...], seen: tuple[int, ...]) -> None:
        array = images(shape=shape)
        data = load_data(path=saved(folder, array))
        assert data.image_shape == seen
        assert rows(np.concatenate(pixels(data))) == rows(array.reshape(len(array), -1))

    @pytest.mark.parametrize("key", ["x", "images", "data"])
    def test_same_images_in_another_file_are_the_same_data(self, folder: Path, key: str) -> None:
        array = images()
        data = load_data(path=saved(folder, array))
        for number, dtype in enumerate(["int64", "float64", ">f4"]):
            zipped(folder / f"{number}.npz", **{key: array.astype(dtype), "labels": np.arange(40)})
            assert load_data(path=folder / f"{number}.npz").sha256 == data.sha256
        changed = array.copy()
        changed[0, 0, 0] ^= 1
        assert load_data(path=saved(folder, changed, "changed.npy")).sha256 != data.sha256
        assert load_data(path=saved(folder, array.reshape(40, 2, 8), "flat.npy")).sha256 != data.sha256

    def test_name_keeps_the_id_on_one_line(self, folder: Path) -> None:
        data = load_data(path=saved(folder, images(), f"{AWKWARD}:x.npy"))
        assert data.id == f"it_s_a_test_of_names_x:counts:28/6/6:{data.sha256[:8]}"

    def test_divided_by_the_user(self, folder: Path) -> None:
        parts = {"train": images(9), "val": images(5) // 2, "test": images(3)}
        zipped(folder / "mine.npz", **parts)
        data = load_data(path=folder / "mine.npz", split=(5, 5, 5), split_seed=7)
        for part, given in zip(pixels(data), parts.values(), strict=True):
            assert np.array_equal(part, given.reshape(len(given), -1)), "in the user's order"
        assert data.levels == 9
        single = np.concatenate(list(parts.values()))
        assert load_data(path=saved(folder, single), split=(9, 5, 3)).sha256 != data.sha256

    def test_counts(self, folder: Path) -> None:
        path = saved(folder, images(dtype="float64"))
        assert load_data(path=path).levels == 9
        assert load_data(path=path, levels=255).levels == 255
        assert load_data(path=path, levels=255).sha256 != load_data(path=path).sha256

    @pytest.mark.parametrize(
        ("dtype", "levels", "top"),
        [("uint8", None, 255), ("uint16", None, 65535), ("uint8", 9, 9), ("int64", 9, 9), ("float64", 9, 9)],
    )
    def test_grey_is_divided_by_the_highest_possible(
        self, folder: Path, dtype: str, levels: int | None, top: int
    ) -> None:
        data = load_data(path=saved(folder, images(dtype=dtype)), form="grey", levels=levels)
        assert np.concatenate(pixels(data)).max() == np.float32(9 / top)

    def test_grey_floats_and_black_and_white_are_left_alone(self, folder: Path) -> None:
        floats = np.random.default_rng(0).normal(size=(40, 5))
        assert rows(np.concatenate(pixels(load_data(path=saved(folder, floats), form="grey")))) == rows(floats)
        for form in FORMS.keys() - {"dequantised"}:
            data = load_data(path=saved(folder, images(shape=(5,), top=1).astype(bool)), form=form)
            assert rows(np.concatenate(pixels(data))) == rows(images(shape=(5,), top=1))
            assert data.kind == FORMS[form].kind

    def test_negative_zero_is_zero(self, folder: Path) -> None:
        array = images(dtype="float64")
        data = load_data(path=saved(folder, array))
        array[array == 0] = -0.0
        assert load_data(path=saved(folder, array)).sha256 == data.sha256


class TestNoise:
    """Forms whose noise is drawn once and belongs to the data."""

    def test_dequantised(self) -> None:
        counts, noisy = (load_data(name="digits", form=form, split_seed=5) for form in ("counts", "dequantised"))
        assert (noisy.kind, noisy.levels, noisy.bins, counts.bins) == ("real", None, 17, None)
        noise = np.concatenate(pixels(noisy)).astype(np.float64) * 17 - np.concatenate(pixels(counts))
        assert noise.min() > -1e-5 and noise.max() < 1 + 1e-5, "each value stays in its own unit"
        assert noise.mean() == pytest.approx(0.5, abs=0.003) and noise.var() == pytest.approx(1 / 12, abs=0.001)
        assert abs(np.mean((noise[:, 0] - 0.5) * (noise[:, 1] - 0.5))) < 0.1 / 12, "of each pixel its own"

    def test_binary_sampled(self) -> None:
        counts, drawn = (load_data(name="digits", form=form, split_seed=5) for form in ("counts", "binary_sampled"))
        chance, ones = (np.concatenate(pixels(data)) for data in (counts, drawn))
        for level in range(17):
            found, count = ones[chance == level].mean(), (chance == level).sum()
            sd = max(np.sqrt(level / 16 * (1 - level / 16) / count), 1e-12)
            assert abs(found - level / 16) < 4 * sd, level
        assert drawn.sha256 != load_data(name="digits", form="binarised", split_seed=5).sha256

    @pytest.mark.parametrize("form", ["dequantised", "binary_sampled"])
    def test_it_follows_the_seed_of_the_division(self, folder: Path, form: str) -> None:
        array = images()
        divided = zipped(folder / "mine.npz", train=array[:20], val=array[20:30], test=array[30:])
        one, again, other = (load_data(path=divided, form=form, levels=9, split_seed=seed) for seed in (1, 1, 2))
        assert one.sha256 == again.sha256 != other.sha256, "the division is the user's, only the noise differs"


class TestTake:
    def test_so_many_in_their_order(self, folder: Path) -> None:
        array = np.arange(200).reshape(50, 4)
        path = saved(folder, array)
        some, other = (load_data(path=path, levels=199, take=20, split_seed=seed) for seed in (0, 1))
        taken = np.concatenate(pixels(some))
        assert len(taken) == 20 and set(rows(taken)) < set(rows(array)) and some.sha256 != other.sha256
        assert load_data(path=path, levels=199, take=50).sha256 == load_data(path=path, levels=199).sha256

    def test_refused(self, folder: Path) -> None:
        refused("at most the 40 images of 'mine', but got 41", path=saved(folder, images()), take=41)
        divided = zipped(folder / "divided.npz", train=images(), val=images(), test=images())
        refused("not divided yet", path=divided, take=4)


class TestDivide:
    def test_fractions_and_counts(self) -> None:
        assert [len(part) for part in divide(1797, (0.7, 0.15, 0.15), 0)] == [1257, 270, 270]
        assert [len(part) for part in divide(100, (10, 20, 30), 0)] == [10, 20, 30]
        assert [len(part) for part in divide(3, (1, 1, 1), 0)] == [1, 1, 1]

    def test_is_a_seeded_shuffle_without_overlap(self) -> None:
        one, again, other = (np.concatenate(divide(50, (0.6, 0.2, 0.2), seed)) for seed in (1, 1, 2))
        assert sorted(one) == list(range(50))
        assert np.array_equal(one, again) and not np.array_equal(one, other)
        assert not np.array_equal(one, np.sort(one))

    @pytest.mark.parametrize(
        ("count", "split", "said"),
        [
            (50, (0.5, 0.2, 0.2), r"sum to 1 .* sums to 0\.9"),
            (50, (40, 10, 10), "at most the 50 images"),
            (50, (0.8, 0.2, 0), "above zero"),
            (50, (0.8, float("nan"), 0.2), "above zero"),
            (50, (30, 0.1, 0.1), "sum to 1 or whole numbers"),
            (50, (0.8, 0.2), "three numbers"),
            (4, (0.9, 0.05, 0.05), "at least one image.*gives 4/0/0"),
        ],
    )
    def test_impossible(self, count: int, split: tuple[float, ...], said: str) -> None:
        with pytest.raises(DataError, match=said):
            divide(count, split, 0)


def refused(said: str, **arguments: Any) -> None:
    with pytest.raises(DataError, match=f"(?s){said}"):
        load_data(**arguments)


class TestRefused:
    def test_names(self, folder: Path) -> None:
        refused(r"one of digits, .*, or openml/ID, but got 'digit' \(near: 'digits'\)", name="digit")
        refused("data.form must be one of counts, binarised, .*, but got 'gray'", name="digits", form="gray")
        refused("exactly one of data.name and data.path", name="digits", path=folder)
        refused("exactly one of data.name and data.path")

    def test_paths(self, folder: Path) -> None:
        saved(folder, images(), "faces.npy")
        refused(r"there is no .*face\.npy.*\(near: 'faces\.npy'\)", path=folder / "face.npy")
        refused("there is no .*, nor its folder", path=folder / "none" / "faces.npy")
        refused("there is no", path="x" * 200 + ".npy")
        refused("must be a readable NumPy file", path="x" * 5000 + ".npy")
        refused("must be a readable NumPy file", path="~nobody-of-this-name/faces.npy")
        (folder / "faces.csv").write_text("1,2")
        refused(r"must be a \.npy or \.npz file", path=folder / "faces.csv")
        os.mkfifo(folder / "pipe.npy")
        refused(r"must be a \.npy or \.npz file", path=folder / "pipe.npy")

    @pytest.mark.parametrize("name", ["mine.npy", "mine.npz"])
    def test_unreadable(self, folder: Path, name: str) -> None:
        path = folder / name
        path.write_bytes(b"")
        refused("must be a readable NumPy file", path=path)
        path.write_bytes(b"no NumPy file")
        refused("is no NumPy file", path=path)
        (np.save if name.endswith("npy") else np.savez)(path, images())
        path.write_bytes(path.read_bytes()[:-300])
        refused("must be a readable NumPy file", path=path)

    def test_header_that_promises_too_much(self, folder: Path) -> None:
        path = saved(folder, images())
        path.write_bytes(path.read_bytes().replace(b"(40, 4, 4), }" + b" " * 11, b"(4" + b"0" * 11 + b", 4, 4), }"))
        refused("must (be a readable NumPy file|fit into memory)", path=path)

    def test_python_objects(self, folder: Path) -> None:
        np.save(folder / "o.npy", np.array([{"a": 1}], dtype=object))
        zipped(folder / "o.npz", x=np.array([None], dtype=object))
        for name in ("o.npy", "o.npz"):
            refused("never unpickled", path=folder / name)

    def test_npz_names(self, folder: Path) -> None:
        path = folder / "mine.npz"
        for names in (["train", "val"], ["x", "images"], ["y"], []):
            zipped(path, **{name: images() for name in names})
            refused(f"exactly one of x, images, data.*holds: .*{names[-1] if names else 'nothing'}", path=path)

    @pytest.mark.parametrize(
        ("array", "said"),
        [
            (np.array([["a", "b"]]), "real numbers, but .* dtype <U1"),
            (np.ones((4, 4), dtype=complex), "real numbers, but .* dtype complex128"),
            (np.float64(3), r"has shape \(\)"),
            (np.arange(9), r"has shape \(9,\)"),
            (np.zeros((2, 2, 2, 2, 2)), r"has shape \(2, 2, 2, 2, 2\)"),
            (np.zeros((0, 4, 4)), r"is empty: shape \(0, 4, 4\)"),
            (np.zeros((4, 0)), "is empty"),
            (np.array([[1.0, np.nan], [np.inf, 2.0]]), "2 NaN or infinite values of 4"),
            (np.full((9, 4), 3), "every pixel of 'mine' is 3"),
        ],
    )
    @pytest.mark.parametrize("form", FORMS)
    def test_arrays_of_no_use(self, folder: Path, array: NDArray[Any], said: str, form: str) -> None:
        refused(said, path=saved(folder, array), form=form)

    def test_parts_of_different_shapes(self, folder: Path) -> None:
        zipped(folder / "mine.npz", train=images(), val=images(shape=(2, 8)), test=images())
        refused(r"one shape, but got train \(40, 4, 4\), val \(40, 2, 8\)", path=folder / "mine.npz")

    def test_values_outside_the_form(self, folder: Path) -> None:
        path = saved(folder, images(dtype="int64"))
        refused(r"must lie in 0\.\.5, but 'mine' goes from 0 to 9", path=path, levels=5)
        refused(r"0\.\.5 before they are divided", path=path, levels=5, form="grey")
        refused(r"whole numbers need a scale .* there is: 9", path=path, form="grey")
        refused(r"save `\(x >= 4\.5\)", path=path, form="binarised")
        refused("goes from -1 to 8", path=saved(folder, images(dtype="int64") - 1))
        refused("whole numbers", path=saved(folder, images() / 9))
        refused("whole numbers", path=saved(folder, images() / 9), form="dequantised")
        refused("probabilities 0..1 .* from 0 to 9", path=saved(folder, images(dtype="float64")), form="binary_sampled")
        refused("exact in float32", path=saved(folder, images(dtype="float64") * 1e9))
        refused("fit into float32", path=saved(folder, images() * 1e300), form="grey")

    def test_too_few_images(self, folder: Path) -> None:
        refused("at least one image", path=saved(folder, images(count=3)))


def test_scikit_learn_is_only_for_what_needs_it() -> None:
    code = "import sys, pipeline.data; sys.exit(bool({'sklearn', 'PIL', 'torch', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
