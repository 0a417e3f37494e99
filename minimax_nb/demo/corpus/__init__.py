"""The text that the demo is trained and tested on: conversations with a kitchen assistant, drawn from tables."""

from .conversation import (
    conversation,
    dress,
    held_out_questions,
    plain_text,
    recall_case,
    stating,
    subject,
)

__all__ = ["conversation", "dress", "held_out_questions", "plain_text", "recall_case", "stating", "subject"]
