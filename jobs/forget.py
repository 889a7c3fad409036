"""`ray job submit --working-dir . -- python jobs/forget.py -c CONFIG --ids FILE --wait`: the command line's `forget`.

Ids come from files only: the dashboard shows a job's command line to everyone who may open it.
"""

import sys

from hybridmu.cli.start import main as start


def main() -> None:
    """Run the verb with this script's arguments; refuse ids on the command line."""
    arguments = sys.argv[1:]
    if any(argument.split("=")[0] in {"--id", "--group"} for argument in arguments):
        sys.exit(
            "error: the dashboard shows a job's command line; put ids into a file and pass --ids FILE or --groups FILE"
        )
    start(["forget", *arguments])


if __name__ == "__main__":
    main()
