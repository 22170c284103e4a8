"""The activation functions f that every kernel knows, by name and by the number the kernels use."""

from __future__ import annotations

from enum import IntEnum


class Activation(IntEnum):
    """An activation function f; the value is its number in `csrc/common/activation.h`.

    Leaky slope 0.01, elu α = 1, gelu exact (erf), relu′(0) = 0.
    """

    IDENTITY = 0
    TANH = 1
    LOGISTIC = 2
    RELU = 3
    LEAKY_RELU = 4
    ELU = 5
    SOFTPLUS = 6
    SILU = 7
    GELU = 8

    @property
    def derivative_follows_from_output(self) -> bool:
        """Whether f′(a) is a function of h = f(a), so that a need not be kept."""
        return self not in (Activation.SILU, Activation.GELU)

    @classmethod
    def named(cls, name: str | Activation | None) -> Activation:
        """The activation called `name`; `sigmoid` is an alias of `logistic`, None of `identity`.

        Raises ValueError for an unknown name, TypeError for anything but a string.
        """
        if name is None:
            return cls.IDENTITY
        if isinstance(name, Activation):
            return name
        if not isinstance(name, str):
            raise TypeError(f"activation: expected a name (str), got {type(name).__name__}")
        try:
            return cls["LOGISTIC" if name == "sigmoid" else name.upper()]
        except KeyError:
            raise ValueError(f"activation: expected one of {', '.join(NAMES)}, got {name!r}") from None


NAMES = (*(member.name.lower() for member in Activation), "sigmoid")
