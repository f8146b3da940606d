"""A running stand-in and a client that sends paths exactly as written."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from xnatfs.demo import Archive, DemoServer, ServerOptions, synthetic_archive

USERS = {"admin": "admin", "reader": "reader", "member": "member", "bob": "bob"}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def rows(self) -> list[dict[str, str]]:
        return self.json["ResultSet"]["Result"]


class Raw:
    """One request a connection, nothing quoted, nothing followed. Logs in as ``user`` unless told otherwise."""

    def __init__(self, server: DemoServer, user: str | None = "admin") -> None:
        self.server = server
        self.user = user

    def __call__(
        self, method: str, path: str, *, body: bytes | None = None, user: str | None = "", **headers: str
    ) -> Reply:
        who = self.user if user == "" else user
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if who is not None and "Authorization" not in sent:
            code = base64.b64encode(f"{who}:{USERS.get(who, who)}".encode()).decode()
            sent["Authorization"] = f"Basic {code}"
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=20)
        connection._validate_path = lambda path: None  # type: ignore[attr-defined]
        try:
            connection.request(method, self.server.context_path + path, body, sent)
            answer = connection.getresponse()
            cookies = {}
            for line in answer.headers.get_all("Set-Cookie") or ():
                name, _, value = line.partition("=")
                cookies[name] = value
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read(), cookies)
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Reply:
        return self("GET", path, **options)

    def rows(self, path: str, **options: Any) -> list[dict[str, str]]:
        reply = self.get(path, **options)
        assert reply.status == 200, (path, reply.status, reply.body[:300])
        return reply.rows


Start = Callable[..., Raw]


@pytest.fixture(scope="session")
def shared_server() -> Iterator[DemoServer]:
    """For tests that change nothing."""
    with DemoServer(synthetic_archive(), users=USERS) as server:
        yield server


@pytest.fixture
def raw(shared_server: DemoServer) -> Raw:
    shared_server.reset_log()
    return Raw(shared_server)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server of one's own: ``start(archive, option=value, ...)`` or with nothing for the demo study."""
    running: list[DemoServer] = []

    def begin(archive: Archive | None = None, *, context_path: str = "", clock: Any = None, **options: Any) -> Raw:
        server = DemoServer(
            archive or synthetic_archive(),
            users=USERS,
            context_path=context_path,
            options=ServerOptions(**options),
            clock=clock,
        )
        running.append(server.start())
        return Raw(server)

    yield begin
    for server in running:
        server.stop()


@pytest.fixture
def small() -> Archive:
    """One session with one scan, two resources and three files."""
    archive = Archive()
    project = archive.add_project("P", members={"reader": "Collaborators", "member": "Members"})
    session = archive.add_session(archive.add_subject(project, "S"), "E", date="2024-01-02")
    scan = archive.add_scan(session, "1", type="T1 w", quality="usable")
    dicom = archive.add_resource(scan, "DICOM", format="DICOM", content="RAW")
    archive.add_file(dicom, "a.dcm", bytes(range(256)) * 4, format="DICOM")
    archive.add_file(dicom, "sub/b.dcm", b"b" * 300, format="DICOM")
    archive.add_file(archive.add_resource(session, "NOTES"), "n.txt", b"note\n")
    return archive


def base64_basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def basic() -> Callable[[str, str], str]:
    return base64_basic


DICOM = "/data/experiments/XNAT_E00001/scans/1/resources/DICOM/files"


@pytest.fixture
def dicom() -> str:
    """Path of the DICOM files of the ``small`` archive."""
    return DICOM
