"""many trials: those that differ only in numbers train together in one compiled program.

  lstm-jax sweep plan    --study=experiments/airline_lr          trials, packs, memory, time
  lstm-jax sweep run     --study=experiments/airline_lr          launch, extend, confirm, report
  lstm-jax sweep run     --study=experiments/airline_search      a search, batch by batch
  lstm-jax sweep launch  --study=experiments/airline_lr          its trials alone, or resume them
  lstm-jax sweep launch  --study=experiments/airline_lr --launcher=slurm --dry-run
  lstm-jax sweep extend  --workdir=sweeps/airline_lr             rates beyond an edge, more seeds
  lstm-jax sweep confirm --workdir=sweeps/airline_lr             fresh seeds, as CONFIRM says
  lstm-jax sweep status  --workdir=sweeps/airline_lr             its progress; results.csv
  lstm-jax sweep watch   --workdir=sweeps/airline_lr             what a launch shows, live
  lstm-jax sweep resume  --workdir=sweeps/airline_lr             resume after an interruption
  lstm-jax sweep retry   --workdir=sweeps/airline_lr             run failed packs again
  lstm-jax sweep cancel  --workdir=sweeps/airline_lr             save and stop, wherever it runs

--config.section.field=VALUE sets a field of every trial (plan, run and launch). Exit codes: 0 all
trials have ended, 2 something failed that you can fix, 4 interrupted (resume continues).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from lstm_jax import plugins
from lstm_jax.commands.arguments import Arguments, Flag
from lstm_jax.compute.sharding import configure_cpu_devices
from lstm_jax.errors import INTERRUPTED, OK, UsageError, lookup
from lstm_jax.protocol.course import COURSE, amend, is_done
from lstm_jax.protocol.course import follow as course_of
from lstm_jax.protocol.steps import CONFIRM, NARROW, WIDEN
from lstm_jax.report import build_report
from lstm_jax.report.register import register
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import make_plan, pack_folder, read_plan, write_plan
from lstm_jax.sweep.define.study import load_study, split_study, trial_configs
from lstm_jax.sweep.follow import status as state
from lstm_jax.sweep.follow.monitor import monitor
from lstm_jax.sweep.follow.monitor import watch as follow
from lstm_jax.sweep.follow.results import write_results
from lstm_jax.sweep.follow.seeds import write_means
from lstm_jax.sweep.pack.cost import fitted, headline, print_plan
from lstm_jax.sweep.pack.program import forget
from lstm_jax.sweep.workers import launchers
from lstm_jax.sweep.workers.stop import CANCELLED
from lstm_jax.trackers import TRACKERS, chosen
from lstm_jax.trackers.follow import following, later, say

FLAGS = (
    Flag(
        "study",
        "",
        "folder of the study, with a preset after a colon: experiments/NAME:smoke",
        path=True,
    ),
    Flag("workdir", "", "where the sweep lives (default: sweeps/<name of the study>)", path=True),
    Flag("config", "", "(fields only: --config.train.num_steps=100)"),
    Flag("launcher", "local", f"{' | '.join(launchers.LAUNCHERS)} | FILE.py:NAME"),
    Flag("pack", 0, "most trials in a pack (0: as many as fit in memory)"),
    Flag("budget", 0, "run, extend: most trials that may be added (0: the study's BUDGET)"),
    Flag("amend", False, "run, launch: judge by a study that has changed; the report says so"),
    Flag("measure", True, "plan: compile every pack's program and time it"),
    Flag("wait", True, "launch: stay until all is done; workers go on either way"),
    Flag("tracker", "", f"{' | '.join(TRACKERS)} | FILE.py:NAME: every trial a run, in a group"),
    Flag("dry_run", False, "launch: print what would be started, as SLURM's script; start nothing"),
    *launchers.flags(),
)
CHOICES = ("launcher", "tracker")


def flags(argv: Sequence[str]) -> tuple[Flag, ...]:
    """FLAGS, and those of a launcher of the user's own."""
    words = [word.lstrip("-") for word in argv]
    names = [word.partition("=")[2] for word in words if word.startswith("launcher=")]
    names += [name for word, name in itertools.pairwise(words) if word == "launcher"]
    own = launchers.flags(*names)
    return FLAGS + tuple(flag for flag in own if flag not in FLAGS)


def run(arguments: Arguments) -> int:
    """One of the words above."""
    words = arguments.words
    if len(words) != 1:
        raise UsageError(f"lstm-jax sweep needs one of: {', '.join(WORDS)}; given {list(words)}")
    if arguments.config:
        raise UsageError("sweep takes its config from the study; --config.FIELD=VALUE changes it")
    act = lookup("sweep command", words[0], WORDS)
    if arguments.flags.dry_run and act is not launch:
        raise UsageError(
            f"--dry-run goes with sweep launch, not with {words[0]}: sweep plan shows a study's "
            "packs, sweep launch --dry-run what would start them"
        )
    return act(arguments)


# ---------------------------------------------------------------- before


def planned(arguments: Arguments) -> tuple[Any, Any]:
    """(study, plan): every trial checked, every pack's model built on abstract shapes."""
    flags = arguments.flags
    if not flags.study:
        raise UsageError("which study? --study=experiments/NAME")
    if flags.pack < 0:
        raise UsageError(
            f"--pack={flags.pack}: expected a positive whole number, or 0 for as many as fit"
        )
    plugins.use(workdir_of(flags))
    forget()
    study = load_study(flags.study, arguments.overrides)
    plan = make_plan(study, flags.pack, trial_configs(study))
    return study, fitted(plan)


def plan(arguments: Arguments) -> int:
    configure_cpu_devices()
    study, found = planned(arguments)
    print_plan(study, found, arguments.flags.measure)
    return OK


# ---------------------------------------------------------------- run


def launch(arguments: Arguments) -> int:
    """Its trials, nothing else."""
    if arguments.flags.dry_run:
        return rehearse(arguments)
    found, workdir, options = launched(arguments)
    return go(found, workdir, launchers.make(options["launcher"], options), options)


def rehearse(arguments: Arguments) -> int:
    """What a launch would start; nothing is created."""
    found, workdir, options = checked(arguments)
    packs = range(len(found.packs))
    print(launchers.described(options["launcher"], options, workdir, packs))
    return OK


def checked(arguments: Arguments) -> tuple[Any, Path, dict[str, Any]]:
    """(plan, workdir, launch options); nothing is created."""
    jax.config.update("jax_platforms", "cpu")  # accelerators are for the workers
    study, found = planned(arguments)
    options = launch_options(arguments, study.launch)
    several = options.get("nodes", 1) * options.get("tasks", 1) > 1
    if several and (found.search or found.halving or found.pbt):
        raise UsageError(
            "SEARCH, HALVING and PBT need packs, whose trials train together: not with --nodes "
            "or --tasks, which give each trial a job of its own"
        )
    launchers.make(options["launcher"], options)  # one that cannot be says so here
    workdir = workdir_of(arguments.flags)
    chosen(options["tracker"], workdir)  # nor a tracker
    return found, workdir, options


def launched(arguments: Arguments) -> tuple[Any, Path, dict[str, Any]]:
    """(plan, workdir, launch options), the plan written."""
    found, workdir, options = checked(arguments)
    command = found.command.replace("sweep launch", f"sweep {arguments.words[0]}", 1)
    new = found._replace(registered=register(found), command=command)
    there = write_plan(new, workdir)
    there = amend(there, found, workdir, arguments.flags.amend)
    print(headline(there, workdir), flush=True)
    return there, workdir, options


def run_all(arguments: Arguments) -> int:
    """Everything up to the report; the same command goes on after any interruption."""
    found, workdir, options = launched(arguments)
    kinds = [kind for kind in COURSE if kind != CONFIRM or found.report.get("confirm")]
    code = course(arguments, workdir, options, kinds)
    if code == INTERRUPTED:
        print("up to the report: the same command again")
    if code == OK and is_done(read_plan(workdir), workdir):
        print(f"\n{build_report(workdir)}")
    return code


def extend(arguments: Arguments) -> int:
    """Rates beyond an edge of the grid, then seeds where an interval is too wide."""
    return added(arguments, (WIDEN, NARROW))


def confirm(arguments: Arguments) -> int:
    """CONFIRM fresh seeds at every variant's chosen setting."""
    found, workdir = opened(arguments)
    if not found.report.get("confirm"):
        raise UsageError(
            f"{workdir}: its study names no CONFIRM, the number of fresh seeds that are to judge; "
            "launch with CONFIRM = 10 in study.py, or add it and `sweep launch --amend`"
        )
    return added(arguments, (CONFIRM,))


def added(arguments: Arguments, kinds: Sequence[str]) -> int:
    jax.config.update("jax_platforms", "cpu")  # accelerators are for the workers
    found, workdir = opened(arguments)
    return course(arguments, workdir, launch_options(arguments, found.launch), kinds)


def course(
    arguments: Arguments, workdir: Path, options: dict[str, Any], kinds: Sequence[str]
) -> int:
    """What is planned, then what these kinds of steps add."""
    budget = arguments.flags.budget
    if budget < 0:
        raise UsageError(f"--budget={budget}: expected how many trials may be added")

    def launch_again(found: Any) -> int:
        return go(found, workdir, launchers.make(options["launcher"], options), options)

    return course_of(workdir, kinds, launch_again, budget)


def resume(arguments: Arguments) -> int:
    """The same packs again, from the manifest; the study may have changed or gone since."""
    found, workdir = opened(arguments)
    options = launch_options(arguments, found.launch)
    return go(found, workdir, launchers.make(options["launcher"], options), options)


def retry(arguments: Arguments) -> int:
    """Failed packs become pending, then resume."""
    found, workdir = opened(arguments)
    failed = 0
    for number in range(len(found.packs)):
        folder = pack_folder(workdir, number)
        end = claims.ended(folder)
        if end.get("status") == "failed":
            (folder / claims.ENDED).rename(folder / f"failed.{end['attempt']}.json")
            failed += 1
    print(f"{failed} failed packs to run again" if failed else "no pack has failed")
    return resume(arguments)


def go(found: Any, workdir: Path, launcher: Any, options: dict[str, Any]) -> int:
    (workdir / CANCELLED).unlink(missing_ok=True)
    trackers = chosen(options["tracker"], workdir)
    launchers.remember(workdir, options)
    if not options["wait"]:
        for named in trackers:
            say(f"nobody stays to send to {named.name}; {later(named, workdir)}")
        trackers = []
    with following(trackers, workdir):
        return monitor(found, workdir, launcher, wait=options["wait"])


def launch_options(arguments: Arguments, of_study: dict[str, Any]) -> dict[str, Any]:
    """The launch flags; what the command line leaves alone is as the study's LAUNCH says."""
    given = {word.lstrip("-").partition("=")[0] for word in arguments.argv if word[:1] == "-"}
    options = vars(arguments.flags)
    name = options["launcher"] if "launcher" in given else of_study.get("launcher", "local")
    own = {flag.name: flag.default for flag in launchers.flags(name)}
    if unknown := [entry for entry in of_study if entry not in (*CHOICES, *own)]:
        names = ", ".join((*CHOICES, *own))
        raise UsageError(f"the study's LAUNCH has unknown entries {unknown}; known: {names}")
    found = {flag: options[flag] for flag in ("wait", *CHOICES)}
    found |= {flag: options.get(flag, default) for flag, default in own.items()}
    return found | {entry: value for entry, value in of_study.items() if entry not in given}


# ---------------------------------------------------------------- look and stop


def opened(arguments: Arguments) -> tuple[Any, Path]:
    """The sweep in --workdir (default: that of --study)."""
    flags = arguments.flags
    if not flags.workdir and not flags.study:
        found = sorted(str(path.parent) for path in Path("sweeps").glob("*/sweep.json"))
        there = f"; there are: {', '.join(found)}" if found else ""
        raise UsageError(f"which sweep? --workdir=DIR{there}")
    workdir = workdir_of(flags)
    return read_plan(workdir), workdir


def workdir_of(flags: Any) -> Path:
    """--workdir, else sweeps/<name of the study>."""
    text = Path(split_study(flags.study)[0])
    folder = text.parent if text.suffix == ".py" else text
    return Path(flags.workdir or Path("sweeps") / folder.resolve().name)


def status(arguments: Arguments) -> int:
    """The table, once; results.csv and TensorBoard's means over seeds brought up to date."""
    found, workdir = opened(arguments)
    state.show(found, workdir, state.packs(found, workdir, claims.Watcher()))
    print(write_results(found, workdir))
    write_means(found, workdir)
    return OK


def watch(arguments: Arguments) -> int:
    """What a launch shows, until all has ended; Ctrl-C leaves the sweep alone."""
    found, workdir = opened(arguments)
    return follow(found, workdir)


def cancel(arguments: Arguments) -> int:
    """Workers see the file after their chunk, wherever they run; queued jobs are taken back."""
    _, workdir = opened(arguments)
    (workdir / CANCELLED).touch()
    launchers.take_back(workdir)
    print(f"{workdir}: workers save and stop after their chunk; `sweep resume` goes on")
    return OK


WORDS: dict[str, Callable[[Arguments], int]] = {
    "plan": plan,
    "run": run_all,
    "launch": launch,
    "extend": extend,
    "confirm": confirm,
    "status": status,
    "watch": watch,
    "retry": retry,
    "cancel": cancel,
    "resume": resume,
}
