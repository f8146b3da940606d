"""``get``, ``warm`` and ``pin`` without the command line around them."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager

from xnatfs import moving
from xnatfs.app import App
from xnatfs.credentials import Credentials, Secret
from xnatfs.progress import Progress
from xnatfs.settings import load


@contextmanager
def archive(url, cache, *, jobs=None, user="admin", **flags):
    """A connected archive as those commands have it."""
    settings = moving.suited(load({"server": url, "cache_dir": cache, "min_free": 4096, **flags}, {}), jobs)
    with App(settings, Credentials(user, Secret("admin"), "test"), tuning=moving.tuning(settings)) as app:
        yield app


def get(url, cache, to, *paths, bare=False, use_cache=True, **options):
    """The outcome."""
    with archive(url, cache, **options) as app:
        return moving.Copy(app, paths, to, Progress(), bare=bare, cache=use_cache).run()


def warm(url, cache, *paths, **options):
    with archive(url, cache, **options) as app:
        return moving.warm(app, paths, Progress())


def pin(url, cache, *paths, **options):
    with archive(url, cache, **options) as app:
        return moving.pin(app, paths, Progress())


def md5s(root):
    """Path below ``root`` -> MD5, of every file there; hidden ones, and leftovers, too."""
    return {
        f"/{path.relative_to(root)}": hashlib.md5(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def contents(server):
    """Requests for contents of files, by kind."""
    asked = [record for record in server.requests if record.method == "GET" and "/files" in record.path]
    zips = [record for record in asked if "format=zip" in record.query]
    singles = [record for record in asked if "/files/" in record.path]
    return len(zips), len(singles)
