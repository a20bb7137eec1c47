"""A sample of what tests/fuzz.py tries."""

import os

import pytest
import torch

from tests.fuzz import fuzz


@pytest.mark.slow  # a minute
@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
def test_a_sample_of_extreme_command_lines_and_broken_files(capfd):
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back
    faults = fuzz(seed=1, commands=12, others=1, files=6, folders=6)
    assert not faults, capfd.readouterr().out
