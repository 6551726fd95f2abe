"""Were these wrong, one client could take the whole service, or one that keeps its limit would be refused."""

import pytest

from app.keys import Key
from app.quotas import Allowance, QuotaError, Quotas


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def key(number: int = 0, **limits: int) -> Key:
    return Key.model_validate({"name": f"holder-{number}", "sha256": f"{number:064x}", **limits})


def use(quotas: Quotas, holder: Key) -> Allowance | None:
    with quotas.hold(holder) as allowance:
        return allowance


def test_no_more_than_the_rate_in_any_minute() -> None:
    clock = Clock()
    quotas, holder = Quotas(clock), key(requests_per_minute=3)
    passed: list[float] = []
    for second in range(600):
        clock.now = 1000.0 + second
        try:
            use(quotas, holder)
        except QuotaError:
            continue
        passed.append(clock.now)
    assert len(passed) == 30
    for begin in passed:
        assert len([at for at in passed if begin <= at < begin + 60]) <= 3


def test_who_waits_as_told_gets_in() -> None:
    clock = Clock()
    quotas, holder = Quotas(clock), key(requests_per_minute=2)
    use(quotas, holder)
    clock.now += 10.5
    use(quotas, holder)
    clock.now += 10
    for _ in range(5):  # asking in vain costs nothing
        with pytest.raises(QuotaError):
            use(quotas, holder)
    with pytest.raises(QuotaError) as refused:
        use(quotas, holder)
    assert (refused.value.reason, refused.value.limit, refused.value.maximum) == (
        "rate",
        "requests_per_minute",
        2,
    )
    clock.now += refused.value.retry_after
    use(quotas, holder)


def test_what_is_left_is_told() -> None:
    clock = Clock()
    quotas, holder = Quotas(clock), key(requests_per_minute=3)
    assert use(quotas, holder) == Allowance(3, 2, 60)
    clock.now += 20
    assert use(quotas, holder) == Allowance(3, 1, 40)
    assert use(quotas, key(1)) is None


def test_no_more_at_once_than_allowed_and_a_place_is_given_back_after_a_failure() -> None:
    quotas, holder = Quotas(Clock()), key(concurrent_requests=2)
    with quotas.hold(holder), quotas.hold(holder):
        with pytest.raises(QuotaError) as refused:
            use(quotas, holder)
        assert (refused.value.reason, refused.value.limit) == ("concurrency", "concurrent_requests")
    with pytest.raises(RuntimeError), quotas.hold(holder):
        raise RuntimeError
    with quotas.hold(holder), quotas.hold(holder):
        pass


def test_one_key_does_not_use_up_what_another_may() -> None:
    quotas = Quotas(Clock())
    one, other = key(1, requests_per_minute=1), key(2, requests_per_minute=1)
    use(quotas, one)
    use(quotas, other)
    with pytest.raises(QuotaError):
        use(quotas, one)


def test_a_limit_that_is_lowered_holds_at_once_and_its_wait_is_honest() -> None:
    clock = Clock()
    quotas = Quotas(clock)
    for _ in range(5):
        use(quotas, key(requests_per_minute=5))
        clock.now += 1
    lowered = key(requests_per_minute=2)
    with pytest.raises(QuotaError) as refused:
        use(quotas, lowered)
    clock.now += refused.value.retry_after
    use(quotas, lowered)
