"""Data drawn from models whose exact log p(x) is known: what a VAE's ELBO can be held against.

`linear_gaussian` is probabilistic PCA with orthogonal columns, so that a linear VAE with a diagonal posterior can reach
log p(x) itself (Lucas et al. 2019, arXiv 1911.02469). `curve` has one latent and a nonlinear mean, so that the
posterior is no Gaussian; its log p(x) is an integral over that latent, by Gauss-Hermite quadrature. Pure functions and
fixed draws; knows no file.

N images, D pixels, L latents, Q nodes. Everything is float64, in nats.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .raw import Raw

Array = NDArray[np.float64]

COUNT = 6000
"""images of each data set"""
PIXELS = 16
SCALES = (3.0, 2.0, 1.0, 0.5)
"""lengths of the columns of W"""
LINEAR_NOISE = 0.5
CURVE_NOISE = 0.6
"""standard deviation of the noise of each"""
GRID = 4096
"""values are multiples of 1/GRID: far finer than the noise"""
NODES = 200
"""of the quadrature; twice as many change log p(x) by less than 1e-8 nats"""
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def load_linear_gaussian() -> Raw:
    """6,000 draws of x = W z + noise, 4 x 4 real numbers, z in four dimensions; exact log p(x)."""
    rng = np.random.Generator(np.random.PCG64(1))
    z, noise = rng.standard_normal((COUNT, len(SCALES))), rng.standard_normal((COUNT, PIXELS))
    x = _rounded(z @ linear_weights().T + LINEAR_NOISE * noise)
    return Raw("linear_gaussian", (x.reshape(-1, 4, 4),), log_density=linear_gaussian_log_density)


def load_curve() -> Raw:
    """6,000 draws of a bump that moves along a row of 16 real numbers, with noise; exact log p(x)."""
    rng = np.random.Generator(np.random.PCG64(2))
    z, noise = rng.standard_normal(COUNT), rng.standard_normal((COUNT, PIXELS))
    x = _rounded(curve_mean(z) + CURVE_NOISE * noise)
    return Raw("curve", (x.reshape(-1, 1, PIXELS),), log_density=curve_log_density)


def _rounded(x: Array) -> Array:
    """Float32 holds it exactly, and a processor whose cosine differs in the last bit gives the same numbers."""
    rounded: Array = np.round(x * GRID) / GRID
    return rounded


def linear_weights() -> Array:
    """W (D, L): cosines of rising frequency, orthogonal, of the lengths SCALES."""
    place = (np.arange(PIXELS) + 0.5) * math.pi / PIXELS
    columns = [np.cos(k * place) * math.sqrt(2 / PIXELS) for k in range(1, len(SCALES) + 1)]
    return np.stack(columns, axis=1) * SCALES


def linear_gaussian_log_density(x: Array) -> Array:
    """log N(x; 0, W Wᵀ + s² I): (N, D) -> (N,)."""
    weights = linear_weights()
    covariance = weights @ weights.T + LINEAR_NOISE**2 * np.eye(PIXELS)
    root = np.linalg.cholesky(covariance)
    standard = np.linalg.solve(root, x.T)
    log_determinant = np.log(np.diag(root)).sum()
    density: Array = -0.5 * (standard * standard).sum(axis=0) - log_determinant - HALF_LOG_2PI * PIXELS
    return density


def curve_mean(z: Array) -> Array:
    """The bump's pixels, E[x|z]: (N,) -> (N, D)."""
    place = np.arange(PIXELS) - (PIXELS - 1) / 2
    distance = (place - 2.0 * z[:, None]) / 3.0
    bump: Array = 1.5 * np.exp(-0.5 * distance * distance)
    return bump


def curve_log_density(x: Array, nodes: int = NODES) -> Array:
    """log ∫ N(x; mean(z), s² I) N(z; 0, 1) dz: (N, D) -> (N,)."""
    places, log_weights = _hermite(nodes)
    means = curve_mean(places)  # (Q, D)
    squares = (x * x).sum(1)[:, None] - 2 * x @ means.T + (means * means).sum(1)  # (N, Q)
    terms = log_weights - 0.5 * squares / CURVE_NOISE**2
    top = terms.max(axis=1)
    total: Array = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    return total - PIXELS * (HALF_LOG_2PI + math.log(CURVE_NOISE))


@lru_cache(maxsize=8)
def _hermite(nodes: int) -> tuple[Array, Array]:
    """Places and log weights for the mean of a function under N(0, 1), both (Q,)."""
    places, weights = np.polynomial.hermite_e.hermegauss(nodes)
    with np.errstate(divide="ignore"):  # far out, where nothing is, weights underflow
        return places, np.log(weights) - HALF_LOG_2PI
