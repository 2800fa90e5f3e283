"""A 7-joint arm with the Franka Panda's kinematics, drawn with primitives, and its inverse kinematics.

Joint frames, limits and masses are the published facts of the real robot (Franka's FCI documentation); shapes
are ours. Metres and radians. The hand points along its own +z; its fingers open along its own y.
"""

from __future__ import annotations

import numpy as np

from envs.tabletop.gl import mujoco

JOINT_LOW = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_HIGH = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
JOINT_SPEED = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])  # rad/s, the real robot's limits
REST = np.array([0.0, -0.35, 0.0, -2.45, 0.0, 2.10, 0.785])  # elbow up, hand down, above the work area
# Position servos: torque = KP (ctrl - q) - KV qdot. World takes the lag KV / KP out again by a velocity
# feed-forward.
KP = np.array([4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0])
KV = np.array([300.0, 300.0, 240.0, 240.0, 100.0, 80.0, 60.0])
TORQUE = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
FINGER_OPEN = 0.04  # travel of each finger
FINGER_KP, FINGER_KV, FINGER_FORCE = 1000.0, 60.0, 30.0
TCP = 0.1034  # from the hand's origin to the point between the finger tips
FINGER_BELOW_TCP = 0.0086  # the finger tips end this far below the TCP

# (parent-relative position, euler about x, mass, centre of mass, diagonal inertia, visual geoms)
_HALF_PI = 1.5707963267948966
_LINKS = (
    (
        "0 0 0.333",
        0.0,
        4.97,
        "0 -0.02 -0.12",
        "0.055 0.05 0.012",
        (
            ("capsule", "0 0 -0.19 0 0 -0.02", 0.058, "shell"),
            ("capsule", "0 -0.058 0 0 0.058 0", 0.059, "shell"),
            ("cylinder", "0 0 -0.2 0 0 -0.185", 0.061, "joint"),
        ),
    ),
    (
        "0 0 0",
        -_HALF_PI,
        0.65,
        "0 -0.07 0.03",
        "0.008 0.004 0.006",
        (
            ("cylinder", "0 0 -0.085 0 0 0.085", 0.05, "joint"),
            ("capsule", "0 0 0 0 -0.14 0", 0.056, "shell"),
            ("cylinder", "0 -0.185 0 0 -0.2 0", 0.057, "joint"),
        ),
    ),
    (
        "0 -0.316 0",
        _HALF_PI,
        3.23,
        "0.03 0.04 -0.07",
        "0.037 0.036 0.011",
        (
            ("capsule", "0 0 -0.115 0 0 -0.045", 0.055, "shell"),
            ("capsule", "0 0 -0.045 0.0825 0 0", 0.045, "shell"),
            ("capsule", "0.0825 -0.045 0 0.0825 0.045 0", 0.05, "shell"),
        ),
    ),
    (
        "0.0825 0 0",
        _HALF_PI,
        3.59,
        "-0.05 0.1 0.03",
        "0.026 0.02 0.028",
        (
            ("cylinder", "0 0 -0.075 0 0 0.075", 0.044, "joint"),
            ("capsule", "0 0 0 -0.0825 0.09 0", 0.046, "shell"),
            ("capsule", "-0.0825 0.09 0 -0.0825 0.12 0", 0.052, "shell"),
        ),
    ),
    (
        "-0.0825 0.384 0",
        -_HALF_PI,
        1.23,
        "0 0.04 -0.04",
        "0.036 0.03 0.009",
        (
            ("cylinder", "0 0 -0.262 0 0 -0.25", 0.053, "joint"),
            ("capsule", "0 0 -0.2 0 0.02 -0.09", 0.05, "shell"),
            ("capsule", "0 0.02 -0.09 0 0 0", 0.044, "shell"),
            ("capsule", "0 -0.04 0 0 0.05 0", 0.045, "shell"),
        ),
    ),
    (
        "0 0 0",
        _HALF_PI,
        1.67,
        "0.06 -0.014 -0.01",
        "0.003 0.005 0.006",
        (
            ("cylinder", "0 0 -0.06 0 0 0.066", 0.04, "joint"),
            ("capsule", "0 0 0 0.06 0 0", 0.042, "shell"),
            ("capsule", "0.088 0.02 0 0.088 -0.03 0", 0.043, "shell"),
        ),
    ),
    (
        "0.088 0 0",
        _HALF_PI,
        0.74,
        "0.01 0.01 0.06",
        "0.013 0.01 0.006",
        (
            ("cylinder", "0 0 0.04 0 0 0.085", 0.042, "shell"),
            ("cylinder", "0 0 0.085 0 0 0.107", 0.036, "joint"),
        ),
    ),
)


def _finger(side: str, sign: int) -> str:
    """One finger: slides along the hand's y; only its pads and tip touch the world."""
    touch = 'contype="1" conaffinity="2" condim="4" friction="1.6 0.02 0.001" solref="0.008 1" priority="1"'
    return f"""
<body name="finger_{side}" pos="0 0 0.0584" gravcomp="1">
  <inertial pos="0 {sign * 0.012} 0.03" mass="0.06" diaginertia="4e-5 4e-5 1e-5"/>
  <joint name="finger_{side}" type="slide" axis="0 {sign} 0" range="0 {FINGER_OPEN}" armature="0.1"
    damping="2"/>
  <geom type="box" size="0.011 0.009 0.012" pos="0 {sign * 0.013} 0.011" material="joint" contype="0"
    conaffinity="0"/>
  <geom name="tip_{side}" type="box" size="0.0095 0.006 0.0157" pos="0 {sign * 0.0065} 0.0379"
    material="pad" {touch}/>
  <geom type="box" size="0.0095 0.007 0.006" pos="0 {sign * 0.0085} 0.0222" material="joint" {touch}/>
</body>"""


def arm_xml() -> str:
    """MJCF of the arm as one body tree, base at the world's origin. Uses MATERIALS_XML."""
    free = 'contype="0" conaffinity="0"'
    parts = [
        f"""
<body name="base" pos="0 0 0">
  <geom type="cylinder" size="0.085 0.012" pos="0 0 0.012" material="joint" {free}/>
  <geom type="capsule" fromto="-0.08 0 0.045 0 0 0.05" size="0.045" material="shell" {free}/>
  <geom type="cylinder" size="0.068 0.055" pos="0 0 0.075" material="shell" {free}/>"""
    ]
    for i, (pos, turn, mass, com, inertia, geoms) in enumerate(_LINKS):
        parts.append(f"""
<body name="link{i + 1}" pos="{pos}" euler="{turn} 0 0" gravcomp="1">
  <inertial pos="{com}" mass="{mass}" diaginertia="{inertia}"/>
  <joint name="joint{i + 1}" axis="0 0 1" range="{JOINT_LOW[i]} {JOINT_HIGH[i]}" armature="0.2"
    damping="1"/>""")
        for kind, ends, radius, material in geoms:
            parts.append(
                f'<geom type="{kind}" fromto="{ends}" size="{radius}" material="{material}" {free}/>'
            )
    touch = 'contype="1" conaffinity="2" friction="0.6 0.01 0.001"'
    parts.append(f"""
<body name="hand" pos="0 0 0.107" euler="0 0 -0.7853981633974483" gravcomp="1">
  <inertial pos="0 0 0.03" mass="0.73" diaginertia="0.002 0.001 0.002"/>
  <geom type="cylinder" size="0.034 0.006" pos="0 0 0.004" material="joint" {free}/>
  <geom name="palm" type="box" size="0.028 0.1 0.022" pos="0 0 0.034" material="shell" {touch}/>
  <geom type="box" size="0.02 0.094 0.004" pos="0 0 0.058" material="joint" {free}/>
  <geom type="box" size="0.012 0.016 0.009" pos="0.036 0 0.03" material="joint" {free}/>
  <site name="tcp" pos="0 0 {TCP}" size="0.004" rgba="0 0 0 0"/>
  <camera name="wrist" pos="0.075 0 0.02" xyaxes="0 -1 0 -0.91 0 -0.41" fovy="78"/>
  {_finger("left", 1)}{_finger("right", -1)}
</body>""")
    parts.append("</body>" * 8)
    return "\n".join(parts)


def actuator_xml() -> str:
    """Position servos: seven joints, then the two fingers."""
    servo = [
        f'<position name="servo{i + 1}" joint="joint{i + 1}" kp="{KP[i]}" kv="{KV[i]}" '
        f'ctrlrange="{JOINT_LOW[i]} {JOINT_HIGH[i]}" forcerange="{-TORQUE[i]} {TORQUE[i]}"/>'
        for i in range(7)
    ]
    servo += [
        f'<position name="grip_{s}" joint="finger_{s}" kp="{FINGER_KP}" kv="{FINGER_KV}" '
        f'ctrlrange="0 {FINGER_OPEN}" forcerange="{-FINGER_FORCE} {FINGER_FORCE}"/>'
        for s in ("left", "right")
    ]
    return "<actuator>" + "".join(servo) + "</actuator>"


MATERIALS_XML = """
<material name="shell" rgba="0.93 0.94 0.95 1" specular="0.5" shininess="0.6"/>
<material name="joint" rgba="0.22 0.24 0.27 1" specular="0.4" shininess="0.4"/>
<material name="pad" rgba="0.12 0.12 0.13 1" specular="0.1"/>
"""


def down(yaw: float) -> np.ndarray:
    """(3, 3) rotation of a hand pointing down, turned by `yaw` about the world's z; 0: fingers along y."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])


def rotation(vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation of an axis-angle vector (3,)."""
    quat, out = np.empty(4), np.empty(9)
    angle = float(np.linalg.norm(vector))
    mujoco.mju_axisAngle2Quat(quat, vector / angle if angle > 1e-12 else np.array([1.0, 0.0, 0.0]), angle)
    mujoco.mju_quat2Mat(out, quat)
    return out.reshape(3, 3)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """(3,) axis-angle vector in [0, pi] of a rotation (3, 3)."""
    quat, out = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(matrix).ravel())
    mujoco.mju_quat2Vel(out, quat, 1.0)
    return out


def axis_angle_of_hand(matrix: np.ndarray) -> np.ndarray:
    """(3,) axis-angle of a hand's rotation, continuous around "pointing down".

    A hand pointing down is a half turn, exactly where the usual choice (angle <= pi) jumps. The quaternion's
    sign is chosen by its x part instead: the vector stays near (pi cos(yaw/2), pi sin(yaw/2), 0), |yaw| < pi.
    """
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.ascontiguousarray(matrix).ravel())
    if quat[1] < 0:
        quat = -quat
    size = float(np.linalg.norm(quat[1:]))
    return quat[1:] / max(size, 1e-12) * (2.0 * np.arctan2(size, quat[0]))


class ArmKinematics:
    """Forward and damped-least-squares inverse kinematics, on a small model of the arm alone."""

    def __init__(self) -> None:
        xml = (
            f'<mujoco><compiler angle="radian"/><asset>{MATERIALS_XML}</asset>'
            f"<worldbody>{arm_xml()}</worldbody></mujoco>"
        )
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self.site = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, "tcp")
        self._jacp, self._jacr = np.zeros((3, self.model.nv)), np.zeros((3, self.model.nv))

    def forward(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """q (7,) -> TCP position (3,) and rotation (3, 3)."""
        self.data.qpos[:7] = q
        mujoco.mj_kinematics(self.model, self.data)
        return self.data.site_xpos[self.site].copy(), self.data.site_xmat[self.site].reshape(3, 3).copy()

    def solve(
        self, q: np.ndarray, position: np.ndarray, matrix: np.ndarray, iterations: int = 4
    ) -> np.ndarray:
        """Joints (7,) within limits that bring the TCP to `position` (3,), `matrix` (3, 3), from q (7,)."""
        q = np.array(q, dtype=np.float64)
        identity = np.eye(7)
        for _ in range(iterations):
            at, turned = self.forward(q)
            error = np.concatenate([position - at, rotation_vector(matrix @ turned.T)])
            if np.abs(error).max() < 1e-5:
                break
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mj_jacSite(self.model, self.data, self._jacp, self._jacr, self.site)
            jac = np.vstack([self._jacp[:, :7], self._jacr[:, :7]])
            inverse = jac.T @ np.linalg.inv(jac @ jac.T + 1e-4 * np.eye(6))
            # The spare degree of freedom (the elbow) is drawn to the rest posture, so the arm does not drift.
            step = inverse @ error + (identity - inverse @ jac) @ (0.1 * (REST - q))
            q = np.clip(q + np.clip(step, -0.4, 0.4), JOINT_LOW + 0.01, JOINT_HIGH - 0.01)
        return q
