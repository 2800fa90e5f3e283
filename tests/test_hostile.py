"""Hostile messages of every kind to a real server: each is refused, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest

pytest.importorskip("msgpack")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import attacks  # noqa: E402
import hostile  # noqa: E402
import rawlines  # noqa: E402
import wire  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from agent.serving import Background, Serving  # noqa: E402
from agent.wire import pack, unpack  # noqa: E402
from backbone import checkpoint  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (checkpoint.SHIPPED / "nano" / checkpoint.WEIGHTS).is_file(), reason="no shipped checkpoint"
)


@pytest.fixture(scope="module")
def server():
    with Background(Serving(port=0)) as running:
        yield running


def test_each_kind_is_refused_and_others_are_answered_as_before(server):
    kinds = [name for name in hostile.kinds() if name not in rawlines.SILENT]
    drawn = [(at, name, np.random.default_rng([9, at])) for at, name in enumerate(kinds)]
    asked = pack(attacks.look(np.random.default_rng(0)) | {"reset": 3})
    with connect(server.url, compression=None, max_size=None) as line:
        line.recv(timeout=20)
        line.send(asked)
        first = unpack(line.recv(timeout=20))
        served = SimpleNamespace(port=server.server.port, alive=True, memory=lambda: 0.0)
        attack = hostile.Attack(hostile.Settings(lines=4), served)
        asyncio.run(attack.run(iter(drawn)))
        assert attack.wrong == [] and sum(map(sum, (c.values() for c in attack.counts.values()))) == len(
            drawn
        )
        assert all(set(attack.counts[name]) <= {"error", "closed"} for name in attacks.FRAMES)
        assert attack.counts["farewell, then more"] == {"closed": 1} and attack.longest <= 300
        line.send(asked)
        again = unpack(line.recv(timeout=20))
        np.testing.assert_allclose(again["actions"], first["actions"], atol=1e-4)
        assert again["subtask"] == first["subtask"]
        page = urlopen(server.url.replace("ws", "http") + "/metrics", timeout=20).read().decode()
        assert 'requests_total{outcome="failed"} ' not in page
        assert 'requests_total{outcome="refused"} ' in page
    assert not os.path.exists(attacks.MARK)


def test_a_crowd_is_counted_request_by_request(server):
    settings = wire.Settings(clients=3, rate=4.0, seconds=1.0)
    taken, lost = asyncio.run(wire.crowd_of(server.url, settings))
    assert lost == [] and 3 <= len(taken) <= 12 and min(taken) > 0


def test_the_networks_time_is_part_of_the_round_trip(server):
    from loopback import looks

    with connect(server.url, compression=None, max_size=None) as line:
        told = wire.ours(line, looks(2))(3, 0.0)
    assert len(told) == 3 and all(0 < inference < taken for taken, inference in told)
