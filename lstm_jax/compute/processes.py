"""Several processes, one run: how they find each other, compare notes, agree, and stop together.

Processes meet at HOST:PORT of process 0 before JAX starts. There they compare what they are about
to run (config, code, versions, platform), so that a mistake is one message in every process and
not a hang; then JAX takes over the same address. In the loop they agree once a chunk whether
anyone was asked to stop. Process 0 alone prints.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lstm_jax.config.fields import resolve
from lstm_jax.errors import DEFECT, INTERRUPTED, USAGE_ERROR, UsageError

VARIABLES = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
NOT_ASKED = ("SlurmCluster", "K8sCluster")
GREETING = 1 << 20  # bytes that a process may say about itself


class Place(NamedTuple):
    """Where this process stands among all of a run."""

    coordinator: str  # HOST:PORT of process 0
    count: int
    index: int
    devices: tuple[int, ...] | None = None  # the host's GPUs that are this process's; None: all


# ---------------------------------------------------------------- who is there


def find(where: str, environment: Any = os.environ) -> Place | None:
    """This process's place by `parallel.distributed`; None when it is alone.

    Raises:
      UsageError: an address that is none, or a process that is not told its number.
    """
    if where == "off":
        return None
    detected = _slurm(environment) or _named(environment)
    if where == "auto":
        return detected or _detected()
    host, colon, port = where.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise UsageError(f"parallel.distributed={where!r}: expected auto, off or HOST:PORT")
    if detected is None:
        raise UsageError(
            f"parallel.distributed={where}, but nothing says which process this is: start it "
            f"with srun, or set {' and '.join(VARIABLES)} for each"
        )
    return detected._replace(coordinator=where)


def _named(environment: Any) -> Place | None:
    """Told by JAX's own variables."""
    if not all(name in environment for name in VARIABLES):
        return None
    try:
        count, index = (int(environment[name]) for name in VARIABLES)
    except ValueError:
        count, index = 0, 0
    if not 0 <= index < count:
        given = ", ".join(f"{name}={environment[name]!r}" for name in VARIABLES)
        raise UsageError(f"{given}: expected a count, and a number from 0 to one below it")
    address = environment.get("JAX_COORDINATOR_ADDRESS", "")
    return Place(address, count, index) if address or count > 1 else None


def _slurm(environment: Any) -> Place | None:
    """Told by `srun`; the batch script itself, and a step of one task, are alone."""
    count = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if count == 1 or "SLURM_STEP_NODELIST" not in environment:
        return None
    port = 61440 + int(environment["SLURM_JOB_ID"]) % 4096
    host = first_host(environment["SLURM_STEP_NODELIST"])
    index, local = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
    here = _tasks_here(environment)
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    shared = here > 1 and visible.count(",") > 0  # every task sees all of the host's GPUs
    return Place(f"{host}:{port}", count, index, (local,) if shared else None)


def first_host(nodes: str) -> str:
    """node007 of `node[007,009-011],other3`, as SLURM writes lists of nodes."""
    name, bracket, rest = nodes.partition("[")
    if not bracket or "," in name:
        return name.partition(",")[0]
    inside, _, after = rest.partition("]")
    number = inside.replace(",", "-").partition("-")[0]
    return name + number + after.partition(",")[0]


def _tasks_here(environment: Any) -> int:
    """Of `2(x3),1`, two tasks on each of three nodes and one on the next: this node's."""
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        tasks, _, times = part.rstrip(")").partition("(x")
        counts += [int(tasks)] * int(times or 1)
    return counts[min(int(environment.get("SLURM_NODEID", 0)), len(counts) - 1)]


def _detected() -> Place | None:
    """What JAX finds out by itself: TPU pods and Open MPI."""
    try:
        from jax._src.clusters import ClusterEnv  # no public name tells without starting

        # `_slurm` is ours; Kubernetes has to be asked over the network, and any pod looks like it.
        known = [c for c in ClusterEnv._cluster_types if c.__name__ not in NOT_ASKED]
    except (ImportError, AttributeError):  # another JAX: address and numbers have to be given
        return None
    found = [c for c in known if not c.opt_in_only_method]
    cluster = next((c for c in found if c.is_env_present()), None)
    if cluster is None or cluster.get_process_count() == 1:
        return None
    port = os.environ.get("JAX_COORDINATOR_PORT")
    address = cluster.get_coordinator_address(60, port)
    local = None if platform_here() == "tpu" else cluster.get_local_process_id()
    devices = None if local is None else (local,)
    return Place(address, cluster.get_process_count(), cluster.get_process_id(), devices)


# ---------------------------------------------------------------- what it is about to run


def about(config: Any) -> dict[str, str]:
    """What has to be the same in all processes."""
    found = {f"config.{name}": repr(value) for name, value in resolve(config).flat.items()}
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package.parent).as_posix()
        found[f"code {name}"] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    for name in ("jax", "jaxlib", "flax", "optax", "numpy"):
        found[f"version of {name}"] = metadata.version(name)
    for name in ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable"):
        found[name] = str(getattr(jax.config, name))
    return found | {"platform": platform_here()}


def platform_here() -> str:
    """The platform that JAX will choose, found out without starting it."""
    if asked := getattr(jax.config, "jax_platforms", None):
        return asked.partition(",")[0]
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")
    if any(map(importlib.util.find_spec, plugins)) and (
        Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()
    ):
        return "gpu"
    if importlib.util.find_spec("libtpu") and any(
        Path("/dev").glob(pattern) for pattern in ("accel*", "vfio/[0-9]*")
    ):
        return "tpu"
    return "cpu"


def difference(notes: dict[int, dict]) -> str:
    """One line for every note that is not that of process 0, "" where there is none."""
    lines = []
    for index in sorted(notes)[1:]:
        a, b = notes[0], notes[index]
        for name in sorted({*a["about"], *b["about"]}):
            mine, theirs = (note["about"].get(name, "(none)") for note in (a, b))
            if mine != theirs:
                where = f"process 0 on {a['host']}, {theirs} in process {index} on {b['host']}"
                lines.append(f"  {name}: {mine} in {where}")
    more = [f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else []
    return "\n".join(lines[:20] + more)


# ---------------------------------------------------------------- meeting


def meet(place: Place, notes: dict[str, str], seconds: float) -> None:
    """Wait for all processes, and compare notes.

    Raises:
      UsageError: one that does not come or answer in time, or does not run the same.
    """
    deadline = time.monotonic() + seconds
    mine = {"index": place.index, "host": platform.node(), "about": notes}
    verdict = _host(place, mine, deadline) if place.index == 0 else _visit(place, mine, deadline)
    if verdict:
        raise UsageError(verdict)


def _address(place: Place) -> tuple[str, int]:
    host, _, port = place.coordinator.rpartition(":")
    return host.strip("[]"), int(port)


def _bind(place: Place) -> tuple[str, int]:
    """Loopback stays loopback; else all addresses, for a host's own name may be any of them."""
    host, port = _address(place)
    return (host if host in ("localhost", "127.0.0.1", "::1") else ""), port


def _host(place: Place, mine: dict, deadline: float) -> str:
    """Process 0: collect the notes of all, tell all the verdict."""
    notes, lines = {0: mine}, {}
    try:
        server = socket.create_server(_bind(place))
    except OSError as error:
        raise UsageError(
            f"process 0 cannot listen on {place.coordinator}: {error.strerror}; "
            "another run may use the port"
        ) from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        while len(notes) < place.count and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError, ValueError, KeyError):  # strangers, and time-outs
                line = stack.enter_context(server.accept()[0])
                line.settimeout(min(left, 10.0))
                note = json.loads(_read(line))
                notes[int(note["index"])], lines[line] = note, note["index"]
        verdict = _verdict(place, notes)
        for line in lines:
            with contextlib.suppress(OSError):
                line.sendall(json.dumps(verdict).encode() + b"\n")
    return verdict


def _verdict(place: Place, notes: dict[int, dict]) -> str:
    missing = [str(i) for i in range(place.count) if i not in notes]
    if missing:
        return (
            f"process {', '.join(missing)} of {place.count} did not come to {place.coordinator} "
            "in time; did all of them start, and can their hosts reach this address?"
        )
    found = difference(notes)
    return f"the processes do not run the same:\n{found}" if found else ""


def _visit(place: Place, mine: dict, deadline: float) -> str:
    """The others: bring the note, wait for the verdict."""
    began = time.monotonic()
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(_address(place), timeout=left) as line:
                line.sendall(json.dumps(mine).encode() + b"\n")
                line.settimeout(max(deadline - time.monotonic(), 0) + 5.0)  # process 0 says why
                return json.loads(_read(line))
        except (OSError, ValueError):
            time.sleep(0.2)
    return (
        f"no answer from process 0 at {place.coordinator} within {deadline - began:.0f} s; does "
        "it run, and can this host reach it? (parallel.timeout waits longer)"
    )


def _read(line: socket.socket) -> bytes:
    with line.makefile("rb") as file:
        return file.readline(GREETING)


# ---------------------------------------------------------------- together


def start(config: Any) -> Place | None:
    """Join the other processes of this run, if there are any; call before JAX starts."""
    place = find(config.parallel.distributed)
    if place is None:
        return None
    if not place.coordinator:
        raise UsageError("which address has process 0? set --config.parallel.distributed=HOST:PORT")
    began = time.monotonic()
    meet(place, about(config), config.parallel.timeout)
    if place.index:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # C++ prints, too
    host, port = _bind(place)
    with contextlib.suppress(AttributeError):  # it would take SIGTERM for itself
        jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        place.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(int(config.parallel.timeout - time.monotonic() + began), 30),
        coordinator_bind_address=f"{host or '[::]'}:{port}",
    )
    _explain_abort(place)
    return place


@contextlib.contextmanager
def joined(config: Any) -> Iterator[Place | None]:
    """A run among its processes. One that fails leaves at once, so that the others notice."""
    place = start(config)
    try:
        yield place
    except BaseException as error:
        if place is None:
            raise
        _leave(place, error)


def _leave(place: Place, error: BaseException) -> None:
    """Say why, and go without JAX's farewell: it would wait for processes that are gone."""
    who, code = f"process {place.index} of {place.count}", DEFECT
    if isinstance(error, UsageError):
        message, code = str(error), USAGE_ERROR
    elif isinstance(error, KeyboardInterrupt):
        message, code = "interrupted", INTERRUPTED
    elif is_loss(error):
        message, code = f"{LOST}\n  {str(error).splitlines()[0]}", INTERRUPTED
    else:
        message = "".join(traceback.format_exception(error)) + "internal error: a bug in lstm_jax"
    sys.stdout.flush()
    print(f"lstm-jax: {who}: {message}", file=sys.stderr, flush=True)
    if code == USAGE_ERROR and place.index == 0:
        time.sleep(2.0)  # the others, who end with process 0, find the same mistake
    os._exit(code)


LOST = (
    "another process of the run is gone. The last checkpoint is intact: start all of them again "
    "with the same command, and they go on from there"
)


def is_loss(error: BaseException) -> bool:
    """Whether a computation over all processes failed since another one is gone."""
    status = re.match(r"(\w+): ", str(error))  # JAX raises more than one type for XLA's statuses
    several = isinstance(error, RuntimeError | ValueError) and jax.process_count() > 1
    return several and status is not None and status[1] in LOSSES


LOSSES = ("UNKNOWN", "UNAVAILABLE", "INTERNAL", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED")


def _explain_abort(place: Place) -> None:
    """JAX aborts a process whose process 0 is gone, and lets no Python run before: C does."""
    words = f"lstm-jax: process {place.index} of {place.count}: {LOST}\n".encode()

    def ended(number: int) -> None:
        os.write(2, words)
        os._exit(INTERRUPTED)

    global _ended  # C holds no reference
    _ended = ctypes.CFUNCTYPE(None, ctypes.c_int)(ended)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _ended)


_ended: Any = None


@contextlib.contextmanager
def own_folder(workdir: Path) -> Iterator[Path]:
    """Where this process writes its logs: process 0 in the workdir, the others for nobody."""
    if jax.process_index() == 0:
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="lstm-jax-") as folder:
        yield Path(folder)
