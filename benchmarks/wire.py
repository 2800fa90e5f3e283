"""What the wire adds to inference, and how many clients the shipped agent has time for, on loopback.

    python benchmarks/wire.py --openpi ~/openpi/bin/python --out wire.json
    python benchmarks/wire.py --only crowd --clients 16 --rate 5 --seconds 60

"overhead": one client with two cameras of 224x224, in another process than the server. Of each round trip,
all is overhead but the time in which the network ran. With --openpi, a Python that has openpi-client and
openpi-server, openpi's own client asks our server, and openpi's own server with a policy that computes as
long as ours, in turn with our client, so that all meet the same weather.

"crowd": clients at a steady rate, each waiting for its answer as openpi's does. Late is a reply after more
than a period, lost one that did not come.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.request import urlopen

import numpy as np
import tyro
from loopback import Served, looks, milliseconds
from websockets.sync.client import connect

from agent.wire import pack, unpack
from backbone.errors import UserError

WAYS = "our client, our server", "openpi's client, our server", "openpi's client and server"

# In openpi's environment. Lines in: url, requests, period; out: [[round trip, inference] in seconds, ..].
CLIENT = """
import json, sys, time
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy
found = np.load(sys.argv[1])
looks = [{key: found[f"{key} {at}"] for key in json.loads(sys.argv[2])} for at in range(int(sys.argv[3]))]
policies = {}
for line in sys.stdin:
    url, count, period = json.loads(line)
    policy = policies.setdefault(url, None) or WebsocketClientPolicy(url)
    policies[url] = policy
    told, due = [], time.perf_counter()
    for at in range(count):
        time.sleep(max(0.0, due - time.perf_counter()))
        due = time.perf_counter() + period
        look = looks[at % len(looks)] | {"prompt": sys.argv[4]}
        start = time.perf_counter()
        reply = policy.infer(look)
        taken = time.perf_counter() - start
        timing = reply.get("policy_timing") or reply["server_timing"]
        told.append([taken, timing["infer_ms"] / 1000])
    print(json.dumps(told), flush=True)
"""
SERVER = """
import sys, time
import numpy as np
from openpi_server import WebsocketPolicyServer
class Policy:
    def infer(self, look):
        until, matrix = time.perf_counter() + float(sys.argv[2]), np.ones((128, 128), np.float32)
        while time.perf_counter() < until:
            matrix @ matrix
        return {"actions": np.zeros((10, 7), np.float32)}
WebsocketPolicyServer(Policy(), "127.0.0.1", int(sys.argv[1])).serve_forever()
"""


@dataclass
class Settings:
    """requests: of each way. block: of one way in a row. period: seconds between two of one client. threads:
    of each process that computes.
    """

    only: Literal["both", "overhead", "crowd"] = "both"
    requests: int = 400
    block: int = 40
    period: float = 0.1
    openpi: Path | None = None
    clients: int = 16
    rate: float = 5.0
    seconds: float = 60.0
    out: Path | None = None


# --- overhead --------------------------------------------------------------------------------------------


def ours(line, requests: list[dict]) -> Callable[[int, float], list]:
    """Our client: packed, sent, received, unpacked."""
    unpack(line.recv(timeout=60))

    def ask(count: int, period: float) -> list:
        told, due = [], time.perf_counter()
        for at in range(count):
            time.sleep(max(0.0, due - time.perf_counter()))
            due = time.perf_counter() + period
            start = time.perf_counter()
            line.send(pack(requests[at % len(requests)]))
            reply = unpack(line.recv(timeout=60))
            told.append([time.perf_counter() - start, reply["policy_timing"]["infer_ms"] / 1000])
        return told

    return ask


def theirs(client: subprocess.Popen, url: str) -> Callable[[int, float], list]:
    def ask(count: int, period: float) -> list:
        client.stdin.write(json.dumps([url, count, period]) + "\n")
        client.stdin.flush()
        if not (line := client.stdout.readline()):
            raise UserError(f"openpi: expected answers, its client ended with {client.wait()}")
        return json.loads(line)

    return ask


def overhead(s: Settings) -> dict[str, Any]:
    requests, processes = looks(20), []
    with (
        Served() as served,
        tempfile.TemporaryDirectory() as folder,
        connect(served.url, compression=None, max_size=None) as line,
    ):
        ways = {WAYS[0]: ours(line, requests)}
        told: dict[str, list] = {}
        first = ways[WAYS[0]](30, s.period)
        compute = float(np.median([inference for _, inference in first]))
        if s.openpi is not None:
            keys, file = [key for key in requests[0] if key != "prompt"], Path(folder) / "looks.npz"
            np.savez(file, **{f"{key} {at}": look[key] for at, look in enumerate(requests) for key in keys})
            about = [str(file), json.dumps(keys), str(len(requests)), requests[0]["prompt"]]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            with free_port() as port:
                processes.append(subprocess.Popen([s.openpi, "-c", SERVER, str(port), str(compute)]))
            processes.append(subprocess.Popen([s.openpi, "-c", CLIENT, *about], **pipes))
            wait_for(port)
            ways[WAYS[1]] = theirs(processes[1], served.url)
            ways[WAYS[2]] = theirs(processes[1], f"ws://127.0.0.1:{port}")
        try:
            for ask in ways.values():
                ask(10, s.period)
            for _ in range(max(1, s.requests // s.block)):
                for name, ask in ways.items():
                    told.setdefault(name, []).extend(ask(s.block, s.period))
        finally:
            for process in processes:
                process.kill()
    found = {}
    for name, rows in told.items():
        over = [taken - inference for taken, inference in rows]
        p50, p95, p99 = milliseconds(over, 0.5, 0.95, 0.99)
        inference = milliseconds([inference for _, inference in rows], 0.5)[0]
        found[name] = {"n": len(rows), "p50": p50, "p95": p95, "p99": p99, "inference_p50": inference}
    print(f"overhead of two pictures of 224x224, ms{'':13}{'n':>6}{'p50':>8}{'p95':>8}{'p99':>8}  inference")
    for name, row in found.items():
        times = "".join(f"{row[p]:8.2f}" for p in ("p50", "p95", "p99"))
        print(f"  {name:50}{row['n']:6}{times}{row['inference_p50']:11.1f}")
    if WAYS[2] in found:
        print(f"  ours / openpi's: {found[WAYS[0]]['p50'] / found[WAYS[2]]['p50']:.2f} in p50")
    return found


class free_port:
    """A port that nobody has; free again when the `with` ends."""

    def __enter__(self) -> int:
        import socket

        self.socket = socket.create_server(("127.0.0.1", 0))
        return self.socket.getsockname()[1]

    def __exit__(self, *error: object) -> None:
        self.socket.close()


def wait_for(port: int, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).read()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(f"openpi: expected its server within {seconds:g} s, got {error}") from None
            time.sleep(0.2)


# --- crowd -----------------------------------------------------------------------------------------------


async def crowd_of(url: str, s: Settings) -> tuple[list[float], list[str]]:
    """Seconds of each reply, and why others did not come."""
    import websockets.asyncio.client

    requests, period = looks(40), 1 / s.rate
    packed = [pack(request) for request in requests]
    taken: list[float] = []
    lost: list[str] = []
    began = time.perf_counter() + 1.0

    async def client(number: int) -> None:
        async with websockets.asyncio.client.connect(url, compression=None, max_size=None) as line:
            unpack(await line.recv())
            due, at = began + period * number / s.clients, number
            while due < began + s.seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                start = time.perf_counter()
                try:
                    at += 1
                    await line.send(packed[at % len(packed)])
                    reply = unpack(await asyncio.wait_for(line.recv(), 30))
                    if "actions" not in reply:
                        raise UserError(f"no actions but {', '.join(map(str, reply))}")
                except Exception as error:
                    lost.append(f"{type(error).__name__}: {error}"[:200])
                    return
                taken.append(time.perf_counter() - start)
                due = max(
                    due + period, time.perf_counter()
                )  # who is late asks at once, and goes on from there

    await asyncio.gather(*(client(number) for number in range(s.clients)))
    return taken, lost


def crowd(s: Settings) -> dict[str, Any]:
    with Served() as served:
        asyncio.run(crowd_of(served.url, Settings(clients=1, rate=s.rate, seconds=3.0)))
        before, used, began = served.metrics(), served.seconds(), time.perf_counter()
        taken, lost = asyncio.run(crowd_of(served.url, s))
        wall = time.perf_counter() - began
        after, used = served.metrics(), served.seconds() - used
    passes = {}
    for name in ("pass_questions_sum", "pass_questions_count", "pass_seconds_sum"):
        key = f'steersman_{name}{{worker="inference"}}'
        passes[name] = after[key] - before[key]
    count = max(1.0, passes["pass_questions_count"])
    p50, p95, p99, most = milliseconds(taken, 0.5, 0.95, 0.99, 1.0)
    found = {
        "clients": s.clients, "rate": s.rate, "requests": len(taken) + len(lost), "lost": lost,
        "due": round(s.clients * s.rate * s.seconds),
        "late": sum(seconds > 1 / s.rate for seconds in taken),
        "p50": p50, "p95": p95, "p99": p99, "most": most,
        "in_a_pass": round(passes["pass_questions_sum"] / count, 2),
        "pass_ms": round(1000 * passes["pass_seconds_sum"] / count, 2),
        "passing": round(passes["pass_seconds_sum"] / wall, 3),
        "processors": round(used / wall, 2),
    }  # fmt: skip
    print(f"{s.clients} clients at {s.rate:g} Hz for {s.seconds:g} s")
    print(
        f"  {found['requests']} requests of {found['due']} due, {len(lost)} lost, {found['late']} late; ",
        end="",
    )
    print(f"p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f}, most {most:.0f} ms")
    passes = (
        f"{found['in_a_pass']} in a pass of {found['pass_ms']:.1f} ms, {found['passing']:.0%} of the time"
    )
    print(f"  {passes}; the server used {found['processors']:.2f} processors")
    for why in lost[:5]:
        print("  lost:", why)
    return found


def main(s: Settings) -> None:
    found: dict[str, Any] = {"settings": asdict(s) | {"openpi": str(s.openpi), "out": str(s.out)}}
    if s.only != "crowd":
        found["overhead"] = overhead(s)
    if s.only != "overhead":
        found["crowd"] = crowd(s)
    found["load"] = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {found['load']:.1f} over the last minute, ourselves among it")
    if s.out is not None:
        part = s.out.with_name(s.out.name + ".part")
        part.write_text(json.dumps(found, indent=1))
        os.replace(part, s.out)


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        sys.exit(f"error: {error}")
