"""Numbers that nothing can be computed with are refused as choices."""

import math
from dataclasses import dataclass, fields

import pytest

from pyro_vae import Config, make_objective
from pyro_vae.config.bounds import FLOAT32
from pyro_vae.config.choices import Choices

FLOATS = [
    field.name for field in fields(Config) if isinstance(field.default, float)
]
OWNERS = {
    "alpha": {"objective": "renyi"},
    "temperature": {"prior": "categorical", "gradient": "gumbel-softmax"},
    "prior_scale": {"prior": "laplace"},
    "prior_df": {"prior": "student-t"},
    "e_learning_rate": {"inference": "local"},
    "validation_fraction": {"early_stopping": 3},
}


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        1e39,
        -1e39,
        1e-39,
        5e-324,
        10**39,
        10**400,
        -(10**400),
    ],
)
@pytest.mark.parametrize(
    "name", [*FLOATS, "noise_scale", "adam_eps", "gradient_clip"]
)
def test_no_choice_is_beyond_float32(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*; expected "):
        Config(**{name: value}, **OWNERS.get(name, {}))


@pytest.mark.parametrize(
    "name", ["epochs", "warmup", "early_stopping", "limit", "seed", "e_steps"]
)
def test_no_count_overflows(name):
    owners = {"inference": "local"} if name == "e_steps" else {}
    with pytest.raises(ValueError, match=f"^{name} is 1000.*; expected "):
        Config(**{name: 10**30}, **owners)


def test_a_choice_without_a_bound_is_checked_too():
    @dataclass(frozen=True)
    class Own(Choices):
        rate: float = 0.5
        rates: tuple[float, ...] = ()

    Own(rate=0.0)
    Own(rate=-3e38, rates=(1.2e-38, 1))
    for choices in ({"rate": 1e-310}, {"rate": -1e300}, {"rates": (1.0, 1e39)}):
        with pytest.raises(ValueError, match=r"expected 0, or a number from "):
            Own(**choices)
    assert FLOAT32.holds("inf") and not FLOAT32.holds(math.nan)


def test_what_is_no_tuple_is_refused():
    for value in (512, "512", None, tuple([3] * 1001), (3.0,)):
        with pytest.raises(ValueError, match=r"^hidden is .{1,40}; expected 0"):
            Config(hidden=value)


def test_too_many_states_are_refused_before_they_are_counted():
    choices = {"num_components": 10**5, "num_variables": 1000}
    with pytest.raises(ValueError, match=r"^num_variables is 1000; expected"):
        Config(prior="categorical", **choices)


@pytest.mark.parametrize("alpha", [1.0, 1.0005, 1 - 1e-9])
def test_orders_near_1_are_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha is .*; expected another"):
        Config(objective="renyi", alpha=alpha)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 1e39),
        ("alpha", math.nan),
        ("beta", -1.0),
        ("beta", math.inf),
        ("free_bits", math.nan),
        ("num_particles", 0),
        ("num_particles", 2.0),
    ],
)
def test_an_objective_refuses_them_too(small_vae, name, value):
    kind = "renyi" if name == "alpha" else "elbo"
    with pytest.raises(ValueError, match=f"^{name} is .*; expected a "):
        make_objective(small_vae, kind, **{name: value})
