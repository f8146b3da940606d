from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnatfs.xnat.tables import MAX_VALUE, IncompleteError, MalformedError, MisroutedError, TableReader

texts = st.text(max_size=20) | st.sampled_from(['},{"', '"},{"a":"', "]}", "\\", '\\"', "},{"])
rows_of_texts = st.lists(st.dictionaries(st.sampled_from(["ID", "label", 'x"},{']) | texts, texts, max_size=4))


def pieces(document: bytes, size: int) -> Iterator[bytes]:
    return iter([document[i : i + size] for i in range(0, len(document), size)])


def read(document: bytes, size: int = 7) -> tuple[list[Any], dict[str, Any]]:
    reader = TableReader(pieces(document, size))
    return list(reader), reader.meta


@given(
    rows=rows_of_texts,
    size=st.integers(1, 200),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
    compact=st.booleans(),
)
def test_rows_equal_those_of_json_loads(
    rows: list[Any], size: int, ascii_only: bool, indent: Any, compact: bool
) -> None:
    document = {"ResultSet": {"Columns": [{"key": "URI"}], "Result": rows, "totalRecords": str(len(rows)), "n": 12}}
    text = json.dumps(
        document, ensure_ascii=ascii_only, indent=indent, separators=(",", ":") if compact and not indent else None
    )
    found, meta = read(text.encode("utf-8", "surrogatepass"), size)
    assert found == rows
    assert meta == {"Columns": [{"key": "URI"}], "totalRecords": str(len(rows)), "n": 12}


@given(rows=rows_of_texts, size=st.integers(1, 64), data=st.data())
def test_a_document_cut_anywhere_is_incomplete(rows: list[Any], size: int, data: st.DataObject) -> None:
    document = json.dumps({"ResultSet": {"Result": rows, "title": "Files"}}).encode()
    cut = data.draw(st.integers(0, len(document) - 1))
    with pytest.raises(IncompleteError):
        read(document[:cut], size)


def test_a_number_across_pieces() -> None:
    assert read(b'{"ResultSet":{"Result":[],"n":123456}}', 1)[1] == {"n": 123456}


@pytest.mark.parametrize(
    "document",
    [
        b'{"ResultSet":{"Result":[{"a":"b"};{"a":"c"}]}}',
        b'{"ResultSet":{"Result":{}}}',
        b'{"ResultSet":{"Result":[]}}x',
        b"<html>",
        b'{"ResultSet":{"Result":[{"a":"\xff"}]}}',
        b'{"ResultSet":{"Result":[' + b"[" * 100_000 + b"]}}",
        b"{1:2}",
    ],
)
def test_what_is_no_table_is_malformed(document: bytes) -> None:
    with pytest.raises(MalformedError):
        read(document, 4096)


@pytest.mark.parametrize("document", [b'{"items":[{"a":1}]}', b"{}", b'{"ResultSet":{"title":"x"}}'])
def test_another_json_document_is_told_apart(document: bytes) -> None:
    with pytest.raises(MisroutedError):
        read(document)


def test_a_value_without_end_is_given_up() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield b'{"ResultSet":{"Result":[{"a":"'
        while True:
            taken += 65536
            yield b"x" * 65536

    with pytest.raises(MalformedError, match="1 MiB"):
        list(TableReader(endless()))
    assert taken <= 2 * MAX_VALUE


def test_rows_come_before_the_document_has_ended() -> None:
    taken: list[int] = []

    def arriving() -> Iterator[bytes]:
        yield b'{"ResultSet":{"Result":['
        for number in range(100):
            taken.append(number)
            yield b'{"ID":"%d"},' % number
        yield b'{"ID":"last"}]}}'

    rows = iter(TableReader(arriving()))
    assert next(rows) == {"ID": "0"}
    assert len(taken) <= 3


def test_rows_that_are_no_objects_come_as_they_are() -> None:
    assert read(b'{"ResultSet":{"Result":[1,{"a":"b"},null,{"a":"c"}]}}')[0] == [1, {"a": "b"}, None, {"a": "c"}]
