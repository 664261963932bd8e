"""The data sets of the catalogue: photographs, drawings with their factors, models with a known likelihood, OpenML."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy import stats

from pipeline.config import load_study, study_of
from pipeline.data import DataSet, load_data
from pipeline.data.bundled import load_photos
from pipeline.data.known import (
    CURVE_NOISE,
    LINEAR_NOISE,
    curve_log_density,
    curve_mean,
    linear_gaussian_log_density,
    linear_weights,
    load_curve,
    load_linear_gaussian,
)
from pipeline.data.sprites import FACTORS, SIZES, load_sprites
from pipeline.launch.single import train_single
from pipeline.launch.where import load_study_data
from pipeline.report.tables import render_text
from pipeline.report.views import plan_view
from pipeline.results import describe
from pipeline.study_file.identity import study_hash

from .kit import free_ports
from .sweeps import study_file, vae_sweep_here
from .test_data import pixels, refused, rows

# ------------------------------------------------------------------------------------------- photos


def test_photos_are_cut_up_without_overlap() -> None:
    patches = load_photos(8).parts[0]
    assert patches.shape == (2 * 53 * 80, 8, 8) and patches.dtype == np.uint8
    photo = patches[: 53 * 80].reshape(53, 80, 8, 8).swapaxes(1, 2).reshape(424, 640).astype(float)
    roughness = np.abs(np.diff(photo, axis=1))
    assert roughness[:, 7::8].mean() < 2 * roughness.mean(), "neighbours fit together again: it is the photograph"
    assert load_photos(16).parts[0].shape == (2 * 26 * 40, 16, 16)
    data = load_data(name="photos", side=16)
    assert (data.levels, data.image_shape) == (255, (16, 16))
    assert data.sha256 != load_data(name="photos").sha256


def test_side_is_for_patches() -> None:
    refused("data.side is the side of patches, for photos only, but got 9 with 'digits'", name="digits", side=9)
    refused("for photos only", name="openml/61", side=9)
    refused("data.side .* with data.path", path="x.npy", side=9)
    refused("at most 128", name="photos", side=300)


# ------------------------------------------------------------------------------------------ sprites


class TestSprites:
    def test_every_combination_once_and_every_image_different(self) -> None:
        raw = load_sprites()
        (images,), factors = raw.parts, raw.factors
        assert factors is not None and len(images) == len(factors.values) == np.prod(SIZES) == 24_576
        assert (factors.names, factors.sizes) == (FACTORS, (3, 4, 8, 16, 16))
        assert len({tuple(row) for row in factors.values.tolist()}) == len(images)
        assert factors.values.min() == 0 and (factors.values.max(axis=0) == np.array(SIZES) - 1).all()
        digests = {hashlib.md5(image.tobytes()).digest() for image in images}
        assert len(digests) == len(images), "two causes that look alike cannot be told apart by any model"
        assert len({hashlib.md5(image.tobytes()).digest() for image in images >= 8}) == len(images), "binarised, too"
        assert images.max() == raw.levels == 16

    def test_factors_say_what_is_seen(self) -> None:
        raw = load_sprites()
        assert raw.factors is not None
        images = raw.parts[0].astype(np.float64)
        by_factor = images.reshape(*SIZES, 32, 32)
        weight = images.sum(axis=(1, 2)).reshape(SIZES)
        assert (weight == weight[..., :1, :1]).all(), "a place moves all of it: nothing is cut off"
        assert (np.diff(weight, axis=1) > 0).all(), "a larger scale has more ink"
        across = (by_factor.sum(axis=-2) * np.arange(32)).sum(-1) / weight
        down = (by_factor.sum(axis=-1) * np.arange(32)).sum(-1) / weight
        assert np.allclose(np.diff(across, axis=3), 1) and np.allclose(np.diff(across, axis=4), 0)
        assert np.allclose(np.diff(down, axis=4), 1) and np.allclose(np.diff(down, axis=3), 0)
        quarter = np.roll(by_factor[..., 0, 0, :17, :17], -2, axis=2)
        turned = np.rot90(by_factor[..., 0, 0, :17, :17], -1, axes=(-2, -1))
        assert np.abs(quarter - turned).max() <= 8, "two orientations on are a quarter turn, but for points on an edge"
        assert (np.abs(quarter - turned) > 0).mean() < 0.02

    def test_factors_go_with_their_images(self) -> None:
        data = load_data(name="sprites", take=300, split=(200, 60, 40), split_seed=3)
        whole = load_sprites()
        assert data.factors is not None and whole.factors is not None
        assert (data.factors.names, data.factors.sizes) == (FACTORS, SIZES)
        for part, values in zip(pixels(data), (data.factors.train, data.factors.val, data.factors.test), strict=True):
            assert values.dtype == np.int64 and values.shape == (len(part), 5)
            places = np.ravel_multi_index(tuple(values.T), SIZES)
            assert np.array_equal(whole.parts[0][places].reshape(len(part), -1), part)

    def test_they_are_part_of_the_digest(self) -> None:
        from pipeline.data.dataset import _sha256

        data = load_data(name="sprites", take=300)
        assert data.sha256 == _sha256(["counts", 16, (32, 32)], pixels(data), data.factors)
        assert data.sha256 != _sha256(["counts", 16, (32, 32)], pixels(data), None)


# ------------------------------------------------------------------------------- a known likelihood


class TestKnownLikelihood:
    def test_linear_gaussian_is_its_normal_distribution(self) -> None:
        x = load_linear_gaussian().parts[0].reshape(-1, 16)
        weights = linear_weights()
        normal = stats.multivariate_normal(np.zeros(16), weights @ weights.T + LINEAR_NOISE**2 * np.eye(16))
        assert np.abs(linear_gaussian_log_density(x) - normal.logpdf(x)).max() < 1e-10
        assert weights.T @ weights == pytest.approx(np.diag([9.0, 4.0, 1.0, 0.25]), abs=1e-12)
        spread = np.linalg.eigvalsh(np.cov(x.T))[::-1]
        assert spread[:4] == pytest.approx(np.array([9.25, 4.25, 1.25, 0.5]), rel=0.06)

    def test_curve_is_its_integral(self) -> None:
        """Against the trapezoid rule on a fine grid, which for such an integral is exact to the last digits."""
        x = load_curve().parts[0].reshape(-1, 16)
        found = curve_log_density(x)
        assert np.abs(found - curve_log_density(x, 330)).max() < 1e-8, "more nodes change nothing"
        grid = np.linspace(-11, 11, 3001)
        for row in x[::500]:
            log_p = np.asarray(stats.norm.logpdf(row, curve_mean(grid), CURVE_NOISE)).sum(1) + stats.norm.logpdf(grid)
            integral = np.log(np.exp(log_p - log_p.max()).sum() * (grid[1] - grid[0])) + log_p.max()
            assert curve_log_density(row[None])[0] == pytest.approx(integral, abs=1e-8)

    @pytest.mark.parametrize("name", ["linear_gaussian", "curve"])
    def test_the_user_sees_it(self, name: str, tmp_path: Path) -> None:
        data = load_data(name=name, form="grey", take=400, split=(200, 100, 100))
        density = {"linear_gaussian": linear_gaussian_log_density, "curve": curve_log_density}[name]
        expected = tuple(float(density(part.astype(np.float64)).mean()) for part in pixels(data))
        assert data.log_likelihood == expected
        file = study_file(tmp_path, data={"name": name, "form": "grey", "take": 400, "split": [200, 100, 100]})
        code, out, err = vae_sweep_here("plan", file)
        assert code == 0, err
        assert f"test {expected[2]:.4f} nats an image, exact" in " ".join(out.split())

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "model", "gap_nats"),
        [
            ("linear_gaussian", {"hidden": [], "latent_dim": 4, "observation_std": LINEAR_NOISE}, 0.15),
            ("curve", {"hidden": [64], "latent_dim": 1, "observation_std": CURVE_NOISE, "activation": "tanh"}, 0.3),
        ],
    )
    def test_training_comes_close_and_stays_below(
        self, name: str, model: dict[str, Any], gap_nats: float, tmp_path: Path
    ) -> None:
        file = tmp_path / "single.yaml"
        data = {"name": name, "form": "grey"}
        train = {"epochs": 60, "batch_size": 60, "learning_rate": 3e-3}
        study = {"version": 1, "name": "single", "data": data, "model": {**model, "likelihood": "gaussian"}}
        file.write_text(yaml.safe_dump({**study, "train": train}))
        exact = load_data(name=name, form="grey").log_likelihood
        elbo = train_single(load_study(file)).metrics["test/elbo"]
        assert exact is not None and exact[2] - gap_nats < elbo < exact[2] + 0.02


@pytest.mark.parametrize(
    ("name", "form", "digest"),
    [
        ("photos", "counts", "9d145f2d"),
        ("sprites", "counts", "0fddf030"),
        ("linear_gaussian", "grey", "a5696b37"),
        ("curve", "grey", "91eded37"),
    ],
)
def test_they_stay_what_they_are(name: str, form: str, digest: str) -> None:
    """Drawn, decoded and divided alike by every version and machine: else kept sweeps ask another question."""
    assert load_data(name=name, form=form).sha256.startswith(digest)


# ------------------------------------------------------------------------------------------- OpenML


@dataclass
class Stand:
    """A stand-in for openml.org with one table, over real HTTP."""

    url: str
    table: NDArray[Any]
    name: str = "mnist_784"
    asked: list[str] = field(default_factory=list)
    broken: bool = False

    def arff(self) -> bytes:
        names = [f"pixel{i}" for i in range(1, self.table.shape[1] + 1)]
        lines = [f"@RELATION {self.name}", *(f"@ATTRIBUTE {name} REAL" for name in names)]
        lines += ["@ATTRIBUTE class {0,1}", "@DATA"]
        lines += [",".join(map(str, [*row, i % 2])) for i, row in enumerate(self.table.tolist())]
        return "\n".join(lines).encode()

    def answer(self, path: str) -> Any:
        """JSON, bytes, or None where OpenML would say 412."""
        data_id, version = "554", "1"
        if path.startswith("/api/v1/json/data/list/data_name/"):
            wanted = f"data_name/{self.name.lower()}/limit/2/data_version/{version}"
            facts = {"did": int(data_id), "name": self.name, "version": 1, "status": "active"}
            return {"data": {"dataset": [facts]}} if wanted in path else None
        if path == f"/api/v1/json/data/{data_id}":
            return {
                "data_set_description": {
                    "id": data_id, "name": self.name, "version": version, "format": "ARFF", "status": "active",
                    "description": "made up", "url": f"{self.url}/data/v1/download/52667/{self.name}.arff",
                    "md5_checksum": hashlib.md5(self.arff()).hexdigest(), "default_target_attribute": "class",
                }
            }  # fmt: skip
        if path == f"/api/v1/json/data/features/{data_id}":
            flags = {"is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
            names = [f"pixel{i}" for i in range(1, self.table.shape[1] + 1)]
            every: list[dict[str, Any]] = [
                {"name": n, "data_type": "numeric", "is_target": "false", **flags} for n in names
            ]
            every.append(
                {"name": "class", "data_type": "nominal", "is_target": "true", "nominal_value": ["0", "1"]} | flags
            )
            return {"data_features": {"feature": [{"index": str(i), **one} for i, one in enumerate(every)]}}
        if path == f"/api/v1/json/data/qualities/{data_id}":
            quality = {"name": "NumberOfInstances", "value": str(float(len(self.table)))}
            return {"data_qualities": {"quality": [quality]}}
        if path.startswith("/data/v1/download/"):
            return self.arff() + (b"\n% altered on the way" if self.broken else b"")
        return None


@pytest.fixture
def openml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    """scikit-learn's own loader, told of another host: requests, cache, checksum and parser are the real ones."""
    from sklearn.datasets import _openml

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stand.asked.append(self.path)
            found = stand.answer(self.path)
            body = found if isinstance(found, bytes) else json.dumps(found or {"error": "412"}).encode()
            body = gzip.compress(body)
            self.send_response(200 if found is not None else 412)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand = Stand(f"http://127.0.0.1:{server.server_port}", np.random.default_rng(0).integers(0, 256, (30, 784)))
    for constant in ("_SEARCH_NAME", "_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
        monkeypatch.setattr(_openml, constant, getattr(_openml, constant).replace("https://www.openml.org", stand.url))
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "kept"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield stand
    server.shutdown()
    server.server_close()
    thread.join()


class TestOpenML:
    def test_downloaded_once_then_kept(self, openml: Stand, tmp_path: Path) -> None:
        data = load_data(name="mnist")
        assert (data.name, data.levels, data.image_shape) == ("mnist", 255, (28, 28))
        assert rows(np.concatenate(pixels(data))) == rows(openml.table)
        ((word, source),) = data.facts
        checksum = hashlib.md5(openml.arff()).hexdigest()
        assert word == "source" and f"MD5 {checksum} verified; kept in {tmp_path / 'kept'}/openml" in source
        openml.asked.clear()
        openml.url = "http://127.0.0.1:1"
        assert load_data(name="mnist").sha256 == data.sha256 and openml.asked == [], (
            "from the folder, without a request"
        )

    def test_plan_says_where_it_is_from(self, openml: Stand, tmp_path: Path) -> None:
        study = load_study(study_file(tmp_path, data={"name": "mnist", "split": [20, 5, 5]}))
        text = render_text(plan_view(study, load_study_data(study), 1, 4), width=100)
        assert "mnist_784 version 1, https://www.openml.org/d/554; MD5" in " ".join(text.split())

    def test_the_study_file_that_needs_it(self, openml: Stand) -> None:
        file = Path(__file__).parent.parent / "configs" / "mnist.yaml"
        code, out, err = vae_sweep_here("plan", file, "--set", "data.take=30", "--set", "data.split=[20, 5, 5]")
        assert code == 0 and "mnist:binary_sampled:20/5/5" in out, err

    @pytest.mark.parametrize("name", ["openml/554", "openml/mnist_784@1"])
    def test_any_table(self, openml: Stand, name: str) -> None:
        data = load_data(name=name, levels=255)
        assert data.sha256 == load_data(name="mnist").sha256
        assert data.name == name.replace("/", "_").replace("@", "_")
        refused("set data.levels", name=name, form="grey")

    @pytest.mark.parametrize("name", ["openml/", "openml/mnist_784", "openml/../x@1", "openml/0", "openml/a b@1"])
    def test_names(self, name: str) -> None:
        refused("is named openml/ID or openml/NAME@VERSION", name=name)

    def test_altered_on_the_way(self, openml: Stand) -> None:
        openml.broken = True
        refused("OpenML's mnist_784 version 1 must be a whole table.*md5 checksum.*clean the cache", name="mnist")

    def test_altered_in_the_folder_is_downloaded_again(self, openml: Stand, tmp_path: Path) -> None:
        data = load_data(name="mnist")
        (kept,) = (tmp_path / "kept").rglob("*.arff.gz")
        kept.write_bytes(gzip.compress(openml.arff().replace(b"\n1", b"\n2", 1) + b"\n"))
        openml.asked.clear()
        assert load_data(name="mnist").sha256 == data.sha256
        assert openml.asked == ["/data/v1/download/52667/mnist_784.arff"]

    def test_unknown(self, openml: Stand) -> None:
        refused("OpenML's fashion version 7 must be .* not found", name="openml/fashion@7")

    def test_another_width(self, openml: Stand) -> None:
        openml.table = openml.table[:, :100]
        refused("mnist must have 784 pixels an image, but OpenML's mnist_784 has 100", name="mnist")

    def test_no_network(self, openml: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from sklearn.datasets import _openml

        (port,) = free_ports(1)
        for constant in ("_SEARCH_NAME", "_DATA_INFO"):
            there = getattr(_openml, constant).replace(openml.url, f"http://127.0.0.1:{port}")
            monkeypatch.setattr(_openml, constant, there)
        code, _, err = vae_sweep_here("plan", study_file(tmp_path, data={"name": "mnist", "split": [20, 5, 5]}))
        said = " ".join(err.split())
        assert code == 2 and "must be downloaded once" in said and "data.path" in said and "Traceback" not in said


# ------------------------------------------------------------------------------- in a study's digest


def digest_of(folder: Path, **data: Any) -> tuple[str, DataSet]:
    study = load_study(study_file(folder, data=data))
    dataset = load_study_data(study)
    plain = describe(study, dataset)
    assert study_of(json.loads(json.dumps(plain))) == study
    return study_hash(plain), dataset


def test_new_fields_at_their_defaults_ask_what_was_asked_before(tmp_path: Path) -> None:
    before, _ = digest_of(tmp_path, split=[150, 70, 50])
    assert digest_of(tmp_path, split=[150, 70, 50], side=None, take=None)[0] == before
    study = load_study(study_file(tmp_path))
    plain = describe(study, load_study_data(study))
    old = {**plain, "data": {k: v for k, v in plain["data"].items() if k not in ("side", "take")}}
    assert study_hash(old) == study_hash(plain) and study_of(old) == study
    assert digest_of(tmp_path, take=1000, split=[150, 70, 50])[0] != before
    assert "bins" not in plain["data"]
    _, noisy = digest_of(tmp_path, form="dequantised", split=[150, 70, 50])
    assert noisy.bins == 17
