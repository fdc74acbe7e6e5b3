# cmake -C scripts/cmake/cpu.cmake -B build/cpu: the program as users run it.
set(CMAKE_BUILD_TYPE Release CACHE STRING "")
