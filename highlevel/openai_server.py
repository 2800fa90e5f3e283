"""A model on any server that speaks OpenAI's chat completions, as a planner.

What is settled here: nothing is waited for without end; what passes by itself (too many requests, a server
that starts) is tried again until the time is up; the key goes into one header and nowhere else.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from backbone.errors import PolicyError, UserError
from backbone.observation import Observation
from highlevel.language_model import Dialect, question, shortened
from highlevel.plan import Plan

KEY, URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"  # of the environment
FORMATS = ("json_schema", "json_object", "text")  # of answers, best first; servers differ in what they know
PICTURES = {"png": "PNG", "jpeg": "JPEG"}
AGAIN = (408, 409, 425, 429)  # and all from 500
REFUSED = (400, 422)  # something in the question is not known there
WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds between tries: the first, doubled each time up to the last
LARGEST = 1 << 24  # bytes of an answer


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key is for the server that it was given for."""

    def redirect_request(self, *args):
        return None


class _Refused(Exception):
    """With what the server said about the question."""


class OpenAIPlanner:
    """Asks a server at each look, by HTTP.

    base_url: up to "/v1"; that in OPENAI_BASE_URL by default. key: the name of the environment variable that
    holds it; without one, none is sent. timeout: seconds for one answer. patience: seconds for a look in all,
    tries included. wait: seconds before the second try. picture: "png" or "jpeg". UserError for settings that
    cannot be, and for an answer that is no plan; PolicyError where the server is not there, late, or fails.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        dialect: Dialect | None = None,
        key: str = KEY,
        timeout: float = 30.0,
        patience: float = 60.0,
        new_tokens: int = 300,
        picture: str = "png",
        wait: float = WAIT,
    ):
        self.model, self.base_url = model, checked_url(base_url or os.environ.get(URL, ""))
        if not model.strip():
            raise UserError("planner: expected the name of a model, got nothing")
        for name, seconds in (("timeout", timeout), ("patience", patience), ("wait", wait)):
            if not 0 < seconds < 86400:
                raise UserError(f"{name}: expected seconds between 0 and a day, got {seconds}")
        if picture not in PICTURES:
            raise UserError(f"picture: expected png or jpeg, got '{picture}'")
        if new_tokens < 1:
            raise UserError(f"new_tokens: expected at least 1, got {new_tokens}")
        self.dialect, self.timeout, self.patience = dialect or Dialect(), timeout, patience
        self.wait, self.picture, self.name = wait, picture, f"{model} at {self.base_url}"
        self._key = os.environ.get(key, "").strip()
        if not self._key.isprintable() or not self._key.isascii():
            raise UserError(f"{key}: expected a key of printable ASCII characters, got others")
        self._limits: dict[str, Any] = {"max_tokens": new_tokens, "temperature": 0}
        self._format = 0
        self._opener = urllib.request.build_opener(_NoRedirects)

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        """The next plan."""
        started = time.perf_counter()
        camera = self.dialect.pointed(observation)
        text, pictures = question(observation, instruction, memory, previous)
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for name, picture in pictures:
            shown = {"type": "image_url", "image_url": {"url": data_url(picture, self.picture)}}
            content += [{"type": "text", "text": f"{name}:"}, shown]
        messages = [
            {"role": "system", "content": self.dialect.rules(camera)},
            {"role": "user", "content": content},
        ]
        answer = self._safe(self._ask(messages, time.monotonic() + self.patience))
        return self.dialect.read(answer, memory, camera, time.perf_counter() - started)

    def converse(
        self, turns: Sequence[tuple[str, Sequence[str | np.ndarray]]], schema: Mapping[str, Any] | None = None
    ) -> str:
        """What the model says next. turns: who spoke ("system", "user", "assistant") and what, texts and
        (H, W, 3) uint8 pictures in their order. schema: the JSON schema of its answer; without one any text.
        """
        messages = []
        for role, parts in turns:
            texts = all(isinstance(part, str) for part in parts)
            content = "\n".join(parts) if texts else [self._part(part) for part in parts]
            messages.append({"role": role, "content": content})
        return self._safe(self._ask(messages, time.monotonic() + self.patience, schema or {}))

    # -- one question

    def _part(self, part: str | np.ndarray) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        return {"type": "image_url", "image_url": {"url": data_url(part, self.picture)}}

    def _ask(
        self, messages: list[dict[str, Any]], until: float, schema: Mapping[str, Any] | None = None
    ) -> str:
        """The answer's text. What the server refuses is left out, in turn; what it took is remembered.
        schema: of the answer, a plan's by default; an empty one asks for no format.
        """
        schema = self.dialect.schema() if schema is None else schema
        at, limits = self._format, dict(self._limits)
        while True:
            body = {"model": self.model, "messages": messages, **limits}
            body |= self._response_format(at, schema) if schema else {}
            try:
                text = self._text(self._post(json.dumps(body).encode(), until))
            except _Refused as refused:
                reason = str(refused)
                if "max_completion_tokens" in reason and "max_tokens" in limits:
                    limits["max_completion_tokens"] = limits.pop("max_tokens")
                elif "temperature" in reason and "temperature" in limits:
                    del limits["temperature"]
                elif schema and at + 1 < len(FORMATS):
                    at += 1
                else:
                    raise self._fault("expected an answer", reason) from None
                continue
            self._format, self._limits = at, limits
            return text

    def _response_format(self, at: int, schema: Mapping[str, Any]) -> dict[str, Any]:
        kind = FORMATS[at]
        if kind == "json_schema":
            asked = {"name": "answer", "strict": True, "schema": schema}
            return {"response_format": {"type": kind, "json_schema": asked}}
        return {"response_format": {"type": kind}} if kind == "json_object" else {}

    def _text(self, body: bytes) -> str:
        """What the first choice says."""
        try:
            message = json.loads(body)["choices"][0]["message"]
            content = message.get("content")
            if isinstance(content, list):  # in parts
                content = "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self._fault("expected a chat completion", _decoded(body)) from None
        if not isinstance(content, str) or not content.strip():
            refusal = message.get("refusal") or "no text"
            raise UserError(f"answer: expected a JSON object, got {shortened(self._safe(str(refusal)))}")
        return content

    def _post(self, body: bytes, until: float) -> bytes:
        """Send until it is answered, refused, hopeless or too late."""
        wait, reason = self.wait, None
        while True:
            try:
                return self._send(body, until)
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"{error.code} {_message(_begin(error))}"
                if error.code in REFUSED:
                    raise _Refused(reason) from None
                if error.code not in AGAIN and error.code < 500:
                    raise self._fault("expected an answer", reason) from None
                pause = _seconds(error.headers.get("Retry-After")) or wait
            except TimeoutError:
                raise self._late(reason) from None
            except (OSError, http.client.HTTPException) as error:  # no line, or one that broke
                cause = getattr(error, "reason", error)
                if isinstance(cause, TimeoutError):
                    raise self._late(reason) from None
                if isinstance(cause, ssl.SSLCertVerificationError):
                    raise self._fault("expected a certificate that can be trusted", str(cause)) from None
                reason, pause = f"{type(cause).__name__} {cause}", wait
            if time.monotonic() + pause >= until:
                raise self._late(reason)
            time.sleep(pause)
            wait = min(2 * wait, LONGEST_WAIT)

    def _send(self, body: bytes, until: float) -> bytes:
        """One try: the body of a good answer. HTTPError for another, TimeoutError for one that is late."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.base_url}/chat/completions", body, headers)
        until = min(until, time.monotonic() + self.timeout)
        found = bytearray()
        with self._opener.open(request, timeout=max(until - time.monotonic(), 1e-3)) as answer:
            while part := answer.read1(1 << 16):  # a socket's timeout is for a part, not for the whole
                found += part
                if time.monotonic() > until:
                    raise TimeoutError
                if len(found) > LARGEST:
                    raise self._fault(f"expected at most {LARGEST} bytes", "more")
            if answer.length:
                raise http.client.IncompleteRead(bytes(found), answer.length)
        return bytes(found)

    # -- what is told

    def _late(self, reason: str | None) -> PolicyError:
        """reason: of the last try that was answered, if one was."""
        most = min(self.timeout, self.patience) if reason is None else self.patience
        return self._fault(f"expected an answer within {most:g} s", reason or "")

    def _fault(self, expected: str, got: str) -> PolicyError:
        return PolicyError(f"planner {self.name}: {expected}, got {shortened(self._safe(got))}")

    def _safe(self, text: str) -> str:
        """Without the key: a server may repeat what it was sent."""
        return text.replace(self._key, "***") if self._key else text


def checked_url(url: str) -> str:
    """A base URL without a slash at its end. UserError for what is none, or holds a password."""
    expected = f"planner: expected a base URL as http://HOST:PORT/v1 behind the model's name, or in {URL}"
    if not url.strip():
        raise UserError(f"{expected}, got none")
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if "@" in url or (good and (parts.query or parts.fragment)):
        raise UserError(f"planner: expected a base URL without user and query (the key goes into {KEY})")
    if not good:
        raise UserError(f"{expected}, got '{url}'")
    return url.strip().rstrip("/")


def data_url(picture: np.ndarray, kind: str = "png") -> str:
    """(H, W, 3) uint8 -> "data:image/png;base64,..."."""
    written = io.BytesIO()
    more = {"quality": 90} if kind == "jpeg" else {}
    Image.fromarray(picture).save(written, PICTURES[kind], **more)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def _begin(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(1 << 14)
    except (OSError, http.client.HTTPException):
        return b""


def _decoded(body: bytes) -> str:
    return body[: 1 << 14].decode("utf-8", "replace")


def _message(body: bytes) -> str:
    """What an error's body says."""
    text = _decoded(body)
    try:
        found = json.loads(text)
        found = found.get("error", found.get("detail", found))
        return str(found.get("message", found)) if isinstance(found, dict) else str(found)
    except (ValueError, AttributeError):
        return text


def _seconds(given: str | None) -> float | None:
    """Of a Retry-After header; None for a date."""
    try:
        found = float(given or "")
    except ValueError:
        return None
    return found if 0 <= found < float("inf") else None
