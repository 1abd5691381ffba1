"""Everything about the package stands in pyproject.toml; this file is where the native build will hang.

The libraries described in csrc/README.md will be declared here as `torch.utils.cpp_extension` modules, one for the CPU
and one for CUDA, so that `pip install -e .` and `python setup.py build_ext` build them. Nothing is compiled today.
"""

from setuptools import setup

setup()
