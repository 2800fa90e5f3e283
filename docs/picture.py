"""The README's moving picture from a rollout: `python docs/picture.py outputs/rollout/episode-106.mp4`."""

from __future__ import annotations

import sys
from pathlib import Path

import av
from PIL import Image

WIDTH, FPS, HOLD_MS = 720, 5, 2500


def main(video: Path, out: Path) -> None:
    with av.open(str(video)) as film:
        rate = round(film.streams.video[0].average_rate)
        frames = [frame.to_image() for frame in film.decode(video=0)]
    pictures = frames[:: rate // FPS]
    size = (WIDTH, WIDTH * pictures[0].height // pictures[0].width)
    pictures = [picture.resize(size, Image.LANCZOS) for picture in pictures]
    sheet = Image.new("RGB", (size[0], 4 * size[1]))  # small bright things need their place in the palette
    for i in range(4):
        sheet.paste(pictures[i * (len(pictures) - 1) // 3], (0, i * size[1]))
    palette = sheet.quantize(256, method=Image.Quantize.FASTOCTREE)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    times = [1000 // FPS] * (len(pictures) - 1) + [HOLD_MS]
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True)
    print(f"{out}: {len(pictures)} pictures, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("rollout.gif"))
