"""Short training runs on MNIST whose outcome is known: what the README says of them comes from here.

    FASTALIGN_DATA=DIR python benchmarks/training.py --json FILE [--only TEXT]

Each run is `fastalign train` in a process of its own; its last epoch's metrics are the result.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fastalign.bench import environment
from fastalign.bench.interpreter import python_command

RUNS = (
    "pepita/mnist-fc --rule pepita --epochs 10",
    "pepita/mnist-fc --rule pepita --epochs 100",
    "nokland/mnist-2x800-tanh --rule dfa --epochs 10",
    "pepita/mnist-conv --rule pepita --epochs 4",
    "pepita/mnist-conv --rule pepita --epochs 4 --freeze-filters",
    "nokland/mnist-100x240-tanh --rule dfa --epochs 4",
    "nokland/mnist-100x240-tanh --rule bp --epochs 4",
)


def run(arguments: str) -> dict[str, Any]:
    """Train once; the command, the metrics of every epoch, and of the last one by itself."""
    with tempfile.TemporaryDirectory() as folder:
        command = python_command("fastalign", "train", *shlex.split(arguments), "--out", f"{folder}/run")
        subprocess.run(command, check=True)
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    return {"command": f"fastalign train {arguments}", "last": epochs[-1], "epochs": epochs}


def main() -> None:
    """Run all, print a line for each, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", default="", help="only the runs whose command contains this text")
    options = parser.parse_args()
    results = []
    for arguments in RUNS:
        if options.only in arguments:
            results.append(run(arguments))
            result = {**environment.describe(), "runs": results}
            options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    for result in results:
        last = result["last"]
        print(f"{result['command']:72} test error {last['test_error']:6.2f} %  {last['seconds']:6.1f} s an epoch")


if __name__ == "__main__":
    main()
