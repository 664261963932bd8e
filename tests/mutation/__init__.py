"""Mutants of the numerical core, made by cosmic-ray's operators, each held against the tests that concern it.

`python -m tests.mutation --count 200 --seed 0`; docs/mutation.md has what came of it.
"""
