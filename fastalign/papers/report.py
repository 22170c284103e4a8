"""Runs on one page of HTML that needs nothing beside it: tables, figures, settings, machine and commit."""

from __future__ import annotations

import base64
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from fastalign._version import __version__
from fastalign.analysis import fit_plateau, plots
from fastalign.errors import RunError
from fastalign.papers.runs.checkpoint import load_checkpoint
from fastalign.papers.runs.folder import Config, RunFolder
from fastalign.papers.runs.metrics import Metrics
from fastalign.tables import Table

_MOST_MATRICES = 6
_FEWEST_FITTED = 10
T = TypeVar("T")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 0 auto;
  padding: 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.wide, pre { overflow-x: auto; }
.panels { min-width: 46rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 1.5rem; }
th, td { padding: .25rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, td.words { text-align: left; }
td.words { white-space: normal; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
summary { cursor: pointer; padding: .5rem 0; font-weight: 600; }
@media (max-width: 40rem) { th, td { padding: .25rem .4rem; } }
"""


@dataclass(frozen=True)
class Run:
    """What the folder of a run holds."""

    folder: Path
    config: Config
    history: Sequence[Metrics]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in `config.json`, by name."""
        return asdict(self.config.settings)

    @property
    def experiment(self) -> str:
        return self.config.settings.experiment

    @property
    def rule(self) -> str:
        return self.config.settings.rule

    @property
    def shown_folder(self) -> str:
        """Its folder, with another character for every byte that is no text."""
        return os.fsencode(self.folder).decode(errors="replace")

    @property
    def slowness(self) -> float:
        """Of the plateau fitted to the test accuracy, in epochs; NaN where none can be fitted."""
        return fit_plateau(self.accuracies).slowness if _can_be_fitted(self.accuracies) else math.nan

    @property
    def accuracies(self) -> list[float]:
        """Of the test set after each epoch, in percent."""
        return [100 - metrics.test_error for metrics in self.history]


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs in these folders and in those below them, each once, by experiment, rule, seed and folder.

    Raises:
        RunError: a folder without a run, or a run that cannot be read.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        paths = sorted(path.parent for path in folder.rglob("config.json"))
        if not paths:
            raise RunError(f"{folder} holds no run, expected a folder with config.json in it or below")
        for path in paths:
            run = RunFolder(path)
            config = run.saved_config(resume=True)
            assert config is not None
            found[path.resolve()] = Run(path, config, run.metrics.read())
    order = lambda run: (run.experiment, run.rule, run.config.settings.seed, str(run.folder))  # noqa: E731
    return sorted(found.values(), key=order)


def report(runs: Sequence[Run]) -> str:
    """The page: for each experiment its table, its figures, and what every run was.

    Raises:
        MissingPackageError: matplotlib or scipy is not installed.
        RunError: a checkpoint that cannot be read.
    """
    title = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    parts = [f"<h1>{title}</h1>", _made_with(runs)]
    for experiment, group in groupby(runs, key=lambda run: run.experiment):
        parts += _experiment(experiment, list(group))
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fastalign: {title}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _made_with(runs: Sequence[Run]) -> str:
    makers = [_maker(run) for run in runs]
    rows = [("report by", f"fastalign {__version__}")]
    for name in ("machine", "threads", "torch", "commit"):
        rows += [(name, words) for words in dict.fromkeys(maker[name] for maker in makers)]
    return _properties(rows)


def _maker(run: Run) -> dict[str, str]:
    """Where and of what a run was made, in words."""
    made_by: Mapping[str, Any] = run.config.made_by or {}
    known = ("machine", "threads", "torch", "fastalign", "commit")
    words = {name: _in_words(made_by.get(name)) for name in known}
    words["commit"] += ", with uncommitted changes" if made_by.get("uncommitted_changes") else ""
    return words


def _experiment(name: str, runs: Sequence[Run]) -> list[str]:
    labels = dict(zip(_labels(runs), runs, strict=True))
    trained = {label: run for label, run in labels.items() if run.history}
    groups = _groups(list(trained.values()))
    several = any(len(group) > 1 for group in groups.values())
    parts = [f"<h2>{escape(name)}</h2>"]
    source = runs[0].config.recipe.get("source")
    if source:
        parts.append(f"<p>Recipe: {escape(_in_words(source))}</p>")
    if several:
        parts.append(_table_of_groups(groups))
    parts.append(_table_of_runs(labels))
    for title, some in _few_at_a_time(f"{name}: test error, mean ± standard deviation over seeds", groups):
        if several:
            errors = {label: [[m.test_error for m in run.history] for run in group] for label, group in some.items()}
            panels = {"": plots.Comparison(errors, {})}
            parts.append(_figure(lambda *a: plots.comparisons(a[0], "", *a[1:]), panels, title))
    for title, some in _few_at_a_time(f"{name}: training and test error", groups):
        if not several:
            histories = {label: run.history for label, (run,) in some.items()}
            parts.append(_figure(plots.learning_curves, histories, title))
    parts += _observations(name, groups)
    fitted = {label: accuracies for label, group in groups.items() if _can_be_fitted(accuracies := _mean(group))}
    for title, some_fitted in _few_at_a_time(f"{name}: test accuracy and its plateau", fitted):
        parts.append(_figure(plots.plateaus, some_fitted, title))
    parts += _weights_of_each_rule(name, trained)
    parts.append("<h3>Every run</h3>")
    parts += [_details(label, run) for label, run in labels.items()]
    return parts


def _groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that have come as far and differ in nothing but the seed; by their rule and what tells it from others."""
    keys = [{**run.settings, "epochs done": len(run.history), "seed": None} for run in runs]
    groups: dict[str, list[Run]] = {}
    for run, key in zip(runs, keys, strict=True):
        alike = [other for other in keys if other.get("rule") == key.get("rule")]
        differing = [name for name, value in key.items() if any(other.get(name) != value for other in alike)]
        details = ", ".join(f"{name.replace('_', ' ')} {_in_words(key[name])}" for name in differing)
        groups.setdefault(run.rule.upper() + (f" ({details})" if details else ""), []).append(run)
    return groups


def _few_at_a_time(title: str, content: Mapping[str, T]) -> Iterator[tuple[str, dict[str, T]]]:
    """As many at a time as there are colours, each time with a title."""
    most = len(plots.COLOURS)
    figures = -(-len(content) // most)
    for number in range(figures):
        some = dict(list(content.items())[number * most : (number + 1) * most])
        yield title + (f" ({number + 1} of {figures})" if figures > 1 else ""), some


def _observations(name: str, groups: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """What was observed of the first run of each group."""
    histories = {
        f"{label}, seed {group[0].config.settings.seed}" if len(group) > 1 else label: group[0].history
        for label, group in groups.items()
    }
    for observed in plots.OBSERVED:
        seen = sum(any(m.observations.get(observed) for m in history) for history in histories.values())
        if seen:
            title = f"{name}: {observed.replace('_', ' ')}"
            draw = partial(_draw_observations, observed)
            yield _figure(draw, histories, title, panels=seen)


def _draw_observations(observed: str, histories: Any, title: str, format: str) -> bytes:
    return plots.observations(histories, observed, title, format)


def _mean(runs: Sequence[Run]) -> list[float]:
    """The test accuracy after each epoch, over runs."""
    return [statistics.mean(values) for values in zip(*(run.accuracies for run in runs), strict=True)]


def _can_be_fitted(accuracies: Sequence[float]) -> bool:
    return len(accuracies) >= _FEWEST_FITTED and all(math.isfinite(a) and a > 0 for a in accuracies)


def _labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its rule, with as much more as tells it from the others."""
    names: list[Callable[[Run], str]] = [
        lambda run: run.rule.upper(),
        lambda run: f"{run.rule.upper()} seed {run.config.settings.seed}",
        lambda run: f"{run.rule.upper()} {run.shown_folder}",
    ]
    counts = [Counter(name(run) for run in runs) for name in names]
    return [next(name(run) for name, count in zip(names, counts, strict=True) if count[name(run)] == 1) for run in runs]


def _table_of_runs(labels: Mapping[str, Run]) -> str:
    head = ("run", "test error", "training error", "epochs", "seed", "slowness (epochs)", "seconds an epoch")
    rows = []
    for label, run in labels.items():
        errors, rest = ["–", "–"], ["–", "–"]
        if run.history:
            last = run.history[-1]
            seconds = statistics.median(metrics.seconds for metrics in run.history)
            errors = [_percent(last.test_error), _percent(last.train_error)]
            rest = [_number(run.slowness, "{:.3g}"), _number(seconds, "{:.3g}")]
        epochs, seed = f"{len(run.history)} of {run.config.settings.epochs}", str(run.config.settings.seed)
        rows.append([label, *errors, epochs, seed, *rest])
    notes = (
        "Errors are those of the last epoch, seconds the median without the test. Slowness: the epochs to half of the "
        f"plateau fitted to the test accuracy, of runs of at least {_FEWEST_FITTED} epochs."
    )
    return f"{_table(head, rows)}<p>{notes}</p>"


def _table_of_groups(groups: Mapping[str, Sequence[Run]]) -> str:
    """Mean and standard deviation of the last test error over the seeds."""
    rows = []
    for label, group in groups.items():
        errors = [run.history[-1].test_error for run in group]
        spread = f" ± {statistics.stdev(errors):.2f}" if len(group) > 1 else ""
        rows.append([label, f"{statistics.mean(errors):.2f}{spread} %", str(len(group)), str(len(group[0].history))])
    return _table(("over seeds", "test error, mean ± std", "seeds", "epochs"), rows)


def _weights_of_each_rule(name: str, runs: Mapping[str, Run]) -> list[str]:
    """The distribution of the last weights in the first run of each rule; of a deep network the outer layers."""
    figures = []
    for rule, group in groupby(runs.items(), key=lambda item: item[1].rule):
        label, run = next(group)
        checkpoint = RunFolder(run.folder).checkpoint
        weights = _weights(load_checkpoint(checkpoint)["model"]) if checkpoint.exists() else {}
        if len(weights) > _MOST_MATRICES:
            names = list(weights)
            weights = {key: weights[key] for key in names[: _MOST_MATRICES // 2] + names[-(_MOST_MATRICES // 2) :]}
        if weights:
            title = f"{name}: final weights under {rule.upper()}" + (f" ({label})" if label != rule.upper() else "")
            figures.append(_figure(plots.weight_distributions, weights, title, panels=len(weights)))
    return figures


def _weights(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weight matrices of a state dict that vary; not the fixed matrices, nor vectors."""
    return {
        key: value
        for key, value in model.items()
        if value.dim() > 1
        and value.numel() > 0
        and not key.rpartition(".")[2].startswith(("feedback_", "projection"))
        and value.is_floating_point()
        and value.abs().max() <= plots.LARGEST
        and value.min() < value.max()
    }


def _details(label: str, run: Run) -> str:
    parts = [f"<details><summary>{escape(label)}</summary>"]
    if run.history:
        parts.append(_figure(plots.learning_curves, {"": run.history}, f"{run.experiment}, {label}"))
    rows = [("folder", run.shown_folder), *((key, _in_words(value)) for key, value in run.settings.items())]
    rows += _maker(run).items()
    parts.append(_properties(rows))
    recipe = json.dumps(run.config.recipe, indent=2, ensure_ascii=False)
    parts.append(f"<details><summary>recipe</summary><pre>{escape(recipe)}</pre></details>")
    head = ("epoch", "training loss", "training error", "test error", "seconds", "learning rate")
    cells = [
        [
            str(m.epoch),
            _number(m.train_loss, "{:.4g}"),
            _percent(m.train_error),
            _percent(m.test_error),
            _number(m.seconds, "{:.3g}"),
            f"{m.lr:g}",
        ]
        for m in run.history
    ]
    return "\n".join([*parts, _table(head, cells), "</details>"])


def _figure(draw: Callable[..., bytes], content: Any, title: str, panels: int = 1) -> str:
    # As images, so that names inside one SVG do not meet those of another.
    image = base64.b64encode(draw(content, title, "svg")).decode()
    kind = ' class="panels"' if panels > 1 else ""
    return f'<div class="wide"><img{kind} alt="{escape(title)}" src="data:image/svg+xml;base64,{image}"></div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f'<div class="wide">{Table("", head, list(rows), texts=1).for_html()}</div>'


def _properties(rows: Iterable[tuple[str, str]]) -> str:
    lines = [
        f'<tr><td>{escape(name.replace("_", " "))}</td><td class="words">{escape(value)}</td></tr>'
        for name, value in rows
    ]
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _in_words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_in_words(part)}" for key, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not known" if value is None else str(value)


def _percent(value: float) -> str:
    return _number(value, "{:.2f} %")


def _number(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "–"
