"""The ledger: what was changed after results existed shows, and so does a ledger that was edited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ffvit.study.ledger import Ledger
from ffvit.study.plan import Plan

PLAN = Plan(network="ff_tiny_patch16_224", recipe="small", seeds=3)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    its = Ledger(tmp_path / "ledger.jsonl")
    its.note_plan(PLAN, finished=0)
    return its


def test_what_is_changed_before_results_exist_is_nobodys_business(ledger: Ledger):
    ledger.note_plan(PLAN.replace(margin=3.0, seeds=5), finished=0)
    assert list(ledger.changes()) == []
    assert ledger.looks() == 1


def test_a_margin_changed_after_results_shows(ledger: Ledger):
    ledger.note_plan(PLAN.replace(margin=3.0), finished=4)
    (said,) = ledger.changes()
    assert said.startswith("margin was changed")
    assert said.endswith("1.0 became 3.0.")
    ledger.note_plan(PLAN, finished=4)  # putting it back does not undo it
    assert len(list(ledger.changes())) == 2


def test_seeds_added_after_results_are_looks(ledger: Ledger):
    for seeds in (4, 5, 6):
        ledger.note_plan(PLAN.replace(seeds=tuple(range(seeds))), finished=6)
    assert ledger.looks() == 4
    assert list(ledger.changes()) == []


def test_seeds_taken_out_after_results_show(ledger: Ledger):
    ledger.note_plan(PLAN.replace(seeds=(0, 2)), finished=6)
    (said,) = ledger.changes()
    assert said.startswith("Seeds 1 were taken out")


def test_the_title_may_change(ledger: Ledger):
    ledger.note_plan(PLAN.replace(title="Another", minutes=5.0), finished=6)
    assert list(ledger.changes()) == []


def test_deleted_and_exchanged_runs_show(ledger: Ledger):
    ledger.note_report({"runs/a/seed-0": 0.9, "runs/a/seed-1": 0.8})
    assert list(ledger.changes()) == []
    ledger.note_report({"runs/a/seed-0": 0.9})
    (said,) = ledger.changes()
    assert said == "1 finished run was deleted: runs/a/seed-1."
    ledger.note_report({"runs/a/seed-0": 0.9, "runs/a/seed-1": 0.95})
    (said,) = ledger.changes()
    assert said.startswith("The result of runs/a/seed-1 is not what it was")


def test_the_same_again_is_no_event(ledger: Ledger):
    for _ in range(3):
        ledger.note_plan(PLAN, finished=3)
        ledger.note_report({"a": 0.5})
    assert len(ledger.events()) == 2


@pytest.mark.parametrize("spoil", ["edit", "remove", "cut"])
def test_a_ledger_that_was_edited_says_so(ledger: Ledger, spoil: str):
    ledger.note_plan(PLAN.replace(margin=3.0), finished=4)
    ledger.note_report({"a": 0.5})
    assert ledger.intact()
    lines = ledger.path.read_text().splitlines()
    if spoil == "edit":
        event = json.loads(lines[1])
        event["plan"]["margin"] = 1.0
        lines[1] = json.dumps(event)
    elif spoil == "remove":
        del lines[1]
    else:
        lines[1] = lines[1][:40]
    ledger.path.write_text("".join(line + "\n" for line in lines))
    assert not ledger.intact()
    assert next(iter(ledger.changes())).startswith("The study's ledger was edited")


def test_comparisons_chosen_after_results_show(ledger: Ledger):
    """A field that was left at its default is in no plan's file."""
    ledger.note_plan(PLAN.replace(comparisons=(("a", "b"),)), finished=6)
    (said,) = ledger.changes()
    assert "comparisons was changed" in said
    assert 'the default became [["a", "b"]].' in said
