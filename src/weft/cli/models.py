"""`weft recommend` and `evaluate`: one recommender at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.out import console, echo, echo_json, note
from weft.safe_text import visible

if TYPE_CHECKING:
    from weft.data.splits import SplitSettings
    from weft.evaluation.protocol import EvaluationSettings
    from weft.recommenders.asking import Answer
    from weft.recommenders.chosen import Chosen
    from weft.recommenders.forms import SavedForm
    from weft.recommenders.saved import VectorProgress


def recommend_command(
    model: Annotated[
        Path,
        typer.Option(
            help="A recommender's folder (adapter, integrator, whole model or floor): "
            "…/recommenders/<domain>/…; or …/recommenders/<domain>, for the row that the run "
            "recommends there."
        ),
    ],
    history: Annotated[
        list[str] | None,
        typer.Option(
            help="A title or item id, oldest first; repeat for more. Without any: what was "
            "popular lately."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    items: Annotated[
        Path | None,
        typer.Option(
            help="Another catalogue to rank: items.parquet, a CSV file with columns item_id and "
            "title, or a text file of titles, whose line numbers are then the ids."
        ),
    ] = None,
    repeat: Annotated[bool, typer.Option(help="Also suggest what is in the history.")] = False,
    as_text: Annotated[
        bool,
        typer.Option(
            "--as-text",
            help="Read an entry of the history as a title even if it looks like an item id that "
            "the catalogue lacks.",
        ),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON: items, history, basis, notes.")
    ] = False,
) -> None:
    """Recommend items for a history, also one never seen in training."""
    from weft.recommenders.chosen import choose

    chosen = choose(model)
    _tell_row(chosen, model)
    answer = _answer(chosen.folder, items, list(history or ()), k, not repeat, as_text)
    _print_json(answer, chosen) if json else _print(answer)


def _tell_row(chosen: Chosen, model: Path) -> None:
    """Say which of a target's rows is taken, where the run decided."""
    if chosen.row is not None:
        note(f"row '{chosen.row}' of {model} is taken: {chosen.reason or 'recommended there'}")


def _answer(
    folder: Path, items: Path | None, history: list[str], k: int, mask: bool, as_text: bool
) -> Answer:
    """The answer; where there is no history, without loading what would read one."""
    from weft.recommenders.asking import popular_answer, popular_of
    from weft.recommenders.matching import check_histories
    from weft.recommenders.saved import load_recommender

    check_histories([history])
    if not history and folder.is_dir():
        from weft.data.catalogue import load_catalogue
        from weft.recommenders.forms import form_in

        if form_in(folder).needs_backbone:
            catalogue = load_catalogue(folder if items is None else items, ids=True)
            return popular_answer(popular_of(folder, catalogue), k)
    with _vectors_shown(folder) as progress:
        loaded = load_recommender(folder, items, progress=progress)
        return loaded.ask([history], k, mask_history=mask, as_text=as_text)[0]


def _print(answer: Answer) -> None:
    for entry in answer.history:
        note(entry.described())
    for text in answer.notes:
        note(text)
    for place, one in enumerate(answer.suggestions, start=1):
        score = f"{one.score:.3f}" if answer.basis == "history" else f"{one.score:,.0f}"
        title = visible(one.title) if one.title.strip() else "(no title)"
        echo(f"{place:3d}  {score}  {title}  [{visible(one.item_id)}]")


def _print_json(answer: Answer, chosen: Chosen) -> None:
    from dataclasses import asdict

    echo_json(
        {
            "recommender": str(chosen.folder),
            "row": chosen.row,
            "reason": chosen.reason or None,
            "basis": answer.basis,
            "items": [asdict(one) for one in answer.suggestions],
            "history": [asdict(one) for one in answer.history],
            "notes": answer.notes,
        }
    )


@contextmanager
def _vectors_shown(folder: Path) -> Iterator[VectorProgress]:
    """Say on stderr that item vectors are being computed, with a bar on a terminal."""
    with ExitStack() as stack:
        bar: list[VectorProgress] = []

        def progress(done: int, total: int) -> None:
            if done == 0:
                note(f"making the vectors of {total:,} item texts, once; they stay in {folder}")
                if sys.stderr.isatty():
                    bar.append(stack.enter_context(_bar()))
            for update in bar:
                update(done, total)

        yield progress


@contextmanager
def _bar() -> Iterator[VectorProgress]:
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as shown:
        task = shown.add_task("item vectors", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _trained_split(form: SavedForm) -> SplitSettings:
    """The split that a recommender's manifest names; an unknown one is an error of that file."""
    from weft.data.splits import parse_split
    from weft.errors import located

    with located(f"{form.stated_in}: split"):
        return parse_split(form.split)


def _tell_split(form: SavedForm, folder: Path, domain: str, settings: EvaluationSettings) -> None:
    """Say where a model may have been trained on what is tested."""
    trained = _trained_split(form)
    if trained == settings.split or not form.may_have_trained_on(domain):
        return
    note(
        f"{folder} was trained under another split ({trained}): its training may hold what is "
        f"tested now ({settings.split}), and the numbers may be too good"
    )


def evaluate_command(
    model: Annotated[Path, typer.Option(help="A recommender's folder.")],
    domain: Annotated[Path, typer.Option(help="The domain's folder.")],
    out: Annotated[Path, typer.Option(help="New folder for the ranks and their protocol.")],
    drawn: Annotated[int, typer.Option(min=1, help="Candidates drawn beside the target.")] = 29,
    by: Annotated[str, typer.Option(help="How they are drawn: uniform or popularity.")] = "uniform",
    split: Annotated[
        str | None,
        typer.Option(
            help="leave_one_out, by_user:3,1,1, global_time:FROM,TEST with two dates or two "
            "shares, or a block as in recipes. Default: the one it was trained under."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the drawn candidates.")] = 0,
    users: Annotated[
        int | None, typer.Option(min=1, help="Measure only so many users, drawn at random.")
    ] = None,
    full: Annotated[
        bool | None,
        typer.Option(
            "--full/--no-full",
            help="Rank whole catalogues too. Default: where the recommender can.",
        ),
    ] = None,
) -> None:
    """Measure a recommender's folder on a domain's test users."""
    from weft.artifacts.atomic import check_folder
    from weft.data.catalogue import load_catalogue
    from weft.data.folder import load_domain
    from weft.data.splits import make_split
    from weft.evaluation.candidates import train_counts
    from weft.evaluation.evaluate import evaluate as measure
    from weft.evaluation.protocol import EvaluationSettings
    from weft.recommenders.chosen import choose
    from weft.recommenders.forms import Opening, read_form
    from weft.recommenders.saved import VECTORS
    from weft.settings import validate

    check_folder(out, new=True)  # before the work, not after it
    loaded = load_domain(domain)
    chosen = choose(model)
    _tell_row(chosen, model)
    form = read_form(chosen.folder)
    recommender = form.recommender(
        load_catalogue(chosen.folder, ids=True), Opening(cache=chosen.folder / VECTORS, light=True)
    )
    recommender.use(loaded.items)
    if full is None:
        full = form.settings.ranks_catalogues_by_default
    chosen_split = _trained_split(form) if split is None else split
    asked = {"seed": seed, "users": users, "full": full, "split": chosen_split}
    settings = validate(EvaluationSettings, asked | {"candidates": {"drawn": drawn, "by": by}})
    parts = make_split(loaded, settings.split)
    if split is not None:
        _tell_split(form, chosen.folder, loaded.name, settings)
    result = measure(recommender, parts.test, settings, counts=train_counts(parts.train))
    result.save(out)
    for name, value in result.metrics().items():
        echo(f"{name:16s} {value:.4f}")
