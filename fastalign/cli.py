"""The command `fastalign`: train, experiments, info, demo.

Exit codes: 0 done, 2 an error that the user can mend (one line on standard error), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fastalign._version import __version__
from fastalign.errors import UserError

INTERRUPTED = 130
USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except UserError as error:
        print(f"fastalign: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("fastalign: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastalign", description="Learning without backpropagation.")
    parser.add_argument("--version", action="version", version=f"fastalign {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="train an experiment with a rule")
    train.add_argument("experiment", help="its name, as `fastalign experiments` lists it")
    train.add_argument("--rule", required=True, help="bp, fa, dfa, ifa, drtp or pepita, where the experiment has it")
    train.add_argument("--data", metavar="DIR", help="the folder of the data sets (default: $FASTALIGN_DATA)")
    train.add_argument("--epochs", type=int, metavar="N", help="default: the experiment's")
    train.add_argument("--batch-size", type=int, metavar="N", help="default: the experiment's")
    train.add_argument("--lr", type=float, metavar="RATE", help="learning rate; default: the experiment's for the rule")
    train.add_argument("--seed", type=int, metavar="N", help="default: 0")
    train.add_argument("--device", metavar="DEVICE", help="cpu or cuda; default: cuda where there is one")
    train.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), help="default: float32")
    train.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; default: runs/EXPERIMENT/RULE")
    train.add_argument("--resume", action="store_true", help="continue the run in the folder where it was stopped")
    train.add_argument(
        "--freeze-filters", action="store_true", default=None, help="keep convolutions as they were drawn (a control)"
    )
    train.set_defaults(command=_train)

    experiments = commands.add_parser("experiments", help="list the experiments and what each needs")
    experiments.set_defaults(command=_experiments)

    info = commands.add_parser("info", help="what is installed, what is in use, and why not where it is not")
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(command=_info)

    demo = commands.add_parser("demo", help="train BP, DFA and PEPITA side by side on small images, in a minute")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    demo.set_defaults(command=_demo)
    return parser


def _train(options: argparse.Namespace) -> int:
    from fastalign.experiments import experiment
    from fastalign.training.distributed import Processes
    from fastalign.training.progress import Progress, progress_for_terminal
    from fastalign.training.run import Interrupted, train

    is_first = Processes.from_environment().is_first
    recipe = experiment(options.experiment)
    out = options.out or Path("runs", *recipe.name.split("/"), options.rule)
    settings = ("epochs", "batch_size", "lr", "seed", "device", "dtype", "freeze_filters")
    try:
        history = train(
            recipe,
            options.rule,
            {name: getattr(options, name) for name in settings},
            out=out,
            data_directory=options.data,
            resume=options.resume,
            progress=progress_for_terminal() if is_first else Progress(),
        )
    except Interrupted:
        if is_first:
            print(f"fastalign: interrupted; what was done is in {out}, --resume continues it", file=sys.stderr)
        return INTERRUPTED
    if is_first:
        last = history[-1]
        print(f"{recipe.name} {options.rule}: test error {last.test_error:.2f} % after {last.epoch} epochs, in {out}")
    return 0


def _experiments(options: argparse.Namespace) -> int:
    from fastalign import data
    from fastalign.experiments import EXPERIMENTS

    widest = max(map(len, EXPERIMENTS))
    for name, recipe in EXPERIMENTS.items():
        rules = " ".join(recipe.rules)
        print(f"{name:<{widest}}  rules: {rules:<26}  {recipe.epochs:>3} epochs  needs {data.needs(recipe.dataset)}")
    return 0


def _info(options: argparse.Namespace) -> int:
    from fastalign import info

    collected = info.collect()
    print(json.dumps(collected, indent=2) if options.json else info.render(collected))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from fastalign.experiments.demo import demo

    demo(options.out)
    return 0
