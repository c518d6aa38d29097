"""python -m streamwatch"""

import sys

from streamwatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
