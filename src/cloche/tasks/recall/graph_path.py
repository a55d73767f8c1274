"""The first step of a shortest path in a graph that the prompt lists edge by edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_uppercase
from typing import Any

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values

NODES = {1: 5, 2: 7, 3: 9, 4: 12, 5: 16}  # by level


@dataclass(frozen=True)
class GraphPath(Task):
    """The next node on a shortest path from one node to another in an undirected graph.

    Where several paths are shortest, the next node of each is right.
    A variant renames the nodes and lists the edges in another order. The graph has every node's distance from the goal.

    >>> from cloche.tasks import GraphPath
    >>> item = GraphPath().example(level=1, seed=0)
    >>> item.prompt, item.answer
    ('Edges: X-Z B-R F-R Z-B B-X X-F. The shortest path from X to R goes from X to', 'B')
    """

    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        n = NODES[level]
        nodes = rng.sample(ascii_uppercase, n)
        while True:
            edges = {frozenset((nodes[i], nodes[rng.randrange(max(0, i - 4), i)])) for i in range(1, n)}
            while len(edges) < n + n // 4:
                edges.add(frozenset(rng.sample(nodes, 2)))
            listed = [rng.sample(sorted(edge), 2) for edge in sorted(edges, key=sorted)]
            rng.shuffle(listed)
            values: dict[str, Any] = {}
            for i, (u, v) in enumerate(listed):
                values |= {f"u{i}": u, f"v{i}": v}
            values |= dict(zip(("start", "goal"), rng.sample(nodes, 2), strict=True))
            if len(_right(values)) < len(self.choices(values)):
                return values

    def template(self, values: Values) -> str:
        edges = " ".join(f"{{u{i}}}-{{v{i}}}" for i in range(len(_ends(values)) // 2))
        return f"Edges: {edges}. The shortest path from {{start}} to {{goal}} goes from {{start}} to"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        ends = tuple(values)[:-2]
        return {
            "distances": Rule((*ends, "goal"), lambda *given: _distances(given[:-1], given[-1])),
            "answer": Rule((*ends, "start", "distances"), lambda *given: min(_steps(given[:-2], *given[-2:]))),
        }

    def contrasts(self, values: Values) -> Sequence[str]:
        """The start, the goal and the edges at the start."""
        start = values["start"]
        beside = [name[1:] for name in tuple(values)[:-2] if values[name] == start]
        return ["start", "goal", *(f"{side}{i}" for i in beside for side in "uv")]

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        """Another node, if the graph stays simple and the goal can still be reached."""
        changed = {**values, name: rng.choice(sorted({*values.values()}))}
        start, goal, ends = changed["start"], changed["goal"], _ends(changed)
        pairs = {frozenset(pair) for pair in zip(ends[::2], ends[1::2], strict=True)}
        simple = len(pairs) == len(ends) // 2 and all(len(pair) == 2 for pair in pairs)
        return changed[name] if simple and start != goal and start in _distances(ends, goal) else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        """Renames the nodes, and lists the edges backwards in another order."""
        names = dict(zip(ascii_uppercase, rng.sample(ascii_uppercase, 26), strict=True))
        ends = [names[node] for node in _ends(values)]
        n = len(ends) // 2
        moved = [end for i in rng.sample(range(n), n) for end in (ends[2 * i + 1], ends[2 * i])]
        return dict(zip(values, [*moved, names[values["start"]], names[values["goal"]]], strict=True))

    def canonical(self, values: Values) -> str:
        ends = _ends(values)
        edges = sorted("".join(sorted(pair)) for pair in zip(ends[::2], ends[1::2], strict=True))
        return f"{' '.join(edges)} {values['start']} {values['goal']}"

    def choices(self, values: Values) -> Sequence[str]:
        return sorted(_neighbours(_ends(values)).get(values["start"], ()))

    def accepts(self, values: Values, answer: str) -> bool:
        return answer in _right(values)

    def steps(self, values: Values) -> tuple[str, ...]:
        away = _distances(_ends(values), values["goal"])
        return tuple(f"{node} is {away[node]} from {values['goal']}" for node in self.choices(values) if node in away)


def _ends(values: Values) -> Sequence[str]:
    """Both ends of every edge."""
    return tuple(values.values())[:-2]


def _neighbours(ends: Sequence[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {node: set() for node in ends}
    for u, v in zip(ends[::2], ends[1::2], strict=True):
        found[u].add(v)
        found[v].add(u)
    return found


def _distances(ends: Sequence[str], goal: str) -> dict[str, int]:
    """Edges between the goal and every node that it can be reached from."""
    found, front, neighbours = {goal: 0}, [goal], _neighbours(ends)
    for node in front:
        for other in neighbours.get(node, ()):
            if other not in found:
                found[other] = found[node] + 1
                front.append(other)
    return found


def _steps(ends: Sequence[str], start: str, distances: Mapping[str, int]) -> set[str]:
    """The neighbours of the start that are closest to the goal; "nowhere" without one."""
    near = {node: distances[node] for node in _neighbours(ends).get(start, ()) if node in distances}
    return {node for node in near if near[node] == min(near.values())} or {"nowhere"}


def _right(values: Values) -> set[str]:
    return _steps(_ends(values), values["start"], _distances(_ends(values), values["goal"]))
