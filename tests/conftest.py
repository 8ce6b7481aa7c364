"""What all tests share: nothing but how they can be interrupted."""

from __future__ import annotations

import signal

# A job in the background of a script ignores SIGINT, and what it starts would too: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
