"""Conversations as models read them, and where in their text and tokens each side's words stand.

Training and evaluation share it, so that what a compressor reads of a question is the same in both.
"""

from foveate.chat.columns import columns, verify
from foveate.chat.said import MARK, Record, Said, Span, Turn
from foveate.chat.template import Chat, Told, asked, end_token, image_mark, prompt, spoken

__all__ = [
    "MARK",
    "Chat",
    "Record",
    "Said",
    "Span",
    "Told",
    "Turn",
    "asked",
    "columns",
    "end_token",
    "image_mark",
    "prompt",
    "spoken",
    "verify",
]
