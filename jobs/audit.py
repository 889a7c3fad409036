"""`ray job submit --working-dir . -- python jobs/audit.py -c CONFIG`: the command line's `audit`."""

import sys

from hybridmu.cli.start import main as start


def main() -> None:
    """Run the verb with this script's arguments."""
    start(["audit", *sys.argv[1:]])


if __name__ == "__main__":
    main()
