"""What a file holds as the types that it must have: every value is checked against a type hint.

A dataclass says what a JSON object holds and is made of it; a TypedDict says what a dictionary holds, which stays one.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

T = TypeVar("T")
DEEPEST = 32
"""How deep a value may be nested that has no hint but Any."""


def from_json(content: bytes, hint: type[T]) -> T:
    """Return what a JSON text holds, as the hint says.

    Raises:
        ValueError: it is no JSON, or a value in it has another type or is out of range; names the value.
    """
    try:
        value = json.loads(content, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    return as_type(value, hint, "")


def as_type(value: Any, hint: Any, name: str) -> Any:
    """Return a value with all its parts as the hint says, the keys of objects in JSON as the integers they are to be.

    A float that is None is NaN, for which JSON has no number; an int must fit into 64 bits. `object` is anything, Any
    what JSON has.

    Raises:
        ValueError: a part has another type, or what is made of it refuses its value; names the part.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is object:
        return value
    if hint is Any:
        return _plain(value, name, DEEPEST)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return as_type(value, hint, name)
    if is_dataclass(hint) or is_typeddict(hint):
        return _record(value, cast(type, hint), name)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key_hint, value_hint = arguments
        items = _expect(value, dict, "an object", name).items()
        return {_key(key, key_hint, name): as_type(part, value_hint, _inside(name, key)) for key, part in items}
    if origin is list:
        return [
            as_type(part, arguments[0], f"{name}[{i}]") for i, part in enumerate(_expect(value, list, "a list", name))
        ]
    if hint is str:
        return _text(_expect(value, str, "text", name), name)
    if hint is float:
        return math.nan if value is None else float(_number(value, (int, float), "a number", name))
    if hint is int:
        return _number(value, (int,), "a whole number", name)
    return _expect(value, hint, hint.__name__, name)


def _record(value: Any, hint: type, name: str) -> Any:
    """What a dataclass is made of, or a TypedDict."""
    _expect(value, dict, "an object", name)
    hints = get_type_hints(hint)
    if is_dataclass(hint):
        needed = {f.name for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING}
    else:
        needed = hint.__required_keys__  # type: ignore[attr-defined]
    for key in (*value, *needed):
        if key not in hints or key not in value:
            raise ValueError(f"{_inside(name, key)}: {'not known' if key not in hints else 'missing'}")
    values = {key: as_type(part, hints[key], _inside(name, key)) for key, part in value.items()}
    return hint(**values)


def _plain(value: Any, name: str, depth: int) -> Any:
    """Any value of JSON."""
    if depth == 0:
        raise ValueError(f"{name}: nested deeper than {DEEPEST} levels")
    if isinstance(value, dict):
        return {_text(key, name): _plain(part, name, depth - 1) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part, name, depth - 1) for part in value]
    if isinstance(value, str):
        return _text(value, name)
    return value if value is None or isinstance(value, bool) else _number(value, (int, float), "a number", name)


def _expect(value: Any, kind: type, words: str, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name or 'the whole'}: expected {words}, got {_shown(value)}")
    return value


def _number(value: Any, kinds: tuple[type, ...], words: str, name: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ValueError(f"{name}: expected {words}, got {_shown(value)}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: expected {words} of at most 64 bits, got a larger one")
    return value


def _key(key: Any, hint: Any, name: str) -> Any:
    if hint is int and isinstance(key, str) and key.isdecimal():
        key = int(key)
    return as_type(key, hint, f"a key of {name}")


def _text(text: str, name: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name}: expected Unicode text, got half a surrogate pair")
    return text


def _finite(text: str) -> float:
    """A number of JSON, which must be one of Python's."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {text}")
    return number


def _inside(name: str, key: Any) -> str:
    part = f"{key!a:.40}" if isinstance(key, str) and not key.isidentifier() else str(key)
    return f"{name}.{part}" if name else part


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.40}" if isinstance(value, (str, int, float)) else type(value).__name__
