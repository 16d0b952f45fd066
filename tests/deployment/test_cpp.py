# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The C++ runtime does what the Python one does: same states, same torques, in time."""

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import CPP, build, build_with_onnxruntime
from exporting import CASES, Exported
from inprocess import call
from policies import save_policy

from ballbot.deployment.export import export_policy
from ballbot.envs import FIELDS, BallbotVectorEnv, Field
from ballbot.ppo import load_policy

pytest.importorskip("onnxscript")
runtime = pytest.importorskip("ballbot.deployment.runtime")

HERE = Path(__file__).parent
STATUS = ("ok", "no image", "stale image", "no command", "no position", "sensors held", "sensors lost", "fallen",
          "policy failed")  # fmt: skip
ORDER = ("orientation", "angular_velocity", "velocity", "wheel_speeds", "goal", "command", "position")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The C++ runtime behind a pipe."""
    return build_with_onnxruntime(HERE / "runtime_driver.cpp", tmp_path_factory.mktemp("cpp") / "driver")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("exported"))


class Driver:
    """The C++ controller, as the Python one."""

    def __init__(self, program: Path, *arguments: Any) -> None:
        self._pipe = subprocess.Popen(
            [program, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._pipe.stdin is not None and self._pipe.stdout is not None
        self._in, self._out = self._pipe.stdin, self._pipe.stdout
        (self.wheels,) = self._get("i")

    def _put(self, content: bytes) -> None:
        self._in.write(content)
        self._in.flush()

    def _get(self, form: str) -> tuple[Any, ...]:
        content = self._out.read(struct.calcsize("=" + form))
        assert len(content) == struct.calcsize("=" + form), f"it ended: {self._pipe.communicate()[1].decode()}"
        return struct.unpack("=" + form, content)

    def act(self, sensors: Any) -> Any:
        parts = [b"a"]
        for value in [*(getattr(sensors, name) for name in ORDER), getattr(sensors, "own", None)]:
            numbers = None if value is None else np.array(value, np.float64).reshape(-1)
            parts.append(struct.pack("=i", -1 if numbers is None else len(numbers)))
            parts.append(b"" if numbers is None else numbers.tobytes())
        self._put(b"".join(parts))
        status, self.allocations, *torques = self._get(f"ii{self.wheels}d")
        self.status = STATUS[status]
        return np.array(torques)

    def see(self, depth: Any, age: float = 0.0) -> str:
        depth = np.asarray(depth, np.float32)
        self._put(b"s" + struct.pack("=di", age, depth.size) + depth.tobytes())
        (size,) = self._get("i")
        return self._out.read(size).decode()

    def reset(self) -> None:
        self._put(b"r")

    def times(self, steps: int) -> tuple[Any, Any]:
        """us of each act at 500 Hz, and of each see."""
        self._put(b"b" + struct.pack("=i", steps))
        found = np.array(self._get(f"{2 * steps}d"))
        return found[:steps], found[steps:][found[steps:] > 0]

    def close(self) -> None:
        self._in.close()
        self._pipe.wait(20)


@pytest.fixture
def driver(program):
    open_ones = []

    def start(*arguments):
        open_ones.append(Driver(program, *arguments))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.close()


def of_both(exported, driver, name):
    """The controllers of a policy in Python and C++."""
    options, path = exported[name]
    action = options.get("action", "torque")
    return runtime.Controller(path, action=action), driver(path, "", "", action)


@pytest.mark.parametrize(("name", "steps"), [("road", 300), ("cheap", 1000), ("wheel speeds", 300)])
def test_it_drives_the_simulated_robot_with_the_torques_of_python(exported, driver, name, steps):
    """Sensors are noisy and sometimes missing; robots that fall begin anew."""
    options, _ = exported[name]
    sees = "encoder" in options
    raw = {k: v for k, v in options.items() if k != "encoder"} | ({"observation": "depth"} if sees else {})
    envs = BallbotVectorEnv(1, **raw, terrain_split="eval", num_terrains=2, num_threads=1)
    (python, cpp), rng = of_both(exported, driver, name), np.random.default_rng(0)
    obs, _ = envs.reset(seed=3)
    apart, largest, seen = 0.0, 0.0, set()
    for step in range(steps):
        robot = envs.simulations.robot_state()
        sensors = runtime.Sensors(
            robot.quaternion[:, 0], robot.gyro[:, 0] + rng.normal(0, 0.01, 3), robot.velocity[:, 0],
            robot.wheel_speeds[:, 0], envs.goal[0] if python.kind == "goal" else None, envs.command[0],
            robot.position[:2, 0],
        )  # fmt: skip
        if step % 100 > 97:
            sensors.angular_velocity = np.full(3, np.nan)
        if sees and obs["image_age"][0, 0] == 0:
            python.see(obs["depth"][0])
            assert cpp.see(obs["depth"][0]) == ""
        torques, theirs = python.act(sensors), cpp.act(sensors)
        assert cpp.status == python.status and cpp.allocations == 0, (step, cpp.status, cpp.allocations)
        apart, largest = max(apart, float(np.abs(theirs - torques).max())), max(largest, float(np.abs(torques).max()))
        seen.add(python.status)
        obs, _, terminated, truncated, _ = envs.step((theirs / python.per_action)[None])
        if terminated[0] or truncated[0]:
            python.reset()
            cpp.reset()
    envs.close()
    print(f"{name}: torques differ by {apart:.1e} N m at most in {steps} steps, of up to {largest:.1f} N m")
    assert apart <= 1e-5 and largest > 0.05 and {"ok", "sensors held"} <= seen


def fault(rng: Any, size: int) -> Any:
    """Something that a sensor should not deliver."""
    wrong: list[Any] = [None, np.zeros(0), np.zeros(size), np.zeros(size + 1), np.zeros(200)]
    wrong += [np.full(size, number) for number in (np.nan, np.inf, -1e7, 25.0)]
    return wrong[rng.integers(len(wrong))]


@pytest.mark.parametrize("name", ["road", *CASES])
def test_it_has_the_states_of_python_whatever_sensors_deliver(exported, driver, name):
    """Bursts of faults, tilts, late images and resets at random, without a robot."""
    (python, cpp), rng = of_both(exported, driver, name), np.random.default_rng(1)
    wheels, kind, seen, wrong = python.wheels, python.kind, set(), 0
    sizes = {"velocity": [3] * 4, "path": [2, 4, 8, 6]}.get(kind, [2] * 4)
    commands = [rng.uniform(-1, 1, size) for size in sizes]
    image = rng.uniform(0, 1.2, python.contract["camera"]["shape"]) if python.camera else None
    broken: dict[str, int] = {}
    for step in range(1500):
        if rng.random() < 0.01:
            python.reset()
            cpp.reset()
        if image is not None and rng.random() < 0.03:
            age = float(rng.uniform(0, 0.05))
            image.flat[rng.integers(image.size, size=50)] = rng.choice([np.nan, np.inf, -np.inf, 0.5])
            python.see(image, age)
            assert cpp.see(image, age) == ""
        tilt, turn = rng.normal(0, 0.06, 2) + (rng.random() < 0.01), rng.uniform(-np.pi, np.pi)
        orientation = np.array([np.cos(turn / 2), *tilt / 2, np.sin(turn / 2)])
        goal = rng.normal(size=2)
        values: dict[str, Any] = {
            "orientation": orientation / np.linalg.norm(orientation), "angular_velocity": rng.normal(0, 0.5, 3),
            "velocity": rng.normal(0, 0.2, 3), "wheel_speeds": rng.normal(0, 3, wheels),
            "goal": goal / np.linalg.norm(goal), "command": commands[step // 97 % 4], "position": rng.normal(0, 0.3, 2),
        }  # fmt: skip
        if rng.random() < 0.03:
            broken[ORDER[rng.integers(len(ORDER))]] = step + int(rng.choice([1, 4, 12, 60]))
        for name_of, until in broken.items():
            if until > step:
                values[name_of] = fault(rng, np.size(values[name_of]))
        sensors = runtime.Sensors(**values)
        torques, theirs = python.act(sensors), cpp.act(sensors)
        assert cpp.status == python.status, (step, values)
        seen.add(python.status)
        wrong += bool(np.abs(theirs - torques).max() > 1e-5)
        assert cpp.allocations == 0
    assert wrong == 0 and {"ok", "sensors held", "sensors lost", "fallen"} <= seen
    assert ("no image" in seen) == (image is not None)


def test_images_that_it_cannot_take_are_named_and_the_old_ones_stay(exported, driver):
    python, cpp = runtime.Controller(exported["road"][1]), driver(exported["road"][1])
    shape = tuple(python.contract["camera"]["shape"])
    sensors = runtime.Sensors([1, 0, 0, 0], np.zeros(3), np.zeros(3), np.zeros(3), [0, 1])
    assert cpp.act(sensors).tolist() == [0, 0, 0] and cpp.status == "no image"
    assert cpp.see(np.zeros(5)) == "images have another size than this policy takes"
    for age in (-1.0, np.nan, np.inf):
        assert "since they were taken" in cpp.see(np.zeros(shape), age)
    cpp.act(sensors)
    assert cpp.status == "no image"
    assert cpp.see(np.full(shape, 0.3)) == ""
    statuses = [(cpp.act(sensors).any(), cpp.status)[1] for _ in range(60)]
    assert statuses[0] == "ok" and statuses[-1] == "stale image"
    assert "trained without cameras" in driver(exported["world"][1]).see(np.zeros(5))


def refusal(program, *arguments):
    """The one line with which it refuses a policy."""
    done = subprocess.run([program, *map(str, arguments)], input=b"", capture_output=True, timeout=60)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 2 and line.startswith("error: "), done
    return line


def test_policies_that_it_cannot_drive_are_refused_in_one_line(exported, program, tmp_path, monkeypatch):
    path, seeing = exported["world"][1], exported["road"][1]
    shutil.copy(seeing, tmp_path / "lonely.onnx")
    shutil.copy(seeing, tmp_path / "p.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    (tmp_path / "empty.onnx").write_bytes(b"")
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("none.onnx",), "none.onnx does not exist: export the policy with export_policy.py"),
        ((tmp_path / "lonely.onnx",), "road.camera.onnx does not exist"),
        ((seeing.with_name("road.camera.onnx"),), "holds a graph of kind camera"),
        ((tmp_path / "bad.onnx",), "is no policy that export_policy.py wrote"),
        ((tmp_path / "empty.onnx",), "is no policy that export_policy.py wrote"),
        ((path, "mini"), "was trained for the robot 'reference', this program drives 'mini'"),
        ((path, "reference", "velocity"), "is told a goal, this program gives a velocity"),
    ]
    content = path.read_bytes()
    for i, place in enumerate((len(content) // 3, len(content) - 2000, len(content) - 200)):
        (tmp_path / f"{i}.onnx").write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        cases.append(((tmp_path / f"{i}.onnx",), f"{i}.onnx "))
    for arguments, words in cases:
        assert words in refusal(program, *arguments), arguments
    runtime.Controller(path, robot="reference", command="goal")  # Python does the same
    for more in ({"robot": "mini"}, {"command": "velocity"}):
        with pytest.raises(ValueError, match="this program"):
            runtime.Controller(path, **more)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"period": None}, "does not say 'period'"),
        ({"period": "soon"}, "has a value of the wrong kind"),
        ({"action": "wheel_speed"}, "asks motors for wheel_speed, this program gives them torque"),
        ({"output": {"size": 2.5}}, "has a wrong size"),
        ({"output": {"size": 9}}, "is for 9 wheels, 8 are the most"),
        ({"frame": "world", "goal": [1.0]}, "has a wrong goal"),
        ({"command": {"kind": "velocity", "size": 3, "max_speed": 0.3}}, "does not say 'range'"),
        ({"velocity": {"turn": [[0, 0, 0]]}}, "estimates the velocity of another robot"),
        ({"input": {"fields": [{"field": "temperature", "size": 17}]}}, 'options.readers["temperature"] = ...'),
        ({"input": {"fields": [{"field": "gravity", "size": 17}]}}, "observes 17 numbers as 'gravity', it has 3"),
        (
            {"input": {"fields": [{"field": "gravity@3", "size": 17}]}},
            "observes 'gravity@3' without 'gravity' before it",
        ),
        ({"input": {"fields": [{"field": "\u00e9\u20ac\U0001f600", "size": 17}]}}, "observes '\u00e9\u20ac\U0001f600'"),
        (
            {"input": {"fields": [{"field": "station", "size": 2}]}},
            "observes 'station', which this controller cannot read",
        ),
        ({"input": {"fields": [{"field": "gravity", "size": 3}]}}, "does not run"),
        ('{"kind": "control", "checksum": "', "its contract is damaged at byte"),
        ('{"kind": "control",, "checksum": "0"}', "its contract is damaged at byte"),
        ("[" * 1000, "its contract is damaged at byte"),
        ('{"kind": "control", "checksum": "\\ud83d"', "its contract is damaged at byte"),
        ("nul", "its contract is damaged at byte"),
        ("[]", "holds a graph of kind unknown"),
    ],
)
def test_contracts_that_are_wrong_are_named(program, tmp_path, change, words):
    """With the right checksum: of the golden run's graph, of 17 numbers."""
    onnx: Any = pytest.importorskip("onnx")
    model = onnx.load(HERE.parent / "golden" / "version_0_1.onnx")
    contract = {**json.loads(model.metadata_props[0].value), "checksum": 64 * "0"}
    for name, value in change.items() if isinstance(change, dict) else ():
        contract[name] = value
    text = change if isinstance(change, str) else json.dumps(contract)
    onnx.helper.set_model_props(model, {"ballbot": text})
    content = model.SerializeToString()
    content = content.replace(64 * b"0", hashlib.sha256(content).hexdigest().encode())
    (tmp_path / "p.onnx").write_bytes(content)
    assert words in refusal(program, tmp_path / "p.onnx")


def test_fields_of_a_users_own_are_handed_in(driver, tmp_path, monkeypatch):
    monkeypatch.setitem(FIELDS, "height", Field(1, lambda step: step.robots.position[2:], "m", "world axes", "scalar"))
    policy = load_policy(save_policy(tmp_path / "p.pt", 18, gain=40.0, extra_fields=["height"]))
    export_policy(policy, tmp_path / "p.onnx")
    cpp = driver(tmp_path / "p.onnx")
    python = runtime.Controller(tmp_path / "p.onnx", readers={"height": lambda s, c: s.own})

    def sensors(height, **changes):
        found = runtime.Sensors([1, 0, 0, 0], np.zeros(3), np.zeros(3), changes.get("wheels", np.ones(3)), [0, 1])
        found.own = [height]
        return found

    @dataclass
    class Mine(runtime.Sensors):  # type: ignore[name-defined, misc]
        own: Any = None

    monkeypatch.setattr(runtime, "Sensors", Mine)
    for height in (0.25, 3.0):
        np.testing.assert_allclose(cpp.act(sensors(height)), python.act(sensors(height)), atol=1e-5)
    held = cpp.act(sensors(7.0, wheels=None))
    np.testing.assert_allclose(held, python.act(sensors(3.0)), atol=1e-5)  # kept with the rest
    for failing in (np.nan, 13.0):  # one that is no number, one for which the reader throws
        assert not cpp.act(sensors(failing)).any() and cpp.status == "policy failed"


def test_without_onnxruntimes_headers_the_compiler_says_what_to_do(tmp_path):
    done = build(CPP / "main.cpp", tmp_path / "drive")
    if "onnxruntime_cxx_api.h" not in done.stderr and "headers are missing" not in done.stderr:
        pytest.skip("they are where every compiler finds them")
    assert (
        done.returncode != 0 and "onnxruntime's C++ headers are missing: apt install libonnxruntime-dev" in done.stderr
    )


def test_export_policy_puts_a_loop_beside_the_graphs_and_keeps_yours(tmp_path):
    save_policy(tmp_path / "p.pt")
    (tmp_path / "main.cpp").write_text("mine")
    (tmp_path / "ballbot_runtime.hpp").write_text("of an older version")
    done = call("export_policy.py", "p.pt", "--observations", 20, "--cpp", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "main.cpp").read_text() == "mine" and (tmp_path / "CMakeLists.txt").is_file()
    assert (tmp_path / "ballbot_runtime.hpp").read_bytes() == (CPP / "ballbot_runtime.hpp").read_bytes()


def test_the_loop_to_fill_in_runs_as_it_is(exported, tmp_path):
    program = build_with_onnxruntime(CPP / "main.cpp", tmp_path / "drive", "-O0")
    with_no_input: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    pipe: Any = subprocess.Popen([program, exported["cheap"][1]], **with_no_input)
    time.sleep(1.0)
    pipe.send_signal(signal.SIGINT)
    said, _ = pipe.communicate(timeout=20)
    assert pipe.returncode == 0 and "median" in said.splitlines()[-1], said
    assert subprocess.run([program, "none.onnx"], capture_output=True, text=True).returncode == 2


def test_it_steps_in_time(exported, driver, capsys):
    """At 500 Hz on one core.  On a busy machine steps are interrupted, so the best of some tries counts."""
    python = runtime.Controller(exported["default"][1])
    cpp = driver(exported["default"][1])
    cpp.see(np.full(python.contract["camera"]["shape"], 0.3))
    cpp.act(runtime.Sensors([1, 0, 0, 0], np.zeros(3), np.zeros(3), np.zeros(3), [0, 1]))
    busy = os.getloadavg()[0] > (os.cpu_count() or 1) / 2
    found = []
    for _ in range(4):
        acts, sees = cpp.times(500)
        found.append((*np.percentile(acts, [50, 99.9]), np.median(sees)))
        if found[-1][0] < 50 and found[-1][1] < 200:
            break
    median, slow, image = np.min(found, axis=0)
    with capsys.disabled():
        print(f"\ndefault in C++: act {median:.0f} us, 99.9th percentile {slow:.0f} us; see {image:.0f} us", flush=True)
    assert median < 50
    assert slow < 200 or busy
