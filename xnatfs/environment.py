"""What programs that know XNAT expect in their environment, for one that is to read through a mount.

The variables are those that XNAT's JupyterHub plugin 1.3 sets in notebooks and that xnatpy 0.8 reads, but for the
password, which no mount gives away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xnatfs import mounted
from xnatfs.errors import MountpointError
from xnatfs.tree.attributes import PREFIX

WITH_DATA = ("archive", "jupyter")
"""Layouts that XNAT_DATA may name."""
_PARTS = ("/scans/", "/reconstructions/", "/resources/")
"""In the URI of what nobody launches a notebook on."""


def variables(place: Path, mountpoint: Path, status: Mapping[str, Any]) -> dict[str, str]:
    """Name -> value, for a path in a mount whose status is known.

    XNAT_HOST and XNAT_USER, which a guest has not; XNAT_DATA where the layout is one for it; XNAT_XSI_TYPE and
    XNAT_ITEM_ID where the path is that of a project, a subject or an experiment. Raises `MountpointError` when the
    path cannot be looked at.
    """
    found = {"XNAT_HOST": str(status["server"])}
    if status["user"] != "guest":
        found["XNAT_USER"] = str(status["user"])
    if status["options"]["layout"] in WITH_DATA:
        found["XNAT_DATA"] = str(mountpoint)
    facts = _facts(place)
    if not any(part in facts.get("uri", "") for part in _PARTS) and {"xsi_type", "id"} <= facts.keys():
        found |= {"XNAT_XSI_TYPE": facts["xsi_type"], "XNAT_ITEM_ID": facts["id"]}
    return found


def _facts(place: Path) -> dict[str, str]:
    """What the archive says of a place, as far as it matters here."""

    def look() -> dict[str, str]:
        wanted = {f"{PREFIX}{name}" for name in ("xsi_type", "id", "uri")}
        names = wanted & set(os.listxattr(place))
        return {name.removeprefix(PREFIX): os.getxattr(place, name).decode("utf-8", "replace") for name in names}

    try:
        return mounted.within(mounted.PATIENCE, look)
    except TimeoutError:
        raise MountpointError(f"{place}: no answer within {mounted.PATIENCE:g} s") from None
    except OSError as error:
        raise MountpointError(f"{place}: {error.strerror}") from None
