"""Writing down what an agent does: a LeRobot dataset, a video, a rerun file; and running it again."""

from agent.recording.recording import ENDED, Frame, Recording, Run

__all__ = ["ENDED", "Frame", "Recording", "Run"]
