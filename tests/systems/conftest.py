from __future__ import annotations

from pathlib import Path

import pytest
from tiny import save_encoder


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder("bert", tmp_path_factory.mktemp("backbone"))
