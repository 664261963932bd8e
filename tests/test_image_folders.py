"""Folders of images as data: what is read, in which order, and what is said about folders that cannot be used."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import load_study
from pipeline.data import load_data
from pipeline.data.image_files import MOST_PIXELS
from pipeline.launch.where import load_study_data
from pipeline.remote import pack

from .sweeps import run_here, study_file, vae_sweep_here
from .test_data import pixels, refused, rows


def drawn(count: int = 12, shape: tuple[int, ...] = (6, 5), seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def filled(folder: Path, images: NDArray[Any], suffix: str = "png", **options: Any) -> Path:
    """Files `00.png`, `01.png`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02}.{suffix}", **options)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my 'faces'"
    path.mkdir()
    return path


class TestRead:
    @pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
    def test_png_pixels_are_those_of_the_same_npy(self, folder: Path, shape: tuple[int, ...]) -> None:
        images = drawn(shape=shape)
        np.save(folder.parent / "same.npy", images)
        data = load_data(path=filled(folder, images))
        assert (data.name, data.levels, data.image_shape) == ("my_faces_", 255, shape)
        assert data.sha256 == load_data(path=folder.parent / "same.npy", levels=255).sha256
        assert load_data(path=folder, form="grey").train.max() <= 1

    def test_order_is_that_of_the_names_whatever_the_disk_says(self, folder: Path) -> None:
        images = drawn()
        for number in reversed(range(12)):
            Image.fromarray(images[number]).save(folder / f"{number:02}.png")
        assert load_data(path=folder).sha256 == load_data(path=filled(folder.parent / "again", images)).sha256

    def test_jpeg_and_black_and_white(self, folder: Path) -> None:
        flat = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None] * 20, (12, 8, 8))
        data = load_data(path=filled(folder / "jpeg", flat, "JPEG", quality=95))
        assert np.abs(np.sort(np.concatenate(pixels(data))[:, 0]) - np.arange(12) * 20).max() <= 1
        ink = drawn() > 128
        data = load_data(path=filled(folder / "ink", ink), form="binarised")
        assert rows(np.concatenate(pixels(data))) == rows(ink.reshape(12, -1))
        assert load_data(path=folder / "ink").levels == 1

    def test_threshold_of_grey_is_the_middle(self, folder: Path) -> None:
        images = drawn()
        data = load_data(path=filled(folder, images), form="binarised")
        assert rows(np.concatenate(pixels(data))) == rows((images >= 128).reshape(12, -1))
        refused("save `", path=filled(folder / "colour", drawn(shape=(6, 5, 3))), form="binarised")

    def test_divided_by_the_user(self, folder: Path) -> None:
        images = drawn(12)
        for part, some in zip(("train", "val", "test"), np.split(images, [7, 9]), strict=True):
            filled(folder / part, some)
        data = load_data(path=folder, split_seed=3)
        for seen, some in zip(pixels(data), np.split(images, [7, 9]), strict=True):
            assert np.array_equal(seen, some.reshape(len(some), -1))

    def test_other_files_and_hidden_ones_are_left_out(self, folder: Path) -> None:
        filled(folder, drawn())
        (folder / "labels.csv").write_text("1,2")
        (folder / ".thumb.png").write_bytes(b"no image")
        (folder / ".git").mkdir()
        assert len(np.concatenate(pixels(load_data(path=folder)))) == 12

    def test_links_inside_are_followed(self, folder: Path) -> None:
        filled(folder, drawn())
        (folder / "99.png").symlink_to("00.png")
        assert len(np.concatenate(pixels(load_data(path=folder)))) == 13


class TestRefused:
    def test_several_sizes_and_modes_are_one_error(self, folder: Path) -> None:
        filled(folder, drawn())
        Image.fromarray(drawn(1, (7, 5))[0]).save(folder / "taller.png")
        Image.fromarray(drawn(1, (6, 5, 3))[0]).save(folder / "colour.png")
        refused(
            r"12 are of 5 x 6 pixels, grey, and 2 are not: colour\.png \(5 x 6 pixels, colour\), "
            r"taller\.png \(5 x 7 pixels, grey\); resize or convert",
            path=folder,
        )

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
    def test_modes(self, folder: Path, mode: str) -> None:
        filled(folder, drawn())
        Image.new(mode, (5, 6)).save(folder / "odd.png")
        refused(rf"8 bits a channel, but .*odd\.png. has mode {mode}: convert", path=folder)

    def test_folders(self, folder: Path) -> None:
        refused("holds no such image", path=folder)
        filled(folder / "cats", drawn())
        refused("exactly the folders train, val and test, but .* holds the folders cats", path=folder)
        filled(folder, drawn())
        refused("holds the folders cats beside images", path=folder)

    def test_an_empty_part(self, folder: Path) -> None:
        filled(folder / "train", drawn())
        refused("holds the folders train:", path=folder)
        filled(folder / "val", drawn())
        (folder / "test").mkdir()
        refused("there are none in test", path=folder)

    def test_other_kinds_of_pictures(self, folder: Path) -> None:
        filled(folder, drawn())
        Image.fromarray(drawn()[0]).save(folder / "more.bmp")
        refused(r"PNG or JPEG files, but .* holds more\.bmp: convert", path=folder)

    @pytest.mark.parametrize(
        "content",
        [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9"],
    )
    def test_unreadable(self, folder: Path, content: bytes) -> None:
        filled(folder, drawn())
        (folder / "odd.png").write_bytes(content)
        refused(r"readable PNG or JPEG files, but .*odd\.png..*save it anew", path=folder)

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_cut_off(self, folder: Path, suffix: str) -> None:
        filled(folder, drawn(shape=(60, 50)), suffix)
        victim = folder / f"03.{suffix}"
        victim.write_bytes(victim.read_bytes()[:-300])
        refused(rf"readable .*03\.{suffix}.", path=folder)

    def test_never_out_of_the_folder(self, folder: Path) -> None:
        outside = filled(folder.parent / "private", drawn())
        filled(folder, drawn())
        (folder / "link.png").symlink_to(outside / "00.png")
        refused(r"'link\.png' is a link out of it", path=folder)
        (folder / "link.png").unlink()
        divided = folder.parent / "divided"
        for part in ("train", "val"):
            filled(divided / part, drawn())
        (divided / "test").symlink_to(outside)
        refused("'test' is a link out of it", path=divided)

    def test_what_is_no_file(self, folder: Path) -> None:
        filled(folder, drawn())
        (folder / "loop.png").symlink_to("loop.png")
        refused("loop.png", path=folder)
        (folder / "loop.png").unlink()
        (folder / "gone.png").symlink_to("nowhere.png")
        refused(r"must be files, but gone\.png", path=folder)
        (folder / "gone.png").unlink()
        os.mkfifo(folder / "pipe.png")
        refused(r"must be files, but pipe\.png", path=folder)

    def test_several_frames(self, folder: Path) -> None:
        filled(folder, drawn())
        frames = [Image.fromarray(image) for image in drawn()]
        frames[0].save(folder / "film.png", save_all=True, append_images=frames[1:])
        refused(r"film\.png. has several frames", path=folder)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header promises width x height grey pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


class TestBombs:
    @pytest.mark.parametrize("side", [1025, 12_000, 100_000])
    def test_a_header_that_promises_too_much(self, folder: Path, side: int) -> None:
        filled(folder, drawn())
        (folder / "bomb.png").write_bytes(bomb(side, side))
        said = f"at most {MOST_PIXELS:,} pixels|decompression bomb|exceeds limit"
        refused(rf"bomb\.png.*({said})|({said}).*bomb\.png", path=folder)

    def test_too_many_pixels_in_all(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pipeline.data.image_files.MOST_VALUES", 12 * 30 - 1)
        refused("at most 359 numbers, but 12 of 5 x 6 pixels are 360", path=filled(folder, drawn()))

    def test_text_that_unpacks_to_gigabytes(self, folder: Path) -> None:
        filled(folder, drawn())
        content = b"Comment\0\0" + zlib.compress(bytes(3 << 20))
        chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
        buffer = io.BytesIO()
        Image.fromarray(drawn()[0]).save(buffer, "png")
        whole = buffer.getvalue()
        (folder / "bomb.png").write_bytes(whole[:33] + chunk + whole[33:])
        refused(r"bomb\.png.*(too large|Decompressed)", path=folder)


class TestAsData:
    def test_a_sweep_of_a_folder(self, tmp_path: Path) -> None:
        filled(tmp_path / "faces", drawn(60))
        file = study_file(
            tmp_path,
            data={"name": None, "path": "faces", "split": [30, 15, 15]},
            model={"hidden": [7]},
            train={"epochs": 2, "batch_size": 10},
            scientific={"latent_dim": [2], "scale": ["log_variance", "log_std"]},
            search={"trials": 1, "startup": 1, "lag": 1, "replicates": 1},
            confirm={"candidates": 1, "repeats": 1},
        )
        code, out, err = vae_sweep_here("plan", file)
        assert code == 0 and "faces:counts:30/15/15" in out, err
        results = run_here(file, tmp_path / "work", slots=2)
        assert all(arm.bits_per_dim is not None for arm in results.comparison.arms)

    @pytest.mark.parametrize("parts", [("",), ("train", "val", "test")])
    def test_it_travels_to_a_cluster_and_nothing_else_does(self, tmp_path: Path, parts: tuple[str, ...]) -> None:
        for part in parts:
            filled(tmp_path / "faces" / part, drawn(10, seed=len(part)))
            (tmp_path / "faces" / part / "secret.txt").write_text("mine")
            (tmp_path / "faces" / part / ".hidden.png").write_bytes(b"mine")
            (tmp_path / "faces" / part / "98.png").symlink_to("03.png")
        study = load_study(study_file(tmp_path, data={"name": None, "path": "faces", "split": [5, 3, 2]}))
        there = tmp_path / "there"
        there.mkdir()
        pack(study, [], there)
        sent = load_study(there / "study.yaml")
        assert load_study_data(sent).sha256 == load_study_data(study).sha256
        names = {file.name for file in (there / "data").rglob("*") if file.is_file()}
        assert names == {*(f"{number:02}.png" for number in range(10)), "98.png"}
