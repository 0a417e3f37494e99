"""The demo model: MiniMax's architecture in miniature, trained by us on a kitchen assistant's conversations."""

from pathlib import Path


def demo_checkpoint() -> Path:
    """The folder of the shipped demo checkpoint, in MiniMax's original format: convert it before you load it."""
    return Path(__file__).parent / "checkpoint"
