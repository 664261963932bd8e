"""Trained models beyond their sweep: registered in MLflow, found again, sampled from."""

from .code import copy_code
from .trained import REQUIREMENTS, SCRIPT, model_card, open_model, register, save_card

__all__ = ["REQUIREMENTS", "SCRIPT", "copy_code", "model_card", "open_model", "register", "save_card"]
