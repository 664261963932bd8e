"""The chaos suite: real sweeps on real Ray, MLflow and PostgreSQL, with faults drawn from a seed.

`python -m tests.chaos --seeds 0-99` (make chaos) runs schedules; tests/test_chaos.py runs a few in CI.
"""
