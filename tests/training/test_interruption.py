from __future__ import annotations

import signal
import threading

import pytest

from ffvit.training.interruption import Interruption

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def _handlers():
    """Python's own while a test runs, whoever started the tests."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_asks_and_says_so(number):
    said: list[str] = []
    with Interruption(said.append) as interruption:
        assert not interruption.asked
        signal.raise_signal(number)
        assert interruption.asked
    assert said == ["stopping soon, then saving (once more to stop at once)"]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_does_what_it_always_did(number):
    with Interruption(print) as interruption:
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert interruption.asked


@pytest.mark.parametrize("signals", [[], [signal.SIGINT], [signal.SIGTERM], [*SIGNALS]])
def test_handlers_are_as_before(signals):
    before = handlers()
    with Interruption(print):
        assert signal.getsignal(signal.SIGINT) != before[0]
        for number in signals:
            signal.raise_signal(number)
    assert handlers() == before


def test_handlers_are_as_before_after_an_error():
    before = handlers()
    with pytest.raises(ZeroDivisionError), Interruption(print):
        raise ZeroDivisionError
    assert handlers() == before


def test_in_a_thread_nothing_is_installed():
    before, seen = handlers(), []

    def work() -> None:
        with Interruption(print) as interruption:
            seen.extend([*handlers(), interruption.asked])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [*before, False]
    assert handlers() == before
