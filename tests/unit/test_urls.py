from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnatfs.errors import SettingsError
from xnatfs.xnat import urls


@pytest.mark.parametrize(
    ("given_text", "url"),
    [
        ("https://xnat.example.org", "https://xnat.example.org"),
        ("xnat.example.org/", "https://xnat.example.org"),
        ("HTTP://Host:8080//xnat/", "http://host:8080/xnat"),
        ("https://host/xnat/app/template/Index.vm#x?y", "https://host/xnat"),
        ("https://host/app", "https://host"),
        ("https://host/data/projects", "https://host"),
        ("https://host/apple", "https://host/apple"),
        ("https://[::1]:8443/x", "https://[::1]:8443/x"),
        ("  https://host/a%20b ", "https://host/a%20b"),
    ],
)
def test_an_address_is_normalised_once(given_text: str, url: str) -> None:
    assert urls.parse_server(given_text).url == url


@pytest.mark.parametrize("text", ["", "  ", "ftp://host", "https://", "https://host:port", "https:///x", "a b"])
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        urls.parse_server(text)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        urls.parse_server("https://ann:hunter2@host/")
    assert "hunter2" not in str(caught.value)
    assert "ann" not in str(caught.value)


@given(st.text())
def test_encoding_is_reversible_and_leaves_nothing_special(raw: str) -> None:
    sent = urls.encode(raw)
    assert sent.isascii()
    assert not set(sent) & set(" #?;\\+&=")
    assert unquote(sent, errors="surrogatepass") == raw


def test_each_segment_is_encoded_once() -> None:
    assert urls.encode("a b/c+d#e?f%20;ü") == "a%20b/c%2Bd%23e%3Ff%2520%3B%C3%BC"
    assert urls.data("/experiments/E 1") == "/data/experiments/E%201"
    assert urls.encode_list(["E1", "E 2"]) == "E1,E%202"


def test_slash_and_comma_in_an_id_are_spelled_out() -> None:
    assert urls.segment("a/b,c") == "a[SLASH]b[COMMA]c"
    assert urls.unsegment("a[SLASH]b[COMMA]c") == "a/b,c"


def test_query_keeps_column_names_readable() -> None:
    assert (
        urls.query({"columns": "ID,xnat:subjectData/x", "a b": "c&d"}) == "?columns=ID,xnat:subjectData/x&a%20b=c%26d"
    )
    assert urls.query(None) == urls.query({}) == ""


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("/data/experiments/E/resources/1/files/a/b.txt", ("/experiments/E/resources/1/files/", "1", "a/b.txt")),
        ("/data/archive/experiments/E/resources/1/files/x", ("/experiments/E/resources/1/files/", "1", "x")),
        (
            "/data/experiments/E/scans/files/resources/7/files/files/x",
            ("/experiments/E/scans/files/resources/7/files/", "7", "files/x"),
        ),
        (
            "/data/experiments/E/scans/resources/resources/7/files/resources/1/files/x",
            ("/experiments/E/scans/resources/resources/7/files/", "7", "resources/1/files/x"),
        ),
        (
            "/data/experiments/E/scans/a/b/resources/7/files/x",
            ("/experiments/E/scans/a[SLASH]b/resources/7/files/", "7", "x"),
        ),
        ("/data/projects/P/resources/1/files/", ("/projects/P/resources/1/files/", "1", "")),
        ("/data/experiments/E/files/x", None),
        ("/experiments/E/resources/1/files/x", None),
        ("http://other/data/experiments/E/resources/1/files/x", None),
    ],
)
def test_a_file_uri_is_split_at_its_resource(uri: str, parts: tuple[str, str, str] | None) -> None:
    assert urls.split_file_uri(uri) == parts


@given(st.text(alphabet=st.characters(exclude_characters="/"), min_size=1), st.text(min_size=1))
def test_any_path_survives_the_split(scan: str, path: str) -> None:
    uri = f"/data/experiments/E/scans/{scan}/resources/12/files/{path}"
    assert urls.split_file_uri(uri) == (f"/experiments/E/scans/{scan}/resources/12/files/", "12", path)


def test_the_experiment_of_a_path() -> None:
    assert urls.experiment_in("/experiments/E/scans/1") == "E"
    assert urls.experiment_in("/projects/P/subjects/S/experiments/E/resources/1") == "E"
    assert urls.experiment_in("/projects/P/subjects/S/resources/1/files/experiments/E/") is None
    assert urls.experiment_in("/experiments/") is None


def test_the_other_form_of_a_resource() -> None:
    out, plain = "/experiments/E/assessors/A/out/resources/1", "/experiments/E/assessors/A/resources/1"
    assert urls.alternative(out) == plain
    assert urls.alternative(plain) == out
    assert urls.alternative("/experiments/E/scans/1/resources/1") is None


def test_names_that_servers_refuse() -> None:
    assert all(urls.hopeless(path) for path in ("a//b", "../x", "a/./b", "", "a\nb", "x/", "\x7f"))
    assert not any(urls.hopeless(path) for path in ("a/b", "...", ".a", "a%b", "a;b"))
    assert urls.suspicion("a/b c#?+ü.txt") == ""
    assert urls.suspicion("a%b;c\\d") == "%;\\"
    assert urls.suspicion("x.zip") == ""
    assert urls.suspicion("x.ZIP/in") == "z"
    assert urls.as_listed("a%23b c") == "a%23b%20c"
    assert urls.as_listed("a%2 b") is None
    assert urls.as_listed("ab") is None
