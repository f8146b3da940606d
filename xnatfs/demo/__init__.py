"""A stand-in XNAT for newcomers and tests: an HTTP server with a synthetic archive, or with the user's own files.

Needs the extra packages of ``xnatfs[demo]``: importing this without them raises ImportError, whose ``name`` is the
package that is missing. Knows nothing of the client: both read XNAT's behaviour from the outside.
"""

from importlib.util import find_spec

for _needed in ("aiohttp", "numpy", "pydicom", "nibabel", "PIL"):
    if find_spec(_needed) is None:
        raise ImportError(f"the demo archive needs the package {_needed}", name=_needed)

from xnatfs.demo.archive import Archive  # noqa: E402 - after the check, which says more than a failing import
from xnatfs.demo.bulk import bulk_archive, bulk_project, bulk_resource, bulk_session, export  # noqa: E402
from xnatfs.demo.directory import directory_archive  # noqa: E402
from xnatfs.demo.faults import Faults, Rule  # noqa: E402
from xnatfs.demo.odd import hostile_archive  # noqa: E402
from xnatfs.demo.server import DemoServer, ServerOptions  # noqa: E402
from xnatfs.demo.serving import serve  # noqa: E402
from xnatfs.demo.synthetic import synthetic_archive  # noqa: E402
from xnatfs.demo.wire import RequestRecord  # noqa: E402

__all__ = [
    "Archive",
    "DemoServer",
    "Faults",
    "RequestRecord",
    "Rule",
    "ServerOptions",
    "bulk_archive",
    "bulk_project",
    "bulk_resource",
    "bulk_session",
    "directory_archive",
    "export",
    "hostile_archive",
    "serve",
    "synthetic_archive",
]
