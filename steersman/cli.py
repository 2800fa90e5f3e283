"""The `steersman` command. Each subcommand is a script in `examples/`; errors are told here."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "rollout": "watch the shipped agent read an instruction and do it; saves a video",
    "demo": "sit beside it at a terminal: see what it sees and thinks, talk to it, disturb it",
    "run": "act on a robot in real time: one of LeRobot's, or the simulated one",
    "replay": "recorded runs once more: the same, bit by bit?",
    "evaluate": "success over many seeds, with intervals, per family",
    "serve": "the agent for robots elsewhere: openpi's websocket protocol, many clients on one network",
    "report": "a page from the results of one run, of several side by side, or of blame",
    "compare": "is one agent better than another? results on the same seeds, pair by pair",
    "blame": "which level fails, and does the language matter: planners x controllers",
    "collect": "demonstrations and DAgger rounds, written as a LeRobot dataset",
    "annotate": "give a LeRobot dataset subtask and memory labels: by a model, or by hand",
    "train": "train an agent, resumable",
    "convert": "published weights of the pi family into a checkpoint",
    "inspect": "what is in a checkpoint",
}

SCRIPTS = {"inspect": "inspect_weights"}  # a script of that name would hide Python's own module


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: steersman COMMAND [options]",
            "",
            "A hierarchical robot agent: a planner writes the next subtask, a controller does it.",
            "",
            *lines,
            "",
            "steersman COMMAND --help lists its options. steersman --version tells the version.",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 well, 1 something failed, 2 a mistake in what was asked, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"steersman {version('steersman')}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: command: expected one of {known}, got '{name}'", file=sys.stderr)
        return 2
    return run(f"examples.{SCRIPTS.get(name, name)}", f"steersman {name}", rest)


def run(module: str, program: str, arguments: list[str]) -> int:
    """Run a script's `main`, its arguments parsed by its signature, its user's mistakes told in one line."""
    import tyro

    from backbone.errors import UserError
    from envs.errors import WorldError

    try:
        script = importlib.import_module(module)
        return tyro.cli(script.main, prog=program, args=arguments, description=script.__doc__) or 0
    except (UserError, WorldError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output is gone (`| head`)
        sys.stderr.close()
        return 1


if __name__ == "__main__":
    sys.exit(main())
