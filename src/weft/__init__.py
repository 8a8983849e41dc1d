"""weft: turn the logs of several domains into recommenders that help each other.

    import weft

    recommender = weft.load_recommender("runs/demo/recommenders/kitchen/weaverec")
    recommender.recommend([["first title", "second title"]], k=10)

Names are loaded when they are first used, so that importing weft costs nothing.
"""

from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load_domain": "weft.data.folder",
    "load_recommender": "weft.recommenders.folder",
    "load_adapter": "weft.adapters",
    "merge": "weft.merging.merge",
    "merge_adapters": "weft.merging",
    "fold": "weft.merging.folding.fold",
    "weights": "weft.merging.algebra",
    "evaluate": "weft.evaluation.evaluate",
    "compare": "weft.evaluation.compare",
    "run": "weft.systems.runner",
    "WeftError": "weft.errors",
}

__all__ = [
    "WeftError",
    "compare",
    "evaluate",
    "fold",
    "load_adapter",
    "load_domain",
    "load_recommender",
    "merge",
    "merge_adapters",
    "run",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weft' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
