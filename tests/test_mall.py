"""The demo mall: four synthetic domains, the same on every machine, whose titles tell tastes."""

import numpy as np
import pytest

from weft.data.domain import Domain
from weft.data.mall import SHARED, mall
from weft.errors import WeftError


@pytest.fixture(scope="module")
def domains() -> dict[str, Domain]:
    return mall()


def test_one_seed_is_one_mall_everywhere() -> None:
    # Fixed on purpose: a change here is a change of every number made with the mall.
    hashes = {name: domain.hash for name, domain in mall(seed=7, users=40, items=60).items()}
    assert hashes == HASHES
    assert mall(seed=8, users=40, items=60)["home"].hash != HASHES["home"]


def test_a_domain_has_the_size_asked_for(domains: dict[str, Domain]) -> None:
    assert list(domains) == ["home", "outdoor", "toys", "kitchen"]
    for name, domain in domains.items():
        assert domain.name == name
        assert len(domain.items) == 500
        assert len(domain.sequences) == (400 if name == "kitchen" else 1500)
        assert domain.sequences.lengths.min() == 5
        assert domain.sequences.lengths.max() == 15
        for user in range(len(domain.sequences)):
            items = domain.sequences.of(user).tolist()
            assert len(set(items)) == len(items)
        within = np.diff(domain.sequences.time)
        within = np.delete(within, domain.sequences.offsets[1:-1] - 1)
        assert (within > 0).all()


def test_ids_and_titles_are_unique_in_the_whole_mall(domains: dict[str, Domain]) -> None:
    titles = [title for domain in domains.values() for title in domain.items.titles]
    items = [item for domain in domains.values() for item in domain.items.item_ids]
    users = [user for domain in domains.values() for user in domain.sequences.user_ids]
    for values in (titles, items, users):
        assert len(set(values)) == len(values)
    assert all(title.isascii() and title == " ".join(title.split()) for title in titles)


def test_brands_and_themes_are_in_three_of_the_four_domains(domains: dict[str, Domain]) -> None:
    for attribute in ("brand", "theme"):
        for value in SHARED[attribute]:
            has = [any(value in t for t in domain.items.titles) for domain in domains.values()]
            assert sum(has) == 3, value


@pytest.mark.parametrize("attribute", ["brand", "theme"])
@pytest.mark.parametrize("name", ["home", "outdoor", "toys", "kitchen"])
def test_a_users_titles_share_more_than_chance(
    domains: dict[str, Domain], name: str, attribute: str
) -> None:
    domain = domains[name]
    says = np.array([[v in t for v in SHARED[attribute]] for t in domain.items.titles])

    def agreement(item: np.ndarray) -> float:
        """How often two items of one user name the same value."""
        same = pairs = 0
        for start, end in zip(domain.sequences.offsets, domain.sequences.offsets[1:], strict=False):
            counts = says[item[start:end]].sum(axis=0)
            same += (counts * (counts - 1)).sum()
            pairs += (end - start) * (end - start - 1)
        return same / pairs

    shuffled = np.random.default_rng(0).permutation(domain.sequences.item)
    assert agreement(domain.sequences.item) > 1.2 * agreement(shuffled)


def test_a_domain_depends_on_the_seed_and_its_sizes_alone() -> None:
    few, many = mall(seed=1, users=8, items=40), mall(seed=1, users=20, items=40)
    assert few["toys"].items.titles == many["toys"].items.titles
    assert few["toys"].items.titles != mall(seed=2, users=8, items=40)["toys"].items.titles


@pytest.mark.parametrize("sizes", [{"items": 29}, {"items": 5001}, {"users": 3}])
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(WeftError, match="the mall has"):
        mall(**sizes)


HASHES = {
    "home": "86753bec91103195a241cce74f0dbc03",
    "outdoor": "e3e8f79bed3532d75bffe6b5e79e97ae",
    "toys": "d4f1bcdc32e1701ed95b2073eedf4750",
    "kitchen": "098a442ef359252cb32e5d119e7566ff",
}
