"""Fuzzers: what nobody meant to write, in study files, commands, ledgers and checkpoints, and events in any order.

`make fuzz` runs 10,000 cases, CI 1,000, the default suite a few (cases.py).
"""
