"""Keep the runs of the papers' tables and figures, and write the page of results from what is kept.

    python benchmarks/papers.py [FOLDER …] [--targets NAME …]

adds the runs below each folder (as `fastalign reproduce --out FOLDER` leaves them) to benchmarks/results/papers/, draws
them into docs/images/papers/, and writes docs/results.md. A run may be of several targets, most of which lack their
other runs: --targets names those to add to. Some pictures need the data: $FASTALIGN_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fastalign.papers.experiments.published import TABLES
from fastalign.papers.reproduce.collected import collect, results_page
from fastalign.papers.reproduce.figures import FIGURES

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Collect, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--targets", nargs="+", choices=[*TABLES, *FIGURES], metavar="NAME")
    options = parser.parse_args()
    results, images = ROOT / "benchmarks" / "results" / "papers", ROOT / "docs" / "images" / "papers"
    for folder in options.folders:
        for path in collect(folder, results, images, options.targets):
            print(path)
    page = ROOT / "docs" / "results.md"
    page.write_text(results_page(results, images))
    print(page)


if __name__ == "__main__":
    main()
