"""Several seeds side by side, against as many single runs one after the other: their table in docs/performance.md.

    FASTALIGN_DATA=DIR python benchmarks/seeds.py --json FILE [--seeds 10] [--epochs 2]

Both are `fastalign train` of the fully connected network on MNIST by PEPITA, from start to end. Half of the single runs
come before the others and half after them, so that a machine that slows down meets both alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from fastalign.bench import environment
from fastalign.bench.interpreter import python_command

EXPERIMENT, RULE = "pepita/mnist-fc", "pepita"


def train(seeds: list[str], epochs: int, folder: Path) -> float:
    """Seconds that one `fastalign train` takes."""
    command = python_command("fastalign", "train", EXPERIMENT, "--rule", RULE, "--epochs", str(epochs))
    start = time.perf_counter()
    subprocess.run([*command, *seeds, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def seconds_of_epochs(folder: Path) -> list[float]:
    """Those of training, without starts and tests, of all epochs of all runs below a folder."""
    logs = sorted(folder.rglob("metrics.jsonl"))
    return [json.loads(line)["seconds"] for log in logs for line in log.read_text().splitlines()]


def measure(seeds: int, epochs: int) -> dict[str, Any]:
    """The seconds of both ways, in all and of each epoch."""
    with tempfile.TemporaryDirectory() as temporary:
        single, together = Path(temporary, "single"), Path(temporary, "together")
        alone = [train(["--seed", str(seed)], epochs, single / str(seed)) for seed in range(seeds // 2)]
        side_by_side = train(["--seeds", f"0-{seeds - 1}"], epochs, together)
        alone += [train(["--seed", str(seed)], epochs, single / str(seed)) for seed in range(seeds // 2, seeds)]
        return {
            "one after the other": {"seconds": sum(alone), "epochs": seconds_of_epochs(single)},
            "side by side": {"seconds": side_by_side, "epochs": seconds_of_epochs(together)},
        }


def main() -> None:
    """Measure, write the result, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10, metavar="N")
    parser.add_argument("--epochs", type=int, default=2, metavar="N")
    options = parser.parse_args()
    result = {
        **environment.describe(),
        "experiment": EXPERIMENT,
        "rule": RULE,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "at_a_time": min(options.seeds, torch.get_num_threads()),
        "ways": measure(options.seeds, options.epochs),
    }
    options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for way, found in result["ways"].items():
        print(f"{way}: {found['seconds']:.1f} s")


if __name__ == "__main__":
    main()
