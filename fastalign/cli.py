"""The command `fastalign`: train, reproduce, report, experiments, info, bench, demo.

Exit codes: 0 done, 1 a row of `bench --against` is slower, 2 an error that the user can mend (one line on standard
error), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from fastalign._start import INTERRUPTED, USER_ERROR
from fastalign._version import __version__
from fastalign.errors import UserError

if TYPE_CHECKING:
    from fastalign.papers.runs.metrics import Metrics

MOST_SEEDS = 1000
TARGETS = """Run what is missing of a target, and write its table and its picture.
Without --rows, the rows whose data are missing are left out; it is said which and why.

Nøkland 2016 (A)
  A1 A2 A3         tables 1 to 3: MNIST, CIFAR-10, CIFAR-100
  A-IFA            indirect feedback alignment
  A-freeze         fig. 2: the first layer frozen, then learning by BP or DFA
  A-tsne           fig. 3: activities under BP and DFA in the plane
Dellaferrera & Kreiman 2022 (B)
  B1               table 1
  B-alignment      angle between weights and F, norm of the weights, with x + F e and x − F e
  B-slowness       fits of the learning curves (runs of B1)
  B-distributions  final weights, normal against Student's t (runs of B1)
  B-no-modulation  F = 0
  B-perturbation   a random modulation in place of F e
  B-whitened       whitened MNIST
  B-variants       presynaptic terms, output errors, the sign of the error and of the modulation
  B-drtp           readings of DRTP's recipe, the text's and its code's
  B-convolution    divisors and inits of a convolution, beside frozen filters
Beyond
  gradient-angle   updates beside the gradient, layer by layer, of any experiment (--rows)
  relu-depth       DFA in ReLU nets of 1 to 5 hidden layers
  pepita-depth     PEPITA in nets of 1 to 5 hidden layers, with weight decay, normalised, mirrored
  dfa-feedback     one shared feedback matrix; the sign of the error
"""


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
    train.add_argument(
        "--seeds", type=_seeds, metavar="LIST", help="train with each, side by side, for example 0-9 or 1,2,5"
    )
    train.add_argument("--device", metavar="DEVICE", help="cpu or cuda; default: cuda where there is one")
    train.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), help="default: float32")
    train.add_argument("--out", type=_path, metavar="DIR", help="the run's folder; default: runs/EXPERIMENT/RULE")
    train.add_argument("--resume", action="store_true", help="continue the run in the folder where it was stopped")
    train.add_argument(
        "--freeze-filters", action="store_true", default=None, help="keep convolutions as they were drawn (a control)"
    )
    train.add_argument(
        "--no-fused-step",
        dest="fused_step",
        action="store_false",
        default=None,
        help="train by the plain loop (loss.backward(), optimizer.step()), which is slower; the same up to rounding",
    )
    train.add_argument(
        "--observe",
        action="store_true",
        default=None,
        help="note alignment and gradient angles and weight norms in the metrics of each epoch",
    )
    train.add_argument("--stop-at-end-of-input", action="store_true", help=argparse.SUPPRESS)
    train.set_defaults(command=_train)

    reproduce = commands.add_parser(
        "reproduce",
        help="run a paper's table or figure, and set ours beside what is published",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=TARGETS,
    )
    reproduce.add_argument("target", help="a table or a figure, as above")
    reproduce.add_argument("--rows", nargs="+", metavar="ROW", help="such as mnist-fc; default: all with data")
    reproduce.add_argument("--rules", nargs="+", metavar="RULE", help="such as bp; default: all of the target")
    reproduce.add_argument("--seeds", type=int, metavar="N", help="how many; default: 3, but 1 of A-tsne")
    reproduce.add_argument("--epochs", type=int, metavar="N", help="default: the paper's")
    reproduce.add_argument("--data", metavar="DIR", help="the folder of the data sets (default: $FASTALIGN_DATA)")
    reproduce.add_argument("--out", type=_path, default=Path("runs/papers"), metavar="DIR", help="default: runs/papers")
    reproduce.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs side by side; default: one for each thread of torch's, as far as memory goes",
    )
    reproduce.set_defaults(command=_reproduce)

    report = commands.add_parser("report", help="one page of tables, figures and settings of runs, for a browser")
    report.add_argument(
        "runs", nargs="+", type=_path, metavar="RUNS", help="folders of runs, or folders that hold some"
    )
    report.add_argument("--out", type=_path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    report.set_defaults(command=_report)

    experiments = commands.add_parser("experiments", help="list the experiments and what each needs")
    experiments.set_defaults(command=_experiments)

    info = commands.add_parser("info", help="what is installed, what is in use, and why not where it is not")
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(command=_info)

    bench = commands.add_parser("bench", help="what ops and training steps cost, against plain PyTorch and the floor")
    bench.add_argument("group", nargs="?", choices=("ops", "steps", "memory", "scaling"), help="default: all of them")
    bench.add_argument("--quick", action="store_true", help="few shapes, one process, nothing compiled: under a minute")
    bench.add_argument("--json", type=_path, metavar="FILE", help="write the result, with machine, commit and command")
    bench.add_argument("--plots", type=_path, metavar="DIR", help="draw it, as PNG images in this folder")
    bench.add_argument("--processes", type=int, metavar="N", help="default: 5; with --against, the pairs: 9")
    bench.add_argument("--threads", type=int, metavar="N", help="default: torch's")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    bench.add_argument(
        "--against",
        type=_path,
        metavar="BUILD",
        help="compare with another build of fastalign, a wheel or a folder that holds one: the same rows in processes "
        "that take turns; exits with 1 if a row is slower",
    )
    bench.add_argument(
        "--of", type=_path, metavar="BUILD", help="with --against: the build that is judged; default: this one"
    )
    bench.add_argument(
        "--even-if-busy",
        action="store_true",
        help="measure though another benchmark does; with --against, though more than half the cores are at work",
    )
    bench.set_defaults(command=_bench)

    demo = commands.add_parser("demo", help="train BP, DFA and PEPITA on small images, beside plain PyTorch")
    demo.add_argument("--out", type=_path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    demo.set_defaults(command=_demo)
    return parser


def _path(text: str) -> Path:
    """A path that is not empty: an empty one, such as of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return Path(text)


def _seeds(text: str) -> list[int]:
    """The seeds of a list like 0-4,7, each once."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"expected seeds like 0-9 or 1,2,5, got {text!r}")
        if int(last or first) - int(first) >= MOST_SEEDS:
            raise argparse.ArgumentTypeError(f"expected at most {MOST_SEEDS} seeds, got {text!r}")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) < len(seeds) or not seeds:
        raise argparse.ArgumentTypeError(f"expected different seeds, from low to high, got {text!r}")
    return seeds


def _train(options: argparse.Namespace) -> int:
    from fastalign.papers.experiments import experiment
    from fastalign.papers.runs.distributed import Processes
    from fastalign.papers.runs.progress import Progress, progress_for_terminal
    from fastalign.papers.runs.run import Interrupted, train
    from fastalign.papers.runs.seeds import train_seeds
    from fastalign.papers.runs.side_by_side import stop_at_end_of_input

    if options.stop_at_end_of_input:
        stop_at_end_of_input()
    is_first = Processes.from_environment().is_first
    recipe = experiment(options.experiment)
    out = options.out or Path("runs", *recipe.name.split("/"), options.rule)
    settings = ("epochs", "batch_size", "lr", "seed", "device", "dtype", "freeze_filters", "observe", "fused_step")
    given = {name: getattr(options, name) for name in settings}
    progress = progress_for_terminal() if is_first else Progress()
    common: dict[str, Any] = {"data_directory": options.data, "resume": options.resume, "progress": progress}
    if options.seeds is not None and options.seed is not None:
        raise UserError("seed: expected --seed or --seeds, got both")
    try:
        if options.seeds is None:
            histories = [train(recipe, options.rule, given, out=out, **common)]
        else:
            histories = [*train_seeds(recipe, options.rule, given, options.seeds, out=out, **common).values()]
    except Interrupted:
        if is_first:
            print(f"fastalign: interrupted; what was done is in {out}, --resume continues it", file=sys.stderr)
        return INTERRUPTED
    if is_first:
        print(f"{recipe.name} {options.rule}: test error {_last_test_errors(histories)}, in {out}")
    return 0


def _last_test_errors(histories: Sequence[Sequence[Metrics]]) -> str:
    """The test error of one run, or the mean and the standard deviation of several."""
    errors = [history[-1].test_error for history in histories]
    epochs = sorted({history[-1].epoch for history in histories})
    after = f"after {'–'.join(str(n) for n in (epochs[0], *epochs[1:][-1:]))} epochs"
    if len(errors) == 1:
        return f"{errors[0]:.2f} % {after}"
    return f"{mean(errors):.2f} ± {stdev(errors):.2f} % over {len(errors)} seeds {after}"


def _reproduce(options: argparse.Namespace) -> int:
    from fastalign.papers.reproduce.command import reproduce

    try:
        reproduce(
            options.target,
            rows=options.rows,
            columns=options.rules,
            seeds=options.seeds,
            epochs=options.epochs,
            data_directory=options.data,
            out=options.out,
            side_by_side=options.jobs,
        )
    except KeyboardInterrupt:
        print(f"fastalign: interrupted; what was done is in {options.out}, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 0


def _report(options: argparse.Namespace) -> int:
    from fastalign.bench.atomic import write_atomically
    from fastalign.papers.report import find_runs, report

    runs = find_runs(options.runs)
    write_atomically(options.out, report(runs).encode())
    print(f"{len(runs)} runs in {options.out}")
    return 0


def _experiments(options: argparse.Namespace) -> int:
    from fastalign.papers import data
    from fastalign.papers.experiments import EXPERIMENTS

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


def _bench(options: argparse.Namespace) -> int:
    from fastalign.bench.command import bench

    return bench(options)


def _demo(options: argparse.Namespace) -> int:
    from fastalign.papers.demo import demo

    demo(options.out)
    return 0
