# Finds LibTorch for a program without CUDA and defines LibTorch::cpu.
#
# The Torch package of the wheel wants the CUDA toolkit and links libtorch_cuda even for CPU programs;
# this module links libtorch_cpu and libc10 alone. Looked at, in this order: LIBTORCH_ROOT (variable or
# environment), Torch_DIR, the folder .deps of this checkout, and the Python that is on the path.
set(_torch_hints)
foreach(root IN ITEMS "${LIBTORCH_ROOT}" "$ENV{LIBTORCH_ROOT}")
  if(root)
    list(APPEND _torch_hints "${root}")
    if(NOT EXISTS "${root}/include/ATen/ATen.h")
      message(FATAL_ERROR "LIBTORCH_ROOT=${root} holds no include/ATen/ATen.h: point it at the unpacked "
                          "'libtorch' folder or at site-packages/torch, or unset it to let "
                          "scripts/setup fetch LibTorch")
    endif()
  endif()
endforeach()
if(Torch_DIR)
  list(APPEND _torch_hints "${Torch_DIR}/../../..")
endif()
set(_torch_fetched "${PROJECT_SOURCE_DIR}/.deps/libtorch-slim/torch")
if(EXISTS "${_torch_fetched}")
  list(APPEND _torch_hints "${_torch_fetched}")
endif()
if(NOT _torch_hints)
  execute_process(
    COMMAND python3 -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE _torch_python OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  list(APPEND _torch_hints ${_torch_python})
endif()

find_path(LibTorchCpu_INCLUDE_DIR ATen/ATen.h HINTS ${_torch_hints} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_library(LibTorchCpu_LIBRARY torch_cpu HINTS ${_torch_hints} PATH_SUFFIXES lib NO_DEFAULT_PATH)
find_library(LibTorchCpu_C10_LIBRARY c10 HINTS ${_torch_hints} PATH_SUFFIXES lib NO_DEFAULT_PATH)

set(_version_header "${LibTorchCpu_INCLUDE_DIR}/torch/headeronly/version.h")
if(LibTorchCpu_INCLUDE_DIR AND EXISTS "${_version_header}")
  file(STRINGS "${_version_header}" _version_lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
  string(REGEX REPLACE "[^0-9;]+" "" _version_list "${_version_lines}")
  string(REPLACE ";" "." LibTorchCpu_VERSION "${_version_list}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorchCpu
  REQUIRED_VARS LibTorchCpu_LIBRARY LibTorchCpu_C10_LIBRARY LibTorchCpu_INCLUDE_DIR
  VERSION_VAR LibTorchCpu_VERSION
  REASON_FAILURE_MESSAGE "run scripts/setup, or set LIBTORCH_ROOT to an unpacked LibTorch >= 2.11")
if(LibTorchCpu_FOUND AND LibTorchCpu_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "LibTorch ${LibTorchCpu_VERSION} in ${LibTorchCpu_INCLUDE_DIR} is older than 2.11")
endif()

if(LibTorchCpu_FOUND AND NOT TARGET LibTorch::cpu)
  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(
    LibTorch::c10 PROPERTIES IMPORTED_LOCATION "${LibTorchCpu_C10_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES
                             "${LibTorchCpu_INCLUDE_DIR}")
  add_library(LibTorch::cpu SHARED IMPORTED)
  set_target_properties(
    LibTorch::cpu
    PROPERTIES IMPORTED_LOCATION "${LibTorchCpu_LIBRARY}"
               INTERFACE_INCLUDE_DIRECTORIES
               "${LibTorchCpu_INCLUDE_DIR};${LibTorchCpu_INCLUDE_DIR}/torch/csrc/api/include"
               INTERFACE_LINK_LIBRARIES "LibTorch::c10")
  # The wheel keeps its own libgomp beside libtorch_cpu; its loader path finds that one.
  set_property(TARGET LibTorch::cpu APPEND PROPERTY INTERFACE_LINK_OPTIONS "-Wl,--allow-shlib-undefined")
endif()
mark_as_advanced(LibTorchCpu_INCLUDE_DIR LibTorchCpu_LIBRARY LibTorchCpu_C10_LIBRARY)
