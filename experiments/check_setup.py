"""What works on this machine, what does not, and what to do about it.

    python experiments/check_setup.py

Looks at versions, the contact fix and its self-check, the environment, threads, OpenGL, display, GPU and
disk. Everything that may be missing or broken is tried in a process of its own, so that even a crash becomes
one line of the table. Needs nothing but Python itself.

Exit status: 0 training can work here, 1 it cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MINIMUM = {
    "torch": "2.4",
    "mujoco": "3.17",
    "gymnasium": "1.1",
    "numpy": "1.26",
    "tensorboard": "2.14",
    "tyro": "0.9",
}
"""Oldest versions that have what the code needs (pyproject.toml)."""
MINIMUM_PYTHON = (3, 11)
EXTRAS = {
    "matplotlib": ("plots", "plots of curves"),
    "imageio": ("video", "videos"),
    "onnx": ("export", "export of policies"),
    "wandb": ("wandb", "logging to Weights & Biases"),
    "pytest": ("dev", "tests and checks"),
}
"""Optional packages: the extra that installs each, and what it is for."""
TIMEOUT = 120
"""Seconds before a probe counts as hung: importing PyTorch from a cold disk takes most of a minute."""
ENOUGH_DISK = 2.0
"""GiB: a run's checkpoints and logs take far less; below this something else will fill the disk first."""
CHECKOUT = (Path(__file__).parents[1] / "pyproject.toml").is_file()
INSTALL = "pip install -c constraints.txt -e ." if CHECKOUT else "pip install --upgrade ballbot"
WITH_EXTRAS = "-e '.[{}]'" if CHECKOUT else "'ballbot[{}]'"

OK, OPTIONAL, FAIL = "ok", "-", "FAIL"


@dataclass
class Line:
    """One line of the table."""

    what: str
    status: str
    """OK, OPTIONAL (not there, and training does not need it) or FAIL (training cannot work)."""
    found: str
    remedy: str = ""


def probe(code: str, **environment: str) -> tuple[dict[str, Any] | None, str]:
    """Run Python code that prints a JSON object, in a process of its own.

    Returns:
        the object, or None and what went wrong in one line.
    """
    # safe path: an installed package is wanted, not a folder of that name in the current directory
    variables = {**os.environ, "PYTHONSAFEPATH": "1", **environment}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {TIMEOUT} s"
    except OSError as error:
        return None, f"could not start Python: {error}"
    if done.returncode < 0:
        return None, f"crashed with signal {-done.returncode}"
    lines = [text for text in done.stderr.splitlines() if text.strip()]
    if done.returncode:
        return None, lines[-1].strip() if lines else f"exit status {done.returncode}"
    try:
        return json.loads(done.stdout.splitlines()[-1]), ""
    except (IndexError, ValueError):
        return None, f"unexpected output {done.stdout[-80:]!r}"


def print_version(name: str) -> str:
    """Code that prints the version of an installed package, as `probe` wants it."""
    return f"import json; from importlib.metadata import version\nprint(json.dumps(dict(version=version({name!r}))))"


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison: "2.13.0+cpu" is (2, 13, 0)."""
    found = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def check_python() -> Line:
    """Python itself."""
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info[:2] < MINIMUM_PYTHON:
        needed = ".".join(map(str, MINIMUM_PYTHON))
        return Line("Python", FAIL, f"{found}; needed: >={needed}", f"make PYTHON=/path/to/python{needed} ...")
    return Line("Python", OK, found)


def check_package(name: str) -> Line:
    """A package that training needs: there, new enough, and importable."""
    result, problem = probe(f"import {name}\n" + print_version(name))
    if result is None:
        chosen = os.environ.get("MUJOCO_GL")
        if name == "mujoco" and chosen and probe("import mujoco; print({})", MUJOCO_GL="")[0] is not None:
            return Line(name, FAIL, f"not with MUJOCO_GL={chosen!r}: {problem}", "unset MUJOCO_GL")
        return Line(name, FAIL, problem, INSTALL)
    if numbers(result["version"]) < numbers(MINIMUM[name]):
        remedy = f"pip install --upgrade '{name}>={MINIMUM[name]}'"
        return Line(name, FAIL, f"{result['version']}; needed: >={MINIMUM[name]}", remedy)
    return Line(name, OK, result["version"])


def check_extra(name: str) -> Line:
    """An optional package; looked up, not imported, since nothing depends on it here."""
    extra, purpose = EXTRAS[name]
    result, _ = probe(print_version(name))
    if result is None:
        return Line(name, OPTIONAL, f"not installed; only for {purpose}", f"pip install {WITH_EXTRAS.format(extra)}")
    return Line(name, OK, result["version"])


def compile_remedy() -> str:
    """How to get the compiled parts of this package that are missing."""
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang", "cl")), None)
    remedy = f"reinstall: pip install --force-reinstall --no-deps {'-e .' if CHECKOUT else 'ballbot'}"
    return remedy if compiler else "install a C compiler (Debian: apt-get install gcc), then " + remedy


def check_contact_fix() -> list[Line]:
    """Which implementation of the contact fix runs, and what its self-check measures."""
    result, problem = probe(
        "import json, mujoco_patch; from dataclasses import asdict; mujoco_patch.ensure()\n"
        "print(json.dumps(asdict(mujoco_patch.verify(force=True))))"
    )
    if result is None:
        remedy = INSTALL if "No module named" in problem else "see the message; README.md of mujoco_patch explains"
        return [Line("contact fix", FAIL, problem, remedy)]
    if result["implementation"] == "c":
        line = Line("contact fix", OK, "compiled")
    else:
        line = Line("contact fix", OPTIONAL, "in Python: same results, slower on many cores", compile_remedy())
    measured = (
        f"alignment {result['worst_alignment']:.9f} (1), friction across the axle "
        f"{result['drive_ratio']:.4f} (1), along it {result['slip_ratio']:.6f} (0.001), "
        f"{result['contacts']} contacts"
    )
    return [line, Line("contact self-check", OK, measured)]


def check_rays() -> Line:
    """Whether depth images are cast by compiled code."""
    result, _ = probe(
        "import json; from ballbot.envs.height_rays import load_library; print(json.dumps(load_library() is not None))"
    )
    if result:
        return Line("depth images", OK, "compiled")
    return Line("depth images", OPTIONAL, "cast in PyTorch: the same, several times slower", compile_remedy())


def check_environment() -> Line:
    """Whether the simulated world runs."""
    result, problem = probe(
        "import gymnasium as gym, ballbot, json, numpy as np\n"
        "envs = gym.make_vec('Ballbot-v0', num_envs=64, terrain='flat')\n"
        "envs.reset(seed=0)\n"
        "for _ in range(50): obs = envs.step(np.zeros((64, 3), np.float32))[0]\n"
        "assert np.isfinite(obs).all(), 'observations are not finite'\n"
        "print(json.dumps(dict(version=ballbot.__version__)))"
    )
    if result is None:
        remedy = INSTALL if "No module named" in problem else "mend the lines above first"
        return Line("ballbot", FAIL, problem, remedy)
    return Line("ballbot", OK, f"{result['version']}; a batch of 64 robots runs")


def check_threads() -> Line:
    """CPUs that this process may use, and how many of them PyTorch takes."""
    # as ballbot.cpus.usable_cpus, which cannot be imported here: ballbot may be what is broken
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    result, _ = probe("import json, torch; print(json.dumps(dict(n=torch.get_num_threads())))")
    torch_threads = f"PyTorch uses {result['n']} threads" if result else "PyTorch does not say"
    return Line("threads", OK, f"{usable} of {os.cpu_count()} CPUs usable, {torch_threads}")


def check_gpu() -> Line:
    """A CUDA device for --device cuda."""
    result, problem = probe(
        "import json, torch; n = torch.cuda.device_count() if torch.cuda.is_available() else 0\n"
        "names = [torch.cuda.get_device_name(i) for i in range(n)]\n"
        "print(json.dumps(dict(names=names, built=torch.version.cuda)))"
    )
    if result is None:
        return Line("GPU", OPTIONAL, problem)
    if result["names"]:
        return Line("GPU", OK, f"{', '.join(result['names'])}; CUDA {result['built']}: use --device cuda")
    found = "none in use; small networks train as fast on the CPU"
    if shutil.which("nvidia-smi") and not result["built"]:
        return Line("GPU", OPTIONAL, "this PyTorch was built without CUDA", "install PyTorch with CUDA")
    return Line("GPU", OPTIONAL, found)


def check_opengl() -> list[Line]:
    """What can draw pictures (render_mode="rgb_array")."""
    code = (
        "import json, mujoco\n"
        "try:\n"
        "    from ballbot.envs.rendering import choose_opengl; choose_opengl()\n"
        "except ImportError: pass\n"
        "xml = '<mujoco><worldbody><light/><geom size=\".1\"/></worldbody></mujoco>'\n"
        "model = mujoco.MjModel.from_xml_string(xml)\n"
        "data = mujoco.MjData(model); mujoco.mj_forward(model, data)\n"
        "renderer = mujoco.Renderer(model, 32, 32); renderer.update_scene(data)\n"
        "assert renderer.render().any(), 'the picture is black'\n"
        "print(json.dumps({}))"
    )
    lines = []
    working = []
    for kind in ("egl", "osmesa", "glfw"):
        result, problem = probe(code, MUJOCO_GL=kind)
        if result is None:
            remedy = {
                "egl": "Debian: apt-get install libegl1 libopengl0",
                "osmesa": "Debian: apt-get install libosmesa6",
                "glfw": "needs a display",
            }[kind]
            lines.append(Line(f"OpenGL by {kind}", OPTIONAL, problem, remedy))
        else:
            working.append(kind)
            lines.append(Line(f"OpenGL by {kind}", OK, "draws"))
    chosen = os.environ.get("MUJOCO_GL", "")
    result, problem = probe(code)
    if result is not None:
        how = f"with MUJOCO_GL={chosen!r}, as it is set now" if chosen else "MUJOCO_GL is not set and need not be"
        lines.append(Line("pictures", OK, how))
    else:
        remedy = f"export MUJOCO_GL={working[0]}" if working else "install one of the above; training needs none"
        lines.append(Line("pictures", OPTIONAL, f"not with MUJOCO_GL={chosen!r}, as it is set now", remedy))
    return lines


def check_display() -> Line:
    """A screen for the interactive viewer (render_mode="human")."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if display or not sys.platform.startswith("linux"):
        return Line("display", OK, display or sys.platform)
    return Line("display", OPTIONAL, "none (DISPLAY is not set)", "only the interactive viewer needs one")


def check_disk() -> Line:
    """Whether runs/ can be written in the current folder."""
    folder = Path()
    try:
        folder = Path.cwd()
        runs = folder / "runs"
        with tempfile.TemporaryFile(dir=runs if runs.is_dir() else folder) as file:
            file.write(b"x" * 4096)
        free = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        return Line("disk", FAIL, f"cannot write in {folder}: {error}", "start from a folder you may write in")
    if free < ENOUGH_DISK:
        return Line("disk", FAIL, f"{free:.1f} GiB free in {folder}; needed: {ENOUGH_DISK}", "free some space")
    return Line("disk", OK, f"{folder} is writable, {free:.0f} GiB free")


def check_all() -> list[Line]:
    """Every line of the table; probes wait for other processes, so a few run at a time."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        packages = [pool.submit(check_package, name) for name in MINIMUM]
        contact_fix, environment = pool.submit(check_contact_fix), pool.submit(check_environment)
        rays = pool.submit(check_rays)
        threads, gpu, opengl = pool.submit(check_threads), pool.submit(check_gpu), pool.submit(check_opengl)
        extras = [pool.submit(check_extra, name) for name in EXTRAS]
        lines = [check_python(), *(future.result() for future in packages)]
        lines += [
            *contact_fix.result(),
            environment.result(),
            rays.result(),
            threads.result(),
            check_disk(),
            gpu.result(),
        ]
        lines += [*opengl.result(), check_display(), *(future.result() for future in extras)]
    return lines


def main() -> int:
    """Print the table and the verdict; return the exit status."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lines = check_all()
    width = max(len(line.what) for line in lines)
    for line in lines:
        print(f"{line.what:{width}}  {line.status:4}  {line.found}")
        if line.remedy:
            print(f"{'':{width}}        -> {line.remedy}")
    failed = [line.what for line in lines if line.status == FAIL]
    if failed:
        print(f"\nTraining cannot work here yet: {', '.join(failed)}. The lines marked FAIL say what to do.")
        return 1
    print(f"\nTraining works here. What is marked {OPTIONAL!r} is not needed for it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
