"""The policy server: openpi's protocol on a websocket, one network, many clients."""

from agent.serving.background import Background
from agent.serving.server import Server
from agent.serving.settings import Limits, Serving

__all__ = ["Background", "Limits", "Server", "Serving"]
