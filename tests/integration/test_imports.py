"""The configuration and the cache load neither torch nor Ray, which cost seconds."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["kd_ray.config.load", "kd_ray.cache.target_set", "kd_ray.cache.view_store"])
def test_a_light_module_imports_neither_torch_nor_ray(module: str) -> None:
    program = f"import sys, {module}; print(sorted({{'torch', 'ray', 'torchvision', 'timm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
