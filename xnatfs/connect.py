"""From settings to a client of the site that they name. Nothing is sent before the client is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xnatfs.cache.loaders import MOST
from xnatfs.credentials import Credentials
from xnatfs.deadlines import Deadline
from xnatfs.settings import Settings
from xnatfs.stats import Stats
from xnatfs.transfer.workers import HARD
from xnatfs.xnat.client import Client

STALL_SECONDS = 20.0
"""A server that sends nothing for so long is asked anew."""

LOGOUT_SECONDS = 5.0


def client_for(settings: Settings, login: Credentials | None, stats: Stats | None = None) -> Client:
    """The client that settings describe; None is a guest. Raises `SettingsError`."""
    verify, proxy = settings.verify.value, settings.proxy.value
    return Client(
        settings.need_server(),
        login,
        verify=verify if isinstance(verify, bool) else str(verify),
        proxy=proxy.reveal() if proxy else None,
        read_timeout=min(STALL_SECONDS, settings.metadata_timeout.value, settings.read_timeout.value),
        connections=settings.parallel.value * HARD + MOST,
        stats=stats,
    )


@contextmanager
def visitor(settings: Settings) -> Iterator[Client]:
    """A client that begins as a guest, for somebody who only looks at the server; ends its session if it got one."""
    client = client_for(settings, None)
    try:
        yield client
    finally:
        client.logout(Deadline(LOGOUT_SECONDS))
        client.close()
