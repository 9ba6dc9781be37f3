"""Every test gets a cache of its own and never downloads; what it starts inherits both by environment."""

import signal

import pytest


# A script's background job (`make test &`) ignores Ctrl-C, and whatever it starts inherits that: the tests that press
# it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_cache_and_no_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_CACHE", str(tmp_path / "adlib-cache"))
    monkeypatch.setenv("ADLIB_OFFLINE", "1")
