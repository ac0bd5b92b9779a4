"""``python -m fxgrow``: the command line."""

import sys

from fxgrow.cli import main

if __name__ == "__main__":
    sys.exit(main())
