"""Any policy by its name: ours, a server's, LeRobot's."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from backbone.errors import UserError

KEY = "OPENPI_API_KEY"  # of the environment: sent to a server as "Authorization: Api-Key ..."
SERVERS, LEROBOT = ("ws://", "wss://"), "lerobot:"


def is_foreign(name: str) -> bool:
    """Whether a name stands for somebody else's policy: a server's or LeRobot's."""
    return str(name).startswith((*SERVERS, LEROBOT))


def open_policy(name: str, device: str = "cpu") -> object:
    """The policy of a name. UserError in one line where it cannot be had.

    "nano", a directory or a hub id: ours, with its planner (`agent.policy.load`). Else a `Controller`:
    "ws://HOST:PORT" or "wss://..", with "?robot=libero|droid|aloha" and "&timeout=SECONDS": a server that
    speaks openpi's protocol, sent the key in OPENPI_API_KEY if there is one. "lerobot:PATH": a policy that
    LeRobot saved.
    """
    name = str(name)
    if name.startswith(SERVERS):
        from agent.remote import RemoteController

        url, options = _server(name)
        return RemoteController(url, api_key=os.environ.get(KEY, "").strip() or None, **options)
    if name.startswith(LEROBOT):
        from agent.lerobot_policy import LeRobotController

        return LeRobotController(name.removeprefix(LEROBOT), device)
    from agent.policy import load

    return load(name, device)


def identity(name: str) -> str:
    """What tells one foreign policy from another, as far as can be known: a server's address, format and
    metadata (it is asked for them); of LeRobot's the version and the sha256 of weights, configuration and
    processors. UserError for one of ours, and where it cannot be had.
    """
    name = str(name)
    if name.startswith(SERVERS):
        with open_policy(name) as controller:
            return controller.identity
    if name.startswith(LEROBOT):
        from agent.lerobot_policy import identity as lerobot_identity

        return lerobot_identity(name.removeprefix(LEROBOT))
    raise UserError(f"policy: expected ws://, wss:// or lerobot:, got '{name}'")


def _server(name: str) -> tuple[str, dict]:
    """A server's URL without our options, and those. UserError for others."""
    try:
        parts = urlsplit(name)
        host, _ = parts.hostname, parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        host, options = None, {}
    if not host:
        raise UserError(f"policy: expected ws://HOST:PORT?robot=NAME, got '{name}'")
    unknown = sorted(set(options) - {"robot", "timeout"})
    if unknown:
        raise UserError(f"policy: expected ?robot=NAME or &timeout=SECONDS, got '{unknown[0]}'")
    found: dict = {"robot": options["robot"]} if "robot" in options else {}
    if "timeout" in options:
        try:
            found["timeout"] = float(options["timeout"])
        except ValueError:
            raise UserError(f"timeout: expected seconds, got '{options['timeout']}'") from None
    return urlunsplit(parts._replace(query="", fragment="")), found
