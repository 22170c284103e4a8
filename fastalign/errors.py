"""Errors that whoever started a run can mend: the command line shows them as one line and exits with code 2."""

from __future__ import annotations

import importlib
from types import ModuleType


class UserError(Exception):
    """A wrong argument, a missing or damaged file, a folder that cannot be written."""


class VariableError(UserError, ValueError):
    """An environment variable holds what it cannot."""


class DataError(UserError):
    """A data file is missing, truncated, corrupt or mislabelled."""


class MissingDataError(DataError):
    """A data folder or file is not there."""


class RunError(UserError):
    """A run cannot start, continue or be saved."""


class MissingPackageError(UserError):
    """A package that only the training commands need is not installed."""


def import_optional(name: str, purpose: str) -> ModuleType:
    """Import an optional package, or say how to install it.

    Raises:
        MissingPackageError: `name` is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = (error.name or name).partition(".")[0]
        raise MissingPackageError(f"{purpose} needs the package {package}: pip install 'fastalign[train]'") from error
