"""Who may know whom: walks every import in the package and fails on one that the table does not allow."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import xnatfs

ROOT = Path(xnatfs.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli", "mount_helper"},
    "mount_helper": {"cli", "console", "fuse_mount", "options"},
    "errors": set(),
    "stats": set(),
    "logs": set(),
    "deadlines": {"errors"},
    "credentials": {"errors"},
    "options": {"credentials"},
    "settings": {"options", "credentials", "errors"},
    "console": set(),
    "daemon": {"errors"},
    "cli": {
        "__init__",
        "app",
        "cli_complete",
        "cli_data",
        "cli_login",
        "cli_options",
        "cli_status",
        "cli_system",
        "console",
        "credentials",
        "daemon",
        "demo_mount",
        "errors",
        "mounting",
        "options",
        "refreshing",
        "settings",
    },
    "refreshing": {"metadata", "errors", "tree.layout", "vfs"},
    "cli_complete": {"app", "credentials", "daemon", "errors", "fuse_mount", "settings"},
    "cli_system": {"cli_complete", "cli_options", "console", "options", "system"},
    "system": {"__init__", "cli_options", "errors", "options"},
    "cli_options": {"credentials", "daemon", "errors", "options", "settings"},
    "app": {"*"},
    "mounting": {
        "access_log",
        "app",
        "credentials",
        "daemon",
        "errors",
        "fuse_loop",
        "fuse_mount",
        "layouts",
        "loglevel",
        "logs",
        "refreshing",
        "settings",
        "system.notify",
    },
    "xnat": {"__init__", "errors", "stats", "deadlines"},
    "tree": {"xnat.records", "xnat.filelist", "errors"},
    "cache.kept": {"cache.disk", "cache.pins", "xnat.records", "xnat.filelist"},
    "cache": {"xnat.records", "errors", "stats", "deadlines"},
    "transfer": {"cache.blocks", "errors", "stats", "deadlines"},
    "opened": {"deadlines", "errors", "xnat.records"},
    "walks": {"cache", "xnat.records", "deadlines", "errors"},
    "units": set(),
    "progress": {"units"},
    "destination": {"cache", "errors"},
    "getting": {"vfs", "opened", "transfer.pool", "tree", "deadlines", "errors"},
    "targets": {"getting", "destination", "cache", "errors"},
    "offline": {"cache.kept", "xnat.records", "deadlines", "errors", "xnat.archive"},
    "places": {"daemon", "fuse_mount", "layouts", "mounted", "errors"},
    "environment": {"errors", "mounted", "tree.attributes"},
    "moving": {
        "app",
        "getting",
        "targets",
        "destination",
        "cache.pins",
        "transfer.pool",
        "settings",
        "units",
        "errors",
    },
    "caches": {"app", "cache", "settings", "units", "errors"},
    "cli_login": {"app", "console", "credentials", "settings"},
    "cli_data": {
        "app",
        "caches",
        "cache.pins",
        "cli",
        "cli_complete",
        "cli_login",
        "cli_options",
        "console",
        "daemon",
        "errors",
        "getting",
        "moving",
        "options",
        "places",
        "progress",
        "settings",
        "units",
    },
    "metrics": set(),
    "causes": {"stats"},
    "access_log": {"errors", "stats"},
    "status": {"__init__", "logs", "settings", "stats", "cache.store", "transfer.pool", "xnat.client"},
    "mounted": {"daemon", "errors", "fuse_mount", "status"},
    "loglevel": {"daemon", "errors", "logs"},
    "connect": {
        "cache.loaders",
        "credentials",
        "deadlines",
        "settings",
        "stats",
        "transfer.workers",
        "xnat.client",
    },
    "doctor": {
        "__init__",
        "cache.disk",
        "credentials",
        "deadlines",
        "errors",
        "fuse_mount",
        "mounted",
        "settings",
        "units",
        "xnat.client",
    },
    "bundle": {"__init__", "errors", "fuse_mount", "logs", "mounted"},
    "top": {"console", "units"},
    "cli_status": {
        "app",
        "bundle",
        "cli_complete",
        "cli_login",
        "cli_options",
        "connect",
        "console",
        "credentials",
        "doctor",
        "environment",
        "errors",
        "loglevel",
        "logs",
        "mounted",
        "mounting",
        "options",
        "settings",
        "top",
        "units",
    },
    "metadata": {"metrics", "tree", "xnat.records", "deadlines", "errors"},
    "questions": {"tree.nodes", "cache", "xnat.records", "deadlines"},
    "assembled": {"tree", "deadlines"},
    "browse": {
        "assembled",
        "questions",
        "metadata",
        "walks",
        "tree",
        "cache",
        "xnat.records",
        "deadlines",
        "errors",
        "stats",
    },
    "vfs": {
        "browse",
        "questions",
        "opened",
        "tree",
        "cache",
        "transfer",
        "xnat.records",
        "deadlines",
        "errors",
        "stats",
    },
    "layouts": {"vfs", "assembled", "opened", "tree", "deadlines", "errors"},
    "fuse_mount": {"errors", "options"},
    "fuse_kernel": {"tree.nodes", "errors", "stats"},
    "fuse_*": {"vfs", "tree.nodes", "errors", "stats"},
    "demo_mount": {"mounting", "credentials", "daemon", "demo", "errors", "settings"},
    "demo": set(),
}
"""Module, or package for all in it -> modules and packages of ours that it may import. Itself is always allowed."""

ONLY_IN: dict[str, set[str]] = {
    "requests": {"xnat"},
    "urllib3": {"xnat"},
    "fuse": {"fuse_*", "app"},
    "errno": {"fuse_*", "app", "daemon", "cache"},  # the last two to tell OSErrors of the local disk apart
    "cachetools": {"cache.listings"},
    "stream_unzip": {"transfer.series", "xnat.oddnames"},
    "click": {"cli", "cli_complete", "cli_data", "cli_options", "cli_status", "cli_system", "system.manual"},
    "rich": {"console", "progress", "top"},
    "platformdirs": {"mounting", "settings", "daemon", "cli_complete", "system.units"},
    "aiohttp": {"demo"},
    "pydicom": {"demo"},
    "nibabel": {"demo"},
    "numpy": {"demo"},
    "PIL": {"demo"},
}
"""Library or module -> the rooms that may import it."""

MODULES = sorted(ROOT.rglob("*.py"))
CEILING = 500
"""Lines. A module that grows beyond this is two."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def rooms(module: str) -> list[str]:
    """``transfer.series`` is in the rooms ``transfer.series`` and ``transfer``, ``fuse_ops`` also in ``fuse_*``."""
    parts = module.split(".")
    family = ["fuse_*"] if module.startswith("fuse_") else []
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)] + family


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything imported, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (_shortened(name, node.module or "") for name in names)


def _shortened(name: str, module: str) -> str:
    """``xnatfs.errors.NotFound`` -> ``xnatfs.errors``; ``xnatfs.tree.nodes`` stays."""
    target = ROOT.joinpath(*name.split(".")[1:])
    return name if name.startswith("xnatfs.") and (target.is_dir() or target.with_suffix(".py").exists()) else module


def own(path: Path) -> Iterator[str]:
    for name in imports(path):
        if name == "xnatfs":
            yield "__init__"
        elif name.startswith("xnatfs."):
            yield name.removeprefix("xnatfs.")


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_a_module_knows_only_whom_it_may(path: Path):
    module = module_of(path)
    room = next((room for room in rooms(module) if room in ALLOWED), None)
    assert room is not None, f"{module} has no place in the table"
    allowed = ALLOWED[room] | {room}
    for known in own(path):
        assert "*" in allowed or any(part in allowed for part in rooms(known)), f"{module} imports {known}"


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_libraries_stay_in_their_rooms(path: Path):
    module = module_of(path)
    for name in imports(path):
        allowed = ONLY_IN.get(name.partition(".")[0])
        assert allowed is None or any(room in allowed for room in rooms(module)), f"{module} imports {name}"


def test_the_demo_is_only_started_when_asked_for():
    knowing = {module_of(path) for path in MODULES if any(rooms(name)[-1] == "demo" for name in own(path))}
    assert {module for module in knowing if rooms(module)[-1] != "demo"} <= {"demo_mount"}


@pytest.mark.parametrize("path", [path for path in MODULES if module_of(path) not in ("cli", "console")], ids=module_of)
def test_nobody_else_prints(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        assert not named or module_of(path).startswith("demo."), f"{path}:{getattr(node, 'lineno', 0)} prints"


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_a_module_stays_readable(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= CEILING


@pytest.mark.parametrize("path", [path for path in MODULES if "tree" in path.parts], ids=module_of)
def test_the_tree_is_pure(path: Path):
    banned = {"os", "time", "socket", "threading", "pathlib", "random"}
    assert not banned & {name.partition(".")[0] for name in imports(path)}


def test_the_vfs_mentions_no_protocol():
    """FUSE is one face of it; another is to reach it by the same code."""
    for path in (ROOT / "vfs.py", ROOT / "browse.py", ROOT / "opened.py"):
        code = "\n".join(ast.unparse(statement) for statement in _without_docstrings(path)).lower()
        for word in ("fuse", "errno", "http", "requests"):
            assert not re.search(rf"(?<![a-z]){word}", code), f"{path.name} mentions {word}"


def _without_docstrings(path: Path) -> list[ast.stmt]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                part for part in body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ] or [ast.Pass()]
    return tree.body
