"""The stand-in XNAT as a function from a request to an answer: routing, login rules, headers. No sockets."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from xnatfs.demo import catalog, files, items, pages, schemas, writes
from xnatfs.demo.archive import Archive
from xnatfs.demo.ask import RESTLET, TABLE_VARIANTS, VARY, Answer, Ask, Refusal, firewall, json_answer, segments, text
from xnatfs.demo.auth import Identity, Logins
from xnatfs.demo.listings import Listings
from xnatfs.demo.resolve import Resolver, Viewer, Where
from xnatfs.demo.tables import Table, arranged, render

_BROWSER = re.compile(r"Mozilla|AppleWebKit|MSIE|Opera", re.IGNORECASE)
_OPEN_XAPI = ("siteConfig/buildInfo", "siteConfig/siteId", "siteConfig/siteUrl", "siteConfig/siteHome")
_KEPT = 64
"""Rendered listings that are kept until the archive changes."""


@dataclass
class ServiceOptions:
    """What kind of XNAT this is; the server's options without those about the wire."""

    version: str = "1.8.10"
    admins: frozenset[str] = frozenset({"admin"})
    require_login: bool = True
    """False: an open site, where nobody in particular is ``guest`` and sees public projects."""
    resource_columns: bool = True
    firewall: bool = True
    fall_through: bool = False
    silent_denied_put: bool = True
    """A file PUT without the right to edit answers 200 and stores nothing, as XNAT does."""
    shuffle: int | None = None
    site_id: str = "XNAT"
    files: files.Options = field(default_factory=files.Options)


class Service:
    """One site. Thread-safe as far as the archive is."""

    def __init__(self, archive: Archive, logins: Logins, options: ServiceOptions, context: str = "") -> None:
        self.archive = archive
        self.logins = logins
        self.options = options
        self.context = context
        self.files = files.Files(options.files)
        self.listings = Listings(resource_columns=options.resource_columns, shuffle=options.shuffle)
        self._kept: OrderedDict[tuple[object, ...], Answer] = OrderedDict()
        self._kept_version = -1
        self._kept_lock = threading.Lock()

    def handle(self, ask: Ask) -> Answer:
        """The answer to a request whose path still has the context path."""
        if ask.method == "POST" and ask.get("method").upper() in ("PUT", "DELETE"):
            ask.method = ask.get("method").upper()
        try:
            if self.options.firewall:
                firewall(ask.path)
            if not (ask.path + "/").startswith(self.context + "/"):
                raise Refusal(404, tomcat=True)
            ask.path = ask.path[len(self.context) :] or "/"
            ask.context = self.context
            answer = self._identified(ask)
        except Refusal as refusal:
            answer = refusal.answer()
        self._expiration(answer)
        return answer

    # login ------------------------------------------------------------------------------------------------------------

    def _identified(self, ask: Ask) -> Answer:
        identity = self.logins.identify(ask.headers)
        if identity.refused:
            return self._unauthorized(ask, identity.refused)
        ask.user, ask.admin = identity.user, identity.user in self.options.admins
        kind, rest = _application(ask.path)
        if identity.user is None and not _is_open(kind, rest) and self.options.require_login:
            return self._unauthorized(ask) if kind in ("data", "xapi") else self._to_login()
        if kind == "data":
            if rest == "/JSESSION":
                return self._jsession(ask, identity)
            answer = self._data(ask, rest)
        elif kind == "xapi":
            answer = self._xapi(ask, rest)
        else:
            answer = self._page(ask, rest)
        if identity.fresh:
            self._cookie(answer, identity.session)
        return answer

    def _unauthorized(self, ask: Ask, message: str = "") -> Answer:
        if not message and _BROWSER.search(ask.headers.get("user-agent", "")):
            return self._to_login()
        answer = Refusal(401, message, tomcat=True).answer()
        answer.headers.append(("WWW-Authenticate", f'Basic realm="{self.options.site_id}"'))
        return answer

    def _to_login(self) -> Answer:
        return Answer(status=302, headers=[("Location", f"{self.context}/app/template/Login.vm")])

    def _cookie(self, answer: Answer, session: str) -> None:
        answer.headers.append(("Set-Cookie", f"JSESSIONID={session}; Path={self.context or '/'}; HttpOnly"))

    def _expiration(self, answer: Answer) -> None:
        now, limit = int(time.time() * 1000), int(self.logins.timeout * 1000)
        answer.headers.append(
            ("Set-Cookie", f'SESSION_EXPIRATION_TIME="{now},{limit}"; Version=1; Path={self.context or "/"}')
        )

    def _jsession(self, ask: Ask, identity: Identity) -> Answer:
        if ask.method == "DELETE":
            self.logins.end(identity.session)
            return self._restlet(text(""))
        if not identity.session:
            identity = self.logins.anonymous()  # an open address: this proves nothing about a login
        body = identity.session + ("; XNAT_CSRF=0f8fad5b-d9cb-469f-a165-70867728950e" if ask.true("CSRF") else "")
        answer = self._restlet(text(body))
        if identity.fresh:
            self._cookie(answer, identity.session)
        return answer

    # /data ------------------------------------------------------------------------------------------------------------

    def _restlet(self, answer: Answer) -> Answer:
        answer.headers.append(("Accept-Ranges", "bytes"))
        answer.headers.append(("Server", RESTLET))
        if answer.chunked or answer.header("Last-Modified"):
            answer.headers.append(("Vary", VARY))
        return answer

    def _data(self, ask: Ask, rest: str) -> Answer:
        try:
            answer = self._cached(ask, rest)
        except Refusal as refusal:
            answer = refusal.answer()
        wanted = ask.headers.get("range", "")
        if answer.chunked and answer.status == 200 and wanted and self.options.files.ranges:
            first, _, last = wanted.partition("=")[2].partition("-")
            if not first.strip() or not last.strip():
                answer = Refusal(500).answer()  # no length, no suffix and no open end (contract 5.2)
        return self._restlet(answer)

    def _cached(self, ask: Ask, rest: str) -> Answer:
        """Listings are kept as bytes until the archive changes: a resource may hold 100,000 files."""
        key = (ask.user, rest, ask.query, ask.headers.get("accept"))
        version = self.archive.version
        if not (ask.method in ("GET", "HEAD") and self.archive.cacheable):
            return self._route(ask, rest)
        with self._kept_lock:
            if self._kept_version != version:
                self._kept.clear()
                self._kept_version = version
            kept = self._kept.get(key)
        if kept is not None:
            return Answer(kept.body, kept.status, kept.type, list(kept.headers), kept.chunked)
        answer = self._route(ask, rest)
        with self._kept_lock:
            if answer.chunked and isinstance(answer.body, bytes) and version == self.archive.version:
                self._kept[key] = Answer(answer.body, answer.status, answer.type, list(answer.headers), True)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return answer

    def is_kept(self, ask: Ask) -> bool:
        """Whether the answer needs no work (a guess that may be wrong without harm)."""
        kind, rest = _application(ask.path[len(self.context) :])
        with self._kept_lock:
            return kind == "data" and any(key[1:3] == (rest, ask.query) for key in self._kept)

    def _route(self, ask: Ask, rest: str) -> Answer:
        words = segments(rest)
        first = words[0] if words else ""
        if first == "auth":
            return text(f"User '{ask.user or 'guest'}' is logged in")
        if first == "services":
            return self._service(ask, words[1:])
        if first == "search" and words[1:2] == ["elements"]:
            return self._elements(ask, words[2:])
        viewer = Viewer(self.archive, ask.user, ask.admin)
        resolver = Resolver(viewer, fall_through=self.options.fall_through)
        if ask.method in ("PUT", "POST", "DELETE"):
            return writes.answer(ask, rest, resolver, silent_denied_put=self.options.silent_denied_put)
        if ask.method not in ("GET", "HEAD"):
            raise Refusal(405)
        return self._read(ask, resolver.resolve(rest), resolver)

    def _read(self, ask: Ask, where: Where, resolver: Resolver) -> Answer:
        kind = where.kind
        if kind == "missing":
            # Where XNAT runs into a null pointer: files and scans of an unknown experiment or scan by ID.
            stumbles = where.extra[:1] in (["files"], ["scans"]) or where.extra[-1:] == ["files"]
            raise Refusal(500 if stumbles else 404)
        if kind == "files":
            return self.files.answer(ask, where, resolver)
        if kind == "resource":
            return catalog.catalog(ask, where, resolver)
        if kind in ("projects", "subjects", "experiments", "scans", "assessors", "reconstructions", "resources"):
            return self.listings.answer(ask, where, resolver)
        item = where.item
        assert item is not None
        if where.extra[:1] == ["projects"] and kind in ("subject", "experiment"):
            return self._sharing(ask, where)
        if where.extra[:1] in (["DIR"], ["history"], ["status"], ["XAR"]):
            raise Refusal(404)  # routes of a real XNAT that nobody here asks for
        return items.answer(ask, item, resolver.viewer)

    def _sharing(self, ask: Ask, where: Where) -> Answer:
        item = where.experiment or where.subject
        assert item is not None
        ask.require(TABLE_VARIANTS)
        rows = [(label, name, name, name) for name, label in {item.project.id: item.label, **item.shares}.items()]
        table = Table(["label", "ID", "Secondary_ID", "Name"], rows, {"totalRecords": str(len(rows))})
        return render(arranged(table, ask, self.options.shuffle), ask)

    def _elements(self, ask: Ask, words: list[str]) -> Answer:
        ask.require(TABLE_VARIANTS)
        if words:
            table = schemas.fields(words[0])
            if table is None:
                raise Refusal(400)
            return render(table, ask)
        counts = Counter(
            item.xsi_type for item in (*self.archive.experiments.values(), *self.archive.subjects.values())
        )
        return render(schemas.elements(dict(counts)), ask)

    def _service(self, ask: Ask, words: list[str]) -> Answer:
        if words == ["auth"] and ask.method in ("PUT", "POST"):
            form = dict(parse_qsl(ask.body.decode("utf-8", "replace"), keep_blank_values=True))
            identity = self.logins.login(form.get("username", ""), form.get("password", ""))
            if identity.refused:
                raise Refusal(401, "Authentication failed.")
            answer = text(identity.session)
            self._cookie(answer, identity.session)
            return answer
        if words[:1] == ["tokens"] and ask.user is not None:
            return self._tokens(ask, ask.user, words[1:])
        raise Refusal(403 if words[:1] == ["tokens"] else 404)

    def _tokens(self, ask: Ask, user: str, words: list[str]) -> Answer:
        if words[:1] == ["issue"]:
            for_user = words[2] if words[1:2] == ["user"] and len(words) > 2 else user
            if for_user != user and not ask.admin:
                raise Refusal(403)
            token = self.logins.issue(for_user)
            return json_answer(
                {
                    "alias": token.alias,
                    "secret": token.secret,
                    "singleUse": False,
                    "estimatedExpirationTime": int(time.time() * 1000) + 172_800_000,
                    "xdatUserId": for_user,
                    "validIPAddresses": None,
                    "id": len(self.logins.tokens),
                    "enabled": True,
                    "disabled": 0,
                }
            )
        if words[:1] == ["validate"] and len(words) == 3:
            valid = self.logins.validate(words[1], words[2])
            return json_answer({"valid": valid} if valid else {})
        if words[:1] == ["invalidate"] and len(words) > 1:
            self.logins.invalidate(words[1])
            return json_answer({"result": "OK"})
        if words[:1] == ["show"]:
            return json_answer([{"alias": t.alias} for t in self.logins.tokens.values() if t.user == user])
        raise Refusal(404)

    # the rest ---------------------------------------------------------------------------------------------------------

    def _xapi(self, ask: Ask, rest: str) -> Answer:
        path = rest.strip("/")
        if path == "siteConfig/buildInfo":
            return json_answer({"version": self.options.version, "buildNumber": "1", "isDirty": "false"})
        if path == "siteConfig/uptime":
            return json_answer({"days": "0", "hours": "0", "minutes": "1", "seconds": "1"})
        if path == "siteConfig/siteId":
            return Answer(self.options.site_id.encode(), type="text/plain")
        if ask.user is None and path.split("/")[0] != "schemas":
            return self._unauthorized(ask)
        if path == "users/username":
            return Answer((ask.user or "guest").encode(), type="text/plain")
        if path == "access/projects":
            viewer = Viewer(self.archive, ask.user, ask.admin)
            seen = [p for p in tuple(self.archive.projects.values()) if viewer.sees(p)]
            return json_answer([{"ID": p.id, "name": p.name, "role": viewer.role(p), "access": p.access} for p in seen])
        if path == "schemas":
            return json_answer(list(schemas.NAMES))
        if path.startswith("schemas/"):
            found = schemas.schema(path.removeprefix("schemas/"))
            if found is not None:
                return found
        return Answer(status=404)

    def _page(self, ask: Ask, rest: str) -> Answer:
        if rest.startswith("/app/template/Login.vm"):
            return Answer(pages.login(self.context), type="text/html;charset=ISO-8859-1")
        if rest in ("/", "/app/template/Index.vm"):
            return Answer(pages.home(ask.user, self.context), type="text/html;charset=ISO-8859-1")
        raise Refusal(404, tomcat=True)


def _application(path: str) -> tuple[str, str]:
    """Which application a path (without context) belongs to, and what follows its name."""
    for prefix, kind in (
        ("/data/archive", "data"),
        ("/data", "data"),
        ("/REST/archive", "data"),
        ("/REST", "data"),
        ("/xapi", "xapi"),
    ):
        if path == prefix or path.startswith(prefix + "/"):
            return kind, path[len(prefix) :]
    return "page", path


def _is_open(kind: str, rest: str) -> bool:
    if kind == "data":
        return rest in ("/JSESSION", "/services/auth")
    if kind == "xapi":
        return rest.strip("/") in _OPEN_XAPI
    return rest.startswith("/app/template/Login.vm")
