"""Runs in the environment of openpi's own client (its numpy is older): asks a server what it is told to ask.

On standard input msgpack messages, each {"new": true} (another client, as for another episode) or {"ask": an
observation}; pictures are fitted to 224 as openpi's examples do. On standard output the answers.
"""

import struct
import sys

import numpy as np
from openpi_client import image_tools, msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def main(host: str, port: str, key: str = "") -> None:
    client = None
    while (size := sys.stdin.buffer.read(4)) and len(size) == 4:
        told = msgpack_numpy.unpackb(sys.stdin.buffer.read(struct.unpack("<I", size)[0]))
        if told.get("new"):
            client = WebsocketClientPolicy(host, int(port), api_key=key or None)
            answer = client.get_server_metadata()
        else:
            seen = dict(told["ask"])
            for name in ("observation/image", "observation/wrist_image"):
                fitted = image_tools.resize_with_pad(np.asarray(seen[name]), 224, 224)
                seen[name] = image_tools.convert_to_uint8(fitted)
            try:
                answer = client.infer(seen)
            except RuntimeError as error:  # what the public client makes of a text frame
                answer = {"error": str(error)}
        frame = msgpack_numpy.packb(answer)
        sys.stdout.buffer.write(struct.pack("<I", len(frame)) + frame)
        sys.stdout.buffer.flush()


main(*sys.argv[1:])
