"""Which login is sent where: the order, what belongs together, and that a Secret shows itself to nobody."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from xnatfs import credentials
from xnatfs.credentials import STARS, Choice, Offer, Secret, choose, complete, from_environment, from_netrc
from xnatfs.errors import LoginFailed, SettingsError

PASSWORD = "s3cr3t-Pä%ss"


def offer(origin: str, server: str | None = None, user: str | None = None, password: str | None = None) -> Offer:
    return Offer(origin, server, user, Secret(password) if password else None)


def chosen(*offers: Offer) -> tuple[str | None, str | None, str | None]:
    choice = choose(offers)
    return choice.server[0], choice.user[0], choice.password[0].reveal() if choice.password[0] else None


@pytest.mark.parametrize("show", [repr, str, "{}".format, "%s".__mod__, "{:>20}".format, lambda s: repr([s])])
def test_a_secret_shows_stars(show):
    shown = show(Secret(PASSWORD))
    assert PASSWORD not in shown
    assert STARS in shown


def test_a_secret_is_not_pickled_and_survives_copies():
    secret = Secret(PASSWORD)
    assert PASSWORD.encode() not in pickle.dumps(secret)
    assert "s3cr3t" not in repr(vars(type(secret)))
    assert copy.deepcopy([secret])[0].reveal() == PASSWORD
    assert secret == Secret(PASSWORD)
    assert secret != PASSWORD


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("xnat.example.org", "https://xnat.example.org"),
        ("HTTPS://Xnat.Example.ORG:443/", "https://xnat.example.org"),
        ("http://localhost:8080/xnat/", "http://localhost:8080/xnat"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        (" https://host/a/b// ", "https://host/a/b"),
    ],
)
def test_a_server_has_one_spelling(text, server):
    assert credentials.normal_server(text, "server") == server


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host",
        "https://",
        "https://host:none",
        "https://ho st",
        "https://host/?a=b",
        "",
        "https://[::1",
        "https://host\0.example",
        "https://host/\x1b[2J",
    ],
)
def test_what_is_no_server_is_said(text):
    with pytest.raises(SettingsError, match="server: "):
        credentials.normal_server(text, "server")


def test_a_password_in_a_url_is_refused_without_repeating_it():
    with pytest.raises(SettingsError) as error:
        credentials.normal_server(f"https://me:{PASSWORD}@host", "server")
    assert PASSWORD not in str(error.value)


# -- what belongs together -------------------------------------------------------------------------------------------


def test_the_first_place_wins():
    assert chosen(offer("a", "https://a", "u", "p"), offer("b", "https://a", "v", "q")) == ("https://a", "u", "p")


def test_a_login_stored_for_another_server_is_not_sent():
    assert chosen(offer("option", "https://new"), offer("file", "https://old", "u", "p")) == ("https://new", None, None)


def test_a_password_stored_for_another_user_is_not_sent():
    assert chosen(offer("option", None, "bob"), offer("file", "https://a", "alice", "p")) == ("https://a", "bob", None)


def test_the_same_user_named_twice_keeps_his_password():
    assert chosen(offer("option", None, "alice"), offer("file", "https://a", "alice", "p")) == (
        "https://a",
        "alice",
        "p",
    )


def test_https_is_another_server_than_http():
    assert chosen(offer("option", "http://a"), offer("file", "https://a", "u", "p")) == ("http://a", None, None)


def test_a_place_that_names_no_server_serves_any():
    environment = from_environment({"XNAT_USER": "u", "XNAT_PASS": "p"})
    assert chosen(offer("option", "https://a"), environment) == ("https://a", "u", "p")


def test_a_later_place_still_serves_what_fits():
    offers = offer("option", "https://a"), offer("env", "https://b", "x", "y"), offer("saved", "https://a", "u", "p")
    assert chosen(*offers) == ("https://a", "u", "p")


def test_guest_decides_like_a_user():
    saved = Offer("saved", "https://a", guest=True)
    assert choose([offer("option", "https://a"), saved]).guest == (True, "saved")
    assert choose([offer("option", "https://a", "u"), saved]).guest[0] is False


def test_the_environment_counts_empty_as_unset():
    assert from_environment({"XNAT_HOST": "", "XNAT_USER": "", "XNAT_PASS": ""}).password is None


# -- netrc -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def netrc(tmp_path: Path):
    path = tmp_path / "netrc"

    def write(text: str, mode: int = 0o600) -> dict[str, str]:
        path.write_text(text)
        path.chmod(mode)
        return {"NETRC": str(path)}

    return write


def test_netrc_gives_the_login_of_the_host(netrc):
    found = from_netrc("https://host/xnat", None, netrc(f"machine host login me password {PASSWORD}"))
    assert found is not None
    assert (found.user, found.password) == ("me", Secret(PASSWORD))


def test_netrc_with_a_port_is_for_that_port(netrc):
    environ = netrc("machine host:8443 login me password a\nmachine other login me password b")
    assert from_netrc("https://host", None, environ) is None
    assert from_netrc("https://host:8443", None, environ) is not None


def test_netrc_is_for_its_user_only_and_never_default(netrc):
    assert from_netrc("https://host", "bob", netrc("machine host login me password a")) is None
    assert from_netrc("https://host", None, netrc("default login me password a")) is None
    assert from_netrc("https://default", None, netrc("default login me password a")) is None


def test_netrc_open_to_others_is_refused_with_the_remedy(netrc):
    with pytest.raises(SettingsError, match=r"chmod 600 .*netrc"):
        from_netrc("https://host", None, netrc("machine host login me password a", 0o644))


def test_a_malformed_netrc_does_not_show_its_words(netrc):
    with pytest.raises(SettingsError) as error:
        from_netrc("https://host", None, netrc(f"machine host login me pasword {PASSWORD}"))
    assert PASSWORD not in str(error.value)
    assert "netrc" in str(error.value)


def test_no_netrc_is_no_error(tmp_path):
    assert from_netrc("https://host", None, {"NETRC": str(tmp_path / "none")}) is None


# -- asking ----------------------------------------------------------------------------------------------------------


def choice(user: str | None = None, password: str | None = None, guest: bool = False) -> Choice:
    secret = Secret(password) if password else None
    return Choice(("https://a", "option"), (user, "option"), (secret, "file"), (guest, "default"))


def test_a_whole_login_asks_nobody():
    found = complete(choice("me", PASSWORD), lambda *_: pytest.fail("asked"))
    assert found is not None
    assert (found.user, found.password.reveal(), found.origin) == ("me", PASSWORD, "file")


def test_a_missing_password_is_asked_for_hidden():
    asked = []
    found = complete(choice("me"), lambda question, hidden: asked.append((question, hidden)) or PASSWORD)
    assert found is not None
    assert found.origin == "prompt"
    assert asked == [("Password of me for https://a", True)]


def test_no_user_given_on_the_terminal_is_guest():
    assert complete(choice(), lambda *_: "") is None


def test_without_a_terminal_no_user_is_guest_and_no_password_is_an_error():
    assert complete(choice(), None) is None
    with pytest.raises(LoginFailed, match="no password for user me"):
        complete(choice("me"), None)


def test_guest_asks_nobody():
    assert complete(choice("me", PASSWORD, guest=True), lambda *_: pytest.fail("asked")) is None
