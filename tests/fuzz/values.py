"""What may stand where a value is meant: everything. Also how a drawn tree is damaged, and written as YAML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

NAMES = (
    "log_variance",
    "raw_std",
    "softplus_std",
    "mlp",
    "relu",
    "binomial",
    "gaussian",
    "bernoulli",
    "elbo",
    "beta",
    "adam",
    "sgd",
    "tpe",
    "qmc",
    "grid",
    "random",
    "median",
    "none",
    "digits",
    "counts",
    "grey",
    "binarised",
    "float64",
    "common",
    "val/elbo",
    "test/elbo",
    "independent",
    "auto",
    "on",
    "~",
    "1e3",
    "1e-3",
    "0x1f",
    "0o17",
    "1_000",
    "12:30:45",
    "2026-01-31",
    ".nan",
    ".inf",
    "-.inf",
    "=",
    "<<",
    "seed",
    "learning_rate",
    "latent_dim",
    "scale",
    "hidden",
    "epochs",
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    64,
    1_000_000,
    1_000_001,
    2**31,
    2**63 - 1,
    2**63,
    10**30,
    -(10**30),
    0.0,
    -0.0,
    0.5,
    1.0,
    1e-9,
    5e-324,
    1e308,
    1.7976931348623157e308,
    math.inf,
    -math.inf,
    math.nan,
    1e16,
)

texts = st.sampled_from(NAMES) | st.text(max_size=12) | st.text(st.characters(), max_size=6)
"""half characters (surrogates) and NUL included"""
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
"""anything that YAML or JSON can say"""

Path = tuple[str | int, ...]


def places(tree: Any, at: Path = ()) -> Iterator[Path]:
    """The paths of all values in a tree of dictionaries and lists, the root's first."""
    yield at
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def damaged(draw: st.DrawFn, tree: Any) -> Any:
    """`tree` with one value replaced, removed, added, renamed, wrapped or swapped with another's."""
    tree = json.loads(json.dumps(tree)) if isinstance(tree, dict | list) else tree
    every = list(places(tree))
    place = draw(st.sampled_from(every))
    if not place:
        return draw(values) if draw(st.integers(0, 9)) == 0 else tree
    holder = tree
    for key in place[:-1]:
        holder = holder[key]
    last: Any = place[-1]
    match draw(st.sampled_from(["replace", "replace", "remove", "add", "rename", "wrap", "nest", "swap"])):
        case "replace":
            holder[last] = draw(values)
        case "remove":
            del holder[last]
        case "add" if isinstance(holder, dict):
            holder[draw(texts)] = draw(values)
        case "rename" if isinstance(holder, dict):
            holder[draw(texts)] = holder.pop(last)
        case "wrap":
            holder[last] = draw(st.sampled_from([[holder[last]], {"low": holder[last]}, {"choices": [holder[last]]}]))
        case "nest":
            for _ in range(draw(st.integers(1, 40))):
                holder[last] = [holder[last]]
        case _:
            other = every[draw(st.integers(0, len(every) - 1))]
            found = tree
            for key in other:
                found = found[key]
            holder[last] = json.loads(json.dumps(found)) if isinstance(found, dict | list) else found
    return tree


@st.composite
def damaged_trees(draw: st.DrawFn, trees: st.SearchStrategy[Any], most: int = 4) -> Any:
    """One of `trees`, damaged at up to `most` places; sometimes as it was."""
    tree = draw(trees)
    for _ in range(draw(st.integers(0, most))):
        tree = damaged(draw, tree)
    return tree


def as_yaml(value: Any) -> str:
    """YAML's flow style, whatever the value: JSON but for the numbers that JSON has not."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_yaml(str(key))}: {as_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)
