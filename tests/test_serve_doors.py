"""Who is let in, what a server tells when it cannot begin, and how it ends."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import websockets
from websockets.sync.client import connect

from agent.asks import Ask
from agent.serving import Background, Limits, Server, Serving
from agent.serving.access import KEY, api_keys
from agent.wire import pack, unpack
from backbone import checkpoint
from backbone.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SECRET = "correct-horse-battery"
LOG = "steersman.serve"
pytestmark = pytest.mark.skipif(
    not (checkpoint.SHIPPED / "nano" / checkpoint.WEIGHTS).is_file(), reason="no shipped checkpoint"
)
SHOWN = {
    "observation/image": np.zeros((128, 128, 3), np.uint8),
    "observation/wrist_image": np.zeros((64, 64, 3), np.uint8),
    "observation/state": np.zeros(8, np.float32),
    "prompt": "clear the table",
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of our own for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    kind = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1".split()
    made = ["openssl", "req", "-x509", *kind, "-nodes", "-days", "2", "-subj", "/CN=x"]
    files = ["-keyout", "key.pem", "-out", "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *files], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def guarded(certificate):
    serving = Serving(
        port=0, keys=("another-key", SECRET), certificate=certificate[0], private_key=certificate[1]
    )
    with Background(serving) as running:
        yield running


@pytest.fixture
def told(caplog):
    logging.getLogger(LOG).propagate = True
    caplog.set_level(logging.INFO, LOG)

    def waited(words: str) -> str:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            found = [record for record in caplog.records if words in record.getMessage()]
            if found:
                assert all(record.exc_info is None for record in caplog.records), "no tracebacks"
                return found[0].getMessage()
            time.sleep(0.01)
        raise AssertionError(f"nothing was told of {words!r}: {caplog.text}")

    return waited


def trusting(certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate[0])


def headers(key: str | None, scheme: str = "Api-Key") -> dict:
    return {} if key is None else {"Authorization": f"{scheme} {key}"}


# -- keys and TLS


@pytest.mark.parametrize(
    "key, scheme", [(None, ""), (SECRET + "x", "Api-Key"), ("", "Api-Key"), (SECRET, "Basic")]
)
def test_without_the_key_nobody_comes_in(guarded, certificate, key, scheme):
    with pytest.raises(websockets.InvalidStatus) as refused:
        with connect(guarded.url, ssl=trusting(certificate), additional_headers=headers(key, scheme)):
            pass
    assert refused.value.response.status_code == 401


def test_with_a_key_over_tls_all_is_as_without(guarded, certificate):
    for key in ("another-key", SECRET):
        with connect(guarded.url, ssl=trusting(certificate), additional_headers=headers(key)) as client:
            assert "steersman" in unpack(client.recv(timeout=10))
            client.send(pack(SHOWN))
            assert unpack(client.recv(timeout=10))["actions"].shape == (10, 7)


def test_health_is_for_everybody_metrics_are_not(guarded, certificate):
    trust, url = trusting(certificate), guarded.url.replace("wss", "https")
    assert urlopen(f"{url}/healthz", context=trust, timeout=5).read() == b"OK\n"
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{url}/metrics", context=trust, timeout=5)
    assert refused.value.code == 401
    asked = Request(f"{url}/metrics", headers=headers(SECRET))
    assert b"steersman_ready 1.0" in urlopen(asked, context=trust, timeout=5).read()


def test_plain_text_to_a_tls_port_is_one_line(guarded, told):
    with pytest.raises((OSError, websockets.InvalidHandshake)):
        with connect(guarded.url.replace("wss", "ws"), open_timeout=5):
            pass
    assert "expected wss://" in told("plain text")


def test_tls_to_a_plain_port_is_one_line(told):
    with Background(Serving(port=0), wait=False) as server:
        with pytest.raises(OSError):
            with connect(server.url.replace("ws", "wss"), open_timeout=5, ssl=ssl.create_default_context()):
                pass
        assert "expected ws://" in told("spoke TLS")
        with socket.create_connection(("127.0.0.1", server.port), 5) as line:  # and what is no HTTP at all
            line.sendall(b"\x00\x01\x02\r\n\r\n")
            assert b"101" not in line.recv(100), "no websocket"
        assert urlopen(server.url.replace("ws", "http") + "/metrics", timeout=5).status == 200


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    assert api_keys(None) == ()
    monkeypatch.setenv(KEY, f" {SECRET}\n")
    assert api_keys(None) == (SECRET,)
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{SECRET}  # the lab's\n\nanother-key\n")
    assert api_keys(file) == (SECRET, "another-key")
    for text in ("", "# none\n", "short\n", "with some spaces\n"):
        file.write_text(text)
        with pytest.raises(UserError, match="api key: expected") as error:
            api_keys(file)
        assert "with some" not in str(error.value)
    with pytest.raises(UserError, match="can be read.*No such file"):
        api_keys(tmp_path / "none")


# -- limits


def test_more_connections_than_there_may_be_are_told_so():
    with Background(Serving(port=0, limits=Limits(connections=2)), wait=False) as server:
        first, second = (connect(server.url).__enter__() for _ in range(2))
        with pytest.raises(websockets.InvalidStatus) as refused:
            with connect(server.url):
                pass
        assert refused.value.response.status_code == 503
        first.close()
        until = time.monotonic() + 5
        while server.server._lines and len(server.server._lines) > 1 and time.monotonic() < until:
            time.sleep(0.01)
        with connect(server.url) as third:
            assert "steersman" in unpack(third.recv(timeout=20))
        second.close()


def test_a_frame_that_is_too_large_ends_its_connection_alone():
    with Background(Serving(port=0, limits=Limits(message=1 << 16, sessions=2))) as server:
        with connect(server.url) as client, connect(server.url, max_size=None) as other:
            client.recv(), other.recv()
            client.send(b"\x00" * (1 << 17))
            with pytest.raises(websockets.ConnectionClosed) as closed:
                client.recv(timeout=10)
            assert closed.value.rcvd.code == 1009
            for name in ("a", "b", "c", "a"):
                other.send(pack({"session": name, "say": "stop", "id": name}))
                reply = unpack(other.recv(timeout=10))
                assert reply["said"] == "stop" and "session began" in reply["events"], "two are kept"


# -- beginning


def test_who_comes_while_it_warms_up_waits_and_is_answered():
    with Background(Serving(port=0), wait=False) as server:
        with pytest.raises(HTTPError) as busy:
            urlopen(server.url.replace("ws", "http") + "/healthz", timeout=5)
        assert (busy.value.code, busy.value.read()) == (503, b"warming up\n")
        with connect(server.url) as client:
            assert not server.server.ready
            assert client.ping().wait(5)
            assert "steersman" in unpack(client.recv(timeout=30))
            client.send(pack(SHOWN))
            assert unpack(client.recv(timeout=10))["actions"].shape == (10, 7)


def test_what_is_in_the_way_is_one_line(tmp_path, certificate):
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate\n")
    for options, words in (
        ({"robot": "dog"}, "robot: expected one of libero, droid, aloha, steersman or lerobot, got 'dog'"),
        ({"robot": "aloha"}, "robot: expected one with the checkpoint's cameras front, wrist, 'aloha' has"),
        ({"robot": "droid"}, "robot: expected one with the checkpoint's 7 numbers in an? action"),
        ({"checkpoint": "none-such"}, "checkpoint 'none-such' not found"),
        ({"planner": "clever"}, "planner: expected 'learned', 'none' or"),
        ({"device": "warp"}, "device: expected one that is here"),
        ({"prepare": "fast"}, "prepare: expected one of eager"),
        ({"certificate": broken}, "certificate: expected .*broken.pem"),
        ({"certificate": tmp_path / "none.pem"}, "certificate: expected a PEM file that can be read"),
        ({"certificate": certificate[0], "private_key": broken}, "certificate: expected"),
        ({"certificate": certificate[0]}, "certificate: expected"),
        ({"private_key": certificate[1]}, "private key: expected a certificate with it"),
        ({"host": "no.such.host.invalid"}, "host: expected a name or address of this machine"),
    ):
        with pytest.raises(UserError, match=words) as error, Background(Serving(**({"port": 0} | options))):
            pass
        assert "\n" not in str(error.value)


def test_a_second_server_on_the_port_is_told_so():
    with Background(Serving(port=0), wait=False) as server:
        with pytest.raises(UserError, match=f"port: expected a free one, 127.0.0.1:{server.port} is in use"):
            with Background(Serving(port=server.port)):
                pass


# -- ending


def test_what_is_under_way_is_finished_before_it_ends():
    running = Background(Serving(port=0))
    with running as server:
        go_on = threading.Event()
        server.server.inference.submit(Ask(lambda: go_on.wait(20)))
        client, idle = (connect(server.url).__enter__() for _ in range(2))
        client.recv(), idle.recv()
        client.send(pack(SHOWN))
        while not len(server.server.inference):
            time.sleep(0.01)
        running._loop.call_soon_threadsafe(server.server.stop)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            idle.recv(timeout=5)
        assert closed.value.rcvd.code == 1001
        go_on.set()
        assert unpack(client.recv(timeout=10))["actions"].shape == (10, 7)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            client.recv(timeout=5)
        assert closed.value.rcvd.code == 1001
    with pytest.raises(OSError):
        connect(server.url, open_timeout=5).__enter__()


def test_the_command_serves_and_ends_when_it_is_told(tmp_path):
    environment = {**os.environ, KEY: "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "steersman", "serve", "--port", "0", "--host", "0.0.0.0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    try:
        lines = []
        while not any("serving nano" in text for text in lines):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        assert "warning: whoever reaches 0.0.0.0 can drive this policy" in lines[0]
        port = int(re.search(r":(\d+), no API key", lines[-1])[1])
        with connect(f"ws://127.0.0.1:{port}") as client:
            client.recv(timeout=10)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                client.recv(timeout=10)
        assert closed.value.rcvd.code == 1001
        assert process.wait(10) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.stderr.close()


def test_a_server_can_be_told_to_end_before_it_began():
    with Background(Serving(port=0), wait=False) as server:
        assert isinstance(server.server, Server)
    assert not server.server.ready
