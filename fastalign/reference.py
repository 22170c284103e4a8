"""The former name of `fastalign.ops.reference`."""

from fastalign.former import alias

alias(__name__, "fastalign.ops.reference")
