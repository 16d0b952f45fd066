"""Build the page on which a robot lives in the browser, without Python: build/demo.

    python experiments/maintenance/make_demo.py
    python -m http.server --directory build/demo

MuJoCo and onnxruntime come from npm, of the versions and with the SHA-512 that docs/site/demo/package-lock.json holds.
The robot's MJCF, its grounds and a policy, exported to ONNX, are made here.  Needs Node.js 18 or newer for its npm, and
the extra "export".  docs/demo.md tells more.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import tyro
from shared import EXPERIMENTS, CheckoutPath

from ballbot.cli import check_output, make_folder, program
from ballbot.deployment.export import export_policy
from ballbot.deployment.shipped import find_policy
from ballbot.driving.drive import PUSH
from ballbot.driving.scene import Scene
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.depth_camera import DepthCamera
from ballbot.envs.model import build_spec
from ballbot.evaluation import env_options
from ballbot.parsing import parse
from ballbot.ppo import load_policy
from ballbot.ppo.checkpoint import write_atomic

ROOT = EXPERIMENTS.parent
SOURCES = ROOT / "docs" / "site" / "demo"
ROBOT = "rollers"
"""The reference on wheels that MuJoCo's own contacts do, without the contact fix."""
PACKED = {
    "mujoco.wasm": "@mujoco/mujoco/mujoco.wasm",
    "ort.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
}
"""File of the page, packed by gzip -> file of npm's packages."""
COPIED = {"mujoco.js": "@mujoco/mujoco/mujoco.js", "ort.js": "onnxruntime-web/dist/ort.wasm.bundle.min.mjs"}
"""The same, of those that a browser reads by itself."""
LICENSES = {"mujoco": "LICENSE", "onnxruntime": "onnxruntime/LICENSE"}
"""Package of Python -> end of the file with the license that npm's package is under as well and does not contain."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHOWN = 20.0
"""s after which a picture is taken; without a GPU, drawing slows the robot down."""
FRAME = (
    '<style>*{margin:0;border:0}iframe{width:100vw;height:100vh}</style><iframe src="./#show"></iframe><img src="late">'
)
"""A page that is loaded when its image is, which is when Chromium takes the picture."""


@dataclass
class Args:
    """Build the page on which a robot lives in the browser."""

    out: CheckoutPath = ROOT / "build" / "demo"
    """Folder of the page."""
    policy: str = "default"
    """Policy that balances: told a goal; a checkpoint, run folder, or the name of one that comes with ballbot."""
    grounds: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """How many uneven grounds there are to drive on."""
    picture: Path | None = None
    """Take a picture of the page, too, by Chromium without a window."""


def packages(folder: Path) -> Path:
    """Npm's packages, checked by their SHA-512.

    Raises:
        ValueError: they cannot be had; the message says why.
    """
    lock = (SOURCES / "package-lock.json").read_bytes()
    kept, modules = folder / "package-lock.json", folder / "node_modules"
    if modules.is_dir() and kept.is_file() and kept.read_bytes() == lock:
        return modules
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError("npm is missing, which brings MuJoCo for browsers: install Node.js 18 or newer")
    folder.mkdir(parents=True, exist_ok=True)
    kept.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".npm_") as scratch:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCES / name, scratch)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=600)
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if line.strip()), "it does not say why")
            raise ValueError(f"npm cannot bring MuJoCo and onnxruntime ({said.strip()}): is there a network?")
        if modules.is_dir():
            shutil.rmtree(modules)
        shutil.move(Path(scratch) / "node_modules", modules)
    kept.write_bytes(lock)  # last: now they are whole
    return modules


def robot_files(policy_name: str, grounds: int) -> dict[str, bytes]:
    """Name -> content of what this robot, its grounds and its policy are.

    Raises:
        ValueError: the policy is not told a goal, or has other wheels.
    """
    policy = load_policy(find_policy(policy_name))
    options = env_options(policy)
    encoder = options.get("encoder")
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        paths = export_policy(policy, Path(scratch) / "policy.onnx", encoder)
        found |= {path.name: path.read_bytes() for path in paths}
    metadata = onnx.load_from_string(found["policy.onnx"]).metadata_props
    contract = json.loads(next(entry.value for entry in metadata if entry.key == "ballbot"))
    if contract["command"]["kind"] != "goal" or contract["action"] != "torque":
        raise ValueError(f"{policy_name} is told a {contract['command']['kind']}: the page tells goals, take another")
    place = {"terrain": "perlin", "terrain_split": "eval", "num_terrains": grounds, "rig": options.get("rig", {})}
    envs = BallbotVectorEnv(1, robot=ROBOT, num_threads=1, **place)
    try:
        sims, config = envs.simulations, envs.config
        ground, model = sims.ground, sims.model
        assert ground.relief is not None
        top = float(ground.tops.max())
        scene, poses = Scene(sims), []
        for terrain in range(grounds):
            sims.place(0, terrain)
            poses.append(sims.qpos[0].tolist())
        spec = build_spec(
            ground.relief[:1], tops=np.array([top]), length=ground.grid.length, rig=sims.rig, robot=sims.robot
        )
        world: dict[str, Any] = {
            "name": Path(policy_name).name,
            "terrain": "uneven ground",
            "contract": contract,
            "dt": float(model.opt.timestep),
            "vertices": int(ground.relief.shape[1]),
            "length": float(ground.grid.length),
            "top": top,
            "reach": float(sims.reach),
            "poses": poses,
            "solids": scene.solids,
            "bodies": scene.bodies,
            "torque": float(model.actuator_ctrlrange[0, 1]),
            "tilt_limit": config.tilt_limit_deg,
            "push": PUSH,
        }
        if encoder is not None:
            eyes = DepthCamera(model, ground.relief, tops=ground.tops, max_depth=encoder.max_depth)
            world["image_steps"] = round(contract["camera"]["period"] / world["dt"])
            world["cameras"] = {
                "shape": eyes.shape,
                "fovy_deg": float(model.cam_fovy[model.camera("cam_0").id]),
                "positions": eyes.positions.tolist(),
                "axes": eyes.axes.tolist(),
                "ball_radius": float(model.geom("ball").size[0]),
                "max_depth": eyes.max_depth,
            }
            found["own_depth.bin"] = eyes.robot_depth.numpy().astype("<f4").tobytes()
        found["robot.xml"] = spec.to_xml().encode()
        scaled = ground.relief * (ground.tops / top).astype(np.float32)[:, None, None]
        found["grounds.bin"] = scaled.astype("<f4").tobytes()
        found["world.json"] = json.dumps(world, separators=(",", ":")).encode()
    finally:
        envs.close()
    return found


def write_page(out: Path) -> None:
    """Put what a browser reads first into the folder, where the packed files are already."""
    page = (files("ballbot.assets") / "drive.html").read_text(encoding="utf-8")
    script, parts = '<script src="drive.js"></script>', (SOURCES / "demo.html").read_text(encoding="utf-8")
    size = sum(path.stat().st_size for path in out.glob("*.gz"))
    for old, new in (
        (script, parts + script),
        ('<html lang="en">', f'<html lang="en" data-bytes="{size}">'),
        ("<title>ballbot</title>", "<title>ballbot, in your browser</title>"),
    ):
        assert page.count(old) == 1, old
        page = page.replace(old, new)
    write_atomic(out / "index.html", page.encode())
    write_atomic(out / "drive.js", (files("ballbot.assets") / "drive.js").read_bytes())
    for path in SOURCES.glob("*.js"):
        write_atomic(out / path.name, path.read_bytes())


def licenses() -> str:
    """The licenses of what others made."""
    parts = []
    for package, end in LICENSES.items():
        found = [path for path in importlib.metadata.files(package) or () if str(path).endswith(end)]
        parts.append(f"{package}\n{'=' * len(package)}\n\n{found[0].read_text()}")
    return "\n\n".join(parts)


def build(args: Args) -> int:
    """Build the page."""
    make_folder(args.out, "--out", "the page")
    modules = packages(args.out.with_name(f"{args.out.name}_packages"))
    print("exporting the policy, and the robot with its grounds", flush=True)
    content = robot_files(args.policy, args.grounds)
    content |= {name: (modules / path).read_bytes() for name, path in PACKED.items()}
    for path in args.out.glob("*.gz"):
        if path.name.removesuffix(".gz") not in content:
            path.unlink()
    for name, data in content.items():
        write_atomic(args.out / f"{name}.gz", gzip.compress(data, 9, mtime=0))
    for name, source in COPIED.items():
        text = re.sub(rb"\n//# sourceMappingURL=.*", b"", (modules / source).read_bytes())
        write_atomic(args.out / name, text)
    write_atomic(args.out / "LICENSES.txt", licenses().encode())
    write_page(args.out)
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"wrote {args.out}, {size / 1e6:.1f} MB: python -m http.server --directory {args.out}")
    if args.picture is not None:
        take_picture(args.out, args.picture)
    return 0


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder's address, while plain HTTP serves it to this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/late":
                time.sleep(SHOWN)
            if self.path == "/frame":
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(FRAME.encode())
            else:
                super().do_GET()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def take_picture(folder: Path, picture: Path) -> None:
    """Let the page drive by itself for a while, and keep what it shows then.

    Raises:
        ValueError: there is no Chromium, or it fails.
    """
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise ValueError(f"--picture needs one of {', '.join(BROWSERS)}: install Chromium, or leave it out")
    with served(folder) as address, tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--use-gl=angle",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars", "--window-size=1280,800",
            f"--user-data-dir={profile}", f"--screenshot={picture.resolve()}", f"{address}frame",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode or not picture.is_file():
        raise ValueError(f"{browser} took no picture ({done.stderr.strip()[-200:]})")
    print(f"wrote {picture}")


@program
def main(argv: list[str] | None = None) -> int:
    """Build, and return the exit status."""
    args = parse(Args, argv, __doc__)
    if args.picture is not None:
        check_output(args.picture, "--picture", (".png",))
    return build(args)


if __name__ == "__main__":
    sys.exit(main())
