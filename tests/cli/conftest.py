"""Commands keep verdicts on the models they run: not in the cache of whoever runs the tests."""

import pytest


@pytest.fixture(scope="session")
def made_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(made_cache, monkeypatch):
    """One for all tests, so that each made model is examined once."""
    monkeypatch.setenv("PATCHPOINT_CACHE", str(made_cache))
