"""Where a login is found, and how it is kept from being seen.

The order is one for all: options, the file of ``--config``, ``XNAT_HOST``/``XNAT_USER``/``XNAT_PASS``, the saved
config file, netrc, a question on the terminal, guest. Each place makes an `Offer`; `choose` picks from them. What
belongs together stays together: a user or a password that was stored for one server is never sent to another, and
a password that was stored for one user is never sent for another.
"""

from __future__ import annotations

import netrc
import os
import shlex
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from xnatfs.errors import LoginFailed, SettingsError

STARS = "********"


class Secret:
    """A text that shows itself to nobody: ``repr``, ``str``, ``format`` and ``pickle`` give stars.

    `reveal` is the one way to the value, so that every place that uses it can be found by its name.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        return self.__value

    def __repr__(self) -> str:
        return f"Secret({STARS!r})"

    def __str__(self) -> str:
        return STARS

    def __format__(self, spec: str) -> str:
        return format(STARS, spec)

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self.__value

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, (STARS,))


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login that can be sent: a user (or alias token) and a password (or token secret)."""

    user: str
    password: Secret
    origin: str
    """Where the password came from, for a person to read."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one place says about a connection. None: that place does not say."""

    origin: str
    server: str | None = None
    user: str | None = None
    password: Secret | None = None
    guest: bool = False
    """It says to connect without a login."""
    names: Mapping[str, str] | None = None
    """A finer origin for single values: ``{"user": "environment XNAT_USER"}``."""

    def origin_of(self, what: str) -> str:
        return (self.names or {}).get(what, self.origin)


@dataclass(frozen=True, slots=True)
class Choice:
    """What `choose` found: ``(value, origin)`` for each; the value is None where nothing was found."""

    server: tuple[str | None, str]
    user: tuple[str | None, str]
    password: tuple[Secret | None, str]
    guest: tuple[bool, str]
    """True: the place that decides about the user says to have none."""


NOWHERE = "not set"


def normal_server(text: str, origin: str) -> str:
    """The one spelling of a server's URL: scheme, lower-case host, no default port, no slash at the end.

    A bare host means https. A URL with a login in it is refused: it would stand in process lists and histories.
    Raises `SettingsError`.
    """
    given = text.strip()
    if "://" not in given:
        given = f"https://{given}"
    try:
        parts = urlsplit(given)
    except ValueError:  # not quoted: it may hold a password
        raise SettingsError(f"{origin}: not a server's URL; give e.g. https://host/xnat") from None
    # The text itself is not quoted when it may hold a password.
    if "@" in parts.netloc:
        raise SettingsError(
            f"{origin}: the URL holds a user or a password; give them apart (--user, XNAT_PASS, --config)"
        )
    host = _host(parts, f"{origin}: {text!r}")
    if parts.scheme not in ("http", "https"):
        raise SettingsError(f"{origin}: {text!r} is not an http:// or https:// URL")
    if parts.query or parts.fragment:
        raise SettingsError(
            f"{origin}: {text!r} has a '?' or '#'; give the site's address only, such as https://host/xnat"
        )
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def _host(parts: SplitResult, what: str) -> str:
    """``host`` or ``host:port`` without the scheme's default port."""
    try:
        name, port = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError(f"{what} is not a server's URL: {error}") from None
    if not name or not (parts.netloc + parts.path).isprintable() or " " in parts.netloc + parts.path:
        raise SettingsError(f"{what} is not a server's URL; give e.g. https://host/xnat")
    if ":" in name:
        name = f"[{name}]"
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return name if port in (None, default) else f"{name}:{port}"


def choose(offers: Sequence[Offer]) -> Choice:
    """Server, user and password from ``offers``, first come first served, but only what belongs together.

    A user counts when its offer names no server or the chosen one; a password when, besides, its offer names no
    user or the chosen one. An offer of guest decides like one with a user.
    """
    server: tuple[str | None, str] = (None, NOWHERE)
    for offer in offers:
        if offer.server is not None:
            server = (offer.server, offer.origin_of("server"))
            break
    fitting = [offer for offer in offers if offer.server in (None, server[0])]
    user: tuple[str | None, str] = (None, NOWHERE)
    for offer in fitting:
        if offer.guest:
            return Choice(server, (None, NOWHERE), (None, NOWHERE), (True, offer.origin_of("guest")))
        if offer.user is not None:
            user = (offer.user, offer.origin_of("user"))
            break
    password: tuple[Secret | None, str] = (None, NOWHERE)
    for offer in fitting:
        if offer.password is not None and offer.user in (None, user[0]):
            password = (offer.password, offer.origin_of("password"))
            break
    return Choice(server, user, password, (False, "default"))


def complete(choice: Choice, ask: Callable[[str, bool], str] | None) -> Credentials | None:
    """The login to send; None means guest.

    ``ask(question, hidden)`` puts a question to a person and is None where there is nobody to ask. Raises
    `LoginFailed` when a user is known and a password is not to be had.
    """
    if choice.guest[0]:
        return None
    (user, _), (password, origin) = choice.user, choice.password
    if user is None and ask is not None:
        user = ask(f"User for {choice.server[0]} (empty: guest)", False).strip() or None
        origin = "prompt" if password is None else origin
    if user is None:
        return None
    if password is None and ask is not None:
        password, origin = Secret(ask(f"Password of {user} for {choice.server[0]}", True)), "prompt"
    if not password:
        raise LoginFailed(
            f"no password for user {user} at {choice.server[0]}: put it into a --config FILE, XNAT_PASS or ~/.netrc, "
            "or run this on a terminal to be asked"
        )
    return Credentials(user, password, origin)


def from_environment(environ: Mapping[str, str]) -> Offer:
    """``XNAT_HOST``, ``XNAT_USER``, ``XNAT_PASS``, as XNAT sets them in its containers. Empty counts as not set.

    Instead of XNAT_PASS: the credential ``xnatfs.password`` of a systemd unit (LoadCredential, systemd.exec(5)).
    """
    host, user, password = (environ.get(name) or None for name in ("XNAT_HOST", "XNAT_USER", "XNAT_PASS"))
    origin = "environment XNAT_PASS"
    handed_on = credentials_directory(environ)
    if password is None and handed_on is not None and (handed_on / PASSWORD_CREDENTIAL).exists():
        origin = f"credential {PASSWORD_CREDENTIAL}"
        try:
            password = (handed_on / PASSWORD_CREDENTIAL).read_text(encoding="utf-8").rstrip("\r\n") or None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{origin}: cannot be read: {_reason(error)}") from None
    return Offer(
        "environment",
        normal_server(host, "environment XNAT_HOST") if host else None,
        user,
        Secret(password) if password else None,
        names={"server": "environment XNAT_HOST", "user": "environment XNAT_USER", "password": origin},
    )


PASSWORD_CREDENTIAL = "xnatfs.password"  # noqa: S105 - a name


def credentials_directory(environ: Mapping[str, str]) -> Path | None:
    """Where systemd hands secrets to this process alone; None when it does not."""
    given = environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(given) if given.startswith("/") else None


def from_netrc(server: str, user: str | None, environ: Mapping[str, str]) -> Offer | None:
    """The entry of netrc (``$NETRC``, else ``~/.netrc``) for this server and, if given, this user.

    An entry that names a port counts for that port only. The ``default`` entry is never used: it would send a
    password to any server that is asked. Raises `SettingsError` for a file that is malformed or open to others.
    """
    named = environ.get("NETRC")
    path = Path(named).expanduser() if named else Path.home() / ".netrc"
    try:
        hosts = netrc.netrc(str(path)).hosts
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:
        # The error's own text may quote a token, and a token may be a password.
        raise SettingsError(f"{path}: line {error.lineno} is not netrc") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {_reason(error)}") from None
    parts = urlsplit(server)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    for host in (f"{parts.hostname}:{port}", str(parts.hostname)):
        entry = hosts.get(host) if host != "default" else None
        if entry and entry[0] and entry[2] and user in (None, entry[0]):
            refuse_if_others_read(path)
            return Offer(f"netrc {path}", server, entry[0], Secret(entry[2]))
    return None


def refuse_if_others_read(path: Path, *, secret: bool = True) -> None:
    """Raise `SettingsError`, with the command that mends it, when group or others may read or change ``path``.

    One that holds no ``secret`` may be read, and changed by a group, but not by everybody: it says to which server a
    login is sent that is kept elsewhere, and whether its certificate is checked.
    What systemd hands to this process is right as it is: its mode shows the mask of an access list as the group's.
    """
    handed_on = credentials_directory(os.environ)
    if handed_on is not None and path.is_relative_to(handed_on):
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {_reason(error)}") from None
    if mode & 0o002 and not secret:
        raise SettingsError(
            f"{path} can be changed by everybody (mode {mode:04o}); run: chmod o-w {shlex.quote(str(path))}"
        )
    if mode & 0o066 and secret:
        raise SettingsError(
            f"{path} holds a password and is open to others (mode {mode:04o}); run: chmod 600 {shlex.quote(str(path))}"
        )


SECRET_VARIABLES = ("XNAT_PASS", "XNATFS_PROXY")
"""They hold a password, or may: nobody else is to see them once they have been read."""


def scrub(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for child processes: without what may hold a password."""
    return {name: value for name, value in environ.items() if name not in SECRET_VARIABLES}


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
