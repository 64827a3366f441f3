"""Parts of your own: `FILE.py:NAME` or `package.module:NAME` wherever a config names a part.

A run keeps what it used in WORKDIR/parts: every file and the siblings that it imports, and
parts.json, which says where they came from. Whoever opens the run (`use`) gets those copies.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from lstm_jax.errors import UsageError, lookup, unknown

FOLDER, INDEX = "parts", "parts.json"
_REFERENCE = re.compile(r"(.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


class Source(NamedTuple):
    """A file that was run: where it lies, its module, and what it and its siblings held."""

    file: Path  # the user's own
    read: Path  # the one that was run: that file, or a run's copy
    module: ModuleType
    texts: dict[str, bytes]  # by path from the file's folder


class Kept(NamedTuple):
    """A file that a run used: an entry of parts.json."""

    file: str  # where it lay
    copy: str  # from the folder of parts.json
    sha256: dict[str, str]  # of the copy and its siblings, by path from the copy's folder


# What this process knows: references are short, and what they mean depends on who asks.
_places: list[Path] = []  # folders of the configs and studies that were read
_sources: dict[Path, Source] = {}
_kept: dict[str, tuple[Path, Kept]] = {}  # of the run in use: {"mine.py": (WORKDIR/parts, entry)}
_said: set[str] = set()


# ---------------------------------------------------------------------------------------------
# Finding


def is_reference(name: Any) -> bool:
    """Whether `name` is FILE.py:NAME or package.module:NAME."""
    return isinstance(name, str) and _REFERENCE.fullmatch(name) is not None


def find(
    kind: str,
    name: Any,
    table: Mapping[str, Any],
    expected: str = "a function",
    fits: Callable[[Any], bool] = callable,
) -> Any:
    """`table[name]`, or what a reference names.

    Raises:
      UsageError: an unknown name, a file that is missing or fails, or a part of another kind.
    """
    if isinstance(name, str) and name.endswith(".py"):
        names = ", ".join(_names(source(name).module, fits))
        raise UsageError(f"unknown {kind} {name!r}; which part of it? {name}:NAME; it has: {names}")
    if not is_reference(name):
        return lookup(kind, name, table)
    where, _, attribute = name.rpartition(":")
    module = source(where).module
    if not hasattr(module, attribute):
        raise unknown(kind, name, [f"{where}:{known}" for known in _names(module, fits)])
    part = getattr(module, attribute)
    if not fits(part):
        raise UsageError(f"unknown {kind} {name!r}; it is {_what(part)}, expected {expected}")
    return part


def _names(module: ModuleType, fits: Callable[[Any], bool]) -> list[str]:
    """The module's own parts that might be meant."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not _is_foreign(value, module) and fits(value)
    ]


def _is_foreign(value: Any, module: ModuleType) -> bool:
    """A module, or a function or class that another module defines."""
    defined = isinstance(value, type) or hasattr(value, "__code__")
    return isinstance(value, ModuleType) or (defined and value.__module__ != module.__name__)


def _what(part: Any) -> str:
    return f"a {type(part).__name__}" if not isinstance(part, ModuleType) else "a module"


def source(where: str) -> Source:
    """The file or module `where`, run once: the copy of the run in use, else the user's own."""
    if where in _kept:
        folder, kept = _kept[where]
        if where.endswith(".py"):
            return _loaded(_verified(folder, kept), Path(kept.file))
        return _imported(where, Path(kept.file).parents[where.count(".")])
    return _loaded(_file(where)) if where.endswith(".py") else _imported(where)


def _file(where: str) -> Path:
    """The file that a reference means: from the current folder, or from that of a config."""
    path = Path(where).expanduser()
    places = [Path()] if path.is_absolute() else [Path(), *_places]
    tried = dict.fromkeys((place / path).resolve() for place in places)
    found = [file for file in tried if file.is_file()]
    if len(found) > 1:
        both = " and ".join(map(str, found))
        raise UsageError(f"{where} may be {both}; write the one you mean with its whole path")
    if not found:
        near = difflib.get_close_matches(
            path.name, {p.name for file in tried for p in file.parent.glob("*.py")}, n=1
        )
        hint = f"; did you mean {near[0]!r}? Looked" if near else "; looked"
        raise UsageError(
            f"no file {where!r}{hint} for {', '.join(map(str, tried))}: if it has moved, "
            "name its new place"
        )
    return found[0]


def _loaded(read: Path, file: Path | None = None) -> Source:
    """`read`, run as if it were `file`, so that it finds what lies beside that."""
    if read not in _sources:
        mark = hashlib.sha256(str(read).encode()).hexdigest()[:8]
        name = f"lstm_jax_part_{read.stem}_{mark}"
        text = read.read_bytes()
        with importing(read.parent) as brought:
            module = run_file(read, name, file or read)
        texts = {read.name: text} | {p: t for m in brought for p, t in _text(m, read.parent)}
        _sources[read] = Source(file or read, read, module, texts)
    return _sources[read]


def _imported(where: str, root: Path | None = None) -> Source:
    """A module of a package, as Python finds it, or from the folders that files are found in."""
    if where not in sys.modules:
        _check_there(where, [*filter(None, [root]), Path(), *_places])
    module = sys.modules[where]
    file = Path(module.__file__ or where)
    if file not in _sources:
        texts = {file.name: file.read_bytes()} if file.is_file() else {}
        _sources[file] = Source(file, file, module, texts)
    return _sources[file]


def _check_there(where: str, folders: list[Path]) -> None:
    paths = [str(folder.resolve()) for folder in folders]
    sys.path += paths
    try:
        importlib.import_module(where)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if not (where == missing or where.startswith(f"{missing}.")):
            raise UsageError(f"{where} needs a module that is not installed: {missing}") from error
        raise UsageError(
            f"no module {missing!r} for {where!r}; install its package, or name FILE.py:NAME"
        ) from error
    except Exception as error:
        raise UsageError(f"{where} fails on import: {told(error) or repr(error)}") from error
    finally:
        for path in paths:
            sys.path.remove(path)


# ---------------------------------------------------------------------------------------------
# Running files


def run_file(path: Path, name: str, file: Path | None = None) -> ModuleType:
    """The module in `path`, run, with `file` as its __file__.

    Raises:
      UsageError: it fails, with the line at which it does.
    """
    if path.suffix != ".py":
        raise UsageError(f"{path} is no Python file: its name should end in .py")
    module = ModuleType(name)
    module.__file__ = str(file or path)
    sys.modules[name] = module  # where dataclasses and NamedTuples look their annotations up
    try:
        run(path, lambda: exec(compile(path.read_bytes(), path, "exec"), vars(module)))
    except UsageError:
        del sys.modules[name]
        raise
    return module


def run(path: Path, function: Callable, *arguments: Any) -> Any:
    """The user's code; what it raises is a UsageError with the line of `path` that it came from."""
    try:
        return function(*arguments)
    except UsageError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).name == path.name]
        place = f"{path}:{lines[-1] if lines else '?'}"
        if isinstance(error, SyntaxError):
            place = f"{error.filename or path}:{error.lineno}"
        raise UsageError(f"{place}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def importing(*folders: Path) -> Iterator[list[ModuleType]]:
    """Imports find the modules in `folders`; yields a list of them, full once the block ends.

    They are forgotten then: files of other folders may have siblings of the same name.
    """
    before, paths = set(sys.modules), [str(folder.resolve()) for folder in folders]
    brought: list[ModuleType] = []
    sys.path[:0] = paths
    importlib.invalidate_caches()  # of files that were written a moment ago
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield brought
    finally:
        sys.dont_write_bytecode = writes
        theirs = [n for n in set(sys.modules) - before if _lies_in(sys.modules[n], paths)]
        brought += [sys.modules.pop(name) for name in theirs]
        for path in paths:  # last: a folder without __init__.py is where the path leads to it
            sys.path.remove(path)


def _lies_in(module: ModuleType, folders: list[str]) -> bool:
    """Whether a module is a user's own file there: no package that is installed, nor this one."""
    if module.__name__.partition(".")[0] == __name__.partition(".")[0]:
        return False
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    inside = [p.removeprefix(f) for p in places for f in folders if p.startswith(f + os.sep)]
    return any("-packages" + os.sep not in place for place in inside)


def _text(module: ModuleType, folder: Path) -> Iterator[tuple[str, bytes]]:
    file = Path(getattr(module, "__file__", None) or "/")
    if file.suffix == ".py":
        yield os.path.relpath(file, folder.resolve()), file.read_bytes()


def look_in(folder: Path) -> None:
    """References of a config or a study may be files beside it."""
    if folder.resolve() not in _places:
        _places.append(folder.resolve())


def told(error: BaseException) -> str:
    """`FILE:LINE: what went wrong` where the error passed through a part, else ""."""
    ours = {str(source.read): source.file for source in _sources.values()}
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{ours[f.filename]}:{f.lineno}" for f in frames if f.filename in ours]
    return f"{lines[-1]}: {type(error).__name__}: {error}" if lines else ""


def used() -> list[str]:
    """The files of the parts that this process has run."""
    return [str(source.file) for source in _sources.values()]


# ---------------------------------------------------------------------------------------------
# What a run keeps


def keep(workdir: Path, names: Iterable[Any]) -> None:
    """WORKDIR/parts: the files of every reference among `names`, as they were run."""
    folder = workdir / FOLDER
    index = _index(folder)
    wheres = {name.rpartition(":")[0] for name in _flat(names) if is_reference(name)}
    found = {w: s for w in sorted(wheres - set(index)) if (s := _of(w))}
    for where, used in found.items():
        mark = hashlib.sha256(where.encode()).hexdigest()[:6]
        place = f"{used.file.stem}-{mark}"
        for path, text in used.texts.items():
            (folder / place / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / place / path).write_bytes(text)
        shas = {path: _sha(text) for path, text in used.texts.items()}
        index[where] = Kept(str(used.file), f"{place}/{used.file.name}", shas)
    if found:
        text = json.dumps({where: kept._asdict() for where, kept in index.items()}, indent=2)
        unfinished = folder / f".{INDEX}.{os.getpid()}"
        unfinished.write_text(text + "\n")
        unfinished.replace(folder / INDEX)


def _flat(names: Iterable[Any]) -> Iterator[Any]:
    for name in names:
        yield from _flat(name) if isinstance(name, list | tuple) else [name]


def _of(where: str) -> Source | None:
    """What was run under this name; None for a word with a colon that nobody took for a part."""
    with contextlib.suppress(UsageError):
        return source(where)
    return None


def use(workdir: Path) -> None:
    """References mean from now on what the run in `workdir` used; says which files have changed.

    Where it used none of that name, they mean what they meant: a report reads several sweeps.
    """
    folder = workdir / FOLDER
    for where, kept in _index(folder).items():
        _kept[where] = (folder, kept)
        now = Path(kept.file)
        first = kept.sha256[now.name]
        if now.is_file() and _sha(now.read_bytes()) != first:
            say(_changed(where, kept, folder))


def forget() -> None:
    """References mean nothing yet, as at the start of a process."""
    _places.clear()
    _kept.clear()
    _said.clear()


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """What is read inside, of another run, leaves the run in use as it is."""
    before = dict(_kept)
    try:
        yield
    finally:
        _kept.clear()
        _kept.update(before)


def _changed(where: str, kept: Kept, folder: Path) -> str:
    what = f"{kept.file} has changed since {folder.parent} began"
    if where.endswith(".py"):
        copy = folder / kept.copy
        return f"{what}, which goes by its copy, {copy}; name another --workdir for the new one"
    return f"{what}, and what is installed now is what runs; as it was: {folder / kept.copy}"


def say(line: str) -> None:
    """Tell the user, once, how something that may be meant in several ways was understood."""
    if line not in _said:
        _said.add(line)
        print(f"note: {line}", file=sys.stderr)


def _index(folder: Path) -> dict[str, Kept]:
    path = folder / INDEX
    try:
        return {where: Kept(**kept) for where, kept in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from None


def _verified(folder: Path, kept: Kept) -> Path:
    """The copy, if it is what the run used."""
    copy = folder / kept.copy
    for path, expected in kept.sha256.items():
        file = copy.parent / path
        if not file.is_file() or _sha(file.read_bytes()) != expected:
            state = "is not as the run left it" if file.is_file() else "is missing"
            raise UsageError(f"{file} {state}; put back the file with sha256 {expected}")
    return copy.resolve()


def _sha(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
