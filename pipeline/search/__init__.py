"""All that knows Optuna: the search itself, and its export to an Optuna storage.

Part of the spine: it knows a study's domains and the shared words; no worker, no tracker, no trial's training.
"""
