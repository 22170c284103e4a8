from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import pytest

from fastalign.papers.runs.typed import DEEPEST, as_type, from_json

NESTED = "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)
NINES = "9" * 5000


class Part(TypedDict):
    words: str
    count: int | None


@dataclass(frozen=True)
class Record:
    number: int
    rate: float
    flag: bool = False
    part: Part | None = None
    layers: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    rest: Mapping[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"number: expected at least 0, got {self.number}")


def test_values_become_what_the_hints_say() -> None:
    value = {
        "number": 3,
        "rate": 1,
        "part": {"words": "w", "count": None},
        "layers": {"angle": {"0": 1.5, "12": None}},
        "rest": {"deep": [1, {"a": "b"}]},
        "names": ["a"],
    }
    record = from_json(json.dumps(value).encode(), Record)
    assert (record.number, record.part, record.names) == (3, {"words": "w", "count": None}, ["a"])
    assert isinstance(record.rate, float)
    assert record.layers["angle"][0] == 1.5
    assert math.isnan(record.layers["angle"][12])
    assert record.rest == value["rest"]
    assert from_json(b'{"number": 0, "rate": 0.5}', Record) == Record(0, 0.5)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("5", "the whole: expected an object, got int 5"),
        ('{"number": 1}', "rate: missing"),
        ('{"number": 1, "rate": 1, "other": 1}', "other: not known"),
        ('{"number": 1, "rate": 1, "a\\nb": 1}', r"'a\\nb': not known"),
        ('{"number": 1.0, "rate": 1}', r"number: expected a whole number, got float 1\.0"),
        ('{"number": true, "rate": 1}', "number: expected a whole number, got bool True"),
        ('{"number": -1, "rate": 1}', "number: expected at least 0, got -1"),
        (f'{{"number": {2**63}, "rate": 1}}', "number: expected a whole number of at most 64 bits"),
        (f'{{"number": 1, "rate": {10**400}}}', "rate: expected a number of at most 64 bits"),
        ('{"number": 1, "rate": "x"}', "rate: expected a number, got str 'x'"),
        ('{"number": 1, "rate": Infinity}', "expected a finite number, got Infinity"),
        ('{"number": 1, "rate": 1e999}', "expected a finite number, got 1e999"),
        ('{"number": 1, "rate": 1, "flag": 1}', "flag: expected bool, got int 1"),
        ('{"number": 1, "rate": 1, "flag": null}', "flag: expected bool, got NoneType"),
        ('{"number": 1, "rate": 1, "part": {"words": 1, "count": 1}}', r"part\.words: expected text, got int 1"),
        ('{"number": 1, "rate": 1, "part": {"words": "a"}}', r"part\.count: missing"),
        ('{"number": 1, "rate": 1, "layers": {"angle": {"x": 1}}}', "a key of layers.angle: expected a whole number"),
        ('{"number": 1, "rate": 1, "names": ["a", 1]}', r"names\[1\]: expected text, got int 1"),
        ('{"number": 1, "rate": 1, "names": ["\\ud800"]}', r"names\[0\]: expected Unicode text"),
        ('{"number": 1, "rate": 1, "rest": {"\\ud800": 1}}', "rest.*: expected Unicode text"),
        (f'{{"number": 1, "rate": 1, "rest": {{"a": {NESTED}}}}}', "rest.a: nested deeper"),
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        (f'{{"number": {NINES}, "rate": 1}}', "Exceeds the limit"),
        ("{", "Expecting property name"),
        ("\udcff", "utf-8"),
    ],
)
def test_what_does_not_fit_is_named(changed: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        from_json(changed.encode(errors="surrogateescape"), Record)
    assert "\n" not in str(caught.value)


def test_anything_is_taken_only_where_the_hint_is_object() -> None:
    anything = object()
    assert as_type({"a": anything}, dict[str, object], "")["a"] is anything
    with pytest.raises(ValueError, match="a: expected a number, got object"):
        as_type({"a": anything}, dict[str, Any], "")
