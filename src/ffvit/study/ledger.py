"""What was done to a study, and when: a line an event, chained by hashes, so that what was changed after results shows.

| event | when |
|---|---|
| `plan` | the plan was written, or found changed; with the plan, and how many of its runs were finished then |
| `report` | results were shown; with the finished runs and their accuracies |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ffvit.files.atomic_write import atomic_path
from ffvit.study.plan import Plan

HARMLESS = ("title", "hardware", "minutes", "published", "compromises", "corruptions")
"""Fields of a plan that decide neither what is run nor what is concluded."""


class Ledger:
    """The events of one study.

    Args:
        path: The file, `ledger.jsonl` in the study's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def events(self) -> list[dict[str, Any]]:
        """All events, the first one first; lines that do not continue the chain of hashes are left out."""
        events: list[dict[str, Any]] = []
        for line in self._text().splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            before = events[-1]["hash"] if events else ""
            if isinstance(event, dict) and event.get("hash") == _hash(before, event):
                events.append(event)
        return events

    def intact(self) -> bool:
        """Whether the chain of hashes holds: no event was edited, removed or put between others."""
        return len(self.events()) == len(self._text().splitlines())

    def _text(self) -> str:
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def note_plan(self, plan: Plan, finished: int) -> None:
        """Note the plan, if it differs from the last one noted; `finished` says how many of its runs are."""
        fields = plan.model_dump(mode="json")
        if self._all("plan")[-1:] != [fields]:
            self._add({"event": "plan", "finished": finished, "plan": fields})

    def note_report(self, results: Mapping[str, float]) -> None:
        """Note that results were shown, if they differ from the last ones noted."""
        if self._all("results")[-1:] != [dict(results)]:
            self._add({"event": "report", "results": dict(results)})

    def looks(self) -> int:
        """How often the results were or could have been looked at: once, and once for each time that seeds were added."""
        return 1 + sum(len(after["seeds"]) > len(before["seeds"]) for before, after, _ in self._changed())

    def changes(self) -> Iterator[str]:
        """What was changed after results existed, a sentence each; without the seeds that were added, which are looks."""
        if not self.intact():
            yield "The study's ledger was edited or is damaged: what was changed after results existed cannot be told."
        for before, after, when in self._changed():
            day = f"on {when[:10]} at {when[11:16]} UTC, after results existed"
            if removed := sorted(set(before["seeds"]) - set(after["seeds"])):
                yield f"Seeds {', '.join(map(str, removed))} were taken out {day}."
            for name in dict.fromkeys((*before, *after)):  # a field that is not chosen is not written
                old, new = before.get(name), after.get(name)
                if old != new and name not in HARMLESS and name != "seeds":
                    yield f"{name} was changed {day}: {_short(old)} became {_short(new)}."
        yield from self._exchanged()

    def _changed(self) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
        """Pairs of plans that followed each other while runs were finished."""
        for before, after in pairwise(event for event in self.events() if event["event"] == "plan"):
            if after["finished"]:
                yield before["plan"], after["plan"], after["time"]

    def _exchanged(self) -> Iterator[str]:
        """Runs that had a result once and have none, or another, in the last report."""
        reports = self._all("results")
        if not reports:
            return
        seen: dict[str, float] = {}
        for results in reports:
            seen |= results
        if gone := sorted(set(seen) - set(reports[-1])):
            yield f"{len(gone)} finished run{'s were' if len(gone) > 1 else ' was'} deleted: {', '.join(gone[:4])}."
        changed = sorted(
            {run for results in reports for run, top1 in results.items() if reports[-1].get(run, top1) != top1}
        )
        if changed:
            yield f"The result of {', '.join(changed[:4])} is not what it was when it was first shown."

    def _all(self, field: str) -> list[dict[str, Any]]:
        return [event[field] for event in self.events() if field in event]

    def _add(self, event: dict[str, Any]) -> None:
        events = self.events()
        event = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **event}
        event["hash"] = _hash(events[-1]["hash"] if events else "", event)
        with atomic_path(self.path) as temporary:
            temporary.write_text(f"{self._text()}{json.dumps(event)}\n")


def plan_hash(plan: Plan) -> str:
    """The plan in 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(plan.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _hash(before: str, event: Mapping[str, Any]) -> str:
    content = {name: value for name, value in event.items() if name != "hash"}
    return hashlib.sha256((before + json.dumps(content, sort_keys=True)).encode()).hexdigest()


def _short(value: object) -> str:
    text = "the default" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
