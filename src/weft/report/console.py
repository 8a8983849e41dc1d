"""A rich console that shows foreign text as it is: no markup, no emoji codes, nothing that acts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from weft.safe_text import shown


class SafeConsole(Console):
    """Strings are plain text, and whatever is printed goes through `safe_text.shown`, a table's
    cells and a bar's labels too; rich's own colours stay."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"highlight": False, "markup": False, "emoji": False} | options))

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else shown(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)
