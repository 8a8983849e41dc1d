"""Splits: which (history, target) pairs a recommender learns from, and is measured on.

A kind of split is one class, a `SplitSettings`, in one file: its fields, its short form,
how it is made of a domain, and what protocols and reports call it. `kinds.SPLITS` has them all.
"""

from weft.data.splits.base import Split as Split
from weft.data.splits.base import SplitSettings as SplitSettings
from weft.data.splits.by_time import TimeSplit as TimeSplit
from weft.data.splits.by_time import split_by_time as split_by_time
from weft.data.splits.by_time import split_globally as split_globally
from weft.data.splits.by_user import UserSplit as UserSplit
from weft.data.splits.by_user import split_by_user as split_by_user
from weft.data.splits.kinds import AnySplit as AnySplit
from weft.data.splits.kinds import make_split as make_split
from weft.data.splits.kinds import parse_split as parse_split
from weft.data.splits.last_item import LeaveOneOut as LeaveOneOut
from weft.data.splits.last_item import leave_one_out as leave_one_out
from weft.data.splits.sampling import sample_train as sample_train
