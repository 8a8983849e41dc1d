"""Asking in ids, titles and text: what each entry stands for, and what is answered on which ground."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny import make_shop
from typer.testing import CliRunner

from weft.adapters import Adapter, LoraSettings, from_attached, load_adapter
from weft.backbones import load_backbone
from weft.cli.main import app
from weft.data.domain import Catalogue, Domain, Sequences
from weft.data.splits import leave_one_out
from weft.errors import WeftError, WeftNotice
from weft.recommenders.asking import LoadedRecommender
from weft.recommenders.chosen import choose
from weft.recommenders.equipped import LoraBackbone, PlainBackbone
from weft.recommenders.forms import SavedZeroShot
from weft.recommenders.item_counts import FILE, ItemCounts, load_item_counts
from weft.recommenders.matching import Matcher
from weft.recommenders.saved import load_recommender, save_recommender
from weft.recommenders.sequential.popularity import Popularity
from weft.recommenders.text.bi_encoder import BiEncoder, BiEncoderSettings
from weft.text import TextSettings

SETTINGS = BiEncoderSettings(history_tokens=40)


def shop() -> Domain:
    """The shop with two items of one title, three untitled ones, and real times."""
    made = make_shop()
    titles = made.items.titles
    titles = [*titles[:9], titles[1], *titles[10:40], "", "  ", *titles[42:47], ""]
    frame = made.items.frame.with_columns(title=pl.Series(titles))
    seconds = 1_600_000_000 + 1000 * np.arange(len(made.sequences.item), dtype=np.int64)
    return Domain("shop", Catalogue(frame), replace(made.sequences, time=seconds))


@pytest.fixture(scope="module")
def adapter(tiny_bert: Path) -> Adapter:
    backbone = load_backbone(str(tiny_bert), precision="float32")
    recommender = BiEncoder(LoraBackbone(backbone, LoraSettings(rank=2, alpha=4)), SETTINGS)
    manifest = {"backbone": backbone.identity, "recommender": SETTINGS.model_dump(mode="json")}
    return from_attached(recommender.attached, manifest)


@pytest.fixture(scope="module")
def folder(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run") / "recommenders" / "shop" / "woven"
    domain = shop()
    save_recommender(
        adapter, domain.items, place, counts=ItemCounts.of(leave_one_out(domain).train)
    )
    return place


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedRecommender:
    return load_recommender(folder, precision="float32")


def ask(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["recommend", *map(str, arguments)])


# --- what entries stand for


def test_every_entry_is_told_apart(loaded: LoadedRecommender) -> None:
    entries = ["i3", " i3 ", "red mug", "RED  mug", "red table", "i41", "i777", "a lamp for me"]
    found = loaded.ask([entries], k=3)[0]
    assert [(m.matched, m.item_id, m.title, m.others) for m in found.history] == [
        ("item", "i3", "red lamp", 0),
        ("item", "i3", "red lamp", 0),
        ("title", "i0", "red mug", 0),
        ("title", "i0", "red mug", 0),
        ("title", "i1", "red table", 1),  # i9 has this title too
        ("item", "i41", "  ", 0),
        ("nothing", None, None, 0),
        ("text", None, None, 0),
    ]
    assert found.basis == "history" and len(found.suggestions) == 3
    assert [one.entry for one in found.history] == entries


def test_what_stands_for_nothing_takes_no_part(loaded: LoadedRecommender) -> None:
    alone, beside = loaded.ask([["red mug"], ["red mug", "i777", "i41"]], k=5)
    assert alone.suggestions == beside.suggestions
    with pytest.warns(WeftNotice, match="history 1: 'i777' is neither .*: left out"):
        found = loaded.recommend([["red mug", "i777"]], k=5)[0]
    assert [one.item_id for one in found] == [one.item_id for one in alone.suggestions]
    read = loaded.ask([["red mug", "i777"]], k=5, as_text=True)[0]
    assert read.history[1].matched == "text" and read.suggestions != alone.suggestions


def test_a_history_of_unknown_ids_is_refused(loaded: LoadedRecommender) -> None:
    with pytest.raises(WeftError, match=r"history 2: 'i777' looks like an item id.*--as-text"):
        loaded.recommend([["red mug"], ["i777", "i8888"]])
    assert loaded.recommend([["i777"]], k=2, as_text=True)[0]


@pytest.mark.parametrize(
    ("ids", "alike", "unlike"),
    [
        (["B000FI4S1E", "B001T9NQ2K"], ["B00ABCDEF9", "B000000000"], ["Lamp 3", "iPhone6", "LAMP"]),
        (["1", "22", "333"], ["4", "9999"], ["red mug", "WD-40", "3 mugs", "1234567"]),
        (["sku-1", "sku-22"], ["sku-333"], ["SKU-1", "sku 1", "lamp", "sku_1"]),
        (["mug", "rug"], [], ["lamp", "mug2", "1984"]),
        (["red 1", "red 2"], ["red42"], ["red 3"]),  # nothing with a space is taken for an id
    ],
)
def test_what_looks_like_an_id(ids: list[str], alike: list[str], unlike: list[str]) -> None:
    matcher = Matcher(Catalogue(pl.DataFrame({"item_id": ids, "title": [""] * len(ids)})))
    assert [one for one in [*alike, *unlike] if matcher.looks_like_id(one)] == alike


def test_an_id_that_is_also_a_title_is_the_item_and_says_so() -> None:
    frame = pl.DataFrame({"item_id": ["1984", "2"], "title": ["Dune", "1984"]})
    found = Matcher(Catalogue(frame)).match("1984", as_text=False, reads_text=True)
    assert (found.matched, found.title, found.others) == ("item", "Dune", 1)
    assert "1 others have it as title" in found.described()


def test_items_without_a_text_are_never_suggested(loaded: LoadedRecommender) -> None:
    answer = loaded.ask([["red mug"]], k=100)[0]
    ids = {one.item_id for one in answer.suggestions}
    assert not ids & {"i40", "i41", "i47", "i0"} and len(ids) == 48 - 4
    assert any("3 of 48 items have no title" in note for note in answer.notes)
    assert any(
        "100 items were asked for, and a catalogue of 48 has 44" in note for note in answer.notes
    )


def test_the_suggestions_are_those_of_the_recommender(loaded: LoadedRecommender) -> None:
    """In its own order and with its own scores, but for what is left out."""
    answer = loaded.recommend([["red mug", "red lamp"]], k=44, mask_history=False)[0]
    assert not isinstance(loaded.recommender, Popularity)
    ranking = loaded.recommender.top_k_of_titles([["red mug", "red lamp"]], 48, mask_history=False)
    kept = [
        (f"i{item}", float(score))
        for item, score in zip(ranking.items[0].tolist(), ranking.scores[0], strict=True)
        if item not in (40, 41, 47)
    ]
    assert [(one.item_id, one.score) for one in answer] == kept[:44]


def test_items_are_read_as_in_training_where_that_is_more_than_titles(
    adapter: Adapter, tmp_path: Path
) -> None:
    catalogue = shop().items
    brands = pl.Series(
        "brand", [f"{title} by acme {n % 7}" for n, title in enumerate(catalogue.titles)]
    )
    wide = Catalogue(catalogue.frame.with_columns(brands))
    settings = SETTINGS.model_copy(update={"text": TextSettings(fields=["title", "brand"])})
    manifest = {**adapter.manifest, "recommender": settings.model_dump(mode="json")}
    save_recommender(replace(adapter, manifest=manifest), wide, tmp_path / "woven")
    both = load_recommender(tmp_path / "woven", precision="float32")
    rows = [3, 12]
    ids = [wide.item_ids[row] for row in rows]
    by_item, by_title = both.ask([ids, [*ids, "free text"]], k=5)
    want = both.recommender.score([np.array(rows)])[0]  # type: ignore[union-attr]
    got = {one.item_id: one.score for one in by_item.suggestions}
    assert got == {name: float(want[wide.index[name]]) for name in got}
    assert not {*ids} & {*got}
    assert [one.score for one in by_title.suggestions] != list(got.values())


def test_a_history_of_everything_leaves_nothing_and_says_so(loaded: LoadedRecommender) -> None:
    answer = loaded.ask([loaded.catalogue.item_ids], k=2)[0]
    assert answer.suggestions == [] and any("has 0 to suggest" in note for note in answer.notes)


@pytest.mark.parametrize("k", [0, -1, True, 2.0])
def test_a_count_that_is_none_is_refused(loaded: LoadedRecommender, k: Any) -> None:
    with pytest.raises(WeftError, match="k must be a whole number of at least 1"):
        loaded.recommend([["red mug"]], k=k)


# --- nothing to go by


def test_recent_items_are_counted_in_training_alone() -> None:
    """By hand: two users whose last two interactions are held out."""
    frame = pl.DataFrame({"item_id": list("abcde"), "title": list("ABCDE")})
    item = np.array([0, 1, 2, 3, 4, 1, 1, 2, 3, 4], dtype=np.int32)
    start = 1_500_000_000
    time = start + np.array([0, 10, 20, 900, 901, 30, 40, 50, 902, 903], dtype=np.int64)
    users = pl.Series(["u", "v"])
    domain = Domain("d", Catalogue(frame), Sequences(users, np.array([0, 5, 10]), item, time))
    counts = ItemCounts.of(leave_one_out(domain).train)
    assert counts.interactions.tolist() == [1, 3, 2, 0, 0]
    assert counts.since == start + 40  # the latest fifth of the six
    assert counts.recent.tolist() == [0, 1, 1, 0, 0]
    assert counts.order().tolist() == [1, 2, 0, 3, 4]
    ordered = replace(domain, sequences=replace(domain.sequences, time=np.arange(10)))
    without = ItemCounts.of(leave_one_out(ordered).train)
    assert without.since is None and without.recent.tolist() == without.interactions.tolist()


def test_an_empty_history_gets_what_was_popular(loaded: LoadedRecommender) -> None:
    counts = ItemCounts.of(leave_one_out(shop()).train)
    empty, untitled, read = loaded.ask([[], ["i41"], ["red mug"]], k=4)
    ids = loaded.catalogue.item_ids
    assert [one.item_id for one in empty.suggestions] == [ids[i] for i in counts.order()[:4]]
    assert empty.suggestions[0].score == counts.recent.max()
    assert (empty.basis, untitled.basis, read.basis) == ("popularity", "popularity", "history")
    assert "taken most in training since 2020-09-16" in empty.notes[0]
    assert "i41" not in {one.item_id for one in untitled.suggestions}
    assert read == loaded.ask([["red mug"]], k=4)[0]


def test_an_empty_history_needs_no_model(folder: Path) -> None:
    """Nothing that reads a history is loaded: a broken adapter does not matter."""
    before = (folder / "adapter_config.json").read_bytes()
    try:
        (folder / "adapter_config.json").write_text("broken")
        found = ask("--model", folder, "--json", "-k", "2")
    finally:
        (folder / "adapter_config.json").write_bytes(before)
    assert found.exit_code == 0
    told = json.loads(found.stdout)
    assert told["basis"] == "popularity" and len(told["items"]) == 2 and told["history"] == []


def test_a_folder_without_counts_refuses_an_empty_history(adapter: Adapter, tmp_path: Path) -> None:
    save_recommender(adapter, shop().items, tmp_path / "old")
    (tmp_path / "old" / "adapter_config.json").write_text("broken: nothing may read it")
    found = ask("--model", tmp_path / "old")
    assert found.exit_code == 1 and isinstance(found.exception, WeftError)
    assert f"has no {FILE}), so a history needs at least one" in str(found.exception)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop("recent"), "lacks the column 'recent'"),
        (lambda f: f.with_columns(recent=pl.lit(-1)), "'recent' must hold whole numbers from 0"),
        (lambda f: f.with_columns(recent=pl.lit(0.5)), "'recent' must hold whole numbers from 0"),
        (lambda f: f.with_columns(item_id=pl.lit("i1")), "every item_id must be there once"),
    ],
)
def test_counts_that_are_none_are_named(
    tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame], words: str
) -> None:
    domain = shop()
    ItemCounts.of(leave_one_out(domain).train).save(tmp_path)
    assert load_item_counts(tmp_path, domain.items) is not None
    change(pl.read_parquet(tmp_path / FILE)).write_parquet(tmp_path / FILE)
    with pytest.raises(WeftError, match=words):
        load_item_counts(tmp_path, domain.items)


def test_counts_follow_the_ids_to_another_catalogue() -> None:
    counts = ItemCounts.of(leave_one_out(shop()).train)
    other = Catalogue(pl.DataFrame({"item_id": ["new", "i5", "i2"], "title": ["a", "b", "c"]}))
    found = counts.on(other)
    assert found.interactions.tolist() == [0, *counts.interactions[[5, 2]].tolist()]
    strange = Catalogue(pl.DataFrame({"item_id": ["x"], "title": ["a"]}))
    with pytest.raises(WeftError, match="training saw none of this catalogue's items"):
        counts.on(strange)


# --- the floors, and the one to serve


@pytest.fixture
def target(folder: Path, tiny_bert: Path) -> Iterator[Path]:
    """The target's folder, with both floors beside the woven row."""
    domain = shop()
    counts = ItemCounts.of(leave_one_out(domain).train)
    if not (folder.parent / "popularity").exists():
        floor = Popularity(catalogue=domain.items, counts=counts)
        save_recommender(floor, domain.items, folder.parent / "popularity")
        zero_shot = SavedZeroShot.of(str(tiny_bert), SETTINGS)
        save_recommender(zero_shot, domain.items, folder.parent / "zero-shot", counts=counts)
    yield folder.parent
    (folder.parent / "recommendation.json").unlink(missing_ok=True)


def recommend_row(target: Path, **values: Any) -> None:
    fields = {"target": "shop", "row": "woven", "folder": "woven", "reason": "it won"}
    (target / "recommendation.json").write_text(json.dumps(fields | values))


def test_popularity_is_a_recommender(target: Path) -> None:
    loaded = load_recommender(target / "popularity")
    domain = shop()
    expected = Popularity.of(leave_one_out(domain).train)
    answer = loaded.ask([["i3", "never heard of it"]], k=5)[0]
    ranking = expected.top_k([np.array([3])], 5)
    assert [one.item_id for one in answer.suggestions] == [f"i{i}" for i in ranking.items[0]]
    assert [one.score for one in answer.suggestions] == ranking.scores[0].tolist()
    assert [one.matched for one in answer.history] == ["item", "nothing"]
    assert answer.basis == "popularity"


def test_zero_shot_is_the_backbone_as_it_is(target: Path, tiny_bert: Path) -> None:
    loaded = load_recommender(target / "zero-shot", precision="float32")
    backbone = PlainBackbone(load_backbone(str(tiny_bert), precision="float32"))
    plain = BiEncoder(backbone, SETTINGS, shop().items)
    expected = plain.top_k_of_titles([["red mug"]], 3)
    found = loaded.recommend([["red mug"]], k=3)[0]
    assert [one.score for one in found] == expected.scores[0].tolist()


def test_zero_shot_of_another_backbone_is_refused(target: Path, tmp_path: Path) -> None:
    values = json.loads((target / "zero-shot" / "weft.json").read_text())
    other = {**values["backbone"], "fingerprint": "0" * 64}
    save_recommender(SavedZeroShot(values | {"backbone": other}), shop().items, tmp_path / "z")
    with pytest.raises(WeftError, match=f"was measured on the backbone .*{'0' * 64}"):
        load_recommender(tmp_path / "z")


def test_the_recommended_row_is_taken(target: Path) -> None:
    recommend_row(target)
    found = ask("--model", target, "--history", "red mug", "-k", "2")
    assert f"note: row 'woven' of {target} is taken: it won" in found.stderr
    assert (
        found.stdout == ask("--model", target / "woven", "--history", "red mug", "-k", "2").stdout
    )
    recommend_row(target, row="popularity", folder="popularity", note="more fields may come")
    told = json.loads(ask("--model", target, "--history", "red mug", "--json").stdout)
    assert (told["row"], told["reason"], told["basis"]) == ("popularity", "it won", "popularity")
    assert load_recommender(target).recommend([["i1"]], k=1) == load_recommender(
        target / "popularity"
    ).recommend([["i1"]], k=1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, "has no recommendation.json that says which row to serve; name one: .*woven"),
        ({"folder": None}, "takes the row 'woven', which has no folder; name one: .*popularity"),
        ({"row": None, "folder": None}, r"recommends no row \(it won\); name one: .*woven"),
        ({"folder": "gone"}, "gone is no recommender's folder; name one"),
        ({"folder": "../other"}, "folder: '../other' does not lie in"),
        ({"folder": "/etc"}, "folder: '/etc' does not lie in"),
        ({"row": 3}, "recommendation.json: row"),
    ],
)
def test_a_recommendation_that_names_none_lists_the_rows(
    target: Path, values: dict[str, Any] | None, words: str
) -> None:
    if values is not None:
        recommend_row(target, **values)
    with pytest.raises(WeftError, match=words):
        choose(target)


# --- the command


def test_the_command_says_what_each_entry_is(folder: Path) -> None:
    found = ask("--model", folder, "--history", "i3", "--history", "i777", "--history", "Red Mug")
    notes = found.stderr.splitlines()
    assert "note: 'i3' is an item: red lamp" in notes
    assert "note: 'i777' is neither an item id nor a title: left out" in notes
    assert "note: 'Red Mug' is the title of item i0" in notes
    told = json.loads(ask("--model", folder, "--history", "i3", "--json", "-k", "1").stdout)
    assert told["history"] == [
        {"entry": "i3", "matched": "item", "item_id": "i3", "title": "red lamp", "others": 0}
    ]


def test_a_history_of_known_items_ranks_another_catalogue(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("item_id,title\nn1,blue mug\nn2,red mug\nn3,green rug\n")
    loaded = load_recommender(folder, tmp_path / "new.csv", precision="float32")
    by_id, by_title = loaded.ask([["i0", "n1"], ["red mug", "blue mug"]], k=5)
    assert [(m.matched, m.item_id) for m in by_id.history] == [("item", "i0"), ("item", "n1")]
    assert [(m.matched, m.item_id) for m in by_title.history] == [("title", "n2"), ("title", "n1")]
    assert [one.item_id for one in by_id.suggestions] == ["n3"]  # n2 is the same title as i0
    with pytest.raises(WeftError, match="'i777' looks like an item id"):
        loaded.ask([["i777"]])


def test_another_catalogue_must_name_its_items(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("sku,title\n1,blue mug\n")
    found = ask("--model", folder, "--items", tmp_path / "new.csv", "--history", "red mug")
    assert "new.csv has no column 'item_id'" in str(found.exception) and not found.stdout


def test_vectors_are_made_once_and_that_is_said(adapter: Adapter, tmp_path: Path) -> None:
    save_recommender(adapter, shop().items, tmp_path / "new")
    first = ask("--model", tmp_path / "new", "--history", "red mug")
    again = ask("--model", tmp_path / "new", "--history", "red mug")
    assert "making the vectors of 45 item texts" in first.stderr
    assert "making" not in again.stderr and again.stdout == first.stdout
    assert load_adapter(tmp_path / "new").weights_hash == adapter.weights_hash
