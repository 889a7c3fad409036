"""`ray job submit --working-dir . -- python jobs/verify.py -c CONFIG`: the command line's `verify`."""

import sys

from hybridmu.cli.start import main as start


def main() -> None:
    """Run the verb with this script's arguments."""
    start(["verify", *sys.argv[1:]])


if __name__ == "__main__":
    main()
