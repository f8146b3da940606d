"""The login of a command: found, or asked for on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xnatfs import console

if TYPE_CHECKING:
    from xnatfs.credentials import Credentials
    from xnatfs.settings import Settings


def login_for(settings: Settings) -> Credentials | None:
    """The login to use, asked for if need be, after saying what a person should know before it is sent."""
    from xnatfs import app

    login = app.find_login(settings, console.ask if console.can_ask() else None)
    for text in app.warnings(settings, login):
        console.complain(text, "warning")
    return login
