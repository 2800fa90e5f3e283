"""A policy on another machine: openpi's websocket protocol, from the robot's side.

The server speaks first, with its metadata. Then each binary frame (an observation) is answered by one (a dict
with `actions`, (H, D)), strictly in turn; a text frame is the server's traceback. What the public client
leaves open is settled here: nothing is waited for without end, an answer that came too late is never taken
for the next one, and actions are checked before a robot sees them.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from agent.robots import RobotFormat, format_of
from agent.wire import needed, pack, unpack
from backbone.errors import PolicyError, UserError
from backbone.observation import Observation
from lowlevel.controller import ActionChunk

CONNECT, ANSWER = 10.0, 120.0  # seconds; a server may compile its network at the first question
LONGEST = 86400  # seconds that can be asked for
CLOSE = 1.0  # seconds for a farewell


class RemoteController:
    """A `Controller` whose actions come from a server. It connects at once.

    url: ws:// or wss://. robot: what is sent, a name of `agent.robots.ROBOTS` or a format of your own.
    timeout: seconds for an answer. UserError, in one line, where the server is not there (PolicyError), and
    for what cannot be sent; PolicyError for an answer that is late, an error, or no actions.

    metadata: the server's, as it said when we connected. reply: all it said last beside the actions, such as
    `server_timing`, or the `memory` of one that plans; its `subtask` becomes the chunk's.
    """

    def __init__(
        self,
        url: str,
        robot: str | RobotFormat = "libero",
        api_key: str | None = None,
        timeout: float = ANSWER,
        connect_timeout: float = CONNECT,
    ):
        self.format = format_of(robot) if isinstance(robot, str) else robot
        self.robot = str(robot)
        for seconds in (timeout, connect_timeout):
            if not 0 < seconds < LONGEST:
                raise UserError(f"timeout: expected seconds between 0 and {LONGEST}, got {seconds}")
        if api_key and "@" in urlsplit(url).netloc:
            raise UserError("policy: expected a user in the URL or an API key, got both")
        self.url, self.timeout, self.connect_timeout = url, timeout, connect_timeout
        self.name = without_secrets(url)
        self.action_dim = self.format.action_dim
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._socket = None
        self._fresh = True  # no answer in this episode yet
        self.reply: Mapping[str, Any] = {}
        self.metadata = self._connect()

    @property
    def identity(self) -> str:
        """Where it is, what it is sent, and what it says it is: all that a client can know of a policy."""
        said = hashlib.sha256(pack(self.metadata)).hexdigest()[:16]
        return f"{self.name} as {self.robot}, metadata {said}"

    def reset(self, seed: int = 0) -> None:
        """A new episode. The protocol has no word for it and none for a seed: a server's noise is its own."""
        self._fresh = True

    def check(self, observation: Observation) -> None:
        """UserError unless the observation has what this robot's policies are shown."""
        self.format.check(observation)

    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        """(H, action_dim) for the subtask as prompt."""
        if committed is not None and len(committed):
            raise UserError("committed actions: expected none, the protocol has no place for them")
        start = time.perf_counter()
        reply = self._answer(pack(self.format.message(observation, subtask)))
        actions = self._actions(reply)
        self._fresh, self.reply = False, reply
        said = reply.get("subtask")
        said = said if isinstance(said, str) and said.strip() else subtask
        return ActionChunk(actions, said, seconds=time.perf_counter() - start)

    def renew(self) -> None:
        """A question that was given up may still be open: the next one gets a line of its own."""
        self._socket = None

    def close(self) -> None:
        """Say good-bye. The next question connects again."""
        if self._socket is not None:
            socket, self._socket = self._socket, None
            with contextlib.suppress(Exception):  # it may be gone already
                socket.close()

    def __enter__(self) -> RemoteController:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- the line

    def _connect(self) -> dict[str, Any]:
        """Open the line and return the server's first frame."""
        connect = needed("websockets.sync.client").connect
        with self._troubles(f"a policy server within {self.connect_timeout:g} s"):
            # No pings: a server that thinks on its only thread answers none, and would be hung up on.
            self._socket = connect(
                self.url,
                compression=None,
                max_size=None,
                additional_headers=self._headers,
                open_timeout=self.connect_timeout,
                close_timeout=CLOSE,
                ping_interval=None,
            ).__enter__()
            metadata = self._read(self._socket.recv(timeout=self.connect_timeout))
        return metadata

    def _answer(self, question: bytes) -> dict[str, Any]:
        """The reply to a frame. A line that was dropped between two episodes is opened again, once."""
        closed = needed("websockets.exceptions").ConnectionClosed
        with self._troubles(f"an answer within {self.timeout:g} s"):
            if self._socket is not None:
                try:
                    return self._asked(question)
                except closed:
                    if not self._fresh:
                        raise
                    self.close()
        metadata = self._connect()
        if pack(metadata) != pack(self.metadata):
            self.close()
            raise PolicyError(f"{self.name}: expected the policy of before, another answers there now")
        with self._troubles(f"an answer within {self.timeout:g} s"):
            return self._asked(question)

    def _asked(self, question: bytes) -> dict[str, Any]:
        self._socket.send(question)
        return self._read(self._socket.recv(timeout=self.timeout))

    def _read(self, frame: bytes | str) -> dict[str, Any]:
        if isinstance(frame, str):  # a traceback: its last line says what it was
            lines = frame.strip().splitlines() or ["no reason given"]
            raise PolicyError(f"{self.name}: the server failed: {lines[-1].strip()}")
        message = unpack(frame)
        if not isinstance(message, dict):
            raise PolicyError(f"{self.name}: expected a dict, the server sent {type(message).__name__}")
        return message

    @contextlib.contextmanager
    def _troubles(self, expected: str) -> Iterator[None]:
        """Every way in which a line fails, as one of our lines. The line is dropped: what would still come
        over it answers an older question.
        """
        errors = needed("websockets.exceptions")
        try:
            yield
        except PolicyError:
            self.close()
            raise
        except UserError as error:
            self.close()
            raise PolicyError(f"{self.name}: {error}") from None
        except errors.InvalidURI:
            raise UserError(f"policy: expected ws://HOST:PORT or wss://HOST, got '{self.name}'") from None
        except TimeoutError:
            self.close()
            raise PolicyError(f"{self.name}: expected {expected}, none came") from None
        except (OSError, errors.WebSocketException) as error:
            self.close()
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PolicyError(f"{self.name}: expected {expected}, but {reason}") from None

    # -- what came

    def _actions(self, reply: dict[str, Any]) -> np.ndarray:
        """(H, action_dim) float32, finite, taken out of the reply; PolicyError where they are not that."""
        given = reply.pop("actions", None)
        if given is None:
            got = ", ".join(sorted(map(str, reply))) or "nothing"
            raise PolicyError(f"{self.name}: expected 'actions' in the reply, got {got}")
        if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiu":
            kind = getattr(given, "dtype", type(given).__name__)
            raise PolicyError(f"{self.name}: expected actions as an array of numbers, got {kind}")
        if given.ndim != 2 or not len(given) or given.shape[1] != self.action_dim:
            raise PolicyError(f"{self.name}: expected actions (H, {self.action_dim}), got {given.shape}")
        with np.errstate(over="ignore"):  # what overflows is not finite
            actions = np.array(given, np.float32)
        if not np.isfinite(actions).all():
            count = int((~np.isfinite(actions)).sum())
            raise PolicyError(
                f"{self.name}: expected finite actions, got {count} of {actions.size} that are not"
            )
        return actions


def without_secrets(url: str) -> str:
    """A URL as it may be printed and kept: without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
