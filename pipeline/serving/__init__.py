"""A trained model put to use: encode, decode, sample, score; and the script by which MLflow loads it anywhere.

Knows no sweep, no ledger and no study file.
"""
