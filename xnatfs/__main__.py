"""``python -m xnatfs`` and the ``xnatfs`` command."""

from __future__ import annotations

import sys

from xnatfs import cli, mount_helper


def main() -> int:
    """The command line, or mount.fuse(8) calling."""
    return mount_helper.main() if mount_helper.is_call(sys.argv[1:]) else cli.main()


if __name__ == "__main__":
    sys.exit(main())
