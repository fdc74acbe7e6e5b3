# cmake -C scripts/cmake/cuda.cmake -B build/cuda: the program with the CUDA kernels. RWKV_CUDA_ARCHS lists the
# compute capabilities, e.g. "80;90;100;120"; newer GPUs compile the last one's PTX when the program starts.
set(CMAKE_BUILD_TYPE Release CACHE STRING "")
set(RWKV_CUDA ON CACHE BOOL "")
if(DEFINED ENV{RWKV_CUDA_ARCHS})
  set(CMAKE_CUDA_ARCHITECTURES "$ENV{RWKV_CUDA_ARCHS}" CACHE STRING "" FORCE)
else()
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "" FORCE)
endif()
if(DEFINED ENV{RWKV_WARNINGS_AS_ERRORS})
  set(RWKV_WARNINGS_AS_ERRORS "$ENV{RWKV_WARNINGS_AS_ERRORS}" CACHE BOOL "" FORCE)
endif()
# Where only the slim LibTorch is there, tests can be linked but not started, so CTest asks them for their
# names when it runs and not when they are built.
set(CMAKE_GTEST_DISCOVER_TESTS_DISCOVERY_MODE PRE_TEST CACHE STRING "")
