"""The trained model: backbone, projection heads, export."""

from kd_ray.students.export import export_student
from kd_ray.students.student import StudentModel, build_student

__all__ = ["StudentModel", "build_student", "export_student"]
