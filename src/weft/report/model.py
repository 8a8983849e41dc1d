"""The content of a report as plain data, the same for the terminal, Markdown, HTML and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from weft.artifacts.atomic import read_json, write_json
from weft.errors import DataError
from weft.evaluation.compare import verdict
from weft.evaluation.protocol import Protocol
from weft.settings import StrictModel
from weft.settings.files import validate_file

REPORT, TIMINGS = "report.json", "timings.json"


class _Value(StrictModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Share = Annotated[float, Field(ge=-1e-9, le=1 + 1e-9)]
"""A metric's mean, a p, a share of something: between 0 and 1 within rounding."""


class ReportedMean(_Value):
    """A mean over users and its 95 % interval."""

    mean: Share
    low: float
    high: float


class Versus(_Value):
    """A row minus the baseline on one metric; see `evaluation.compare.Comparison`."""

    difference: float
    low: float
    high: float
    p_t: Share
    p_wilcoxon: Share
    p_holm: Share

    @property
    def verdict(self) -> str:
        """`gain`, `loss` or `unclear`."""
        return verdict(self.difference, self.p_holm)


class SeedSpread(_Value):
    """One metric over seeds; see `evaluation.compare.Spread`."""

    seeds: int
    mean: float
    sd: float
    low: float
    high: float


class RowWarning(_Value):
    """What a reader must know of a row; with `spoils`, the row is never chosen to be served."""

    text: str
    spoils: bool = True


class ResultRow(_Value):
    """One recommender on one target domain. The baseline has no `versus`."""

    name: str
    about: str = ""
    metrics: dict[str, ReportedMean]
    versus: dict[str, Versus] = {}
    seeds: dict[str, SeedSpread] = {}
    warnings: list[RowWarning] = []


class Compared(_Value):
    """The chosen row minus another on the metric of the choice; Holm's correction runs over all
    pairs of rows that could be served."""

    row: str
    difference: float
    low: float
    high: float
    p_holm: Share

    @property
    def verdict(self) -> str:
        """`gain`, `loss` or `unclear`."""
        return verdict(self.difference, self.p_holm)


class ServingChoice(_Value):
    """Which row of a target to serve; see `evaluation.selection` for the rule.

    `row` is None where every row has a warning that `spoils`. `folder` is the recommender's,
    below `recommenders/<target>`; None where there is none.
    """

    target: str
    row: str | None
    folder: str | None
    reason: str
    decided: bool
    metric: str
    users: int
    compared: list[Compared] = []
    left_out: list[str] = []  # because of their warnings


class LeakageFacts(_Value):
    """What training could know of the test targets; see `evaluation.leakage.TargetFacts`."""

    targets: int
    earlier: Share | None
    earlier_anywhere: Share | None
    domains: int
    new_items: Share
    new_users: Share


class RowContrast(_Value):
    """Two rows other than the baseline, paired: `row` minus `against` on the headline metrics.

    Holm's correction runs over a domain's contrasts × headline metrics.
    """

    row: str
    against: str
    about: str = ""  # in a few words, what the difference shows
    versus: dict[str, Versus]


class TargetReport(_Value):
    """All rows measured on one target domain under one protocol; see `build.target_report`."""

    domain: str
    protocol: Protocol
    baseline: str
    headline: tuple[str, ...]  # the metrics shown first: one family for Holm's correction
    rows: list[ResultRow]
    contrasts: list[RowContrast] = []
    serving: ServingChoice | None = None
    facts: LeakageFacts | None = None
    cautions: list[str] = []  # of all rows: few users, fewer examples than asked

    def row(self, name: str) -> ResultRow | None:
        """The row of this name; None where there is none."""
        return next((row for row in self.rows if row.name == name), None)


class ReportTable(_Value):
    """What a study found beside its rows: costs, a matrix, a curve in numbers; cells are text."""

    title: str
    about: str = ""  # how to read it, in a sentence or two
    header: list[str]
    rows: list[list[str]]


class UserCase(_Value):
    """One user: history (oldest first), target, and what each row suggests, best first."""

    domain: str
    user: str
    history: list[str]
    target: str
    suggestions: dict[str, list[str]]


Curve = list[tuple[int, float | None, float | None]]
"""(step, training loss, validation metric); None where one wasn't measured."""


class Branch(_Value):
    """What a learning curve is of: `kind` is its label, and without `shown` it is hidden until a
    click on the figure's legend."""

    domains: list[str]
    kind: str
    shown: bool = True


class RunReport(_Value):
    """A run's report. `timings` (stage -> seconds) are in a file of their own, so that two runs of
    one recipe write the same `report.json`.

    >>> import tempfile
    >>> report = RunReport(title="Demo", system="weaverec", domains=[], notes=["Synthetic data."])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report.save(Path(folder))
    ...     RunReport.load(Path(folder)) == report
    True
    """

    title: str
    system: str
    summary: str = ""
    featured: str = ""  # the row that the run is about, e.g. "weaverec"
    domains: list[TargetReport]
    learning_curves: dict[str, Curve] = {}
    branches: dict[str, Branch] = {}  # what each learning curve is of, by the same name
    validation_metric: str = "NDCG@10"  # what the third number of a curve's point is
    users: list[UserCase] = []
    tables: list[ReportTable] = []
    notes: list[str] = []
    versions: dict[str, str] = {}  # of weft, Python and the libraries that made it
    data: dict[str, str] = {}  # domain -> its hash before the recipe's filters
    timings: dict[str, float] = {}

    def headline_metrics(self) -> list[str]:
        """The headline metrics that every domain has."""
        first = self.domains[0].headline if self.domains else ()
        return [m for m in first if all(m in domain.headline for domain in self.domains)]

    def save(self, folder: Path) -> None:
        """Write `report.json` and, if there are any, `timings.json` into `folder`."""
        values = self.model_dump(mode="json", exclude={"timings"})
        write_json(Path(folder) / REPORT, values)
        if self.timings:
            write_json(Path(folder) / TIMINGS, self.timings)

    @classmethod
    def load(cls, path: Path) -> RunReport:
        """Read a run's folder or its `report.json`, with the timings beside it."""
        file = Path(path) / REPORT if Path(path).is_dir() else Path(path)
        values = read_json(file)
        if not isinstance(values, dict):
            raise DataError(f"{file} is no report: it holds no JSON object")
        timings = file.with_name(TIMINGS)
        if timings.is_file():
            values = {**values, "timings": read_json(timings)}
        return validate_file(file, cls, values, DataError)
