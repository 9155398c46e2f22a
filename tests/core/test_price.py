"""What a backfill will cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robert_pipeline.core.backfill import PartitionFacts
from robert_pipeline.core.price import RateSample, estimate, rates
from robert_pipeline.errors import BudgetError, ConfigError


def sample(*, tokens=1000, seconds=10.0, besides=2.0, active=1, encoder="e", machine="m", text_bytes=4000):
    return RateSample(
        encoder_fingerprint=encoder,
        machine=machine,
        documents=10,
        embed_documents=10 if tokens else 0,
        embed_tokens=tokens,
        embed_text_bytes=text_bytes if tokens else 0,
        embed_seconds=seconds if tokens else 0.0,
        seconds=(seconds if tokens else 0.0) + besides,
        active=active,
    )


def partition(text_bytes=8000, missing=8000):
    return PartitionFacts(
        partition="p",
        published_key=None,
        current_key="k",
        last_run_failed=False,
        documents=20,
        text_bytes=text_bytes,
        missing_text_bytes=missing,
        missing_documents=20 if missing else 0,
    )


def known(*samples):
    return rates(samples, encoder_fingerprint="e", machine="m")


def test_an_estimate_is_what_the_same_work_took_before():
    """The hours shown would have nothing to do with the hours that it takes."""
    price = estimate([partition()], known(sample()), price_per_hour=3600.0)
    assert (price.documents, price.documents_to_embed, price.tokens, price.tokens_to_embed) == (20, 20, 2000, 2000)
    assert price.hours == pytest.approx((2000 / 100 + 2) / 3600)
    assert price.money == pytest.approx(22)
    assert price.embedded_share == 0


@given(st.integers(1, 8), st.integers(1, 5))
def test_runs_that_shared_a_machine_count_by_their_share(active, runs):
    """Two runs at a time, each at half the speed, would be taken for a machine of half the speed."""
    alone = known(*[sample()] * runs)
    shared = known(*[sample(seconds=10.0 * active, besides=2.0 * active, active=active)] * runs)
    assert shared.tokens_per_second == pytest.approx(alone.tokens_per_second)
    assert shared.partition_seconds == pytest.approx(alone.partition_seconds)


def test_what_is_embedded_already_costs_no_forward_pass():
    """A new head over history would be priced as if everything were embedded again."""
    price = estimate([partition(missing=2000), partition(missing=0)], known(sample()), price_per_hour=None)
    assert price.tokens_to_embed == 500
    assert price.embedded_share == pytest.approx(1 - 2000 / 16000)
    assert price.hours == pytest.approx((500 / 100 + 2 * 2) / 3600)
    assert price.money is None
    only_scored = known(sample(tokens=0))
    assert only_scored.tokens_per_second is None
    assert estimate([partition(missing=0)], only_scored, price_per_hour=1.0).tokens_to_embed == 0
    nothing = estimate([], known(), price_per_hour=1.0)
    assert (nothing.hours, nothing.tokens, nothing.money) == (0.0, 0, 0.0)


def test_rates_of_another_machine_or_encoder_are_not_used():
    """The hours of a GPU would be shown on a laptop."""
    elsewhere = known(sample(machine="gpu"))
    assert (elsewhere.tokens_per_second, elsewhere.partition_seconds) == (None, None)
    assert elsewhere.tokens_per_byte == pytest.approx(0.25), "tokens are the tokenizer's, whatever the machine"
    assert known(sample(encoder="other")).tokens_per_byte is None
    price = estimate([partition()], elsewhere, price_per_hour=1.0)
    assert (price.tokens, price.hours, price.money) == (2000, None, None)


def test_a_budget_refuses_what_is_dearer_or_unknown():
    """A budget would be a wish."""
    dear = estimate([partition()], known(sample()), price_per_hour=3600.0)
    dear.check_budget(None)
    dear.check_budget(22.1)
    with pytest.raises(BudgetError, match=r"cost about 22\.00, the budget is 21\.00"):
        dear.check_budget(21.0)
    with pytest.raises(BudgetError, match="unknown"):
        estimate([partition()], known(), price_per_hour=1.0).check_budget(10.0)
    with pytest.raises(ConfigError, match="what an hour costs"):
        estimate([partition()], known(sample()), price_per_hour=None).check_budget(10.0)
    estimate([], known(), price_per_hour=1.0).check_budget(0.0)
