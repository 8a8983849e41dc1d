"""How numbers and names are written, everywhere alike."""

from __future__ import annotations

import unicodedata

from weft.evaluation.protocol import Protocol

VERDICT_STYLE = {"gain": "bold green", "loss": "bold red", "unclear": "dim"}
VERDICT_MARK = {"gain": "▲", "loss": "▼", "unclear": "≈"}

_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def number(value: float) -> str:
    """`0.4304`."""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """`+0.0044`, `−0.0140` with a real minus sign, `0.0000` for what rounds to nothing."""
    text = f"{value:+.4f}"
    return "0.0000" if float(text) == 0 else text.replace("-", "−")


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


def metric_label(name: str) -> str:
    """`full/ndcg@10` -> `NDCG@10 (all items)`; `hit@1` -> `Hit@1`."""
    whole, _, rest = name.rpartition("/")
    kind, _, k = rest.partition("@")
    word = {"ndcg": "NDCG", "mrr": "MRR", "hit": "Hit", "recall": "Recall"}.get(kind, kind)
    return f"{word}@{k}" + (" (all items)" if whole else "")


def plain(text: str) -> str:
    """Foreign text on one line, without control or direction characters that could disguise it."""
    kept = (
        character
        for character in " ".join(text.split())
        if character not in _BIDI and unicodedata.category(character) not in ("Cc", "Cs")
    )
    return "".join(kept)


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
