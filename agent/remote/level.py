"""What every level that is elsewhere has: a link, a way to say what is seen, a session."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.remote.link import ANSWER, BEAT, CONNECT, Link
from agent.robots import OWN, ROBOTS, RobotFormat, check_name, format_of, own_format
from agent.wire import pack
from backbone.errors import PolicyError, UserError
from backbone.observation import Observation

PLAIN = "libero", "steersman"  # the same robot; a server of ours fits the pictures itself


@dataclass
class Episode:
    """What a server is told of it. session: names what the server keeps of it. reset: the seed, until an
    answer came.
    """

    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    reset: int | None = None


class RemoteLevel:
    """link: an open one, to share it, or the URL of a server (then with `options` of `Link`). robot: what is
    sent, a name of `agent.robots.ROBOTS` or a format of your own; None: what a server of ours says it is for.

    reply: all that the server said last beside the actions, such as `server_timing`.
    """

    def __init__(
        self,
        link: str | Link,
        robot: str | RobotFormat | None = None,
        api_key: str | None = None,
        timeout: float = ANSWER,
        connect_timeout: float = CONNECT,
        heartbeat: float = BEAT,
    ):
        if isinstance(robot, str):
            check_name(robot)  # before anybody is called
        own = not isinstance(link, Link)
        self.link = Link(link, api_key, timeout, connect_timeout, heartbeat) if own else link
        self.name = self.link.name
        try:
            self.robot, self.format = self._format(robot)
        except UserError:
            if own:
                self.link.close()
            raise
        self.reply: Mapping[str, Any] = {}
        self.episode = Episode()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The server's, as it said when we connected."""
        return self.link.metadata

    @property
    def identity(self) -> str:
        """Where it is, what it is sent, and what it says it is: all that a client can know of a policy."""
        said = hashlib.sha256(pack(self.metadata)).hexdigest()[:16]
        return f"{self.name} as {self.robot}, metadata {said}"

    def reset(self, seed: int = 0) -> None:
        """A new episode. A server of ours is told so with the next question, and draws its noise from the
        seed; openpi's protocol has no word for it.
        """
        self.episode.reset = int(seed)

    def check(self, observation: Observation) -> None:
        """UserError unless the observation has what this robot's policies are shown."""
        self.format.check(observation)

    def renew(self) -> None:
        """A question that was given up may still be open: what comes of it is of no use."""
        self.link.give_up()

    def close(self) -> None:
        """Say good-bye, for good."""
        self.link.close()

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _asked(self, observation: Observation, prompt: str, **more: Any) -> dict[str, Any]:
        """The reply of a server; of ours with `more` in the question. PolicyError for an error."""
        message = self.format.message(observation, prompt)
        episode, reset = self.episode, self.episode.reset
        if self.link.ours:
            message |= {"session": episode.session, **more}
            message |= {} if reset is None else {"reset": reset}
        reply = self.link.ask(message)
        if "error" in reply:
            said = " ".join(str(reply["error"]).split())
            # a memory that it cannot read is told like a planner's here: it is given an older one
            kind = UserError if said.startswith("memory:") else PolicyError
            raise kind(f"{self.name}: {said}")
        episode.reset = None if episode.reset == reset else episode.reset
        self.reply = reply
        return reply

    def _format(self, robot: str | RobotFormat | None) -> tuple[str, RobotFormat]:
        ours = self.link.ours
        if isinstance(robot, RobotFormat):
            return str(robot), robot
        if ours is None:
            if robot is None:
                known = "|".join(ROBOTS)
                raise UserError(
                    f"{self.name}: expected ?robot={known} for a server that does not say what robot it is "
                    "for, got none"
                )
            return robot, format_of(robot)
        of = str(ours.get("robot"))
        same = PLAIN if of in PLAIN else (of,)
        if robot is not None and robot not in same:
            raise PolicyError(f"{self.name}: expected a server for the robot '{robot}', got one for '{of}'")
        if of == OWN:
            return of, self._own(ours)
        if of not in ROBOTS:
            known = ", ".join((*ROBOTS, OWN))
            raise PolicyError(f"{self.name}: expected a server for one of {known}, got one for '{of}'")
        name = robot or same[-1]
        found = format_of(name)
        for what, needs in (("action_dim", found.action_dim), ("state_dim", found.state_dim)):
            if (has := ours.get(what, needs)) != needs:
                raise PolicyError(f"{self.name}: expected {what} {needs} of a server for '{of}', got {has}")
        return name, found

    def _own(self, ours: Mapping[str, Any]) -> RobotFormat:
        """As the server describes its checkpoint's robot."""
        cameras, dims = ours.get("cameras"), [ours.get(name) for name in ("state_dim", "action_dim")]
        if not isinstance(cameras, Mapping) or not all(type(n) is int and 0 < n < 1000 for n in dims):
            got = f"{cameras!r} and {dims}"[:80]
            raise PolicyError(f"{self.name}: expected cameras, state_dim and action_dim, got {got}")
        return own_format(map(str, cameras), *dims)
