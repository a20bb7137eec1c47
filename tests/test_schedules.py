import pytest

from pyro_vae.training.schedules import SCHEDULES, kl_weight
from pyro_vae.training.stopping import best_epoch, has_stalled


def test_the_schedule_of_burda_et_al():
    """Stage i of 8 has 3^i passes: 1, 3, 9, ... and 3,280 in all."""
    factor = SCHEDULES["iwae-2015"]
    factors = [factor(epoch, 3280) for epoch in range(1, 3281)]
    counts = [factors.count(10 ** (-stage / 7)) for stage in range(8)]
    assert counts == [3**stage for stage in range(8)]
    assert factors == sorted(factors, reverse=True)
    truncated = [factor(epoch, 121) for epoch in range(1, 122)]
    assert truncated == factors[:121] and factors[121] < factors[120]
    assert factor(4000, 4000) == factors[-1] == pytest.approx(0.1)


def test_the_others_start_at_the_whole_step_and_fall():
    for name, last in (("cosine", 0.0245), ("exponential", 0.01)):
        factors = [SCHEDULES[name](epoch, 10) for epoch in range(1, 11)]
        assert factors[0] == 1 and factors == sorted(factors, reverse=True)
        assert factors[-1] == pytest.approx(last, rel=1e-2)
        assert SCHEDULES[name](1, 1) == 1
    assert SCHEDULES["constant"](7, 10) == 1


def test_the_kls_weight_rises_linearly_to_beta():
    weights = [kl_weight(0.5, step, 4) for step in range(7)]
    assert weights == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert kl_weight(2.0, 0, 0) == kl_weight(2.0, 1, 0) == 2


def test_the_best_epoch_and_patience_count_from_the_warm_up():
    records = [{"validation_elbo": elbo} for elbo in (9, 1, 3, 2, 3)]
    assert best_epoch(records) == 0 and best_epoch(records, 1) == 2
    assert best_epoch(records, 5) is None
    assert has_stalled(records, 4) and not has_stalled(records, 5)
    assert has_stalled(records, 2, warmup=1)
    assert not has_stalled(records, 3, warmup=1)
    assert not has_stalled(records, 1, warmup=5)
