"""All settings: one frozen, typed value, in which each entry remembers where it came from.

One order for everything: option > file of ``--config`` > environment > saved config file > default. Config files are
pyxnat's JSON (``server``, ``user``, ``password``, ``verify``, ``proxy``) and may hold every other setting as well;
pyxnat ignores those.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import platformdirs

from xnatfs import credentials
from xnatfs.credentials import STARS, Choice, Offer, Secret
from xnatfs.errors import SettingsError
from xnatfs.options import BY_NAME, OPTIONS, Option

T = TypeVar("T")

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Sourced(Generic[T]):
    """A value and where it came from, in words for a person."""

    value: T
    origin: str = DEFAULT


TIED_TO_SERVER = ("verify", "proxy")
"""Like a login, these belong to the server that they were stored with: no certificate check goes missing elsewhere."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a command runs with. Sizes in bytes, times in seconds. No value of this holds a readable secret."""

    server: Sourced[str | None]
    user: Sourced[str | None]
    password: Sourced[Secret | None]
    guest: Sourced[bool]
    verify: Sourced[bool | Path]
    proxy: Sourced[Secret | None]
    read_timeout: Sourced[float]
    metadata_timeout: Sourced[float]
    parallel: Sourced[int]
    cache_dir: Sourced[Path]
    cache_size: Sourced[int]
    cache_age: Sourced[float]
    min_free: Sourced[int | None]
    ttl: Sourced[float]
    offline: Sourced[bool]
    keep_listings: Sourced[str]
    series: Sourced[bool]
    scan_names: Sourced[str]
    layout: Sourced[str]
    loop: Sourced[str]
    fuse_options: Sourced[tuple[str, ...]]
    log_file: Sourced[Path | None]
    log_level: Sourced[str]
    access_log: Sourced[Path | None]
    notes: tuple[str, ...] = ()
    """What was found and not used, and why; for the log at level debug."""

    def need_server(self) -> str:
        """The server's URL; raises `SettingsError` when nothing names one."""
        if self.server.value is None:
            raise SettingsError(
                "no server: name one (https://host), or set XNAT_HOST, or give --config FILE; "
                "'xnatfs config save' keeps one for good"
            )
        return self.server.value

    def choice(self) -> Choice:
        """What `xnatfs.credentials.complete` needs."""
        return Choice(
            (self.server.value, self.server.origin),
            (self.user.value, self.user.origin),
            (self.password.value, self.password.origin),
            (self.guest.value, self.guest.origin),
        )

    def shown(self) -> Iterator[tuple[str, Any, str]]:
        """(name, value for JSON, origin) of every setting; secrets as stars."""
        for entry in fields(self):
            sourced = getattr(self, entry.name)
            if not isinstance(sourced, Sourced):
                continue
            value = plain(sourced.value)
            if entry.name == "proxy" and sourced.value and "@" not in sourced.value.reveal():
                value = sourced.value.reveal()  # a proxy's URL without a login is no secret
            yield entry.name, value, sourced.origin


def plain(value: Any) -> Any:
    """A value as JSON can hold it, secrets as stars."""
    if isinstance(value, Secret):
        return STARS
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


# -- config files ----------------------------------------------------------------------------------------------------


def saved_config() -> Path:
    """The config file that is read when nothing else says so."""
    return platformdirs.user_config_path("xnatfs") / "config.json"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a JSON file says: the login part, the other settings by name, and keys that nobody knows."""

    offer: Offer
    values: Mapping[str, object] = field(repr=False)
    unknown: tuple[str, ...] = ()


def read_config(path: Path, label: str = "file") -> ConfigFile:
    """Read a pyxnat config. Raises `SettingsError`: not there, not JSON, or open to others who may not."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"config {label} {path}: {error.strerror}") from None
    try:
        document = json.loads(raw)
    except RecursionError:
        raise SettingsError(f"config {label} {path} is nested too deeply") from None
    except ValueError as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise SettingsError(f"config {label} {path} is not JSON ({where})") from None
    if not isinstance(document, dict):
        raise SettingsError(
            f'config {label} {path} is not a JSON object such as {{"server": "https://host", "user": "me"}}'
        )
    origin = f"{label} {path}"
    texts = {key: _text(document.get(key), f"{origin}: {key!r}") for key in ("server", "user", "password")}
    values = {key: value for key, value in document.items() if key in BY_NAME and value is not None}
    secret = bool(texts["password"]) or "@" in str(values.get("proxy", ""))
    credentials.refuse_if_others_read(path, secret=secret)
    offer = Offer(
        origin,
        credentials.normal_server(texts["server"], origin) if texts["server"] else None,
        texts["user"],
        Secret(texts["password"]) if texts["password"] else None,
        guest="guest" in values and _parsed(BY_NAME["guest"], values["guest"], origin),
    )
    return ConfigFile(offer, values, tuple(sorted(set(document) - set(BY_NAME) - set(texts))))


def _text(value: object, what: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    raise SettingsError(f"{what} is not a text")


def save_config(path: Path, settings: Settings, *, overwrite: bool, with_password: bool = True) -> None:
    """Write ``path`` in pyxnat's JSON form, mode 0600, whole or not at all.

    Server, user, password, ``verify`` and ``proxy``, and every other setting that is not a default. Raises
    `SettingsError` when it exists and may not be overwritten, or cannot be written.
    """
    document: dict[str, Any] = {"server": settings.need_server()}
    if settings.user.value:
        document["user"] = settings.user.value
        if settings.password.value and with_password:
            document["password"] = settings.password.value.reveal()
    for name in BY_NAME:
        sourced = getattr(settings, name)
        if sourced.origin != DEFAULT:
            value = sourced.value
            document[name] = value.reveal() if isinstance(value, Secret) else plain(value)
    if path.exists() and not overwrite:
        raise SettingsError(f"{path} exists; --force overwrites it")
    _write(path, document)


def save_setting(path: Path, name: str, value: int | str) -> None:
    """Change one setting of a config file, or begin one with it. Raises `SettingsError`."""
    document: dict[str, Any] = {}
    if path.exists():
        read_config(path)  # says what is wrong with it
        document = json.loads(path.read_bytes())
    _write(path, {**document, name: value})


def _write(path: Path, document: dict[str, Any]) -> None:
    """Mode 0600, whole or not at all."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


# -- putting them together -------------------------------------------------------------------------------------------


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    saved: Path | None = None,
) -> Settings:
    """Settings from everywhere. Nobody is asked and nothing is sent.

    ``flags``: options by name, plus ``server`` and ``user``; a value of None counts as not given. ``config``: the
    file of ``--config``; ``saved``: the file that is read if it exists. Raises `SettingsError`.
    """
    files = [read_config(config)] if config else []
    if saved is not None and saved.exists():
        files.append(read_config(saved, "saved config"))
    environment = credentials.from_environment(environ)
    if environ.get("XNATFS_GUEST"):
        wanted = _parsed(BY_NAME["guest"], environ["XNATFS_GUEST"], "environment XNATFS_GUEST")
        environment = replace(environment, guest=wanted, user=None if wanted else environment.user)
    offers = [_from_flags(flags), *(file.offer for file in files)]
    offers.insert(2 if config else 1, environment)
    choice = credentials.choose(offers)
    server = choice.server[0]
    notes = [f"{file.offer.origin}: ignored {', '.join(file.unknown)}" for file in files if file.unknown]
    notes += [
        f"{offer.origin} is for {offer.server}: its login is not used"
        for offer in offers
        if offer.server not in (None, server)
    ]
    found: dict[str, Any] = {}
    for option in OPTIONS:
        found[option.name] = Sourced(option.default)
        for value, origin in _candidates(option, flags, environ, files, server, has_config=config is not None):
            found[option.name] = Sourced(_parsed(option, value, origin), origin)
            break
    found["guest"] = Sourced(*choice.guest)
    if found["cache_dir"].value is None:
        found["cache_dir"] = Sourced(platformdirs.user_cache_path("xnatfs"))
    if not choice.guest[0] and choice.password[0] is None and server is not None:
        entry = credentials.from_netrc(server, choice.user[0], environ)
        choice = credentials.choose([*offers, entry]) if entry else choice
    return Settings(
        server=Sourced(*choice.server),
        user=Sourced(*choice.user),
        password=Sourced(*choice.password),
        **found,
        notes=tuple(notes),
    )


def _from_flags(flags: Mapping[str, object]) -> Offer:
    server, user, guest = flags.get("server"), flags.get("user"), bool(flags.get("guest"))
    if user and guest:
        raise SettingsError("--user and --guest exclude each other")
    return Offer(
        "command line",
        credentials.normal_server(str(server), "server") if server else None,
        str(user) if user else None,
        guest=guest,
        names={"user": "option --user", "guest": "option --guest"},
    )


def _candidates(
    option: Option,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    files: Sequence[ConfigFile],
    server: str | None,
    *,
    has_config: bool,
) -> Iterator[tuple[object, str]]:
    """(raw value, origin) of one setting, in the one order."""
    given = flags.get(option.name)
    if given is not None and given != ():
        yield (
            given,
            f"option {option.flag}" if option.name != "verify" or given is not False else "option --insecure",
        )
    in_files = [
        (file.values[option.name], file.offer.origin)
        if option.name in file.values and _applies(option, file, server)
        else None
        for file in files
    ]
    from_environment = (
        (environ[option.variable], f"environment {option.variable}") if environ.get(option.variable) else None
    )
    in_files.insert(1 if has_config else 0, from_environment)
    yield from (candidate for candidate in in_files if candidate is not None)


def _applies(option: Option, file: ConfigFile, server: str | None) -> bool:
    return option.name not in TIED_TO_SERVER or file.offer.server in (None, server)


def _parsed(option: Option, value: object, origin: str) -> Any:
    if option.name == "proxy" and origin.startswith("option") and "@" in str(value):
        raise SettingsError(f"{origin}: others can see options; put a proxy with a login into a config file")
    try:
        return option.parse(value)
    except (ValueError, OverflowError) as error:
        # A proxy may hold a login, so that one is not quoted.
        shown = "" if option.name == "proxy" else f" {value!r}:"
        where = origin if origin.startswith(("option", "environment")) else f"{origin}, {option.name!r}"
        reason = str(error) if str(error).startswith(("has to", "no ", "not ")) else "not a number"
        raise SettingsError(f"{where}:{shown} {reason}") from None


def with_login(settings: Settings, user: str, password: Secret, origin: str) -> Settings:
    """The same settings with a login that was asked for."""
    return replace(settings, user=Sourced(user, origin), password=Sourced(password, origin))
