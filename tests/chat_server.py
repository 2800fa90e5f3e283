"""A server for tests that speaks OpenAI's chat completions, on loopback, in threads of this process."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


class ChatServer:
    """answer: (body, number of the question) -> what the model says; or (status, body, maybe headers); or
    seconds without a word (float); or None to hang up. asked: the bodies; headers, paths: of each.
    """

    def __init__(self, answer: Callable[[Mapping[str, Any], int], Any]):
        self.answer, self.asked, self.headers, self.paths = answer, [], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer._serve(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.asked.append(body)
        self.headers.append(dict(handler.headers))
        self.paths.append(handler.path)
        said = self.answer(body, len(self.asked) - 1)
        if said is None:
            return
        if isinstance(said, float):
            self._closing.wait(said)
            return
        status, content, headers = (*said, {})[:3] if isinstance(said, tuple) else (200, completion(said), {})
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        try:
            if "X-Drip" in headers:
                for i in range(len(data)):
                    handler.wfile.write(data[i : i + 1])
                    handler.wfile.flush()
                    time.sleep(float(headers["X-Drip"]))
            else:
                handler.wfile.write(data)
        except OSError:
            pass  # it is not waited for any more

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def completion(content: Any) -> dict[str, Any]:
    """A chat completion that says this."""
    message = {"role": "assistant", "content": content}
    return {"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}


def pictures(body: Mapping[str, Any]) -> list[np.ndarray]:
    """(H, W, 3) uint8, of a question."""
    urls = [
        part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"
    ]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def told(body: Mapping[str, Any]) -> str:
    """All the text of a question."""
    system, user = body["messages"]
    return "\n".join([system["content"], *(p["text"] for p in user["content"] if p["type"] == "text")])
