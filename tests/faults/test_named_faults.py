"""The list of named faults is true of the present sources; `try.py` says which tests notice them."""

from __future__ import annotations

from pathlib import Path

import cpu_faults
import cuda_faults
import pytest
import python_faults
from fault import Fault

FAULTS = [*python_faults.FAULTS, *cpu_faults.FAULTS, *cuda_faults.FAULTS]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_its_text_stands_once_in_its_file(fault: Fault) -> None:
    source = (ROOT / fault.file).read_text()
    assert fault.put_into(source) != source
    assert all((ROOT / tests).exists() for tests in fault.tests.split())


def test_names_are_unlike() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_text_that_is_gone_is_an_error() -> None:
    fault = Fault("gone", "", "csrc/common/dropout.h", "text", "instead", "tests/ops")
    for source, number in (("", 0), ("text, text", 2)):
        with pytest.raises(
            ValueError, match=f"gone: expected 'text' once in csrc/common/dropout.h, found {number} times"
        ):
            fault.put_into(source)
