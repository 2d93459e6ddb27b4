"""Images that could not be read while training: counted, told, listed; too many stop the run."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable

from ffvit.config.data import bad_image_limit
from ffvit.data.images import BadImageError
from ffvit.errors import BadImagesError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.csv_formulas import escape_formula
from ffvit.hardware.ranks import all_gather
from ffvit.run_folder import Run
from ffvit.training.checkpoint import Progress
from ffvit.training.setup import Setup


class UnreadableImages:
    """The images of a run that could not be read.

    Args:
        setup: The run's processes and images, and how many may be unreadable.
        run: In its folder they are listed.
        progress: Holds the reasons by image name; updated.
        say: Told at the first and whenever their number has doubled.
    """

    def __init__(self, setup: Setup, run: Run, progress: Progress, say: Callable[[str], None]) -> None:
        self.fabric, self.file, self.images = setup.fabric, run.bad_images_file, setup.splits.count
        self.allowed, self.reasons, self.say = setup.config.data.bad_images, progress.bad_images, say
        self.next_told = 1

    def add(self, errors: Iterable[BadImageError]) -> None:
        """Note those that this process met."""
        for error in errors:
            self.reasons.setdefault(error.name, error.reason)

    def check(self) -> None:
        """Say how many there are, if their number has doubled.

        Raises:
            BadImagesError: There are more than allowed.
        """
        limit = bad_image_limit(self.allowed, self.images)
        if len(self.reasons) > limit:
            self.write()
            raise BadImagesError(
                f"{len(self.reasons):,} images could not be read, more than --data.bad-images {self.allowed:g} allows "
                f"({limit:,} of {self.images:,}); they are listed in {self.file}"
            )
        if len(self.reasons) >= self.next_told:
            self.next_told = 2 * len(self.reasons)
            name, reason = next(reversed(self.reasons.items()))
            self.write()
            self.say(
                f"{len(self.reasons):,} of {self.images:,} images could not be read so far, and are left out (the last: "
                f"{name}: {reason}); they are listed in {self.file}"
            )

    def write(self) -> None:
        """List those of all processes."""
        for reasons in all_gather(self.fabric, self.reasons.copy()):
            self.reasons.update(reasons)
        if self.reasons and self.fabric.is_global_zero:
            with (
                atomic_path(self.file) as temporary,
                temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
            ):
                rows = [[escape_formula(cell) for cell in row] for row in sorted(self.reasons.items())]
                csv.writer(file).writerows([("image", "reason"), *rows])
