# cmake -C scripts/cmake/tsan.cmake -B build/tsan: thread sanitizer; run with OMP_NUM_THREADS=1.
set(CMAKE_BUILD_TYPE None CACHE STRING "")
set(CMAKE_CXX_FLAGS "-O1" CACHE STRING "")
set(RWKV_SANITIZE "thread" CACHE STRING "")
set(RWKV_BUILD_BENCHMARKS OFF CACHE BOOL "")
