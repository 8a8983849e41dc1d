"""`weft recommend` and `evaluate`: one recommender at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def recommend(
    model: Annotated[
        Path,
        typer.Option(
            help="A recommender's folder (adapter, integrator or whole model): "
            "…/recommenders/<domain>/…."
        ),
    ],
    history: Annotated[
        list[str], typer.Option(help="A title or item id, oldest first; repeat for more.")
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    items: Annotated[
        Path | None,
        typer.Option(
            help="Another catalogue to rank: items.parquet, a CSV file with a column title, or a "
            "text file of titles."
        ),
    ] = None,
    repeat: Annotated[bool, typer.Option(help="Also suggest what is in the history.")] = False,
    json: Json = False,
) -> None:
    """Recommend items for a history, also one never seen in training."""
    from dataclasses import asdict

    from weft.recommenders.folder import load_recommender

    found = load_recommender(model, items).recommend([history], k, mask_history=not repeat)[0]
    if json:
        import json as js

        typer.echo(js.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
        return
    for place, one in enumerate(found, start=1):
        typer.echo(f"{place:3d}  {one.score:.3f}  {one.title}  [{one.item_id}]")


def evaluate(
    model: Annotated[Path, typer.Option(help="A recommender's folder.")],
    domain: Annotated[Path, typer.Option(help="The domain's folder.")],
    out: Annotated[Path, typer.Option(help="New folder for the ranks and their protocol.")],
    drawn: Annotated[int, typer.Option(min=1, help="Candidates drawn beside the target.")] = 29,
    by: Annotated[str, typer.Option(help="How they are drawn: uniform or popularity.")] = "uniform",
    split: Annotated[
        str | None,
        typer.Option(
            help="leave_one_out or by_user (3:1:1); the one it was trained under unless given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the candidates.")] = 0,
    users: Annotated[int | None, typer.Option(min=1, help="Only so many drawn users.")] = None,
    full: Annotated[
        bool | None,
        typer.Option(
            "--full/--no-full", help="Rank whole catalogues too; where it can, by default."
        ),
    ] = None,
) -> None:
    """Measure a recommender's folder on a domain's test users."""
    from weft.artifacts.atomic import check_folder
    from weft.data.folder import load_domain
    from weft.data.source import checked
    from weft.data.splits import make_split
    from weft.evaluation.candidates import train_counts
    from weft.evaluation.evaluate import evaluate as measure
    from weft.evaluation.protocol import EvaluationSettings
    from weft.recommenders.folder import load_recommender
    from weft.recommenders.kinds import ranks_catalogues_by_default

    check_folder(out, new=True)  # before the work, not after it
    loaded = load_domain(domain)
    found = load_recommender(model)
    recommender = found.recommender
    recommender.use(loaded.items)
    whole = ranks_catalogues_by_default(recommender.settings) if full is None else full
    asked = {"seed": seed, "users": users, "full": whole, "split": split or found.split}
    settings = checked(EvaluationSettings, asked | {"candidates": {"drawn": drawn, "by": by}})
    parts = make_split(loaded, settings.split)
    result = measure(recommender, parts.test, settings, counts=train_counts(parts.train))
    result.save(out)
    for name, value in result.metrics().items():
        typer.echo(f"{name:16s} {value:.4f}")
