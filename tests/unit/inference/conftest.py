from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.small_weights import write_weights


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared and read-only: copy it before changing anything in it."""
    directory = tmp_path_factory.mktemp("weights")
    write_weights(directory)
    return directory
