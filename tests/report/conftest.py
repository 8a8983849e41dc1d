from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from worlds import result

from weft.report.build import domain_report
from weft.report.model import RunReport, UserCase

HOSTILE = "</script><script>alert('x')</script> \"a\" & <img src=x onerror=y> | *b* \x1b[31m\u202e"


@pytest.fixture(scope="session")
def report() -> RunReport:
    generator = np.random.default_rng(0)

    def ranks(best: int) -> list[float]:
        return generator.integers(best, 31, 300).astype(float).tolist()

    rows = {
        "target-only": result(ranks(3)),
        "weaverec": [result(ranks(1)), result(ranks(1), seed=7)],
        HOSTILE: result(ranks(8)),
    }
    domain = domain_report(rows, "target-only", about={"weaverec": "hybrids, merged"})
    return RunReport(
        title=f"Report {HOSTILE}",
        system="weaverec",
        summary=HOSTILE,
        featured="weaverec",
        domains=[domain.model_copy(update={"domain": f"toys {HOSTILE}"})],
        learning_curves={HOSTILE: [(0, 2.0, None), (10, 1.5, 0.3)]},
        users=[
            UserCase(
                domain="toys",
                user=HOSTILE,
                history=[HOSTILE, "Lamp"],
                target="Chair",
                suggestions={"weaverec": ["Chair", HOSTILE]},
            )
        ],
        notes=[HOSTILE],
        timings={"train": 12.5},
    )
