"""Executors: where trials are trained. The contract, the twins, the Ray pool and the process pool.

Knows trials and workers; knows no study, sampler, ledger or tracker.
"""
