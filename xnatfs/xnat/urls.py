"""Addresses of an XNAT site and of the things in it. Pure: text in, text out.

A *raw* path is what a listing shows: text that is not percent-encoded, in which ``#``, ``?``, ``%`` and blanks stand
for themselves (contract 4). A *request path* is what goes on the wire.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from xnatfs.errors import SettingsError

_ZIP_FOLDER = re.compile(r"\.(?:zip|jar|rar|ear|gar|mrb)!?$", re.IGNORECASE)
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_RESOURCE = re.compile(r"(?P<container>.*?)/resources/(?P<id>[^/]+)/files/(?P<path>.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a site answers, normalised: no trailing slash, no user information, context path kept."""

    scheme: str
    netloc: str
    """Host in lower case, and the port where one was given."""
    context: str = ""
    """``/xnat`` for a site at ``https://host/xnat``; empty for one at the root."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.context}"

    @property
    def host(self) -> str:
        return self.netloc

    @property
    def hostname(self) -> str:
        """The host without its port."""
        return urlsplit(self.url).hostname or ""

    @property
    def local(self) -> bool:
        """Is it this machine itself, so that nothing goes over a network?"""
        with suppress(ValueError):
            return ipaddress.ip_address(self.hostname).is_loopback
        return self.hostname == "localhost"

    def __str__(self) -> str:
        return self.url


def parse_server(text: str) -> Server:
    """A site's address as people write it: ``https://`` is assumed, a page's (``/app/...``) is cut to the site's.

    Raises:
        SettingsError: no host, another scheme than http and https, a bad port, or user information in the address.
    """
    given = text.strip()
    if not given:
        raise SettingsError("no server given: expected an address such as https://xnat.example.org")
    if "://" not in given:
        given = f"https://{given}"
    try:
        parts = urlsplit(given)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError("server address is malformed: expected one like https://xnat.example.org/xnat") from error
    if parts.username is not None or parts.password is not None:  # not repeated here: it may hold a password
        raise SettingsError("server address holds a user or password: use --user, a config file or netrc for them")
    if parts.scheme not in ("http", "https"):
        raise SettingsError(f"server address starts with {parts.scheme}://: only https:// and http:// are supported")
    if not host or re.search(r"[\s\x00-\x1f]", parts.netloc):
        raise SettingsError(f"server address {given!r} names no host")
    context = re.split(r"/(?:app|data|REST|xapi)(?:/|$)", parts.path, maxsplit=1)[0]
    context = quote(re.sub(r"/{2,}", "/", context).rstrip("/"), safe="/%~!$&'()*+,;=:@-._")
    netloc = f"[{host}]" if ":" in host else host
    return Server(parts.scheme, netloc if port is None else f"{netloc}:{port}", context)


def query(params: Mapping[str, str] | None) -> str:
    """``?a=b&c=d``, or nothing. ``:``, ``/`` and ``,`` stay readable: XNAT's column names are full of them."""
    if not params:
        return ""
    return "?" + "&".join(f"{quote(name, safe=':/')}={quote(value, safe=':/,*')}" for name, value in params.items())


def encode(raw: str) -> str:
    """Each segment of a raw path percent-encoded once: blank ``%20``, ``+`` ``%2B``, ``%`` ``%25`` (differences A7)."""
    return "/".join(quote(segment, safe="", errors="surrogatepass") for segment in raw.split("/"))


def encode_list(ids: list[str]) -> str:
    """Several IDs as one path segment; the commas between them must stay literal (contract 7.2)."""
    return ",".join(quote(item, safe="", errors="surrogatepass") for item in ids)


def data(raw: str) -> str:
    """The request path of a record's ``uri``: ``/experiments/E`` -> ``/data/experiments/E``."""
    return "/data" + encode(raw)


def segment(name: str) -> str:
    """An ID as one segment of a raw path. A slash or a comma in it is spelled out, as XNAT wants it (contract 7.2)."""
    return name.replace("/", "[SLASH]").replace(",", "[COMMA]")


def unsegment(name: str) -> str:
    """The opposite of `segment`."""
    return name.replace("[SLASH]", "/").replace("[COMMA]", ",")


def split_file_uri(uri: str) -> tuple[str, str, str] | None:
    """``(base, resource id, path)`` of a file's URI as listed: ``/data/<container>/resources/<id>/files/<path>``.

    ``base`` is raw, below ``/data``, and ends in ``/files/``; None when the text has another form. The first
    ``/resources/<one segment>/files/`` counts: scans may be called ``files``, and folders too.
    """
    for prefix in ("/data/archive/", "/data/", "/REST/"):
        if uri.startswith(prefix):
            found = _RESOURCE.match(uri[len(prefix) - 1 :])
            if found is None:
                return None
            scan = re.fullmatch(r"(/experiments/[^/]+/scans/)(.+)", found["container"], re.DOTALL)
            container = scan[1] + scan[2].replace("/", "[SLASH]") if scan else found["container"]
            return f"{container}/resources/{found['id']}/files/", found["id"], found["path"]
    return None


def experiment_in(raw: str) -> str | None:
    """The experiment that a raw path goes through, None if it goes through none."""
    found = re.match(r"^(?:/projects/[^/]+)?(?:/subjects/[^/]+)?/experiments/([^/]+)(?:/|$)", raw)
    return found[1] if found else None


def alternative(resource_uri: str) -> str | None:
    """The other form of a resource of an assessor or reconstruction: ``out/resources`` against plain ``resources``.

    A session-wide listing does not tell the two apart (contract 3.6); the number is the same in both.
    """
    found = re.match(r"^(.*/(?:assessors|reconstructions)/[^/]+)(/out)?(/resources/.*)$", resource_uri, re.DOTALL)
    if found is None:
        return None
    return found[1] + found[3] if found[2] else f"{found[1]}/out{found[3]}"


# --- file names that a server may refuse by path -------------------------------------------------------------------


def hopeless(path: str) -> bool:
    """No server serves this path as it stands: empty, ``.`` or ``..`` segments, control characters (contract 7.4)."""
    return any(part in ("", ".", "..") for part in path.split("/")) or any(ord(c) < 32 or ord(c) == 127 for c in path)


def suspicion(path: str) -> str:
    """Why a server may refuse this path, as a short stable text; empty for an ordinary one.

    XNAT 1.8 rejects an encoded ``%``, ``;`` and ``\\`` in its firewall, 1.6.4 serves them (contract 7.4,
    differences A7); a folder called ``x.zip`` is taken for an archive to look into (contract 4).
    """
    odd = "".join(c for c in "%;\\" if c in path)
    if any(_ZIP_FOLDER.search(folder) for folder in path.split("/")[:-1]):
        odd += "z"
    return odd


def as_listed(path: str) -> str | None:
    """A path whose every ``%`` begins a valid escape, encoded but for these; None for any other path.

    1.8 stores some names with the escapes they were sent with and finds them only when these come unchanged
    (contract 7.4, "trap").
    """
    if "%" not in path or len(_ESCAPE.findall(path)) != path.count("%"):
        return None
    return "/".join(quote(part, safe="%", errors="surrogatepass") for part in path.split("/"))
