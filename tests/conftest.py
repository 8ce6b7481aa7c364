"""What all tests share: nothing but how they can be interrupted."""

from __future__ import annotations

import signal

from hypothesis import settings

# A job in the background of a script ignores SIGINT, and what it starts would too: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's business.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
