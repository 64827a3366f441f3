"""From a config file and `section.field=value` pairs to a config that is known to make sense.

The syntax is that of `ml_collections.config_flags`; the reading is our own, because a typo there
is an AttributeError with a traceback, ints reject `1e3`, and order on the command line matters.
Everything wrong is a UsageError that names the field, what it holds and what was given.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from lstm_jax import plugins
from lstm_jax.config.fields import flatten
from lstm_jax.config.options import default_config
from lstm_jax.errors import UsageError


def split_spec(spec: str, is_there: Callable[[Path], bool] = Path.is_file) -> tuple[str, str]:
    """(path, arg) of `path[:arg]`: the longest path that is there, since a name may hold colons."""
    words = spec.split(":")
    for n in range(len(words), 0, -1):
        path, arg = ":".join(words[:n]), ":".join(words[n:])
        if path and is_there(Path(path)):
            return path, arg
    return words[0], ":".join(words[1:])


LIBRARY = Path(__file__).parents[1]


def library_folder(name: str) -> Path:
    """`configs` or `experiments`: the wheel carries them inside, a checkout has them beside it."""
    inside = LIBRARY / name
    return inside if inside.is_dir() else LIBRARY.parent / name


def config_path(given: str) -> Path:
    """The file that a --config means: itself, NAME.py, or the library's own; says which of those.

    "airline" is airline.py here, configs/airline.py here, or the library's configs/airline.py.
    """
    path, own = Path(given), library_folder("configs")
    if path.is_file():
        return path
    bare = not path.suffix and path.parent == Path()
    shipped = own / path.name if path.parent in (Path(), Path("configs")) else own / path
    tried = [path.with_suffix(".py"), Path("configs", f"{path}.py"), shipped.with_suffix(".py")]
    found = next((p for p in (tried if bare else [shipped]) if p.is_file()), None)
    if found:
        plugins.say(f"--config={given} is {found}")
    return found or path


def read_config(spec: str) -> ConfigDict:
    """What `get_config(arg)` of the file `path.py[:arg]` returns."""
    given, arg = split_spec(spec)
    path = str(config_path(given))
    get_config = getattr(load_module(Path(path)), "get_config", None)
    if get_config is None:
        raise UsageError(f"{path} has no get_config(); every config file defines one")
    takes_arg = bool(inspect.signature(get_config).parameters)
    if arg and not takes_arg:
        raise UsageError(f"{path} takes no argument, given {arg!r}: leave out ':{arg}'")
    with plugins.importing(Path(path).parent, *_checkout(Path(path))):
        config = plugins.run(Path(path), get_config, *([arg] if takes_arg else []))
    if not isinstance(config, ConfigDict):
        raise UsageError(f"{path}: get_config() returned {type(config).__name__}, no ConfigDict")
    return config


def load_module(path: Path) -> ModuleType:
    """The module in the file `path`, run. Config and study files are code: run only what you trust.

    Raises:
      UsageError: it is missing or fails, with the line at which it does.
    """
    if not path.is_file():
        raise UsageError(f"no config file {str(path)!r}{_nearest_file(path)}")
    plugins.look_in(path.parent)
    with plugins.importing(path.parent, *_checkout(path)):
        return plugins.run_file(path, f"lstm_jax_config_{path.stem}")


def _checkout(path: Path) -> list[Path]:
    """The folder that holds `configs`, where `path` lies in a checkout."""
    parents = path.resolve().parents
    return [p for p in parents if (p / "configs").is_dir() and (p / "lstm_jax").is_dir()][:1]


def _nearest_file(path: Path) -> str:
    here = path.parent if path.suffix and path.parent.is_dir() else Path("configs")
    own = [f"configs/{file.name}" for file in library_folder("configs").glob("*.py")]
    names = sorted({*(str(p) for p in here.glob("*.py") if p.stem != "__init__"), *own})
    short = {Path(name).stem: name for name in names}
    near = difflib.get_close_matches(str(path), names, n=1, cutoff=0.6)
    near = near or [short[n] for n in difflib.get_close_matches(path.stem, short, n=1, cutoff=0.6)]
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} there are: {', '.join(names)}"


# ---------------------------------------------------------------------------------------------
# Overrides


def apply_overrides(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """A locked copy of `config` with flat dotted fields replaced; text is read as the field's type.

    Another `task.name` brings that task's fields along. All mistakes are named at once.
    """
    config = ConfigDict(config.copy_and_resolve_references().to_dict())  # a frozen one too
    overrides = dict(overrides)
    if "task.name" in overrides:
        _switch_task(config, str(overrides.pop("task.name")))
    mistakes = []
    for name, value in overrides.items():
        check_name(name)
        try:
            _set(config, name, value)
        except UsageError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UsageError("\n".join(mistakes))
    return config.lock()


def check_name(name: Any) -> None:
    """Raises UsageError for a field's name that is no text."""
    if not isinstance(name, str):
        raise UsageError(
            f"{name!r} is no field: expected a string, as in 'optimizer.learning_rate'; given "
            f"{type(name).__name__}"
        )


def _switch_task(config: ConfigDict, name: str) -> None:
    if name == config.task.name:
        return
    fields = default_config(name).task
    fields.data_dir = config.task.data_dir
    with config.unlocked():
        config.task = fields


def _set(config: ConfigDict, name: str, value: Any) -> None:
    flat = flatten(config)
    if name not in flat:
        raise unknown_field(name, config, flat)
    *sections, field = name.split(".")
    target = config
    for section in sections:
        target = target[section]
    with target.unlocked():
        target[field] = coerce(name, flat[name], value)


def unknown_field(name: str, config: ConfigDict, flat: Mapping[str, Any]) -> UsageError:
    """The error for a field that is not in `flat`, with the nearest ones that are."""
    if name in config and isinstance(config[name], ConfigDict):
        return UsageError(
            f"config.{name} is a section; set one of its fields: "
            + ", ".join(f"{name}.{field}" for field in config[name])
        )
    near = _nearest_fields(name, flat)
    hint = f"; did you mean {' or '.join(repr(n) for n in near[:3])}?" if near else ""
    section = name.split(".")[0]
    if not near and isinstance(config.get(section), ConfigDict):
        hint = f"; {section} has: {', '.join(config[section])}"
    return UsageError(f"unknown config field {name!r}{hint}")


def _nearest_fields(name: str, flat: Mapping[str, Any]) -> list[str]:
    """Fields of the same section, then of any section by their own name, then by the whole name."""
    section, _, field = name.rpartition(".")
    close = difflib.get_close_matches
    here = [known for known in flat if known.rpartition(".")[0] == section]
    ours = close(field, [known.rpartition(".")[2] for known in here], cutoff=0.6)
    leaves = close(field, [known.rpartition(".")[2] for known in flat], cutoff=0.8)
    by_leaf = [known for known in flat if known.rpartition(".")[2] in leaves]
    found = [f"{section}.{leaf}".lstrip(".") for leaf in ours]
    return list(dict.fromkeys([*found, *by_leaf, *close(name, flat, cutoff=0.8)]))


def coerce(name: str, old: Any, value: Any) -> Any:
    """`value` (text or a Python value) as the type of the field's value `old`."""
    kind = type(old)
    try:
        return _READERS[kind](value, old)
    except (ValueError, TypeError, OverflowError):
        expected = _EXPECTED.get(kind, kind.__name__)
        raise UsageError(f"config.{name} is {expected} (now {old!r}); given {value!r}") from None


_EXPECTED = {
    bool: "a bool, true or false",
    int: "an int",
    float: "a float",
    str: "a string",
    tuple: "a tuple, written a,b,c",
}


def _bool(value: Any, old: Any) -> bool:
    words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if isinstance(value, bool):
        return value
    raise ValueError


def _int(value: Any, old: Any) -> int:
    """Also 1e3 and 1_000; never 1.5 or a bool."""
    if isinstance(value, bool):
        raise TypeError
    try:
        return int(value) if isinstance(value, str) else _whole(value)
    except ValueError:
        return _whole(float(value))


def _whole(value: Any) -> int:
    if int(value) != value:
        raise ValueError
    return int(value)


def _float(value: Any, old: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _str(value: Any, old: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _tuple(value: Any, old: tuple) -> tuple:
    """Items like those that `old` holds; strings when it is empty."""
    if isinstance(value, str):
        value = [item.strip() for item in value.strip("()[] ").split(",") if item.strip()]
    like = old[0] if old else ""
    return tuple(_READERS[type(like)](item, like) for item in value)


_READERS = {bool: _bool, int: _int, float: _float, str: _str, tuple: _tuple}
