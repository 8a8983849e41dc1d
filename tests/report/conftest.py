from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from worlds import result

from weft.report.build import target_report
from weft.report.model import Branch, RunReport, UserCase
from weft.report.serving import RowInfo

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
    domain = target_report(
        rows,
        "target-only",
        info={"weaverec": RowInfo(about="hybrids, merged")},
        contrasts=[
            ("weaverec", HOSTILE, f"what {HOSTILE} is for"),
            (HOSTILE, "target-only", ""),
            ("weaverec", "never measured", "nothing"),
        ],
    )
    return RunReport(
        title=f"Report {HOSTILE}",
        system="weaverec",
        summary=HOSTILE,
        featured="weaverec",
        domains=[domain.model_copy(update={"domain": f"toys {HOSTILE}"})],
        learning_curves={
            HOSTILE: [(0, 2.0, None), (10, 1.5, 0.3)],
            "train toys": [(0, 2.5, None), (5, 1.25, 0.2)],
            "train toys, again": [(0, 3.5, None), (5, 0.75, 0.1)],
        },
        branches={
            HOSTILE: Branch(domains=[f"toys {HOSTILE}", HOSTILE], kind="hybrid"),
            "train toys": Branch(domains=[f"toys {HOSTILE}"], kind="target-only"),
            "train toys, again": Branch(domains=[f"toys {HOSTILE}"], kind="twin", shown=False),
        },
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
        timings={"train toys": 12.5, "train lamps": 100.0, f"merge {HOSTILE}": 0.5},
    )
