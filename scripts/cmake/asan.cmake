# cmake -C scripts/cmake/asan.cmake -B build/asan: address and undefined-behaviour sanitizers.
set(CMAKE_BUILD_TYPE None CACHE STRING "")
set(CMAKE_CXX_FLAGS "-O1 -D_GLIBCXX_ASSERTIONS" CACHE STRING "")
set(RWKV_SANITIZE "address,undefined" CACHE STRING "")
set(RWKV_BUILD_BENCHMARKS OFF CACHE BOOL "")
