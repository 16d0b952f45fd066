"""The scripts a newcomer runs first do what they say, say what went wrong, and exit with the right status."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from inprocess import call as run
from packaging.requirements import Requirement
from policies import save_policy

from ballbot.evaluation import find_candidate

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
EVALUATIONS = EXPERIMENTS.parent / "results" / "evaluations.csv"
SCRIPTS = sorted(
    str(path.relative_to(EXPERIMENTS)) for path in EXPERIMENTS.rglob("*.py") if "def main(" in path.read_text()
)


def launch(script: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as users do."""
    command = [sys.executable, str(EXPERIMENTS / script), *args]
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240)


def load(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """A script as a module."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "maintenance"))
    return importlib.import_module(name)


# -- Help ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_option(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    help_text = " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split())
    tree = ast.parse((EXPERIMENTS / script).read_text())
    assert " ".join((ast.get_docstring(tree) or "").splitlines()[0].split()) in help_text
    args = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Args"), None)
    if args is None:
        return
    for statement, following in zip(args.body[:-1], args.body[1:], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation, option = ast.unparse(statement.annotation), "--" + statement.target.id.replace("_", "-")
            if annotation in ("Settings", "Job") or "name=''" in annotation:  # groups of settings, tested elsewhere
                continue
            assert (
                "Positional" in annotation or re.search(rf"{option}\b", help_text) or "--no" + option[1:] in help_text
            )
            assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant), option
            explanation = " ".join(str(following.value.value).split()[:4])
            assert explanation in help_text, f"{option} is not explained"


# -- balance_pid.py ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrator", ["Euler", pytest.param("implicitfast", marks=pytest.mark.slow), "RK4"])
def test_pid_balances_with_aligned_contacts(integrator: str) -> None:
    done = launch("balance_pid.py", "--steps", "3000", "--num-envs", "4", "--integrator", integrator)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "balanced for 3000 steps by all 4 robots" in done.stdout


@pytest.mark.parametrize("integrator", ["Euler", "implicitfast", "RK4"])
def test_the_same_pid_falls_at_once_on_stock_contacts(integrator: str) -> None:
    done = run("balance_pid.py", "--no-contact-fix", "--num-envs", "20", "--integrator", integrator)
    assert done.returncode == 1
    assert "20 of 20 robots fell" in done.stdout
    median = re.search(r"the median after (\d+) of 3000", done.stdout)
    assert median and int(median[1]) < 500  # one second


def test_pid_tells_how_long_one_robot_stood() -> None:
    done = run("balance_pid.py", "--no-contact-fix")
    assert done.returncode == 1
    assert re.search(r"^fell after \d+ of 3000 steps", done.stdout)


def test_robot_leans_where_the_setpoint_says(monkeypatch: pytest.MonkeyPatch) -> None:
    balance_pid = load(monkeypatch, "balance_pid")
    stood, fell, max_tilt = balance_pid.balance(balance_pid.Args(steps=500, setpoint_roll_deg=-3.0, seed=3))
    assert stood == 500 and not fell
    assert 2.5 < max_tilt[0] < 6.0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--steps", "0"], "--steps must be a"),
        (["--num-envs", "-1"], "--num-envs must be a"),
        (["--seed", "-1"], "--seed must be a"),
        (["--setpoint-pitch-deg", "nan"], "--setpoint-pitch-deg must be a finite number"),
        (["--kp", "inf"], "--kp must be a finite number"),
        (["--terrain", "moon"], "moon"),
        (["--integrator", "euler"], "euler"),
    ],
)
def test_pid_names_the_bad_option(args: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    done = run("balance_pid.py", *args)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a display")
def test_viewer_without_a_display_is_refused_in_words() -> None:
    done = launch("balance_pid.py", "--render", DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 2
    assert "no display" in done.stderr


# -- check_setup.py ------------------------------------------------------------------------------------------


def test_setup_check_passes_where_the_tests_run() -> None:
    done = launch("check_setup.py")
    assert done.returncode == 0, done.stdout
    for what in ("Python", "torch", "contact self-check", "threads", "OpenGL by egl", "GPU", "disk", "display"):
        assert re.search(rf"^{what} +(ok|-) ", done.stdout, re.MULTILINE), f"no line for {what}\n{done.stdout}"
    assert "Training works here" in done.stdout


@pytest.fixture
def check_setup(monkeypatch: pytest.MonkeyPatch) -> Any:
    return load(monkeypatch, "check_setup")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import os; os.abort()", "crashed with signal 6"),
        ("raise ImportError('libfoo.so: cannot open shared object file')", "libfoo.so"),
        ("raise SystemExit(3)", "exit status 3"),
    ],
)
def test_a_broken_package_is_one_line_of_the_table(
    code: str, found: str, check_setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorboard.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = check_setup.check_package("tensorboard")
    assert line.status == check_setup.FAIL
    assert found in line.found
    assert "pip install" in line.remedy


def test_an_old_mujoco_is_named_with_the_version_needed(
    check_setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "mujoco-3.16.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mujoco\nVersion: 3.16.0\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    line = check_setup.check_package("mujoco")
    assert line.status == check_setup.FAIL
    assert line.found == "3.16.0; needed: >=3.17"
    assert line.remedy == "pip install --upgrade 'mujoco>=3.17'"


def test_a_missing_optional_package_is_no_failure(check_setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check_setup.EXTRAS, "no_such_package", ("video", "videos"))
    line = check_setup.check_extra("no_such_package")
    assert line.found == "not installed; only for videos"
    assert line.status == check_setup.OPTIONAL
    assert line.remedy == "pip install -e '.[video]'"


def test_who_has_no_checkout_installs_extras_of_the_package(
    check_setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(check_setup.__file__, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "check_setup")
    elsewhere = importlib.import_module("check_setup")
    assert elsewhere.WITH_EXTRAS.format("video") == "'ballbot[video]'"
    assert "-e ." not in elsewhere.compile_remedy() and "ballbot" in elsewhere.compile_remedy()


def test_a_folder_that_cannot_be_written_fails(check_setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    line = check_setup.check_disk()
    assert line.status == check_setup.FAIL
    assert "Permission denied" in line.found


@pytest.mark.parametrize(("older", "newer"), [("4.9", "4.10"), ("2.4", "2.13.0+cpu"), ("3.17", "4.0.0rc1")])
def test_versions_compare_by_number(older: str, newer: str, check_setup: Any) -> None:
    assert check_setup.numbers(older) < check_setup.numbers(newer)


def test_setup_check_asks_for_what_the_package_declares(check_setup: Any) -> None:
    project = tomllib.loads((EXPERIMENTS.parent / "pyproject.toml").read_text())["project"]
    declared = {r.name: next(iter(r.specifier)).version for r in map(Requirement, project["dependencies"])}
    assert declared == check_setup.MINIMUM
    assert project["requires-python"] == ">=" + ".".join(map(str, check_setup.MINIMUM_PYTHON))
    for extra, _ in check_setup.EXTRAS.values():
        assert extra in project["optional-dependencies"]


# -- benchmark.py --------------------------------------------------------------------------------------------


def test_benchmark_compares_environment_and_engine_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    options = ["--only", "env", "--repeat", "2", "--steps", "100", "--num-envs", "8", "--json", str(path)]
    done = launch("maintenance/benchmark.py", *options)
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text())
    ratios = [f["value"] for f in content["figures"] if f["name"].endswith("environment / bare")]
    assert len(ratios) == 6  # three worlds, two kinds of actions
    assert all(ratio > 0 for ratio in ratios)  # a busy machine may say anything more precise
    assert content["machine"]["versions"]["mujoco"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--repeat", "0"], "--repeat must be a whole number"),
        (["--only", "springs"], "springs"),
        (["--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
    ],
)
def test_benchmark_names_the_bad_option(args: list[str], message: str) -> None:
    done = run("maintenance/benchmark.py", *args)
    assert done.returncode == 2
    assert message in done.stderr


def test_scaling_measures_the_same_steps_of_as_many_episodes(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    options = ["--repeat", "1", "--steps", "10", "--num-envs", "2", "--many-envs", "4", "--num-threads", "1"]
    done = launch("maintenance/benchmark.py", "--only", "scale", "terrain", *options, "--json", str(path))
    assert done.returncode == 0, done.stderr
    figures = {f["name"]: f for f in json.loads(path.read_text())["figures"]}
    assert figures["throughput, 4 / 2 environments"]["value"] > 0
    assert 0 < figures["one height field"]["value"] < 1000  # ms


def test_a_killed_measurement_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load(monkeypatch, "benchmark")

    def kill_and_submit(executor: Any, *args: Any) -> Any:
        future = submit(executor, *args)
        for process in executor._processes.values():
            process.kill()
        return future

    submit = benchmark.ProcessPoolExecutor.submit
    monkeypatch.setattr(benchmark.ProcessPoolExecutor, "submit", kill_and_submit)
    with pytest.raises(SystemExit, match="measures 64 environments was killed"):
        next(benchmark.scale(benchmark.Args(repeat=1)))


def test_scaling_repeats_itself_and_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sizes are timed over the steps after the warm-up, at least 100, and twice the same noise is drawn."""
    benchmark = load(monkeypatch, "benchmark")
    calls: list[tuple[int, int, float]] = []

    def note(envs: Any, policy: Any, steps: int, rng: np.random.Generator) -> float:
        calls.append((envs.num_envs, steps, rng.random()))
        return 1.0

    monkeypatch.setattr(benchmark, "run", note)
    results = [benchmark.scale_child(n, 1, 100, rounds) for _ in range(2) for n, rounds in ((2, 2), (4, 1))]
    assert calls[:6] == calls[6:]
    assert [c[:2] for c in calls[:6]] == [(2, 20), (2, 100)] * 2 + [(4, 20), (4, 100)]
    assert [result[0] for result in results[:2]] == [2 * 100 * 2 / 2.0, 4 * 100 / 1.0]


def test_both_trainers_are_timed_by_the_clock_and_have_the_same_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    benchmark, ballbot_ppo = load(monkeypatch, "benchmark"), importlib.import_module("ballbot.ppo")
    config = ballbot_ppo.PPOConfig(num_envs=2, num_steps=8, minibatch_size=16, total_timesteps=48)
    theirs = load(monkeypatch, "compare_sb3").make_sb3(config, env_util.make_vec_env("Pendulum-v1", n_envs=2))
    defaults = theirs.policy.optimizer.defaults
    ours = importlib.import_module("ballbot.ppo.ppo").make_optimizer(theirs.policy, config).defaults
    assert defaults["eps"] == ours["eps"] == 1e-5

    def train(config: Any, make_envs: Any, run_dir: Path, console: bool) -> None:
        run_dir.mkdir()  # 100 steps in 2 s, then 300 more in 4 s by the clock
        rows = ["global_step,charts/SPS,time/simulate", "100,50,0.1", f"400,{400 / 6},0.1"]
        (run_dir / "progress.csv").write_text("\n".join(rows) + "\n")

    monkeypatch.setattr(ballbot_ppo, "train", train)
    assert benchmark.train_ours(config, tmp_path / "run") == pytest.approx(300 / 4)


# -- compare_integrators.py ----------------------------------------------------------------------------------


def test_integrators_are_compared_in_one_table() -> None:
    done = run("maintenance/compare_integrators.py", "--starts", "2", "--balance-steps", "50")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["integrator", "---", "Euler", "implicitfast", "RK4"]
    assert all(len(row) == 6 and row[4] == "2 of 2" for row in rows[2:])
    error = {row[0]: float(row[1].split()[0]) for row in rows[2:]}
    assert error["RK4"] < error["Euler"]


# -- plot_training.py ----------------------------------------------------------------------------------------


def write_run(path: Path, steps: list[int], returns: list[float]) -> Path:
    lines = ["global_step,eval/return_mean,eval/length_mean,charts/episodic_return,charts/episodic_length"]
    lines += [f"{step},{value},{value},," for step, value in zip(steps, returns, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_curves_become_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = [write_run(tmp_path / f"flat_{seed}.csv", [100, 200], [1.0, 2.0 + seed]) for seed in range(2)]
    folder = write_run(tmp_path / "perlin_0_20250101-120000" / "progress.csv", [100, 200], [1.0, 2.0]).parent
    picture = tmp_path / "new" / "curves.png"
    done = run("plot_training.py", *map(str, [*files, folder]), "--out", str(picture))
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    done = run("plot_training.py", str(files[0]), "--curve", "training", "--out", str(picture))
    assert done.returncode == 2 and "nothing in column charts/episodic_return" in done.stderr
    done = run("plot_training.py", str(files[0]), "--against", "time", "--out", str(picture))
    assert done.returncode == 2 and "no columns time/" in done.stderr
    columns = ["--columns", "eval/return_mean", "eval/length_mean", "global_step", "--log"]
    done = run("plot_training.py", str(folder), *columns, "--out", str(picture))
    assert done.returncode == 0, done.stderr
    done = run("plot_training.py", str(folder), "--columns", "moon", "--out", str(picture))
    assert done.returncode == 2 and "has no column moon: it has global_step, eval/return_mean" in done.stderr
    done = run("plot_training.py", str(tmp_path / "nowhere"))
    assert done.returncode == 2 and "does not exist" in done.stderr


@pytest.mark.parametrize("returns", [[-1200.0, -155.0], [-5.0, 50.0], [3.0, 90.0]])
def test_all_returns_are_in_the_picture(monkeypatch: pytest.MonkeyPatch, returns: list[float]) -> None:
    pytest.importorskip("matplotlib")
    plot_training = load(monkeypatch, "plot_training")
    columns = {"global_step": [100, 200], "eval/return_mean": returns, "eval/length_mean": [200, 200]}
    table = {name: np.array(values, np.float64) for name, values in columns.items()}
    figure = plot_training.draw({Path("a_0"): table, Path("b_0"): table}, plot_training.Args([]))
    (bottom, top), (shortest, _) = (axis.get_ylim() for axis in figure.axes)
    assert bottom <= min(returns) < max(returns) <= top and shortest == 0
    assert (bottom == 0) == (min(returns) >= 0)


def test_minutes_are_the_sum_of_the_parts_of_all_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "time/simulate": np.array([30.0, 60.0, 60.0]),
        "time/learn": np.array([30.0, 0.0, 30.0]),
        "time/evaluate": np.array([np.nan, 60.0, np.nan]),
        "time/eta": np.array([1e6, 1e6, 0.0]),
    }
    np.testing.assert_allclose(load(monkeypatch, "plot_training").minutes(table), [1.0, 3.0, 4.5])


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("results/flat_0.csv", "flat"),
        ("results/flat_12.csv", "flat"),
        ("runs/perlin_0_20250101-120000", "perlin"),
        ("runs/perlin_0_20250101-120000/progress.csv", "perlin"),
        ("runs/flat_rolling_3", "flat_rolling"),
        ("runs/gamma0.99_1", "gamma0.99"),
        ("runs/wide_nets", "wide_nets"),
        ("runs/lr3e-4_seed0", "lr3e-4"),
        ("runs/lr3e-4-seed12_20250101-120000", "lr3e-4"),
        ("runs/flat", "flat"),
        ("runs/7", "7"),
    ],
)
def test_runs_are_grouped_by_all_but_seed_and_time(path: str, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, "plot_training").name_of(Path(path)) == group


def test_names_of_groups_are_short_and_many_stand_below_the_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plot_training = load(monkeypatch, "plot_training")
    for name in "abcdefgh":
        run_dir = write_run(tmp_path / name / "progress.csv", [100, 200], [1.0, 2.0]).parent
        (run_dir / "config.json").write_text(json.dumps({"ppo": {"gamma": 0.9}, "env": {"x": "y" * 99}}))
    (other := tmp_path / "a_1").mkdir()
    (other / "config.json").write_text(json.dumps({"ppo": {"gamma": 0.9}, "env": {"x": "z" * 99}}))
    same, apart = plot_training.groups_of([*(tmp_path / name for name in "abcdefgh"), other])
    assert same.startswith("a and 7 more x=yyy") and len(same) <= plot_training.LONGEST >= len(apart)
    runs = {Path(f"lr{k}_seed{seed}"): plot_training.read(tmp_path / "a") for k in range(5) for seed in range(3)}
    figure = plot_training.draw(runs, plot_training.Args(list(runs)))
    assert figure.axes[0].get_ylabel().endswith(plot_training.PANELS[0][2])
    assert figure.axes[0].get_legend() is None
    assert [text.get_text() for text in figure.legends[0].texts] == [f"lr{k} (3 runs)" for k in range(5)]


def test_the_median_ends_where_the_shortest_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    plot_training = load(monkeypatch, "plot_training")
    long = (np.array([1.0, 2.0, 4.0]), np.array([10.0, 20.0, 40.0]))
    short = (np.array([1.5, 3.0]), np.array([0.0, 6.0]))
    steps, (low, median, high) = plot_training.spread([long, short])
    np.testing.assert_array_equal(steps, [1.5, 2.0, 3.0])
    np.testing.assert_allclose(median, [(15 + 0) / 2, (20 + 2) / 2, (30 + 6) / 2])
    np.testing.assert_allclose([low, high], [[0, 2, 6], [15, 20, 30]])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # as editors on Windows save them
def test_runs_of_one_config_are_one_group_named_by_what_sets_it_apart(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed, gamma in (("a_0", 0, 0.9), ("a_1", 1, 0.9), ("other", 2, 0.9), ("a_2", 2, 0.99)):
        run_dir = write_run(tmp_path / name / "progress.csv", [100, 200], [1.0, 2.0]).parent
        content = json.dumps({"ppo": {"seed": seed, "gamma": gamma}, "env": {"x": 1}})
        (run_dir / "config.json").write_text(content, encoding=encoding)
    write_run(tmp_path / "a_3.csv", [100, 200], [1.0, 2.0])
    paths = [tmp_path / name for name in ("a_0", "a_1", "other", "a_2", "a_3.csv")]
    groups = load(monkeypatch, "plot_training").groups_of(paths)
    assert groups == {"a, other gamma=0.9 x=1": paths[:3], "a gamma=0.99 x=1": [paths[3]], "a": [paths[4]]}
    alone = load(monkeypatch, "plot_training").groups_of(paths[:4])
    assert list(alone) == ["a, other gamma=0.9", "a gamma=0.99"]


def test_curves_are_read_from_event_files_where_there_is_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(tmp_path / "sb3_0"))
    for step, value in ((100, 1.0), (200, 3.0)):
        writer.add_scalar("eval/mean_reward", value, step)
        writer.add_scalar("eval/mean_ep_length", 10 * value, step)
        writer.add_scalar("rollout/ep_rew_mean", value, step - 50)
    writer.close()
    table = load(monkeypatch, "plot_training").read(tmp_path / "sb3_0")
    np.testing.assert_array_equal(table["global_step"], [50, 100, 150, 200])
    np.testing.assert_array_equal(table["eval/return_mean"], [np.nan, 1, np.nan, 3])
    assert (np.diff(table["wall_time"]) > -60).all()
    picture = tmp_path / "curves.svg"
    done = run("plot_training.py", str(tmp_path / "sb3_0"), "--against", "time", "--out", str(picture))
    assert done.returncode == 0, done.stderr
    assert b"<svg" in picture.read_bytes()
    (tmp_path / "empty").mkdir()
    done = run("plot_training.py", str(tmp_path / "empty"), "--out", str(picture))
    assert done.returncode == 2 and "neither progress.csv nor event files" in done.stderr


# -- take_picture.py -----------------------------------------------------------------------------------------


def test_a_picture_of_the_robot_is_written_where_there_is_opengl(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "new" / "ballbot.png"
    for kind in ("egl", "osmesa"):
        probe = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>')).close()"
        variables = {**os.environ, "MUJOCO_GL": kind}
        if subprocess.run([sys.executable, "-c", probe], env=variables, capture_output=True).returncode == 0:
            done = launch("maintenance/take_picture.py", "--terrain", "flat", "--out", str(picture), MUJOCO_GL=kind)
            assert done.returncode == 0, done.stderr
            assert picture.read_bytes().startswith(b"\x89PNG")
            return
    done = launch(
        "maintenance/take_picture.py", "--out", str(picture), MUJOCO_GL="glfw", DISPLAY="", WAYLAND_DISPLAY=""
    )
    assert done.returncode == 2 and "MUJOCO_GL" in done.stderr
    pytest.skip("no OpenGL here: install libegl1 or libosmesa6")


def test_setup_check_blames_an_opengl_that_stops_mujoco(check_setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "bogus")
    line = check_setup.check_package("mujoco")
    assert (line.status, line.remedy) == (check_setup.FAIL, "unset MUJOCO_GL")
    assert "MUJOCO_GL='bogus'" in line.found


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("maintenance/take_picture.py", ["--seed", "-1"], "--seed must be a"),
        ("plot_training.py", [], "error: name what is to be plotted: run folders"),
        ("plot_training.py", [str(Path(__file__))], "test_experiments.py is not a progress.csv"),
        ("maintenance/compare_sb3.py", ["--seeds", "-1"], "--seeds -1 is out of range"),
        ("maintenance/compare_sb3.py", ["--seeds", "1", "1"], "--seeds needs at least one value, and each once"),
        (
            "maintenance/compare_sb3.py",
            ["--tasks", "Acrobot-v1", "Acrobot-v1"],
            "--tasks needs at least one value, and each",
        ),
        ("maintenance/compare_sb3.py", ["--tasks", "Acrobot"], "--tasks Acrobot is unknown: did you mean 'Acrobot-v1'"),
        ("maintenance/compare_sb3.py", ["--csv", "/no/such/folder/x.csv"], "there is no folder /no/such/folder"),
        ("maintenance/compare_sb3.py", ["--csv", str(EVALUATIONS)], "evaluations.csv is not a table of this script"),
        ("maintenance/compare_integrators.py", ["--starts", "0"], "--starts must be a"),
        ("maintenance/compare_integrators.py", ["--seed", "-1"], "--seed must be a"),
        ("maintenance/benchmark.py", ["--json", "/"], "--json / is a folder"),
    ],
)
def test_the_other_scripts_name_the_bad_option_before_they_start(script: str, args: list[str], message: str) -> None:
    done = run(script, *args)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_plot_of_an_unknown_kind_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "a_0.csv").write_text(
        "global_step,eval/return_mean,eval/length_mean\n1,2.0,3.0\n2,3.0,4.0\n", encoding="utf-8"
    )
    done = run("plot_training.py", str(tmp_path / "a_0.csv"), "--out", str(tmp_path / "x.xyz"))
    assert done.returncode == 2
    assert "x.xyz must end in .png or .svg or .pdf" in done.stderr and "Traceback" not in done.stderr


# -- summarize_runs.py ---------------------------------------------------------------------------------------


def test_small_copies_neither_replace_what_they_are_made_of_nor_each_other(tmp_path: Path) -> None:
    file = write_run(tmp_path / "a_0.csv", [100, 200], [1.0, 2.0])
    before = file.read_bytes()
    others = [write_run(tmp_path / name / "b.csv", [100], [1.0]) for name in ("x", "y")]
    (tmp_path / "text.csv").write_text("global_step,eval/return_mean\n1,2\n")
    for args, message in (
        ([file, "--save", tmp_path], "would overwrite what is read"),
        ([*others, "--save", tmp_path / "new"], "are both called b"),
        ([file, "--save", file], "cannot be made"),
        ([tmp_path / "text.csv"], "text.csv is not a progress.csv"),
    ):
        done = run("maintenance/summarize_runs.py", *map(str, args))
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert file.read_bytes() == before
    done = run(
        "maintenance/summarize_runs.py",
        str(file),
        "--save",
        str(tmp_path / "new"),
        "--return-target",
        "2",
        "--length-target",
        "1",
    )
    assert done.returncode == 0 and (tmp_path / "new" / "a_0.csv").is_file(), done.stderr


# -- Following commands ------------------------------------------------------------------------------------------------


def test_robots_that_fell_count_in_no_error_of_their_velocity(monkeypatch: pytest.MonkeyPatch) -> None:
    follow = load(monkeypatch, "follow_commands")
    off, turned = np.zeros((5, 2, 3)), np.zeros((5, 3))
    off[:, 0], turned[:] = (0.1, 0.2, 9.0), (0.0, 0.0, 9.0)
    found = follow.errors(0.3, off, turned, np.array([False, False, True]))
    assert found["velocity_error"] == pytest.approx(np.sqrt(0.025)) and found["worst_direction"] == pytest.approx(0.2)
    assert found["mean_error"] == pytest.approx(np.sqrt(0.025)) and found["yaw_rate_error"] == 0.0
    assert found["fallen"] == pytest.approx(1 / 3)
    none = follow.errors(0.3, off, turned, np.ones(3, bool))
    assert none["fallen"] == 1.0 and np.isnan(none["velocity_error"])


def test_commands_are_followed_on_another_ground_with_its_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = load(monkeypatch, "follow_commands")
    of: dict[str, Any] = {"command": "velocity", "terrain": "stairs", "ground.height": 0.02, "terrain_cell": 0.01}
    save_policy(tmp_path / "p.pt", 18, **of)
    args = follow.Args(str(tmp_path / "p.pt"), terrain="hills:0.5")
    with closing(follow.make(find_candidate(args.policy), args, 1)) as envs:
        assert envs.config.terrain == "hills:0.5" and envs.config.ground == {} and envs.config.terrain_cell is None
        assert envs.config.motion == {"resample_time": 0.0}
