"""Run the command ``deepnotes``, as ``python -m deepnotes``."""

import sys

from deepnotes.cli import main

if __name__ == "__main__":
    sys.exit(main())
