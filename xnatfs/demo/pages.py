"""The pages an XNAT answers with when there is no data: Restlet's, Tomcat's, and the site's own.

Restlet's page is reproduced byte for byte, with its unclosed ``<br>``: pyxnat parses an error body as XML and goes
wrong when that succeeds (contract 9).
"""

from __future__ import annotations

import html

STANDARD_TEXT = {
    400: "The request could not be understood by the server due to malformed syntax",
    401: "The request requires user authentication",
    403: "The server understood the request, but is refusing to fulfill it",
    404: "The server has not found anything matching the request URI",
    405: "The method specified in the request is not allowed for the resource identified by the request URI",
    406: "The resource identified by the request is only capable of generating response entities which have content "
    "characteristics not acceptable according to the accept headers sent in the request",
    409: "The request could not be completed due to a conflict with the current state of the resource",
    412: "The precondition given in one or more of the request header fields evaluated to false when it was tested "
    "on the server",
    417: "The expectation given in the request header could not be met by this server",
    422: "The server understands the content type of the request entity and the syntax of the request entity is "
    "correct but was unable to process the contained instructions",
    500: "The server encountered an unexpected condition which prevented it from fulfilling the request",
    501: "The server does not support the functionality required to fulfill the request",
    503: "The server is currently unable to handle the request due to a temporary overloading or maintenance of the "
    "server",
}

REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    206: "Partial Content",
    302: "Found",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    412: "Precondition Failed",
    417: "Expectation Failed",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

_DESCRIPTIONS = {
    400: "The server cannot or will not process the request due to something that is perceived to be a client error.",
    401: "The request has not been applied because it lacks valid authentication credentials for the target resource.",
    403: "The server understood the request but refuses to authorize it.",
    404: "The origin server did not find a current representation for the target resource or is not willing to "
    "disclose that one exists.",
    406: "The target resource does not have a current representation that would be acceptable to the user agent, "
    "according to the proactive negotiation header fields received in the request, and the server is unwilling to "
    "supply a default representation.",
    500: "The server encountered an unexpected condition that prevented it from fulfilling the request.",
}

RESTLET_TYPE = "text/html;charset=ISO-8859-1"
TOMCAT_TYPE = "text/html;charset=utf-8"

_STYLE = (
    "body {font-family:Tahoma,Arial,sans-serif;} h1, h2, h3, b {color:white;background-color:#525D76;} "
    "h1 {font-size:22px;} h2 {font-size:16px;} h3 {font-size:14px;} p {font-size:12px;} a {color:black;} "
    ".line {height:1px;background-color:#525D76;border:none;}"
)


def restlet(status: int, message: str = "") -> bytes:
    """Restlet's status page; ``message`` or else the standard text of the status."""
    section = f"{status // 100}.{status % 100 + 1}"
    text = message or STANDARD_TEXT.get(status, REASONS.get(status, "Error"))
    page = (
        "<html>\n<head>\n   <title>Status page</title>\n</head>\n<body>\n"
        f"<h3>{text}</h3><p>You can get technical details "
        f'<a href="http://www.w3.org/Protocols/rfc2616/rfc2616-sec10.html#sec10.{section}">here</a>.<br>\n'
        'Please continue your visit at our <a href="/">home page</a>.\n</p>\n</body>\n</html>\n'
    )
    return page.encode("latin-1", "replace")


def tomcat(status: int, message: str = "") -> bytes:
    """The servlet container's error page."""
    title = f"HTTP Status {status} \N{EN DASH} {REASONS.get(status, 'Error')}"
    said = f"<p><b>Message</b> {html.escape(message)}</p>" if message else ""
    page = (
        f'<!doctype html><html lang="en"><head><title>{title}</title><style type="text/css">{_STYLE}</style></head>'
        f'<body><h1>{title}</h1><hr class="line" /><p><b>Type</b> Status Report</p>{said}'
        f"<p><b>Description</b> {_DESCRIPTIONS.get(status, STANDARD_TEXT.get(status, ''))}</p>"
        '<hr class="line" /><h3>Apache Tomcat/9.0.70</h3></body></html>'
    )
    return page.encode()


def login(context: str = "") -> bytes:
    """The login screen, which a browser is sent to and which some sites answer with instead of a 401."""
    page = (
        "<!DOCTYPE html>\n<html>\n<head><title>XNAT</title></head>\n<body>\n"
        "<!-- BEGIN xnat-templates/screens/Login.vm -->\n"
        f'<form name="form1" method="post" action="{context}/login">\n'
        '<input type="text" name="username"/><input type="password" name="password"/>\n'
        '<button type="submit">Login</button>\n</form>\n'
        "<!-- END xnat-templates/screens/Login.vm -->\n</body>\n</html>\n"
    )
    return page.encode()


def home(user: str | None, context: str = "") -> bytes:
    """The start page; clients read from it who is logged in. ``user`` None = guest."""
    if user is None:
        who = '<span id="user_info">Logged in as: <span style="color:red;">Guest</span></span>'
    else:
        who = (
            f'<span id="user_info">Logged in as: &nbsp;<a id="user_name" href="{context}/app/template/'
            f'XDATScreen_UpdateUser.vm">{html.escape(user)}</a></span>'
        )
    page = (
        "<!DOCTYPE html>\n<html>\n<head><title>XNAT demo</title></head>\n<body>\n"
        f"{who}\n<p>This is a stand-in for an XNAT with synthetic data.</p>\n</body>\n</html>\n"
    )
    return page.encode()


def item(title: str) -> bytes:
    """What a browser gets for one project, subject, experiment or scan."""
    page = f"<!DOCTYPE html>\n<html>\n<head><title>{html.escape(title)}</title></head>\n<body></body>\n</html>\n"
    return page.encode()
