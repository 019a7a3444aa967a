# LibTorch, found through CMAKE_PREFIX_PATH, as the imported target retort::torch.
# find_package(Torch) is not used: with a CUDA wheel it insists on a CUDA compiler and sets global flags.
# Only the CPU libraries are linked; model/device.cc loads libtorch_cuda.so at run time when a GPU is asked for,
# so that one program serves machines with and without one.
find_path(RETORT_TORCH_ROOT share/cmake/Torch/TorchConfig.cmake
  HINTS ${CMAKE_PREFIX_PATH} "${PROJECT_SOURCE_DIR}/.deps/torch-2.11.0/torch")
if(NOT RETORT_TORCH_ROOT)
  message(FATAL_ERROR "LibTorch was not found. Run scripts/setup.sh, or name it in CMAKE_PREFIX_PATH, "
    "or build without it (-DRETORT_TORCH=OFF, preset no-torch).")
endif()
file(STRINGS "${RETORT_TORCH_ROOT}/share/cmake/Torch/TorchConfigVersion.cmake" line REGEX "PACKAGE_VERSION \"")
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" RETORT_TORCH_VERSION "${line}")
if(RETORT_TORCH_VERSION VERSION_LESS 2.6)
  message(FATAL_ERROR "LibTorch ${RETORT_TORCH_VERSION} in ${RETORT_TORCH_ROOT} is older than 2.6.")
endif()
message(STATUS "LibTorch ${RETORT_TORCH_VERSION}: ${RETORT_TORCH_ROOT}")

add_library(retort::torch INTERFACE IMPORTED GLOBAL)
set_target_properties(retort::torch PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES
    "${RETORT_TORCH_ROOT}/include;${RETORT_TORCH_ROOT}/include/torch/csrc/api/include"
  INTERFACE_LINK_DIRECTORIES "${RETORT_TORCH_ROOT}/lib"
  INTERFACE_LINK_OPTIONS "LINKER:--allow-shlib-undefined"
  INTERFACE_LINK_LIBRARIES "-Wl,--no-as-needed;torch_cpu;c10;-Wl,--as-needed")
list(APPEND CMAKE_BUILD_RPATH "${RETORT_TORCH_ROOT}/lib")
