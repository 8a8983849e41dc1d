"""Fixtures that every test may ask for; what they are made of is in tiny.py."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from tiny import ENCODERS, last_of, make_shop, save_encoder

from weft.data.domain import Domain, Examples

# A loaded machine is slow, which is no fault of what is tested.
hypothesis.settings.register_profile("weft", deadline=None)
hypothesis.settings.load_profile("weft")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder("bert", tmp_path_factory.mktemp("backbones") / "tiny-bert")


@pytest.fixture(scope="session")
def other_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shape as `tiny_bert`, other weights."""
    return save_encoder("bert", tmp_path_factory.mktemp("backbones") / "other-bert", seed=1)


@pytest.fixture(scope="session", params=ENCODERS)
def tiny_encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(request.param, tmp_path_factory.mktemp("backbones") / request.param)


@pytest.fixture
def shop() -> Domain:
    return make_shop()


@pytest.fixture
def shop_examples(shop: Domain) -> Examples:
    return last_of(shop)
