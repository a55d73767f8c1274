from __future__ import annotations

import re

from tests.tasks.solvers import Spend


def solve_KeyValue(prompt: str, spend: Spend) -> set[str]:
    """Reads the facts one by one, again for every hop."""
    *facts, question = prompt.split(". ")
    person = re.findall("[A-Z][a-z][a-z](?![a-z])", question.replace("The ", ""))[0]
    for wanted in ["'s friend is "] * question.count("friend") + [" keeps a "]:
        for fact in facts:
            spend()
            subject, _, thing = fact.partition(wanted)
            if thing and subject == person:
                person = thing
                break
    return {person}


def solve_RuleSwitch(prompt: str, spend: Spend) -> set[str]:
    """Counts for each rule how long it has held, example by example."""
    *examples, question = prompt.split(" ")
    images = {"copy": "0123456789", "next": "1234567890", "previous": "9012345678", "mirror": "9876543210"}
    held = dict.fromkeys(images, 0)
    for example in examples:
        for rule, image in images.items():
            spend()
            held[rule] = held[rule] + 1 if image[int(example[0])] == example[2] else 0
    return {images[rule][int(question[0])] for rule in images if held[rule] == max(held.values())}


def solve_GraphPath(prompt: str, spend: Spend) -> set[str]:
    """Deepens a search from every neighbour of the start by one edge at a time until one of them arrives."""
    listed, question = prompt.removeprefix("Edges: ").split(". ")
    start, goal = re.findall(r"\b[A-Z]\b", question)[:2]
    edges = [tuple(edge.split("-")) for edge in listed.split(" ")]

    def step(nodes: set[str]) -> set[str]:
        out = set(nodes)
        for u, v in edges:
            spend()
            out |= {v} if u in nodes else set()
            out |= {u} if v in nodes else set()
        return out

    reached = {node: {node} for node in step({start}) - {start}}
    while not any(goal in nodes for nodes in reached.values()):
        reached = {node: step(nodes) for node, nodes in reached.items()}
    return {node for node, nodes in reached.items() if goal in nodes}
