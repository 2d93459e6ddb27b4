"""What a benchmark ran on."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def processor() -> str:
    """The processor's name."""
    linux = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", linux.read_text()) if linux.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
