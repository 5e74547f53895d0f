"""`backfill` in a process of its own and in small chunks, to be killed while it is at work.

    python -m hivemind_pipelines_tests.faults.interrupted_backfill ORGS_PER_RUN [WORD...]

The words go to the command; settings come from the environment.
"""

import sys

from hivemind_pipelines import cli
from hivemind_pipelines.defs import backfill


def main(orgs_per_run: str, *words: str) -> int:
    backfill.PARTITIONS_PER_RUN = int(orgs_per_run)
    return cli.main(["backfill", "--yes", *words])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
