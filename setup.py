"""Build what is compiled, contact fix and ray casting; everything else about the package stands in pyproject.toml.

The libraries include no header of Python, MuJoCo or PyTorch and are loaded by ctypes, so one file each serves every
Python. They are built as extension modules only because installers can build those. Without a C compiler the package
installs all the same; the contact fix falls back to Python, the cameras to PyTorch.
"""

import sys
import sysconfig

from setuptools import Extension, setup

# setuptools refuses the stable ABI on free-threaded Pythons
stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "mujoco_patch._contact_fix",
            sources=["mujoco_patch/contact_fix.c"],
            py_limited_api=stable_abi,
            optional=True,
        ),
        Extension(
            "ballbot.envs._height_rays",
            sources=["ballbot/envs/height_rays.c"],
            # without contraction compilers round alike; the other two let them use vector instructions
            extra_compile_args=[]
            if sys.platform == "win32"
            else ["-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"],
            py_limited_api=stable_abi,
            optional=True,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable_abi else {},
)
