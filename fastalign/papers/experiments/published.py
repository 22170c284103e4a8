"""The papers' tables: which experiments are their rows, and the numbers that the papers print.

A cell reads "mean ± standard deviation (training error)", in percent, the last two where the paper gives them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_CELL = re.compile(r"([\d.]+)(?: ± ([\d.]+))?(?: \(([\d.]+)\))?")
NO_CONVERGENCE = "no convergence"
USUAL_SEEDS = 3


@dataclass(frozen=True)
class Published:
    """A cell of a paper's table, in percent; no mean where the paper says that training did not converge.

    text: as printed. from_memory: not yet compared with the paper itself.
    """

    text: str
    mean: float | None
    deviation: float | None = None
    train_error: float | None = None
    from_memory: bool = False

    @classmethod
    def read(cls, text: str, from_memory: bool) -> Published:
        """The cell that this text is."""
        if text == NO_CONVERGENCE:
            return cls(text, None, from_memory=from_memory)
        match = _CELL.fullmatch(text)
        assert match, text
        mean, deviation, train_error = (None if part is None else float(part) for part in match.groups())
        return cls(text, mean, deviation, train_error, from_memory)


@dataclass(frozen=True)
class Column:
    """A column of a table: a rule, or a control that the paper does not have.

    observe: its runs note angles and norms, though their experiment's usually do not.
    """

    name: str
    label: str
    rule: str
    freeze_filters: bool = False
    observe: bool = False

    @property
    def folder(self) -> str:
        """The name of the folder of its runs: those that are observed stand beside those that are not."""
        return f"{self.name}-observed" if self.observe else self.name


@dataclass(frozen=True)
class Table:
    """A table of a paper, or a single result in its text.

    measure: what is compared, "error" or "accuracy" on the test set. rows: by the name of the experiment, what is
    published by the column's name. note: what to know beside it. also_after: so many epochs, of which the table tells
    too.
    """

    name: str
    title: str
    measure: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, Published]]
    note: str = ""
    also_after: int | None = None

    @property
    def usual_rows(self) -> None:
        """All of them."""

    @property
    def usual_seeds(self) -> int:
        """As many as B's table has."""
        return USUAL_SEEDS

    @property
    def cells(self) -> list[tuple[str, Column]]:
        """Experiment and column of every cell."""
        return [(name, column) for name in self.rows for column in self.columns]

    @property
    def is_from_memory(self) -> bool:
        """Whether any cell is."""
        return any(published.from_memory for row in self.rows.values() for published in row.values())


BP, FA, DFA, IFA = (Column(name, name.upper(), name) for name in ("bp", "fa", "dfa", "ifa"))
DRTP, PEPITA = (Column(name, name.upper(), name) for name in ("drtp", "pepita"))
PEPITA_FROZEN = Column("pepita-frozen", "PEPITA, filters frozen", "pepita", freeze_filters=True)


def _table(
    name: str,
    title: str,
    measure: str,
    columns: tuple[Column, ...],
    cells: str,
    from_memory: bool = False,
    note: str = "",
    also_after: int | None = None,
) -> Table:
    """cells: a line for each row, the experiment and then a cell for each of the first columns, between bars."""
    rows = {}
    for line in cells.strip().splitlines():
        experiment, *published = (part.strip() for part in line.split("|"))
        rows[experiment] = {
            column.name: Published.read(text, from_memory) for column, text in zip(columns, published, strict=False)
        }
    return Table(name, title, measure, columns, rows, note, also_after)


# Nøkland's cells are from memory, consistent with every number in the paper's running text.
A1 = _table(
    "A1",
    "Nøkland 2016, table 1: MNIST",
    "error",
    (BP, FA, DFA),
    """
    nokland/mnist-7x240-tanh             | 2.16 ± 0.13        | 2.20 ± 0.13 (0.02) | 2.32 ± 0.15 (0.03)
    nokland/mnist-100x240-tanh           | no convergence     | no convergence     | 3.92 ± 0.09 (0.12)
    nokland/mnist-1x800-tanh             | 1.59 ± 0.04        | 1.68 ± 0.05        | 1.68 ± 0.05
    nokland/mnist-2x800-tanh             | 1.60 ± 0.06        | 1.64 ± 0.03        | 1.74 ± 0.08
    nokland/mnist-3x800-tanh             | 1.75 ± 0.05        | 1.66 ± 0.09        | 1.70 ± 0.04
    nokland/mnist-4x800-tanh             | 1.92 ± 0.11        | 1.70 ± 0.04        | 1.83 ± 0.07 (0.02)
    nokland/mnist-2x800-logistic         | 1.67 ± 0.03        | 1.82 ± 0.10        | 1.75 ± 0.04
    nokland/mnist-2x800-relu             | 1.48 ± 0.06        | 1.74 ± 0.10        | 1.70 ± 0.06
    nokland/mnist-2x800-tanh-dropout     | 1.26 ± 0.03 (0.18) | 1.53 ± 0.03 (0.18) | 1.45 ± 0.07 (0.24)
    nokland/mnist-2x800-tanh-adversarial | 1.01 ± 0.08        | 1.14 ± 0.03        | 1.02 ± 0.05 (0.12)
    """,
    from_memory=True,
)
A2 = _table(
    "A2",
    "Nøkland 2016, table 2: CIFAR-10",
    "error",
    (BP, FA, DFA),
    """
    nokland/cifar10-1x1000-tanh         | 45.1 ± 0.7 (2.5)  | 46.4 ± 0.4 (3.2)  | 46.4 ± 0.4 (3.2)
    nokland/cifar10-3x1000-tanh         | 45.1 ± 0.3 (0.2)  | 47.0 ± 2.2 (0.3)  | 47.4 ± 0.8 (2.3)
    nokland/cifar10-3x1000-tanh-dropout | 42.2 ± 0.2 (36.7) | 46.9 ± 0.3 (48.9) | 42.9 ± 0.2 (37.6)
    nokland/cifar10-conv-tanh           | 22.5 ± 0.4        | 27.1 ± 0.8 (0.9)  | 26.9 ± 0.5 (0.2)
    """,
    from_memory=True,
)
A3 = _table(
    "A3",
    "Nøkland 2016, table 3: CIFAR-100",
    "error",
    (BP, FA, DFA),
    """
    nokland/cifar100-1x1000-tanh         | 71.7 ± 0.2 (38.7) | 73.8 ± 0.3 (37.5) | 73.8 ± 0.3 (37.5)
    nokland/cifar100-3x1000-tanh         | 72.0 ± 0.3 (0.2)  | 75.3 ± 0.1 (0.5)  | 75.9 ± 0.2 (3.1)
    nokland/cifar100-3x1000-tanh-dropout | 69.8 ± 0.1 (66.8) | 75.3 ± 0.2 (77.2) | 73.1 ± 0.1 (69.8)
    nokland/cifar100-conv-tanh           | 51.7 ± 0.2        | 60.5 ± 0.3        | 59.0 ± 0.3
    """,
    from_memory=True,
)
A_IFA = _table(
    "A-IFA",
    "Nøkland 2016, in the text: indirect feedback alignment",
    "error",
    (IFA,),
    "nokland/mnist-4x100-tanh | 3.9",
    also_after=100,
)
B1 = _table(
    "B1",
    "Dellaferrera & Kreiman 2022, table 1",
    "accuracy",
    (BP, FA, DRTP, PEPITA, PEPITA_FROZEN),
    """
    pepita/mnist-fc      | 98.63 ± 0.03 | 98.42 ± 0.07 | 95.10 ± 0.10 | 98.01 ± 0.09
    pepita/cifar10-fc    | 55.27 ± 0.32 | 53.82 ± 0.24 | 45.89 ± 0.16 | 52.57 ± 0.36
    pepita/cifar100-fc   | 27.58 ± 0.09 | 24.61 ± 0.28 | 18.32 ± 0.18 | 24.91 ± 0.22
    pepita/mnist-conv    | 98.86 ± 0.04 | 98.50 ± 0.06 | 97.32 ± 0.25 | 98.29 ± 0.13
    pepita/cifar10-conv  | 64.99 ± 0.32 | 57.51 ± 0.57 | 50.53 ± 0.81 | 56.33 ± 1.35
    pepita/cifar100-conv | 34.20 ± 0.20 | 27.15 ± 0.53 | 20.14 ± 0.68 | 27.56 ± 0.60
    """,
    note="DRTP of the paper was trained by the code of Frenkel et al. 2019, whose recipe is not the text's: with the "
    "errors, biases, dropout and batch of that code the dense net on MNIST comes near the published accuracy (B-drtp)",
)
TABLES = {table.name: table for table in (A1, A2, A3, A_IFA, B1)}
