#!/usr/bin/env python3
"""The demo server as a child of a benchmark: its CPU and its interpreter lock are not those of who measures.

``server.py '{"archive": {...}, "options": {...}}'``; options are those of `xnatfs.demo.ServerOptions`. The first line
that it prints has its URL. Then each line it is given is a question in JSON, answered by one line; it ends at the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from xnatfs.demo import Archive, DemoServer, Rule, ServerOptions, bulk_archive, bulk_project, directory_archive
from xnatfs.demo.content import Bytes

DATA = ("/files/", "format=zip")
"""What requests for contents have in them, and no others."""


def directory(path: str, digests: bool = True) -> Archive:
    """The files below a directory of PROJECT/SUBJECT/SESSION/SCAN/RESOURCE, all of them with digests or none."""
    return directory_archive(Path(path), digest_limit=1 << 60 if digests else -1)


def listing(files: int, path: str = "") -> Archive:
    """P/S/E with a scan ``many`` of that many small files, beside what is below ``path``."""
    archive = directory(path) if path else Archive()
    session = next(iter(archive.experiments.values()))
    resource = archive.add_resource(archive.add_scan(session, "many", type="many"), "R")
    archive.add_files(resource, [(f"slice_{number:06d}.dcm", Bytes(b"%08d" % number)) for number in range(files)])
    archive.cacheable = True
    return archive


def project(**shape: int) -> Archive:
    """Project MANY: a subject with one session each; see `xnatfs.demo.bulk_project`."""
    archive = Archive()
    bulk_project(archive, **shape)
    archive.cacheable = True
    return archive


def session(**shape: int) -> Archive:
    """Project BULK with one session."""
    archive = bulk_archive(**shape)
    archive.cacheable = True
    return archive


ARCHIVES = {"directory": directory, "listing": listing, "project": project, "session": session}


def answer(server: DemoServer, question: dict[str, Any]) -> dict[str, Any]:
    what = question.pop("do")
    if what == "reset":
        server.reset_log()
    elif what == "log":
        requests = server.requests
        data = [r for r in requests if any(text in f"{r.path}?{r.query}" for text in DATA)]
        return {
            "data requests": len(data),
            "other requests": len(requests) - len(data),
            "MB": sum(r.bytes_sent for r in data) / 1e6,
            "listed MB": sum(r.bytes_sent for r in requests if r not in data) / 1e6,
        }
    elif what == "fault":
        server.faults.add(Rule(**question))
    elif what == "release":
        server.faults.clear()
        server.faults.release()
    elif what == "stalled":
        return {"stalled": server.faults.waiting}
    return {}


def main() -> None:
    plan = json.loads(sys.argv[1])
    made = ARCHIVES[plan["archive"].pop("kind")](**plan["archive"])
    options = plan["options"]
    if options.get("offload_root"):
        options["offload_root"] = Path(options["offload_root"])
    with DemoServer(made, options=ServerOptions(**options)) as server:
        print(json.dumps({"url": server.url}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(server, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
