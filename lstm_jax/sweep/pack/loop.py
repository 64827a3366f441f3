"""A pack: K trials as one program, each leaving what a single run leaves.

The pure functions of `train` are vmapped over trials and the trial axis is laid out over all
local devices; nothing crosses it, so a trial that diverges freezes alone. The pack's state is
checkpointed as one, with the numbers of its trials, and resumes exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.compute.memory import check_memory
from lstm_jax.diagnostics import observe
from lstm_jax.sweep.define import names
from lstm_jax.sweep.pack import rungs
from lstm_jax.sweep.pack.program import at, compiled, pack_program
from lstm_jax.sweep.pack.trial import TrialRun
from lstm_jax.training.journal import exact
from lstm_jax.training.program import next_chunk
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.metrics import read_metrics
from lstm_jax.workdir.seal import Damage, read_seal

STATUS_SECONDS = 5.0


class Members(NamedTuple):
    """What a pack's checkpoint holds, and all that it needs to."""

    trials: Any  # [K] int32
    state: Any  # TrainState with a leading trial axis


class Pack:
    """A claimed pack: `run()` trains it to its end or to a stop."""

    def __init__(self, plan: Any, number: int, folder: Path, trial_folders: Callable, claim: Any):
        self.plan, self.number, self.claim = plan, number, claim
        self.configs = {trial: plan.config(trial) for trial in plan.packs[number]}
        self.options = self.configs[plan.packs[number][0]].train
        self.trials = [
            TrialRun(trial, config, trial_folders(trial), claim.attempt, number)
            for trial, config in self.configs.items()
        ]
        self.places, self.folder_of = names.places(plan), trial_folders
        self.checkpoints = Checkpoints(folder, keep_last=2, keep_best=0)
        self.step, self.seconds, self.steps_done, self.compile_seconds = 0, 0.0, 0, 0.0
        self.best: tuple[float, int] | None = None
        self._look: Callable | None = None
        self.total, self.rungs = len(self.trials), plan.rungs(number)
        self.began, self._said = time.perf_counter(), time.monotonic()

    def run(self, stop: Callable[[], str]) -> str:
        """completed, or interrupted when `stop()` gave a reason; then everything is saved."""
        self.program = pack_program(self.trials[0].config)
        state = self.restore()
        while self.active(state) and not (why := stop()):
            state = self.evolve(self.thin(self.advance(state)))
            if self.step % self.options.checkpoint_every == 0:
                self.save(state)
        if self.active(state):
            self.save(state)
            self.checkpoints.close()
            return f"interrupted: {why}"
        self.finish(state, range(self.compiled.size))
        self.checkpoints.close()
        return "completed"

    def advance(self, state: Any) -> Any:
        """One chunk, its log lines, an evaluation where it is due."""
        began, steps = time.perf_counter(), next_chunk(self.options, self.step)
        if self.steps_done == 0:
            check_memory(self.compiled.compile_chunk(steps, state), self.compiled.size)
            self.compile_seconds, began = time.perf_counter() - began, time.perf_counter()
        state, metrics = self.compiled.chunk(steps, state)
        due = (self.step + steps) % self.options.eval_every == 0 or self.is_last(steps)
        if due:
            state, found = self.compiled.validate(state)
            metrics = (metrics, found)
        flags = state.step, state.bad, state.stopped
        seen = self.compiled.fetch((flags, metrics))
        self.claim.check()
        self.step, self.steps_done = self.step + steps, self.steps_done + steps
        took = time.perf_counter() - began
        self.seconds += took
        self.log(seen, due, steps / took)
        self.diagnose(state)
        self.histograms(state)
        return state

    def diagnose(self, state: Any) -> None:
        """Every `train.diagnose_every` steps each trial that still runs, one by one."""
        every = self.options.diagnose_every
        if not every or not (self.step % every == 0 or self.is_last(0)):
            return

        self._look = self._look or observe.observer(self.program)
        params, data = self.compiled.fetch(state.params), self.program.task.data
        for i, trial in enumerate(self.trials):
            if not trial.ended:
                found = self._look(at(params, i), trial.hyper, data)
                observe.write(found, trial.writer, self.step, figures=False)

    def histograms(self, state: Any) -> None:
        """Every `train.histogram_every` steps those of the trials that still run; 0: none."""
        every = self.options.histogram_every
        if not every or not (self.step % every == 0 or self.is_last(0)):
            return
        slopes = self.compiled.gradients(state)
        found = self.compiled.fetch({"parameters": state.params, "gradients": slopes})
        for i, trial in enumerate(self.trials):
            for tag, tree in found.items() if not trial.ended else ():
                trial.writer.histograms(self.step, tag, at(tree, i))

    def is_last(self, steps: int) -> bool:
        return self.step + steps >= self.options.num_steps

    def log(self, seen: Any, due: bool, rate: float) -> None:
        """A line for every trial that still ran; values as plain floats, trial by trial."""
        (steps, bad, stopped), metrics = seen
        trained, valid = metrics if due else (metrics, {})
        for i, trial in enumerate(self.trials):
            if trial.ended:
                continue
            if int(steps[i]) > trial.step:
                trial.step = int(steps[i])
                line = {name: column[i] for name, column in trained.items()}
                trial.writer.scalars(trial.step, "train", line | {"steps_per_second": rate})
            if valid and trial.due(self.options.eval_every):
                line = {name: column[i] for name, column in valid.items()}
                trial.writer.scalars(trial.step, "valid", line)
                trial.writer.baselines(trial.step, self.program.task.baselines.get("valid", {}))
                trial.latest = float(line[self.options.best_metric])
                self.compare(trial, line)
            trial.ended = "diverged" if bad[i] else "completed" if stopped[i] else ""
        self.progress(rate, trained["loss"])

    def compare(self, trial: TrialRun, line: dict) -> None:
        """Remember the best value so far of the study's metric, where that is a validation one."""
        split_name, _, metric = self.plan.metric.partition("/")
        if split_name != "valid" or metric not in line:
            return
        sign = -1.0 if self.plan.direction == "max" else 1.0
        value = float(line[metric])
        if self.best is None or sign * value < sign * self.best[0]:
            self.best = value, trial.number

    def progress(self, rate: float, losses: Any) -> None:
        """What the sweep shows of the pack, in its heartbeat; of the trials, in their status."""
        training = [loss for t, loss in zip(self.trials, losses, strict=True) if not t.ended]
        active = len(training)
        self.claim.progress = {
            "step": self.step,
            "num_steps": self.options.num_steps,
            "trials": self.total,
            "ended": self.total - active,
            "trial_steps_per_second": rate * active,
            "compile_seconds": self.compile_seconds,
        }
        if training:
            self.claim.progress["loss"] = float(np.mean(training))
        if self.best:
            self.claim.progress |= {"best": self.best[0], "best_trial": self.best[1]}
        if time.monotonic() - self._said > STATUS_SECONDS:
            self._said = time.monotonic()
            for trial in self.trials:
                trial.say("running")

    # ------------------------------------------------------------ fewer trials

    def thin(self, state: Any) -> Any:
        """Drop the worst trials at a rung, and the ended ones where they are half of the pack."""
        active = [i for i, trial in enumerate(self.trials) if not trial.ended]
        rung = self.step in self.rungs
        kept = self.survivors(state, active) if rung else active
        left = self.options.num_steps - self.step
        # A smaller program has to be compiled: not for the last quarter of the way.
        worth = 2 * len(active) <= len(self.trials) and 4 * left >= self.options.num_steps
        if not kept or len(kept) == len(self.trials) or not (rung or worth):
            return state
        self.finish(state, sorted(set(range(len(self.trials))) - set(kept)), "pruned")
        host = jax.tree.map(lambda leaf: leaf[np.array(kept)], self.compiled.fetch(state))
        self.trials = [self.trials[i] for i in kept]
        self.compile(self.trials)
        state = self.compiled.place(host)
        self.save(state)
        return state

    def survivors(self, state: Any, active: list[int]) -> list[int]:
        """The best of the active trials by their best validation value so far, in order.

        Those of one bracket compete, where there are several.
        """
        best, halving = self.compiled.fetch(state.best.value), self.plan.halving
        sign, keep = rungs.sign_of(self.options.best_metric), halving.get("keep", 0.5)
        seen = rungs.earlier if halving.get("across") else lambda *_: []
        others = seen(self.plan, self.number, self.folder_of, self.step)
        found = []
        for group in self.competing(active):
            values = [sign * float(best[i]) for i in group]
            found += [group[i] for i in rungs.kept(values, others, keep)]
        spared = set(active).difference(*self.competing(active))
        return sorted([*found, *spared])

    def competing(self, active: list[int]) -> list[list[int]]:
        """Groups of active trials that compete at this step: all, or those of each bracket."""
        halving, pack = self.plan.halving, self.plan.packs[self.number]
        if not halving.get("brackets"):
            return [active]
        found = rungs.brackets(len(pack), self.rungs, halving.get("keep", 0.5))
        place = {trial: i for i, trial in enumerate(pack)}
        groups = [
            [i for i in active if place[self.trials[i].number] in part]
            for part, own in found
            if self.step in own
        ]
        return [group for group in groups if group]

    def evolve(self, state: Any) -> Any:
        """PBT: the worst go on from the state of one of the best, with its numbers perturbed."""
        pbt = self.plan.pbt if self.plan.evolves(self.number) else {}
        if not pbt or self.step % pbt["every"] or self.is_last(0):
            return state
        active = [i for i, trial in enumerate(self.trials) if not trial.ended]
        sign = rungs.sign_of(self.options.best_metric)
        values = [sign * self.trials[i].latest for i in active]
        numbers = [{n: float(self.trials[i].hyper[n]) for n in pbt["fields"]} for i in active]
        changes = rungs.evolved(values, numbers, pbt, (pbt["seed"], self.number, self.step))
        source = np.arange(len(self.trials))
        for place, change in changes.items():
            trial, parent = self.trials[active[place]], active[change.source]
            source[active[place]] = parent
            trial.change(change.numbers)
            rungs.remember(trial.folder, self.step, self.trials[parent].number, change.numbers)
        self.compile(self.trials)
        host = self.compiled.fetch(state)
        scores = sign * host.best.value
        best = np.where(scores <= scores[source], np.arange(len(source)), source)  # found is found
        new = jax.tree.map(lambda leaf: leaf[source], host)
        new = new._replace(best=jax.tree.map(lambda leaf: leaf[best], host.best))
        return self.compiled.place(new)

    # ------------------------------------------------------------ save and restore

    def active(self, state: Any) -> bool:
        """Whether a trial still trains."""
        return self.step < self.options.num_steps and not all(t.ended for t in self.trials)

    def save(self, state: Any) -> None:
        """The pack's checkpoint; what was logged before it is handed over before it."""
        for trial in self.trials:
            trial.writer.flush(sync=False)
        self.claim.check()
        numbers = np.array([trial.number for trial in self.trials], np.int32)
        self.checkpoints.save(self.step, Members(numbers, self.compiled.fetch(state)))

    def restore(self) -> Any:
        """The newest sound state of the pack, on the devices, or a fresh one."""
        found = None
        while found is None and (size := self.saved_size()):
            self.compile(self.trials[:size])
            numbers = np.empty(size, np.int32)
            found = self.checkpoints.restore(Members(numbers, self.compiled.like()))
        self.step, members = found or (0, None)
        if members is not None:
            self.trials = [t for t in self.trials if t.number in set(members.trials.tolist())]
        for trial in self.trials if self.plan.pbt else ():
            trial.change(rungs.numbers_at(trial.folder, self.step))
        self.compile(self.trials)
        for trial in self.trials:
            names.place(trial.folder, self.places[trial.number])
            trial.open(self.step)
        if members is None:
            return self.compiled.init()
        for i, trial in enumerate(self.trials):
            trial.step = int(members.state.step[i])
            diverged, stopped = members.state.bad[i], members.state.stopped[i]
            trial.ended = "diverged" if diverged else "completed" if stopped else ""
            for line in read_metrics(trial.folder):
                if line["split"] == "valid":
                    self.compare(trial, line)
        return self.compiled.place(members.state)

    def saved_size(self) -> int:
        """Trials in the newest checkpoint; 0 where there is none. A damaged one is set aside."""
        root = self.checkpoints.root
        names = [p.name for p in root.iterdir()] if root.is_dir() else []
        for step in sorted((int(n) for n in names if n.isdecimal()), reverse=True):
            try:
                return read_seal(root / str(step))["leaves"]["trials"].shape[0]
            except (Damage, OSError):
                self.checkpoints.restore(Members(np.empty(1), ()), step)
        return 0

    def compile(self, trials: list[TrialRun]) -> None:
        hypers = [trial.hyper for trial in trials]
        self.compiled = compiled(self.program, hypers)

    # ------------------------------------------------------------ the end

    def finish(self, state: Any, indices: Any, status: str = "completed") -> None:
        """Test the best parameters of these trials, and leave all that a run leaves."""
        metrics = self.compiled.test(state.best.params)
        host = self.compiled.fetch(state)
        speed = {
            "steps_per_second": self.steps_done / self.seconds if self.seconds else None,
            "wall_seconds": time.perf_counter() - self.began,
        }
        self.claim.check()
        pending = []
        for i in indices:
            trial = self.trials[i]
            found = {s: {n: float(v[i]) for n, v in m.items()} for s, m in metrics.items()}
            task, own = self.program.task, at(host, i)
            found = exact(found, task, self.program.forward(own.best.params, trial.hyper))
            saved = trial.finish(trial.ended or status, own, found, task.baselines, speed)
            pending.append((trial, saved, float(host.best.value[i])))
        for trial, saved, best in pending:
            saved.close()
            trial.say(trial.ended, best=best)
