"""Measured comparisons with the tools people use today; see README.md beside this file. No part of the package."""
