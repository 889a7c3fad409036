"""`ray job submit --working-dir . -- python jobs/run.py -c CONFIG`: the command line's `run`."""

import sys

from hybridmu.cli.start import main as start


def main() -> None:
    """Run the verb with this script's arguments."""
    start(["run", *sys.argv[1:]])


if __name__ == "__main__":
    main()
