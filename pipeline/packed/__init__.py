"""The packed engine: many trials of one structure trained in one vectorised program.

Knows no study, no sampler, no ledger and no Ray: it takes `TrialTask`s and yields how each ended.
"""
