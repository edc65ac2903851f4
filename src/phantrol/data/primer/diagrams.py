"""Diagrams: arrows between words or sprites, as a circle, a tree, a flow chart or a web."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin

from phantrol.data.primer.asking import Draft, Sitting, Task
from phantrol.data.primer.diagram_drawing import draw_diagram
from phantrol.data.primer.kinds import Kind, stage_page
from phantrol.data.primer.page import draw_look
from phantrol.data.primer.splits import Split
from phantrol.data.primer.wordings import Template
from phantrol.data.primer.words import NODES, allowed

FORMS = ("circle", "tree", "flow", "web")
STEPS = (1, 2, 3)
SPRITE_SHARE = 0.8  # of the webs show sprites in place of words
Edge = tuple[int, int]


@dataclass(frozen=True)
class Diagram:
    """Nodes with their places (fractions of the side, y downwards), and arrows from node to node.

    sprites  whether the nodes are drawn as what they are called, and not as words;  stamps  folder of the drawings
    """

    form: str
    names: tuple[str, ...]
    places: tuple[tuple[float, float], ...]
    edges: tuple[Edge, ...]
    sprites: bool
    stamps: str
    style: str
    font: str
    paint_seed: int
    kind: str = "diagrams"

    def phrase(self, node: int) -> str:
        return f"the {self.names[node]}" if self.sprites else self.names[node]

    def targets(self, node: int) -> list[int]:
        return [b for a, b in self.edges if a == node]

    def sources(self, node: int) -> list[int]:
        return [a for a, b in self.edges if b == node]

    def steps(self, start: int) -> dict[int, int]:
        """Return the number of arrows from one node to each to which all ways are of one length."""
        lengths: dict[int, set[int]] = {}
        ways = [(start,)]
        while ways:
            way = ways.pop()
            for target in self.targets(way[-1]):
                if target not in way:
                    lengths.setdefault(target, set()).add(len(way))
                    ways.append((*way, target))
        return {node: found.pop() for node, found in lengths.items() if len(found) == 1}


def plan_diagram(rng: random.Random, split: Split, forms: tuple[str, ...] = FORMS) -> tuple[Diagram, None]:
    form = rng.choice(forms)
    places, edges = _LAYOUTS[form](rng, split.more)
    # sprites in test_comp would be known ones: words can be held out
    sprites = form == "web" and not split.unseen and rng.random() < SPRITE_SHARE
    order = rng.sample(range(len(places)), len(places))  # so that the order of the names says nothing
    places = [places[i] for i in order]
    edges = [(order.index(a), order.index(b)) for a, b in edges]
    rng.shuffle(edges)
    named: list[str] = [] if sprites else rng.sample(allowed(NODES, split), len(places))
    while len(named) < len(places):
        named.append(split.pack.pick(rng, named))
    folder, look = split.pack.folder, draw_look(rng, split)
    return Diagram(form, tuple(named), tuple(places), tuple(edges), sprites, folder, **look), None


def plan_ways(rng: random.Random, split: Split) -> tuple[Diagram, None]:
    return plan_diagram(rng, split, ("circle", "flow"))


def _lay_circle(rng: random.Random, more: bool) -> tuple[list, list[Edge]]:
    number = rng.randint(7, 8) if more else rng.randint(4, 6)
    turn = rng.uniform(0, 2 * pi)
    angles = [turn + 2 * pi * i / number for i in range(number)]
    edges = [(i, (i + 1) % number) for i in range(number)]
    if rng.random() < 0.5:
        edges = [(b, a) for a, b in edges]
    return [(0.5 + 0.36 * cos(a), 0.5 + 0.38 * sin(a)) for a in angles], edges


def _lay_tree(rng: random.Random, more: bool) -> tuple[list, list[Edge]]:
    """A root, two or three below it, one or two below each of these, four at most."""
    below = rng.choice(([1, 1, 2], [1, 2, 1], [2, 1, 1], [1, 1, 1]) if more else ([1, 2], [2, 1], [2, 2]))
    total = sum(below)
    places, edges, leaf = [(0.5, 0.14)], [], 0
    for count in below:
        parent = len(places)
        xs = [(leaf + i + 0.5) / total for i in range(count)]
        places.append((0.06 + 0.88 * sum(xs) / count, 0.48))
        edges.append((0, parent))
        for x in xs:
            edges.append((parent, len(places)))
            places.append((0.06 + 0.88 * x, 0.84))
        leaf += count
    return places, edges


def _lay_flow(rng: random.Random, more: bool) -> tuple[list, list[Edge]]:
    """A chain in two columns, with a short cut now and then."""
    number = rng.randint(7, 8) if more else rng.randint(4, 6)
    left = rng.random() < 0.5
    places = [(0.27 if (i % 2 == 0) == left else 0.73, 0.1 + 0.8 * i / (number - 1)) for i in range(number)]
    edges = [(i, i + 1) for i in range(number - 1)]
    if number > 4 and rng.random() < 0.5:
        start = rng.randrange(number - 2)
        edges.append((start, start + 2))
    return places, edges


def _lay_web(rng: random.Random, more: bool) -> tuple[list, list[Edge]]:
    """Two or three layers; each node points to one or two of the next, and some arrows cross."""
    layers = [3, 3, 2] if more else rng.choice(([2, 2], [2, 2, 1], [3, 2], [2, 3], [1, 2, 2]))
    places, rows = [], []
    for depth, count in enumerate(layers):
        rows.append(range(len(places), len(places) + count))
        y = 0.86 - 0.72 * depth / (len(layers) - 1)
        places += [((i + 0.5 + rng.uniform(-0.12, 0.12)) / count, y + rng.uniform(-0.02, 0.02)) for i in range(count)]
    edges = [
        (a, b)
        for low, high in pairwise(rows)
        for a in low
        for b in sorted(rng.sample(high, rng.randint(1, min(2, len(high)))))
    ]
    return places, edges


# -- questions


def ask_target(sitting: Sitting) -> Draft | None:
    return _ask_neighbour(sitting, "diagram_target", Diagram.targets)


def ask_source(sitting: Sitting) -> Draft | None:
    return _ask_neighbour(sitting, "diagram_source", Diagram.sources)


def ask_arrow(sitting: Sitting) -> Draft | None:
    """Half of the noes ask about an arrow the wrong way round, where that is not an arrow too."""
    diagram, rng, done = sitting.scene, sitting.rng, sitting.asked.get("diagram_arrow", ())
    present, edges = rng.random() < 0.5, set(diagram.edges)
    number = range(len(diagram.names))
    pairs = [(a, b) for a in number for b in number if a != b and ((a, b) in edges) == present]
    if not present and rng.random() < 0.5:
        pairs = [(a, b) for a, b in pairs if (b, a) in edges]
    pairs = [pair for pair in pairs if pair not in done]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    slots = {"a": diagram.phrase(a), "b": diagram.phrase(b)}
    answer = "yes" if present else "no"
    return Draft("diagram_arrow", slots, answer, ("yes", "no"), (a, b), vague=("yes or no", "no or yes", "maybe"))


def ask_steps(sitting: Sitting) -> Draft | None:
    """The number of steps is drawn first; only diagrams that have them all can be asked about."""
    diagram, rng, done = sitting.scene, sitting.rng, sitting.asked.get("diagram_steps", ())
    by_steps: dict[int, list[Edge]] = {steps: [] for steps in STEPS}
    for a in range(len(diagram.names)):
        for b, steps in diagram.steps(a).items():
            if steps in by_steps and (a, b) not in done:
                by_steps[steps].append((a, b))
    if not all(by_steps.values()):
        return None
    steps = rng.choice(STEPS)
    a, b = rng.choice(by_steps[steps])
    slots = {"a": diagram.phrase(a), "b": diagram.phrase(b)}
    return Draft("diagram_steps", slots, str(steps), tuple(map(str, STEPS)), (a, b))


def _ask_neighbour(sitting: Sitting, task: str, neighbours) -> Draft | None:
    """Ask about a node with one neighbour of this kind."""
    diagram, done = sitting.scene, sitting.asked.get(task, ())
    nodes = [i for i in range(len(diagram.names)) if len(neighbours(diagram, i)) == 1 and i not in done]
    if not nodes:
        return None
    node = sitting.rng.choice(nodes)
    answer = diagram.names[neighbours(diagram, node)[0]]
    name = diagram.names[node]
    pack = sitting.split.pack
    names = pack.others(answer) if diagram.sprites else allowed(NODES, sitting.split)
    pool = tuple(other for other in names if other != name)
    near = tuple(other for other in diagram.names if other != name)
    return Draft(task, {"name": diagram.phrase(node)}, answer, pool, node, near)


_LAYOUTS = {"circle": _lay_circle, "tree": _lay_tree, "flow": _lay_flow, "web": _lay_web}
KIND = Kind(stage_page, draw_diagram)
_DIAGRAMS = {"diagrams": plan_diagram}
TASKS = {
    "diagram_target": Task("diagrams", ask_target, _DIAGRAMS, weight=0.5),
    "diagram_source": Task("diagrams", ask_source, _DIAGRAMS, weight=0.4),
    "diagram_arrow": Task("diagrams", ask_arrow, _DIAGRAMS, "yesno", weight=0.4),
    "diagram_steps": Task("diagrams", ask_steps, {"diagrams": plan_ways}, "number", weight=0.3),
}
WORDINGS: dict[str, Template] = {
    "diagram_target": (
        (
            "What does {name} point to?",
            "Which one does {name} point to?",
            "Where does the arrow from {name} go?",
            "What comes after {name}?",
            "Name what {name} points to.",
            "To what does the arrow from {name} point?",
        ),
        ("In the image, what does {name} point to?", "In the image, what comes after {name}?"),
    ),
    "diagram_source": (
        (
            "What points to {name}?",
            "Which one points to {name}?",
            "Where does the arrow to {name} come from?",
            "What comes before {name}?",
            "Name what points to {name}.",
            "From what does the arrow to {name} come?",
        ),
        ("In the image, what points to {name}?", "In the image, what comes before {name}?"),
    ),
    "diagram_arrow": (
        (
            "Is there an arrow from {a} to {b}?",
            "Does {a} point to {b}?",
            "Is an arrow drawn from {a} to {b}?",
            "Does an arrow go from {a} to {b}?",
            "Can you see an arrow from {a} to {b}?",
            "Does the image show an arrow from {a} to {b}?",
        ),
        ("In the image, does {a} point to {b}?", "Does the image have an arrow from {a} to {b}?"),
    ),
    "diagram_steps": (
        (
            "How many steps are there from {a} to {b}?",
            "How many arrows lead from {a} to {b}?",
            "How many steps is it from {a} to {b}?",
            "What is the number of steps from {a} to {b}?",
            "Count the steps from {a} to {b}.",
            "How many arrows are on the way from {a} to {b}?",
        ),
        ("In the image, how many steps are there from {a} to {b}?", "Count the arrows from {a} to {b}."),
    ),
}
