"""What a row costs to have and to serve: the order in which simpler rows come first."""

from __future__ import annotations

from enum import IntEnum


class Cost(IntEnum):
    """Cheapest first. A system gives one to each row that somebody would serve; a row that is there
    to answer a question (a control, an ablation) has none."""

    COUNTS = 0  # no model
    BACKBONE = 1  # the backbone as it comes
    BRANCH = 2  # one training
    LONGER = 3  # one training that takes the steps of several, or needs other domains' logs
    MERGE = 4  # several trainings, one set of weights
    INTEGRATION = 5  # several sets of weights at every request
