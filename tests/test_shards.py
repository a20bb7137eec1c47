"""Several processes take the steps of one."""

import pytest
import torch
from torch import multiprocessing

from tests.shard_pairs import OWN_REFUSED
from tests.shards import (
    LONG,
    LONG_COMPILED,
    WORLDS,
    list_cases,
    run_all,
    worlds_of,
)

pytestmark = [
    pytest.mark.slow,  # it starts processes, and runs many cases
    pytest.mark.xdist_group("shards"),  # they have their outcomes in common
]

REFUSED = {
    "free bits": "free_bits is 0.1, a floor under a minibatch's mean KL",
    "e-steps": "e_steps is inf: they go on as long as a minibatch's mean ELBO",
    "batch norm": "is BatchNorm1d, whose statistics are of a whole minibatch",
    "gamma": "draws from a gamma, beta or Student t distribution for each",
    "nan": "the loss is nan at site 'z' of the guide, in epoch 1, at step 1",
}
REFUSED |= {f"{name}, compiled": REFUSED[name] for name in ("gamma", "nan")}
REFUSED |= OWN_REFUSED
LONGEST = (LONG, LONG_COMPILED)
EXACT = [n for n in list_cases() if n not in (*REFUSED, *LONGEST)]


def compute(folder, names):
    """Runs cases in one set of processes, which take long to start."""
    multiprocessing.spawn(run_all, (str(folder), names), nprocs=max(WORLDS))
    return torch.load(folder / "outcomes.pt")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """The outcomes of all cases in one set of processes."""
    names = [*EXACT, *LONGEST, *REFUSED]
    return compute(tmp_path_factory.mktemp("shards"), names)


def check(outcomes, name):
    for size in worlds_of(name):
        difference, apart = outcomes[name, size]
        assert not isinstance(difference, str), (size, difference)
        assert difference < 1e-9, size
        assert max(apart) == 0, size  # the processes are the same


@pytest.mark.parametrize("name", EXACT)
def test_processes_take_the_steps_of_one(outcomes, name):
    check(outcomes, name)


def test_they_take_200_steps_of_one(outcomes):
    for name in LONGEST:
        check(outcomes, name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused_by_all(outcomes, name):
    for size in worlds_of(name):
        said, others = outcomes[name, size]
        assert REFUSED[name] in said
        assert set(others) == {said}
