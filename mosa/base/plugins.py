"""Registries, and plugins: a user's own files and modules, which add to the registries when imported.

A plugin is known by its content. `use` leaves the entries of exactly the plugins that are named, whatever was
in use before, so that two runs in one process do not share them. Standard library only.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, TypeVar

from mosa.base.errors import UserError, plain, reason_of

GROUP = "mosa.plugins"  # the entry points of installed packages
REGISTRIES: dict[str, "Registry[Any]"] = {}
V = TypeVar("V")
_Entries = dict[str, dict[str, Any]]  # by kind, and name


class Registry(dict[str, V]):
    """What there is of a kind, by name.

    Args:
        kind: What an entry is, such as "metric"; `REGISTRIES` has the registry by it.
        entries: Those of this package. Others are added by `registry[name] = entry`.
    """

    def __init__(self, kind: str, entries: Mapping[str, V] | None = None) -> None:
        super().__init__(entries or {})
        self.kind = kind
        self.modules: dict[str, str] = {}
        REGISTRIES[kind] = self

    def __setitem__(self, name: str, entry: V) -> None:
        self.add(name, entry, sys._getframe(1).f_globals.get("__name__", ""))

    def add(self, name: str, entry: V, module: str) -> None:
        """Add an entry.

        Args:
            name: Its name.
            entry: The entry.
            module: Name of the module that defines it.

        Raises:
            UserError: A plugin adds it, and the name is taken.
        """
        if _LOADING and not _is_ours(module):
            plugin, added = _LOADING[-1]
            if name in self:
                raise _clash(plugin, self.kind, name)
            added.setdefault(self.kind, {})[name] = entry
        super().__setitem__(name, entry)
        self.modules[name] = module

    def update(self, entries: Mapping[str, V]) -> None:  # type: ignore[override]  # a mapping alone
        """Add entries."""
        for name, entry in entries.items():
            self.add(name, entry, sys._getframe(1).f_globals.get("__name__", ""))

    def __ior__(self, entries: Mapping[str, V]) -> "Registry[V]":  # type: ignore[override,misc]
        for name, entry in entries.items():
            self.add(name, entry, sys._getframe(1).f_globals.get("__name__", ""))
        return self

    def setdefault(self, name: str, entry: V) -> V:
        """Add an entry unless there is one of its name, and return the one that there is then."""
        if name not in self:
            self.add(name, entry, sys._getframe(1).f_globals.get("__name__", ""))
        return self[name]

    def __delitem__(self, name: str) -> None:
        if _LOADING and name in self:
            plugin, added = _LOADING[-1]
            if name not in added.get(self.kind, ()):
                raise UserError(
                    f"plugin {plugin}: takes the {self.kind} {name!r} away, which is not its own; leave it "
                    "there, and give the plugin's another name, as results of two that share one could not "
                    "be told apart"
                )
            del added[self.kind][name]
        super().__delitem__(name)

    def pop(self, name: str, *default: Any) -> Any:
        """Take an entry away, and return it."""
        if name not in self and default:
            return default[0]
        entry = self[name]
        del self[name]
        return entry

    def popitem(self) -> tuple[str, V]:
        """Take the last entry away, and return it with its name."""
        name = next(reversed(self))
        return name, self.pop(name)

    def clear(self) -> None:
        """Take all entries away."""
        for name in list(self):
            del self[name]

    def put(self, entries: Mapping[str, V]) -> None:
        """Add the entries of a plugin that was loaded before."""
        super().update(entries)

    def take_away(self, names: Iterable[str]) -> None:
        """Take entries of a plugin away, where they are there."""
        for name in names:
            super().pop(name, None)


class Plugin(NamedTuple):
    """A plugin that was loaded.

    Attributes:
        name: The file's name, or the module's.
        path: The file, absolute; None for a module.
        sha256: Digest of its file, or of all files that it is made of.
        files: These files.
        entries: What it adds, by kind and name.
    """

    name: str
    path: Path | None
    sha256: str
    files: tuple[Path, ...]
    entries: _Entries

    def names(self, kind: str) -> list[str]:
        """Return the names of what it adds of a kind."""
        return list(self.entries.get(kind, ()))


class Wanted(NamedTuple):
    """A plugin to use.

    Attributes:
        reference: A file, which ends in .py, or a module, such as "my_package.module".
        folder: Folder that the path of a file starts from.
        sha256: The digest that it has to have; "": any.
    """

    reference: str
    folder: Path = Path()
    sha256: str = ""


_LOADING: list[tuple[str, _Entries]] = []  # the plugin that is being imported, and what it has added so far
_LOADED: dict[tuple[str, str], Plugin] = {}  # by place and digest
_IN_USE: list[Plugin] = []


def in_use() -> list[Plugin]:
    """Return the plugins that are in use."""
    return list(_IN_USE)


def use(wanted: Iterable[Wanted]) -> list[Plugin]:
    """Use these plugins, each once, and no others.

    Returns:
        The plugins.

    Raises:
        UserError: One is missing, has another digest, raises when it is imported, adds nothing, or takes a
            name that is taken. Those that were in use before are in use then.
    """
    before = in_use()
    _drop()
    try:
        for one in wanted:
            plugin = _load(one)
            if plugin not in _IN_USE:
                _take(plugin)
    except BaseException:
        _drop()
        for plugin in before:
            _take(plugin)
        raise
    return in_use()


def use_installed() -> None:
    """Use the plugins of installed packages, too."""
    for name in installed():
        plugin = _load(Wanted(name))
        if plugin not in _IN_USE:
            _take(plugin)


@contextmanager
def using(*wanted: Wanted) -> Iterator[list[Plugin]]:
    """Use plugins for a while, and those that were in use before afterwards."""
    before = in_use()
    try:
        yield use(wanted)
    finally:
        _drop()
        for plugin in before:
            _take(plugin)


def blamed(error: BaseException) -> str | None:
    """Say what the code of a plugin in use raised: "my_method.py, line 7: raises KeyError: 'x'".

    Returns:
        One line; None: no such code was running.
    """
    files = _files()
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename in files]
    if not frames:
        return None
    what = plain(f"raises {type(error).__name__}: {reason_of(error)}")
    return f"plugin {files[frames[-1].filename]}, line {frames[-1].lineno}: {what}"


def own_traceback(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error from the code of a plugin on; None: no such code was running."""
    files, found = _files(), error.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename not in files:
        found = found.tb_next
    return found


def _files() -> dict[str, str]:
    """Return the files of the plugins in use, and the names of their plugins."""
    return {str(file): plugin.name for plugin in _IN_USE for file in plugin.files}


@cache
def installed() -> tuple[str, ...]:
    """Return the modules that installed packages name as plugins, by their entry points."""
    return tuple(sorted({point.module for point in importlib.metadata.entry_points(group=GROUP)}))


def _drop() -> None:
    """Take away the entries of all plugins in use."""
    for plugin in _IN_USE:
        _remove(plugin.entries)
    _IN_USE.clear()


def _remove(entries: _Entries) -> None:
    for kind, added in entries.items():
        REGISTRIES[kind].take_away(added)


def _take(plugin: Plugin) -> None:
    """Add the entries of a plugin."""
    for kind, added in plugin.entries.items():
        for name, entry in added.items():
            if REGISTRIES[kind].get(name, entry) is not entry:
                raise _clash(plugin.name, kind, name)
    for kind, added in plugin.entries.items():
        REGISTRIES[kind].put(added)
    _IN_USE.append(plugin)


def _clash(plugin: str, kind: str, name: str) -> UserError:
    return UserError(
        f"plugin {plugin}: there is a {kind} {name!r} already; give the plugin's another name, as results of "
        "two that share one could not be told apart"
    )


def _load(wanted: Wanted) -> Plugin:
    """Return a plugin; import it unless it was loaded before as it is now."""
    reference = wanted.reference
    files: tuple[Path, ...]
    if is_file(reference):
        path = (wanted.folder / reference).absolute()
        if wanted.sha256 and not path.exists():
            raise UserError(
                f"plugin {reference}: no such file in {path.parent}, where the specification of the run says "
                f"it is (SHA-256 {wanted.sha256[:16]}); put it there, or run in the folder that has it"
            )
        name, content = path.name, _read(reference, path)
        files, digest = (path,), hashlib.sha256(content).hexdigest()
        place = str(path)
    else:
        path, content, name, place = None, b"", reference, reference
        files = _files_of_module(reference)
        digest = _digest_of(files)
    if wanted.sha256 not in ("", digest):
        raise UserError(
            f"plugin {reference}: not the code of the specification (SHA-256 {digest[:16]}, expected "
            f"{wanted.sha256[:16]}); put that code back, or run the workflow again, which repeats runs that "
            "use it"
        )
    if (place, digest) not in _LOADED:
        entries = _import_file(path, content, digest) if path else _import_module(reference, digest)
        if not entries:
            kinds = "no method, backbone, data layout, metric, table or plot"
            raise UserError(f"plugin {reference}: defines {kinds}, see docs/plugins.md")
        _LOADED[place, digest] = Plugin(name, path, digest, files, entries)
    return _LOADED[place, digest]


def digest_of_plugin(reference: str) -> str:
    """Return the digest of a plugin as it is now, without importing it (of a module, its packages are).

    Raises:
        UserError: It is missing.
    """
    if is_file(reference):
        return hashlib.sha256(_read(reference, Path(reference))).hexdigest()
    return _digest_of(_files_of_module(reference))


def is_file(reference: str) -> bool:
    """Return whether a plugin is named by a file, and not by a module."""
    return reference.endswith(".py") or "/" in reference


def _read(reference: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if Path(reference).is_absolute():
            raise UserError(f"plugin {reference}: no such file; put it there, or name another") from None
        here = path.absolute() == Path(reference).absolute()
        start = "working directory" if here else "folder of the config"
        raise UserError(
            f"plugin {reference}: no such file in {path.parent.absolute()}; a path starts from the {start}"
        ) from None
    except OSError as error:
        raise UserError(f"plugin {reference}: cannot be read ({error.strerror})") from None


def _files_of_module(name: str) -> tuple[Path, ...]:
    """Return the source files of a module: its own, or all of the package that it is in."""
    importlib.invalidate_caches()  # it may have been written since this process looked
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        part = ".".join(parts[:depth])
        try:
            spec = importlib.util.find_spec(part)
        except (Exception, SystemExit) as error:
            if isinstance(error, ModuleNotFoundError) and part.startswith(f"{error.name}."):
                spec = None
            else:
                raise _raised(name, error, "") from None
        if spec is None:
            raise UserError(
                f"plugin {name}: there is no module {part!r}; install its package where `mosa` runs, or name "
                "a file, such as my_method.py"
            )
        if spec.origin and spec.has_location:
            origin = Path(spec.origin)
            inside = spec.submodule_search_locations is not None
            return tuple(sorted(origin.parent.rglob("*.py"))) if inside else (origin,)
    raise UserError(f"plugin {name}: has no source file; name a module that has one")


def _digest_of(files: tuple[Path, ...]) -> str:
    """Return the digest of one file, or of several with their places in the package."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    if len(files) == 1:
        return digests[0]
    top = min(files, key=lambda file: len(file.parts)).parent
    names = [file.relative_to(top).as_posix() for file in files]
    lines = "\n".join(f"{name} {digest}" for name, digest in zip(names, digests, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _import_file(path: Path, content: bytes, digest: str) -> _Entries:
    """Run a file as a module of its own, from the bytes that were digested; return what it adds."""
    module = ModuleType(f"{path.stem}_{digest[:8]}")
    module.__file__ = str(path)
    before = set(sys.modules)
    with _loading(path.name, str(path)) as added:
        sys.modules[module.__name__] = module  # pydantic looks up the module of a class
        try:
            exec(compile(content, str(path), "exec"), module.__dict__)
            _refuse_files_beside(path, before | {module.__name__})
        except BaseException:
            del sys.modules[module.__name__]
            raise
    return added


def _refuse_files_beside(path: Path, before: set[str]) -> None:
    """Refuse a file that imported others of its folder, which its digest does not cover.

    Python finds them only where the folder is on its path, such as with `python -m`.
    """
    folder = path.parent.resolve()
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and "." not in name and not _is_ours(name) and folder in Path(file).resolve().parents[:2]:
            for each in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
                del sys.modules[each]  # so that it is noticed the next time, too
            raise UserError(
                f"plugin {path.name}: imports {name!r}, which lies beside it, and whose changes would go "
                "unnoticed; put both into one file, or into a package, and name that"
            )


def _import_module(name: str, digest: str) -> _Entries:
    """Import a module, anew if it was loaded with other content; return what it adds."""
    top = name.partition(".")[0]
    if any(place == name for place, _ in _LOADED):
        for each in [each for each in sys.modules if each == top or each.startswith(f"{top}.")]:
            del sys.modules[each]
    known = name in sys.modules
    with _loading(name, getattr(importlib.util.find_spec(name), "origin", None) or "") as added:
        importlib.import_module(name)
    if known:  # it was imported before it was named as a plugin: what it defined then is its own
        for kind, registry in REGISTRIES.items():
            for entry, module in registry.modules.items():
                if entry in registry and (module == name or module.startswith(f"{name}.")):
                    added.setdefault(kind, {})[entry] = registry[entry]
    return added


@contextmanager
def _loading(name: str, file: str) -> Iterator[_Entries]:
    """Collect what is added; where the plugin raises, it is as if it had added nothing."""
    added: _Entries = {}
    _LOADING.append((name, added))
    try:
        yield added
    except UserError:
        _remove(added)
        raise
    except (Exception, SystemExit) as error:
        _remove(added)
        raise _raised(name, error, file) from error
    finally:
        _LOADING.pop()


def _raised(name: str, error: BaseException, file: str) -> UserError:
    """Return the error of a plugin that cannot be imported, with its line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
    where = f", line {line}" if line else ""
    what = plain(f"{type(error).__name__}: {reason_of(error)}")
    return UserError(f"plugin {name}{where}: cannot be imported ({what}); correct it, or take it out")


def _is_ours(module: str) -> bool:
    return module == "mosa" or module.startswith("mosa.")
