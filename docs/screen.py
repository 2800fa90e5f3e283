"""The README's picture of `steersman demo`, of a real run: `python docs/screen.py`."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

from rich.console import Console

from agent.console.view import Frame
from agent.evaluation.settings import Settings
from examples.demo import SHOWN, wake

WIDTH, HEIGHT, SCENE = 104, 31, 106


def main(out: Path) -> None:
    session = wake(Settings(), "sync", Path("outputs/demo"), lambda note: None)
    session.begin(SCENE, SHOWN)
    session.listen()

    def go_on(until) -> None:
        while not until():
            due = time.perf_counter() + session.period
            session.tick()
            session.show()
            time.sleep(max(0.0, due - time.perf_counter()))

    go_on(lambda: session.env.world.block_pos("red")[2] > 0.1)
    session.press("d")
    shown = session.shown
    go_on(lambda: shown.history[-1].text == "close the drawer")
    while shown.writing is not None and not 0 < len(shown.writing.subtask) < len("close the drawer"):
        session.show()  # until it is half written
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), color_system="truecolor")
    console.print(Frame(shown))
    drawn = console.export_svg(title="steersman demo")
    out.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))  # no fonts from elsewhere
    session.close()


if __name__ == "__main__":
    main(Path(__file__).with_name("demo.svg"))
