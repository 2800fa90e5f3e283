"""Policies of a server: the frames, and a real server on loopback that does as it should, or does not."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

msgpack = pytest.importorskip("msgpack")
pytest.importorskip("websockets")

from serving import PolicyServer, packb, unpackb  # noqa: E402

from agent.loop import Agent  # noqa: E402
from agent.policies import identity, is_foreign, open_policy  # noqa: E402
from agent.remote import RemoteController  # noqa: E402
from agent.robots import resize_with_pad  # noqa: E402
from agent.wire import pack, unpack  # noqa: E402
from backbone.errors import PolicyError, UserError  # noqa: E402
from backbone.observation import Observation  # noqa: E402
from envs.tabletop.env import TabletopEnv  # noqa: E402
from highlevel.plan import Plan, Target  # noqa: E402

RNG = np.random.default_rng(0)
SEEN = Observation(
    {
        "front": RNG.integers(0, 256, (128, 128, 3), np.uint8),
        "wrist": RNG.integers(0, 256, (64, 96, 3), np.uint8),
    },
    np.arange(8, dtype=np.float32) / 7,
    "stack the blocks",
)
CHUNK = np.linspace(-1, 1, 70).reshape(10, 7)


def remote(url, robot="libero", **more):
    return RemoteController(url, robot, **more)


def still(observation):
    return {"actions": CHUNK}


VALUES = {
    "float32": RNG.normal(size=(3, 4)).astype(np.float32),
    "uint8": RNG.integers(0, 256, (2, 3, 3), np.uint8),
    "int64": np.arange(5) - 2**40,
    "big endian": np.arange(4, dtype=">f8"),
    "bool": np.array([True, False]),
    "not contiguous": np.arange(12).reshape(3, 4).T,
    "0-d": np.array(2.5, np.float32),
    "empty": np.zeros((0, 7), np.float32),
    "words": np.array(["red", "green"]),
    "scalar": np.float32(0.1),
    "whole": np.int64(-(2**40)),
    "nested": {"prompt": "räume auf", "list": [1, None, 2.5, True], "deep": {"x": np.uint8(7)}},
}


def same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            same(ours[key], theirs[key])
    elif isinstance(ours, np.ndarray | np.generic):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


def test_what_is_packed_is_what_the_public_code_packs_and_comes_back():
    assert pack(VALUES) == packb(VALUES)
    same(unpack(pack(VALUES)), VALUES)
    same(unpack(packb(VALUES)), unpackb(pack(VALUES)))


@pytest.mark.parametrize(
    "value", [np.array([{}], object), np.complex64(1), np.zeros(2, [("x", "f4")]), {1, 2}, 2**80]
)
def test_what_has_no_frame_is_refused(value):
    with pytest.raises(UserError, match="^message: expected text, numbers and arrays"):
        pack({"x": value})


@pytest.mark.parametrize(
    "about",
    [
        {b"dtype": "|O", b"shape": [1], b"data": b"12345678"},
        {b"dtype": "<f4", b"shape": [3], b"data": b"1234"},
        {b"dtype": "<f4", b"shape": [-1], b"data": b"1234"},
        {b"dtype": "no such", b"shape": [1], b"data": b"1234"},
        {b"shape": [1]},
    ],
)
def test_arrays_that_cannot_be_are_refused(about):
    with pytest.raises(UserError, match="^message: expected"):
        unpack(msgpack.packb({b"__ndarray__": True, **about}))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\xa1x", b"\x01\x02"])
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(UserError, match="^message: expected msgpack"):
        unpack(data)


@pytest.mark.parametrize("shape", [(64, 64), (128, 96), (480, 640), (224, 224), (333, 500), (3, 500)])
def test_pictures_are_fitted_as_the_public_client_does(shape):
    tools = pytest.importorskip("openpi_client.image_tools")
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(resize_with_pad(image, 224, 224), tools.resize_with_pad(image, 224, 224))


def test_a_wide_picture_gets_black_bars():
    fitted = resize_with_pad(np.full((100, 200, 3), 255, np.uint8), 224, 224)
    assert fitted.shape == (224, 224, 3) and fitted.dtype == np.uint8
    assert (fitted[56:168] == 255).all() and not fitted[:56].any() and not fitted[168:].any()
    assert resize_with_pad(np.zeros((8, 4096, 3), np.uint8), 128, 128).shape == (128, 128, 3)


def test_what_a_libero_server_sees():
    with (
        PolicyServer(still, {"reset_pose": [0.0, 1.0]}) as server,
        remote(server.url) as controller,
    ):
        assert controller.metadata == {"reset_pose": [0.0, 1.0]}
        chunk = controller.act(SEEN, "pick up the red block")
        (frame,) = server.asked
    assert chunk.actions.dtype == np.float32 and chunk.subtask == "pick up the red block"
    np.testing.assert_allclose(chunk.actions, CHUNK, atol=1e-7)
    asked = unpackb(frame)
    assert sorted(asked) == ["observation/image", "observation/state", "observation/wrist_image", "prompt"]
    assert asked["prompt"] == "pick up the red block"
    np.testing.assert_array_equal(asked["observation/state"], SEEN.state)
    for key, camera in (("observation/image", "front"), ("observation/wrist_image", "wrist")):
        np.testing.assert_array_equal(asked[key], resize_with_pad(SEEN.images[camera], 224, 224))


def test_what_droid_and_aloha_servers_see():
    arms = {"left_wrist": SEEN.images["wrist"], **SEEN.images}
    two_arms = Observation(arms, np.arange(14, dtype=np.float32))
    with PolicyServer(
        lambda o: {"actions": np.zeros((4, 8 if "prompt" in o and "state" not in o else 14))}
    ) as s:
        with remote(s.url, "droid") as droid, remote(s.url, "aloha") as aloha:
            assert droid.act(SEEN, "go").actions.shape == (4, 8)
            assert aloha.act(two_arms, "go").actions.shape == (4, 14)
        one, two = map(unpackb, s.asked)
    assert sorted(one) == [
        "observation/exterior_image_1_left", "observation/gripper_position", "observation/joint_position",
        "observation/wrist_image_left", "prompt",
    ]  # fmt: skip
    np.testing.assert_array_equal(one["observation/joint_position"], SEEN.state[:7])
    np.testing.assert_array_equal(one["observation/gripper_position"], SEEN.state[7:])
    assert sorted(two) == ["images", "prompt", "state"] and sorted(two["images"]) == [
        "cam_high",
        "cam_left_wrist",
    ]
    high = two["images"]["cam_high"]
    assert high.shape == (3, 224, 224) and high.dtype == np.uint8
    np.testing.assert_array_equal(high, resize_with_pad(SEEN.images["front"], 224, 224).transpose(2, 0, 1))


def test_of_a_past_the_last_moment_is_sent():
    past = Observation(
        {name: np.stack([image * 0, image]) for name, image in SEEN.images.items()},
        np.stack([SEEN.state * 0, SEEN.state]),
        history=np.array([False, True]),
    )
    with PolicyServer(still) as server, remote(server.url) as controller:
        controller.act(SEEN, "go")
        controller.act(past, "go")
        assert server.asked[0] == server.asked[1]


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (Observation({"front": SEEN.images["front"]}, SEEN.state), "expected camera 'wrist', got front"),
        (Observation(SEEN.images, SEEN.state[:7]), r"expected a state of shape \(8,\), got \(7,\)"),
        (Observation(SEEN.images, SEEN.state * np.nan), "expected finite numbers in the state"),
        (Observation({**SEEN.images, "front": SEEN.images["front"] / 255}, SEEN.state), "expected uint8"),
    ],
)
def test_an_observation_that_does_not_fit_is_not_sent(seen, says):
    with PolicyServer(still) as server, remote(server.url) as controller:
        for ask in (lambda: controller.check(seen), lambda: controller.act(seen, "go")):
            with pytest.raises(UserError, match=says):
                ask()
        assert not server.asked


class Script:
    """A planner that always says the same."""

    def plan(self, observation, instruction, memory, previous):
        return Plan("pick up the red block", Target(0.25, 0.5))


@pytest.mark.parametrize("planner", ["none", Script()])
def test_an_agent_of_a_server_moves_the_real_arm(planner):
    """Executes the first 4 of each chunk, in the world's own units; the prompt is what the planner says."""
    env = TabletopEnv(pixels="lazy")
    env.begin(0)

    def down(observation):
        actions = np.zeros((10, 7), np.float64)
        actions[:, 2], actions[:, 6] = -1, -1
        actions[:, 0] = np.arange(10) / 10
        return {"actions": actions, "server_timing": {"infer_ms": 1.5}}

    with PolicyServer(down) as server, open_policy(f"{server.url}?robot=libero&timeout=5") as controller:
        agent = Agent(controller, planner=planner, execute=4)
        agent.reset(env.task_description, 3)
        height, steps = env.world.state_vector()[2], []
        for _ in range(10):
            steps.append(agent.step(env.look() if agent.needs_observation else None))
            env.step(steps[-1].action)
        assert env.world.state_vector()[2] < height - 0.01
        assert [s.looked for s in steps] == [True, False, False, False] * 2 + [True, False]
        assert [round(float(s.action[0]), 1) for s in steps] == [0.0, 0.1, 0.2, 0.3] * 2 + [0.0, 0.1]
        said = env.task_description if planner == "none" else "pick up the red block <loc0256><loc0512>"
        assert {s.subtask for s in steps} == {said}
        assert [unpackb(frame)["prompt"] for frame in server.asked] == [said] * 3
        assert controller.reply == {"server_timing": {"infer_ms": 1.5}}
    env.close()


def test_our_planner_writes_the_prompt_of_a_server():
    env = TabletopEnv(pixels="lazy")
    env.begin(0)
    with PolicyServer(still) as server, remote(server.url) as controller:
        agent = Agent(open_policy("nano"), controller=controller)
        agent.reset(env.task_description)
        step = agent.step(env.look())
        (frame,) = server.asked
    assert step.plan.origin == "decoded" and step.plan.target is not None
    assert unpackb(frame)["prompt"] == step.subtask == step.plan.text != env.task_description
    np.testing.assert_allclose(step.action, CHUNK[0], atol=1e-7)
    env.close()


def test_what_a_server_plans_is_kept():
    reply = {"actions": CHUNK, "subtask": "open the drawer", "memory": "looked"}
    with PolicyServer(lambda o: reply) as server, remote(server.url) as controller:
        assert controller.act(SEEN, "tidy up").subtask == "open the drawer"
        assert controller.reply["memory"] == "looked"


WRONG = CHUNK.copy()
WRONG[3, 2] = np.nan


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ({"action": CHUNK, "x": 1}, "expected 'actions' in the reply, got action, x"),
        ({}, "expected 'actions' in the reply, got nothing"),
        ({"actions": WRONG}, "expected finite actions, got 1 of 70 that are not"),
        ({"actions": np.full((2, 7), 1e300)}, "expected finite actions, got 14 of 14"),
        ({"actions": np.zeros((10, 32), np.float32)}, r"expected actions \(H, 7\), got \(10, 32\)"),
        ({"actions": np.zeros(7)}, r"expected actions \(H, 7\), got \(7,\)"),
        ({"actions": np.zeros((0, 7))}, r"expected actions \(H, 7\), got \(0, 7\)"),
        ({"actions": CHUNK.tolist()}, "expected actions as an array of numbers, got list"),
        ({"actions": np.array([["a"] * 7])}, "expected actions as an array of numbers, got <U1"),
        ([1, 2], "expected a dict, the server sent list"),
        (b"\xc1", "message: expected msgpack"),
    ],
)
def test_replies_that_no_robot_should_see(reply, says):
    with PolicyServer(lambda o: reply) as server, remote(server.url) as controller:
        with pytest.raises(PolicyError, match=f"^{server.url}: {says}"):
            controller.act(SEEN, "go")


def test_the_servers_traceback_is_one_line_and_the_next_question_goes_on():
    faults = [ValueError("no such\tnorm stats")]

    def answer(observation):
        if faults:
            raise faults.pop()
        return {"actions": CHUNK}

    with PolicyServer(answer) as server, remote(server.url) as controller:
        with pytest.raises(PolicyError) as error:
            controller.act(SEEN, "go")
        assert str(error.value) == f"{server.url}: the server failed: ValueError: no such\tnorm stats"
        controller.reset(1)
        assert controller.act(SEEN, "go").actions.shape == (10, 7)


def test_a_late_answer_is_never_the_next_ones():
    wait = threading.Event()

    def slow(observation):
        late = observation["prompt"] == "first"
        if late:
            wait.wait(5)
        return {"actions": np.full((2, 7), 0.25 if late else 0.5)}

    with PolicyServer(slow) as server, remote(server.url, timeout=0.2) as controller:
        with pytest.raises(PolicyError, match="expected an answer within 0.2 s, none came$"):
            controller.act(SEEN, "first")
        wait.set()
        assert (controller.act(SEEN, "second").actions == 0.5).all()


def test_a_line_that_is_lost_is_opened_again_but_only_to_the_same_policy():
    with PolicyServer(still, {"step": 1}) as server, remote(server.url) as controller:
        controller.act(SEEN, "go")
        server.hang_up()
        controller.act(SEEN, "go")
        assert len(server.headers) == 2
        server.hang_up()
        server.metadata = {"step": 2}
        with pytest.raises(PolicyError, match="expected the policy of before, another"):
            controller.act(SEEN, "go")


def test_a_server_that_went_away_is_waited_for():
    with PolicyServer(still) as server:
        controller = remote(server.url, timeout=0.3)
    with pytest.raises(PolicyError, match="expected an answer within 0.3 s, but the connection was refused"):
        controller.act(SEEN, "go")
    back = []
    later = threading.Timer(0.1, lambda: back.append(PolicyServer(still, port=server.port)))
    controller.link.timeout = 5.0
    later.start()
    assert controller.act(SEEN, "go").actions.shape == (10, 7)
    controller.close()
    with pytest.raises(PolicyError, match="expected a link, got one that was closed"):
        controller.act(SEEN, "go")
    later.join()
    back[0].close()


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port
        with pytest.raises(PolicyError, match="expected a policy server within 10 s, but .*refused"):
            open_policy(f"ws://127.0.0.1:{free.getsockname()[1]}")


def test_somebody_who_says_nothing():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"ws://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(PolicyError, match="expected a policy server within 0.2 s, none came"):
            remote(url, connect_timeout=0.2)


@pytest.mark.parametrize(
    ("first", "says"),
    [("Traceback\nKeyError: 'x'", "the server failed: KeyError: 'x'"), (b"\x01", "expected a dict, .* int")],
)
def test_metadata_that_is_none(first, says):
    with PolicyServer(still, first) as server, pytest.raises(PolicyError, match=says):
        remote(server.url)


def test_the_key_is_sent_and_told_to_nobody(monkeypatch):
    with PolicyServer(still) as server:
        for name in ("OPENPI_API_KEY", "STEERSMAN_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        open_policy(f"{server.url}?robot=libero").close()
        assert "Authorization" not in server.headers[-1]
        user = server.url.replace("//", "//me:hidden@") + "?robot=libero"
        assert "hidden" not in identity(user)
        assert server.headers[-1]["Authorization"].startswith("Basic ")
        monkeypatch.setenv("OPENPI_API_KEY", "s3cret")
        assert "s3cret" not in identity(f"{server.url}?robot=libero")
        assert server.headers[-1]["Authorization"] == "Api-Key s3cret"
        monkeypatch.setenv("STEERSMAN_API_KEY", "another")
        assert "another" not in identity(f"{server.url}?robot=libero")
        assert server.headers[-1]["Authorization"] == "Api-Key another"
        with pytest.raises(UserError, match="a user in the URL or an API key, got both$"):
            open_policy(user)


def test_a_server_is_known_by_what_it_says():
    with PolicyServer(still, {"reset_pose": np.zeros(3)}) as server:
        name = f"{server.url}?robot=libero"
        with open_policy(name) as controller:
            assert identity(name) == controller.identity
        assert identity(name.replace("libero", "droid")) != controller.identity
        server.metadata = {"reset_pose": np.ones(3)}
        assert identity(name) != controller.identity


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ws://", r"expected ws://HOST:PORT\?robot=NAME"),
        ("ws://host:port", r"expected ws://HOST:PORT\?robot=NAME"),
        ("ws://host:8000?robt=libero", "got 'robt'"),
        ("ws://host:8000?robot=spot", "robot: expected one of libero, droid, aloha.*, got 'spot'"),
        ("ws://host:8000?timeout=long", "timeout: expected seconds, got 'long'"),
        ("ws://host:8000?timeout=0", "timeout: expected seconds between"),
    ],
)
def test_names_that_stand_for_nothing(name, says):
    with pytest.raises(UserError, match=says):
        open_policy(name)


def test_whose_policy_a_name_stands_for():
    assert all(map(is_foreign, ("ws://h:1", "wss://h", "lerobot:some/where")))
    assert not any(map(is_foreign, ("nano", "runs/policy", "owner/name", "lerobot/act")))


def test_without_the_extra_it_says_which(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "websockets.asyncio.client", None)
    with pytest.raises(UserError, match=r"pip install 'steersman\[remote\]'$"):
        open_policy("ws://localhost:8000")
