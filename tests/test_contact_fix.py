"""The contact fix: friction of a capsule on a sphere follows the capsule's axis, and nothing else changes."""

import ctypes
import dataclasses
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mujoco
import numpy as np
import pytest
from mujoco.batch import Batch
from numpy.typing import NDArray

import mujoco_patch
from mujoco_patch import ContactFixError, contact_fix, layout, self_check

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "mujoco_patch" / "contact_fix.c"
BALLBOT = ROOT / "ballbot" / "assets" / "ballbot.xml"

# A ball that cannot turn lies on top of a long wheel whose axle is horizontal and points in any direction.
WHEEL = """
<mujoco>
  <option cone="{cone}" timestep="0.001" gravity="0 0 -9.81" tolerance="1e-14" iterations="200"/>
  <worldbody>
    <body euler="0 0 {heading}">
      <body euler="0 90 0">
        <joint type="hinge" axis="0 0 1" armature="1000"/>
        <geom name="wheel" type="capsule" size="0.025 0.5" mass="1"/>
      </body>
    </body>
    <body pos="0 0 0.115">
      <joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/><joint type="slide" axis="0 0 1"/>
      <geom name="ball" type="sphere" size="0.09" mass="0.2"/>
    </body>
  </worldbody>
  <contact><pair geom1="ball" geom2="wheel" condim="3" friction="{friction}"/></contact>
</mujoco>
"""


def compile_library(source: str, folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "contact_fix.c").write_text(source)
    target = folder / "_contact_fix.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(folder / "contact_fix.c"), "-o", str(target)], check=True)
    return target


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(SOURCE.read_text(), tmp_path_factory.mktemp("contact_fix"))


@pytest.fixture(autouse=True)
def start_and_end_with_stock_mujoco(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(contact_fix.ENVIRONMENT_VARIABLE, raising=False)
    mujoco_patch.uninstall()
    yield
    mujoco_patch.uninstall()


@pytest.fixture
def use_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_fix, "library_candidates", lambda *_: [library])


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def wheel(heading_deg: float, friction: str = "0.001 1.0 0 0 0", cone: str = "elliptic") -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(WHEEL.format(heading=heading_deg, friction=friction, cone=cone))


def slide_over_wheel(model: mujoco.MjModel, spin: float, velocity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean friction (x, y) over mean normal force in 20 ms after wheel and ball get `spin`, `velocity`.

    Both from the change of momentum alone. MuJoCo's soft contact also lifts a ball that slides at high
    friction, so the normal force is not just the weight.
    """
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 500)  # settle: the soft contact carries the weight
    data.qvel[0], data.qvel[1:] = spin, velocity
    mujoco.mj_step(model, data, 20)
    acceleration = (data.qvel[1:] - velocity) / 0.020
    return acceleration[:2] / (acceleration[2] + 9.81)


@pytest.mark.parametrize("heading_deg", [0, 37, 90, 155])
@pytest.mark.parametrize("choice", ["c", "python"])
def test_spinning_wheel_drags_the_ball_across_its_axle(
    use_library: None, choice: contact_fix.Choice, heading_deg: float
) -> None:
    mujoco_patch.install(choice)
    heading = np.radians(heading_deg)
    across = np.array([-np.sin(heading), np.cos(heading)])
    friction = slide_over_wheel(wheel(heading_deg), spin=-100.0, velocity=np.zeros(3))
    # 2 %: meanwhile the ball moves 2 to 4 mm off the top, where the normal is no longer quite vertical.
    np.testing.assert_allclose(friction, 1.0 * across, atol=0.02)


@pytest.mark.parametrize("heading_deg", [0, 37, 90, 155])
@pytest.mark.parametrize("choice", ["c", "python"])
def test_wheel_slips_freely_along_its_axle(use_library: None, choice: contact_fix.Choice, heading_deg: float) -> None:
    mujoco_patch.install(choice)
    heading = np.radians(heading_deg)
    along = np.array([np.cos(heading), np.sin(heading), 0])
    friction = slide_over_wheel(wheel(heading_deg), spin=0.0, velocity=along)
    np.testing.assert_allclose(friction, -0.001 * along[:2], atol=0.02 * 0.001)


@pytest.mark.fault("stock MuJoCo, without the contact fix")
def test_stock_mujoco_fails_the_self_check_and_the_fix_passes_it(use_library: None) -> None:
    with pytest.raises(ContactFixError, match=r"not installed.*install\(\)"):
        mujoco_patch.verify()
    mujoco_patch.install("c")
    report = mujoco_patch.verify()
    assert report.contacts == 2 * 2 * 48
    assert report.worst_alignment > 1 - 1e-12
    assert report.drive_ratio == pytest.approx(1.0, rel=1e-3)
    assert report.slip_ratio == pytest.approx(0.001, rel=1e-3)
    assert mujoco_patch.verify() is report  # not measured again
    assert mujoco_patch.verify(force=True) is not report


@pytest.mark.fault("colliders that leave the tangent unset, swap axes, take the wrong geom or write elsewhere")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("{mat[2], mat[5], mat[8]}", "{mat[0], mat[3], mat[6]}", id="x axis of the capsule"),
        pytest.param("{mat[2], mat[5], mat[8]}", "{mat[6], mat[7], mat[8]}", id="row instead of column"),
        pytest.param("(size_t)g2", "(size_t)g1", id="axis of the ball"),
        pytest.param(">= MIN_SINE_SQUARED", "< 0", id="tangent left unset"),
        pytest.param("cone != elliptic", "cone == elliptic", id="only for pyramids"),
        pytest.param("tangent_offset = tangent_offset_", "tangent_offset = 8", id="tangent over position"),
    ],
)
def test_self_check_catches_a_wrong_collider(
    right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCE.read_text()
    assert source.count(right) == 1
    broken = compile_library(source.replace(right, wrong), tmp_path)
    monkeypatch.setattr(contact_fix, "library_candidates", lambda *_: [broken])
    mujoco_patch.install("c")
    with pytest.raises(ContactFixError, match="self-check failed"):
        mujoco_patch.verify()


@pytest.mark.fault("friction along and across an axle swapped")
def test_self_check_catches_swapped_friction_coefficients(use_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = self_check._MODEL.replace("{along} {across}", "{across} {along}")
    assert swapped != self_check._MODEL
    monkeypatch.setattr(self_check, "_MODEL", swapped)
    mujoco_patch.install()
    with pytest.raises(ContactFixError, match=r"across the axle is 0\.0010"):
        mujoco_patch.verify(force=True)


def ballbot_trajectory(nthread: int) -> NDArray[np.float64]:
    model = mujoco.MjModel.from_xml_path(str(BALLBOT))
    batch = Batch(model, nsim=4, nthread=nthread)
    control, qpos = batch.bind("ctrl"), batch.bind("qpos")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(100):
        control[:] = rng.uniform(-3, 3, control.shape)
        batch.step(nstep=4)
        rows.append(qpos.copy())
    return np.array(rows)


def test_compiled_and_python_colliders_agree_to_the_last_bit_at_any_thread_count(use_library: None) -> None:
    stock = ballbot_trajectory(nthread=1)
    mujoco_patch.install("c")
    compiled = ballbot_trajectory(nthread=1)
    assert np.abs(compiled - stock).max() > 0.01  # the fix matters for this robot
    np.testing.assert_array_equal(ballbot_trajectory(nthread=2), compiled)
    mujoco_patch.install("python")
    assert mujoco_patch.implementation() == "python"
    np.testing.assert_array_equal(ballbot_trajectory(nthread=1), compiled)
    np.testing.assert_array_equal(ballbot_trajectory(nthread=2), compiled)


def rolling_ball(model: mujoco.MjModel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Trajectory, and constraint forces in joint coordinates, of a ball flung over a turning wheel."""
    data = mujoco.MjData(model)
    data.qvel[:] = [20, 0.3, 0.2, 0]
    qpos, force = [], []
    for _ in range(200):
        mujoco.mj_step(model, data)
        qpos.append(data.qpos.copy())
        force.append(data.qfrc_constraint.copy())
    return np.array(qpos), np.array(force)


def test_isotropic_friction_is_physically_unchanged(use_library: None) -> None:
    model = wheel(37, friction="0.6 0.6 0 0 0")
    qpos, force = rolling_ball(model)
    mujoco_patch.install("c")
    fixed_qpos, fixed_force = rolling_ball(model)
    assert np.abs(force[:, 1:]).max() > 1  # N: there is contact to compare
    # The same cone in a rotated frame: only rounding and the solver's stopping point (1e-14, scaled) differ.
    np.testing.assert_allclose(fixed_qpos, qpos, rtol=0, atol=1e-9)
    np.testing.assert_allclose(fixed_force, force, rtol=0, atol=1e-6)


def test_pyramidal_models_are_unchanged_to_the_last_bit(use_library: None) -> None:
    model = wheel(37, cone="pyramidal")
    stock = rolling_ball(model)
    for choice in ("c", "python"):
        mujoco_patch.install(choice)
        for ours, theirs in zip(rolling_ball(model), stock, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("choice", ["c", "python"])
def test_contact_at_the_very_end_of_a_capsule_keeps_an_orthonormal_frame(
    use_library: None, choice: contact_fix.Choice
) -> None:
    mujoco_patch.install(choice)
    model = mujoco.MjModel.from_xml_string("""<mujoco><option cone="elliptic"/><worldbody>
      <geom type="capsule" size="0.1" fromto="0 0 0 0.3 0.4 0.5"/>
      <body pos="0.36 0.48 0.6"><freejoint/><geom type="sphere" size="0.1"/></body></worldbody></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    frame = data.contact[0].frame.reshape(3, 3)
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)


@pytest.mark.fault("the contact fix undone in MuJoCo's table")
def test_fix_undone_behind_our_back_is_noticed_and_put_back(use_library: None) -> None:
    mujoco_patch.ensure()
    table, exchange = contact_fix._find_table(), contact_fix._exchange
    assert exchange is not None
    table[contact_fix._ENTRY] = exchange.theirs
    assert not mujoco_patch.is_installed() and mujoco_patch.implementation() is None
    with pytest.raises(ContactFixError):
        mujoco_patch.verify()
    assert mujoco_patch.ensure().worst_alignment > 1 - 1e-12
    assert mujoco_patch.is_installed()


@pytest.mark.fault("a collider that somebody else installed later")
def test_a_collider_somebody_else_installed_later_is_left_alone(use_library: None) -> None:
    mujoco_patch.install("c")
    table = contact_fix._find_table()
    ours = table[contact_fix._ENTRY]
    theirs = table[2 * contact_fix._TYPES + 2]  # any other collider's address
    table[contact_fix._ENTRY] = theirs
    for action in (mujoco_patch.install, mujoco_patch.uninstall):
        with pytest.raises(ContactFixError, match="other code has replaced"):
            action()
        assert table[contact_fix._ENTRY] == theirs
    table[contact_fix._ENTRY] = ours


@pytest.mark.fault("the contact fix installed by 16 threads at once")
def test_install_from_many_threads_exchanges_the_entry_once(use_library: None) -> None:
    before, _ = contact_fix.table_state()
    threads = [threading.Thread(target=mujoco_patch.install) for _ in range(16)]
    for action in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            action(thread)
    assert contact_fix.table_state() == (before + 1, True)


def test_the_other_implementation_takes_over_without_a_gap(use_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    mujoco_patch.install("python")
    table = contact_fix._find_table()
    python, seen = table[contact_fix._ENTRY], []

    def watch() -> layout.Layout:
        seen.append(table[contact_fix._ENTRY])
        return layout.discover_layout()

    monkeypatch.setattr(contact_fix, "discover_layout", watch)
    mujoco_patch.install("c")
    assert mujoco_patch.implementation() == "c" and seen == [python]
    compiled = table[contact_fix._ENTRY]
    mujoco_patch.install("python")
    assert mujoco_patch.implementation() == "python" and seen == [python, compiled]
    monkeypatch.setattr(contact_fix, "library_candidates", lambda *_: [])
    with pytest.raises(ContactFixError, match="no compiled collider"):
        mujoco_patch.install("c")
    assert mujoco_patch.implementation() == "python"  # an error leaves things as they were
    mujoco_patch.uninstall()
    assert table[contact_fix._ENTRY] not in (python, compiled)


def test_threads_that_ensure_at_once_measure_once_and_nobody_uninstalls_meanwhile(
    use_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, measuring, installed, reports = self_check.measure, threading.Event(), [], []

    def slowly() -> self_check.SelfCheckReport:
        measuring.set()
        time.sleep(0.2)
        installed.append(mujoco_patch.is_installed())
        return measure()

    monkeypatch.setattr(self_check, "measure", slowly)
    threads = [threading.Thread(target=lambda: reports.append(mujoco_patch.ensure())) for _ in range(4)]
    for action in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            action(thread)
    assert len(reports) == 4 and installed == [True]

    measuring.clear()
    checking = threading.Thread(target=mujoco_patch.verify, args=(True,))
    checking.start()
    measuring.wait()
    mujoco_patch.uninstall()  # waits for the measurement
    checking.join()
    assert installed == [True, True]


def test_a_failure_of_the_python_collider_keeps_the_contact_and_is_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = dataclasses.replace(layout.discover_layout(), geom_xmat_offset=None)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(contact_fix, "discover_layout", lambda: broken)
        mujoco_patch.install("python")
    model = wheel(37)
    data = mujoco.MjData(model)
    data.qpos[3] = -0.001  # the ball a millimetre into the wheel
    mujoco.mj_forward(model, data)
    mujoco.mj_forward(model, data)
    assert data.ncon == 1  # not lost
    printed = capfd.readouterr().err
    assert printed.count("contact fix in Python failed: TypeError") == 1 and "Traceback" in printed
    with pytest.raises(ContactFixError, match=r"failed in 2 collisions, first with TypeError.*discard"):
        mujoco_patch.verify()
    mujoco.mj_forward(model, data)
    with pytest.raises(ContactFixError, match="failed in 1 collisions"):
        mujoco_patch.ensure()
    mujoco_patch.uninstall()
    monkeypatch.setenv("BALLBOT_CONTACT_FIX", "python")
    assert mujoco_patch.ensure().worst_alignment > 1 - 1e-12  # mended, it is trusted again


def test_ensure_costs_microseconds_once_checked(use_library: None) -> None:
    mujoco_patch.ensure()
    start = time.perf_counter()
    for _ in range(1000):
        mujoco_patch.ensure()
    assert (time.perf_counter() - start) / 1000 < 50e-6  # 0.3e-6 on an idle machine


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_process_inherits_the_fix(use_library: None) -> None:
    mujoco_patch.ensure()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(mujoco_patch.is_installed)
        assert pool.apply(mujoco_patch.verify, (True,)).worst_alignment > 1 - 1e-12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_process_forked_during_an_installation_can_install(use_library: None) -> None:
    held, release = threading.Event(), threading.Event()

    def hold_lock() -> None:
        with contact_fix._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold_lock)
    thread.start()
    held.wait()
    child = multiprocessing.get_context("fork").Process(target=mujoco_patch.install)
    child.start()
    child.join(timeout=20)
    release.set()
    thread.join()
    exit_code = child.exitcode
    child.kill()
    assert exit_code == 0


def test_spawned_process_starts_without_the_fix_and_ensure_installs_it(use_library: None) -> None:
    mujoco_patch.ensure()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert not pool.apply(mujoco_patch.is_installed)
        assert pool.apply(mujoco_patch.ensure).worst_alignment > 1 - 1e-12
        assert pool.apply(mujoco_patch.is_installed)


LOOP = """
import signal
# Ignored if the tests run in the background, and children inherit that; before the fix, which postpones Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
import mujoco, mujoco_patch, threading, time, os, signal
from mujoco.batch import Batch
mujoco_patch.ensure()
model = mujoco.MjModel.from_xml_path("ballbot/assets/ballbot.xml")
def loop():
    batch = Batch(model, nsim=8, nthread=2)
    while True: batch.step(nstep=20)
"""


def test_interpreter_ends_cleanly_with_simulation_threads_alive_in_the_fallback() -> None:
    code = """
batch = Batch(model, nsim=8, nthread=2)
batch.step(nstep=20)
class Last:
    def __del__(self): batch.step(nstep=20)
last = Last()
"""
    result = run_python(LOOP + code, BALLBOT_CONTACT_FIX="python")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
def test_ctrl_c_reaches_the_caller_and_loses_no_contact_in_the_fallback() -> None:
    code = """
for _ in range(5):
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    try: loop()
    except KeyboardInterrupt: print("caught")
"""
    result = run_python(LOOP + code, BALLBOT_CONTACT_FIX="python")
    assert (result.returncode, result.stdout, result.stderr) == (0, "caught\n" * 5, "")


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_without_a_usable_library_python_steps_in_and_says_so_once(content: bytes | None, tmp_path: Path) -> None:
    foreign = tmp_path / "_contact_fix.so"
    if content is not None:
        foreign.write_bytes(content)
    code = f"""
import pathlib, mujoco_patch
from mujoco_patch import contact_fix
contact_fix.library_candidates = lambda *_: [pathlib.Path(p) for p in {[str(foreign)] if content else []}]
for _ in range(2):
    mujoco_patch.ensure()
    print(mujoco_patch.implementation())
    mujoco_patch.uninstall()
try: mujoco_patch.install("c")
except mujoco_patch.ContactFixError as error: print(error)
"""
    result = run_python(code)
    assert result.stdout.startswith("python\npython\ncontact fix: no compiled collider"), result.stderr
    assert result.stderr.count("\n") == 1 and "GIL" in result.stderr and "compiler" in result.stderr


def test_library_with_another_interface_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCE.read_text().replace("#define CONTACT_FIX_ABI 1", "#define CONTACT_FIX_ABI 99")
    stale = compile_library(source, tmp_path)
    monkeypatch.setattr(contact_fix, "library_candidates", lambda *_: [stale])
    with pytest.raises(ContactFixError, match="interface 99, expected 1"):
        mujoco_patch.install("c")
    mujoco_patch.install()
    assert mujoco_patch.implementation() == "python"


def test_choices_that_do_not_exist_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'fortran'.*expected 'auto', 'c' or 'python'"):
        mujoco_patch.install("fortran")  # type: ignore[arg-type]
    monkeypatch.setenv("BALLBOT_CONTACT_FIX", "rust")
    with pytest.raises(ContactFixError, match="BALLBOT_CONTACT_FIX='rust'"):
        mujoco_patch.ensure()
    monkeypatch.setenv("BALLBOT_CONTACT_FIX", "python")
    mujoco_patch.ensure()
    assert mujoco_patch.implementation() == "python"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace("mjtNum tangent[3];", ""), r"no member tangent\[3\]"),
        (lambda text: text.replace("mjtNum tangent[3];", "mjtNum tangent[4];"), r"no member tangent\[3\]"),
        (lambda text: text.replace("mjtNum normal[3];", "float normal[3];"), "not made of mjtNum"),
        (lambda text: text.replace("mjPreContact", "mjContact"), "collider signature"),  # before 3.9
        (lambda text: text.replace("int g1, int g2, mjtNum margin", "int g1, int g2"), "collider signature"),
        (lambda text: text.replace("mjCOLLISIONFUNC", "mjTABLE"), "does not declare the table"),
        (
            lambda text: text.replace("#define mjVERSION_HEADER ", "#define mjVERSION_HEADER 1"),
            "headers are of",
        ),
        (lambda text: "", "headers are of version none"),
    ],
)
def test_unknown_mujoco_is_refused_before_anything_is_called(edit: Callable[[str], str], message: str) -> None:
    text = layout.read_headers()
    assert layout.parse_headers(text) == (80, 32, 56)
    with pytest.raises(ContactFixError, match=message) as caught:
        layout.parse_headers(edit(text))
    assert mujoco.__version__ in str(caught.value) and "mujoco>=3.17" in str(caught.value)


def test_single_precision_mujoco_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mujoco, "MJTNUM_DTYPE", np.float32)
    with pytest.raises(ContactFixError, match="mjtNum is float32, expected float64"):
        layout.parse_headers(layout.read_headers())


def test_reading_memory_that_is_not_there_gives_nothing_instead_of_crashing() -> None:
    assert layout.read_memory(8, 64) == b""
    buffer = ctypes.create_string_buffer(bytes(range(200)) * 100)
    assert layout.read_memory(ctypes.addressof(buffer), 20000) == buffer.raw[:20000]


def test_measured_layout_agrees_with_the_c_compiler(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    include = Path(mujoco.__path__[0], "include")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "layout.c").write_text("""#include <mujoco/mujoco.h>
      #include <stddef.h>
      #include <stdio.h>
      int main(void) {
        printf("%zu %zu %zu %zu %zu", offsetof(mjData, geom_xmat), offsetof(mjModel, opt.cone),
               sizeof(mjPreContact), offsetof(mjPreContact, normal), offsetof(mjPreContact, tangent));
      }""")
    subprocess.run([compiler, f"-I{include}", "layout.c", "-o", "layout"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout
    assert layout.discover_layout() == layout.Layout(*map(int, printed.split()))


def test_source_diff_is_well_formed_and_touches_only_the_sphere_capsule_collider() -> None:
    diff = ROOT / "mujoco_patch" / "contact_frame.diff"
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git")
    counts = subprocess.run([git, "apply", "--numstat", str(diff)], capture_output=True, text=True, check=True)
    assert counts.stdout.split() == ["12", "1", "src/engine/engine_collision_primitive.c"]
    assert "-  return mjraw_SphereCapsule(" in diff.read_text()
