"""The tutorial and the README, typed into a terminal: every command works and prints what the page shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.console import Terminal, shown
from support.faces import environment, in_mounts, mounted

from xnatfs.demo import DemoServer, synthetic_archive

pytestmark = pytest.mark.mount

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "xnatfs" / "docs" / "first-steps.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOME, URL = "/home/me", "http://localhost:8080"
"""A person's, as documents show them."""
STEPS = ("mount", "umount", "config save", "--config", "children.csv", "getfattr", "stat", "head -1", "cp ", "get ")


@pytest.fixture
def home(tmp_path):
    made = tmp_path / "me"
    made.mkdir()
    yield made
    if in_mounts(made / "xnat"):
        subprocess.run(["umount", "-l", str(made / "xnat")], check=True)


@pytest.fixture
def terminal(home):
    program = Path(sys.executable).parent
    found = Terminal(environment(home, PATH=f"{program}:{os.environ['PATH']}"), home, "admin")
    yield found
    found.close()


def follow(terminal, home, url, commands):
    """Type each command; AssertionError unless it ends well and prints what is shown."""
    for one in commands:
        status, printed = terminal.run(one.command.replace(URL, url))
        printed = printed.replace(url, URL).replace(str(home), HOME)
        assert status == 0, f"{one.command}: {printed}"
        assert one.agrees(printed), f"$ {one.command}\n{printed}\nis shown as\n" + "\n".join(one.printed)


def test_every_step_of_the_tutorial_works_and_prints_what_the_page_shows(terminal, home):
    commands = shown(PAGE)
    for step in STEPS:
        assert any(step in one.command for one in commands), step
    with DemoServer(synthetic_archive()) as server:
        follow(terminal, home, server.url, commands)
        assert server.requests[-1].method == "DELETE"  # the session on the server is ended
    assert terminal.answered == 2
    assert not in_mounts(home / "xnat")
    assert (home / "image.dcm").stat().st_size > 1000


def test_what_the_readme_shows_of_the_demo_is_there(terminal, home):
    commands = shown(README)
    assert len(commands) > 2
    with DemoServer(synthetic_archive()) as server, mounted(server.url, home / "xnat-demo", home):
        follow(terminal, home, server.url, commands)


def test_a_page_that_shows_something_else_is_noticed():
    (one,) = shown("```console\n$ ls -l \\\n> x\na  b\n...\nlast\n```\n")
    assert one.command == "ls -l \\\nx"
    assert one.agrees("a\tb\nmore\nand more\nlast\n")
    assert not one.agrees("a b\nmore\n")
    assert not one.agrees("a c\nmore\nlast\n")
