"""The learning rules: each turns the error of the output into one update per layer."""

from __future__ import annotations

from fastalign.rules.base import Layer, Rule, Step, Update
from fastalign.rules.bp import BP
from fastalign.rules.dfa import DFA
from fastalign.rules.drtp import DRTP
from fastalign.rules.fa import FA
from fastalign.rules.ifa import IFA
from fastalign.rules.pepita import PEPITA

__all__ = ["BP", "DFA", "DRTP", "FA", "IFA", "PEPITA", "Layer", "Rule", "Step", "Update", "named"]

RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (BP, FA, DFA, IFA, DRTP, PEPITA)}


def named(rule: str | Rule) -> Rule:
    """The rule itself, or the one of that name with its default settings.

    Raises:
        ValueError: for an unknown name.
        TypeError: for anything but a name or a rule.
    """
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, str):
        raise TypeError(f"rule: expected a rule or a name, got {type(rule).__name__}")
    if rule.lower() not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    return RULES[rule.lower()]()
