# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""A robot that is driven: what sticks and keys make of it, and the page that it is driven by."""

import importlib
import io
import json
import socket
import struct
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
from inprocess import call
from PIL import Image
from webclient import WebSocket, answer, browsing, get, until

from ballbot.driving import Drive
from ballbot.driving import server as serving
from ballbot.driving.scene import Scene
from ballbot.driving.server import Server
from ballbot.driving.steering import BACKSPACE, DELETE, INSERT, SPACE, UP
from ballbot.envs import BallbotVectorEnv
from ballbot.errors import SettingsError
from ballbot.evaluation import find_candidate, in_task, task_of


def driven(name="lqr", terrain="flat", command=None, **options):
    candidate = find_candidate(name)
    task = task_of(candidate.options, terrain, command)
    world = in_task(candidate.options, task, adapts=candidate.policy is None)
    envs = BallbotVectorEnv(
        1, **world, num_threads=1, num_terrains=3, terrain_split="eval", max_episode_steps=10**9, **options
    )
    return Drive(envs, candidate.make_actor(envs))


def go(drive, seconds):
    for _ in range(round(seconds / drive.envs.dt)):
        drive.step()
    return drive.envs.world.robots.velocity[:2, 0]


@pytest.mark.parametrize("command", ["goal", "velocity"])
def test_a_stick_drives_along_the_world_however_the_robot_is_turned(command):
    drive = driven(command=command)  # which begins with any heading
    assert np.hypot(*go(drive, 0.3)) < 0.1 and not drive.now().direction.any()
    for stick in ((0.0, 1.0), (-1.0, 0.0)):
        drive.hold(stick)
        velocity = go(drive, 3.0)
        assert velocity @ stick > 0.2 and abs(velocity @ stick[::-1]) < 0.1
        assert drive.now().direction @ stick == pytest.approx(np.hypot(*drive.now().direction), abs=1e-2)
    drive.hold((0.0, 0.0))
    assert np.hypot(*go(drive, 3.0)) < 0.05 and not drive.now().direction.any()
    assert drive.episode == 1 and drive.falls == 0


def test_half_a_stick_is_half_the_velocity_and_none_is_beyond_the_motors():
    drive = driven(command="velocity")
    for stick, speed in (((0.5, 0.0), 0.15), ((30.0, 40.0), 0.3)):
        drive.hold(stick, turn=9.0)
        go(drive, 0.1)
        assert np.hypot(*drive.envs.command[0, :2]) == pytest.approx(speed, abs=2e-3)
        assert drive.envs.command[0, 2] == 0.0  # by default nobody is told to turn
    drive = driven(command="velocity", motion={"max_yaw_rate": 0.4, "max_speed": 0.427})
    drive.hold((1.0, 0.0), turn=-0.5)
    go(drive, 0.1)
    assert drive.envs.command[0, 2] == pytest.approx(-0.2) and drive.now().turn == pytest.approx(-0.2)
    assert 0.4 < np.hypot(*drive.envs.command[0, :2]) <= drive.envs.world.told.limits.speed


def test_a_stick_moves_the_place_to_which_the_robot_comes():
    drive = driven(command="point")
    begin = drive.now().place
    drive.hold((1.0, 0.0))
    go(drive, 1.0)
    drive.hold((0.0, 0.0))
    there = drive.now().place
    assert there - begin == pytest.approx([0.5, 0.0], abs=0.02)
    go(drive, 5.0)
    assert np.hypot(*(drive.envs.world.robots.position[:2, 0] - there)) < 0.15
    drive.reset()  # and is told to stay where it begins, not to go back there
    assert drive.now().place == pytest.approx(drive.envs.world.robots.position[:2, 0], abs=1e-9)


def test_a_place_stays_on_the_ground():
    drive = driven(terrain="perlin", command="point")
    drive.hold((1.0, 0.0))
    for _ in range(1000):
        drive._steer()
    assert drive.now().place[0] == pytest.approx(drive.envs.world.told.limits.reach)


def test_who_falls_lies_there_and_stands_up_on_the_same_ground():
    drive = driven(terrain="perlin")
    ground = drive.terrain_id
    drive.hold((0.0, 1.0))
    go(drive, 0.2)
    for _ in range(12):
        drive.push((1.0, 0.0))
    go(drive, 1.5)
    assert drive.lies and drive.falls == 1 and drive.said == "fell"
    go(drive, 2.0)
    assert not drive.lies and drive.episode == 2 and drive.terrain_id == ground and drive.said == "stands again"
    assert drive.now().direction @ (0.0, 1.0) == 1.0  # the stick is still held
    go(drive, 0.5)
    assert drive.falls == 1


def test_a_push_is_withstood_and_felt():
    drive = driven()
    go(drive, 1.0)
    before = drive.envs.world.robots.velocity[:2, 0].copy()
    drive.push((0.0, -7.0))
    velocity = go(drive, 0.05)
    assert velocity[1] - before[1] < -0.04 and drive.pushes == 1 and drive.pushed.tolist() == [0.0, -1.0]
    go(drive, 3.0)
    assert drive.falls == 0


def test_grounds_follow_each_other_and_flat_ground_is_alone():
    drive = driven(terrain="stairs:0-1")
    seen = [drive.terrain_id]
    for _ in range(3):
        drive.next_ground()
        seen.append(drive.terrain_id)
    assert len(set(seen)) == 3 and seen[3] == seen[0] and drive.said.startswith("stairs, difficulty")
    drive.reset()
    assert drive.terrain_id == seen[3] and drive.episode == 5
    flat = driven()
    flat.next_ground()
    assert "flat ground is all there is" in flat.said and flat.episode == 2


def test_slow_motion_goes_round():
    drive = driven()
    speeds = []
    for _ in range(4):
        drive.slower()
        speeds.append(drive.speed)
    assert speeds == [0.5, 0.25, 0.1, 1.0] and drive.said == "real time"


def test_the_edge_of_the_ground_leads_back():
    drive = driven(terrain="perlin")
    sims = drive.envs.simulations
    for start in (sims.addresses.base_qpos, sims.addresses.ball_qpos):
        sims.qpos[0, start] += 4.99
    go(drive, 0.1)
    assert drive.episode == 2 and "left the ground" in drive.said
    assert np.hypot(*drive.envs.world.robots.position[:2, 0]) < 1.0


def test_who_cannot_be_told_where_to_go_cannot_be_driven():
    with pytest.raises(SettingsError, match=r"cannot be driven.*frame='world'"):
        driven("paper", terrain="perlin")
    with pytest.raises(SettingsError, match="keys say no path"):
        driven(command="path")


# -- What is drawn ----------------------------------------------------------------------------------------------------


def read_poses(message):
    numbers = np.frombuffer(message, "<f4")
    wheels = int(numbers[10])
    return numbers[:11], numbers[11 : 11 + wheels], numbers[11 + wheels :].reshape(-1, 7)


@pytest.mark.parametrize("robot", ["reference", "rollers", "mini"])
def test_the_page_is_told_every_solid_and_where_it_is(robot):
    envs = BallbotVectorEnv(1, robot=robot, terrain="flat", num_threads=1)
    drive = Drive(envs, lambda obs, began: np.zeros((1, envs.simulations.mechanics.wheels)))
    go(drive, 0.2)
    scene, model = Scene(envs.simulations), envs.simulations.plane
    head, torques, parts = read_poses(scene.poses(drive.now(), 3.0))
    assert head[0] == 1.0 and head[1] == 3.0 and len(torques) == model.nu and len(parts) == len(scene.bodies)
    data = mujoco.MjData(model)
    data.qpos[:] = envs.simulations.qpos[0]
    mujoco.mj_forward(model, data)
    shown = [g for g in range(model.ngeom) if model.geom_group[g] <= 2 and model.geom(g).name != "ground"]
    assert len(scene.solids) == len(shown)
    for solid, geom in zip(scene.solids, shown, strict=True):
        place, turn = parts[solid["body"], :3], parts[solid["body"], 3:].astype(float)
        offset = np.zeros(3)
        mujoco.mju_rotVecQuat(offset, np.array(solid["pos"]), turn)
        assert place + offset == pytest.approx(data.geom_xpos[geom], abs=1e-4)
    (ball,) = (s for s in scene.solids if scene.bodies[s["body"]] == model.body("ball").id)
    assert ball["shape"] == "sphere" and ball["colours"][0] != ball["colours"][1]  # so that it is seen to roll
    assert len(json.dumps(scene.solids)) < 100_000


def test_meshes_are_sent_whole():
    spec = mujoco.MjSpec.from_string(
        '<mujoco><asset><mesh name="m" vertex="0 0 0  1 0 0  0 1 0  0 0 1"/></asset><worldbody>'
        '<body name="b"><freejoint/><geom name="ball" type="mesh" mesh="m" rgba="1 0 0 1"/></body></worldbody></mujoco>'
    )
    model = spec.compile()

    sims: Any = SimpleNamespace(robot_ids=np.zeros(1, int), planes=(model,))
    (solid,) = Scene(sims).solids
    assert solid["shape"] == "mesh" and len(solid["vertices"]) == 12 and len(solid["faces"]) == 12


def test_the_page_is_told_the_ground_as_the_robot_feels_it():
    drive = driven(terrain="perlin")
    message = Scene(drive.envs.simulations).ground()
    kind, size, length, top = struct.unpack("<4f", message[:16])
    heights = np.frombuffer(message[16:], "<u2").reshape(int(size), int(size)) / 65535 * top
    assert kind == 2.0 and length == 10.0
    x, y = -2.0, 3.0
    column, row = (round((at + length / 2) / length * (size - 1)) for at in (x, y))
    at_vertex = [[column * length / (size - 1) - 5, row * length / (size - 1) - 5]]
    assert heights[row, column] == pytest.approx(drive.envs.heights([0], at_vertex)[0], abs=2e-6)
    assert struct.unpack("<4f", Scene(driven().envs.simulations).ground()) == (2.0, 0.0, 0.0, 0.0)


# -- The server -------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(request):
    """A robot that follows velocities, driven at a free port."""
    drive = driven(**getattr(request, "param", {"command": "velocity"}))
    server = Server(drive, "lqr")
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda address: ready.set(),))
    thread.start()
    assert ready.wait(20)
    yield server
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


def status(page, holds):
    """The first status that has what is looked for, while the page says that it is there."""
    for _ in range(400):
        told = page.told()
        if told["kind"] == "status" and holds(told):
            return told
    raise AssertionError("no such status came")


def test_keys_pressed_in_a_page_drive_the_robot(served):
    page = WebSocket(served.port)
    scene = page.told()
    assert scene["kind"] == "scene" and scene["name"] == "lqr" and scene["command"] == "velocity"
    seen: dict[str, Any] = {}
    end = time.monotonic() + 60
    while time.monotonic() < end and not (seen.get("speed", 0) > 0.1 and seen.get("ground")):
        page.send({"stick": [0.0, 1.0], "turn": 0.0})
        opcode, payload = page.receive()
        if opcode == 2 and struct.unpack("<f", payload[:4])[0] == 1.0:
            head, _, _ = read_poses(payload)
            seen |= {"told": head[2:4], "speed": float(head[5])}
        elif opcode == 2:
            seen["ground"] = True
    assert seen["told"] == pytest.approx([0.0, 0.3], abs=5e-3) and seen["speed"] > 0.1
    for key, words in (("slow", "slow motion, 0.5 x"), ("reset", "from the start"), ("next", "flat ground is all")):
        page.send({"press": key})
        assert status(page, lambda told, words=words: words in told["said"])["place"] == 0
    page.send({"press": "push", "along": [0.0, 2.0]})
    assert status(page, lambda told: told["pushes"] == 1)["pushed"] == [0.0, 1.0]
    page.close()
    until(lambda: not served._viewers)  # and who leaves lets go
    again = WebSocket(served.port)
    again.told()
    until(lambda: (again.receive(), not served._drive.envs.command.any())[1])
    again.close()


def test_one_drives_and_others_watch_until_the_first_leaves(served):
    first, second = WebSocket(served.port), WebSocket(served.port)
    assert status(second, lambda told: told["viewers"] == 2)["place"] == 1
    second.send({"press": "push", "along": [1.0, 0.0]})
    second.send({"stick": [1.0, 0.0]})
    for _ in range(3):
        first.send({"stick": [0.0, 0.0]})
        assert status(first, lambda told: True)["pushes"] == 0
    assert not served._drive.envs.command.any()
    first.close()
    assert status(second, lambda told: told["viewers"] == 1)["place"] == 0
    second.send({"press": "push", "along": [1.0, 0.0]})
    assert status(second, lambda told: told["pushes"] == 1)
    second.close()


def test_a_page_that_falls_silent_lets_go_and_then_is_gone(served, monkeypatch):
    monkeypatch.setattr(serving, "LETS_GO", 0.2)
    monkeypatch.setattr(serving, "GONE", 1.0)
    page = WebSocket(served.port)
    page.send({"stick": [1.0, 0.0]})
    until(lambda: served._drive.envs.command.any())
    until(lambda: not served._drive.envs.command.any())
    until(lambda: not served._viewers)
    page.close()


def test_nothing_is_simulated_while_nobody_watches(served):
    time.sleep(0.2)
    assert served._drive.now().seconds == 0.0
    page = WebSocket(served.port)
    until(lambda: served._drive.now().seconds > 0.0)
    page.close()


def test_the_server_has_its_page_and_no_other_file(served):
    code, head, body = get(served.port)
    assert code == 200 and b"drive.js" in body and "default-src 'none'" in head and "frame-ancestors 'none'" in head
    assert b"http" not in body.replace(b"http-equiv", b"")  # nothing comes from elsewhere
    code, head, body = get(served.port, "/drive.js?x=1")
    assert code == 200 and "text/javascript" in head and b"WebSocket" in body
    for path in (
        "/drive.html",
        "/../pyproject.toml",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/policy_default.pt",
        "*",
    ):
        assert get(served.port, path)[0] == 404, path
    assert get(served.port, method="POST")[0] == 405
    assert b" 400 " in answer(served.port, "nonsense\r\n\r\n")
    assert b" 431 " in answer(served.port, "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + 20000 * "x" + "\r\n\r\n")
    assert get(served.port, "/drive")[0] == 403  # a page without a WebSocket


def test_other_sites_in_the_same_browser_are_refused(served):
    port = served.port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "192.168.1.7",
        "",
        "127.0.0.1.evil.example",
        "[::1",
        "0.0.0.0",
    ):
        assert get(port, host=host or " ")[0] == 403, host
        with pytest.raises(OSError, match=" 403 "):
            WebSocket(port, Host=host, Origin=f"http://{host}")
    for host in ("localhost", f"LOCALHOST:{port}", "127.0.0.1", "[::1]:9000"):  # 9000: a forwarded port
        assert get(port, host=host)[0] == 200, host
    for origin in ("http://evil.example", "null", None, f"http://localhost:{port}", f"http://127.0.0.1:{port + 1}"):
        with pytest.raises(OSError, match=r" 403 .*not this server's"):
            try:
                WebSocket(port, Origin=origin)
            except OSError as error:
                raise OSError(str(error).replace("\r\n", " ")) from None
    with pytest.raises(OSError, match=" 426 "):
        WebSocket(port, Sec_WebSocket_Version="8")
    with pytest.raises(OSError, match=" 400 "):
        WebSocket(port, Sec_WebSocket_Key="short")
    assert not served._viewers and served._drive.episode == 1


def test_who_serves_a_network_is_called_by_its_addresses_and_own_name():
    drive = driven()
    assert Server(drive, "lqr", "0.0.0.0", 80).address == "http://127.0.0.1:80/"
    assert Server(drive, "lqr", "::1", 80).address == "http://[::1]:80/"
    server = Server(drive, "lqr", "0.0.0.0")
    assert server._is_called("192.168.1.7:8800") and server._is_called(socket.gethostname())
    assert not server._is_called("evil.example:8800") and not server._is_called("")
    assert "127.0.0.1" not in server._where  # which is for who is refused, perhaps from elsewhere


NONSENSE = [
    (b"\x81\x02{}", 1002),  # not masked
    (b"\x01\x82\0\0\0\0{}", 1003),  # a fragment
    (b"\xc1\x82\0\0\0\0{}", 1002),  # an extension
    (b"\x81\xfe\xff\xff\0\0\0\0", 1009),  # too long
    (b"\x81\xff" + 8 * b"\xff" + 4 * b"\0", 1009),
    (b"\x83\x80\0\0\0\0", 1002),  # no such kind
    (b"\x81\x82\0\0\0\0\xff\xff", 1007),
    ("{", 1007), ("[]", 1008), ('{"stick": [1]}', 1008), ('{"stick": [NaN, 0]}', 1008), ('{"stick": {}}', 1008),
    ('{"stick": [1e999, 0]}', 1008), ('{"stick": ["1", true]}', 1008), ('{"stick": [0, 0], "turn": null}', 1008),
    ('{"press": "delete"}', 1008), ('{"press": ["push"]}', 1008), ('{"press": "push"}', 1008), (900 * "[", 1007),
]  # fmt: skip


def test_a_page_that_talks_nonsense_is_closed_and_told_why(served):
    for data, code in NONSENSE:
        page = WebSocket(served.port)
        if isinstance(data, str):
            page.send(data.encode())
        else:
            page.raw(data)
        assert page.close_code() == code, data
        page.close()
        until(lambda: not served._viewers)
    assert get(served.port)[0] == 200 and not served._drive.pushes


def test_pages_that_flood_or_are_too_many_are_refused(served, monkeypatch):
    page = WebSocket(served.port)
    for _ in range(serving.MOST_MESSAGES + 1):
        page.send({"stick": [0.0, 0.0]})
    assert page.close_code() == 1008
    page.close()
    until(lambda: not served._viewers)
    monkeypatch.setattr(serving, "MOST_VIEWERS", 1)
    page = WebSocket(served.port)
    with pytest.raises(OSError, match=" 503 "):
        WebSocket(served.port)
    page.close()


def test_a_page_says_ping_and_goodbye(served):
    page = WebSocket(served.port)
    page.send(b"hello", opcode=9)
    until(lambda: page.receive() == (10, b"hello"))
    page.send((1000).to_bytes(2, "big"), opcode=8)
    assert page.close_code() == 1000
    page.close()


def test_a_page_that_is_gone_as_it_comes_ends_nothing(served):
    own = f"127.0.0.1:{served.port}"
    request = (
        f"GET /drive HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    goodbye = b"\x88\x80\0\0\0\0"
    assert b" 101 " in answer(served.port, request.encode() + goodbye)  # in one packet
    page = WebSocket(served.port)
    assert page.told()["kind"] == "scene"
    page.close()


def deaf(server):
    """A page that reads nothing, as the server knows it, once much waits for it."""
    page = WebSocket(server.port)
    page.told()
    (viewer,) = server._viewers
    server._loop.call_soon_threadsafe(viewer.writer.write, bytes(serving.FAR_BEHIND // 2))
    until(lambda: viewer.writer.transport.get_write_buffer_size() > serving.LATE)
    return page, viewer.writer.transport


def test_a_page_that_does_not_take_what_is_left_is_given_up(served, monkeypatch):
    monkeypatch.setattr(serving, "TAKE_TIME", 0.2)
    page, transport = deaf(served)
    page.send(b"", opcode=8)
    until(lambda: not served._connections, seconds=10.0)
    until(lambda: transport.get_write_buffer_size() == 0, seconds=10.0)
    page.close()


def test_a_page_that_does_not_read_does_not_hold_up_the_end(served):
    page, transport = deaf(served)
    served.stop()
    until(lambda: transport.get_write_buffer_size() == 0, seconds=10.0)  # dropped: Python 3.12 would wait for it
    page.close()


# -- The program ------------------------------------------------------------------------------------------------------


def test_bad_input_is_named_and_exits_with_2(tmp_path, monkeypatch):
    monkeypatch.setenv("DISPLAY", "")
    monkeypatch.setenv("WAYLAND_DISPLAY", "")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        cases: list[tuple[list[object], str]] = [
            (["lqr", "--web", "--port", taken], f"port {taken} is taken"),
            (["lqr", "--web", "--port", 70000], "--port must be a whole number from 0 to 65535"),
            (["lqr", "--web", "--host", ""], "--host is empty: take 127.0.0.1"),
            (["lqr", "--web", "--host", "nowhere.invalid"], "--host nowhere.invalid is no address"),
            (["lqr", "--web", "--host", "203.0.113.9"], "--host 203.0.113.9 is no address of this machine"),
            (["lqr", "--web", "--command", "path"], "keys say no path"),
            (["default", "--web", "--command", "velocity"], "observed as 'velocity_command'"),
            (["default", "--web", "--robot", "kugle"], "the robot that it was trained for"),
            (["paper", "--web"], "cannot be driven"),
            (["pid", "--web"], "pid stands"),
            (["lqr", "--web", "--record", "a.gif"], "leave out --web"),
            (["lqr", "--drive", "--record", "a.gif"], "leave out --drive"),
        ]
        if sys.platform.startswith("linux"):
            cases.append((["lqr", "--drive"], "--web"))
        for options, words in cases:
            done = call("watch.py", *options, "--terrain", "flat", folder=tmp_path)
            assert done.returncode == 2 and words in done.stderr, (options, done.stderr)
    assert not list(tmp_path.iterdir())


def test_the_program_says_where_its_page_is(monkeypatch, capsys):
    watch = importlib.import_module("watch")
    opened: list[str] = []
    monkeypatch.setattr(watch.webbrowser, "open", opened.append)
    monkeypatch.setattr(watch, "has_display", lambda: True)
    monkeypatch.setattr(Server, "run", lambda self, ready: ready("http://127.0.0.1:1/"))
    assert watch.main(["lqr", "--web", "--terrain", "flat", "--port", "0"]) == 0
    assert "drive at http://127.0.0.1:1/" in capsys.readouterr().out
    until(lambda: opened == ["http://127.0.0.1:1/"])


def test_the_viewers_keys_drive_the_robot(monkeypatch):
    from mujoco import viewer

    watch = importlib.import_module("watch")
    given: dict[str, Any] = {"texts": [], "drawn": 0}
    keys = iter([[], [UP], [SPACE], [INSERT], [DELETE], [BACKSPACE], []])

    class Window:
        perturb = mujoco.MjvPerturb()
        cam = mujoco.MjvCamera()

        def lock(self):
            return threading.Lock()

        def is_running(self):
            return given["running"]

        def sync(self):
            if given["drawn"] % 20 == 0:
                pressed = next(keys, None)
                given["running"] = pressed is not None
                for key in pressed or ():
                    given["on_key"](key)
            given["drawn"] += 1

        def update_hfield(self, number):
            pass

        def set_texts(self, texts):
            given["texts"].append(texts[3])

        def close(self):
            pass

    def launch(model, data, key_callback=None, **options):
        given.update(on_key=key_callback, running=True)
        return Window()

    monkeypatch.setattr(viewer, "launch_passive", launch)
    monkeypatch.setenv("DISPLAY", ":0")
    made = []
    monkeypatch.setattr(watch, "Drive", lambda *args: made.append(Drive(*args)) or made[0])  # type: ignore[func-returns-value]
    assert watch.main(["lqr", "--drive", "--command", "velocity", "--terrain", "perlin"]) == 0
    (drive,) = made
    assert drive.pushes == 1 and drive.episode == 3 and drive.speed == 0.5 and drive.said == "from the start"
    assert any(text.startswith("0.05, 0.00, 0.00\n") for text in given["texts"])


# -- The page in a browser --------------------------------------------------------------------------------------------


@pytest.fixture
def browse(tmp_path):
    with browsing(tmp_path) as open_page:
        yield open_page


def test_keys_in_a_browser_move_the_robot_that_it_draws(served, browse):
    page = browse(served.address)
    until(lambda: page.see("drive.state.frames.length > 2 && drive.state.scene !== null"))
    until(lambda: page.see("document.querySelector('#role').textContent") == "you drive")
    begin = np.array(page.see("drive.state.position"))
    page.key("KeyW")
    until(lambda: (page.see("drive.state.speed") or 0) > 0.15)
    told, seen = np.array(page.see("drive.state.told")), page.see("drive.camera.azimuth")
    assert told == pytest.approx(0.3 * np.array([np.cos(seen), np.sin(seen)]), abs=0.01)  # away from who looks
    until(lambda: np.hypot(*(np.array(page.see("drive.state.position")) - begin)[:2]) > 0.1)
    with Image.open(io.BytesIO(page.picture())) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    red, green, blue = pixels.T
    assert ((red > 200) & (green > 80) & (green < 170) & (blue < 90)).sum() > 50  # the ball
    assert len(np.unique(pixels, axis=0)) > 500  # and ground, sky and shadow
    page.key("KeyW", down=False)
    until(lambda: page.see("Math.hypot(...drive.state.told)") == 0)
    page.key("Space")
    until(lambda: page.see("drive.state.status.pushes") == 1)
    # a gamepad, as the browser tells of it, and how it goes
    page.see(
        "window.pads = [{connected: true, axes: [1, 0], buttons: [], id: 'pad'}]; navigator.getGamepads = () => pads"
    )
    until(lambda: page.see("Math.hypot(...drive.state.told)") > 0.29)
    page.see("pads = [null]; dispatchEvent(new Event('gamepaddisconnected'))")
    until(lambda: page.see("Math.hypot(...drive.state.told)") == 0)
    time.sleep(0.5)  # states of the robot come five times a second
    assert page.see("document.querySelector('#said').textContent") == "the gamepad is gone: its stick is let go"
    press_cruise = "document.querySelector('[data-press=cruise]').click()"
    for go_on in (lambda: page.key("KeyC"), lambda: page.see(press_cruise)):
        page.key("KeyW")
        until(lambda: page.see("Math.hypot(...drive.state.told)") > 0.29)
        go_on()
        page.key("KeyC", down=False)
        page.key("KeyW", down=False)
        time.sleep(0.5)
        assert page.see("Math.hypot(...drive.state.told)") > 0.29  # without a key
        page.key("KeyS")
        until(lambda: page.see("drive.state.told[0]") < -0.05)
        page.key("KeyS", down=False)
        until(lambda: page.see("Math.hypot(...drive.state.told)") == 0)  # who steers anew drives again
    page.key("KeyC")
    until(lambda: "steer" in page.see("document.querySelector('#said').textContent"))
    served.stop()
    until(lambda: "No connection" in page.see("document.querySelector('#fault.shown')?.textContent || ''"))


def test_a_browser_that_cannot_draw_says_so_and_drives(served, browse):
    page = browse(served.address, "--disable-3d-apis")
    until(lambda: "no WebGL 2" in (page.see("document.querySelector('#fault.shown')?.textContent") or ""))
    until(lambda: page.see("drive.state.scene !== null"))
    page.key("ArrowUp")
    until(lambda: (page.see("drive.state.speed") or 0) > 0.1)
