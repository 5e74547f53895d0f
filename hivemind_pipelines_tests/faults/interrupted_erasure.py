"""An erasure in a process of its own that stops dead before a statement, to be killed there.

    python -m hivemind_pipelines_tests.faults.interrupted_erasure DATABASE_URL HOME ITEM_ID FRAGMENT

It prints `sql:FRAGMENT` once the first statement that holds the fragment is about to run.
"""

import sys
from pathlib import Path
from uuid import UUID

from hivemind_pipelines.core.model import ItemId
from hivemind_pipelines.stages import erasing
from hivemind_pipelines.stages.erasing import Office
from hivemind_pipelines.stages.residual_scan import Places
from hivemind_pipelines.store.connection import open_store
from hivemind_pipelines_tests.faults.interrupted import stop_before
from hivemind_pipelines_tests.stages.commons import NOW, policy

KEY = b"a key of the tests alone, 32 bytes"
REASON = "asked in the letter that the killed process had"


def main(url: str, home: str, item_id: str, fragment: str) -> None:
    with open_store(url) as store:
        stop_before(store, fragment)
        office = Office(Places(store, directories=(Path(home),)), Path(home), KEY)
        erasing.erase(
            office, policy(), [ItemId(UUID(item_id))], reason=REASON, with_copies=False, now=NOW
        )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
