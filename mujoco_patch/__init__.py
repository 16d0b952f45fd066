"""Makes anisotropic friction between a sphere and a capsule follow the capsule's axis, in stock MuJoCo.

Call `ensure()` before simulating omniwheels modelled as capsules; it installs the fix in this process and
measures that it works. README.md in this folder explains why it is needed.
"""

from mujoco_patch.contact_fix import implementation, install, is_installed, uninstall
from mujoco_patch.layout import ContactFixError
from mujoco_patch.self_check import SelfCheckReport, ensure, verify

__all__ = [
    "ContactFixError",
    "SelfCheckReport",
    "ensure",
    "implementation",
    "install",
    "is_installed",
    "uninstall",
    "verify",
]
