"""Every fault of the stand-in server against every operation, on real mounts of both loops: see `support.matrix`.

Here a chosen part: every fault with every kind of operation, once and always, and every operation with every fault's
group at least once. ``XNATFS_MATRIX=full`` runs all of it on both loops, in some minutes.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from support.faces import mounted
from support.matrix import FAULTS, METADATA, OPERATIONS, READ, Field, Runner, cells, document

from xnatfs.demo import DemoServer
from xnatfs.demo.faults import ACTIONS

FULL = os.environ.get("XNATFS_MATRIX") == "full"
AT_ONCE = 8
SEMANTICS = Path(__file__).parents[2] / "xnatfs" / "docs" / "semantics.md"


def chosen(loop: str) -> list:
    """The cells for one loop: of each fault, each kind of operation once with ``once`` and once with ``always``."""
    if FULL:
        return cells()
    chance = random.Random(20261122)
    part = []
    for fault in FAULTS:
        for kind in ("listing", "bytes", "local"):
            names = [name for name, of in OPERATIONS.items() if of == kind and fault.meets(name)]
            if not names:
                continue
            picked = chance.sample(names, 2) if len(names) > 1 else names * 2
            loops = chance.sample(["fast", "plain"], 2)
            for name, always, of in zip(picked, (False, True), loops, strict=True):
                if of == loop:
                    part.append(next(c for c in ALL if (c.fault, c.operation, c.always) == (fault, name, always)))
    return part


ALL = cells()


def test_every_fault_of_the_server_is_in_the_table():
    assert {fault.action for fault in FAULTS} == ACTIONS


def test_the_chosen_part_has_every_operation_and_every_fault_in_every_kind():
    part = [cell for loop in ("fast", "plain") for cell in chosen(loop)]
    assert {cell.operation for cell in part} == set(OPERATIONS)
    assert {(c.fault.name, c.kind, c.always) for c in part} == {(c.fault.name, c.kind, c.always) for c in ALL}


def test_the_table_in_the_document_is_this_one():
    text = SEMANTICS.read_text()
    assert document() in text, "run scripts/matrix --write"


@pytest.mark.mount
@pytest.mark.timeout(1500 if FULL else 240)
@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_right_or_the_tabled_errno_in_time_and_right_again_afterwards(tmp_path, loop):
    part = chosen(loop)
    field = Field(part)
    logs = []

    def fresh():
        name = f"mnt{len(logs)}"
        made = mounted(server.url, tmp_path / name, tmp_path, *options, loop=loop)
        logs.append(tmp_path / f"mount-{name}.log")
        return made

    options = ["--metadata-timeout", f"{METADATA:g}", "--read-timeout", f"{READ:g}", "--ttl", "1"]
    with DemoServer(field.archive) as server, fresh() as face:
        results = Runner(server, field, face, fresh).run_all(part, AT_ONCE)
    log = "".join(log.read_text(errors="replace") for log in logs)
    wrong = [result.wrong for result in results if result.wrong]
    print(*wrong, sep="\n")
    print(f"{loop}: {len(results)} cells, {Counter(result.outcome for result in results)}")
    assert wrong == []
    assert "Traceback" not in log
    assert "bad error value" not in log
