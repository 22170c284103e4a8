"""What a named fault is: a small change to one file that a test is to notice."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """A text that stands once in a file, what takes its place, and the tests that are expected to notice."""

    name: str
    what: str
    """What is then wrong, in one sentence."""
    file: str
    text: str
    instead: str
    tests: str
    """Files of tests, as pytest takes them."""
    chosen: str = ""
    """Which of their tests, as pytest's option -k takes it."""
    level: str | None = None
    """The instruction-set level that has it, of a CPU kernel that not every level has."""

    @property
    def kind(self) -> str:
        """The place that it is in: "python", "cpu" or "cuda", of which the last runs under the emulator."""
        if self.file.startswith("csrc/cuda/"):
            return "cuda"
        return "cpu" if self.file.startswith("csrc/") else "python"

    def put_into(self, source: str) -> str:
        """Return the source with the fault.

        Raises:
            ValueError: where the text does not stand in it exactly once.
        """
        found = source.count(self.text)
        if found != 1:
            raise ValueError(f"{self.name}: expected {self.text!r} once in {self.file}, found {found} times")
        return source.replace(self.text, self.instead)
