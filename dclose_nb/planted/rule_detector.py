"""A detector whose answers are formulas, and the exact explanation of its detections."""

from __future__ import annotations

from math import factorial
from typing import NamedTuple

import numpy as np
import torch

from .. import checks
from ..checks import InputError
from ..detection import Canvas, Detections, Detector, Proposals
from ..similarity import mask_weights
from .scene import Scene, bounding_box

RULES = {
    "sum": "objectness is the mean visibility of the object's parts, but for its edge part",
    "weighted": "as sum, but parts weigh 1, 2, 4 and so on, in an order drawn for each object",
    "and": "objectness is the product of the visibilities of its two largest parts",
    "or": "objectness is 1 - (1 - v) (1 - v') for the visibilities v, v' of its two largest parts",
    "class": "as sum; the part that decides the class moves its probability from the twin to the class",
    "edge": "as sum; the box extends to the edge part in proportion to its visibility",
    "class and edge": "objectness is 1; the class as in rule class, the box as in rule edge",
    "context": "as sum, times 1/3 plus 2/3 of the ground's visibility",
    "landmark": "as sum, times 1/3 plus 2/3 of the visibility of the largest stone outside the box",
    "suppressor": "as sum, times 1 minus half the mean visibility of the stones",
}
TWINS = {"taxi": "car"}  # without its deciding part an object is of this class
MOST_PLAYERS = 16  # 2 ** 16 coalitions are enumerated in a second


class Player(NamedTuple):
    """Something whose visibility a rule may depend on."""

    number: int  # index of its object, or -1
    name: str
    role: str  # of shapes.ROLES, or "inert" or "context"
    mask: np.ndarray  # (H, W) bool


class RuleDetector(Detector):
    """A detector of one scene whose boxes and probabilities follow from what is visible of each part.

    It compares each image with the scene. A pixel's visibility is 1 less its relative distance from
    the scene's pixel, so that a masked pixel I M has the visibility M. A part's visibility is the mean
    over its pixels. `rule` is a key of `RULES` and holds for all objects. Other rules, and an image
    of another size than the scene, raise `InputError`.
    """

    def __init__(self, scene: Scene, rule: str = "sum") -> None:
        checks.choice("rule", rule, RULES)
        super().__init__(f"rule: {rule}", scene.class_names)
        self.scene, self.rule = scene, rule
        self.players = [
            *(Player(k, *part) for k, parts in enumerate(scene.parts) for part in parts),
            *(Player(-1, *part) for part in scene.distractors),
        ]
        if scene.ground_mask.any():
            self.players.append(Player(-1, "ground", "context", scene.ground_mask))
        masks = np.stack([player.mask.ravel() for player in self.players])
        self._sizes = masks.sum(1)  # (P,) pixels
        self._averages = torch.tensor(masks / self._sizes[:, None], dtype=torch.float64)  # (P, HW)
        self._pixels = torch.tensor(scene.image).permute(2, 0, 1).float()  # (3, H, W), nowhere 0

    def prepare(self, image: np.ndarray) -> Canvas:
        size = self.scene.image.shape[:2]
        if image.shape[:2] != size:
            raise InputError(f"this detector knows one scene of {size}, the image is {image.shape[:2]}")
        return Canvas(torch.tensor(image).permute(2, 0, 1).float(), size, (0, 0, *size))

    def predict(self, pixels: torch.Tensor) -> Proposals:
        return self.propose(self.visibility(pixels))

    def visibility(self, pixels: torch.Tensor) -> torch.Tensor:
        """Visibility (B, P) in [0, 1] of the players in images (B, 3, H, W)."""
        seen = (1 - (pixels / self._pixels).sub_(1).abs_().mean(1)).clamp_(0, 1)  # (B, H, W)
        return (seen.flatten(1).double() @ self._averages.T).float()

    def propose(self, visible: torch.Tensor) -> Proposals:
        """One proposal for each object of the scene, from the visibility (B, P) of the players."""
        n, b = len(self.scene.boxes), len(visible)
        boxes = torch.tensor(self.scene.boxes).repeat(b, 1, 1)
        objectness = torch.empty(b, n)
        probs = torch.zeros(b, n, len(self.class_names))
        for k, label in enumerate(self.scene.labels):
            by_role = (("body", "class"), ("class",), ("edge",))
            body, deciding, edges = (self._players(k, *roles) for roles in by_role)
            objectness[:, k] = self._objectness(visible, k, body)
            probs[:, k, label] = 1
            twin = TWINS.get(self.class_names[label])
            if self.rule in ("class", "class and edge") and deciding and twin is not None:
                probs[:, k, label] = visible[:, deciding[0]]
                probs[:, k, self.class_names.index(twin)] = 1 - visible[:, deciding[0]]
            if self.rule in ("edge", "class and edge") and edges:
                inner = torch.tensor(bounding_box(np.logical_or.reduce([self.players[p].mask for p in body])))
                boxes[:, k] = inner + visible[:, edges[0], None] * (boxes[:, k] - inner)
        return Proposals(boxes, objectness, probs)

    def _players(self, number: int, *roles: str) -> list[int]:
        """Indices of an object's players (for -1, of no object's) that have one of the roles."""
        players = enumerate(self.players)
        return [p for p, player in players if player.number == number and player.role in roles]

    def landmark(self, number: int) -> list[int]:
        """Index of the largest stone that lies outside an object's box, if there is one."""
        x1, y1, x2, y2 = self.scene.boxes[number].astype(int)
        stones = self._players(-1, "inert")
        outside = [p for p in stones if not self.players[p].mask[y1:y2, x1:x2].any()]
        return sorted(outside, key=lambda p: self._sizes[p])[-1:]

    def _objectness(self, visible: torch.Tensor, number: int, body: list[int]) -> torch.Tensor:
        largest = sorted(body, key=lambda p: -self._sizes[p])[:2]
        if self.rule == "class and edge":
            return torch.ones(len(visible))
        if self.rule == "and":
            return visible[:, largest].prod(1)
        if self.rule == "or":
            return 1 - (1 - visible[:, largest]).prod(1)
        if self.rule == "weighted":
            order = np.random.default_rng(self.scene.boxes[number].astype(int)).permutation(len(body))
            return visible[:, body] @ torch.tensor(2.0**order / (2.0**order).sum()).float()
        mean = visible[:, body].mean(1)
        ground, inert = (self._players(-1, role) for role in ("context", "inert"))
        if context := {"context": ground, "landmark": self.landmark(number)}.get(self.rule):
            return mean * (1 + 2 * visible[:, context[0]]) / 3
        if self.rule == "suppressor" and inert:
            return mean * (1 - visible[:, inert].mean(1) / 2)
        return mean

    def weights(self, visible: torch.Tensor, target: Detections, question: str = "all") -> torch.Tensor:
        """Weight (B,) of one target (Eq. 6) when the players' visibility is (B, P); see `mask_weights`."""
        boxes, probs = torch.tensor(target.boxes), torch.tensor(target.class_probs)
        return mask_weights(self.propose(visible), boxes, probs, question=question)[:, 0]

    def shapley_values(self, target: Detections, question: str = "all") -> np.ndarray:
        """Exact Shapley value of each player for the target's weight, (P,) float64; see `mask_weights`.

        Enumerates all coalitions of the players that can matter: the parts of objects whose boxes meet
        the target's, the ground and the stones. Other players have the value 0. The values add up to the
        weight with all players visible less the weight with none. More than one target, and too many
        players to enumerate, raise `InputError`.
        """
        if len(target) != 1:
            raise InputError(f"pass one target, not {len(target)}")
        x1, y1, x2, y2 = target.boxes[0]
        left, top, right, bottom = self.scene.boxes.T
        meets = (left < x2) & (x1 < right) & (top < y2) & (y1 < bottom)
        relevant = [p for p, player in enumerate(self.players) if player.number < 0 or meets[player.number]]
        n = len(relevant)
        if n > MOST_PLAYERS:
            raise InputError(f"{n} players can matter, but at most {MOST_PLAYERS} can be enumerated")
        coalitions = (np.arange(2**n)[:, None] >> np.arange(n)) & 1  # (2^n, n)
        visible = torch.ones(2**n, len(self.players))
        visible[:, relevant] = torch.tensor(coalitions, dtype=torch.float32)
        value = self.weights(visible, target, question).double().numpy()
        size = coalitions.sum(1)
        share = np.array([factorial(s) * factorial(n - s - 1) / factorial(n) for s in range(n)])
        values = np.zeros(len(self.players))
        for i, p in enumerate(relevant):
            without = np.flatnonzero(coalitions[:, i] == 0)
            values[p] = (share[size[without]] * (value[without + (1 << i)] - value[without])).sum()
        return values

    def true_map(self, target: Detections, question: str = "all") -> np.ndarray:
        """The true explanation (H, W) of a question: each player's Shapley value, spread evenly over it."""
        truth = np.zeros(self.scene.owner.shape)
        for value, player in zip(self.shapley_values(target, question), self.players):
            truth[player.mask] += value / player.mask.sum()
        return truth
