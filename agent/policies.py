"""Any policy by its name: ours, a server's, LeRobot's."""

from __future__ import annotations

from backbone.errors import UserError

SERVERS, LEROBOT = ("ws://", "wss://"), "lerobot:"


def is_foreign(name: str) -> bool:
    """Whether a name stands for somebody else's policy: a server's or LeRobot's."""
    return str(name).startswith((*SERVERS, LEROBOT))


def open_policy(name: str, device: str = "cpu") -> object:
    """The policy of a name. UserError in one line where it cannot be had.

    "nano", a directory or a hub id: ours, with its planner (`agent.policy.load`). Else a `Controller`:
    "ws://HOST:PORT" or "wss://..", with "?robot=libero|droid|aloha", "&timeout=SECONDS" and
    "&heartbeat=SECONDS": a server that speaks openpi's protocol, sent the key in STEERSMAN_API_KEY or
    OPENPI_API_KEY if there is one; a server of ours says what robot it is for, and where it plans it is both
    levels. "lerobot:PATH": a policy that LeRobot saved.
    """
    name = str(name)
    if name.startswith(SERVERS):
        from agent.remote.names import open_remote

        return open_remote(name)
    if name.startswith(LEROBOT):
        from agent.lerobot_policy import LeRobotController

        return LeRobotController(name.removeprefix(LEROBOT), device)
    from agent.policy import load

    return load(name, device)


def writes_plans(name: str) -> bool:
    """Whether somebody else's policy plans itself: a server of ours may (it is asked). UserError where it is
    not there.
    """
    if not str(name).startswith(SERVERS):
        return False
    from agent.remote.names import plans

    return plans(str(name))


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
