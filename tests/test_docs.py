"""README, help and shipped documents agree with the program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from xnatfs.cli import EXIT_STATUS, cli
from xnatfs.options import OPTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "xnatfs" / "docs").glob("*.md"))


def commands(group: click.Group = cli, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands())


def options(command: click.Command) -> set[str]:
    found = {text for parameter in command.params if isinstance(parameter, click.Option) for text in parameter.opts}
    return found | {"--help", "-h"}


def code(markdown: str) -> str:
    """Everything set as code, in blocks or in lines."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S))])


def uses(markdown: str) -> list[tuple[str, list[str]]]:
    """(command, words after it) for each ``xnatfs ...`` in code."""
    found = []
    for line in re.findall(r"(?:^|[\s(|])(?<!-t )xnatfs ([a-z][^\n|]*)", code(markdown)):
        words = line.split("#")[0].split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        found.append((name, words[len(name.split()) :]))
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{name} {parameter.opts}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name):
    assert f"xnatfs {name}" in README


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS], ids=lambda path: path.name)
def test_every_command_and_option_that_is_shown_exists(path):
    for name, words in uses(path.read_text(encoding="utf-8")):
        if name in ("config", "COMMAND") or name.startswith("config "):
            name = name if name in COMMANDS else "config show"
        assert name in COMMANDS, f"{path.name}: xnatfs {name}"
        for word in words:
            flag = word.strip("[]`,.;:)").partition("=")[0]
            if re.fullmatch(r"--[a-z][a-z-]+|-[a-zA-Z]", flag):
                assert flag in options(COMMANDS[name]), f"{path.name}: xnatfs {name} {flag}"


def test_every_option_is_in_the_readme():
    for option in OPTIONS:
        assert f"`{option.flag}" in README, option.flag
        assert option.variable in README, option.variable


def test_the_readme_names_every_exit_status():
    statuses = {status for _, status in EXIT_STATUS if status < 100} | {0, 1}
    table = README.partition("## Exit status")[2]
    assert {int(number) for number in re.findall(r"^\| (\d) \|", table, re.MULTILINE)} == statuses


def test_the_first_screen_shows_how_to_begin():
    first = README[:2500]
    assert "scripts/demo" in first
    assert "scripts/test" in first


@pytest.mark.parametrize("name", ["setup", "demo", "test", "check", "man", "package"])
def test_scripts_that_are_named_exist_and_can_be_run(name):
    path = ROOT / "scripts" / name
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_links_between_files_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
