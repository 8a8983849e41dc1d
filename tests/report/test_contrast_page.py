"""The page of a comparison: its numbers are in it, and nothing leaves it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from weft.adapters import Adapter, Factors
from weft.merging.comparing.comparison import Contrast, contrast_adapters, contrast_checkpoints
from weft.merging.comparing.hints import hints
from weft.merging.engine.source import Memory
from weft.report.contrast_page import contrast_html, render_contrast

HOSTILE = "</script><script>alert('x')</script> <img src=x onerror=y>\x1b[31m"


class _Page(HTMLParser):
    """Tags with their attributes, text, and scripts, apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self._open = "", [""], ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data


def adapter(seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    names = [f"encoder.layer.{n}.{kind}" for n in (0, 1) for kind in ("query", "dense")]
    factors = {
        name: Factors(
            torch.randn(2, 6, generator=random), torch.randn(5, 2, generator=random), 1.0 + seed
        )
        for name in names
    }
    return Adapter(factors, {"backbone": {"name": "tiny", "fingerprint": "f" * 64}})


@pytest.fixture(scope="module")
def found() -> Contrast:
    return contrast_adapters([adapter(k) for k in range(3)], ["books", "films", HOSTILE])


@pytest.fixture(scope="module")
def page(found: Contrast) -> str:
    return contrast_html(found)


def test_every_number_is_in_a_heat_map_and_in_a_table(found: Contrast, page: str) -> None:
    parsed = _Page(page)
    drawn = "".join(parsed.scripts)
    for row in (*found.layers, *found.kinds):
        assert row.output_overlap is not None and row.input_overlap is not None
        for norm in row.norms:
            assert f"{norm:.4g}" in parsed.text and f'"{norm:.4g}"' in drawn
        for i, j in found.pairs:
            for matrix in (row.cosines, row.conflicts, row.output_overlap, row.input_overlap):
                value = matrix[i][j]
                assert value is not None
                text = f"{value:.2f}"
                shown = "0" if float(text) == 0 else text.replace("-", "−")
                assert shown in parsed.text
                assert json.dumps(value)[:15] in drawn  # as drawn, not rounded
    for line in hints(found):
        assert line in parsed.text or "script" in line


def test_every_map_has_labelled_axes_and_a_sentence(page: str) -> None:
    parsed = _Page(page)
    drawn = [
        script for script in parsed.scripts if "Plotly.newPlot(" in script and len(script) < 1e5
    ]
    assert len(drawn) == 11  # parts, then five measures by layer and by kind
    for script in drawn:
        axes = re.findall(r'"title":\{"text":"([^"]+)"', script)
        assert len(axes) == 2 and all(axes)
    assert (
        page.count("<figcaption>")
        == len(re.findall(r"</figure><p class='protocol'>\w", page))
        == 11
    )
    for words in ("Cosine of task vectors", "Sign conflicts", "Output directions", "Norms of"):
        assert words in parsed.text


def test_the_page_asks_for_nothing_and_escapes_names(page: str) -> None:
    parsed = _Page(page)
    assert not [a for _, a in parsed.tags if {"src", "href"} & set(a)]
    assert not [t for t, _ in parsed.tags if t in ("img", "iframe", "link", "a", "object")]
    assert not [name for _, a in parsed.tags for name in a if name.startswith("on")]
    assert not any("alert('x')</script>" in script for script in parsed.scripts)
    assert "\x1b" not in page and "<img src=x onerror=y>" in parsed.text
    policy = [a["content"] for t, a in parsed.tags if t == "meta" and "http-equiv" in a]
    assert policy and str(policy[0]).startswith("default-src 'none'")
    own = [s for s in parsed.scripts if len(s) < 1e5]  # plotly.js apart
    assert "http" not in parsed.text + "".join(own)


def test_angles_of_every_module_are_there(found: Contrast, page: str) -> None:
    text = _Page(page).text
    assert len(found.angles) == 12
    for one in found.angles:
        assert one.module in text
        assert " ".join(f"{angle:.0f}" for angle in one.output) in text


def test_equal_comparisons_make_equal_pages(found: Contrast, page: str, tmp_path: Path) -> None:
    again = contrast_adapters([adapter(k) for k in range(3)], ["books", "films", HOSTILE])
    render_contrast(again, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == page


def test_checkpoints_and_single_parts_have_pages_too() -> None:
    parts = [
        Memory(name, {"layers.0.q.weight": torch.full((2, 2), value), "head.weight": torch.ones(2)})
        for name, value in (("base", 0.0), ("a", 1.0), ("b", -2.0))
    ]
    two = _Page(contrast_html(contrast_checkpoints(parts[1:], parts[0]))).text
    assert "2 checkpoints side by side" in two and "−1.00" in two and "Output" not in two
    assert "head and rest" in two and "–" in two  # no cosine where nothing changed
    one = _Page(contrast_html(contrast_checkpoints(parts[1:2], parts[0]))).text
    assert "Norms of task vectors" in one and "Cosine of" not in one.split("τ is a part")[0]
