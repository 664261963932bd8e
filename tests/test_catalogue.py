"""docs/catalogue.md and docs/data.md have a row for every entry of the tables, as it is.

`python -m tests.test_catalogue` prints them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.data import FORMS, LOADERS
from pipeline.search.pruners import PRUNERS
from pipeline.search.samplers import SAMPLERS
from pipeline.selfcheck import ORACLES
from pipeline.vae.likelihoods import LIKELIHOODS
from pipeline.vae.networks import NETWORKS
from pipeline.vae.objectives import OBJECTIVES
from pipeline.vae.posterior import POSTERIORS
from pipeline.vae.scales import SCALES, Scale

DOCUMENT = Path(__file__).parent.parent / "docs" / "catalogue.md"
DATA_DOCUMENT = DOCUMENT.with_name("data.md")

VAE_IDS = {
    "log_variance": "logvar", "log_std": "logstd", "log_precision": "logprec", "log_variance_floor": "logvar+eps",
    "log_variance_clamped": "hard clamp", "log_variance_hardtanh": "Hardtanh logvar", "softplus_std": "softplus std",
    "softplus_std_shifted": "softplus std, shifted", "softplus_std_floor": "softplus+floor",
    "softplus_variance": "softplus var", "softplus_variance_shifted": "softplus var, shifted",
    "softplus_precision": "natural/info", "sigmoid_std": "sigmoid interval", "sigmoid_std_wide": "sigmoid2+floor",
    "tanh_log_std": "tanh soft clamp", "elu_std": "elu+1", "raw_std": "raw", "square_std": "square",
    "raw_variance": "raw variance", "fixed": "fixed sigma",
}  # fmt: skip
"""what the literature's catalogue calls them"""


def number(value: float) -> str:
    return f"{value if abs(value) > 1e-12 else 0:.4g}"


def slope(scale: Scale, sigma: float) -> str:
    if not scale.reaches(sigma):
        return "-"
    return number(float(scale.jacobian(torch.tensor([scale.inverse(sigma)], dtype=torch.float64))))


def scale_row(name: str, scale: Scale) -> str:
    bounds = f"{number(scale.lowest)} to {number(scale.highest)}"
    start = number(scale.inverse(1.0)) if scale.reaches(1.0) else "never"
    formula = scale.formula.replace("|", "\\|")
    slopes = f"{slope(scale, 0.1)} / {slope(scale, 1.0)} / {slope(scale, 3.0)}"
    return f"| `{name}` | {VAE_IDS[name]} | {formula} | {start} | {slopes} | {bounds} | {scale.source} |"


def tables() -> dict[str, list[str]]:
    """Heading -> rows."""
    scales = [
        "| name | elsewhere | formula | a at σ = 1 | J at σ = 0.1 / 1 / 3 | range of σ | used by |",
        "|---" * 7 + "|",
    ]
    scales += [scale_row(name, scale) for name, scale in SCALES.items()]
    families = ["| name | q(z\\|x) |", "|---|---|", *(f"| `{k}` | {one.formula} |" for k, one in POSTERIORS.items())]
    objectives = ["| name | minimises | reads | source |", "|---" * 4 + "|"]
    for name, one in OBJECTIVES.items():
        reads = ", ".join(sorted(one.reads)) or "nothing"
        formula = one.formula.replace("|", "\\|")
        objectives.append(f"| `{name}` | {formula} | {reads} | {one.source} |")
    likelihoods = ["| name | data | what it is |", "|---|---|---|"]
    for name, likelihood in LIKELIHOODS.items():
        (kind,) = likelihood.kinds
        text = (likelihood.__doc__ or "").splitlines()[0].rstrip(".").replace("|", "\\|")
        likelihoods.append(f"| `{name}` | {kind} | {text} |")
    networks = ["| name | what it is |", "|---|---|"]
    for name, network in NETWORKS.items():
        text = (network.__doc__ or "").splitlines()[0].rstrip(".").replace("|", "\\|")
        networks.append(f"| `{name}` | {text} |")
    oracles = ["| | claim |", "|---|---|", *(f"| {name} | {one.claim} |" for name, one in ORACLES.items())]
    return {
        "Scales": scales,
        "Posteriors": families,
        "Objectives": objectives,
        "Likelihoods": likelihoods,
        "Networks": networks,
        "Oracles": oracles,
    }


def data_tables() -> dict[str, list[str]]:
    """Heading -> rows of the page about data."""
    sets = ["| name | what it is |", "|---|---|"]
    sets += [f"| `{name}` | {(loader.__doc__ or '').splitlines()[0].rstrip('.')} |" for name, loader in LOADERS.items()]
    forms = ["| form | kind | a pixel is |", "|---|---|---|"]
    for name, form in FORMS.items():
        forms.append(f"| `{name}` | {form.kind} | {(form.convert.__doc__ or '').splitlines()[0].rstrip('.')} |")
    return {"Data sets": sets, "Forms": forms}


@pytest.mark.parametrize(("document", "made"), [(DOCUMENT, tables), (DATA_DOCUMENT, data_tables)])
def test_the_catalogue_is_that_of_the_tables(document: Path, made: Callable[[], dict[str, list[str]]]) -> None:
    text = document.read_text()
    for heading, rows in made().items():
        assert "\n".join(["", *rows, ""]) in text, (
            f"{heading}: python -m tests.test_catalogue prints what should stand there"
        )


def test_samplers_and_stopping_rules_have_a_row_each() -> None:
    text = DOCUMENT.read_text()
    for heading, names in {"Samplers": tuple(SAMPLERS), "Stopping rules": tuple(PRUNERS)}.items():
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == names
    for name, rule in PRUNERS.items():
        fields = {
            f"pruner_{field}" for field in re.findall(r"`(\w+)`", section.split(f"| `{name}` |")[1].split("|")[1])
        }
        assert fields <= rule.reads and (fields == rule.reads or len(fields) < 2), name


if __name__ == "__main__":
    for heading, rows in (tables() | data_tables()).items():
        print(f"\n## {heading}\n\n" + "\n".join(rows))
