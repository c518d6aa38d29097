"""python -m streamwatch, and the `streamwatch` script."""

import signal

# Before the first import that takes time: until the command runs there is nothing to tidy up, so Ctrl-C ends this as it
# ends any program. `cli` gives Python's own handling back.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys

from streamwatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
