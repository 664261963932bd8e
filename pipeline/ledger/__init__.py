"""The ledger kit: the sweep's own database, the truth that MLflow and every table are fed from.

Knows the shared words and SQLAlchemy; no study, no worker, no tracker.
"""
