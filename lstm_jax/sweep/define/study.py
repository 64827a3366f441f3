"""A study: the question, the base config, the trials, and what decides between them.

experiments/NAME/study.py
  QUESTION   what is asked, in a sentence; {preset: sentence} where presets ask different ones
  BASELINE   the overrides that name the variant to compare with, {} where the base config is it
  METRIC     split/metric that decides, as in "valid/loss" (the best value of a run)
  DIRECTION  "min" | "max"
  LAUNCH     optional: {"launcher": "slurm", "partition": "gpu"}: launch flags of this study
  HALVING    optional: {"rungs": (200, 400), "keep": 0.5}: steps at which a pack drops its worst;
             "across": True measures a search's trials against earlier batches too, "brackets":
             True spares some of them the first rungs (Hyperband)
  PBT        optional: {"every": 100, "fields": {"optimizer.learning_rate": (1e-5, 1.0)}}: the worst
             of a pack take over the best one's state, and its numbers perturbed
  SEARCH     optional: {"sampler": "tpe", "trials": 64, "space": ...}: a sampler asks for the
             trials, batch by batch; see `define.search`
  REPORT     optional: how the report reads the trials; see docs/reports.md and `REPORT_ENTRIES`
  MARGIN, SCALE, BLOCK, CONFIRM, BUDGET   optional: how it judges them, entries of REPORT; all but
             BLOCK also {preset: value}
  get_config([arg]) -> ConfigDict
  sweep()    generator of flat dotted overrides; with SEARCH what each search fixes (default: none)
"""

from __future__ import annotations

import difflib
import inspect
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lstm_jax.config.fields import Resolved, flatten
from lstm_jax.config.options import marked
from lstm_jax.config.overrides import (
    apply_overrides,
    check_name,
    library_folder,
    load_module,
    read_config,
    split_spec,
)
from lstm_jax.errors import UsageError, lookup
from lstm_jax.plugins import say
from lstm_jax.sweep.define.draws import Drawn
from lstm_jax.sweep.define.samplers import batch
from lstm_jax.sweep.define.search import SEED, Search, hashable, read_search
from lstm_jax.training.check import validate

DIRECTIONS = ("min", "max")
REPORT_ENTRIES = (
    "metric", "direction", "tuned", "by", "select", "solved", "limit", "fresh", "pairs",
    "published", "margin", "scale", "block", "confirm", "budget",
)  # fmt: skip
JUDGING = ("MARGIN", "SCALE", "BLOCK", "CONFIRM", "BUDGET")
HALVING = ("rungs", "keep", "across", "brackets")
PBT = ("every", "fields", "share", "factors", "seed")
PUBLISHED = ("source", "verdicts", "importance")
SELECTIONS = ("setting", "tenth", "all")
SCALES = ("linear", "log", "rank", "solved")


class Study(NamedTuple):
    """A study.py, read and checked as far as that is possible without its trials."""

    name: str
    path: Path
    question: str
    baseline: dict[str, Any]
    metric: str
    direction: str
    config: ConfigDict
    trials: list[dict[str, Any]]
    launch: dict[str, Any]
    halving: dict[str, Any]
    report: dict[str, Any]
    command: str
    search: dict[str, Any]
    drawn: list[str]
    pbt: dict[str, Any]


def load_study(spec: str, overrides: Mapping[str, Any] | None = None) -> Study:
    """The study in the folder (or file) `path[:arg]`; `overrides` go to the base config.

    Raises:
      UsageError: no such study, or something in it is missing or wrong; nothing was created.
    """
    path, arg = _study_file(spec)
    module = _module(path)
    config = read_config(f"{path}:{arg}" if arg else str(path))
    trials = _expand(path, getattr(module, "sweep", lambda: [{}]), arg)
    study = Study(
        name=path.parent.resolve().name,
        path=path,
        question=_question(getattr(module, "QUESTION", ""), arg),
        baseline=_entries(path, module, "BASELINE"),
        metric=str(getattr(module, "METRIC", "valid/loss")),
        direction=str(getattr(module, "DIRECTION", "min")),
        config=apply_overrides(config, overrides or {}),
        trials=[{str(name): value for name, value in trial.items()} for trial in trials],
        launch=_entries(path, module, "LAUNCH"),
        halving=_entries(path, module, "HALVING", arg, HALVING),
        report=_report(path, module, arg),
        command=_command(spec, overrides or {}),
        search={},
        drawn=_drawn(trials),
        pbt=_pbt(_entries(path, module, "PBT", arg, PBT)),
    )
    if hasattr(module, "SEARCH"):
        given = _entries(path, module, "SEARCH", arg, Search._fields)
        if module.SEARCH and not given:
            names = ", ".join(module.SEARCH)
            raise UsageError(f"{path}: SEARCH is there by preset, {names}: --study=STUDY:PRESET")
        study = _searching(study, given)
    _check(study)
    return study


def _module(path: Path) -> Any:
    """The file, run, with the functions that a study defines."""
    module = load_module(path)
    for name in ("get_config", *(() if hasattr(module, "SEARCH") else ("sweep",))):
        if not callable(getattr(module, name, None)):
            raise UsageError(f"{path} has no {name}(); see docs/sweeps.md for what a study defines")
    return module


def _searching(study: Study, given: dict[str, Any]) -> Study:
    """The study whose trials are the first batch of its searches."""
    aim = study.metric, study.direction
    search = read_search(study.path, given, study.config, aim, study.trials)
    trials = batch(search, [[] for _ in search.variants], study.config.seed)
    return study._replace(trials=trials, search=search.written(), drawn=list(search.space))


def _drawn(trials: list[dict[str, Any]]) -> list[str]:
    """The fields that `random` or `sobol` drew."""
    return list(dict.fromkeys(str(n) for trial in trials for n in trial if isinstance(n, Drawn)))


def _entries(
    path: Path, module: Any, name: str, arg: str = "", known: Sequence[str] = ()
) -> dict[str, Any]:
    """A dict that the study defines, {} where it does not; of known entries also {preset: dict}."""
    value = getattr(module, name, {})
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UsageError(f"{path}: {name}={value!r}: expected a dict whose keys are strings")
    presets = known and not set(value) & set(known) and all(map(_is_map, value.values()))
    return dict(_of_preset(value, arg, {}) if presets else value)


def _report(path: Path, module: Any, arg: str) -> dict[str, Any]:
    """REPORT, and the names that stand beside it; all but BLOCK may be {preset: value}."""
    beside = {name.lower(): getattr(module, name) for name in JUDGING if hasattr(module, name)}
    for name in [name for name in beside if name != "block" and _is_map(beside[name])]:
        beside[name] = _of_preset(beside[name], arg, None)
    beside = {name: value for name, value in beside.items() if value is not None}
    given = _entries(path, module, "REPORT")
    if given and not set(given) & set(REPORT_ENTRIES) and all(_is_map(v) for v in given.values()):
        given = _of_preset(given, arg, {})
    found = {**given, **beside}
    return found | ({"fresh": list(found["fresh"])} if "fresh" in found else {})


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _command(spec: str, overrides: Mapping[str, Any]) -> str:
    """What launches these trials again."""
    given = (shlex.quote(f"--config.{name}={value}") for name, value in overrides.items())
    return " ".join(["lstm-jax sweep launch", shlex.quote(f"--study={spec}"), *given])


def _question(question: Any, arg: str) -> str:
    return str(_of_preset(question, arg, "") if isinstance(question, Mapping) else question)


def _of_preset(values: Mapping, arg: str, default: Any) -> Any:
    """The value of the first word of `arg` that has one, else that of the empty word."""
    named = (values[word] for word in arg.split(",") if word in values)
    return next(named, values.get("", default))


def _study_file(spec: str) -> tuple[Path, str]:
    """(study.py, arg)."""
    text, arg = split_study(spec)
    for file in (Path(text), Path(text) / "study.py"):
        if file.is_file():
            return file, arg
    own = library_folder("experiments")
    known = {p.parent.name: p for p in (*own.glob("*/study.py"), *Path().glob("*/*/study.py"))}
    name = Path(text).name if Path(text).parent in (Path(), Path("experiments")) else ""
    if name in known:
        say(f"--study={text} is {known[name].parent}")
        return known[name], arg
    if file := next((file for file in known.values() if name and _asks(file, name)), None):
        say(f"--study={text} is the question {name!r} of {file.parent}")
        return file, ",".join(filter(None, (name, arg)))
    found = sorted(f"experiments/{name}" for name in known)
    near = difflib.get_close_matches(spec, found, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"no study {spec!r}: it has no study.py{hint}; there are: {', '.join(found)}")


def _asks(file: Path, preset: str) -> bool:
    """Whether a question of the study is asked by that preset."""
    asked = getattr(load_module(file), "QUESTION", "")
    return isinstance(asked, Mapping) and preset in asked


def split_study(spec: str) -> tuple[str, str]:
    """(folder or file, arg) of `path[:arg]`."""
    return split_spec(spec, lambda path: path.is_file() or (path / "study.py").is_file())


def _expand(path: Path, sweep: Any, arg: str) -> list[dict[str, Any]]:
    takes_arg = bool(inspect.signature(sweep).parameters)
    try:
        trials = list(sweep(arg) if takes_arg else sweep())
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path}: sweep() failed: {type(error).__name__}: {error}") from error
    wrong = next((t for t in trials if not isinstance(t, Mapping)), None)
    if wrong is not None or not trials:
        got = "nothing" if not trials else repr(wrong)
        raise UsageError(f"{path}: sweep() yields dicts of overrides, got {got}")
    for number, name in ((n, name) for n, trial in enumerate(trials) for name in trial):
        try:
            check_name(name)
        except UsageError as error:
            raise UsageError(f"{path}: trial {number}: {error}") from None
    return [dict(trial) for trial in trials]  # names keep that they were drawn


def _check(study: Study) -> None:
    if study.direction not in DIRECTIONS:
        raise UsageError(f"{study.path}: DIRECTION={study.direction!r}: expected min or max")
    if study.metric.count("/") != 1:
        raise UsageError(f"{study.path}: METRIC={study.metric!r}: expected split/metric")
    _check_baseline(study)
    _check_halving(study)
    _check_pbt(study)
    _check_report(study)
    same = [key for key, n in Counter(map(_key, study.trials)).items() if n > 1]
    if same:
        raise UsageError(
            f"{study.path}: {len(same)} trials are given twice, {dict(same[0])} for one; "
            "a trial is run once: vary the seed"
        )


def _check_baseline(study: Study) -> None:
    flat = flatten(study.config)
    for name in study.baseline:
        lookup(f"{study.path}: field of BASELINE", name, flat)
    wanted = {name: hashable(value) for name, value in study.baseline.items()}
    having = [{n: hashable({**flat, **trial}[n]) for n in wanted} for trial in study.trials]
    if wanted not in having:
        raise UsageError(
            f"{study.path}: BASELINE={study.baseline}: no trial has these values; there are: "
            f"{', '.join(dict.fromkeys(map(str, having)))}"
        )


def _check_halving(study: Study) -> None:
    halving, train = study.halving, study.config.train
    if not halving:
        return
    rungs, keep = halving.get("rungs"), halving.get("keep", 0.5)
    listed = list(rungs) if isinstance(rungs, list | tuple) else []
    fit = [
        isinstance(r, int) and 0 < r < train.num_steps and r % train.eval_every == 0 for r in listed
    ]
    if set(halving) - set(HALVING) or not fit or not all(fit) or not _is_number(keep, 0, 1):
        raise UsageError(
            f"{study.path}: HALVING={halving}: expected rungs, a list of multiples of "
            f"train.eval_every={train.eval_every} below train.num_steps={train.num_steps}, and "
            "keep between 0 and 1"
        )
    if study.search.get("batch") == 1 and not halving.get("across"):
        raise UsageError(
            f"{study.path}: HALVING has nothing to drop where SEARCH asks for a batch of 1: give "
            "it a larger batch, or HALVING across=True"
        )
    if halving.get("across") and not study.search:
        raise UsageError(
            f"{study.path}: HALVING across=True looks at the earlier batches of a search: give the "
            "study a SEARCH, or leave it out"
        )
    if len(study.search.get("objectives", ())) > 1:
        raise UsageError(
            f"{study.path}: HALVING keeps the best by train.best_metric, but SEARCH has several "
            f"objectives, {', '.join(study.search['objectives'])}: leave one of them out"
        )


def _pbt(given: dict[str, Any]) -> dict[str, Any]:
    """PBT with what it leaves out."""
    return {"share": 0.25, "factors": [0.8, 1.25], "seed": 0, **given} if given else {}


def _check_pbt(study: Study) -> None:
    pbt, train = study.pbt, study.config.train
    if not pbt:
        return
    if unknown := set(pbt) - set(PBT):
        raise UsageError(f"{study.path}: PBT has unknown entries {unknown}; known: {PBT}")
    every, fields = pbt.get("every", 0), pbt.get("fields")
    flat, numeric = flatten(study.config), marked("numeric", study.config.task.name)
    period = isinstance(every, int) and 0 < every < train.num_steps
    wrong = {
        f"every={every!r}: expected a multiple of train.eval_every={train.eval_every} below "
        f"train.num_steps={train.num_steps}": not period or every % train.eval_every,
        f"share={pbt['share']!r}: expected a share of the pack above 0, at most 0.5": not (
            _is_number(pbt["share"], 0, 0.5 + 1e-9)
        ),
        f"fields={fields!r}: expected {{field: (lowest, highest)}}": not fields
        or not _is_map(fields)
        or not all(isinstance(b, list | tuple) and len(b) == 2 for b in fields.values()),
        "HALVING and PBT both decide who goes on: leave one of them out": study.halving,
    }
    lines = [words for words, holds in wrong.items() if holds]
    for name, bounds in fields.items() if not lines and fields else ():
        lookup(f"{study.path}: field of PBT", name, dict.fromkeys(flat))
        if name not in numeric or name == SEED or not flat[name]:
            lines.append(f"{name}: only numbers that are not 0 (off) may change on the way")
        elif not 0 < bounds[0] < bounds[1]:
            lines.append(f"{name}={bounds}: expected two bounds above 0, the lower one first")
    if lines:
        raise UsageError("\n".join(f"{study.path}: PBT: {line}" for line in lines))


def _check_report(study: Study) -> None:
    for name in study.report:
        lookup(f"{study.path}: REPORT entry", name, dict.fromkeys(REPORT_ENTRIES))
    lookup("REPORT select", study.report.get("select", "setting"), dict.fromkeys(SELECTIONS))
    lookup("REPORT direction", study.report.get("direction", "min"), dict.fromkeys(DIRECTIONS))
    for name in study.report.get("published", {}):
        lookup("REPORT published", name, dict.fromkeys(PUBLISHED))
    solved = study.report.get("solved")
    if solved is not None and not (study.direction == "min" and 0 < solved < 1):
        raise UsageError(
            f"{study.path}: REPORT solved={solved!r}: expected a share of the trivial score, from "
            "0 to 1; the metric must be one whose smaller values are better"
        )
    fields = flatten(study.config)
    for name in (*study.report.get("tuned", ()), *study.report.get("by", ()), *_blocks(study)):
        lookup("field of REPORT", name, fields)
    _check_judging(study)


def _blocks(study: Study) -> list[str]:
    """Every field that BLOCK names."""
    given = study.report.get("block", ())
    listed = given.values() if isinstance(given, Mapping) else [given]
    return [n for names in listed for n in ([names] if isinstance(names, str) else names)]


def _check_judging(study: Study) -> None:
    report = study.report
    scale, margin = report.get("scale", "linear"), report.get("margin", 0.05)
    lookup("SCALE", scale, dict.fromkeys(SCALES))
    wrong = {
        f"MARGIN={margin!r}: expected a share of the gap between the strongest trivial score and "
        "the baseline, above 0 and below 1, such as 0.05": not _is_number(margin, 0, 1),
        "SCALE='rank' compares pairs: say which trials are pairs, as in BLOCK='seed'": (
            scale == "rank" and not _blocks(study)
        ),
        "SCALE='solved' needs REPORT['solved'], the share of the trivial score that counts as "
        "solved, and knows no BLOCK": scale == "solved"
        and ("solved" not in report or bool(_blocks(study))),
        "REPORT metric='valid/updates_to_solve' needs REPORT['solved'], the share of the trivial "
        "score that counts as solved, such as 0.1": report.get("metric", "").endswith("_to_solve")
        and "solved" not in report,
        f"REPORT limit={report.get('limit')!r}: expected a positive number, the value beyond which "
        "a score was not followed": not _is_number(report.get("limit", 1), 0, float("inf")),
        f"CONFIRM={report.get('confirm')!r}: expected how many fresh seeds judge each variant, 2 "
        "or more": not _is_count(report.get("confirm", 2), 2),
        f"BUDGET={report.get('budget')!r}: expected how many trials `sweep extend` may add, 0 or "
        "more": not _is_count(report.get("budget", 0), 0),
    }
    for words, found in wrong.items():
        if found:
            raise UsageError(f"{study.path}: {words}")


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low < value < high


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _key(trial: dict[str, Any]) -> tuple:
    return tuple(sorted((name, str(value)) for name, value in trial.items()))


def trial_configs(study: Study) -> list[Resolved]:
    """The config of every trial, checked as the command line checks one.

    Raises:
      UsageError: every override of every trial that does not exist or does not fit, each once.
    """
    configs, mistakes = [], {}
    for number, trial in enumerate(study.trials):
        try:
            configs.append(validate(apply_overrides(study.config, trial)))
        except UsageError as error:
            for line in str(error).splitlines():
                mistakes.setdefault(line, []).append(number)
    if mistakes:
        lines = [f"  {line}  ({_numbers(trials)})" for line, trials in mistakes.items()]
        raise UsageError(f"{study.path}: nothing was launched\n" + "\n".join(lines))
    return configs


def _numbers(trials: list[int]) -> str:
    if len(trials) == 1:
        return f"trial {trials[0]}"
    return f"{len(trials)} trials, first {trials[0]}"


def varied(study: Study, configs: Sequence[Resolved]) -> list[str]:
    """The fields that a trial sets, in the order in which they first appear, if they differ."""
    flat = [config.flat for config in configs]
    names = dict.fromkeys(name for trial in study.trials for name in trial)
    return [n for n in names if len({str(f.get(n)) for f in flat}) > 1] or list(names)


def config_file(spec: str, arg: str = "") -> ConfigDict:
    """The config of `configs/NAME.py[:preset]`, for a study's `get_config(arg)`.

    A path is relative to the file that calls this, else to the current folder or the repository;
    one that starts with a dot is relative to that file alone. A preset in `arg` is added to those
    in `spec`.
    """
    study = Path(sys._getframe(1).f_code.co_filename).parent
    dotted = spec.startswith(".")
    places = (study,) if dotted else (study, Path(), library_folder("configs").parent)
    specs = [str(place / os.path.expanduser(spec)) for place in places]
    there = (spec for spec in specs if Path(split_spec(spec)[0]).is_file())
    found = next(there, specs[0] if dotted else spec)
    path, preset = split_spec(found)
    presets = ",".join(filter(None, (preset, arg)))
    return read_config(f"{path}:{presets}" if presets else path)
