"""Resolution: what a person's outcome does to the items of a case, with what follows from the items alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from hivemind_pipelines.core.claims import read
from hivemind_pipelines.core.features import normalise_scope
from hivemind_pipelines.core.model import ItemId


class ResolutionError(ValueError):
    """An outcome that needs to be told more; the message is one line."""


@dataclass(frozen=True, slots=True)
class Party:
    """An item of a case as it stands; `contributed_at` None where no calendar has it."""

    id: ItemId
    content: str
    version: str | None
    contributed_at: datetime | None
    valid_at: datetime | None
    invalid_at: datetime | None


@dataclass(frozen=True, slots=True)
class Supersede:
    """Expire an item because a newer one says what holds now; its duplicates stay expired with it."""

    item_id: ItemId


@dataclass(frozen=True, slots=True)
class SetValidity:
    """World time of an item: from when and until when it holds; the item stays live."""

    item_id: ItemId
    valid_at: datetime | None
    invalid_at: datetime | None


Resolving = Supersede | SetValidity


def plan_update(parties: Sequence[Party], older: ItemId | None) -> tuple[Supersede, ...]:
    """Expire the older of two items: the one named, else the one contributed first.

    Raises ResolutionError where that does not say which, and for a name that is not in the case.
    """
    if older is not None:
        return (Supersede(_named(parties, older).id),)
    if len(parties) != 2:
        raise ResolutionError(f"the case has {len(parties)} live items: name the outdated one with --older")
    dates = [party.contributed_at for party in parties]
    if None in dates or dates[0] == dates[1]:
        raise ResolutionError("the dates do not say which item is older: name it with --older")
    oldest = min(parties, key=lambda party: (party.contributed_at is None, party.contributed_at, party.id))
    return (Supersede(oldest.id),)


def plan_fork(parties: Sequence[Party], older: ItemId | None, at: datetime | None) -> tuple[SetValidity, ...]:
    """Let the item of the older version hold until the newer one's begins, and that one from then on.

    Older is the item named, else the one whose version (column, else the first that its text names) is
    lower. The moment is `at`, else when the newer item holds from, else when it was contributed. A bound
    that is set already stays. Raises ResolutionError where these do not say it.
    """
    if len(parties) != 2:
        raise ResolutionError(f"a version fork has two items, and this case has {len(parties)} live ones")
    old, new = _by_version(parties, older)
    moment = at or new.valid_at or new.contributed_at
    if moment is None:
        raise ResolutionError("the newer item has no usable date: give the moment with --at")
    if old.valid_at is not None and old.valid_at >= moment:
        raise ResolutionError("the older item would end before it begins: give another moment with --at")
    return tuple(
        change
        for change, party in (
            (SetValidity(old.id, old.valid_at, old.invalid_at or moment), old),
            (SetValidity(new.id, new.valid_at or moment, new.invalid_at), new),
        )
        if (change.valid_at, change.invalid_at) != (party.valid_at, party.invalid_at)
    )


def _by_version(parties: Sequence[Party], older: ItemId | None) -> tuple[Party, Party]:
    if older is not None:
        old = _named(parties, older)
        return old, next(party for party in parties if party.id != old.id)
    versions = [version_of(party) for party in parties]
    if not all(versions) or versions[0] == versions[1]:
        raise ResolutionError("the items do not say which version is older: name its item with --older")
    old, new = (party for _, party in sorted(zip(versions, parties, strict=True), key=lambda one: one[0]))
    return old, new


def version_of(party: Party) -> tuple[int, ...]:
    """The version that an item is about as numbers, empty where it names none."""
    column = normalise_scope(party.version)
    named = [column] if column else [
        release.version.lstrip("<") for claim in read(party.content) for release in claim.releases
    ]  # fmt: skip
    for version in named:
        numbers = tuple(int(part) for part in version.lstrip("v").split(".") if part.isdigit())
        if numbers:
            return numbers
    return ()


def _named(parties: Sequence[Party], item_id: ItemId) -> Party:
    for party in parties:
        if party.id == item_id:
            return party
    raise ResolutionError(f"--older names {item_id}, which is no live item of this case")
