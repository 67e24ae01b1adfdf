"""Every test of the doctor has a cache of its own."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHPOINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
