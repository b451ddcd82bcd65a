"""`python3 -I -S executor.pyz` and `python3 -m jobworker.executor`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
