"""Who is let in: API keys and TLS."""

from __future__ import annotations

import hmac
import logging
import os
import ssl
from pathlib import Path

from backbone.errors import UserError

KEY = "STEERSMAN_API_KEY"  # of the environment
SHORTEST = 8  # characters of a key
LOG = logging.getLogger("steersman.serve")


def api_keys(file: Path | None) -> tuple[str, ...]:
    """The keys in a file, one a line (# begins a comment), else the one in STEERSMAN_API_KEY. UserError for a
    file that cannot be read or has none, and for a key that is too short or has odd characters.
    """
    if file is None:
        found = [os.environ.get(KEY, "").strip()]
        return checked([key for key in found if key], KEY)
    try:
        lines = Path(file).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(f"api key: expected a file that can be read, got {file} ({reason})") from None
    found = [text for text in (entry.split("#")[0].strip() for entry in lines) if text]
    if not found:
        raise UserError(f"api key: expected a key, one a line, found none in {file}")
    return checked(found, str(file))


def checked(keys: list[str], source: str) -> tuple[str, ...]:
    for key in keys:
        if len(key) < SHORTEST or not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(f"api key: expected {SHORTEST} characters or more without spaces in {source}")
    return tuple(keys)


def who(header: str | None, keys: tuple[str, ...]) -> int | None:
    """The number of the key in `Authorization: Api-Key KEY`; None if it is none of them. All are compared,
    each in a time that does not depend on where it differs.
    """
    if not keys:
        return 0
    scheme, _, given = (header or "").partition(" ")
    there = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    return there.index(True) if scheme.lower() == "api-key" and any(there) else None


def tls(certificate: Path, private_key: Path | None) -> ssl.SSLContext:
    """A server's side of TLS 1.2 and up. UserError for files that are not what they should be."""
    for what, file in (("certificate", certificate), ("private key", private_key or certificate)):
        try:
            with open(file, "rb"):
                pass
        except OSError as error:
            raise UserError(
                f"{what}: expected a PEM file that can be read, got {file} ({error.strerror})"
            ) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = _Handshake
    try:
        context.load_cert_chain(certificate, private_key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:  # a key with a password, which nobody is here to type
        reason = getattr(error, "reason", None) or str(error)
        key = private_key or certificate
        expected = f"{certificate} and its private key {key} without a password, in PEM"
        raise UserError(f"certificate: expected {expected} ({reason})") from None
    return context


class _Handshake(ssl.SSLObject):
    """Says why a client did not get through: asyncio drops it in silence."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            plain = error.reason in ("HTTP_REQUEST", "WRONG_VERSION_NUMBER", "HTTPS_PROXY_REQUEST")
            what = "spoke plain text to this TLS port, expected wss://" if plain else "failed at TLS"
            LOG.warning("a client %s (%s)", what, (error.reason or str(error)).lower().replace("_", " "))
            raise
