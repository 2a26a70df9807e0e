"""Fixtures of all audio tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.sites import SiteServer, serve_site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[SiteServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve_site() as server:
        yield server
