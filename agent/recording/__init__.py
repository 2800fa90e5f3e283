"""Writing down what an agent does: a LeRobot dataset, a video, a rerun file; and running it again."""

from agent.recording.recording import Frame, Recording, Run

__all__ = ["Frame", "Recording", "Run"]
