"""Logging in and out, and who sees what (contract 1 and the conformance list, 12.3)."""

from __future__ import annotations

import re

PROJECTS = "/data/projects?format=json"
HEX = re.compile(r"[0-9A-F]{32}")


def session_of(reply) -> str:
    return reply.cookies["JSESSIONID"].split(";")[0]


def test_A1_three_names_for_the_same_thing(raw):
    answers = {raw.get(f"/{prefix}/projects?format=json").body for prefix in ("data", "data/archive", "REST")}
    assert len(answers) == 1


def test_A2_basic_opens_a_session_and_the_cookie_alone_is_enough(raw):
    first = raw.get(PROJECTS)
    assert "Path=/; HttpOnly" in first.cookies["JSESSIONID"]
    cookie = session_of(first)
    assert HEX.fullmatch(cookie)
    second = raw.get(PROJECTS, user=None, Cookie=f"JSESSIONID={cookie}")
    assert (second.status, second.body) == (200, first.body)
    assert "JSESSIONID" not in second.cookies


def test_A3_jsession_is_the_bare_id_and_delete_ends_it(raw):
    for method in ("GET", "POST"):
        reply = raw(method, "/data/JSESSION")
        assert reply.headers["content-type"].startswith("text/plain")
        assert HEX.fullmatch(reply.text)
        assert reply.text == session_of(reply)
    cookie = {"Cookie": f"JSESSIONID={reply.text}"}
    assert raw("DELETE", "/data/JSESSION", user=None, **cookie).status == 200
    assert raw.get(PROJECTS, user=None, **cookie).status == 401


def test_A4_login_by_form(raw):
    form = {"Content_Type": "application/x-www-form-urlencoded", "user": None}
    right = raw("PUT", "/data/services/auth", body=b"username=reader&password=reader", **form)
    assert right.status == 200
    assert HEX.fullmatch(right.text)
    assert session_of(right) == right.text
    assert raw.get("/data/auth", user=None, Cookie=f"JSESSIONID={right.text}").text == "User 'reader' is logged in"
    wrong = raw("PUT", "/data/services/auth", body=b"username=reader&password=no", **form)
    assert wrong.status == 401
    assert "<h3>Authentication failed.</h3>" in wrong.text


def test_A5_auth_says_who(raw):
    assert raw.get("/data/auth").text == "User 'admin' is logged in"
    assert raw.get("/xapi/users/username").text == "admin"


def test_A6_no_credentials(raw):
    script = raw.get(PROJECTS, user=None)
    assert script.status == 401
    assert script.headers["www-authenticate"] == 'Basic realm="XNAT"'
    assert script.text.startswith('<!doctype html><html lang="en"><head><title>HTTP Status 401')
    browser = raw.get(PROJECTS, user=None, User_Agent="Mozilla/5.0 (X11)")
    assert browser.status == 302
    assert browser.headers["location"] == "/app/template/Login.vm"
    page = raw.get("/app/template/Login.vm", user=None)
    assert page.status == 200
    assert page.text.startswith("<!DOCTYPE")
    assert "BEGIN xnat-templates/screens/Login.vm" in page.text
    assert raw.get("/", user=None).status == 302


def test_wrong_password_is_401_with_a_reason(raw, basic):
    reply = raw.get(PROJECTS, Authorization=basic("admin", "wrong"))
    assert reply.status == 401
    assert "Login attempt failed. Please try again." in reply.text
    assert "JSESSIONID" not in reply.cookies


def test_A7_every_answer_says_when_the_session_ends(raw):
    for path in (PROJECTS, "/data/JSESSION", "/nothing", "/data/experiments/NOPE"):
        assert re.match(r'"\d{13},900000"', raw.get(path).cookies["SESSION_EXPIRATION_TIME"])


def test_A8_version(raw):
    assert raw.get("/data/version").status == 404
    reply = raw.get("/xapi/siteConfig/buildInfo", user=None)
    assert reply.json["version"] == "1.8.10"


def test_A35_what_one_may_not_see_does_not_exist(raw):
    private = raw.get("/data/projects/DEMO?format=json", user="bob")
    unknown = raw.get("/data/projects/NOSUCH?format=json", user="bob")
    assert private.status == unknown.status == 404
    assert private.body == unknown.body
    assert "DEMO" not in [row["ID"] for row in raw.rows(PROJECTS, user="bob")]
    assert raw.get("/data/experiments/XNAT_E00001?format=json", user="bob").status == 404


def test_jsession_without_credentials_proves_nothing(raw):
    reply = raw.get("/data/JSESSION", user=None)
    assert reply.status == 200
    assert raw.get(PROJECTS, user=None, Cookie=f"JSESSIONID={reply.text}").status == 401


def test_dead_cookie_with_basic_logs_in_again(raw):
    reply = raw.get(PROJECTS, Cookie="JSESSIONID=" + "0" * 32)
    assert reply.status == 200
    assert HEX.fullmatch(session_of(reply))


def test_B42_the_session_over_the_limit_is_refused(start):
    raw = start(max_sessions=2)
    assert [raw.get(PROJECTS).status for _ in range(3)] == [200, 200, 401]
    assert raw.server.logins.active("admin") == 2


def test_B43_idle_sessions_end(start):
    now = [0.0]
    raw = start(session_timeout=100, clock=lambda: now[0])
    cookie = {"Cookie": f"JSESSIONID={session_of(raw.get(PROJECTS))}", "user": None}
    now[0] = 99
    assert raw.get(PROJECTS, **cookie).status == 200
    now[0] = 198
    assert raw.get(PROJECTS, **cookie).status == 200
    now[0] = 299
    assert raw.get(PROJECTS, **cookie).status == 401
    assert raw.get("/data/JSESSION", **cookie).status == 200


def test_B44_alias_tokens(raw, basic):
    token = raw.get("/data/services/tokens/issue").json
    assert {"alias", "secret", "xdatUserId"} <= set(token)
    login = {"Authorization": basic(token["alias"], token["secret"])}
    assert raw.get("/data/auth", **login).text == "User 'admin' is logged in"
    assert raw.get(f"/data/services/tokens/validate/{token['alias']}/{token['secret']}").json == {"valid": "admin"}
    assert raw.get(f"/data/services/tokens/invalidate/{token['alias']}").json == {"result": "OK"}
    assert raw.get("/data/auth", **login).status == 401


def test_B45_roles(raw):
    roles = {p["ID"]: p["role"] for p in raw.get("/xapi/access/projects", user="reader").json}
    assert roles["DEMO"] == "Collaborators"
    assert roles["GUARDED"] == ""


def test_B51_open_site(start):
    raw = start(require_login=False)
    assert [row["ID"] for row in raw.rows(PROJECTS, user=None)] == ["OPEN"]
    assert raw.get("/data/projects/DEMO/subjects", user=None).status == 404
    dead = raw.get(PROJECTS, user=None, Cookie="JSESSIONID=" + "0" * 32)
    assert [row["ID"] for row in dead.rows] == ["OPEN"]
    assert "Guest" in raw.get("/", user=None).text


def test_B51_protected_projects_are_known_but_closed(raw):
    listed = raw.rows("/data/projects?accessible=true&format=json", user="bob")
    assert {row["id"]: row["project_access"] for row in listed} == {"GUARDED": "protected", "OPEN": "public"}
    assert "GUARDED" not in [row["ID"] for row in raw.rows(PROJECTS, user="bob")]
    refused = raw.get("/data/projects/GUARDED/subjects", user="bob")
    assert refused.status == 403
    assert "<h3>Unable to read subjects for Project: GUARDED</h3>" in refused.text


def test_too_many_wrong_passwords_lock_an_account(start, basic):
    raw = start(max_failed_logins=3)
    for _ in range(3):
        assert raw.get(PROJECTS, Authorization=basic("bob", "no")).status == 401
    assert raw.get(PROJECTS, user="bob").status == 401
    assert raw.server.logins.failed["bob"] == 4
