"""Data sets: loading, giving the pixels a form, dividing. Knows no trial, no config, no torch."""

from __future__ import annotations

from .dataset import DataSet, Factors, load_data
from .forms import FORMS
from .loaders import LOADERS

__all__ = ["FORMS", "LOADERS", "DataSet", "Factors", "load_data"]
