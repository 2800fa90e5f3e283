"""What an episode contains (`Scene`) and the one MJCF model that holds every scene.

Metres, radians; table top at z = 0. Every object exists in the model all the time; `World.reset` places those
that a scene names and parks the others. So one compiled model serves all task families, and no episode waits
for a compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from envs.tabletop.arm import MATERIALS_XML, actuator_xml, arm_xml
from envs.tabletop.gl import mujoco
from envs.tabletop.room import room_xml, wood_texture

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.06, 0.08),
    "green": (0.08, 0.55, 0.16),
    "blue": (0.08, 0.22, 0.80),
    "yellow": (0.98, 0.86, 0.08),
    "purple": (0.48, 0.14, 0.62),
    "orange": (1.00, 0.42, 0.02),
}
MAX_BINS, MAX_MATS, MAX_BUTTONS = 3, 3, 4

BLOCK_HALF = 0.02
BIN_INNER, BIN_WALL = 0.055, 0.04  # half of the inner side; height of the walls
BOX_INNER, BOX_WALL = 0.08, 0.045
FLOOR = 0.004  # thickness of bin and box floors = height on which things in them stand
MAT_HALF = 0.04
DRAWER_FLOOR = 0.010  # height of the drawer's floor
DRAWER_TRAVEL = 0.14  # how far the drawer opens
DRAWER_INNER = (0.065, 0.08)  # half sizes of the drawer's floor along x, y
HANDLE = (-0.072, 0.055)  # the bar's x from the cabinet's front face (drawer closed), and its height
CABINET_HEIGHT, CABINET_DEPTH, CABINET_HALF_WIDTH = 0.075, 0.16, 0.10
BUTTON_TOP, BUTTON_TRAVEL = 0.036, 0.012  # height of a released plunger; its travel
PRESS_DEPTH, RELEASE_DEPTH = 0.005, 0.003


@dataclass(frozen=True)
class Scene:
    """What an episode starts with. Positions are world metres; keys are colour names."""

    blocks: Mapping[str, tuple[float, float, float, float]] = field(
        default_factory=dict
    )  # centre x, y, z, and yaw
    bins: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # centre; at most 3
    box: tuple[float, float] | None = None  # centre of the big open box
    drawer: tuple[float, float] | None = None  # middle of the cabinet's front face; the drawer opens to -x
    drawer_opening: float = 0.0  # metres
    mats: tuple[tuple[float, float], ...] = ()  # () or left (+y), middle, right (-y)
    buttons: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # centre; at most 4
    arm_offset: tuple[float, float, float, float, float] = (
        0.0,
        0.0,
        0.0,
        0.0,
        0.04,
    )  # start x, y, z, yaw; finger
    light: float = 1.0  # factor on the lamps' strength, about 0.8 to 1.2
    tone: float = 0.0  # -1 darker .. +1 lighter table


def _box(size: str, pos: str, extra: str = "") -> str:
    return f'<geom type="box" size="{size}" pos="{pos}" {extra}/>'


def _tray(name: str, inner: float, wall: float, fixture: str) -> str:
    """An open box: a floor and four walls around a square of half side `inner`."""
    t = 0.003
    outer, h = inner + 2 * t, (wall + FLOOR) / 2
    return (
        f'<body name="{name}" mocap="true">'
        + _box(f"{outer} {outer} {FLOOR / 2}", f"0 0 {FLOOR / 2}", fixture)
        + "".join(_box(f"{t} {outer} {h}", f"{s * (inner + t)} 0 {h}", fixture) for s in (-1, 1))
        + "".join(_box(f"{inner} {t} {h}", f"0 {s * (inner + t)} {h}", fixture) for s in (-1, 1))
        + "</body>"
    )


def _cabinet(fixture: str) -> str:
    w, d, h = CABINET_HALF_WIDTH, CABINET_DEPTH / 2, CABINET_HEIGHT
    bar_x, bar_z = HANDLE
    dark = fixture + ' rgba="0.36 0.38 0.42 1"'
    light = fixture + ' rgba="0.80 0.78 0.74 1"'
    inside = fixture + ' rgba="0.58 0.56 0.53 1"'
    metal = 'rgba="0.16 0.17 0.19 1" contype="2" conaffinity="0" condim="4" friction="1.2 0.02 0.001"'
    body = [
        '<body name="cabinet" mocap="true">',
        _box(f"{d} {w} 0.004", f"{d} 0 {h - 0.004}", dark),
        _box(f"0.004 {w} {h / 2}", f"{2 * d - 0.004} 0 {h / 2}", dark),
        *[_box(f"{d} 0.005 {h / 2}", f"{d} {s * (w - 0.005)} {h / 2}", dark) for s in (-1, 1)],
        '<body name="drawer">',
        f'<joint name="drawer" type="slide" axis="-1 0 0" range="0 {DRAWER_TRAVEL}" damping="6" '
        'frictionloss="1.5" armature="0.2" solreflimit="0.02 1"/>',
        _box("0.005 0.098 0.033", "-0.005 0 0.037", light + ' mass="0.15"'),
        _box("0.065 0.086 0.002", f"0.065 0 {DRAWER_FLOOR - 0.002}", inside + ' mass="0.15"'),
        *[_box("0.065 0.003 0.02", f"0.065 {s * 0.083} 0.028", inside + ' mass="0.05"') for s in (-1, 1)],
        _box("0.003 0.08 0.02", "0.127 0 0.028", inside + ' mass="0.05"'),
        f'<geom name="handle" type="capsule" fromto="{bar_x} -0.05 {bar_z} {bar_x} 0.05 {bar_z}" '
        f'size="0.007" mass="0.05" {metal}/>',
        *[
            _box(
                f"{(-bar_x - 0.01) / 2} 0.005 0.005",
                f"{(bar_x - 0.01) / 2} {s * 0.05} {bar_z}",
                metal + ' mass="0.01"',
            )
            for s in (-1, 1)
        ],
        "</body></body>",
    ]
    return "".join(body)


def _button(i: int, fixture: str) -> str:
    """A plunger on a spring in a dark base; the ring and the dome are the lamp (material lamp<i>)."""
    free = 'contype="0" conaffinity="0"'
    return f"""
<body name="button{i}" mocap="true">
  <geom type="cylinder" size="0.046 0.004" pos="0 0 0.004" material="lamp{i}" {fixture}/>
  <geom type="cylinder" size="0.034 0.010" pos="0 0 0.010" rgba="0.2 0.21 0.23 1" {fixture}/>
  <geom type="sphere" size="0.013" pos="0.034 0 0.012" material="lamp{i}" {free}/>
  <body name="plunger{i}">
    <joint name="plunger{i}" type="slide" axis="0 0 -1" range="0 {BUTTON_TRAVEL}" stiffness="150"
      springref="-0.01" damping="3" armature="0.02" solreflimit="0.02 1"/>
    <geom name="plunger{i}" type="cylinder" size="0.022 0.008" pos="0 0 {BUTTON_TOP - 0.008}"
      mass="0.03" {fixture}/>
  </body>
</body>"""


def scene_xml() -> str:
    """The whole model. Contact bits: fixtures contype 2 / conaffinity 0, blocks 1 / 3, fingers 1 / 2."""
    fixture = 'contype="2" conaffinity="0" condim="4" friction="0.8 0.01 0.001"'
    parts = [
        f"""
<mujoco model="tabletop">
<compiler angle="radian"/>
<option timestep="0.005" integrator="implicitfast" cone="elliptic" impratio="5"
  iterations="30" tolerance="1e-8"/>
<visual>
  <headlight ambient="0.34 0.34 0.35" diffuse="0.28 0.28 0.28" specular="0.1 0.1 0.1"/>
  <quality shadowsize="2048" offsamples="0"/>
  <map znear="0.02" zfar="30" shadowclip="1.2" shadowscale="1"/>
  <global offwidth="640" offheight="480"/>
</visual>
<statistic center="0.5 0 0.1" extent="1.2"/>
<asset>
  <texture name="wood" type="2d" builtin="flat" width="512" height="512" rgb1="0.6 0.6 0.6"/>
  <texture name="floor" type="2d" builtin="checker" width="256" height="256" rgb1="0.44 0.45 0.47"
    rgb2="0.48 0.49 0.51"/>
  <texture name="sky" type="skybox" builtin="gradient" width="64" height="384" rgb1="0.78 0.86 0.93"
    rgb2="0.93 0.93 0.91"/>
  <material name="wood" texture="wood" specular="0.15" shininess="0.3" reflectance="0.03"/>
  <material name="floor" texture="floor" texrepeat="10 10" texuniform="true" reflectance="0.05"/>
  {MATERIALS_XML}
  {"".join(f'<material name="lamp{i}" rgba="0.3 0.3 0.3 1" emission="0"/>' for i in range(MAX_BUTTONS))}
</asset>
<worldbody>
  <light name="key" pos="0.95 -0.8 2.2" dir="-0.27 0.38 -1" diffuse="0.62 0.60 0.56" specular="0.3 0.3 0.3"
    castshadow="true" cutoff="44" exponent="1.2"/>
  <light name="fill" pos="0.2 1.4 1.6" dir="0.1 -0.7 -1" diffuse="0.20 0.21 0.24"
    castshadow="false" specular="0 0 0"/>
  <camera name="front" pos="1.0 0 0.95" xyaxes="0 1 0 -0.8963 0 0.4434" fovy="40"/>
  <camera name="person" pos="1.55 -1.02 0.92" xyaxes="0.6396 0.7687 0 -0.3112 0.2590 0.9144" fovy="42"/>
  <geom name="table" type="box" size="0.55 0.62 0.02" pos="0.35 0 -0.02" material="wood" {fixture}/>
  {room_xml()}
  {arm_xml()}
  {"".join(_tray(f"bin{i}", BIN_INNER, BIN_WALL, fixture) for i in range(MAX_BINS))}
  {_tray("box", BOX_INNER, BOX_WALL, fixture + ' rgba="0.55 0.57 0.60 1"')}
  {_cabinet(fixture)}
  {
            "".join(
                f'''<body name="mat{i}" mocap="true">
    <geom type="box" size="{MAT_HALF} {MAT_HALF} 0.0008" pos="0 0 0.0008"
     rgba="0.93 0.93 0.90 1" contype="0" conaffinity="0"/></body>'''
                for i in range(MAX_MATS)
            )
        }
  {"".join(_button(i, fixture) for i in range(MAX_BUTTONS))}
""",
    ]
    for color, rgb in COLORS.items():
        parts.append(f"""
  <body name="{color}" gravcomp="1"><freejoint name="{color}"/>
    <geom name="{color}" type="box" size="{BLOCK_HALF} {BLOCK_HALF} {BLOCK_HALF}" mass="0.05" condim="4"
      contype="1" conaffinity="3" friction="0.9 0.01 0.001" solref="0.01 1"
      rgba="{rgb[0]} {rgb[1]} {rgb[2]} 1"/></body>""")
    parts.append(f"""
</worldbody>
<contact><exclude body1="hand" body2="finger_left"/><exclude body1="hand" body2="finger_right"/></contact>
{actuator_xml()}
</mujoco>""")
    return "".join(parts)


def compile_model() -> mujoco.MjModel:
    """The compiled model with the table's texture drawn in (0.1 s)."""
    model = mujoco.MjModel.from_xml_string(scene_xml())
    tex = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_TEXTURE, "wood")
    height, width, start = int(model.tex_height[tex]), int(model.tex_width[tex]), int(model.tex_adr[tex])
    model.tex_data[start : start + height * width * 3] = wood_texture(height, width).ravel()
    return model
