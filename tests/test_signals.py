from __future__ import annotations

import signal
import threading
import time

import pytest

from ffvit import signals
from ffvit.errors import RequeueError, RunStoppedError
from ffvit.signals import StopSignals, exit_on_signal

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
    with StopSignals(said.append) as stop:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked
    assert said == ["stopping soon, then saving (once more to stop at once)"]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_does_what_it_always_did(number, monkeypatch):
    monkeypatch.setattr(signals, "REPEAT", -1.0)
    with StopSignals(print) as asking:
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert asking.asked


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_torchrun_passes_on_again_is_the_same_one(number):
    said: list[str] = []
    with StopSignals(said.append):
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert len(said) == 1


def test_a_signal_that_is_ignored_stays_ignored():
    """As by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(print) as asking:
            signal.raise_signal(signal.SIGHUP)
            assert not asking.asked
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [
        (signal.SIGINT, RunStoppedError, 1),
        (signal.SIGTERM, RequeueError, 75),
        (signal.SIGUSR1, RequeueError, 75),
        (signal.SIGHUP, RequeueError, 75),
    ],
)
def test_what_a_scheduler_sends_has_an_exit_code_of_its_own(number, error, code):
    with StopSignals(lambda _: None) as asking:
        signal.raise_signal(number)
    raised = asking.error("stopped")
    assert (type(raised), raised.exit_code, raised.asked) == (error, code, True)
    assert not RunStoppedError("stopped, as the disk is full").asked


def test_where_nothing_is_to_be_saved_a_scheduler_is_obeyed_at_once():
    def read() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("taken for the error of a damaged file")

    with pytest.raises(RequeueError, match="nothing was begun"), exit_on_signal("nothing was begun"):
        read()
    with exit_on_signal("nothing was begun", done=lambda: True):  # nothing is left to be run again
        read()


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, RequeueError), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_comes_in_a_destructor_is_heard(number, error, capsys):
    class Destroyed:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def destroy() -> None:
        Destroyed()
        time.sleep(10)

    with pytest.raises(error), exit_on_signal("nothing was begun"):
        destroy()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("signals", [[], [signal.SIGINT], [signal.SIGTERM], [*SIGNALS]])
def test_handlers_are_as_before(signals):
    before = handlers()
    with StopSignals(print):
        assert signal.getsignal(signal.SIGINT) != before[0]
        for number in signals:
            signal.raise_signal(number)
    assert handlers() == before


def test_handlers_are_as_before_after_an_error():
    before = handlers()
    with pytest.raises(ZeroDivisionError), StopSignals(print):
        raise ZeroDivisionError
    assert handlers() == before


def test_in_a_thread_nothing_is_installed():
    before, seen = handlers(), []

    def work() -> None:
        with StopSignals(print) as stop:
            seen.extend([*handlers(), stop.asked])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [*before, False]
    assert handlers() == before
