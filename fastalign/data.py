"""The former name of `fastalign.papers.data`."""

from fastalign.former import alias

alias(__name__, "fastalign.papers.data")
