"""A web server on this machine with audio, and with all that can go wrong."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.audio_files import RATE, encode, noisy_tone

WAV = encode(noisy_tone(RATE))


class Site(BaseHTTPRequestHandler):
    """Answers by the path of the request."""

    server: SiteServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        what, _, rest = self.path.removeprefix("/").partition("/")
        times = self.server.requests.count(self.path)
        match what:
            case "status":
                self.answer(int(rest), b"<html>")
            case "busy-twice":
                self.answer(200 if times > 2 else 503, WAV, retry_after="3600")
            case "to":
                self.answer(302, location=rest)
            case "loop":
                self.answer(302, location=self.path)
            case "cut":
                self.answer(200, WAV[:1000], content_length="32044")
            case "chunks":
                self.answer(200, b"a\r\nsome bytes\r\n5\r\n more\r\n0\r\n\r\n", transfer_encoding="chunked")
            case "cut-chunks":
                self.answer(200, b"a\r\nsome bytes\r\n5\r\n mo", transfer_encoding="chunked")
            case "zipped":
                self.answer(200, gzip.compress(WAV), content_encoding="gzip")
            case "slow":
                self.answer(200, WAV[:10], content_length="32044")
                self.server.closing.wait(20)
            case "huge":
                self.answer(200, WAV, content_length=str(10**15))
            case "endless":
                self.answer(200)
                with suppress(OSError):  # until nothing reads any more
                    while True:
                        self.wfile.write(WAV)
            case "large":
                self.answer(200, WAV * 300)
            case _:
                self.answer(200, WAV)

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class SiteServer(ThreadingHTTPServer):
    """Records the paths of requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), Site)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve_site() -> Iterator[SiteServer]:
    """Run a server until the block ends."""
    with SiteServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()
