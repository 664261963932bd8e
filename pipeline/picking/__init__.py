"""Which configuration to take, and why: out of a search, and out of the whole sweep."""

from .pick import Pick, choose, pick, shortlist
from .rules import OBJECTIVES, RULES, FrontPoint
from .where import parse_where, where_text

__all__ = ["OBJECTIVES", "RULES", "FrontPoint", "Pick", "choose", "parse_where", "pick", "shortlist", "where_text"]
