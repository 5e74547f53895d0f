from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.model import ItemId
from hivemind_pipelines.core.provenance import (
    LegacyDerivation,
    LegacyMerge,
    LegacyRow,
    is_summary,
    read_provenance,
)

THEN = datetime(2024, 1, 1, tzinfo=UTC)


def item(number: int) -> ItemId:
    return ItemId(UUID(int=number))


def live(number: int, *merged: object, **tags: object) -> LegacyRow:
    return LegacyRow(item(number), True, None, _tags(merged, tags))


def expired(number: int, *merged: object, **tags: object) -> LegacyRow:
    return LegacyRow(item(number), False, THEN, _tags(merged, tags))


def _tags(merged: tuple[object, ...], tags: dict[str, object]) -> dict[str, object]:
    links = [str(item(link)) if isinstance(link, int) else link for link in merged]
    return {"provenance_links": links, **tags} if links else tags


def summary(number: int, *sources: object) -> LegacyRow:
    ids = [str(item(source)) if isinstance(source, int) else source for source in sources]
    return LegacyRow(item(number), True, None, {"distilled": True, "source_item_ids": ids})


def merge(duplicate: int, canonical: int) -> LegacyMerge:
    return LegacyMerge(item(duplicate), item(canonical), THEN)


def test_links_of_a_canonical_become_merges() -> None:
    found = read_provenance([live(1, 2, 3), expired(2), expired(3)])
    assert found.merges == (merge(2, 1), merge(3, 1))
    assert found.ignored == {}


def test_a_chain_of_merges_is_flattened_to_the_live_canonical() -> None:
    found = read_provenance([live(1, 2), expired(2, 3), expired(3, 4), expired(4)])
    assert found.merges == (merge(2, 1), merge(3, 1), merge(4, 1))


def test_a_duplicate_that_two_canonicals_claim_goes_to_the_smallest_id() -> None:
    found = read_provenance([live(9, 5), live(2, 7), expired(7, 5), expired(5)])
    assert found.merges == (merge(5, 2), merge(7, 2))


def test_a_cycle_without_a_live_item_is_imported_by_nobody() -> None:
    found = read_provenance([expired(1, 2), expired(2, 1), live(3)])
    assert found.merges == ()
    assert found.ignored == {"no_live_canonical": 2}


def test_a_cycle_that_a_live_item_enters_ends_at_it() -> None:
    found = read_provenance([live(5, 1), expired(1, 2), expired(2, 1)])
    assert found.merges == (merge(1, 5), merge(2, 5))


def test_self_links_foreign_ids_and_live_duplicates_are_ignored_and_counted() -> None:
    found = read_provenance([live(1, 1, 404, 2), live(2)])
    assert found.merges == ()
    assert found.ignored == {"self": 1, "not_expired": 1, "unknown": 1}


def test_a_merge_with_a_summary_is_left_as_the_server_left_it() -> None:
    found = read_provenance([live(1, 2), expired(2, distilled=True)])
    assert found.merges == ()
    assert found.ignored == {"summary_party": 1}


def test_tags_of_any_shape_are_harmless() -> None:
    shapes = [
        None,
        [],
        "x",
        7,
        True,
        {"provenance_links": "no"},
        {"provenance_links": [1, None, "zz", {}, []]},
    ]
    rows = [LegacyRow(item(number), True, None, tags) for number, tags in enumerate(shapes)]
    found = read_provenance(rows)
    assert (found.merges, found.derivations, found.ignored) == ((), (), {"malformed": 6})


def test_sources_of_a_summary_become_derivations() -> None:
    found = read_provenance([live(1), expired(2), live(3), summary(9, 3, 1, 2, 1)])
    assert found.derivations == tuple(LegacyDerivation(item(9), item(source)) for source in (1, 2, 3))
    assert found.summary_ids == (item(9),)


def test_a_summary_of_a_summary_keeps_only_its_original_sources() -> None:
    found = read_provenance([live(1), summary(8, 1), summary(9, 8, 1, 9, 404, "no id")])
    assert LegacyDerivation(item(9), item(8)) not in found.derivations
    assert LegacyDerivation(item(9), item(1)) in found.derivations
    assert found.ignored == {"malformed": 1, "self": 1, "summary_source": 1, "unknown": 1}


def test_a_row_that_names_sources_is_a_summary_even_without_the_mark() -> None:
    assert is_summary({"source_item_ids": [str(item(1))]})
    assert is_summary({"distilled": True})
    assert not is_summary({"distilled": "true", "source_item_ids": []})


rows = st.lists(
    st.builds(
        lambda number, is_live, links, sources: LegacyRow(
            item(number),
            is_live,
            None if is_live else THEN,
            {"provenance_links": [str(item(link)) for link in links]}
            | ({"source_item_ids": [str(item(source)) for source in sources]} if sources else {}),
        ),
        st.integers(0, 12),
        st.booleans(),
        st.lists(st.integers(0, 13), max_size=4),
        st.just([]) | st.lists(st.integers(0, 13), max_size=3),
    ),
    max_size=12,
    unique_by=lambda row: row.item_id,
)


@given(rows, st.randoms())
def test_imported_merges_are_flat_live_ended_and_independent_of_order(found: list[LegacyRow], random) -> None:  # type: ignore[no-untyped-def]
    by_id = {row.item_id: row for row in found}
    read = read_provenance(found)
    duplicates = [each.duplicate_id for each in read.merges]
    assert len(duplicates) == len(set(duplicates))
    assert all(by_id[each.canonical_id].is_live for each in read.merges)
    assert not {each.canonical_id for each in read.merges} & set(duplicates)
    assert not {edge.source_id for edge in read.derivations} & set(read.summary_ids)
    random.shuffle(found)
    assert read_provenance(found) == read
