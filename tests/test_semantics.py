"""Every statement of the semantics document names tests, and those exist; so do those of the bugs that others had."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from xnatfs.errors import XnatfsError
from xnatfs.fuse_ops import ERRNO

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "xnatfs" / "docs" / "semantics.md").read_text(encoding="utf-8")
STATEMENT = re.compile(r"^- (?P<text>.+?) <!-- tests: (?P<tests>[^>]+) -->$")
TRUST = (ROOT / "xnatfs" / "docs" / "trust.md").read_text(encoding="utf-8")
BUGS = re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", TRUST, re.MULTILINE)
LINES = [line for line in TEXT.splitlines() if line.startswith("- ")]


@cache
def names_in(path: str) -> set[str]:
    """Everything at the top of a test module that pytest would collect, and the methods of its classes."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


def test_there_are_statements():
    assert len(LINES) > 50


@pytest.mark.parametrize("line", LINES)
def test_every_statement_names_tests_that_exist(line):
    found = STATEMENT.match(line)
    assert found, f"no tests are named: {line}"
    for test in found["tests"].split(", "):
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        assert name in names_in(path), test
        assert name.split("::")[-1].startswith(("test_", "Test")), test


def test_all_bugs_of_others_are_numbered():
    assert [int(number) for number, _ in BUGS] == list(range(1, 35))


@pytest.mark.parametrize(("number", "tests"), BUGS)
def test_every_bug_of_others_names_tests_that_exist(number, tests):
    for test in re.findall(r"`([^`]+)`", tests):
        path, _, name = test.partition("::")
        assert name in names_in(f"tests/{path}"), test


def test_outside_of_tables_and_statements_nothing_is_promised_beyond_the_summary():
    """Prose stands in the summary and around the table only."""
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    for section in sections:
        title, _, body = section.partition("\n")
        if title in ("In one paragraph", "What each fault comes to", "Errno"):
            continue
        others = [line for line in body.splitlines() if line and not line.startswith(("- ", "|"))]
        assert others == [], title


def test_every_errno_of_the_table_is_explained():
    import errno

    explained = set(re.findall(r"\bE[A-Z]{2,}\b", TEXT.partition("## Errno")[2]))
    used = {errno.errorcode[code].replace("ENOTSUP", "EOPNOTSUPP") for kind, code in ERRNO.items()}
    assert {name if name != "EOPNOTSUPPP" else "EOPNOTSUPP" for name in used} <= explained
    assert issubclass(next(iter(ERRNO)), XnatfsError)
