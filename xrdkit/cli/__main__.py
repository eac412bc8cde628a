"""``python -m xrdkit.cli``."""

import sys

from xrdkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
