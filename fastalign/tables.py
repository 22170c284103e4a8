"""Tables of text, for terminals, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Table(NamedTuple):
    """Cells as text; the first `texts` columns are words, the others numbers."""

    title: str
    head: Sequence[str]
    body: Sequence[Sequence[str]]
    texts: int

    def lines(self, gap: str = " ") -> list[str]:
        """Return the head and the rows with their columns side by side, numbers to the right."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.body, strict=True)]

        def line(cells: Sequence[str]) -> str:
            sides = zip(cells, widths, strict=True)
            parts = [
                cell.ljust(width) if i < self.texts else cell.rjust(width) for i, (cell, width) in enumerate(sides)
            ]
            return gap.join(parts).rstrip()

        return [line(self.head), *map(line, self.body)]

    def for_terminal(self) -> str:
        """Return the title, an empty line, and the table."""
        return "\n".join([self.title, "", *self.lines()])

    def for_markdown(self) -> str:
        """Return the table without its title."""
        rule = ["---" if i < self.texts else "---:" for i in range(len(self.head))]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [self.head, rule, *self.body])

    def for_html(self) -> str:
        """Return the table without its title."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        rows = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.body]
        body = "\n".join(rows)
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
