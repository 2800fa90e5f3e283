"""What is served, to whom, and within which limits."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.robots import check_name
from backbone.engine import WAYS
from backbone.errors import UserError

DTYPES = "float32", "bfloat16", "float16"


@dataclass(frozen=True)
class Limits:
    """connections: at a time. message: bytes of a frame. sessions: named ones that are kept, for so many
    seconds after their last request (idle). queue: requests of one session at a time.
    refusals: in a second, beyond which each waits before it is told (see `tarpit`). patience: seconds that
    a request with an id may wait until somebody begins with it. handshake: seconds until a client has said
    what it wants. farewell: seconds for what is under way when the server is told to end.
    """

    connections: int = 64
    message: int = 32 << 20
    sessions: int = 256
    idle: float = 1800.0
    queue: int = 4
    refusals: int = 100
    patience: float = 30.0
    handshake: float = 10.0
    farewell: float = 20.0

    def __post_init__(self):
        for name in ("connections", "sessions", "queue", "refusals"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.message < 1 << 16:
            raise UserError(f"message: expected at least 65536 bytes, got {self.message}")
        for name in ("idle", "patience", "handshake", "farewell"):
            if not 0 < getattr(self, name) <= 1e7:
                raise UserError(f"{name}: expected more than 0 seconds, got {getattr(self, name)}")


@dataclass(frozen=True)
class Serving:
    """checkpoint: a name, a directory or a hub id. planner: "learned", "none", or somebody else's model (see
    `agent.planners`). robot: under which names clients show what (see `agent.robots`). dtype: of the weights
    of a network of the π family. cameras: its names -> the robot's, where the checkpoint has others or none.
    prepare: how the network runs (see `backbone.engine`). batch: clients answered in one pass, at most. keys:
    API keys, any of which is needed; none: everybody is let in. certificate, private_key: PEM files, for TLS.
    cores: that the network computes on, where it is no GPU; by default one for a small network, else all.
    prompt: said where a client says none. rate: control ticks a second of the robot. threads: of planners
    elsewhere.
    """

    checkpoint: str = "nano"
    planner: str = "learned"
    robot: str = "steersman"
    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "cpu"
    dtype: str = "float32"
    cameras: Mapping[str, str] | None = None
    prepare: str = "eager"
    batch: int = 16
    cores: int | None = None
    keys: tuple[str, ...] = ()
    certificate: Path | None = None
    private_key: Path | None = None
    prompt: str = ""
    rate: float = 20.0
    threads: int = 4
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self):
        check_name(self.robot)
        if not 0 <= self.port < 65536:
            raise UserError(f"port: expected 0 to 65535, got {self.port}")
        if self.batch < 1:
            raise UserError(f"batch: expected at least 1 client in a pass, got {self.batch}")
        if self.cores is not None and self.cores < 1:
            raise UserError(f"cores: expected at least 1, got {self.cores}")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype: expected one of {', '.join(DTYPES)}, got '{self.dtype}'")
        if self.prepare not in WAYS:
            raise UserError(f"prepare: expected one of {', '.join(WAYS)}, got '{self.prepare}'")
        if (self.private_key is not None) and self.certificate is None:
            raise UserError("private key: expected a certificate with it, got none")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def scheme(self) -> str:
        return "ws" if self.certificate is None else "wss"
