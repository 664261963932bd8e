"""The user's own code by name, `package.module:name`: where it lies, what it is, and what it hashes to.

Code is imported only after it was admitted: by a study file that names it, by a user who names its folder, or by the
driver that a worker trains for. A name that comes from a ledger or a model card admits nothing. A hash covers the
module's whole top-level package, or its file, and what these import from the folder beside them. Knows no library,
no study and no kind of entry.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from .errors import UserError

_NAME = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")
_OURS = __package__ or "pipeline"
_PACKAGES = frozenset({"site-packages", "dist-packages"})
"""folders of installed packages"""


@dataclass(frozen=True, slots=True)
class Code:
    """Own code that was admitted in this process."""

    digest: str
    """of `files`"""
    files: Mapping[str, bytes]
    """place below `root` -> content"""
    root: Path | None
    """the folder that its top-level module lies in; None: it came in a parcel"""
    installed: bool
    """whether it lies among installed packages, so that a worker must have it installed as well"""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Own code on its way to a worker."""

    name: str
    digest: str
    files: Mapping[str, bytes] | None
    """None: it must be installed there"""


_ADMITTED: dict[str, Code] = {}
_IMPORTED: dict[str, str] = {}
"""top-level module -> digest of the code that it was imported as"""

T = TypeVar("T")


class Table(dict[str, T], Generic[T]):
    """The entries of one kind that a study file may name; also finds the user's own ones, once they are admitted.

    Iteration gives the entries of this repository, and `in` knows no others.
    """

    def __init__(self, must_be: str, kind: type | tuple[type, ...] | None, entries: Mapping[str, T]) -> None:
        """`must_be`: what an own entry must be, for people. `kind`: its type; None: anything that can be called."""
        super().__init__(entries)
        self.must_be, self._kind = must_be, kind

    def __missing__(self, name: str) -> T:
        if not is_own(name):
            raise KeyError(name)
        entry: Any = load(name)
        if not (callable(entry) if self._kind is None else isinstance(entry, self._kind)):
            raise UserError(f"must name {self.must_be}, but {name} is {_kind_of(entry)}")
        return entry  # type: ignore[no-any-return]

    def find(self, name: object) -> T | None:
        """The entry of a name; None where there is none, or it is own code that was not admitted."""
        return self[name] if isinstance(name, str) and (name in self or name in _ADMITTED) else None


def is_own(name: object) -> bool:
    """Whether a name means the user's own code."""
    return isinstance(name, str) and ":" in name


def admit(name: str, folders: Sequence[Path]) -> Code:
    """Lets `name` be imported: from the first of `folders` that has its top-level module, else from Python's path.

    Nothing is imported yet. Raises UserError.
    """
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise UserError("own code must be named as package.module:name")
    module, top = matched[1], matched[1].partition(".")[0]
    if top in (_OURS, "__main__"):
        raise UserError(f"own code must be in a module of its own, not in {top}")
    root, file = _place(top, folders)
    _check_module(module, root, file)
    installed = not _PACKAGES.isdisjoint(root.parts) or root.is_relative_to(
        Path(sysconfig.get_path("stdlib")).resolve()
    )
    files = {str(one.relative_to(root)): one.read_bytes() for one in _closure(file, root, alone=installed)}
    code = Code(_digest(files), files, root, installed)
    loaded = sys.modules.get(top)
    if loaded is not None:
        _check_same(top, loaded, code)
    _ADMITTED[name] = code
    return code


def load(name: str) -> object:
    """What an admitted name stands for. Raises UserError."""
    code = _ADMITTED.get(name)
    if code is None:
        raise UserError(f"{name} is code of a user's own, which is imported only where its owner says so")
    module, _, attribute = name.partition(":")
    try:
        with _on_path(code.root):
            found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # it is anybody's code
        raise UserError(f"{module} must be importable, but importing it raised {_worded(error)}") from error
    _IMPORTED.setdefault(module.partition(".")[0], code.digest)
    if not hasattr(found, attribute):
        near = difflib.get_close_matches(attribute, [one for one in vars(found) if not one.startswith("__")], n=1)
        raise UserError(f"there is no {attribute!r} in {module}{_hint(near)}")
    entry: object = getattr(found, attribute)
    return entry


def digests(names: Iterable[str]) -> dict[str, str]:
    """The hash of each admitted name's code. Raises UserError for one that was not admitted."""
    for name in (names := sorted(set(names))):
        if name not in _ADMITTED:
            load(name)  # which says why
    return {name: _ADMITTED[name].digest for name in names}


def parcels(names: Iterable[str]) -> tuple[Parcel, ...]:
    """The code of admitted names, ready for workers."""
    codes = {name: _ADMITTED[name] for name in digests(names)}
    return tuple(Parcel(name, one.digest, None if one.installed else one.files) for name, one in codes.items())


def receive(sent: Sequence[Parcel]) -> None:
    """Takes in a worker what its driver sent, and imports it. Raises UserError where the worker has other code."""
    for parcel in sent:
        if parcel.files is None:
            code = admit(parcel.name, ())
        else:
            code = Code(_digest(parcel.files), parcel.files, None, False)
            sys.meta_path.insert(0, _Carried(parcel.files))
            _ADMITTED[parcel.name] = code
        if code.digest != parcel.digest:
            raise UserError(
                f"All workers must have the code of {parcel.name} that the driver has, {parcel.digest}, but here it is "
                f"{code.digest}. Install the same version on every node."
            )
        load(parcel.name)


def admit_known(known: Mapping[str, str | None], folder: Path | None) -> None:
    """Admits the code that a sweep was run with (name -> hash, None: any), from the user's `folder` or Python's path.

    Raises UserError without a folder, and where the code is another by now.
    """
    for name, digest in known.items():
        if folder is None:
            raise UserError(f"The sweep uses code of its user's own, {name}. Say where it lies: --code FOLDER.")
        try:
            code = admit(name, (folder,))
        except UserError as error:
            raise UserError(f"--code must be the folder with the sweep's code {name}, but {error}.") from None
        if digest is not None and code.digest != digest:
            del _ADMITTED[name]
            raise UserError(f"The code of {name} must be that of the sweep, {digest}, but is {code.digest} by now.")


def files_of(names: Iterable[str]) -> dict[str, bytes]:
    """The files of the code that is not installed: place -> content, to be put side by side into one folder."""
    found: dict[str, bytes] = {}
    for parcel in parcels(names):
        for place, content in (parcel.files or {}).items():
            if found.setdefault(place, content) != content:
                raise UserError(f"Own code travels in one folder, but there are two different files {place!r}.")
    return found


# ------------------------------------------------------------------------------------------ finding it


def _place(top: str, folders: Sequence[Path]) -> tuple[Path, Path]:
    """The folder that the top-level module lies in, and its file or folder."""
    importlib.invalidate_caches()
    spec = PathFinder.find_spec(top, [*map(str, folders), *sys.path])
    if spec is None and top not in sys.modules:
        spec = importlib.util.find_spec(top)  # an editable install has a finder of its own
    if spec is None:
        beside = [file.stem for folder in folders for file in folder.glob("*") if _is_module(file)]
        where = ", ".join(dict.fromkeys(str(folder) for folder in folders))
        raise UserError(
            f"there is no module {top!r} in {f'{where} or ' if where else ''}Python's path"
            f"{_hint(difflib.get_close_matches(top, beside, n=1))}"
        )
    if spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations))).resolve()
        return folder.parent, folder
    file = Path(spec.origin or "")
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"own code must be Python source, but {top} is {spec.origin}")
    return file.resolve().parent, file.resolve()


def _check_module(module: str, root: Path, top: Path) -> None:
    stem = root.joinpath(*module.split("."))
    if stem.with_suffix(".py").is_file() or (stem / "__init__.py").is_file() or stem.is_dir():
        return
    inside = [".".join(file.relative_to(root).with_suffix("").parts) for file in top.rglob("*.py")]
    raise UserError(f"there is no module {module!r} in {top}{_hint(difflib.get_close_matches(module, inside, n=1))}")


def _closure(start: Path, root: Path, *, alone: bool) -> list[Path]:
    """All source of a top-level module and, unless `alone`, of those beside it that it imports."""
    found: dict[Path, None] = {}
    waiting = [start]
    while waiting:
        top = waiting.pop()
        for file in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            if file in found or any(part.startswith(".") for part in file.relative_to(root).parts):
                continue
            found[file] = None
            beside = set() if alone else set(_imports(file)) - sys.stdlib_module_names - {_OURS}
            waiting += [place for name in sorted(beside) for place in _module_places(root / name)]
    return sorted(found)


def _imports(file: Path) -> Iterator[str]:
    """Top-level modules that a file imports by their absolute names, also inside functions."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # importing it will say so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _module_places(stem: Path) -> list[Path]:
    return [stem] if (stem / "__init__.py").is_file() else [f for f in [stem.with_suffix(".py")] if f.is_file()]


def _is_module(file: Path) -> bool:
    return file.suffix == ".py" or (file / "__init__.py").is_file()


def _digest(files: Mapping[str, bytes]) -> str:
    state = hashlib.sha256()
    for place in sorted(files):
        state.update(f"{place}\0{len(files[place])}\0".encode() + files[place])
    return state.hexdigest()[:16]


# --------------------------------------------------------------------------------------- importing it


def _check_same(top: str, loaded: ModuleType, code: Code) -> None:
    """Raises UserError where a module of that name was imported before from elsewhere, or has changed since."""
    places = [loaded.__file__] if getattr(loaded, "__file__", None) else list(getattr(loaded, "__path__", []))
    where = Path(str(places[0])).resolve() if places else None
    if where is None or code.root is None or not where.is_relative_to(code.root):
        raise UserError(f"own code needs a name of its own, but {top} is already another module, {where or 'built in'}")
    if _IMPORTED.get(top, code.digest) != code.digest:
        raise UserError(f"{top} has changed since this process imported it; start again")


@contextmanager
def _on_path(root: Path | None) -> Iterator[None]:
    """Own code may import what lies beside it: first while it is imported, last afterwards."""
    if root is None:
        yield
        return
    place, writes = str(root), sys.dont_write_bytecode
    sys.path.insert(0, place)
    sys.dont_write_bytecode = True  # compiled code is told from an edited file by whole seconds only
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(place)
        if place not in sys.path:
            sys.path.append(place)


class _Carried(MetaPathFinder, ExecutionLoader):
    """Imports what came in a parcel, from memory."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """None for what is not in the parcel."""
        folder = f"{name.replace('.', '/')}/"
        if not any(place.startswith(folder) or place == f"{folder[:-1]}.py" for place in self._files):
            return None
        place = self.get_filename(name)
        spec = importlib.util.spec_from_loader(name, self, origin=place, is_package=place.startswith(folder))
        if spec is not None:
            spec.has_location = True  # it has a __file__, though a relative one
        return spec

    def get_filename(self, fullname: str) -> str:
        """Its place in the parcel; a folder without __init__.py is an empty package."""
        stem = fullname.replace(".", "/")
        return f"{stem}.py" if f"{stem}.py" in self._files else f"{stem}/__init__.py"

    def get_source(self, fullname: str) -> str:
        """Also for tracebacks."""
        return importlib.util.decode_source(self._files.get(self.get_filename(fullname), b""))

    def is_package(self, fullname: str) -> bool:
        """Whether it may hold modules."""
        return self.get_filename(fullname).endswith("/__init__.py")


def _worded(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "" if isinstance(error, SyntaxError) else "".join(f" (line {at.lineno} of {at.filename})" for at in last)
    return f"{type(error).__name__}{f': {text[0]}' if text else ''}{where}"


def _kind_of(entry: object) -> str:
    return f"the class {entry.__qualname__}" if isinstance(entry, type) else f"of type {type(entry).__name__}"


def _hint(near: Sequence[str]) -> str:
    return f" (did you mean {near[0]!r}?)" if near else ""
