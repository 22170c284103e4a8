"""Every experiment by name: the rows of the papers' tables, and the built-in ones."""

from __future__ import annotations

import difflib

from fastalign.errors import UserError
from fastalign.papers.experiments import beyond, digits, nokland, pepita
from fastalign.papers.runs.recipe import Recipe

EXPERIMENTS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *digits.EXPERIMENTS,
        *nokland.EXPERIMENTS,
        *nokland.SECONDARY,
        *pepita.EXPERIMENTS,
        *pepita.SECONDARY,
        *beyond.EXPERIMENTS,
    )
}


def experiment(name: str) -> Recipe:
    """The recipe of this name. Raises UserError for another, with the nearest names."""
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"there is no experiment {name!r}{hint} (fastalign experiments lists all)")
    return EXPERIMENTS[name]
