"""``select.json``: the description of the selection in a data directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SELECTION_FILE = "select.json"


def read_selection(folder: Path) -> dict[str, Any]:
    """Read the description of a selection; empty: the folder is no selection."""
    try:
        facts = json.loads((folder / SELECTION_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
