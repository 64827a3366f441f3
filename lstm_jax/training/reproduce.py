"""A run once more: does it come out the same to the bit, and if not, what was different?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lstm_jax.config.fields import flatten
from lstm_jax.errors import UsageError
from lstm_jax.training import begin, saved, train
from lstm_jax.workdir.checkpoint import Checkpoints

# Of the manifest, what may change numbers; hosts and dates may not.
MATTERS = ("versions.", "git.commit", "git.diff_sha256", "devices.", "flags.", "processor")
NOTHING = "(not recorded)"


class Verdict(NamedTuple):
    """What came out: whether every step that both runs have is the same, and what differs."""

    same: bool
    steps: dict[int, bool]  # {step: the digests agree}
    differences: list[str]  # between the manifests, as sentences


def reproduce(original: Path, workdir: Path) -> tuple[dict, Verdict]:
    """Train the config of `original` in `workdir`; (summary, verdict).

    Raises:
      UsageError: no run there, no sound checkpoint, or no step that both runs have.
    """
    config, wanted = saved.saved_config(original), digests(original)
    if not wanted:
        raise UsageError(f"{original} has no checkpoint that verifies; nothing to compare with")
    if workdir.resolve() == original.resolve():
        raise UsageError(f"--workdir={workdir} is the run itself; name another directory")
    begin.check_same(config, workdir)
    source = saved.recorded(original).get("init_from")
    summary = train.train(config, workdir, source=source)
    return summary, compare(wanted, original, workdir)


def compare(wanted: Mapping[int, str], original: Path, workdir: Path) -> Verdict:
    found = digests(workdir)
    steps = {n: wanted[n] == found[n] for n in sorted(wanted.keys() & found.keys())}
    if not steps:
        raise UsageError(
            f"no step is in both: {original} has checkpoints {_steps(wanted)}, "
            f"{workdir} has {_steps(found)}"
        )
    return Verdict(all(steps.values()), steps, differences(original, workdir))


def digests(workdir: Path) -> dict[int, str]:
    """{step: digest} of the checkpoints that verify."""
    return {info.step: info.digest for info in Checkpoints(workdir).steps() if info.digest}


def differences(original: Path, workdir: Path) -> list[str]:
    """What the manifests say that may have changed numbers."""
    there, here = saved.recorded(original), _facts(saved.recorded(workdir))
    attempts = [_facts(attempt) for attempt in (*there.get("earlier", []), there)]
    lines = []
    for name in sorted({*here, *(name for facts in attempts for name in facts)}):
        mine = str(here.get(name, NOTHING))
        theirs = list(dict.fromkeys(str(facts.get(name, NOTHING)) for facts in attempts))
        if theirs != [mine]:
            lines.append(f"{name}: {', then '.join(theirs)} there, {mine} here")
    return lines + _midway(original)


def _midway(workdir: Path) -> list[str]:
    """What was changed while the run went on: it is no run of one config."""
    return [
        f"{name}: {there} up to step {line['step']}, {here} from there on"
        for line in begin.incidents(workdir)
        if line.get("what") == "goes on"
        for name, (there, here) in line["changes"].items()
    ]


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in flatten(manifest).items() if name.startswith(MATTERS)}


def _steps(found: Mapping[int, str]) -> str:
    return ", ".join(map(str, sorted(found))) or "none"


def say(verdict: Verdict, original: Path) -> None:
    """The verdict in the words of a user."""
    for step, same in verdict.steps.items():
        print(f"step {step}: {'the same to the bit' if same else 'another digest'}")
    if verdict.same:
        print(f"reproduced: every checkpoint in common with {original} is the same")
    elif verdict.differences:
        print("not reproduced; what was different:")
    else:
        print("not reproduced, though versions, flags and devices are the same: a defect, or data")
    if verdict.differences and verdict.same:
        print("although these differ:")
    for line in verdict.differences:
        print(f"  {line}")
