"""Tell a service manager how it goes: sd_notify(3), datagrams of ``NAME=value`` lines to ``$NOTIFY_SOCKET``.

No library: `sdnotify` has not been released since 2017, `systemd-python` needs a compiler and libsystemd.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(**values: str) -> None:
    """Send e.g. ``READY="1", STATUS="mounted"``. Nothing without a manager; a manager that is gone is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    message = "".join(f"{name}={value}\n" for name, value in values.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
        try:
            # A socket without a file starts with a zero byte, which is written as "@".
            sending.sendto(message.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as error:
            log.warning("the service manager is not told %s: %s", "/".join(values), error.strerror)
