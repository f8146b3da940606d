"""Everything that can go wrong, in words of the domain: no errno, no HTTP.

::

    XnatfsError
    |-- NotFound            the archive (or the mount) has no such thing; only a server's 404 may become this
    |-- NotADirectory       a path goes through a file
    |-- IsADirectory        a directory was opened as a file
    |-- ReadOnly            a change was asked for
    |-- NameTooLong         a name that no directory entry can carry
    |-- NoAttribute         no such extended attribute
    |-- InvalidRequest      e.g. readlink of something that is no link
    |-- AccessDenied        the account may not (403)
    |-- LoginFailed         the server refuses the login, or there is none to send
    |-- TimedOut            no answer within the deadline of the operation
    |-- Unreachable         no connection: name, network, TLS, refused, reset, circuit open
    |-- ServerFault         the server answered, but not with what was asked for (5xx, HTML, malformed JSON)
    |-- ContentChanged      the file is no longer the version that was opened
    |-- ContentDamaged      bytes that do not match the listing's size or digest
    |-- CacheFault          the local cache cannot be read or written
    |-- BadHandle           a file handle that is not open
    `-- SetupError          raised before a mount exists; never reaches a file operation
        |-- SettingsError       an option, a config file, an environment variable
        |-- FuseMissing         no libfuse, no /dev/fuse, no right to use it
        `-- MountpointError     the directory cannot be mounted on or unmounted

A message is one line: what, where, why and, where there is one, the remedy. It never holds a secret.
"""

from __future__ import annotations


class XnatfsError(Exception):
    """Root of everything that this package raises on purpose."""


class NotFound(XnatfsError):
    """There is no such thing. Only a 404 of the server, or a fresh listing without the name, may become this."""


class NotADirectory(XnatfsError):
    """A path goes through something that is not a directory."""


class IsADirectory(XnatfsError):
    """A directory was opened as a file."""


class ReadOnly(XnatfsError):
    """A change was asked for; the mount is read-only."""


class NameTooLong(XnatfsError):
    """A name of more than 255 bytes."""


class NoAttribute(XnatfsError):
    """No such extended attribute."""


class InvalidRequest(XnatfsError):
    """A request that makes no sense for its target, such as readlink of a directory."""


class AccessDenied(XnatfsError):
    """The account may not read this (HTTP 403)."""


class LoginFailed(XnatfsError):
    """The server refuses the login. Never retried: sites lock accounts after a few wrong passwords."""


class TimedOut(XnatfsError):
    """No answer within the deadline of the operation."""


class Unreachable(XnatfsError):
    """No usable connection to the server."""


class ServerFault(XnatfsError):
    """The server answered, but not with what was asked for."""


class ContentChanged(XnatfsError):
    """The file on the server is no longer the version that was opened."""


class ContentDamaged(XnatfsError):
    """Bytes that do not match the size or the digest of the listing."""


class CacheFault(XnatfsError):
    """The local cache cannot be read or written."""


class BadHandle(XnatfsError):
    """A file handle that is not open."""


class SetupError(XnatfsError):
    """Something is wrong before a mount exists; never reaches a file operation."""


class SettingsError(SetupError):
    """An option, a config file or an environment variable is wrong."""


class FuseMissing(SetupError):
    """libfuse or /dev/fuse is missing, or may not be used."""


class MountpointError(SetupError):
    """The directory cannot be mounted on, or unmounted."""
