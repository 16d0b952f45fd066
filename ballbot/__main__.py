"""``python -m ballbot``: the same as ``ballbot``."""

import sys

from ballbot.commands import main

if __name__ == "__main__":
    sys.exit(main())
