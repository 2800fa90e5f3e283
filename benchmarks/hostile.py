"""Hostile messages to a real policy server, while two clients that behave are served: does it go on?

    python benchmarks/hostile.py --messages 100000 --out hostile.json
    python benchmarks/hostile.py --messages 5000 --tls         # the same to a server with TLS
    python benchmarks/hostile.py --messages 500 --kinds "half a frame" "picture"

Each message is drawn from the seed and its number (`attacks.py`). One line at a time is opened by each of
`lines` attackers and used until the server ends it; those who fall silent have lines of their own. A message
counts as "error" (told what was wrong), "closed" (the server hung up, with or without a reason), "answered"
(it was none to refuse) or "nothing" (neither, within the limit). Wrong is: an answer to what nobody can mean,
nothing within the limit, a server that is gone, an unpickled object, another answer to those who behave.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import attacks
import numpy as np
import rawlines
import tyro
from loopback import Good, Memory, Served, milliseconds

from agent.wire import Limits, unpack
from backbone.errors import UserError

SLOW = {"text of megabytes", "many items", "nested", "picture, large"}  # to make and to send: fewer of them
SLOW |= {"huge header", "many headers", "long path"}
LOOSE = Limits(items=1 << 20)


@dataclass
class Settings:
    """messages: how many, of which kinds (all). lines, silent: attackers at a time, and beside them those who
    fall silent (0: none). limit, patience: seconds until one must have been told or hung up on, and one that
    is silent. rate: messages a second at most (0: as fast as they are answered). period: seconds between two
    requests of those who behave. memory: megabytes that the server may grow by.
    """

    messages: int = 10_000
    kinds: tuple[str, ...] = ()
    seed: int = 0
    tls: bool = False
    lines: int = 8
    silent: int = 24
    limit: float = 30.0
    patience: float = 90.0
    rate: float = 0.0
    period: float = 0.2
    memory: float = 600.0
    out: Path | None = None


# --- those who do not ------------------------------------------------------------------------------------


class Attack:
    """The messages, and what came of each."""

    def __init__(self, settings: Settings, served: Served):
        self.s, self.served = settings, served
        self.tls = ssl._create_unverified_context() if settings.tls else None
        self.counts: dict[str, Counter] = defaultdict(Counter)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.wrong: list[str] = []
        self.longest, self.codes, self.doors = 0, Counter(), Counter()
        self.grown: list[float] = []  # megabytes of the server after each tenth of the messages
        self.names, self.due = list(kinds()), 0.0
        weight = np.array([kinds()[name][1] for name in self.names])
        if not settings.silent:
            weight *= [name not in rawlines.SILENT for name in self.names]
        if settings.kinds:
            weight = np.array([name in settings.kinds for name in self.names], float)
        self.weight = weight / weight.sum()

    def drawn(self) -> Iterator[tuple[int, str, np.random.Generator]]:
        for number in range(self.s.messages):
            rng = np.random.default_rng([self.s.seed, number])
            if number % max(1, self.s.messages // 10) == 0:
                self.grown.append(round(self.served.memory()))
            yield number, self.names[int(rng.choice(len(self.names), p=self.weight))], rng

    async def run(self, drawn: Iterator[tuple[int, str, np.random.Generator]]) -> None:
        quiet, slots = set(), asyncio.Semaphore(self.s.silent)

        async def silent(number: int, name: str, rng: np.random.Generator) -> None:
            try:
                await self.judged(number, name, rng, None)
            finally:
                slots.release()

        async def attacker() -> None:
            line: rawlines.Line | None = None
            for number, name, rng in drawn:  # one iterator for all of them
                if self.s.rate:
                    self.due = max(self.due + 1 / self.s.rate, time.perf_counter())
                    await asyncio.sleep(self.due - time.perf_counter())
                if name in rawlines.SILENT:
                    await slots.acquire()
                    task = asyncio.create_task(silent(number, name, rng))
                    quiet.add(task)
                    task.add_done_callback(quiet.discard)
                else:
                    line = await self.judged(number, name, rng, line)
                if len(self.wrong) > 50 or not self.served.alive:
                    break
            if line is not None:
                line.close()

        await asyncio.gather(*(attacker() for _ in range(self.s.lines)))
        self.over = time.perf_counter()
        if quiet:
            await asyncio.wait(quiet)

    async def judged(
        self, number: int, name: str, rng: np.random.Generator, line: rawlines.Line | None
    ) -> rawlines.Line | None:
        """Do one -> the line, if it can be used again."""
        make, _, may = kinds()[name]
        began, limit = time.perf_counter(), self.s.patience if name in rawlines.SILENT else self.s.limit
        try:
            async with asyncio.timeout(limit):
                outcome, line = await self.one(name, make(rng), line)
        except TimeoutError:
            outcome, line = "nothing", None
        self.counts[name][outcome] += 1
        self.seconds[name].append(time.perf_counter() - began)
        if outcome == "nothing" or (outcome == "answered" and not may):
            self.wrong.append(f"{name} ({number}): {outcome}")
        return line

    async def one(
        self, name: str, data: bytes, line: rawlines.Line | None
    ) -> tuple[str, rawlines.Line | None]:
        if name in rawlines.DOORS or (name in rawlines.SILENT and name not in rawlines.INSIDE):
            return await self.door(name, data), line
        if line is None:
            line = rawlines.Line(self.served.port, self.tls)
            try:
                if why := await line.open():
                    self.doors[why] += 1
                    line.close()
                    return "closed", None
            except rawlines.CLOSED as error:
                self.doors[type(error).__name__] += 1
                return "closed", None
        if name in attacks.FRAMES or name in attacks.ODD:
            data = rawlines.frame(rawlines.BINARY, data)
        outcome = "closed"
        try:
            await line.send(data)
            while True:
                if name in rawlines.INSIDE:  # silent: not even pings are answered
                    if not await line.reader.read(1 << 16):
                        raise ConnectionError
                    continue
                code, told = await line.frame()
                if code == rawlines.BINARY:
                    reply = unpack(told, LOOSE)
                    self.longest = max(self.longest, len(reply.get("error", "")))
                    return ("error" if "error" in reply else "answered"), line
                if code == rawlines.TEXT:
                    outcome, self.longest = "error", max(self.longest, len(told))
                elif code == rawlines.CLOSE:
                    self.codes[int.from_bytes(told[:2], "big") if told else 0] += 1
                    break
        except rawlines.CLOSED:
            pass
        line.close()
        return outcome, None

    async def door(self, name: str, data: bytes) -> str:
        """Something else than a handshake: wait until the server hangs up."""
        line = rawlines.Line(self.served.port, self.tls)
        try:
            await line.connect(plain=name == rawlines.REVERSE)
            if name == rawlines.REVERSE and self.tls is not None:
                data = rawlines.ASKS
            if name == "gone at once":
                line.close()
                return "closed"
            told = b""
            if name == "a byte now and then":
                dripping = asyncio.create_task(rawlines.drip(line, data))
                with contextlib.suppress(*rawlines.CLOSED):
                    while await line.reader.read(1 << 16):
                        pass
                dripping.cancel()
            else:
                await line.send(data)
                while got := await line.reader.read(1 << 16):
                    told = told or got
            line.close()
            return "error" if told.startswith(b"HTTP/1.1 4") else "closed"
        except rawlines.CLOSED:
            return "closed"


def kinds() -> dict[str, tuple[attacks.Make, float, bool]]:
    """name -> (how it is made, how often, whether it may be answered)."""
    found = {}
    for group, often, may in (
        (attacks.FRAMES, 10.0, False), (attacks.ODD, 3.0, True), (rawlines.LINES, 3.0, False),
        (rawlines.DOORS, 3.0, False), (rawlines.SILENT, 0.1, False),
    ):  # fmt: skip
        for name, make in group.items():
            found[name] = make, min(often, 1.0) if name in SLOW else often, may
    return found


# --- all of it -------------------------------------------------------------------------------------------


def certificate(folder: Path) -> Path:
    """A fresh one for localhost, with its private key, in one PEM file."""
    file = folder / "server.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*made, "-keyout", folder / "key.pem", "-out", file], check=True, capture_output=True)
    file.write_text(file.read_text() + (folder / "key.pem").read_text())
    return file


def main(settings: Settings) -> int:
    if unknown := set(settings.kinds) - set(kinds()):
        raise UserError(f"kinds: expected some of {', '.join(kinds())}, got {', '.join(unknown)}")
    with contextlib.suppress(OSError):
        os.rmdir(attacks.MARK)
    with tempfile.TemporaryDirectory() as folder:
        file = certificate(Path(folder)) if settings.tls else None
        with Served(*(["--certificate", str(file)] if file else [])) as served:
            good = Good(served.url, settings.period, str(file) if file else None)
            time.sleep(40 * settings.period + 8)  # an episode of theirs and more
            attack, memory, before = Attack(settings, served), Memory(served), served.memory()
            began, used = time.perf_counter(), served.seconds()
            asyncio.run(attack.run(attack.drawn()))
            over = attack.over  # but for those who are silent
            after = good.end(began, over)
            time.sleep(2)
            told = {
                "settings": asdict(settings) | {"out": str(settings.out)},
                "seconds": round(over - began, 1),
                "server_cpu_seconds": round(served.seconds() - used, 1),
                "load": os.getloadavg()[0],
                "memory_by_tenths_mb": attack.grown,
                "memory_mb": {"before": before, "most": memory.most, "after": served.memory()},
                "good": after,
                "kinds": {
                    n: dict(c) | {"p99_ms": milliseconds(attack.seconds[n], 0.99)[0]}
                    for n, c in attack.counts.items()
                },
                "failed": served.metrics().get('steersman_requests_total{outcome="failed"}', 0.0),
                "close_codes": dict(attack.codes),
                "not_let_in": dict(attack.doors),
                "longest_error": attack.longest,
                "server_errors": [
                    x for x in served.log.read_text().splitlines() if "Traceback" in x or "failed" in x
                ][:20],
                "exit": served.close(),
            }
            told["wrong"] = attack.wrong + verdict(settings, told)
    show(told)
    if settings.out is not None:
        part = settings.out.with_name(settings.out.name + ".part")
        part.write_text(json.dumps(told, indent=1))
        os.replace(part, settings.out)
    return 1 if told["wrong"] else 0


def verdict(settings: Settings, told: dict[str, Any]) -> list[str]:
    """What of it is wrong beside single messages."""
    good, memory = told["good"], told["memory_mb"]
    found = [f"a client that behaves: {why}" for why in good["lost"]]
    if not good["furthest"] < 1e-3 or good["other_words"]:
        found.append(
            f"other answers: actions off by {good['furthest']}, {good['other_words']} other subtasks"
        )
    if not memory["most"] - memory["before"] < settings.memory:
        found.append(f"memory: from {memory['before']:.0f} to {memory['most']:.0f} MB")
    if told["failed"]:
        found.append(f"{told['failed']:.0f} requests failed inside of the server")
    if told["exit"] != 0:
        found.append(f"the server ended with {told['exit']}")
    if os.path.exists(attacks.MARK):
        found.append("something was unpickled")
    return found


def show(told: dict[str, Any]) -> None:
    columns = "error", "closed", "answered", "nothing"
    print(f"{'kind':38}{'sent':>8}" + "".join(f"{name:>10}" for name in columns) + f"{'p99, ms':>10}")
    total = Counter()
    for name, row in sorted(told["kinds"].items()):
        sent = sum(row.get(c, 0) for c in columns)
        total.update({c: row.get(c, 0) for c in columns} | {"sent": sent})
        counts = "".join(f"{row.get(c, 0):10}" for c in columns)
        print(f"{name:38}{sent:8}{counts}{row['p99_ms']:10.0f}")
    print(f"{'all':38}{total['sent']:8}" + "".join(f"{total[c]:10}" for c in columns))
    memory, good = told["memory_mb"], told["good"]
    took = ", ".join(f"{name} {mb:.0f} MB" for name, mb in memory.items())
    about = f"load {told['load']:.1f}; server: {told['server_cpu_seconds']:.0f} s of a processor, {took}"
    print(f"{told['seconds']:.0f} s, {about}")
    print(f"by tenths of the messages: {', '.join(f'{mb:.0f}' for mb in told['memory_by_tenths_mb'])} MB")
    for name in ("before", "during"):
        about, (p50, p99, most) = good[name], good[name]["p50_p99_most_ms"]
        times = f"p50 {p50:.0f}, p99 {p99:.0f}, most {most:.0f} ms"
        print(f"two who behave, {name}: {about['requests']} requests, {times}")
    print(f"their actions off by {good['furthest']:.2g} at most, other subtasks {good['other_words']}")
    print(f"lost: {good['lost'] or 'none'}; longest error {told['longest_error']}")
    print(f"close codes {told['close_codes']}, not let in {told['not_let_in']}")
    for line in (*told["server_errors"][:5], *told["wrong"][:20]):
        print("  ", line[:200])
    print("nothing wrong" if not told["wrong"] else f"{len(told['wrong'])} wrong")


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Settings)))
    except UserError as error:
        sys.exit(f"error: {error}")
