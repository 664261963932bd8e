"""Data sets: loading, giving the pixels a form, dividing. Knows no trial, no config, no torch."""

from __future__ import annotations

from .dataset import FORMS, DataSet, load_data
from .loaders import LOADERS

__all__ = ["FORMS", "LOADERS", "DataSet", "load_data"]
