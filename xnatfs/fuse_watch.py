"""Operations that are looked on: for a mount with an access log. Without one, nothing here is imported.

The fast loop's raw callbacks are wrapped when the mount is made, so that without a log they are the bare ones.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from xnatfs import fuse_abi as abi
from xnatfs.fuse_kernel import Look
from xnatfs.fuse_ops import AnsweredError, XnatOperations
from xnatfs.fuse_vfs import Vfs
from xnatfs.stats import Cause, Stats, caused_by

log = logging.getLogger(__name__)

_NAMES = {"fgetattr": "getattr", "read_buf": "read"}
_UNSEEN = ("init", "destroy")


class Tell(Protocol):
    """What is told of each operation that has ended. ``began`` is `time.perf_counter`; ``count`` bytes read."""

    def __call__(
        self,
        operation: str,
        path: str | None,
        began: float,
        errno_name: str | None,
        count: int | None,
        cause: Cause,
        pid: int,
        uid: int,
    ) -> None: ...


class WatchedOperations(XnatOperations):
    """`XnatOperations` of which ``tell`` hears, after each call and in its thread."""

    def __init__(self, vfs: Vfs, look: Look, stats: Stats | None, tell: Tell) -> None:
        super().__init__(vfs, look, stats)
        self._tell = tell

    def __call__(self, operation: str, *arguments: Any) -> Any:
        if operation in _UNSEEN:
            return super().__call__(operation, *arguments)
        cause, began = Cause(), time.perf_counter()
        code, count = 0, None
        try:
            with caused_by(cause):
                result = super().__call__(operation, *arguments)
            count = len(result) if operation == "read" else None
            return result
        except AnsweredError as problem:
            code = problem.code
            raise
        finally:
            self._note(operation, arguments[0], began, code, count, cause)

    def watched(self, operation: str, callback: Callable[..., int]) -> Callable[..., int]:
        name, reads = _NAMES.get(operation, operation), operation == "read_buf"

        def look_on(path: bytes | int | None, *arguments: Any) -> int:
            cause, began = Cause(), time.perf_counter()
            with caused_by(cause):
                status = callback(path, *arguments)
            count = _read(arguments[0]) if reads and status == 0 else None
            self._note(name, path, began, -status, count, cause)
            return status

        return look_on

    def _note(
        self, operation: str, path: str | bytes | int | None, began: float, code: int, count: int | None, cause: Cause
    ) -> None:
        """Never raises: a log that fails must not fail the operation."""
        try:
            if isinstance(path, int):  # the address of a C string
                path = ctypes.string_at(path)
            if isinstance(path, bytes):
                path = path.decode("utf-8", "surrogateescape")
            caller = abi.library.fuse_get_context().contents
            name = errno.errorcode.get(code, str(code)) if code else None
            self._tell(operation, path, began, name, count, cause, caller.pid, caller.uid)
        except BaseException:
            log.warning("the access log misses an operation", exc_info=True)


def _read(result: int) -> int:
    """How many bytes stand in the ``struct fuse_bufvec`` that `Callbacks.read_buf` has made."""
    vector = ctypes.c_void_p.from_address(result).value
    return abi.BufferVector.from_address(vector).buf.size if vector else 0
