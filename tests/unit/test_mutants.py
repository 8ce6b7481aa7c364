"""The list of mutants follows the source."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import ROOT
from tests.mutants.listed import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_breaks_is_there_once(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text("utf-8").count(mutant.find) == 1
    assert mutant.put != mutant.find
    for test in mutant.tests:
        assert (ROOT / test.partition("::")[0]).is_file()
