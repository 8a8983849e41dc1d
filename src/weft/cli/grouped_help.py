"""Help of commands with many options: the options in groups, under each group's heading."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class GroupedCommand(TyperCommand):
    """A command whose help lists its options by their `rich_help_panel`, as plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is None:
                continue
            plain = "Arguments" if one.param_type_name == "argument" else "Options"
            groups.setdefault(getattr(one, "rich_help_panel", None) or plain, []).append(record)
        if "Options" in groups:
            groups["Options"] = groups.pop("Options")  # last: what every command has
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)
