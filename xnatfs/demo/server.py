"""The stand-in XNAT on a socket, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import BodyPartReader, web

from xnatfs.demo import faults, files
from xnatfs.demo.archive import Archive
from xnatfs.demo.ask import Answer, Ask, Part, parse_query
from xnatfs.demo.auth import Logins
from xnatfs.demo.faults import Faults, Rule
from xnatfs.demo.service import Service, ServiceOptions
from xnatfs.demo.wire import Bandwidth, RequestRecord, Wire, hang_up


@dataclass(frozen=True)
class ServerOptions:
    """What kind of site, and how fast a wire. The defaults are an XNAT 1.8 on a fast local network."""

    latency: float = 0.0
    """Seconds added to every answer."""
    service_time: float = 0.0
    """Seconds of the server's time for every file body and bundle, ``parallel`` of them at once."""
    parallel: int = 2
    bandwidth: float = 0.0
    """Bytes a second for all bodies together; 0 = no limit."""
    ranges: bool = True
    """Honour Range, or ignore it (a proxy in front, an old server)."""
    clamp_ranges: bool = False
    """Behave well for ranges past the end. XNAT does not: it promises too many bytes and falls silent."""
    digests: bool = True
    sizes: bool = True
    resource_columns: bool = True
    """Resources as columns of the project-wide listings; False: such columns are silently dropped."""
    all_files: bool = True
    """False: every ``all=true`` listing of files answers 500 (as one poisoned catalog entry makes it)."""
    version: str = "1.8.10"
    """What buildInfo says."""
    session_timeout: float = 900.0
    max_sessions: int = 1000
    max_failed_logins: int = 20
    require_login: bool = True
    admins: tuple[str, ...] = ("admin",)
    firewall: bool = True
    """Refuse odd characters in paths as Spring does since 1.8; False: only what Tomcat refuses."""
    fall_through: bool = False
    """Unknown experiments and scans in a full path list the subject's files (contract 3.7)."""
    silent_denied_put: bool = True
    shuffle: int | None = None
    """Seed: rows come in another order (none is promised)."""
    offload_root: Path | None = None
    """Files below this directory are answered with ``X-Accel-Redirect``, for an nginx in front."""
    offload_prefix: str = "/offload/"

    def service(self) -> ServiceOptions:
        """The part that is not about the wire."""
        return ServiceOptions(
            version=self.version,
            admins=frozenset(self.admins),
            require_login=self.require_login,
            resource_columns=self.resource_columns,
            firewall=self.firewall,
            fall_through=self.fall_through,
            silent_denied_put=self.silent_denied_put,
            shuffle=self.shuffle,
            files=files.Options(
                ranges=self.ranges,
                clamp_ranges=self.clamp_ranges,
                digests=self.digests,
                sizes=self.sizes,
                all_files=self.all_files,
                accel_prefix=self.offload_prefix,
                accel_root=self.offload_root,
                shuffle=self.shuffle,
            ),
        )


class DemoServer:
    """A running stand-in: ``with DemoServer(archive) as server: ... server.url``.

    The archive may be changed while it runs. Threads: `requests`, `reset_log`, `faults`, `logins` from any.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        context_path: str = "",
        users: Mapping[str, str] | None = None,
        options: ServerOptions | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``port`` 0 picks a free one. ``clock`` (seconds) ages sessions; by default the machine's."""
        self.archive = archive
        self.host = host
        self.port = port
        self.context_path = "/" + context_path.strip("/") if context_path.strip("/") else ""
        self.options = options or ServerOptions()
        self.logins = Logins(
            dict(users if users is not None else {"admin": "admin"}),
            self.options.session_timeout,
            self.options.max_sessions,
            self.options.max_failed_logins,
        )
        if clock is not None:
            self.logins.clock = clock
        self.service = Service(archive, self.logins, self.options.service(), self.context_path)
        self.faults = Faults()
        self._log: list[RequestRecord] = []
        self._log_lock = threading.Lock()
        self._wire = Wire(self.faults, Bandwidth(self.options.bandwidth))
        self._places: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """With the context path, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.context_path}"

    # log --------------------------------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[RequestRecord]:
        """Every request since the start or `reset_log`, in order of arrival."""
        with self._log_lock:
            return list(self._log)

    def reset_log(self) -> None:
        with self._log_lock:
            self._log.clear()

    def count(self, path: str = "", method: str = "") -> int:
        """How many requests had that text in their path and query."""
        return sum(1 for r in self.requests if path in f"{r.path}?{r.query}" and method in ("", r.method))

    # life -------------------------------------------------------------------------------------------------------------

    def start(self) -> DemoServer:
        """Listen; returns when connections are accepted (OSError if the port is taken)."""
        started: threading.Event = threading.Event()
        failure: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self._serve(started))
            except BaseException as error:  # reported to the thread that waits
                failure.append(error)
            finally:
                started.set()

        self._thread = threading.Thread(target=run, name="demo-server", daemon=True)
        self._thread.start()
        started.wait()
        if failure:
            self._thread.join()
            raise failure[0]
        return self

    def stop(self) -> None:
        """Stop listening and drop every connection. May be called twice."""
        thread, loop, stop = self._thread, self._loop, self._stop
        if thread is None or loop is None or stop is None:
            return
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
            thread.join()
        self._thread = None

    def __enter__(self) -> DemoServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._places = asyncio.Semaphore(self.options.parallel)
        self.faults.bind(self._loop)
        server = web.Server(
            self._handle,
            handler_cancellation=True,  # who hangs up frees what was stalled for him
            access_log=None,
            max_line_size=16_384,
            max_field_size=16_384,
        )
        runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self.host, self.port, backlog=512)
            await site.start()
            self.port = runner.addresses[0][1]
            started.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    # one request ------------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        headers = {name.lower(): value for name, value in request.headers.items()}
        record = RequestRecord(request.method, path, query, range=headers.get("range", ""), headers=headers)
        with self._log_lock:
            self._log.append(record)
        ask = Ask(request.method, path, parse_query(query), headers)
        rules = self.faults.take(request.method, path, query, ask)
        if self.options.latency:
            await asyncio.sleep(self.options.latency)
        for rule in rules:
            if rule.action == "delay":
                await asyncio.sleep(rule.seconds)
            elif rule.action == "expire":
                self.logins.expire_all()
            elif rule.action == "ignore_range":
                headers.pop("range", None)
            elif rule.action == "no_answer":
                await self.faults.stalled()
            if rule.action in ("close", "no_answer"):
                await hang_up(request)
                return web.StreamResponse()
        answer = next((a for rule in rules if (a := faults.instead(rule, self.context_path)) is not None), None)
        if answer is None:
            await self._read_body(request, ask)
            answer = await self._answer(ask, rules)
            for rule in self.faults.take_for(request.method, path, query, answer):
                rules.append(rule)
                answer = faults.spoiled(answer, rule)
        record.user = ask.user
        if self.options.service_time and not isinstance(answer.body, bytes) and request.method != "HEAD":
            assert self._places is not None
            async with self._places:
                await asyncio.sleep(self.options.service_time)
        try:
            return await self._wire.send(request, answer, rules, record)
        except ConnectionResetError:  # whoever asked has gone
            return web.StreamResponse()

    async def _answer(self, ask: Ask, rules: list[Rule]) -> Answer:
        ask.damage = next((faults.MemberDamage(rule.at) for rule in rules if rule.action == "damage_member"), None)
        if self.service.is_kept(ask):
            return self.service.handle(ask)
        return await asyncio.to_thread(self.service.handle, ask)

    @staticmethod
    async def _read_body(request: web.BaseRequest, ask: Ask) -> None:
        if request.method not in ("PUT", "POST", "DELETE") or not request.body_exists:
            return
        if request.content_type == "multipart/form-data":
            parts = []
            reader = await request.multipart()
            while (part := await reader.next()) is not None:
                if isinstance(part, BodyPartReader):
                    parts.append(Part(part.filename or "", bytes(await part.read())))
            ask.parts = tuple(parts)
        else:
            ask.body = await request.content.read()
