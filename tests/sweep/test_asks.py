"""A search goes on from its files alone: whoever asks, and whatever was killed on the way."""

import json
import math
import os
import signal
import time

import pytest
import reports

from lstm_jax.errors import UsageError
from lstm_jax.protocol.course import COURSE, follow, is_done
from lstm_jax.report import register
from lstm_jax.sweep import asks, claims
from lstm_jax.sweep.define.plan import (
    filled,
    make_plan,
    pack_folder,
    read_plan,
    trial_folder,
    write_plan,
)
from lstm_jax.sweep.define.samplers import propose
from lstm_jax.sweep.define.search import of_manifest
from lstm_jax.sweep.define.study import load_study
from lstm_jax.sweep.follow.monitor import monitor
from lstm_jax.sweep.pack import cost
from lstm_jax.sweep.workers.worker import work

RATE = "optimizer.learning_rate"
SEARCH = """
from lstm_jax.sweep import choice, log_uniform, uniform
SEARCH = {{
    "sampler": "{sampler}", "trials": {trials}, "batch": {batch}, "space": {{
        "optimizer.learning_rate": log_uniform(1e-4, 1e-1), "optimizer.momentum": uniform(0.1, 0.9),
    }},
}}
"""
ALONE = "    yield {}"
VARIANTS = '    yield from grid({"cell.gates": ["lstm", "cifg"]})'


def more(sampler="random", trials=12, batch=4):
    return SEARCH.format(sampler=sampler, trials=trials, batch=batch)


def registered(folder, trials=ALONE, more=""):
    reports.study(folder / "study", trials=trials, more=more)
    plan = make_plan(load_study(str(folder / "study")))
    return write_plan(plan._replace(registered=register.register(plan)), folder / "w"), folder / "w"


def made_up(plan, trial):
    flat = plan.base | plan.trials[trial]
    score = 1 + abs(math.log10(flat[RATE]) + 2) + (flat["cell.gates"] == "cifg")
    return {"loss": score}, {"loss": score + 0.1}


def end(plan, workdir, status="completed"):
    """Every trial of the plan has a made-up outcome, every pack has ended."""
    for number in range(len(plan.trials)):
        if not trial_folder(workdir, number).exists():
            valid, test = made_up(plan, number)
            reports.write(trial_folder(workdir, number), valid, test)
    for number in range(len(plan.packs)):
        pack_folder(workdir, number).mkdir(parents=True, exist_ok=True)
        ended = pack_folder(workdir, number) / "ended.json"
        ended.write_text(json.dumps({"status": status, "attempt": 1}))


def test_a_search_runs_to_its_end_and_is_then_judged(tmp_path):
    """Two variants, each with a search of its own; fresh seeds at what they found."""
    text = more() + '\nBASELINE, CONFIRM = {"cell.gates": "lstm"}, 3\n'
    plan, workdir = registered(tmp_path, VARIANTS, text)
    assert [t["seed"] for t in plan.trials] == [0, 1, 2, 3] * 2
    assert [t["cell.gates"] for t in plan.trials] == ["lstm"] * 4 + ["cifg"] * 4

    def launch(plan):
        while True:
            end(plan, workdir)
            grown = asks.go_on(plan, workdir)
            if grown == plan:
                return 0
            plan = grown

    assert follow(workdir, COURSE, launch) == 0
    plan = read_plan(workdir)
    assert [m.kind for m in plan.grown] == ["search", "search", "confirm"]
    assert is_done(plan, workdir) and not asks.is_open(plan)
    assert len(plan.searched) == 24 and len(plan.trials) == 24 + 2 * 3
    search = of_manifest(plan.search)
    told = asks.told(plan, search, workdir)
    assert [len(told[i]) for i in (0, 1)] == [12, 12]
    best = min(told[1], key=lambda t: t.values)
    assert plan.trials[-1][RATE] == best.setting[RATE]


def test_nothing_is_asked_while_a_pack_runs_or_has_failed(tmp_path):
    plan, workdir = registered(tmp_path, more=more())
    assert asks.go_on(plan, workdir) is plan
    end(plan, workdir, "failed")
    assert asks.go_on(plan, workdir) is plan
    end(plan, workdir)
    grown = asks.go_on(plan, workdir)
    assert len(grown.trials) == 8
    assert asks.go_on(plan, workdir) == grown  # who comes second finds it asked
    assert len(read_plan(workdir).packs) == 2


def test_packs_of_a_search_have_one_program_each(tmp_path):
    text = more(batch=8, trials=16).replace(
        '"optimizer.momentum": uniform(0.1, 0.9)', '"cell.hidden": choice((4, 8))'
    )
    plan, workdir = registered(tmp_path, more=text)
    end(plan, workdir)
    grown = asks.go_on(plan, workdir)
    for pack in grown.packs:
        assert len({grown.config(n).signature for n in pack}) == 1
    assert len(grown.packs) == 4
    assert sorted(n for pack in grown.packs for n in pack) == list(range(16))


def test_packs_fill_up_by_program_and_for_a_while():
    """Compiled sizes first, then halves of a batch; a leftover goes after `bound` batches."""
    sizes = [8, 4, 2]
    assert filled("aaaabbbb", [0] * 8, {}, sizes, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert filled("abbbcaaa", [0] * 8, {}, sizes, 2) == [[0, 5, 6, 7], [1, 2]]
    assert filled("aaaaaaab", [0] * 8, {"a": {6}}, sizes, 2) == [[0, 1, 2, 3, 4, 5]]
    assert filled("aaaaaaab", [0] * 8, {"a": {1}}, sizes, 2) == [[0, 1, 2, 3], [4, 5]]
    assert filled("caab", [2, 1, 0, 0], {}, sizes, 2) == [[0], [1, 2]]
    assert filled("abc", [1, 0, 0], {}, sizes, 2) == [[0]]


def test_asks_of_a_program_wait_for_each_other(tmp_path, monkeypatch):
    """Every ask is trained once, with its own seed."""
    monkeypatch.setattr(cost, "fitted", lambda plan: plan)  # builds five models
    text = more(trials=24, batch=8).replace(
        '"optimizer.momentum": uniform(0.1, 0.9)', '"cell.hidden": choice((4, 5, 6, 7, 8))'
    )
    plan, workdir = registered(tmp_path, more=text)
    while True:
        end(plan, workdir)
        plan, before = asks.go_on(read_plan(workdir), workdir), plan
        if plan == before:
            break
        assert all(waited < 2 for waited, _ in plan.waiting)
        assert f"trials in packs of {len(plan.grown[-1].packs[0])}" in asks.news(plan, workdir)
    assert not plan.waiting and not asks.is_open(plan)
    assert sorted(trial["seed"] for trial in plan.trials) == list(range(24))
    drawn = {trial["seed"]: trial[RATE] for trial in plan.trials}
    settings = propose(of_manifest(plan.search), [], 24)
    assert drawn == {i: setting[RATE] for i, setting in enumerate(settings)}
    for pack in plan.packs:
        assert len({plan.config(n).signature for n in pack}) == 1
    middle = [pack for more in plan.grown[:-1] for pack in more.packs]
    assert any(more.waiting for more in plan.grown) and max(map(len, middle)) > 1
    assert sorted(n for pack in plan.packs for n in pack) == list(range(24))


def test_what_a_trial_costs_is_an_objective(tmp_path):
    text = more(trials=8).replace(
        '"space"',
        '"objectives": {"valid/loss": "min", "flops": "min", "parameters": "min"}, "space"',
    )
    plan, workdir = registered(tmp_path, more=text)
    end(plan, workdir)
    values = asks.told(plan, of_manifest(plan.search), workdir)[0][0].values
    assert values[2] == 1233 and values[1] > 2 * 12 * 8 * 32


def test_a_search_on_many_nodes_is_refused(tmp_path):
    from lstm_jax.sweep.workers.multihost import trial_config

    plan, _ = registered(tmp_path, more=more())
    with pytest.raises(UsageError, match="not with --nodes"):
        trial_config(plan, 0)


# ---------------------------------------------------------------- who runs what is asked


class Jobs:
    """A launcher whose one worker ends its packs, and dies instead of asking."""

    def __init__(self, plan, workdir):
        self.plan, self.workdir, self.alive = plan, workdir, False
        self.submitted, self.grown = [], []

    def submit(self, workdir, packs):
        self.submitted.append(packs)
        self.alive = True

    def grow(self, packs):
        self.grown.append(packs)

    def poll(self):
        end(read_plan(self.workdir), self.workdir)
        self.alive, was = False, self.alive
        return ["job"] if was else []

    def cancel(self):
        pass


def test_a_launch_asks_where_its_workers_died(tmp_path, capsys):
    plan, workdir = registered(tmp_path, more=more())
    jobs = Jobs(plan, workdir)
    assert monitor(plan, workdir, jobs) == 0
    assert jobs.submitted == [[0], [1], [2]]
    assert not asks.is_open(read_plan(workdir))
    assert "12 trials: 12 completed" in capsys.readouterr().out


def test_a_cancelled_launch_asks_for_nothing(tmp_path):
    plan, workdir = registered(tmp_path, more=more())
    (workdir / "cancelled").touch()
    assert monitor(plan, workdir, Jobs(plan, workdir)) == 4
    assert len(read_plan(workdir).packs) == 1


def test_where_all_has_ended_no_launcher_is_asked(tmp_path):
    plan, workdir = registered(tmp_path, more=more(trials=4, batch=4))
    end(plan, workdir)
    assert monitor(plan, workdir, None) == 0


def test_an_interrupt_ends_a_launch_whose_last_pack_still_ended(tmp_path):
    """What would go on after it, as `sweep run` does, stops too."""
    plan, workdir = registered(tmp_path, more=more(trials=4, batch=4))

    class Interrupted(Jobs):
        def poll(self):
            os.kill(os.getpid(), signal.SIGINT)
            return super().poll()

    assert monitor(plan, workdir, Interrupted(plan, workdir)) == 4
    assert not asks.is_open(read_plan(workdir))


def test_two_interrupts_at_once_still_stop_the_workers(tmp_path):
    """The second comes while the launch sleeps, before it looks for the first."""
    plan, workdir = registered(tmp_path, more=more())
    stopped = []

    class Twice(Jobs):
        def poll(self):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
            return ["job"]

        def cancel(self):
            stopped.append("cancelled")

    with pytest.raises(KeyboardInterrupt):
        monitor(plan, workdir, Twice(plan, workdir))
    assert stopped == ["cancelled"]


def test_a_worker_leaves_what_others_run_to_them(tmp_path):
    """One that was given a pack which has ended, while another's is still going on."""
    plan, workdir = registered(tmp_path, VARIANTS, more=more())
    end(plan, workdir)
    (pack_folder(workdir, 1) / "ended.json").unlink()
    claim = claims.Watcher().claim(pack_folder(workdir, 1))
    assert claim
    with claim:
        assert work(workdir, [0], leave=True) == 0
    assert len(read_plan(workdir).packs) == 2
