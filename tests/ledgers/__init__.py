"""Ledgers as released versions wrote them, and the script that makes the one of this version."""
