"""Fixtures of all audio tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.sites import SiteServer


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[SiteServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with SiteServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()
