"""The world that ships: a table, a Panda-like arm, blocks, bins, a drawer, buttons with lamps."""

import os
import sys

# Without a choice MuJoCo looks for a window system, which a server lacks. Must come before `import mujoco`.
if sys.platform.startswith("linux"):
    os.environ.setdefault("MUJOCO_GL", "egl")
