"""The listings: projects, subjects, experiments, scans, assessors, reconstructions, resources (contract 3)."""

from __future__ import annotations

from collections.abc import Iterable

from xnatfs.demo import columns, kinds
from xnatfs.demo.ask import TABLE_VARIANTS, Answer, Ask, Refusal
from xnatfs.demo.columns import Row
from xnatfs.demo.model import Assessor, Experiment, Item, Project, Reconstruction, Resource, Scan, Subject
from xnatfs.demo.resolve import Resolver, Viewer, Where
from xnatfs.demo.tables import RESERVED, Columns, Table, arranged, build, page, render, timestamp


class Listings:
    """Answers listings for one server. ``resource_columns``: whether resources can be joined into them."""

    def __init__(self, *, resource_columns: bool = True, shuffle: int | None = None) -> None:
        self.resource_columns = resource_columns
        self.shuffle = shuffle

    def answer(self, ask: Ask, where: Where, resolver: Resolver) -> Answer:
        ask.require(TABLE_VARIANTS)
        viewer = resolver.viewer
        if where.kind == "projects":
            table = self._projects(ask, viewer)
        elif where.kind == "subjects":
            table = self._subjects(ask, where, viewer)
        elif where.kind == "experiments":
            table = self._experiments(ask, where, viewer)
        elif where.kind == "resources":
            table = resource_table(resolver.resources(where, everything=ask.true("all")), ask.true("all"))
        else:
            table = self._parts(ask, where, viewer)
        return render(arranged(table, ask, self.shuffle), ask)

    def _build(self, known: Columns, rows: Iterable[Row], ask: Ask, title: str = "") -> Table:
        headers = [name for name, _ in known.chosen(ask)]
        return build(known, columns.joined(rows, headers), ask, {"title": title} if title else None)

    def _projects(self, ask: Ask, viewer: Viewer) -> Table:
        everything = tuple(viewer.archive.projects.values())
        filtered = (
            "accessible",
            "data",
            "owner",
            "member",
            "collaborator",
            "activeSince",
            "favorite",
            "admin",
            "users",
        )
        if any(ask.has(name) for name in filtered):
            return _projects_search([p for p in everything if viewer.sees(p)], viewer)
        readable = [p for p in everything if viewer.reads(p)]
        if ask.has("restrict"):
            roles = ("Owners",) if ask.get("restrict") == "delete" else ("Owners", "Members")
            readable = [p for p in readable if viewer.role(p) in roles]
        return self._build(columns.projects(self.resource_columns), [Row(p) for p in readable], ask)

    def _subjects(self, ask: Ask, where: Where, viewer: Viewer) -> Table:
        known = columns.subjects(self.resource_columns)
        if where.project is not None:
            rows = [Row(s, where.project.id) for s in viewer.archive.subjects_of(where.project)]
        else:
            rows = [Row(s) for s in tuple(viewer.archive.subjects.values()) if viewer.reads_item(s)]
        return page(self._build(known, rows, ask), ask)

    def _experiments(self, ask: Ask, where: Where, viewer: Viewer) -> Table:
        if where.project is None and where.subject is None:
            return page(self._all_experiments(ask, viewer), ask)
        root = self._root(ask, "xnat:subjectAssessorData")
        known = columns.experiments(root, resources=self.resource_columns)
        view = where.project.id if where.project is not None else None
        if where.subject is not None:
            pool = [e for e in viewer.archive.experiments_of(where.subject) if view is None or e.is_in(view)]
        elif where.project is not None:
            pool = list(viewer.archive.experiments_of(where.project))
        rows = [Row(e, view) for e in pool if kinds.is_a(e.xsi_type, root)]
        return page(self._build(known, rows, ask), ask)

    def _root(self, ask: Ask, root: str) -> str:
        if ask.get("xsiType"):
            return ask.get("xsiType")
        names = [name for value in ask.all("columns") for name in value.split(",")]
        return kinds.narrowed(root, names + [key for key, _ in ask.query if key not in RESERVED])

    def _all_experiments(self, ask: Ask, viewer: Viewer) -> Table:
        root = self._root(ask, "xnat:experimentData")
        default: tuple[str, ...] = ("ID", "project", "date", "xsiType", "label", "insert_date")
        if ask.get("xsiType"):
            if kinds.is_a(root, "xnat:imageAssessorData"):
                default += ("session_ID", "session_label")
            elif kinds.is_a(root, "xnat:subjectAssessorData"):
                default += ("subject_ID", "subject_label")
        known = columns.experiments(root, resources=self.resource_columns, default=default)
        pool: list[Item] = [*tuple(viewer.archive.experiments.values()), *tuple(viewer.archive.assessors.values())]
        rows = [Row(e) for e in pool if kinds.is_a(e.xsi_type, root) and viewer.reads_item(e)]
        return self._build(known, rows, ask, "Matching experiments")

    def _parts(self, ask: Ask, where: Where, viewer: Viewer) -> Table:
        view = where.project.id if where.project is not None else None
        sessions = [e for e in where.experiments if isinstance(e, Experiment)]
        if where.part == "scans":
            scans = [Row(scan, view) for e in sessions for scan in tuple(e.scans.values())]
            wanted = [name for value in ask.all("columns") for name in value.split(",")]
            if scans and wanted and not {"ID", "DEFAULT"} & set(wanted):
                raise Refusal(500)  # the row's URI is built from its ID
            return self._build(columns.scans(), scans, ask)
        if where.part == "reconstructions":
            recons = [Row(recon, view) for e in sessions for recon in tuple(e.reconstructions.values())]
            return self._build(columns.reconstructions(), recons, ask)
        default = ("ID", "project", "label", "date", "xsiType", "insert_date", "session_ID", "session_label")
        known = columns.experiments("xnat:imageAssessorData", resources=self.resource_columns, default=default)
        pool = [a for e in sessions for a in tuple(e.assessors.values()) if viewer.reads_item(a)]
        return self._build(known, [Row(a, view) for a in pool], ask)


def _projects_search(projects: list[Project], viewer: Viewer) -> Table:
    """The other engine behind ``/projects``, with its lower-case keys (contract 3.4)."""
    uid = "1" if viewer.admin else "3"
    headers = [
        "id", "name", "secondary_id", "description", "pi", "project_invs", "project_access", "project_access_img",
        "quarantine_status", "insert_date", "insert_user", f"user_role_{uid}", f"last_accessed_{uid}",
    ]  # fmt: skip
    rows = []
    for project in projects:
        pi = f"{project.fields.get('pi_lastname', '')}, {project.fields.get('pi_firstname', '')}".strip(", ")
        rows.append(
            (
                project.id,
                project.name,
                project.fields.get("secondary_ID", project.id),
                project.fields.get("description", ""),
                pi,
                "",
                project.access,
                "/@WEBAPPimages/globe.gif" if project.access == "public" else "/@WEBAPPimages/key.gif",
                "active",
                timestamp(project.inserted),
                "admin",
                viewer.role(project),
                "",
            )
        )
    return Table(headers, rows, {"xdat_user_id": uid, "totalRecords": str(len(rows)), "title": "Projects"})


RESOURCE_HEADERS = [
    "xnat_abstractresource_id",
    "label",
    "element_name",
    "category",
    "cat_id",
    "cat_desc",
    "file_count",
    "file_size",
    "tags",
    "content",
    "format",
]


def resource_table(resources: list[Resource], everything: bool) -> Table:
    """The 11 columns of any ``/resources`` (contract 3.6)."""
    rows = []
    for resource in resources:
        category, cat_id, cat_desc = _category(resource, everything)
        rows.append(
            (
                str(resource.number),
                resource.label,
                "xnat:resourceCatalog",
                category,
                cat_id,
                cat_desc,
                resource.file_count,
                resource.file_size,
                resource.tags,
                resource.content,
                resource.format,
            )
        )
    return Table(RESOURCE_HEADERS, rows, {"totalRecords": str(len(rows)), "title": "Resources"})


def _category(resource: Resource, everything: bool) -> tuple[str, str, str]:
    parent = resource.parent
    if isinstance(parent, Scan):
        return "scans", parent.id, parent.fields.get("type", "")
    if isinstance(parent, Reconstruction):
        return "reconstructions", parent.id, parent.fields.get("type", "")
    if isinstance(parent, Assessor):
        return "assessors", parent.id, "" if everything else kinds.SINGULAR.get(parent.xsi_type, "")
    if isinstance(parent, (Project, Subject)):
        return "resources", "", " "
    return ("resources", "", "") if everything else ("resources", parent.id, " ")
