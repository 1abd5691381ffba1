"""The native core; everything else about the package stands in pyproject.toml.

`pip install -e .` and `python setup.py build_ext` build it: for the CPU, and, where there are nvcc and a GPU, for that
GPU; and the generator's kernels, which belong to the clone and to no wheel. FORCE_CUDA=1 or 0 overrides the search,
TORCH_CUDA_ARCH_LIST is heeded. Without a compiler the package is installed all the same, and plain PyTorch and NumPy
serve.
"""

import glob
import os
import sys

import torch
from setuptools import Extension, setup
from setuptools.errors import BaseError, CCompilerError
from torch.utils import cpp_extension

# The oldest PyTorch that the libraries run on: the stable ABI serves it and all newer ones.
TARGET = "0x020b000000000000"

# Multiply-adds are not contracted: IoUs, and with them ties and thresholds, equal the plain PyTorch definitions.
if sys.platform == "win32":
    if "VSCMD_ARG_TGT_ARCH" in os.environ:  # a developer's prompt: PyTorch asks for this to use its compiler
        os.environ.setdefault("DISTUTILS_USE_SDK", "1")
    FLAGS = ["/O2", "/std:c++20", "/fp:precise", "/permissive-", "/Zc:__cplusplus", "/utf-8", "/EHsc", "/DNOMINMAX"]
    FLAGS += [f"/DTORCH_TARGET_VERSION={TARGET}"]
else:
    FLAGS = ["-O3", "-std=c++20", "-ffp-contract=off", "-fvisibility=hidden", "-g0", "-Wall", "-Wextra"]
    FLAGS += [f"-DTORCH_TARGET_VERSION={TARGET}", f"-ffile-prefix-map={os.getcwd()}/="]
NVCC_FLAGS = ["-O3", "-std=c++20", "-fmad=false", "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={TARGET}"]
if sys.platform == "win32":
    NVCC_FLAGS += [f"-Xcompiler={flag}" for flag in ("/permissive-", "/Zc:__cplusplus", "/Zc:preprocessor", "/EHsc")]
    NVCC_FLAGS += ["-DNOMINMAX"]
else:
    NVCC_FLAGS += ["-Xcompiler=-fvisibility=hidden", f"-Xcompiler=-ffile-prefix-map={os.getcwd()}/="]


class BuildCore(cpp_extension.BuildExtension):
    """Build extensions; in place if `build_ext` is called directly, and optional if there is no compiler."""

    def finalize_options(self) -> None:
        """Build in place if the command is given by name."""
        super().finalize_options()
        if "build_ext" in self.distribution.commands:
            self.inplace = True

    def run(self) -> None:
        """Build; a wheel contains only the extensions of `maskrcnn`."""
        if not (self.inplace or self.editable_mode):  # a wheel; known for sure only now
            self.extensions = [ext for ext in self.distribution.ext_modules if ext.name.startswith("maskrcnn.")]
        super().run()

    def build_extensions(self) -> None:
        """Build the extensions; without a compiler, print a message and continue unless they are required."""
        try:
            super().build_extensions()
        except (BaseError, CCompilerError, OSError, RuntimeError) as error:
            if os.environ.get("SMALLOBJECTS_REQUIRE_CORE"):
                raise
            print(f"No native extension was built; slower PyTorch and NumPy code is used: {error}", file=sys.stderr)
            # Keep the extensions that were built before the failure.
            self.extensions[:] = [ext for ext in self.extensions if os.path.exists(self.get_ext_fullpath(ext.name))]

    def get_export_symbols(self, ext: object) -> list[str]:
        """Export no module initialization function."""
        return []  # loaded by torch.ops.load_library and ctypes, not imported


def wants_cuda() -> bool:
    """Return whether to build for CUDA: if a GPU and nvcc are found, or FORCE_CUDA=1."""
    found = torch.cuda.is_available() and cpp_extension.CUDA_HOME is not None
    return os.environ.get("FORCE_CUDA", "1" if found else "0") == "1"


def core() -> list[object]:
    """List the extensions of `maskrcnn.ops`."""
    headers = [
        os.path.join(folder, name)
        for folder, _, names in os.walk("csrc")
        for name in names
        if name.endswith((".h", ".cuh"))
    ]
    libraries = [
        cpp_extension.CppExtension(
            "maskrcnn.ops._cpu",
            ["csrc/bind_cpu.cpp"],
            depends=headers,
            extra_compile_args=FLAGS,
            py_limited_api=True,
        )
    ]
    if wants_cuda():
        if not torch.cuda.is_available():  # no GPU to ask for its architecture: Turing to Hopper, and newer ones by PTX
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "7.5;8.0;8.6;8.9;9.0+PTX")
        libraries.append(
            cpp_extension.CUDAExtension(
                "maskrcnn.ops._cuda",
                ["csrc/bind_cuda.cu"],
                depends=headers,
                extra_compile_args={"cxx": FLAGS, "nvcc": NVCC_FLAGS},
                py_limited_api=True,
            )
        )
    return libraries


def generator() -> object:
    """Without PyTorch, which the processes that draw do not load."""
    headers = glob.glob("csrc/scenes/*.h") + glob.glob("csrc/shared/*.h")
    flags = [flag for flag in FLAGS if "TORCH" not in flag]
    return Extension(
        "datasets.synthetic._scenes",
        ["csrc/bind_scenes.cpp"],
        depends=headers,
        extra_compile_args=flags,
        py_limited_api=True,
    )


setup(
    ext_modules=[*core(), generator()],
    cmdclass={"build_ext": BuildCore.with_options(no_python_abi_suffix=True)},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
