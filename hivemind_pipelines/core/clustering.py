"""Clustering without chaining: every duplicate matches its canonical directly, and a plan is a diff."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from hivemind_pipelines.core.changes import Merge, Unmerge
from hivemind_pipelines.core.model import DuplicateCluster, ItemId, PairEdge, PoolItem
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.core.survivorship import order_key

UNSUPPORTED = "no_longer_supported"
CANONICAL_GONE = "canonical_gone"

#: A class key, or a class key followed by an item id where a veto splits a class.
Node = bytes
Links = Mapping[Node, set[Node]]


@dataclass(frozen=True, slots=True)
class _Graph:
    """The nodes of a pool with the duplicate links and the vetoes between them, both symmetric."""

    node_of: Mapping[ItemId, Node]
    items: Mapping[Node, Sequence[PoolItem]]
    duplicates: Links
    vetoed: Links


def plan_merges(
    pool: Sequence[PoolItem], edges: Sequence[PairEdge], policy: MatchingPolicy
) -> tuple[Merge | Unmerge, ...]:
    """What turns today's merges into the clusters that the stored pairs support.

    A component that is settled throughout and stands on canonicals of the pool is left alone, whatever
    its scores did since; any other is clustered from scratch. Planning against the applied plan gives
    nothing, and the order of `pool` and `edges` does not matter.
    """
    by_id = {item.id: item for item in pool}
    graph = _graph(pool, edges)
    changes: list[Merge | Unmerge] = []
    for component in _components(pool, graph):
        if not _stands(component, by_id):
            changes += _diff(component, _stars(component, graph, policy), by_id)
    return tuple(sorted(changes, key=lambda change: change.duplicate_id))


def duplicate_clusters(
    pool: Sequence[PoolItem], edges: Sequence[PairEdge], policy: MatchingPolicy
) -> tuple[DuplicateCluster, ...]:
    """The clusters of two or more that the pairs support when everything is clustered from scratch."""
    graph = _graph(pool, edges)
    stars = (star for component in _components(pool, graph) for star in _stars(component, graph, policy))
    clusters = (
        DuplicateCluster(star[0].id, tuple(sorted(item.id for item in star[1:])))
        for star in stars
        if len(star) > 1
    )
    return tuple(sorted(clusters, key=lambda cluster: cluster.canonical_id))


def _graph(pool: Sequence[PoolItem], edges: Sequence[PairEdge]) -> _Graph:
    class_of = {item.id: item.class_key for item in pool}
    known = [edge for edge in edges if edge.a_id in class_of and edge.b_id in class_of]
    node_of = _nodes(class_of, known)
    items: dict[Node, list[PoolItem]] = defaultdict(list)
    for item in sorted(pool, key=order_key):
        items[node_of[item.id]].append(item)
    nodes_of: dict[bytes, set[Node]] = defaultdict(set)
    for item_id, node in node_of.items():
        nodes_of[class_of[item_id]].add(node)
    duplicates: dict[Node, set[Node]] = defaultdict(set)
    vetoed: dict[Node, set[Node]] = defaultdict(set)
    for nodes in nodes_of.values():
        for a_node, b_node in combinations(nodes, 2):
            _link(duplicates, a_node, b_node)
    for edge in known:
        links = vetoed if edge.vetoed else duplicates if edge.decision == "duplicate" else None
        if links is None:
            continue
        if class_of[edge.a_id] == class_of[edge.b_id]:
            _link(links, node_of[edge.a_id], node_of[edge.b_id])
            continue
        for a_node in nodes_of[class_of[edge.a_id]]:
            for b_node in nodes_of[class_of[edge.b_id]]:
                _link(links, a_node, b_node)
    return _Graph(node_of, items, duplicates, vetoed)


def _nodes(class_of: Mapping[ItemId, bytes], edges: Iterable[PairEdge]) -> dict[ItemId, Node]:
    """The class of each item; an item that a veto parts from its own class is a node of its own."""
    parted: set[ItemId] = set()
    for edge in edges:
        if edge.vetoed and class_of[edge.a_id] == class_of[edge.b_id]:
            parted |= {edge.a_id, edge.b_id}
    return {item_id: key + item_id.bytes if item_id in parted else key for item_id, key in class_of.items()}


def _link(links: dict[Node, set[Node]], a_node: Node, b_node: Node) -> None:
    if a_node != b_node:
        links[a_node].add(b_node)
        links[b_node].add(a_node)


def _components(pool: Sequence[PoolItem], graph: _Graph) -> Iterator[list[PoolItem]]:
    """Items tied by duplicate links, equal class or today's merges, each component in survivorship order."""
    followed = _followed(pool, graph)
    seen: set[Node] = set()
    for start in graph.items:
        if start in seen:
            continue
        seen.add(start)
        reached = [start]
        for node in reached:
            fresh = (graph.duplicates.get(node, set()) | followed.get(node, set())) - seen
            seen |= fresh
            reached += fresh
        yield sorted((item for node in reached for item in graph.items[node]), key=order_key)


def _followed(pool: Sequence[PoolItem], graph: _Graph) -> Links:
    """Nodes that a merge in force ties together."""
    links: dict[Node, set[Node]] = defaultdict(set)
    for item in pool:
        if item.canonical_id is not None and item.canonical_id in graph.node_of:
            _link(links, graph.node_of[item.id], graph.node_of[item.canonical_id])
    return links


def _stands(component: Sequence[PoolItem], by_id: Mapping[ItemId, PoolItem]) -> bool:
    """Whether nothing in a component moved since it was clustered."""
    return all(item.settled and _has_true_canonical(item, by_id) for item in component)


def _has_true_canonical(item: PoolItem, by_id: Mapping[ItemId, PoolItem]) -> bool:
    if item.canonical_id is None:
        return True
    canonical = by_id.get(item.canonical_id)
    return canonical is not None and canonical.canonical_id is None


def _stars(component: Sequence[PoolItem], graph: _Graph, policy: MatchingPolicy) -> Iterator[list[PoolItem]]:
    """Greedy stars of a component in survivorship order; the first item of each is its canonical."""
    waiting = {node: list(graph.items[node]) for node in {graph.node_of[item.id] for item in component}}
    placed: set[ItemId] = set()
    for item in component:
        if item.id in placed:
            continue
        star = _star(graph.node_of[item.id], waiting, graph, policy.cluster_max)
        placed |= {member.id for member in star}
        yield star


def _star(centre: Node, waiting: dict[Node, list[PoolItem]], graph: _Graph, size_max: int) -> list[PoolItem]:
    """Take the centre's node, then each node with a duplicate link to it and no veto inside the star."""
    star = _take(centre, waiting, size_max)
    taken = {centre}
    near = graph.duplicates.get(centre, set()) - graph.vetoed.get(centre, set())
    for node in sorted(near & waiting.keys(), key=lambda node: order_key(waiting[node][0])):
        if len(star) >= size_max:
            break
        if graph.vetoed.get(node, set()).isdisjoint(taken):
            star += _take(node, waiting, size_max - len(star))
            taken.add(node)
    return star


def _take(node: Node, waiting: dict[Node, list[PoolItem]], count: int) -> list[PoolItem]:
    items = waiting.pop(node)
    if len(items) > count:
        waiting[node] = items[count:]
    return items[:count]


def _diff(
    component: Sequence[PoolItem], stars: Iterable[Sequence[PoolItem]], by_id: Mapping[ItemId, PoolItem]
) -> list[Merge | Unmerge]:
    canonical_of = {item.id: star[0] for star in stars for item in star[1:]}
    changes: list[Merge | Unmerge] = []
    for item in component:
        canonical = canonical_of.get(item.id)
        if canonical is None and item.canonical_id is not None:
            reason = UNSUPPORTED if item.canonical_id in by_id else CANONICAL_GONE
            changes.append(Unmerge(item.id, item.canonical_id, reason))
        elif canonical is not None and canonical.id != item.canonical_id:
            changes.append(
                Merge(item.id, item.content_hash, canonical.id, canonical.content_hash, item.canonical_id)
            )
    return changes
