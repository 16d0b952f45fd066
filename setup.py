"""Build the compiled contact fix; everything else about the package stands in pyproject.toml.

The library includes no header of Python or MuJoCo and is loaded by ctypes, so one file serves every Python.
It is built as an extension module only because installers can build those. Without a C compiler the package
installs all the same and `mujoco_patch` falls back to Python.
"""

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
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable_abi else {},
)
