"""Generated code to functions in this process, by the system's C and C++ compilers.

What was compiled is kept under a hash of its text, the compiler and the kind of processor. Nothing
is ever required: `missing()` says in words what is, and then other engines serve.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax

from lstm_jax import plugins

SWITCH = "LSTM_JAX_NATIVE"  # 0 turns the engine off
SECONDS = 120  # that a compiler gets
HERE = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-O2", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi", "-w")


class Target(NamedTuple):
    """A kind of processor: what it has to have, floats in a vector, the compiler's flags."""

    name: str
    needs: frozenset[str]
    lanes: int
    flags: tuple[str, ...]


X86 = (
    Target(
        "avx512",
        frozenset({"avx512f", "avx512dq", "avx512vl", "avx512bw", "avx2", "fma"}),
        16,
        ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"),
    ),
    Target("avx2", frozenset({"avx2", "fma"}), 8, ("-mavx2", "-mfma")),
    Target("sse2", frozenset(), 4, ()),
)
NEON = Target("neon", frozenset(), 4, ())


class Failed(Exception):
    """No code could be made; the message says why."""


def target() -> Target:
    """The best kind of processor that this one is."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return next(t for t in X86 if t.needs <= features())
    if machine in ("arm64", "aarch64"):
        return NEON
    raise Failed(f"it knows x86-64 and ARM processors, and this is {machine!r}")


def told() -> str:
    """What code would be compiled for, and by what; empty where none would be."""
    if os.environ.get(SWITCH) == "0" or not compiler():
        return ""
    try:
        return f"{target().name}, {version().splitlines()[0]}"
    except Failed:
        return ""


@functools.cache
def features() -> frozenset[str]:
    """The instruction sets of this processor, as the system names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    return frozenset(next(flags, ()))


@functools.cache
def compiler() -> str:
    """The path of the C++ compiler; "" for none."""
    named = os.environ.get("CXX", "").split()
    found = map(shutil.which, (named[0],) if named else COMPILERS)
    return next((path for path in found if path), "")


def missing() -> str:
    """Why nothing can be compiled here; empty where it can."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0 turns it off"
    if os.name != "posix":
        return "it needs a POSIX system"
    if not compiler():
        return f"no C++ compiler is there ({', '.join(COMPILERS)}, or the one that CXX names)"
    try:
        target()
        core()
    except Failed as error:
        return str(error)
    return ""


def folder() -> Path:
    """Where compiled code is kept."""
    import platformdirs  # start-up

    base = os.environ.get("LSTM_JAX_CACHE") or platformdirs.user_cache_dir("lstm_jax")
    return Path(base).expanduser() / "native"


@functools.cache
def core() -> ctypes.CDLL:
    """The custom calls, registered with XLA; compiled at most once a machine."""
    texts = [(HERE / name).read_text() for name in ("calls.cc", "sequence.h", "lanes.h")]
    flags = ("-std=c++17", f"-I{HERE}", f"-I{jax.ffi.include_dir()}", "-x", "c++")
    library = ctypes.CDLL(str(compiled("core", texts, HERE / "calls.cc", flags)))
    for name in ("forward", "backward"):
        handler = getattr(library, f"lstm_jax_native_{name}")
        jax.ffi.register_ffi_target(
            f"lstm_jax_native_{name}", jax.ffi.pycapsule(handler), platform="cpu"
        )
    return library


@functools.cache
def cell(text: str) -> int:
    """The number by which the custom calls know the functions of this C text."""
    header = (HERE / "lanes.h").read_text()
    number = int.from_bytes(hashlib.sha256((header + text).encode()).digest()[:8], "big") >> 1
    with tempfile.TemporaryDirectory(prefix="lstm-jax-native-") as place:
        source = Path(place) / "cell.c"
        source.write_text(text)
        library = compiled("cell", [text, header], source, ("-std=gnu11", f"-I{HERE}", "-x", "c"))
    loaded = ctypes.CDLL(str(library))
    add = core().lstm_jax_native_add
    add.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 3]
    add.restype = None
    functions = [
        ctypes.cast(getattr(loaded, n), ctypes.c_void_p) for n in ("keep", "plain", "back")
    ]
    add(number, *functions)
    LOADED.append(loaded)
    return number


LOADED: list[ctypes.CDLL] = []  # code in use has to stay


def compiled(kind: str, texts: list[str], source: Path, flags: tuple[str, ...]) -> Path:
    """The library of a source, from the cache or compiled into it."""
    aim = target()
    command = [*FLAGS, f"-DLANES={aim.lanes}", *aim.flags, *flags]
    said = "\n".join([*texts, version(), aim.name, *(f for f in command if f != f"-I{HERE}")])
    name = f"{kind}-{aim.name}-{hashlib.sha256(said.encode()).hexdigest()[:24]}.so"
    library = folder() / name
    if not library.is_file():
        if kind == "core":
            plugins.say(f"compiling engine 'native' once for this machine, into {folder()}")
        _compile([compiler(), *command, str(source), "-lm"], library)
    return library


@functools.cache
def version() -> str:
    """What the compiler says of itself."""
    return _run([compiler(), "--version"])


def _compile(command: list[str], library: Path) -> None:
    """Compiles next to the library and renames: another process sees all of it or nothing."""
    try:
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, draft = tempfile.mkstemp(dir=library.parent, prefix=".", suffix=".so")
    except OSError as error:
        raise Failed(f"{library.parent} cannot be written ({error.strerror})") from None
    os.close(handle)
    try:
        _run([*command, "-o", draft])
        os.chmod(draft, 0o700)
        os.replace(draft, library)
    finally:
        Path(draft).unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{command[0]} did not run: {error}") from None
    if done.returncode:
        first = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
        raise Failed(f"{command[0]} failed: {first}")
    return done.stdout
