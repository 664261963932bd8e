"""Which configuration to take, and why: out of a search, and out of the whole sweep."""

from .pick import Pick, choose, pick, shortlist

__all__ = ["Pick", "choose", "pick", "shortlist"]
