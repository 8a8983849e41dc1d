"""How numbers and names are written, everywhere alike."""

from __future__ import annotations

from dataclasses import dataclass

from weft.evaluation.protocol import Protocol
from weft.report.model import (
    ReportedMean,
    RowContrast,
    RunReport,
    SeedSpread,
    ServingChoice,
    TargetReport,
    Versus,
)
from weft.safe_text import spaced

VERDICT_STYLE = {"gain": "bold green", "loss": "bold red", "unclear": "dim"}
VERDICT_MARK = {"gain": "▲", "loss": "▼", "unclear": "≈"}


def number(value: float) -> str:
    """`0.4304`."""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """`+0.0044`, `−0.0140` with a real minus sign, `0.0000` for what rounds to nothing."""
    text = f"{value:+.4f}"
    return "0.0000" if float(text) == 0 else text.replace("-", "−")


def half(one: ReportedMean | Versus) -> str:
    """`±.0255`: half of the 95 % interval."""
    return f"±{(one.high - one.low) / 2:.4f}".replace("±0.", "±.")


def seeds_range(one: SeedSpread) -> str:
    """`0.1402 … 0.1488`: the smallest and the largest run."""
    return f"{number(one.low)} … {number(one.high)}"


def p_value(p: float) -> str:
    """`.0002` to four places, `< .0001` below, `1` at the top."""
    if p < 0.0001:
        return "< .0001"
    return "1" if p >= 0.99995 else f"{p:.4f}".lstrip("0")


def seconds(value: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count_words(count: int, noun: str) -> str:
    """A count and its noun.

    >>> count_words(1, "epoch"), count_words(3, "epoch")
    ('1 epoch', '3 epochs')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def metric_label(name: str) -> str:
    """`full/ndcg@10` -> `NDCG@10 (all items)`; `hit@1` -> `Hit@1`."""
    whole, _, rest = name.rpartition("/")
    kind, _, k = rest.partition("@")
    word = {"ndcg": "NDCG", "mrr": "MRR", "hit": "Hit", "recall": "Recall"}.get(kind, kind)
    return f"{word}@{k}" + (" (all items)" if whole else "")


def plain(text: str) -> str:
    """Foreign text on one line, with single spaces; what could act or hide is shown as its code."""
    return spaced(text)


def protocol_line(protocol: Protocol) -> str:
    """One line on how the numbers of a domain were made."""
    parts = [f"{protocol.part} part of {protocol.split.replace('_', ' ')}"]
    parts.append(f"{protocol.users:,} users")
    if protocol.candidates is not None:
        by = {"uniform": "uniformly", "popularity": "by popularity"}[protocol.candidates.by]
        parts.append(f"target among {protocol.candidates.drawn} items drawn {by}")
    if protocol.full:
        masked = "history masked" if protocol.mask_history else "history not masked"
        parts.append(f"whole catalogue ({masked})")
    return ", ".join(parts)


def facts_line(domain: TargetReport) -> str:
    """What training could know of the test targets, in a sentence or two; empty if not measured."""
    facts = domain.facts
    if facts is None:
        return ""
    if facts.earlier is None or facts.earlier_anywhere is None:
        first = "Leakage through time can't be measured: the log has an order but no times."
    elif not (facts.earlier or facts.earlier_anywhere):
        first = "No test target lies before the last training interaction of another user."
    else:
        first = (
            f"Leakage: {share(facts.earlier)} of the test targets lie before the last training "
            "interaction of another user"
        )
        if facts.domains > 1:
            first += (
                f" ({share(facts.earlier_anywhere)} over the {facts.domains} domains trained on)"
            )
        first += (
            ", so models may have learned from what came later; 'split: global_time' avoids that."
        )
    cold = []
    if facts.new_items:
        cold.append(f"{share(facts.new_items)} of the targets are items that training never saw")
    if facts.new_users:
        cold.append(
            f"{share(facts.new_users)} of the targets are of users without a training target"
        )
    return f"{first} {'; '.join(cold)}." if cold else first


def share(value: float) -> str:
    """`99.2 %`; a share that is not 0 or 1 is not rounded to it."""
    if 0 < value < 0.001:
        return "under 0.1 %"
    return "over 99.9 %" if 0.999 < value < 1 else f"{value:.1%}".replace("%", " %")


def serving_head(one: ServingChoice) -> str:
    """`serve weaverec (recommenders/toys/weaverec)`, or what to do where there is nothing."""
    if one.row is None:
        return "serve none of these"
    folder = "" if one.folder is None else f" (recommenders/{one.target}/{one.folder})"
    return f"serve {one.row}{folder}"


def footnotes(domain: TargetReport) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The rows' marks (`†1 †2`), and the text of each mark."""
    marks: dict[str, str] = {}
    rows: dict[str, str] = {}
    for row in domain.rows:
        for one in row.warnings:
            marks.setdefault(one.text, f"†{len(marks) + 1}")
        if row.warnings:
            texts = {one.text for one in row.warnings}
            rows[row.name] = " ".join(mark for text, mark in marks.items() if text in texts)
    return rows, [(mark, text) for text, mark in marks.items()]


def versions_line(report: RunReport) -> str:
    """`weft 0.1.0, python 3.11.9, …`; empty where it is not known."""
    return ", ".join(f"{name} {number_of}" for name, number_of in report.versions.items())


def data_line(report: RunReport) -> str:
    """Each domain's hash and how to check it; empty where it is not known."""
    if not report.data:
        return ""
    hashes = ", ".join(f"{name} {value}" for name, value in report.data.items())
    return f"The data: {hashes}. 'weft data inspect FOLDER' prints the hash of a domain's folder."


def contrast_label(one: RowContrast) -> str:
    """`weaverec − soup: what transfer adds beyond averaging`."""
    return plain(f"{one.row} − {one.against}") + (f": {plain(one.about)}" if one.about else "")


def seeds_verdict(domain: TargetReport, featured: str) -> str:
    """One sentence: is the featured row's gain larger than the difference between seeds?

    The seeds' spread is that of the row or the baseline, whichever is wider. Empty where nothing
    was repeated.
    """
    row, base = domain.row(featured), domain.row(domain.baseline)
    if row is None or base is None or row.name == base.name:
        return ""
    metrics: dict[str, list[str]] = {}
    count = 0
    for metric in domain.headline:
        runs = [one.seeds[metric] for one in (row, base) if metric in one.seeds]
        if not runs:
            continue
        count = max(count, *(one.seeds for one in runs))
        spread = max(one.high - one.low for one in runs)
        gain = row.versus[metric].difference
        verb = "loses more" if gain < 0 else "gains more"
        kind = f"{verb} than the seeds' spread" if abs(gain) > spread else _WITHIN
        numbers = f"{metric_label(metric)} ({signed(gain)}, spread {number(spread)})"
        metrics.setdefault(kind, []).append(numbers)
    if not metrics:
        return ""
    order = sorted(metrics, key=lambda kind: kind == _WITHIN)  # the lesson follows what it is about
    parts = [f"{kind} on {', '.join(metrics[kind])}" for kind in order]
    lesson = ": a gain smaller than the seeds' spread is not a gain" if _WITHIN in metrics else ""
    who = f"{plain(row.name)} against {plain(base.name)}"
    return f"Over {count} seeds, {who} {'; it '.join(parts)}{lesson}."


_WITHIN = "stays within the seeds' spread"


@dataclass(frozen=True)
class Spent:
    """Where a run's time went: `kinds` (name, seconds, stages) and the `longest` stages."""

    total: float
    kinds: list[tuple[str, float, int]]
    longest: list[tuple[str, float]]


def spent(timings: dict[str, float], longest: int = 5) -> Spent:
    """Sums by the first word of a stage's label (train, evaluate, merge, domain, …)."""
    kinds: dict[str, list[float]] = {}
    for name, value in timings.items():
        kinds.setdefault(plain(name).split(" ")[0], []).append(value)
    sums = [(kind, sum(values), len(values)) for kind, values in kinds.items()]
    by_time = sorted(timings.items(), key=lambda one: -one[1])
    return Spent(sum(timings.values()), sorted(sums, key=lambda one: -one[1]), by_time[:longest])


def spent_line(timings: dict[str, float]) -> str:
    """`42 min 10 s of work in 97 stages: train 33 min 20 s (27), …`."""
    times = spent(timings)
    kinds = ", ".join(f"{kind} {seconds(value)} ({count})" for kind, value, count in times.kinds)
    return f"{seconds(times.total)} of work in {len(timings)} stages: {kinds}"
