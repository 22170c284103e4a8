"""The former name of `fastalign.papers.experiments`."""

from fastalign.former import alias

alias(__name__, "fastalign.papers.experiments")
