"""Drawing from the examples of a split."""

from __future__ import annotations

import numpy as np

from weft.data.domain import Examples
from weft.data.draws import mix, user_keys
from weft.errors import SettingError


def sample_train(examples: Examples, n: int, seed: int = 0) -> Examples:
    """Draw `n` examples without repeats: uniform over users, then over that user's examples.

    Each round visits every user that still has an example, in random order, and takes a random
    one of theirs; so no user comes twice before all have come once. If there are no more than
    `n` examples, all of them come, in drawn order. The draw depends on the seed, the users' ids and
    the positions, not on the order of users; a smaller `n` gives a prefix of a larger one.

    >>> from weft.data.mall import mall
    >>> from weft.data.splits import leave_one_out
    >>> train = leave_one_out(mall(users=60, items=40)["toys"]).train
    >>> drawn = sample_train(train, 5, seed=7)
    >>> len(train), drawn.user_ids(), drawn.targets
    (273, ['toys-00043', 'toys-00038', 'toys-00015', 'toys-00059', 'toys-00042'],
     array([ 9, 25, 20, 38, 35], dtype=int32))
    """
    if n < 1:
        raise SettingError(f"the number of examples to draw must be at least 1, not {n}")
    if not len(examples):
        return examples
    present, local = np.unique(examples.user, return_inverse=True)
    ids = examples.domain.sequences.user_ids.gather(present)
    keys = mix(user_keys(ids, seed, "sample_train")[local], examples.end)
    rows = np.lexsort((keys, local))  # each user's examples, shuffled
    sizes = np.bincount(local)
    turn = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    order = np.lexsort((mix(keys[rows], turn), turn))
    return examples.take(rows[order[:n]])
