"""From the path of a request to the things it names, as XNAT's routes and templates do it.

Restlet matches routes by prefix, so words that follow a complete route are ignored: ``/projects/P/experiments/E/scans``
is answered with the experiment (contract 3.5). What the caller may not read does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from xnatfs.demo.archive import Archive
from xnatfs.demo.ask import Refusal
from xnatfs.demo.model import Assessor, Experiment, Item, Labelled, Project, Reconstruction, Resource, Subject

PARTS = ("scans", "assessors", "reconstructions")


@dataclass(frozen=True)
class Viewer:
    """What one user may see. ``user`` None = guest."""

    archive: Archive
    user: str | None
    admin: bool = False

    def role(self, project: Project) -> str:
        return "Owners" if self.admin else project.members.get(self.user or "", "")

    def reads(self, project: Project) -> bool:
        return project.access == "public" or bool(self.role(project))

    def sees(self, project: Project) -> bool:
        """Protected projects are known to everyone, though not their content."""
        return self.reads(project) or project.access == "protected"

    def edits(self, item: Item) -> bool:
        return self._role_for(item) in ("Owners", "Members")

    def deletes(self, item: Item) -> bool:
        return self._role_for(item) == "Owners"

    def _role_for(self, item: Item) -> str:
        return "Owners" if self.admin else max((self.role(p) for p in self._projects(item)[:1]), default="")

    def _projects(self, item: Item) -> list[Project]:
        """The owner first, then those it is shared into; what hangs in a session follows the session."""
        if isinstance(item, Project):
            return [item]
        if isinstance(item, Labelled):
            shared = [self.archive.projects[name] for name in item.shares if name in self.archive.projects]
            return [item.project, *shared]
        parent = item.parent_item()
        return self._projects(parent) if parent is not None else []

    def reads_item(self, item: Item) -> bool:
        projects = self._projects(item)
        if isinstance(item, Assessor):
            projects += self._projects(item.session)
        return any(self.reads(project) for project in projects)


@dataclass
class Where:
    """What a path names. ``kind`` is the route: a plural (subjects) is a listing, a singular one item."""

    kind: str
    project: Project | None = None
    subject: Subject | None = None
    experiments: list[Experiment | Assessor] = field(default_factory=list)
    part: str = ""
    items: list[Item] = field(default_factory=list)
    direction: str | None = None
    """``out``, ``in``, ``""`` (plain ones), None (whatever is the default of the route)."""
    selector: str | None = None
    """The raw ``{R}`` of ``/resources/{R}``."""
    files: bool = False
    """The path goes on with ``/files``."""
    rest: str = ""
    """The raw text after ``/files``, beginning with ``/`` or empty."""
    extra: list[str] = field(default_factory=list)
    """Path words that no route knows."""

    @property
    def experiment(self) -> Experiment | Assessor | None:
        return self.experiments[0] if self.experiments else None

    @property
    def item(self) -> Item | None:
        """The innermost item."""
        if self.items:
            return self.items[0]
        return self.experiment or self.subject or self.project


class Resolver:
    """Walks the words of one path."""

    def __init__(self, viewer: Viewer, *, fall_through: bool = False) -> None:
        self.viewer = viewer
        self.archive = viewer.archive
        self.fall_through = fall_through
        """Answer with the subject's files for an unknown experiment or scan in a full path, as XNAT does."""

    def resolve(self, path: str) -> Where:
        """``path`` is raw, below ``/data``; raises Refusal 404 (or 500 where XNAT stumbles)."""
        head, found, rest = split_files(path)
        words = [word for word in head.split("/") if word]
        where = Where("", files=found)
        if not words or words[0] not in ("projects", "subjects", "experiments"):
            raise Refusal(404)
        first = words.pop(0)
        if first == "projects":
            self._project(where, words)
        elif first == "subjects":
            self._subject(where, words)
        else:
            self._experiment(where, words)
        if found:
            items = ("project", "subject", "experiment", *_SINGULAR.values())
            if where.kind == "resource" or (where.kind in items and not where.extra):
                where.kind, where.rest = "files", rest
            else:
                where.extra.append("files")
        return where

    # one level each ---------------------------------------------------------------------------------------------------

    def _project(self, where: Where, words: list[str]) -> None:
        where.kind = "projects"
        if not words:
            return
        id = unquote(words.pop(0))
        project = self.archive.projects.get(id)
        if project is None or not self.viewer.sees(project):
            raise Refusal(404, "Unable to identify project" if words or where.files else "")
        where.kind, where.project = "project", project
        if not words:
            return
        if words[0] in ("subjects", "experiments") and not self.viewer.reads(project):
            raise Refusal(403, f"Unable to read {words[0]} for Project: {project.id}")
        if not self.viewer.reads(project):
            raise Refusal(404)
        if words[0] == "subjects":
            self._subject(where, words[1:])
        elif words[0] == "experiments":
            self._experiment(where, words[1:])
        else:
            self._tail(where, words)

    def _subject(self, where: Where, words: list[str]) -> None:
        where.kind = "subjects"
        if not words:
            return
        name = unquote(words.pop(0))
        where.subject = self.find_subject(where.project, name)
        if where.subject is None:
            raise Refusal(404, "Unable to identify subject" if words or where.files else "")
        where.kind = "subject"
        if words and words[0] == "experiments":
            self._experiment(where, words[1:])
        else:
            self._tail(where, words)

    def _experiment(self, where: Where, words: list[str]) -> None:
        where.kind = "experiments"
        if not words:
            return
        raw = words.pop(0)
        names = [unquote(name) for name in raw.split(",")]
        where.experiments = [e for name in names if (e := self._one_experiment(where, name)) is not None]
        where.kind = "experiment"
        if not where.experiments:
            self._no_experiment(where, words)
            return
        if words and words[0] in PARTS and where.project is not None and where.subject is None:
            where.extra = words  # no such route below /projects/P/experiments/E
        elif words and words[0] in PARTS:
            self._part(where, words[0], words[1:])
        else:
            self._tail(where, words)

    def _no_experiment(self, where: Where, words: list[str]) -> None:
        files = not words or words[0] == "resources"
        if where.project is not None:
            if self.fall_through and where.subject is not None and files:
                where.kind = "subject"
                self._tail(where, words)
                return
            raise Refusal(404)
        # The null pointers of contract 3.7 and 3.5.
        where.kind = "missing"
        where.extra = words

    def _part(self, where: Where, part: str, words: list[str]) -> None:
        where.part, where.kind = part, part
        if not words:
            return
        raw = words.pop(0)
        for experiment in where.experiments:
            where.items.extend(self._select(experiment, part, raw))
        where.kind = _SINGULAR[part]
        if words and words[0] in ("in", "out") and part != "scans":
            where.direction = words.pop(0)
        if not where.items:
            self._no_items(where, words)
            return
        self._tail(where, words)

    def _no_items(self, where: Where, words: list[str]) -> None:
        if words[:1] == ["resources"] and len(words) == 1:
            raise Refusal(404)
        if where.project is not None and where.subject is not None:
            if self.fall_through:
                where.kind, where.experiments = "subject", []
                self._tail(where, words)
                return
            raise Refusal(404)
        where.kind = "missing"
        where.extra = words

    def _tail(self, where: Where, words: Sequence[str]) -> None:
        if words and words[0] == "resources":
            where.kind = "resources"
            if where.direction is None and where.part == "assessors":
                where.direction = ""
            if len(words) > 1:
                where.kind, where.selector = "resource", words[1]
                where.extra = list(words[2:])
        else:
            where.extra = list(words)

    # finding ----------------------------------------------------------------------------------------------------------

    def find_subject(self, project: Project | None, name: str) -> Subject | None:
        if project is not None:
            for subject in self.archive.subjects_of(project):
                if subject.label_in(project.id) == name:
                    return subject
        found = self.archive.subjects.get(name)
        if found is None or (project is not None and not found.is_in(project.id)):
            return None
        return found if project is not None or self.viewer.reads_item(found) else None

    def _one_experiment(self, where: Where, name: str) -> Experiment | Assessor | None:
        by_id = self.archive.experiments.get(name) or self.archive.assessors.get(name)
        if where.project is None:
            return by_id if by_id is not None and self.viewer.reads_item(by_id) else None
        inside = where.project.id
        if by_id is not None and (by_id.is_in(inside) or by_id.project.id == inside):
            return by_id if self._belongs(by_id, where.subject) else None
        for experiment in self.archive.experiments_of(where.project):
            if experiment.label_in(inside) == name and self._belongs(experiment, where.subject):
                return experiment
        for assessor in tuple(self.archive.assessors.values()):
            if assessor.is_in(inside) and assessor.label_in(inside) == name and where.subject is None:
                return assessor
        return None

    @staticmethod
    def _belongs(experiment: Experiment | Assessor, subject: Subject | None) -> bool:
        owner = experiment.subject if isinstance(experiment, Experiment) else experiment.session.subject
        return subject is None or owner is subject

    def _select(self, session: Experiment | Assessor, part: str, raw: str) -> list[Item]:
        """``{X}`` of ``/scans/{X}``: IDs or types in a comma list, or everything."""
        if isinstance(session, Assessor):
            return []
        pool: tuple[Item, ...]
        if part == "scans":
            pool = tuple(session.scans.values())
        elif part == "assessors":
            pool = tuple(a for a in tuple(session.assessors.values()) if self.viewer.reads_item(a))
        else:
            pool = tuple(session.reconstructions.values())
        if raw in ("ALL", "*", "%2A"):
            return list(pool)
        chosen: dict[int, Item] = {}
        for option in raw.split(","):
            name = unquote(option).replace("[SLASH]", "/").replace("[COMMA]", ",")
            found = [item for item in pool if name == item.id or name == getattr(item, "label", None)]
            found = found or [item for item in pool if name in (_type(item), "NULL" if not _type(item) else None)]
            chosen.update({id(item): item for item in found})
        return list(chosen.values())

    # resources --------------------------------------------------------------------------------------------------------

    def resources(self, where: Where, *, everything: bool = False) -> list[Resource]:
        """The resources that a ``/resources`` or ``/files`` path means. ``everything``: all levels of a session."""
        pool = self._pool(where, everything)
        if where.selector is None:
            return pool
        chosen: dict[int, Resource] = {}
        for option in where.selector.split(","):
            name = unquote(option)
            if name.isdigit():
                # Not checked against the container in the path (contract 3.7).
                resource = self.archive.resources.get(int(name))
                if resource is None or not self.viewer.reads_item(resource.parent):
                    raise Refusal(404)
                chosen[resource.number] = resource
            else:
                label = "" if name == "NULL" else name
                chosen.update({r.number: r for r in pool if r.label == label})
        return list(chosen.values())

    def _pool(self, where: Where, everything: bool) -> list[Resource]:
        if where.items:
            return [r for item in where.items for r in _of(item, where.direction)]
        if where.experiments:
            found = []
            for experiment in where.experiments:
                found.extend(_of(experiment, "" if not everything else None))
                if everything and isinstance(experiment, Experiment):
                    found.extend(self._below(experiment))
            return found
        owner = where.subject or where.project
        return [] if owner is None else _of(owner, None)

    def _below(self, session: Experiment) -> Iterable[Resource]:
        for scan in tuple(session.scans.values()):
            yield from _of(scan, None)
        for recon in tuple(session.reconstructions.values()):
            yield from _of(recon, None)
        for assessor in tuple(session.assessors.values()):
            if self.viewer.reads_item(assessor):
                yield from _of(assessor, None)


_SINGULAR = {"scans": "scan", "assessors": "assessor", "reconstructions": "reconstruction"}


def _of(item: Item, direction: str | None) -> list[Resource]:
    """Resources of one item; None = all but inputs."""
    pool = tuple(item.resources.values())
    if direction is None or (direction == "" and isinstance(item, Reconstruction)):
        return [r for r in pool if r.direction != "in"]
    return [r for r in pool if r.direction == direction]


def _type(item: Item) -> str:
    return item.xsi_type if isinstance(item, Assessor) else item.fields.get("type", "")


def split_files(path: str) -> tuple[str, bool, str]:
    """Before ``/files``, whether it is there as a word of its own, and the raw text after it.

    Looks from the left past every word that names something, so that a label ``files`` is no mistake.
    """
    words = path.split("/")
    index, expects_name = 1, False
    while index < len(words):
        word = words[index]
        if expects_name:
            expects_name = False
        elif word == "files":
            rest = "/".join(words[index + 1 :])
            slash = "/" if len(words) > index + 1 else ""
            return "/".join(words[:index]), True, slash + rest if rest else slash
        elif word in ("projects", "subjects", "experiments", "resources", *PARTS):
            expects_name = True
        index += 1
    return path, False, ""


def owner_project(resource: Resource) -> Project:
    """The project that owns what the resource hangs in."""
    item: Item | None = resource.parent
    while item is not None:
        if isinstance(item, Project):
            return item
        if isinstance(item, Labelled):
            return item.project
        item = item.parent_item()
    raise AssertionError("a resource outside of all projects")
