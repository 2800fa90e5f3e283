"""Levels that are on another machine: openpi's websocket protocol, from the robot's side."""

from agent.remote.controller import RemoteController
from agent.remote.link import Link
from agent.remote.opening import without_secrets
from agent.remote.planner import RemotePlanner
from agent.remote.policy import RemotePolicy

__all__ = ["Link", "RemoteController", "RemotePlanner", "RemotePolicy", "without_secrets"]
