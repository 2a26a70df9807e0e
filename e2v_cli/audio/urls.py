"""Downloads of audio by HTTP: retried where a server is busy, and whole, or a failure."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import BinaryIO

from e2v_cli.audio.archives import CHUNK
from e2v_cli.audio.errors import AudioError, one_line, too_large

CONNECT_SECONDS = 10.0
"""The longest time until a server answers."""

READ_SECONDS = 60.0
"""The longest silence of a server."""

DOWNLOAD_SECONDS = 3600.0
"""The longest download: a server may send a byte now and then for ever."""


def download(
    url: str,
    file: BinaryIO,
    max_bytes: int,
    stopping: Callable[[], bool],
    read_seconds: float = READ_SECONDS,
    download_seconds: float = DOWNLOAD_SECONDS,
) -> None:
    """Download a URL to a file, within these limits.

    Raises:
        AudioError: it can't be downloaded, is too large, or its body ends before its header says so.
        OSError: the disk is full.
    """
    import requests  # takes long, and few need it
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import HTTPError
    from urllib3.util import Retry

    retry = Retry(
        total=3,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET",),
        raise_on_status=False,
        respect_retry_after_header=False,  # it may be hours, during which the run could not be stopped
    )
    deadline = time.monotonic() + download_seconds
    # bytes that are not UTF-8
    address = re.sub(r"[\udc80-\udcff]", lambda match: f"%{os.fsencode(match.group())[0]:02X}", url)
    chunk: bytes | None
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            session.headers["Accept-Encoding"] = "identity"  # audio does not get smaller
            with session.get(address, stream=True, timeout=(CONNECT_SECONDS, read_seconds)) as response:
                if response.status_code != requests.codes.ok:
                    reason = "missing" if response.status_code in (404, 410) else "download failed"
                    raise AudioError(reason, f"HTTP {response.status_code} {response.reason}".rstrip())
                if (response.raw.length_remaining or 0) > max_bytes:  # by its header
                    raise too_large(max_bytes)
                left = max_bytes
                while chunk := response.raw.read1(CHUNK, decode_content=True):  # the bytes that have come, even a few
                    left -= len(chunk)
                    if left < 0:
                        raise too_large(max_bytes)
                    file.write(chunk)
                    if stopping():
                        raise AudioError("stopped", "the run was stopped")
                    if time.monotonic() > deadline:
                        raise AudioError("download failed", f"no end after {download_seconds:g} s")
    except (requests.RequestException, HTTPError, ValueError) as error:
        raise AudioError("download failed", _describe_download_error(error)) from None


def _describe_download_error(error: BaseException) -> str:
    """Describe the first cause of an error, without the libraries' wrappers."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(text) or type(error).__name__
