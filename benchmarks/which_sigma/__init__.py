"""The question the project was born from, asked in full: the studies, what is kept of them, and the page made of that.

studies.py has what is run, summaries.py what is kept, numbers.py the statistics, tables.py and figures.py the page's
parts. The page is docs/which-sigma.md; its prose is written by hand.
"""
