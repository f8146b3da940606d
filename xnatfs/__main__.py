"""``python -m xnatfs`` and the ``xnatfs`` command."""

from __future__ import annotations

import sys

from xnatfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
