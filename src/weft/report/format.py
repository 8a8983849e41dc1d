"""How numbers are written, everywhere alike."""

from __future__ import annotations

VERDICT_STYLE = {"gain": "bold green", "loss": "bold red", "unclear": "dim"}
VERDICT_WORDS = {"gain": "gain", "loss": "loss", "unclear": "no clear difference"}


def number(value: float) -> str:
    """`0.4304`."""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """`+0.0044`, `−0.0140` with a real minus sign, `0.0000` for what rounds to nothing."""
    text = f"{value:+.4f}"
    return "0.0000" if float(text) == 0 else text.replace("-", "−")


def p_value(p: float) -> str:
    """`.0002` to four places, `< .0001` below."""
    if p < 0.0001:
        return "< .0001"
    return f"{p:.4f}" if p >= 0.99995 else f"{p:.4f}".lstrip("0")


def metric_label(name: str) -> str:
    """`full/ndcg@10` -> `NDCG@10, whole catalogue`; `hit@1` -> `Hit@1`."""
    whole, _, rest = name.rpartition("/")
    kind, _, k = rest.partition("@")
    word = {"ndcg": "NDCG", "mrr": "MRR", "hit": "Hit", "recall": "Recall"}.get(kind, kind)
    return f"{word}@{k}" + (", whole catalogue" if whole else "")
