"""Every test gets a cache of its own and never downloads; what it starts inherits both by environment."""

import pytest


@pytest.fixture(autouse=True)
def own_cache_and_no_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_CACHE", str(tmp_path / "adlib-cache"))
    monkeypatch.setenv("ADLIB_OFFLINE", "1")
