"""Trackers: where people browse what a sweep has done. A kit; knows no ledger, study or trial."""
