"""Scenes with a known true explanation, a detector that is a formula, and scores against the truth."""

from . import scores
from .rule_detector import RULES, RuleDetector
from .scene import LAYOUTS, Part, Scene, scene
from .shapes import CLASS_NAMES, ROLES

__all__ = ["CLASS_NAMES", "LAYOUTS", "ROLES", "RULES", "Part", "RuleDetector", "Scene", "scene", "scores"]
