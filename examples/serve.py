"""Serve the agent to robots: openpi's websocket protocol, many clients on one network (docs/serving.md).

Whoever speaks that protocol can connect, openpi's own client among them; ws://HOST:PORT is also a name for
--checkpoint here. It ends at Ctrl-C, after what is under way; at the second one at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from agent.serving import Limits, Server, Serving
from agent.serving.access import KEY, api_keys
from agent.serving.lines import Sparing

LOG = logging.getLogger("steersman.serve")


def main(
    checkpoint: str = "nano",
    planner: str = "learned",
    robot: str = "steersman",
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "cpu",
    dtype: str = "float32",
    cameras: dict[str, str] | None = None,
    prepare: str = "eager",
    batch: int = 16,
    cores: int | None = None,
    prompt: str = "",
    rate: float = 20.0,
    api_key_file: Path | None = None,
    certificate: Path | None = None,
    private_key: Path | None = None,
    connections: int = 64,
    message_mb: int = 32,
    sessions: int = 256,
    session_minutes: float = 30.0,
    queue: int = 4,
    patience: float = 30.0,
    verbose: bool = False,
) -> int:
    """Options of `steersman serve`.

    Args:
        checkpoint: "nano" (shipped), a checkpoint directory or a hub id.
        planner: learned; none (the prompt in the subtask's place); or somebody else's model, vlm:NAME or
            openai:MODEL@BASE_URL, which thinks beside: chunks are made for the plan in force meanwhile.
        robot: under which names clients show what: steersman and libero (the same), droid, aloha; or lerobot,
            the checkpoint's own cameras, state and action by LeRobot's names (docs/serving.md).
        host: address to listen at; 0.0.0.0 for every one of this machine.
        port: 0 takes a free one and tells which.
        device: cpu, cuda, mps.
        dtype: of a network of the π family: float32, bfloat16, float16.
        cameras: its cameras and the robot's (camera0 front camera1 wrist), where the checkpoint does not say;
            in their order by default.
        prepare: eager, compiled or graphs (docs/speed.md). Clients that come meanwhile wait, none is dropped.
        batch: clients answered in one pass, at most.
        cores: that the network computes on, where it is no GPU; by default one for a small network, else all.
        prompt: said where a client says none.
        rate: control ticks a second of the robots.
        api_key_file: keys, one a line, any of which a client needs; by default the one in STEERSMAN_API_KEY.
        certificate: PEM file, for TLS (wss://).
        private_key: PEM file, where it is not in the certificate's.
        connections: at a time.
        message_mb: megabytes of a request.
        sessions: named ones that are kept.
        session_minutes: how long after their last request.
        queue: requests of a session at a time.
        patience: seconds that a request with an id may wait for its turn.
        verbose: also tell who comes and goes.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(Sparing())
    LOG.handlers[:], LOG.propagate = [handler], False
    LOG.setLevel(logging.DEBUG if verbose else logging.INFO)
    limits = Limits(connections, message_mb << 20, sessions, 60 * session_minutes, queue, patience=patience)
    levels = {"checkpoint": checkpoint, "planner": planner, "robot": robot, "cameras": cameras}
    how = {
        "device": device,
        "dtype": dtype,
        "prepare": prepare,
        "batch": batch,
        "cores": cores,
        "prompt": prompt,
        "rate": rate,
        "limits": limits,
    }
    tls = {"certificate": certificate, "private_key": private_key}
    serving = Serving(**levels, host=host, port=port, keys=api_keys(api_key_file), **tls, **how)
    if not serving.loopback and not serving.keys:
        LOG.warning("warning: whoever reaches %s can drive this policy; set %s", host, KEY)
    server = Server(serving, freeze=True)
    asyncio.run(_serve(server))
    if server.thinking:  # a planner that hangs, or a network that was still loaded
        sys.stderr.flush()
        os._exit(0)
    return 0


async def _serve(server: Server) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.stop()
        for number in (signal.SIGINT, signal.SIGTERM):  # the second one ends it at once
            loop.add_signal_handler(number, os._exit, 128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await server.run()


if __name__ == "__main__":
    from steersman.cli import run

    sys.exit(run("examples.serve", "serve.py", sys.argv[1:]))
