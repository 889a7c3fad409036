"""`ray job submit --working-dir . -- python jobs/train.py -c CONFIG`: the command line's `train`."""

import sys

from hybridmu.cli.start import main as start


def main() -> None:
    """Run the verb with this script's arguments."""
    start(["train", *sys.argv[1:]])


if __name__ == "__main__":
    main()
