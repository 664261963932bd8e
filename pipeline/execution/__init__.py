"""Executors: where trials are trained. The contract, the in-process twin and the Ray pool.

Knows trials and workers; knows no study, sampler, ledger or tracker.
"""
