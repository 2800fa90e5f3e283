"""The worlds. Importing this package registers the tabletop as the gymnasium environment
`steersman/Tabletop-v0`."""

import gymnasium

if "steersman/Tabletop-v0" not in gymnasium.registry:
    gymnasium.register("steersman/Tabletop-v0", entry_point="envs.tabletop.env:TabletopEnv")
