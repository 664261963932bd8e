"""`python -m tests.chaos`: run.py, which must be a module of its own for the processes that it starts."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
