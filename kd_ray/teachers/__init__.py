"""Frozen models that produce targets."""

from kd_ray.teachers.frozen import FrozenTeacher, load_teacher
from kd_ray.teachers.identity import teacher_identity

__all__ = ["FrozenTeacher", "load_teacher", "teacher_identity"]
