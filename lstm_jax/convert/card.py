"""A model card: what lies beside an exported model, in Markdown."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lstm_jax.config.fields import changed, resolve
from lstm_jax.ops import count
from lstm_jax.training import saved
from lstm_jax.workdir import seal
from lstm_jax.workdir.manifest import versions

CARD = """\
# {title}

A recurrent model of the task `{task}`, trained by lstm_jax: {layers}, {parameters:,} parameters.
They are the best by `{metric}` on the validation split, from step {step}.
Exported {date} as {format}.

## Files

{files}

## How to use it

```python
{usage}
```

## Checked

{checked}

## Metrics

{metrics}

## Trained with

{config}

Config hash `{hash}`, seed {seed}; every other option is at its default.

## Data

{data}

## Made with

{made}
"""


def card(
    workdir: Path,
    loaded: Any,
    form: str,
    files: Mapping[str, str],
    usage: str,
    checked: Sequence[str],
) -> str:
    """The card of the run `loaded` from `workdir`; `files` {name: what it is}."""
    config, summary = loaded.config, saved.summary(workdir)
    ways = ", both directions" if config.model.bidirectional else ""
    return CARD.format(
        title=f"{config.cell.name} on {config.task.name}",
        task=config.task.name,
        layers=f"{config.model.layers} x {config.cell.name}, {config.cell.hidden} units{ways}",
        parameters=count(loaded.params),
        metric=config.train.best_metric,
        step=loaded.step,
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        format=form,
        files=_items(f"`{name}`: {what}" for name, what in files.items()),
        usage=usage.strip(),
        checked=_items(checked),
        metrics=metrics(summary),
        config=_items(f"`{name}` = `{value!r}`" for name, value in changed(config).items()),
        hash=resolve(config).hash,
        seed=config.seed,
        data=_items(_data(loaded.program.task)),
        made=_items(_made(saved.recorded(workdir))),
    )


def metrics(summary: Mapping[str, Any]) -> str:
    """A table a split, the model above its baselines."""
    found, baselines = summary.get("metrics") or {}, summary.get("baselines") or {}
    if not found:
        return "None: the run was not trained to its end here; `lstm-jax evaluate` measures it."
    splits = [split for split in found if split != "train"]
    return "\n".join(_table(split, found[split], baselines.get(split, {})) for split in splits)


def _table(split: str, own: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"| {split} | {' | '.join(own)} |", "|---|" + "---|" * len(own)]
    for name, row in {"this model": own, **others}.items():
        cells = [f"{row[k]:.6g}" if row.get(k) is not None else "" for k in own]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _items(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines) or "- nothing"


def _data(task: Any) -> list[str]:
    """What the task says of its files, and a hash over what it made of them."""
    known = [f"{name}: `{value}`" for name, value in task.source.items()]
    return [*known, f"sha256 over its arrays: `{seal.digest(task.data)}`"]


def _made(manifest: Mapping[str, Any]) -> list[str]:
    git = manifest.get("git", {})
    commit = git.get("commit") or "no checkout"
    then, now = manifest.get("versions", {}), versions()
    trained = ", ".join(f"{k} {v}" for k, v in then.items() if v)
    exported = ", ".join(f"{k} {now[k]}" for k in ("python", "lstm-jax", "jax") if now.get(k))
    return [
        f"trained: {trained or 'unknown'}; commit {commit}{' (changed)' * bool(git.get('dirty'))}",
        f"exported: {exported}",
    ]
