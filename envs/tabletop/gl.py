"""MuJoCo, imported with an error that says what to do.

`import mujoco` itself loads the GL library that MUJOCO_GL names, so a missing library shows up there.
"""

from __future__ import annotations

from envs.errors import WorldError


def no_gl(error: Exception) -> WorldError:
    """The one line for a machine that cannot draw."""
    text = str(error).strip().splitlines()
    return WorldError(
        f"no OpenGL for rendering ({text[0] if text else type(error).__name__}): on Debian or Ubuntu install "
        "libegl1 libegl-mesa0 libgl1-mesa-dri, or choose a backend with the environment variable "
        "MUJOCO_GL=egl|osmesa|glfw"
    )


try:
    import mujoco
except ModuleNotFoundError:  # not installed: Python's own line says it best
    raise
except Exception as error:  # a missing library surfaces as ImportError, AttributeError or RuntimeError
    raise no_gl(error) from error

__all__ = ["mujoco", "no_gl"]
