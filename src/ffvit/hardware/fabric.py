"""Lightning's Fabric, imported without torchmetrics: Lightning would import all of it only to read its version."""

from __future__ import annotations

import sys
from typing import Any, cast

_modules = cast("dict[str, Any]", sys.modules)
_hidden = "torchmetrics" not in _modules
if _hidden:
    _modules["torchmetrics"] = None  # as if it were not installed
try:
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException
finally:
    if _hidden:
        del _modules["torchmetrics"]

__all__ = ["Fabric", "MisconfigurationException"]
