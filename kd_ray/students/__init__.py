"""The trained model: backbone, projection heads, export."""

from kd_ray.students.export import Formats, KeptHeads, export_student, without_classifier
from kd_ray.students.model_card import CardFacts
from kd_ray.students.student import StudentModel, build_student

__all__ = [
    "CardFacts",
    "Formats",
    "KeptHeads",
    "StudentModel",
    "build_student",
    "export_student",
    "without_classifier",
]
