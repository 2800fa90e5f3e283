"""Servers by their names: ws://HOST:PORT?robot=NAME&timeout=SECONDS&heartbeat=SECONDS."""

from __future__ import annotations

import functools
import os
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from agent.remote.controller import RemoteController
from agent.remote.link import Link
from agent.remote.opening import KEYS
from agent.remote.planner import BEAT, RemotePlanner
from agent.remote.policy import RemotePolicy
from agent.robots import check_name
from backbone.errors import UserError

_SECONDS = ("timeout", "heartbeat")


def open_remote(name: str) -> RemoteController:
    """The policy of a server, with both levels where it is one of ours that plans; else its controller.

    The server is sent the key in STEERSMAN_API_KEY, or OPENPI_API_KEY, if there is one. UserError where it
    cannot be had.
    """
    url, robot, options = read_name(name)
    link = Link(url, _key(), **options)
    try:
        return (RemotePolicy if (link.ours or {}).get("planner") else RemoteController)(link, robot)
    except UserError:
        link.close()
        raise


def open_remote_planner(name: str) -> RemotePlanner:
    """The planner of a server of ours."""
    url, robot, options = read_name(name)
    return RemotePlanner(url, robot, api_key=_key(), **{"heartbeat": BEAT, **options})


@functools.lru_cache
def plans(name: str) -> bool:
    """Whether the policy of that name writes plans: its server is asked, once a process."""
    with open_remote(name) as found:
        return isinstance(found, RemotePolicy)


def read_name(name: str) -> tuple[str, str | None, dict[str, float]]:
    """The URL without our options, the robot, and the options of a `Link`. UserError for others."""
    try:
        parts = urlsplit(name)
        host, _ = parts.hostname, parts.port
        given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        host, given = None, {}
    if not host:
        raise UserError(f"policy: expected ws://HOST:PORT?robot=NAME, got '{name}'")
    unknown = sorted(set(given) - {"robot", *_SECONDS})
    if unknown:
        raise UserError(
            f"policy: expected ?robot=NAME, &timeout=SECONDS or &heartbeat=SECONDS, got '{unknown[0]}'"
        )
    if "robot" in given:
        check_name(given["robot"])
    options = {}
    for what in _SECONDS:
        if what in given:
            try:
                options[what] = float(given[what])
            except ValueError:
                raise UserError(f"{what}: expected seconds, got '{given[what]}'") from None
    return urlunsplit(parts._replace(query="", fragment="")), given.get("robot"), options


def _key() -> str | None:
    found = [os.environ.get(name, "").strip() for name in KEYS]
    return next(filter(None, found), None)
