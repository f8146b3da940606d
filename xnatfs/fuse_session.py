"""The fast loop: libfuse's session, served by Python's own threads through raw callbacks."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from ctypes import c_char_p, c_int, c_void_p
from functools import partial
from typing import Any

from xnatfs import fuse_abi as abi
from xnatfs.errors import MountpointError
from xnatfs.fuse_fast import Callbacks
from xnatfs.fuse_mount import MountOptions
from xnatfs.fuse_ops import XnatOperations, answer
from xnatfs.fuse_threads import Threads

log = logging.getLogger(__name__)

LOOK = 5.0
"""Seconds for a look at a name of the root, after which it is dropped anyway."""
library = abi.library


class Table(abi.FUSE):  # type: ignore[misc]  # fusepy has no types
    """The table of operations: the hot ones raw, the others through fusepy's own methods and one guard."""

    def __init__(self, operations: XnatOperations, waiting: Threads, raw: dict[str, Any]) -> None:
        # fusepy's own __init__ would mount, and return when all is over
        self.operations = operations
        self.encoding = abi.PATHS
        self.raw_fi = self.use_ns = True
        self._waiting = waiting
        self._raw = raw  # libfuse has their addresses only
        self.structure = abi.Operations()
        for name, prototype, *_ in abi.FIELDS:
            wanted = {"ftruncate": "truncate", "fgetattr": "getattr"}.get(name, name)
            if name not in raw and hasattr(prototype, "argtypes") and hasattr(operations, wanted):
                setattr(self.structure, name, prototype(partial(self._cold, name, getattr(self, name))))
        for name, function in raw.items():
            place = getattr(abi.Operations, name).offset
            c_void_p.from_buffer(self.structure, place).value = ctypes.cast(function, c_void_p).value

    def _cold(self, name: str, method: Callable[..., int | None], *arguments: Any) -> int:
        """In place of fusepy's ``_wrapper``, which lets some exceptions through."""
        try:
            with self._waiting:
                return method(*arguments) or 0
        except BaseException as problem:
            return -answer(name, problem)


class Session:
    """One mount. The order is: `first_request`, `serve` in any number of threads, `stop`, `close`."""

    def __init__(self, operations: XnatOperations, mountpoint: str, options: MountOptions, **making: Any) -> None:
        """Mounts. ``making``: ``ended`` (called by each thread that ends) and ``clock``. Raises `MountpointError`."""
        abi.check()
        abi.declare()
        self.threads = Threads(self.serve, making["ended"], start=options.threads, limit=options.max_threads)
        self._operations = operations
        self._where = mountpoint
        self._dropping = threading.Lock()  # guards _closed and the channel; a leaf
        self._closed = False
        operations.caller = abi.caller
        operations.outlived = self._forget_again
        self._callbacks = Callbacks(operations, self.threads, making["clock"])
        self._table = Table(operations, self.threads, self._callbacks.table())
        self._fuse, self._mountpoint = self._setup(mountpoint, options)
        self._session = library.fuse_get_session(self._fuse)
        self._channel = library.fuse_session_next_chan(self._session, None)

    def _setup(self, mountpoint: str, options: MountOptions) -> tuple[int, c_char_p]:
        given = {**options.kernel_options(), "splice_write": True, "splice_move": True}
        words = ["xnatfs", "-f", "-o", ",".join(self._table._normalize_fuse_options(**given)), mountpoint]
        argv = (c_char_p * (len(words) + 1))(*[word.encode("utf-8", "surrogateescape") for word in words])
        where, threaded, table = c_char_p(), c_int(), self._table.structure
        with _stderr() as said:
            made = library.fuse_setup(
                len(words),
                ctypes.addressof(argv),
                ctypes.addressof(table),
                ctypes.sizeof(table),
                ctypes.addressof(where),
                ctypes.addressof(threaded),
                None,
            )
        if not made:
            why = " ".join(said[0].split()) or "libfuse gives no reason"
            raise MountpointError(f"{mountpoint}: cannot be mounted on: {why}")
        if said[0].strip():
            log.warning("libfuse: %s", said[0].strip())
        return made, where

    def first_request(self) -> bool:
        """Answer the kernel's INIT, after which the mount is live. False if it was unmounted before."""
        size = library.fuse_chan_bufsize(self._channel)
        memory = ctypes.create_string_buffer(size)
        channel = c_void_p(self._channel)
        while True:
            request = abi.Buffer(size=size, mem=ctypes.addressof(memory))
            got = library.fuse_session_receive_buf(self._session, ctypes.byref(request), ctypes.byref(channel))
            if got > 0:
                library.fuse_session_process_buf(self._session, ctypes.byref(request), channel)
                return True
            if got != -errno.EINTR or library.fuse_session_exited(self._session):
                return False

    def serve(self) -> None:
        """Serve requests until the session ends."""
        library.fuse_session_loop(self._session)

    def forget(self) -> None:
        """Drop what the loop and the kernel know of names and attributes, so that a refresh is seen at once.

        libfuse2 keeps the kernel's numbers of directories to itself, except that of the root; but when a name of the
        root is dropped, so is all below it that nobody uses at the moment. What is open is dropped when it closes.
        """
        self._operations.refreshes += 1
        self._callbacks.forget()
        for name in list(self._callbacks.top):
            self._drop(name)

    def _drop(self, name: bytes) -> None:
        with self._dropping:
            if not self._closed:
                library.fuse_lowlevel_notify_inval_entry(self._channel, abi.ROOT, name, len(name))

    def _forget_again(self) -> None:
        """The same for what was open then, and so kept the directories above it in the kernel's memory.

        Dropped as those are, they cannot be dropped again, but come back when somebody looks for them; so we look. By a
        child, because a process that waits for its own mount could not even be killed: the kernel closes /dev/fuse, and
        so ends that waiting, with the last of its threads.
        """

        def work() -> None:
            for name in list(self._callbacks.top):
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    subprocess.run(  # noqa: S603 - nothing of it comes from a stranger but the name
                        [b"stat", b"--", os.path.join(os.fsencode(self._where), name)],  # noqa: PTH118 - bytes
                        env={"PATH": os.defpath},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        timeout=LOOK,
                        check=False,
                    )
                self._drop(name)

        threading.Thread(target=work, name="forget", daemon=True).start()

    def stop(self, seconds: float) -> bool:
        """Tell all threads to end, and wait. False if some are still in a call after that time."""
        # To be told again while they end: libfuse's loop takes the request back when it returns in one thread.
        return self.threads.stop(seconds, lambda: library.fuse_session_exit(self._session))

    def close(self) -> None:
        """Unmount (at once, even when in use) and free. Only when no thread serves any more."""
        free = self._dropping.acquire(timeout=1.0)  # the kernel may keep a notice waiting until we are gone
        self._closed = True
        library.fuse_unmount(self._mountpoint, self._channel)
        if free:
            library.fuse_destroy(self._fuse)
            self._dropping.release()


@contextlib.contextmanager
def _stderr() -> Iterator[list[str]]:
    """What C code and child processes write to stderr meanwhile: libfuse says only there why it could not mount."""
    said = [""]
    with contextlib.suppress(OSError):  # its disk is full, or who read it has gone: that is no reason not to mount
        sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            said[0] = file.read().decode("utf-8", "replace")
